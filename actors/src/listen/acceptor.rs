//! Acceptor: the actor on one listener. Accepts, and hands each connection to the least loaded worker.
//!
//! A connection is never registered with the acceptor's own reactor: a raw socket goes to its worker. No error of one
//! connection, and no shortage, ends the acceptor.
//! Not here: admission (`admission`), the session of the connection (`session`).

use std::{
    cell::RefCell,
    future::Future,
    io,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, dev::channel::channel, fut::ActorFuture};
use rustix::io::Errno;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, Sleep},
};

use crate::{
    address::{Address, Origin},
    connection::{Connection, ListenerId, SessionId},
    control::{
        admission::{
            Denial, Refusal,
            listener::{ListenerAdmission, Place, Ticket},
        },
        event::RefusedConnection,
        ledger::OwedReport,
        orders::{Admitted, Closing, ListenerOrder, Order, WorkerHandle},
        ways::{Control, Finished, OpenListener},
    },
    limits::MAILBOX_CAPACITY,
    listen::{
        listener::{IsProxy, UntilClosed},
        refusal::close_refused,
        shortage::{FIRST_BACK_OFF, LONGEST_BACK_OFF, Shortage},
        socket::{ACCEPTS_PER_TURN, ListeningSocket, is_of_connection, is_shortage},
        unix::BoundPath,
    },
    log_limit::{Kind, LogLimit},
    logged::Site,
    plural::Counted,
    report::RefuseReason,
    seconds,
    wire::socket::Socket,
};

/// The time within which an acceptor's failures are counted: above the limit the server ends, and leaves the restart to
/// its service manager.
const FAILURES_WITHIN: Duration = Duration::from_secs(60);
const MOST_FAILURES: usize = 5;

/// Starts a session on the arbiter that it is called on.
pub(crate) type StartHere = Rc<dyn Fn(Admitted)>;

pub(crate) struct Acceptor {
    pub(crate) socket: Option<OwnedFd>,
    pub(crate) id: ListenerId,
    pub(crate) address: Address,
    /// The name for the log.
    label: String,
    pub(crate) control: Arc<Control>,
    admission: Arc<ListenerAdmission>,
    pub(crate) workers: Vec<WorkerHandle>,
    /// Set if the only worker shares this arbiter: then no message and no thread is in between.
    pub(crate) start_here: Option<StartHere>,
    pub(crate) listener: Option<ListeningSocket>,
    pub(crate) shortage: Shortage,
    pub(crate) is_paused: bool,
    /// A connection that has a place and waits for the accept rate.
    delayed: Option<Delayed>,
    token_wait: Option<Pin<Box<Sleep>>>,
    /// Set if the listener is about to be closed: the most connections accepted before.
    closing: Option<usize>,
    /// The log is to say that it listens.
    is_new: bool,
    /// True if another acceptor accepts instead.
    is_replaced: bool,
    backlog: usize,
    is_proxy: Option<Arc<IsProxy>>,
    scratch: Rc<RefCell<Vec<u8>>>,
    pub(crate) logs: Rc<Logs>,
    /// Sent when the acceptor ends by order; dropped when it fails, after the sockets.
    pub(crate) ended: Option<oneshot::Sender<()>>,
}

const REFUSED: Kind = Kind("connection refused", "connections refused");
const LOST: Kind =
    Kind("connection closed, since every worker has stopped", "connections closed, since every worker has stopped");

/// An accepted connection whose token of the accept rate another acceptor has taken.
struct Delayed {
    socket: Socket,
    peer: Address,
    place: Place,
    until: Instant,
}

/// Bounds on an acceptor's log messages that peers can cause. They outlive the acceptor.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    refused: LogLimit,
    shortages: LogLimit,
    lost: LogLimit,
}

