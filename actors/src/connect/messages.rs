//! Messages: what a connector is asked, and tells its subscribers.
//!
//! Not here: what it does about them (`connector`).

use std::{cell::RefCell, fmt, marker::PhantomData, net::SocketAddr, rc::Rc, time::Duration};

use actix::{Addr, Message, dev::OneshotSender};

use crate::{connection::SessionId, error::ConnectError, report::CloseReport, session::handler::LineHandler};

/// For how many who wait for a session there is room before the list of them is looked through.
pub(super) const LEAST_ASKERS: usize = 16;

/// What happens to a connector's session, as it happens. For [`ConnectorBuilder::subscribe`](crate::connect::builder::ConnectorBuilder::subscribe) and [`Subscribe`](crate::control::messages::Subscribe), which
/// begins with `Connected` if that is how it stands.
///
/// `Connected` and `Lost` take turns, with any number of `Failed` before each `Connected`. `GaveUp` or `Disconnected` is
/// the last.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
#[non_exhaustive]
pub enum ConnectorEvent {
    /// A session has begun.
    Connected {
        /// Its number.
        session: SessionId,
        /// Which of the addresses it was.
        peer: SocketAddr,
        /// The how many-th session it is, counted from 1: above that it is a reconnection.
        nth: u64,
    },
    /// The session has ended, for whatever reason.
    Lost {
        /// What it has left behind, with the reason and the bytes that were not sent.
        report: CloseReport,
        /// When the next attempt begins; none if there will be none.
        retry_in: Option<Duration>,
    },
    /// An attempt brought no session.
    Failed {
        /// Why.
        error: ConnectError,
        /// Which one it was since the start, or since the last session that lasted; from 1.
        attempt: u32,
        /// When the next attempt begins; none if there will be none.
        retry_in: Option<Duration>,
    },
    /// That was the last of [`max_attempts`](crate::connect::builder::ConnectorBuilder::max_attempts); the connector has ended.
    GaveUp {
        /// How many were made.
        attempts: u32,
    },
    /// It was told to [`Disconnect`], and has ended.
    Disconnected,
}

/// Asks a connector for the address of its session.
///
/// The answer is `None` while there is none, and from a connector that has ended without one. An address outlives its
/// session: messages to it then come back as [`MailboxError::Closed`](actix::MailboxError::Closed), and this is to be
/// asked again.
pub struct GetSession<A> {
    pub(super) wait: bool,
    actor: PhantomData<fn() -> A>,
}

impl<A> GetSession<A> {
    /// The session that is there now.
    #[must_use]
    pub fn now() -> Self {
        Self { wait: false, actor: PhantomData }
    }

    /// The session that is there, or the next one, however long that takes. `None` means that there will be none.
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

/// Ends a connector: it connects no more, and its session, if there is one, is half-closed: it sends what was written and
/// its FIN, and gets the peer's lines until these end, as [`half_close`](crate::LineContext::half_close) does. What is
/// left after `deadline` is aborted. The answer is the session's report; `None` if there was none.
///
/// Sending it twice shortens the time if the second deadline comes first, and changes nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Option<CloseReport>")]
#[non_exhaustive]
pub struct Disconnect {
    /// How long the session may take. At zero it is aborted at once.
    pub deadline: Duration,
}

impl Disconnect {
    /// Gives the session so long to end.
    #[must_use]
    pub fn within(deadline: Duration) -> Self {
        Self { deadline }
    }
}

/// The answer to a [`GetSession`].
///
/// Not a future: that would be kept until there is a session, whether the asker still waits for it or not.
pub enum SessionAnswer<A: LineHandler> {
    /// At once.
    Now(Option<Addr<A>>),
    /// When there is a session, or there will be none.
    Later(Askers<A>),
}

/// Where an answer to [`GetSession`] goes.
pub(super) type Asker<A> = OneshotSender<Option<Addr<A>>>;

/// Those who wait for the next session of a connector. A clone is the same list.
pub struct Askers<A: LineHandler>(pub(super) Rc<RefCell<Vec<Asker<A>>>>);

impl<A: LineHandler> Askers<A> {
    /// Adds one. The gone are forgotten whenever the list would grow: it is at most twice as long as those who wait are
    /// many.
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

    /// Tells all of them what comes of it.
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
