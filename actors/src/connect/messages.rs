//! Messages: requests to a connector, and its events for subscribers.
//!
//! Not here: handling them (`connector`).

use std::{cell::RefCell, fmt, marker::PhantomData, net::SocketAddr, rc::Rc, time::Duration};

use actix::{Addr, Message, dev::OneshotSender};

use crate::{connection::SessionId, error::ConnectError, report::CloseReport, session::handler::LineHandler};

/// Length of the list of waiting askers above which those who are gone are removed.
pub(super) const LEAST_ASKERS: usize = 16;

/// An event of a connector, for [`ConnectorBuilder::subscribe`](crate::connect::builder::ConnectorBuilder::subscribe)
/// and [`Subscribe`](crate::control::messages::Subscribe). A subscription made while there is a session begins with
/// `Connected`.
///
/// `Connected` and `Lost` alternate, with any number of `Failed` before each `Connected`. `GaveUp` or `Disconnected` is
/// the last event.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
#[non_exhaustive]
pub enum ConnectorEvent {
    /// A session has begun.
    Connected {
        /// The session's number.
        session: SessionId,
        /// The address that was connected to.
        peer: SocketAddr,
        /// Number of the connection, counted from 1: above 1 it is a reconnection.
        nth: u64,
    },
    /// The session has ended, for whatever reason.
    Lost {
        /// Its close report, with the reason and the number of bytes that were not sent.
        report: CloseReport,
        /// Time until the next attempt; `None` if there will be none.
        retry_in: Option<Duration>,
    },
    /// An attempt brought no session.
    Failed {
        /// The reason.
        error: ConnectError,
        /// Number of the attempt since the start, or since the last session that lasted; counted from 1.
        attempt: u32,
        /// Time until the next attempt; `None` if there will be none.
        retry_in: Option<Duration>,
    },
    /// The last of [`max_attempts`](crate::connect::builder::ConnectorBuilder::max_attempts) has failed, and the
    /// connector has ended.
    GaveUp {
        /// Number of attempts made.
        attempts: u32,
    },
    /// The connector got [`Disconnect`], and has ended.
    Disconnected,
}

/// Asks a connector for the address of its session.
///
/// The answer is `None` if there will be no session, or for [`now`](Self::now) if there is none at the moment. An
/// address outlives its session: messages to it then return [`MailboxError::Closed`](actix::MailboxError::Closed), and
/// the address has to be asked for again.
pub struct GetSession<A> {
    pub(super) wait: bool,
    actor: PhantomData<fn() -> A>,
}

impl<A> GetSession<A> {
    /// Asks for the current session. `None` means that there is none now.
    #[must_use]
    pub fn now() -> Self {
        Self { wait: false, actor: PhantomData }
    }

    /// Asks for the current session or, without one, for the next, however long that takes. `None` means that there
    /// will be none.
    #[must_use]
    pub fn when_connected() -> Self {
        Self { wait: true, actor: PhantomData }
    }
}

impl<A> fmt::Debug for GetSession<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetSession").field("wait", &self.wait).finish()
    }
}

impl<A: LineHandler> Message for GetSession<A> {
    type Result = Option<Addr<A>>;
}

/// Ends a connector: it connects no more, and its session, if there is one, is half-closed. The session sends its
/// outbox and its FIN, and handles the peer's lines until these end, as with
/// [`half_close`](crate::LineContext::half_close). After `deadline` it is aborted. The answer is the session's report;
/// `None` if there was no session.
///
/// Sent again, it shortens the time if the new deadline comes first, and changes nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Option<CloseReport>")]
#[non_exhaustive]
pub struct Disconnect {
    /// Time that the session has to end. At zero it is aborted at once.
    pub deadline: Duration,
}

impl Disconnect {
    /// Makes a `Disconnect` with this deadline.
    #[must_use]
    pub fn within(deadline: Duration) -> Self {
        Self { deadline }
    }
}

/// The answer to a [`GetSession`].
///
/// Not a future, which would be kept until there is a session even if the asker no longer waits.
pub enum SessionAnswer<A: LineHandler> {
    /// The answer is there at once.
    Now(Option<Addr<A>>),
    /// The answer comes when there is a session, or when there will be none.
    Later(Askers<A>),
}

/// The channel of an answer to [`GetSession`].
pub(super) type Asker<A> = OneshotSender<Option<Addr<A>>>;

/// The askers that wait for the next session of a connector. A clone is the same list.
pub struct Askers<A: LineHandler>(pub(super) Rc<RefCell<Vec<Asker<A>>>>);

impl<A: LineHandler> Askers<A> {
    /// Adds an asker. Askers that are gone are removed whenever the list would grow: it is at most twice as long as the
    /// number of those that wait.
    pub(super) fn add(&self, asker: Asker<A>) {
        let is_full = {
            let askers = self.0.borrow();
            askers.len() == askers.capacity()
        };
        if is_full {
            self.forget_the_gone();
            let mut askers = self.0.borrow_mut();
            let more = askers.len().max(LEAST_ASKERS);
            askers.reserve_exact(more);
        }
        self.0.borrow_mut().push(asker);
    }

    pub(super) fn forget_the_gone(&self) {
        let mut askers = self.0.borrow_mut();
        askers.retain(|asker| !asker.is_closed());
        askers.shrink_to_fit();
    }

    /// Answers all of them.
    pub(super) fn answer(&self, session: Option<&Addr<A>>) {
        let askers = self.0.take();
        askers.into_iter().for_each(|asker| drop(asker.send(session.cloned())));
    }
}

impl<A: LineHandler> Clone for Askers<A> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<A: LineHandler> Default for Askers<A> {
    fn default() -> Self {
        Self(Rc::default())
    }
}