impl Actor for Acceptor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(socket) = self.socket.take() else {
            log::error!(listener = Site::from(self.id); "listener {}: cannot accept: no descriptor for it", self.label);
            return ctx.stop();
        };
        self.shortage.reserve = socket.as_fd().try_clone_to_owned().ok();
        match ListeningSocket::new(socket, self.address.unix().is_some()) {
            Ok(listener) => {
                self.listener = Some(listener);
                let (site, address) = (Site::from(self.id), &self.address);
                match self.id.name() {
                    _ if !self.is_new => {}
                    Some(name) => log::info!(listener = site, address:% = address; "listening on {address} as {name}"),
                    None => log::info!(listener = site, address:% = address; "listening on {address}"),
                }
                ctx.spawn(AcceptLoop);
            }
            Err(error) => {
                log::error!(listener = Site::from(self.id); "listener {}: cannot accept: {error}", self.label);
                ctx.stop();
            }
        }
    }
}

impl Handler<ListenerOrder> for Acceptor {
    type Result = ();

    /// The accept loop, which runs behind each message, closes.
    fn handle(&mut self, order: ListenerOrder, _: &mut Self::Context) {
        match order {
            ListenerOrder::Close(Closing::HandOver) => self.is_replaced = true,
            ListenerOrder::Close(Closing::AfterBacklog) => self.closing = Some(self.backlog),
            ListenerOrder::Close(Closing::AtOnce) => self.closing = Some(0),
            ListenerOrder::LookAtPause => {
                let is_paused = self.control.is_paused(self.id);
                if std::mem::replace(&mut self.is_paused, is_paused) != is_paused {
                    let what = if is_paused { "paused" } else { "resumed" };
                    log::info!(listener = Site::from(self.id); "listener {}: {what}", self.label);
                }
            }
        }
    }
}

/// The parts that make an acceptor, and its successors.
pub(crate) struct Parts {
    /// Each acceptor gets a duplicate: the listener outlives acceptors until it is closed.
    pub(crate) socket: Arc<OwnedFd>,
    pub(crate) address: Address,
    /// The log says that it is listened to; otherwise it has said so of the same socket.
    pub(crate) is_new: bool,
    /// Removed behind the last opening of the socket.
    pub(crate) path: Option<Arc<BoundPath>>,
    /// Dropped behind the last opening of the socket, too.
    pub(crate) until_closed: Option<UntilClosed>,
    pub(crate) is_proxy: Option<Arc<IsProxy>>,
    pub(crate) backlog: i32,
    pub(crate) open: OpenListener,
    /// The workers of its sessions.
    pub(crate) workers: Vec<WorkerHandle>,
}

/// Keeps an acceptor on a listener until the listener is to be closed, or acceptors have failed too often. Runs on the
/// acceptor's own arbiter.
pub(crate) async fn keep(parts: Parts, start_here: Option<StartHere>) {
    let Parts { socket, address, mut is_new, path, until_closed, is_proxy, backlog, open, workers } = parts;
    // Dropped behind the socket, the path before anybody may hear that the listener is closed.
    let (open, _path, _until_closed) = (open, path, until_closed);
    let (control, id) = (Arc::clone(open.control()), open.id());
    let label = label(id, &address);
    // Gone once the listener is to be closed.
    let mut socket = Some(socket);
    let Some(mut closing) = open.closing() else { return };
    // It may have been said before this was listened to.
    closing.mark_changed();
    let mut failures = Vec::new();
    let logs = Rc::<Logs>::default();
    let scratch = Rc::default();
    loop {
        let Some(descriptor) = duplicate(socket.as_deref(), &mut closing, &label).await else { return };
        let (sender, mailbox) = channel(MAILBOX_CAPACITY);
        let acceptor = Addr::new(sender);
        let is_paused = open.set_acceptor(acceptor.clone().recipient());
        let (ended, when_ended) = oneshot::channel();
        Context::with_receiver(mailbox).run(Acceptor {
            socket: Some(descriptor),
            id,
            address: address.clone(),
            label: label.clone(),
            control: Arc::clone(&control),
            admission: Arc::clone(open.admission()),
            workers: workers.clone(),
            start_here: start_here.clone(),
            listener: None,
            shortage: Shortage::default(),
            is_paused,
            delayed: None,
            token_wait: None,
            closing: None,
            is_new: std::mem::replace(&mut is_new, true),
            is_replaced: false,
            backlog: usize::try_from(backlog).unwrap_or(0),
            is_proxy: is_proxy.clone(),
            scratch: Rc::clone(&scratch),
            logs: Rc::clone(&logs),
            ended: Some(ended),
        });
        if has_closed(when_ended, &mut closing, &acceptor, &mut socket).await {
            return;
        }
        let now = Instant::now();
        failures.retain(|failed| now - *failed < FAILURES_WITHIN);
        failures.push(now);
        if failures.len() > MOST_FAILURES {
            log::error!(
                listener = Site::from(id), count = failures.len();
                "listener {label}: its acceptor has failed {} times within {FAILURES_WITHIN:?}: the server ends",
                failures.len()
            );
            control.finish(Finished::LostListener(label));
            return;
        }
        let delay = FIRST_BACK_OFF * 2_u32.pow(failures.len() as u32);
        log::error!(listener = Site::from(id); "listener {label}: its acceptor has failed; another takes over in {delay:?}");
        // A drain need not wait for this, and one that has begun meanwhile must not find a new acceptor.
        if tokio::time::timeout(delay, closing.wait_for(Option::is_some)).await.is_ok() {
            return;
        }
        // Whatever has become of it: an open socket that no longer listens may do so again.
        if let Some(socket) = &socket
            && let Err(error) = rustix::net::listen(&**socket, backlog)
        {
            log::error!(listener = Site::from(id); "listener {label}: cannot listen again: {error}");
        }
    }
}

