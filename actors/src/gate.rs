//! Gate: asynchronous admission by the user's own code, which may refuse a connection before it becomes a session.
//!
//! Gates are asked last, when the server's own limits have let the connection in and its filters are open, so that the real peer
//! is known; nothing is read meanwhile. Servers without gates pay nothing.
//! Not here: waiting for the answer (`session/gated`), keeping permits (`worker/permits`).

use std::{any::Any, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use crate::{connection::Connection, report::RefuseReason};

/// The answer of a [gate](crate::LineServer::gate) that lets a connection in. It may hold a value for as long as the session
/// lives: that is dropped when the session has ended, after its socket is closed and before anybody hears of the end. If the
/// connection never becomes a session, the value is dropped as well.
///
/// ```
/// use std::sync::Arc;
///
/// use actix_lines::Permit;
///
/// let tables = Arc::new(());
/// let permit = Permit::new(Arc::clone(&tables));
/// assert_eq!(Arc::strong_count(&tables), 2);
/// drop(permit);
/// assert_eq!(Arc::strong_count(&tables), 1);
/// ```
#[must_use = "a permit that is dropped is given back"]
#[derive(Default)]
pub struct Permit(Option<Box<dyn Any + Send>>);

impl Permit {
    /// Makes a permit that holds a value, whose `Drop` gives something back. A panic in it is caught.
    pub fn new(held: impl Any + Send) -> Self {
        Self(Some(Box::new(held)))
    }

    /// Makes a permit that holds nothing. It costs a session no memory.
    pub fn free() -> Self {
        Self(None)
    }

    pub(crate) fn is_free(&self) -> bool {
        self.0.is_none()
    }

    /// Both in one.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self.is_free(), other.is_free()) {
            (_, true) => self,
            (true, false) => other,
            (false, false) => Self::new((self, other)),
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_free() { "Permit(free)" } else { "Permit(held)" })
    }
}

/// The answer of a gate, on its way.
pub(crate) type Asked = Pin<Box<dyn Future<Output = Result<Permit, RefuseReason>>>>;

/// What a gate says when it is asked.
pub(crate) enum Answer {
    /// The answer at once: the connection need not wait, and pays no task.
    #[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "gates of users take their time"))]
    Now(Result<Permit, RefuseReason>),
    /// It takes its time.
    Later(Asked),
}

/// Asks about a connection that has so much time left for all gates.
type Ask = dyn Fn(&Connection, Duration) -> Answer + Send + Sync;

/// The gates of a server, in the order in which they are asked.
#[derive(Clone, Default)]
pub(crate) struct Gates(Arc<[Arc<Ask>]>);

impl Gates {
    pub(crate) fn with(&self, ask: impl Fn(&Connection, Duration) -> Answer + Send + Sync + 'static) -> Self {
        Self(self.0.iter().cloned().chain([Arc::new(ask) as Arc<Ask>]).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Asks one, of a connection that has so much time left. May panic, as the user's code does.
    pub(crate) fn ask(&self, gate: usize, connection: &Connection, left: Duration) -> Option<Answer> {
        self.0.get(gate).map(|ask| ask(connection, left))
    }
}

impl fmt::Debug for Gates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} gates", self.len())
    }
}
