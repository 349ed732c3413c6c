//! Acceptor: the actor on one listener. Accepts, and hands each connection to the least loaded worker.
//!
//! A connection is never registered with the acceptor's own reactor: a raw socket goes to the worker that keeps it. No
//! error of one connection, and no shortage, ends the acceptor.
//! Not here: what may be admitted (`admission`), what becomes of the connection (`context`).

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use actix::{
    Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message,
    dev::channel::{AddressReceiver, channel},
    fut::ActorFuture,
};
use rustix::{io::Errno, net::SocketFlags};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    sync::{mpsc, oneshot},
    time::{Instant, Sleep},
};

use crate::{
    Connection, ListenerId, SessionId,
    admission::{Place, Refusal, RefuseReason, Ticket},
    control::{Control, Finished},
    log_limit::{Events, LogLimit},
    server::MAILBOX_CAPACITY,
    worker::{Admitted, Order},
};

/// Connections accepted before the sessions of the same arbiter get a turn.
const ACCEPTS_PER_TURN: usize = 64;
/// How long no accept is tried after one failed for want of descriptors or memory; doubled up to the most.
const FIRST_BACK_OFF: Duration = Duration::from_millis(50);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(1);

/// Within this time an acceptor may fail so often; once more, and the server ends: its service manager knows better.
const FAILURES_WITHIN: Duration = Duration::from_secs(60);
const MOST_FAILURES: usize = 5;
/// How long a refused connection has to take its line and close.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// The way to one worker.
#[derive(Clone, Debug)]
pub(crate) struct WorkerHandle {
    pub(crate) orders: mpsc::UnboundedSender<Order>,
    pub(crate) load: Arc<AtomicUsize>,
}

/// Starts a session on the arbiter that it is called on.
pub(crate) type StartHere = Rc<dyn Fn(Admitted)>;

/// Stop accepting: the listener is closed when it returns.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct CloseListener;

pub(crate) struct Acceptor {
    pub(crate) socket: Option<TcpListener>,
    pub(crate) id: ListenerId,
    pub(crate) address: SocketAddr,
    pub(crate) control: Arc<Control>,
    pub(crate) workers: Vec<WorkerHandle>,
    /// Set where the only worker shares our arbiter: then no message and no thread is in between.
    pub(crate) start_here: Option<StartHere>,
    pub(crate) listener: Option<Listener>,
    pub(crate) shortage: Shortage,
    pub(crate) is_paused: bool,
    /// The accept rate was charged for a connection that did not come.
    pub(crate) has_paid: bool,
    pub(crate) logs: Rc<Logs>,
    /// Sent when it ends as it was told to; dropped when it fails.
    pub(crate) ended: Option<oneshot::Sender<()>>,
}

/// Bounds on what peers can have an acceptor log. They outlive it.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    refused: LogLimit,
    lost: LogLimit,
}

/// What a listener does without descriptors or memory.
#[derive(Debug, Default)]
pub(crate) struct Shortage {
    /// Given up for a moment, it is the descriptor with which a connection that cannot be served is at least closed.
    reserve: Option<OwnedFd>,
    back_off: Option<Pin<Box<Sleep>>>,
    /// Since when, and how many connections were closed unserved.
    since: Option<(Instant, u64)>,
    delay: Duration,
}

impl Actor for Acceptor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(socket) = self.socket.take() else {
            log::error!("listener {}: cannot accept: no descriptor for it", self.address);
            return ctx.stop();
        };
        self.shortage.reserve = socket.as_fd().try_clone_to_owned().ok();
        match Listener::new(socket) {
            Ok(listener) => {
                self.listener = Some(listener);
                log::info!("listening on {}", self.address);
                ctx.spawn(AcceptLoop);
            }
            Err(error) => {
                log::error!("listener {}: cannot accept: {error}", self.address);
                ctx.stop();
            }
        }
    }
}

impl Handler<CloseListener> for Acceptor {
    type Result = ();

    fn handle(&mut self, _: CloseListener, ctx: &mut Self::Context) {
        self.listener = None;
        self.ended.take().map(|ended| ended.send(()));
        ctx.stop();
    }
}

/// Accept nothing until told otherwise: the backlog holds what comes.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SetPaused(pub(crate) bool);

impl Handler<SetPaused> for Acceptor {
    type Result = ();

    fn handle(&mut self, SetPaused(is_paused): SetPaused, _: &mut Self::Context) {
        if std::mem::replace(&mut self.is_paused, is_paused) != is_paused {
            log::info!("listener {}: {}", self.address, if is_paused { "paused" } else { "resumed" });
        }
    }
}

/// What makes an acceptor, again if need be.
pub(crate) struct Parts {
    /// Each acceptor gets a duplicate: the listener outlives them.
    pub(crate) socket: TcpListener,
    pub(crate) backlog: i32,
    pub(crate) address: SocketAddr,
    pub(crate) id: ListenerId,
    pub(crate) mailbox: AddressReceiver<Acceptor>,
}