/// Duplicates a listener's descriptor for an acceptor. That there is none to spare is no failure of an acceptor: it is waited
/// for. `None` if the listener is to be closed.
async fn duplicate(
    socket: Option<&OwnedFd>,
    closing: &mut watch::Receiver<Option<Closing>>,
    label: &str,
) -> Option<OwnedFd> {
    let (since, mut delay) = (Instant::now(), FIRST_BACK_OFF);
    loop {
        match socket?.try_clone() {
            Ok(descriptor) => {
                if delay > FIRST_BACK_OFF {
                    log::info!("listener {label}: has a descriptor after {:?}", since.elapsed());
                }
                return Some(descriptor);
            }
            Err(error) if delay == FIRST_BACK_OFF => log::warn!(
                "listener {label}: accepts nothing yet: {error}. Raise the descriptor limit (ulimit -n) or lower max \
                 sessions"
            ),
            Err(_) => {}
        }
        if tokio::time::timeout(delay, closing.wait_for(Option::is_some)).await.is_ok() {
            return None;
        }
        delay = (delay * 2).min(LONGEST_BACK_OFF);
    }
}

/// The name of a listener in the log: its own, and its address.
fn label(id: ListenerId, address: &Address) -> String {
    id.name().map_or_else(|| address.to_string(), |name| format!("{name} ({address})"))
}

/// Waits for the end of an acceptor, and passes it the order to close. Returns true if it ended by order, false if it
/// failed.
async fn has_closed(
    mut ended: oneshot::Receiver<()>,
    closing: &mut watch::Receiver<Option<Closing>>,
    acceptor: &Addr<Acceptor>,
    socket: &mut Option<Arc<OwnedFd>>,
) -> bool {
    loop {
        tokio::select! {
            ended = &mut ended => return ended.is_ok() || closing.borrow().is_some(),
            changed = closing.changed() => {
                // The control has the other end, and outlives us.
                let how = changed.ok().and_then(|()| *closing.borrow_and_update());
                if let Some(how) = how {
                    // Whoever connects behind the acceptor's last accept would be reset: it has to be the one who closes.
                    *socket = None;
                    acceptor.do_send(ListenerOrder::Close(how));
                }
            }
        }
    }
}

/// The acceptor's only future. All its state is in the actor.
struct AcceptLoop;

