//! Health: what a node knows of its store, and the log lines of its losses.
//!
//! The renewal of the lease is the judge: other calls only make it look at once.
//! Not here: calling the store (`core`), when to look again (`lease`), subscriptions (`hub`).

use std::{fmt, mem, time::Duration};

use tokio::{sync::watch, time::Instant};

/// What a node knows of the store of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Its server has not started yet, or the store has not answered yet.
    Starting,
    /// The store answers, and what is published arrives.
    Connected,
    /// The store answers, but messages that are published do not arrive: those of rooms and of other nodes are missed.
    Deaf {
        /// When that was found out.
        since: Instant,
    },
    /// The store does not answer: the node is on its own.
    Lost {
        /// When that was found out.
        since: Instant,
        /// What has failed.
        why: String,
    },
    /// Its server has ended.
    Ended,
}

impl Health {
    /// Returns the state's name in lower case, as it is serialized: `connected`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Connected => "connected",
            Self::Deaf { .. } => "deaf",
            Self::Lost { .. } => "lost",
            Self::Ended => "ended",
        }
    }

    /// Returns how long the store has been lost or deaf; `None` if it is not.
    #[must_use]
    pub fn bad_for(&self) -> Option<Duration> {
        match self {
            Self::Deaf { since } | Self::Lost { since, .. } => Some(since.elapsed()),
            Self::Starting | Self::Connected | Self::Ended => None,
        }
    }

    /// Returns true if the store answers, as far as the node knows.
    #[must_use]
    pub fn answers(&self) -> bool {
        matches!(self, Self::Connected | Self::Deaf { .. })
    }
}

/// Writes its name, and what is wrong: `lost for 3.2 s: the store is not reached: connection refused`.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        if let Some(time) = self.bad_for() {
            write!(f, " for {:.1} s", time.as_secs_f64())?;
        }
        if let Self::Lost { why, .. } = self {
            write!(f, ": {why}")?;
        }
        Ok(())
    }
}

/// Serialized as `state`, and for how many `seconds` and `why` it is not connected.
impl serde::Serialize for Health {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let mut fields = serializer.serialize_struct("Health", 3)?;
        fields.serialize_field("state", self.name())?;
        if let Some(time) = self.bad_for() {
            fields.serialize_field("seconds", &crate::seconds::of(time))?;
        }
        if let Self::Lost { why, .. } = self {
            fields.serialize_field("why", why)?;
        }
        fields.end()
    }
}

/// The health of one node's store, for whoever looks at it.
#[derive(Debug)]
pub(crate) struct Pulse(watch::Sender<Health>);

impl Default for Pulse {
    fn default() -> Self {
        Self(watch::Sender::new(Health::Starting))
    }
}

impl Pulse {
    pub(crate) fn now(&self) -> Health {
        self.0.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Health> {
        self.0.subscribe()
    }

    /// Returns true if the store is known to be lost.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(*self.0.borrow(), Health::Lost { .. })
    }

    /// Waits until a store that is lost is found; for ever if it is not lost.
    pub(crate) async fn found(&self) {
        let mut health = self.watch();
        if !self.is_lost() || health.wait_for(|health| !matches!(health, Health::Lost { .. })).await.is_err() {
            std::future::pending().await
        }
    }

    /// Changes it to what `next` returns, unless that is nothing. Returns what it was, if it has changed. Nobody logs in `next`:
    /// a lock is held that each connection at the gate takes.
    fn change(&self, next: impl FnOnce(&Health) -> Option<Health>) -> Option<Health> {
        let mut before = None;
        self.0.send_if_modified(|health| {
            before = next(health).map(|next| mem::replace(health, next));
            before.is_some()
        });
        before
    }

    /// The judge was not answered. Logged once for a loss, with what that means for connections: `is_closed` if they are refused.
    pub(crate) fn lose(&self, why: &impl fmt::Display, is_closed: bool) {
        let lost = self.change(|health| match health {
            Health::Lost { .. } | Health::Ended => None,
            _ => Some(Health::Lost { since: Instant::now(), why: why.to_string() }),
        });
        if lost.is_some() {
            let limits = match is_closed {
                true => "new connections are refused, lists are this node's own",
                false => "lists and limits are this node's own",
            };
            log::warn!("cluster: store lost: {why}; {limits}, rooms reach this node alone");
        }
    }

    /// The judge was answered. Logged once for a loss. Whether the node hears is another question.
    pub(crate) fn find(&self) {
        let found = self.change(|health| match health {
            Health::Lost { .. } | Health::Starting => Some(Health::Connected),
            Health::Connected | Health::Deaf { .. } | Health::Ended => None,
        });
        if let Some(Health::Lost { since, .. }) = found {
            let seconds = since.elapsed().as_secs_f64();
            log::info!(seconds = seconds; "cluster: store found after {seconds:.1} s");
        }
    }

    /// A probe did not come back.
    pub(crate) fn deafen(&self, why: &str) {
        // A store that is lost is heard of no more: that is no news.
        let deafened =
            self.change(|health| (*health == Health::Connected).then(|| Health::Deaf { since: Instant::now() }));
        if deafened.is_some() {
            log::warn!(
                "cluster: {why}: the subscription is opened anew; messages of other nodes are missed until then"
            );
        }
    }

    /// A probe has come back.
    pub(crate) fn hear(&self) {
        let heard = self.change(|health| matches!(health, Health::Deaf { .. }).then_some(Health::Connected));
        if let Some(Health::Deaf { since }) = heard {
            let seconds = since.elapsed().as_secs_f64();
            log::info!(seconds = seconds; "cluster: the subscription is heard again after {seconds:.1} s");
        }
    }

    pub(crate) fn end(&self) {
        self.0.send_replace(Health::Ended);
    }
}