/// Keeps an acceptor on a listener until it ends as it was told to, or has failed too often. Runs on the acceptor's own
/// arbiter.
pub(crate) async fn keep(
    parts: Parts,
    control: Arc<Control>,
    workers: Vec<WorkerHandle>,
    start_here: Option<StartHere>,
) {
    let Parts { socket, backlog, address, id, mailbox } = parts;
    let mut mailbox = Some(mailbox);
    let mut failures = Vec::new();
    let logs = Rc::<Logs>::default();
    loop {
        let mailbox = mailbox.take().unwrap_or_else(|| {
            let (sender, mailbox) = channel(MAILBOX_CAPACITY);
            control.set_acceptor(id, Addr::new(sender));
            mailbox
        });
        let (ended, when_ended) = oneshot::channel();
        Context::with_receiver(mailbox).run(Acceptor {
            socket: socket.try_clone().ok(),
            id,
            address,
            control: Arc::clone(&control),
            workers: workers.clone(),
            start_here: start_here.clone(),
            listener: None,
            shortage: Shortage::default(),
            is_paused: false,
            has_paid: false,
            logs: Rc::clone(&logs),
            ended: Some(ended),
        });
        if when_ended.await.is_ok() || control.state().draining.is_some() {
            return;
        }
        let now = Instant::now();
        failures.retain(|failed| now - *failed < FAILURES_WITHIN);
        failures.push(now);
        if failures.len() > MOST_FAILURES {
            log::error!(
                "listener {address}: its acceptor has failed {} times within {FAILURES_WITHIN:?}: the server ends",
                failures.len()
            );
            control.finish(Finished::LostListener(address));
            return;
        }
        let delay = FIRST_BACK_OFF * 2_u32.pow(failures.len() as u32);
        log::error!("listener {address}: its acceptor has failed; another takes over in {delay:?}");
        tokio::time::sleep(delay).await;
        // Whatever has become of it: an open socket that no longer listens may do so again.
        if let Err(error) = socket2::SockRef::from(&socket).listen(backlog) {
            log::error!("listener {address}: cannot listen again: {error}");
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
            if let Err(error) = ready!(acceptor.poll_accept(cx)) {
                log::error!("listener {}: {error}", acceptor.address);
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
    /// One accept, well or badly ended. An error is one of the listener: there is no use in another try.
    fn poll_accept(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        if let Some(back_off) = &mut self.shortage.back_off {
            ready!(back_off.as_mut().poll(cx));
            self.shortage.back_off = None;
        }
        let Some(listener) = self.listener.as_ref().filter(|_| !self.is_paused) else { return Poll::Pending };
        ready!(listener.poll_ready(cx))?;
        // Known before the accept: a connection that has to wait stays in the backlog.
        let ticket = match self.control.admission.ticket(&mut self.has_paid, cx.waker()) {
            Ticket::Wait(Some(until)) => {
                self.shortage.back_off = Some(Box::pin(tokio::time::sleep_until(until)));
                return Poll::Ready(Ok(()));
            }
            Ticket::Wait(None) => return Poll::Pending,
            ticket => ticket,
        };
        match listener.accept() {
            Ok((stream, peer)) => {
                self.shortage.is_over(self.address);
                match ticket {
                    Ticket::Place(place) => {
                        self.has_paid = false;
                        self.admit(stream, peer, place);
                    }
                    Ticket::Refusal(refusal, reason) => self.refuse(stream, peer, Some(refusal), reason),
                    Ticket::Wait(_) => {}
                }
            }
            // The readiness was old; asking for it again waits for the next connection.
            Err(Errno::AGAIN) => {}
            Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                self.shortage.begin(self.address, error);
                if matches!(error, Errno::MFILE | Errno::NFILE) {
                    self.shortage.shed(listener);
                }
            }
            // What accept(2) lists as an error of the connection, not of the listener: the next one may be fine.
            Err(
                Errno::INTR
                | Errno::CONNABORTED
                | Errno::PROTO
                | Errno::PERM
                | Errno::NETDOWN
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                | Errno::TIMEDOUT,
            ) => {}
            Err(error) => return Poll::Ready(Err(error.into())),
        }
        Poll::Ready(Ok(()))
    }

    /// Makes a session of a connection that has a place, unless its source may not have one more.
    fn admit(&mut self, stream: TcpStream, peer: Option<SocketAddr>, mut place: Place) {
        if let Err(reason) = place.admit(peer) {
            drop(place);
            return self.refuse(stream, peer, self.control.admission.try_refusal(), reason);
        }
        let local = if self.address.ip().is_unspecified() { stream.local_addr().ok() } else { Some(self.address) };
        let connection = Connection { id: SessionId::next(), peer, local, listener: Some(self.id) };
        self.hand_over(Admitted {
            stream: Some(stream),
            connection,
            place: Some(place),
            control: Arc::clone(&self.control),
            worker: 0,
        });
    }

    /// Tells a connection that it is refused, in the time of a task of its own; without room for that it is closed.
    fn refuse(&mut self, stream: TcpStream, peer: Option<SocketAddr>, room: Option<Refusal>, reason: RefuseReason) {
        self.control.admission.count_refused(reason);
        if let Some(peer) = peer {
            log::debug!("listener {}: {peer} is refused: {}", self.address, reason.name());
        }
        if let Some(Events(count)) = self.logs.refused.pass() {
            log::warn!("listener {}: {count} connections refused, the last for {}", self.address, reason.name());
        }
        let line = self.control.admission.refuse_line();
        // Whoever is denied is not worth a word.
        if let Some(room) = room.filter(|_| reason != RefuseReason::Denied && !line.is_empty()) {
            actix_rt::spawn(async move {
                // Whether the peer hears it or is gone is its own business.
                let _ = tokio::time::timeout(REFUSAL_TIME, say_and_close(stream, &line)).await;
                drop(room);
            });
        }
    }

    fn hand_over(&mut self, mut admitted: Admitted) {
        if let (Some(start), [worker]) = (&self.start_here, &self.workers[..]) {
            worker.load.fetch_add(1, Relaxed);
            return start(admitted);
        }
        loop {
            let least = self.workers.iter().enumerate().min_by_key(|(_, worker)| worker.load.load(Relaxed));
            let Some((index, worker)) = least else {
                if let Some(events) = self.logs.lost.pass() {
                    let (address, id) = (self.address, admitted.connection.id);
                    log::error!("listener {address}: every worker has stopped; {id} is closed{events}");
                }
                return;
            };
            admitted.worker = index;
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

/// Writes `line`, sends a FIN, and reads until the peer closes too: closing at once could destroy the line on its way.
async fn say_and_close(stream: TcpStream, line: &[u8]) -> io::Result<()> {
    let mut stream = tokio::net::TcpStream::from_std(stream)?;
    stream.write_all(line).await?;
    stream.shutdown().await?;
    let mut discarded = [0; 256];
    while stream.read(&mut discarded).await? > 0 {}
    Ok(())
}

impl Shortage {
    fn begin(&mut self, address: SocketAddr, error: Errno) {
        if self.since.is_none() {
            self.since = Some((Instant::now(), 0));
            self.delay = FIRST_BACK_OFF;
            log::warn!(
                "listener {address}: cannot accept: {error}; new connections are not served until some end. \
                 Raise the descriptor limit (ulimit -n) or lower max sessions"
            );
        } else {
            self.delay = (self.delay * 2).min(LONGEST_BACK_OFF);
        }
        self.back_off = Some(Box::pin(tokio::time::sleep(self.delay)));
    }

    /// Closes connections that cannot be served: better than to leave their peers waiting for an answer.
    fn shed(&mut self, listener: &Listener) {
        self.reserve = None;
        let mut shed = 0;
        while shed < ACCEPTS_PER_TURN as u64 && listener.accept().is_ok() {
            shed += 1;
        }
        self.reserve = listener.0.as_fd().try_clone_to_owned().ok();
        if let Some((_, count)) = &mut self.since {
            *count += shed;
        }
    }

    fn is_over(&mut self, address: SocketAddr) {
        if let Some((since, shed)) = self.since.take() {
            log::info!("listener {address}: accepts again after {:?}; {shed} connections were closed", since.elapsed());
        }
    }
}

/// A listening socket whose readiness the reactor knows.
///
/// tokio's own listener would register each connection with this reactor; its `AsyncFd` cannot be made of a descriptor
/// without `unsafe`. Its `TcpStream` can, and asks no more of it than to be a socket.
#[derive(Debug)]
pub(crate) struct Listener(tokio::net::TcpStream);

impl Listener {
    fn new(socket: TcpListener) -> io::Result<Self> {
        tokio::net::TcpStream::from_std(TcpStream::from(OwnedFd::from(socket))).map(Self)
    }

    fn poll_ready(&self, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx)
    }

    /// One system call: the socket comes non-blocking, and with the listener's TCP_NODELAY.
    fn accept(&self) -> Result<(TcpStream, Option<SocketAddr>), Errno> {
        let accepted = self.0.try_io(Interest::READABLE, || {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            Ok(rustix::net::acceptfrom_with(&self.0, flags)?)
        });
        match accepted {
            Ok((socket, peer)) => Ok((TcpStream::from(socket), peer.and_then(|peer| SocketAddr::try_from(peer).ok()))),
            // Not yet ready is said without a number.
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)),
        }
    }
}