impl ActorFuture<Acceptor> for AcceptLoop {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        acceptor: &mut Acceptor,
        ctx: &mut Context<Acceptor>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<()> {
        for _ in 0..ACCEPTS_PER_TURN {
            if let Some(left) = acceptor.closing {
                if left == 0 || !acceptor.accept_last() {
                    acceptor.close();
                    ctx.stop();
                    return Poll::Ready(());
                }
                acceptor.closing = Some(left - 1);
                continue;
            }
            if acceptor.is_replaced && acceptor.delayed.is_none() {
                acceptor.close();
                ctx.stop();
                return Poll::Ready(());
            }
            if let Err(error) = ready!(acceptor.poll_accept(cx)) {
                log::error!(listener = Site::from(acceptor.id); "listener {}: {error}", acceptor.label);
                acceptor.listener = None;
                ctx.stop();
                return Poll::Ready(());
            }
        }
        // Deferred behind the driver, so that the sessions' sockets are looked at first.
        let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
        Poll::Pending
    }
}

impl Acceptor {
    /// Does one accept. An error is one of the listener: another try is useless.
    fn poll_accept(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        if let Some(back_off) = &mut self.shortage.back_off {
            ready!(back_off.as_mut().poll(cx));
            self.shortage.back_off = None;
        }
        if let Some(until) = self.delayed.as_ref().map(|delayed| delayed.until) {
            ready!(self.poll_token(until, cx));
        }
        if let Some(Delayed { socket, peer, place, .. }) = self.delayed.take() {
            self.admit(socket, peer, place);
            return Poll::Ready(Ok(()));
        }
        let Some(listener) = self.listener.as_ref().filter(|_| !self.is_paused) else { return Poll::Pending };
        ready!(listener.poll_ready(cx))?;
        // Known before the accept: a connection that has to wait stays in the backlog.
        let ticket = match self.admission.ticket(cx.waker()) {
            Ticket::Wait(Some(until)) => return self.poll_token(until, cx).map(Ok),
            Ticket::Wait(None) => return Poll::Pending,
            ticket => ticket,
        };
        match listener.accept() {
            Ok((socket, peer)) => {
                if let Some((lasted, shed)) = self.shortage.is_over() {
                    let (label, shed) = (&self.label, Counted(shed, "connection"));
                    log::info!(
                        listener = Site::from(self.id), duration = seconds::of(lasted), count = shed.0;
                        "listener {label}: accepts again after {lasted:?}; it has closed {shed}"
                    );
                }
                match ticket {
                    Ticket::Place(place) => self.admit(socket, peer, place),
                    Ticket::Refusal(refusal, reason) => self.refuse(socket, peer, Some(refusal), reason),
                    Ticket::Wait(_) => {}
                }
            }
            // The readiness was old; asking for it again waits for the next connection.
            Err(Errno::AGAIN) => {}
            Err(error) if is_shortage(error) => {
                if let Some(events) =
                    self.shortage.begin(&self.logs.shortages, format_args!("listener {}: ", self.label))
                {
                    log::warn!(
                        listener = Site::from(self.id), count = events;
                        "listener {}: cannot accept: {error}; new connections are not served until some end. \
                         Raise the descriptor limit (ulimit -n) or lower max sessions{events}",
                        self.label
                    );
                }
                if matches!(error, Errno::MFILE | Errno::NFILE) {
                    self.shortage.shed(listener);
                }
            }
            Err(error) if is_of_connection(error) => {}
            Err(error) => return Poll::Ready(Err(error.into())),
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for the next token of the accept rate.
    fn poll_token(&mut self, until: Instant, cx: &mut TaskContext<'_>) -> Poll<()> {
        let wait = self.token_wait.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if wait.deadline() != until {
            wait.as_mut().reset(until);
        }
        ready!(wait.as_mut().poll(cx));
        self.token_wait = None;
        Poll::Ready(())
    }

    /// Accepts one connection of those in the backlog before the listener is closed. Returns false when there is none
    /// left. A connection that would have to wait is refused: nothing is accepted later.
    fn accept_last(&mut self) -> bool {
        if let Some(Delayed { socket, peer, place, .. }) = self.delayed.take() {
            self.admit(socket, peer, place);
            return true;
        }
        match self.listener.as_ref().map(ListeningSocket::accept_now) {
            Some(Ok((socket, peer))) => match self.admission.ticket_at_once() {
                Ok(place) => self.admit(socket, peer, place),
                Err(reason) => self.refuse(socket, peer, self.control.ledger.admission.try_refusal(), reason),
            },
            Some(Err(error)) if is_of_connection(error) => {}
            Some(Err(_)) | None => return false,
        }
        true
    }

    /// Closes the listener, before its end is announced.
    fn close(&mut self) {
        self.listener = None;
        self.shortage = Shortage::default();
        if let Some(ended) = self.ended.take() {
            // Whoever kept us may be gone.
            let _ = ended.send(());
        }
    }

    /// Returns true if the socket's peer is a proxy, which tells the real one later.
    fn is_proxy(&self, peer: &Address) -> bool {
        self.is_proxy.as_ref().is_some_and(|is_proxy| is_proxy(peer))
    }

    /// Makes a session of a connection that has a place, unless its source may not have one more.
    fn admit(&mut self, socket: Socket, peer: Address, mut place: Place) {
        let admitted = if self.is_proxy(&peer) { place.admit_unknown() } else { place.admit(peer.clone()) };
        let reason = match admitted {
            Ok(()) => {
                let local = match self.address.ip() {
                    Some(ip) if ip.is_unspecified() => socket.local(),
                    _ => self.address.clone(),
                };
                let connection = Connection::new(SessionId::next(), peer, local, Some(self.id));
                let owed = OwedReport::new(Arc::clone(&self.control.ledger), connection, place);
                return self.hand_over(Admitted { socket, owed });
            }
            Err(Denial::NotYet(until)) if self.closing.is_none() => {
                self.delayed = Some(Delayed { socket, peer, place, until });
                return;
            }
            Err(Denial::NotYet(_)) => RefuseReason::AcceptRate,
            Err(Denial::Refused(reason)) => reason,
        };
        drop(place);
        self.refuse(socket, peer, self.control.ledger.admission.try_refusal(), reason);
    }

    /// Sends the refuse line to a connection, and gives its peer time to read it, in a task of its own; without room
    /// for that the connection is closed at once.
    fn refuse(&mut self, socket: Socket, peer: Address, room: Option<Refusal>, reason: RefuseReason) {
        // Lists are for the peer behind a proxy, which nobody knows yet.
        let is_denied = !self.is_proxy(&peer) && self.admission.denies(&peer);
        let reason = if is_denied { RefuseReason::Denied } else { reason };
        self.admission.count_refused(reason);
        self.control.ledger.tell_refused(|| RefusedConnection { peer: peer.clone(), listener: Some(self.id), reason });
        let (site, label) = (Site::from(self.id), &self.label);
        log::debug!(
            listener = site, peer = Origin(&peer), reason = reason.name();
            "listener {label}: {peer} is refused: {}", reason.name()
        );
        if let Some(events) = self.logs.refused.pass(&REFUSED, format_args!("listener {label}: ")) {
            let refused = Counted(events.0, "connection");
            log::warn!(
                listener = site, reason = reason.name(), count = events;
                "listener {label}: {refused} refused, the last for {}", reason.name()
            );
        }
        let line = self.control.ledger.admission.refuse_line();
        // Whoever is denied is not worth a word.
        if reason == RefuseReason::Denied || line.is_empty() {
            return;
        }
        // An empty socket takes it whole; whether the peer hears it or is gone is its own business.
        let _ = socket.write_now(&line);
        let Some(room) = room.and_then(|mut room| room.charge(&peer).then_some(room)) else { return };
        let (ledger, scratch) = (Arc::clone(&self.control.ledger), Rc::clone(&self.scratch));
        actix_rt::spawn(async move {
            // As above.
            let _ = close_refused(socket, &scratch).await;
            drop(room);
            ledger.book_refusal();
        });
    }

    fn hand_over(&mut self, mut admitted: Admitted) {
        if let (Some(start), [worker]) = (&self.start_here, &self.workers[..]) {
            worker.load.fetch_add(1, Relaxed);
            return start(admitted);
        }
        loop {
            let least = self.workers.iter().enumerate().min_by_key(|(_, worker)| worker.load.load(Relaxed));
            let Some((index, worker)) = least else {
                if let Some(events) = self.logs.lost.pass(&LOST, format_args!("listener {}: ", self.label)) {
                    let (label, id) = (&self.label, admitted.owed.connection().id);
                    log::error!(
                        listener = Site::from(self.id), session = id.get(), count = events;
                        "listener {label}: every worker has stopped; {id} is closed{events}"
                    );
                }
                return;
            };
            worker.load.fetch_add(1, Relaxed);
            match worker.orders.send(Order::Start(admitted)) {
                Ok(()) => return,
                Err(mpsc::error::SendError(Order::Start(refused))) => {
                    admitted = refused;
                    self.workers.swap_remove(index);
                }
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        rot13::Rot13,
        server::{builder::LineServer, handle::ServerHandle},
        session::{context::LineContext, handler::LineHandler, lines::Line},
    };

    /// A server whose acceptor has just failed and was not replaced yet, on a paused clock.
    async fn without_acceptor() -> ServerHandle {
        tokio::time::pause();
        // A port that was asked for by number: the kernel takes any other away when the socket stops listening.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = TcpListener::bind(address).unwrap();
        let again = socket.try_clone().unwrap();
        let server = LineServer::new(|_| Rot13).on_current_arbiter().listen(socket).unwrap().start().unwrap();
        let is_there = || server.control().has_acceptor(ListenerId::new(0, None));
        // The clock stands still as long as there is something to do.
        while !is_there() {
            tokio::task::yield_now().await;
        }
        socket2::SockRef::from(&again).shutdown(Shutdown::Both).unwrap();
        while is_there() {
            tokio::task::yield_now().await;
        }
        server
    }

    #[actix::test]
    async fn a_listener_whose_acceptor_failed_before_a_drain_is_closed_when_the_server_has_ended() {
        let server = without_acceptor().await;
        let begin = Instant::now();
        server.drain(Duration::from_secs(60)).await.unwrap();
        server.wait().await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO, "nothing is waited for");
        let connect = async || tokio::net::TcpStream::connect(server.local_addrs()[0]).await.map(drop);
        for _ in 0..30 {
            assert_eq!(connect().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    #[actix::test]
    async fn nobody_connects_behind_the_last_accept_of_a_drain() {
        let (sender, opened) = std::sync::mpsc::channel();
        let server = LineServer::new(move |connection| {
            // Made while the acceptor is at it; its first turn comes behind that.
            Connects(connection.local.socket_addr().unwrap(), sender.clone())
        });
        let server = server.on_current_arbiter().bind("127.0.0.1:0").unwrap().start().unwrap();
        // So that it is the drain that accepts.
        assert!(server.pause(server.listeners()[0].id).await.unwrap());
        let _peer = TcpStream::connect(server.local_addrs()[0]).unwrap();
        server.drain(Duration::from_secs(60)).await.unwrap();
        let connected = opened.try_recv().expect("the drain accepts it");
        assert_eq!(connected.map_err(|error| error.kind()).unwrap_err(), io::ErrorKind::ConnectionRefused);
        server.wait().await.unwrap();
    }

    /// Connects to its own server.
    struct Connects(SocketAddr, std::sync::mpsc::Sender<io::Result<()>>);

    impl Actor for Connects {
        type Context = LineContext<Self>;
    }

    impl LineHandler for Connects {
        fn opened(&mut self, _: &mut Self::Context) {
            self.1.send(TcpStream::connect(self.0).map(drop)).unwrap();
        }

        fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
    }

    #[actix::test]
    async fn a_pause_holds_for_the_acceptor_that_comes_next() {
        let server = without_acceptor().await;
        let listener = server.listeners()[0].id;
        assert!(server.pause(listener).await.unwrap());
        assert!(!server.pause(ListenerId::new(7, None)).await.unwrap());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut peer = tokio::net::TcpStream::connect(server.local_addrs()[0]).await.expect("it listens again");
        peer.write_all(b"hello\n").await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(server.stats().await.unwrap().opened, 0);
        assert!(server.resume(listener).await.unwrap());
        let mut answer = [0; 6];
        peer.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"uryyb\n");
        server.abort().await.unwrap();
    }
}
