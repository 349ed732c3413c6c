//! Standalone sessions: a session without a listener, over any byte stream, on the current arbiter.
//!
//! Not here: the session itself (`session`), sessions that a server accepts (`server`).

use actix::{Addr, AsyncContext};

use crate::{
    connection::{Connection, SessionId},
    framing::Framing,
    limits::SessionLimits,
    session::{context::LineContext, handler::LineHandler, opening::Opening},
    wire::transport::Transport,
    worker::task,
};

/// Builds and starts a session without a listener.
///
/// The session has no supervisor: its report goes to its own [`closed`](LineHandler::closed) and to the log, and only
/// its handler can start a drain. It costs as much as a session of a server; sessions of one arbiter with the same
/// limits share their buffers and their clock.
///
/// ```
/// use std::time::Duration;
///
/// use actix::{Actor, Handler, Message};
/// use actix_lines::{Line, LineContext, LineHandler, LineSession, Transport, limits::Limits};
/// use tokio::io::AsyncReadExt;
///
/// struct Notifier;
///
/// impl Actor for Notifier {
///     type Context = LineContext<Self>;
/// }
///
/// impl LineHandler for Notifier {
///     fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
/// }
///
/// #[derive(Message)]
/// #[rtype(result = "()")]
/// struct News(&'static str);
///
/// impl Handler<News> for Notifier {
///     type Result = ();
///     fn handle(&mut self, News(text): News, ctx: &mut Self::Context) {
///         ctx.write(text);
///     }
/// }
///
/// # actix_rt::System::new().block_on(async {
/// let limits = Limits::builder().idle_timeout(Some(Duration::from_secs(5))).build()?;
/// let (ours, mut theirs) = tokio::io::duplex(1024);
/// let notifier = LineSession::new(Transport::new(ours)).limits(limits).create(|_ctx| Notifier);
/// notifier.send(News("it rains\n")).await?;
/// let mut line = [0; 9];
/// theirs.read_exact(&mut line).await?;
/// assert_eq!(&line, b"it rains\n");
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Debug)]
#[must_use = "a session begins when it is started"]
pub struct LineSession {
    id: SessionId,
    transport: Transport,
    framing: Framing,
    limits: SessionLimits,
}

impl LineSession {
    /// Starts from the defaults: [`Framing::lf`], [`Limits::default`](crate::limits::Limits::default).
    pub fn new(transport: impl Into<Transport>) -> Self {
        Self {
            id: SessionId::next(),
            transport: transport.into(),
            framing: Framing::default(),
            limits: SessionLimits::default(),
        }
    }

    /// Returns the session's number, which appears in reports and logs.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Sets how bytes are cut into lines. Default: [`Framing::lf`].
    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// Sets the session's limits. Of [`Limits`](crate::limits::Limits) only those of a single session count. Default:
    /// [`Limits::default`](crate::limits::Limits::default).
    pub fn limits(mut self, limits: impl Into<SessionLimits>) -> Self {
        self.limits = limits.into();
        self
    }

    /// Starts the session on the current arbiter. Returns the actor's address.
    ///
    /// # Panics
    /// Panics outside an actix arbiter, as [`actix_rt::spawn`] does.
    pub fn start<A: LineHandler>(self, actor: A) -> Addr<A> {
        self.create(|_| actor)
    }

    /// Starts the session on the current arbiter, as [`Actor::create`](actix::Actor::create) does: `make` gets the
    /// context, and may write or spawn before the session begins. Returns the actor's address; messages sent before
    /// [`Actor::started`](actix::Actor::started) wait for it.
    ///
    /// # Panics
    /// Panics outside an actix arbiter, as [`actix_rt::spawn`] does. A panic of `make` is passed on, after the
    /// connection was closed with the report [`HandlerPanicked`](crate::CloseReason::HandlerPanicked).
    pub fn create<A: LineHandler>(self, make: impl FnOnce(&mut LineContext<A>) -> A) -> Addr<A> {
        let Self { id, transport, framing, limits } = self;
        let connection = Connection::new(id, transport.peer(), transport.local(), None);
        let opening = Opening::new(&task::standalone(limits), transport, connection, None, framing);
        let opened = opening.open(|ctx| {
            let address = ctx.address();
            (make(ctx), address)
        });
        match opened {
            Ok((_, address)) => address,
            Err(panicked) => panicked.resume(),
        }
    }
}

impl<A> LineContext<A>
where
    A: LineHandler,
{
    /// Starts a session without a listener, over any transport, on the current arbiter, with the default limits. It has
    /// no supervisor: its report goes to its own [`closed`](LineHandler::closed) and to the log.
    ///
    /// Returns the actor's address. [`LineSession`] starts a session with other limits, or with its context at hand.
    ///
    /// # Panics
    /// Panics outside an actix arbiter, as [`actix_rt::spawn`] does.
    ///
    /// ```
    /// use actix_lines::{Framing, LineContext, Rot13, Transport};
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// # actix_rt::System::new().block_on(async {
    /// let (ours, mut theirs) = tokio::io::duplex(1024);
    /// LineContext::start(Transport::new(ours), Framing::lf(), Rot13);
    /// theirs.write_all(b"Hello\n").await?;
    /// theirs.shutdown().await?;
    /// let mut answer = String::new();
    /// theirs.read_to_string(&mut answer).await?;
    /// assert_eq!(answer, "Uryyb\n");
    /// # Ok::<(), std::io::Error>(()) }).unwrap();
    /// ```
    pub fn start(transport: impl Into<Transport>, framing: Framing, actor: A) -> Addr<A> {
        LineSession::new(transport).framing(framing).start(actor)
    }
}
