//! Doors: adds, replaces and removes listeners of a running server.
//!
//! A worker learns of a listener by an order, before the acceptor that may send it a connection begins. One change is
//! made at a time; each is whole, or an error that has changed nothing.
//! Not here: the table of listeners (`control/listeners`), binding (`listen/listener`), accepting (`listen/acceptor`).

use std::{
    any::Any,
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use actix_rt::ArbiterHandle;

#[cfg(feature = "record")]
use crate::record::recorder::Recorder;
use crate::{
    address::{Address, listen::ListenAddress},
    caught::drop_caught,
    connection::ListenerId,
    control::{
        listeners::{ListenerInfo, Site},
        orders::{Closing, Lesson, Order},
        ways::{Control, Opened},
        workers::UnlaunchedWorker,
    },
    error::BindError,
    framing::Framing,
    gate::Gates,
    limits::SessionLimits,
    listen::{
        acceptor,
        listener::{BoundListener, Listener, Own, UntilClosed},
        unix::BoundPath,
    },
    server::{
        host::{Host, News, Service},
        protocol::Protocol,
    },
    wire::tcp::SocketOptions,
    worker::{task, upstream::Upstream, worker::Worker},
};

/// The server's settings for its listeners.
pub(super) struct Defaults {
    pub(super) framing: Framing,
    pub(super) protocol: Box<dyn Protocol>,
    pub(super) session: SessionLimits,
    pub(super) backlog: i32,
    pub(super) options: SocketOptions,
    pub(super) gates: Gates,
    pub(super) slow_turn: Option<Duration>,
    pub(super) measures_answers: bool,
    #[cfg(feature = "record")]
    pub(super) recorder: Option<Recorder>,
    /// The arbiters of the workers.
    pub(super) places: Vec<ArbiterHandle>,
}

/// A listener's part that a replacement may keep.
struct Kept {
    /// `None` is the server's own.
    protocol: Option<Box<dyn Protocol>>,
    path: Weak<BoundPath>,
    until_closed: Option<Weak<Mutex<Box<dyn Any + Send>>>>,
    /// The address of a socket that was handed over.
    handed_over: Option<ListenAddress>,
}

/// The socket of an opening, and what lives as long.
struct Bound {
    socket: Arc<OwnedFd>,
    path: Option<Arc<BoundPath>>,
    until_closed: Option<UntilClosed>,
    address: Address,
    /// Nobody has heard of the address.
    is_new: bool,
}

impl Bound {
    fn site(&self, own: &Own) -> Site {
        let socket = Arc::downgrade(&self.socket);
        Site { address: self.address.clone(), socket, limits: own.limits, expiry: own.expiry.clone() }
    }
}

struct State {
    defaults: Defaults,
    kept: BTreeMap<ListenerId, Kept>,
}

pub(super) struct Doors(Mutex<State>);

impl Doors {
    pub(super) fn new(defaults: Defaults) -> Self {
        Self(Mutex::new(State { defaults, kept: BTreeMap::new() }))
    }

    /// Returns the doors of a server; an error once it has ended.
    pub(super) fn of(control: &Control) -> Result<Arc<Self>, BindError> {
        let doors: Option<Arc<dyn Any + Send + Sync>> = control.doors();
        doors.and_then(|doors| doors.downcast().ok()).ok_or(BindError::ServerEnding)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts workers on their threads; `limits` of their own are those of listeners.
    pub(super) fn launch(&self, control: &Arc<Control>, workers: Vec<UnlaunchedWorker>, limits: Option<SessionLimits>) {
        self.state().launch(control, workers, limits);
    }

    /// Adds a listener.
    pub(super) fn add(
        &self,
        control: &Arc<Control>,
        listener: Listener,
        protocol: Option<Box<dyn Protocol>>,
    ) -> Result<ListenerInfo, BindError> {
        let mut state = self.state();
        state.forget_removed(control);
        control.check_listener(listener.own_name())?;
        let bound = listener.bind(&mut [], state.defaults.backlog_asked(), &state.defaults.options)?;
        state.open(control, bound, protocol)
    }

    /// Adds a listener that is bound.
    pub(super) fn open(
        &self,
        control: &Arc<Control>,
        bound: BoundListener,
        protocol: Option<Box<dyn Protocol>>,
    ) -> Result<ListenerInfo, BindError> {
        let mut state = self.state();
        bound.update(&state.defaults.options, state.defaults.backlog);
        state.open(control, bound, protocol)
    }

    /// Replaces a listener, which keeps its protocol unless there is another.
    pub(super) fn replace(
        &self,
        control: &Arc<Control>,
        id: ListenerId,
        listener: Listener,
        protocol: Option<Box<dyn Protocol>>,
    ) -> Result<ListenerInfo, BindError> {
        let mut state = self.state();
        state.forget_removed(control);
        control.check_not_ending()?;
        if let Some(name) = listener.own_name().filter(|name| id.name() != Some(name)) {
            return Err(BindError::Renamed { listener: id, name: name.to_owned() });
        }
        let known = control.listeners().into_iter().find(|known| known.id == id);
        let known = known.ok_or(BindError::NoSuchListener { listener: id })?;
        let listener = listener.look_up()?;
        listener.check()?;
        let handed_over = listener.handed_over();
        let was_handed_over = state.kept.get(&id).and_then(|kept| kept.handed_over.as_ref());
        let is_same =
            listener.is_at(&known.local_addr) || handed_over.as_ref().is_some_and(|to| Some(to) == was_handed_over);
        let socket = control.listener_socket(id).filter(|_| is_same);
        let (mut bound, mut own, how) = match socket {
            Some(socket) => {
                let path = state.kept.get(&id).and_then(|kept| kept.path.upgrade());
                listener.set_up(&socket, &known.local_addr, path.as_deref())?;
                let until_closed = state.kept.get(&id).and_then(|kept| kept.until_closed.as_ref()?.upgrade());
                let kept = Bound { socket, path, until_closed, address: known.local_addr, is_new: false };
                (kept, listener.into_own(), Closing::HandOver)
            }
            None => {
                let bound = listener.bind(&mut [], state.defaults.backlog_asked(), &state.defaults.options)?;
                let BoundListener { socket, path, address, own, .. } = bound;
                let path = path.map(Arc::new);
                let moved = Bound { socket: Arc::new(socket), path, until_closed: None, address, is_new: true };
                (moved, own, Closing::AfterBacklog)
            }
        };
        let opened = control.reopen_listener(id, bound.site(&own), std::mem::take(&mut own.admission), how)?;
        if how != Closing::HandOver {
            bound.until_closed = own.hand_over(bound.socket.as_fd(), &bound.address);
        }
        let before = state.kept.remove(&id).and_then(|kept| kept.protocol);
        let (protocol, before) = if protocol.is_some() { (protocol, before) } else { (before, None) };
        let info = state.serve(control, opened, bound, own, protocol);
        state.note_handed_over(id, handed_over);
        drop(state);
        drop_caught(before);
        Ok(info)
    }

    /// Forgets what was kept of listeners that are removed.
    pub(super) fn forget_removed(&self, control: &Control) {
        self.state().forget_removed(control);
    }
}

impl Defaults {
    /// The backlog as a listener is asked for it.
    fn backlog_asked(&self) -> u32 {
        self.backlog.unsigned_abs()
    }
}

impl State {
    fn forget_removed(&mut self, control: &Control) {
        let known = control.listeners();
        let is_known = |id: &ListenerId| known.iter().any(|known| known.id == *id);
        let removed: Vec<_> = self.kept.keys().copied().filter(|id| !is_known(id)).collect();
        removed.iter().for_each(|id| drop_caught(self.kept.remove(id)));
    }

    fn open(
        &mut self,
        control: &Arc<Control>,
        bound: BoundListener,
        protocol: Option<Box<dyn Protocol>>,
    ) -> Result<ListenerInfo, BindError> {
        let BoundListener { socket, path, address, mut own, handed_over, .. } = bound;
        let path = path.map(Arc::new);
        let mut bound = Bound { socket: Arc::new(socket), path, until_closed: None, address, is_new: true };
        let admission = std::mem::take(&mut own.admission);
        let opened = control.open_listener(own.name.as_deref(), bound.site(&own), admission)?;
        bound.until_closed = own.hand_over(bound.socket.as_fd(), &bound.address);
        let info = self.serve(control, opened, bound, own, protocol);
        self.note_handed_over(info.id, handed_over);
        Ok(info)
    }

    /// Tells the workers of an opening, then has it accept.
    fn serve(
        &mut self,
        control: &Arc<Control>,
        opened: Opened,
        Bound { socket, path, until_closed, address, is_new }: Bound,
        own: Own,
        protocol: Option<Box<dyn Protocol>>,
    ) -> ListenerInfo {
        let Opened { open, info, workers, unlaunched } = opened;
        let (id, serial) = (open.id(), open.serial());
        self.launch(control, unlaunched, own.limits);
        let defaults = &self.defaults;
        let framing = own.framing.unwrap_or(defaults.framing);
        let is_proxy = own.is_proxy.clone();
        let gates = if own.is_ungated { Gates::default() } else { defaults.gates.clone() };
        #[cfg(feature = "record")]
        let filters = own.recorded_filters(defaults.recorder.as_ref());
        #[cfg(not(feature = "record"))]
        let filters = own.filters;
        for worker in &workers {
            let protocol = protocol.as_ref().unwrap_or(&defaults.protocol).duplicate();
            let service = Service { serial, framing, filters: filters.clone(), gates: gates.clone(), protocol };
            let lesson: Lesson = Box::new(News::Serve(id, service));
            // A worker that has just ended gets no connection either.
            drop_caught(worker.orders.send(Order::Learn(lesson)));
        }
        let path_kept = path.as_ref().map_or_else(Weak::new, Arc::downgrade);
        let closed_kept = until_closed.as_ref().map(Arc::downgrade);
        self.kept.insert(id, Kept { protocol, path: path_kept, until_closed: closed_kept, handed_over: None });
        let backlog = defaults.backlog;
        let parts = acceptor::Parts { socket, address, is_new, path, until_closed, is_proxy, backlog, open, workers };
        // With one worker its arbiter accepts too, or each connection would pay for a change of threads.
        if let [worker] = &parts.workers[..]
            && defaults.places.len() == 1
        {
            let worker = worker.clone();
            let lesson: Lesson = Box::new(News::Accept(parts));
            drop(worker.orders.send(Order::Learn(lesson)));
        } else {
            control.home().spawn_fn(move || {
                actix_rt::spawn(acceptor::keep(parts, None));
            });
        }
        info
    }

    fn note_handed_over(&mut self, id: ListenerId, address: Option<ListenAddress>) {
        if let Some(kept) = self.kept.get_mut(&id) {
            kept.handed_over = address;
        }
    }

    fn launch(&self, control: &Arc<Control>, workers: Vec<UnlaunchedWorker>, limits: Option<SessionLimits>) {
        let (slow_turn, measures_answers) = (self.defaults.slow_turn, self.defaults.measures_answers);
        let session = limits.unwrap_or(self.defaults.session);
        for UnlaunchedWorker { index, thread, load, orders } in workers {
            let Some(place) = self.defaults.places.get(thread) else { continue };
            let control = Arc::clone(control);
            place.spawn_fn(move || {
                let upstream = Upstream { control, load, thread, has_own_limits: limits.is_some() };
                let worker = Worker::new(index, session, Some(upstream));
                worker.set_slow_turn(slow_turn);
                worker.set_measures_answers(measures_answers);
                let host = Host::new(&worker);
                actix_rt::spawn(task::look_after(worker, orders, host));
            });
        }
    }
}
