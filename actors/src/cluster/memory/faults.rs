//! Faults: what tests do to a way to a store in memory, and what is counted of it.
//!
//! Not here: how a call fails (`memory`).

use std::time::Duration;

#[cfg(doc)]
use crate::cluster::{
    memory::Memory,
    store::{Store, StoreError, Subscription},
};

/// A fault of the way to a [`Memory`], for tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// None.
    #[default]
    None,
    /// Each call fails at once with [`StoreError::Lost`], and subscriptions are lost.
    Lost,
    /// No call arrives: after a second it fails with [`StoreError::Slow`]. Subscriptions go on.
    Hanging,
    /// Calls arrive, their answers do not: after a second they fail with [`StoreError::Slow`], but are done. Subscriptions go on.
    Unanswered,
    /// A call takes so long. One that takes more than a second fails with [`StoreError::Slow`] then, but is done.
    Slow(Duration),
    /// Each call fails with [`StoreError::Refused`].
    Refusing,
    /// Subscriptions get nothing, though they are counted as receivers. Calls go on.
    Deaf,
    /// No packet arrives, in either direction: [`Hanging`](Self::Hanging) and [`Deaf`](Self::Deaf).
    Partitioned,
}

/// Number of calls that came by one way to a [`Memory`], those that failed included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Calls {
    /// Calls of [`Store::register`].
    pub register: u64,
    /// Calls of [`Store::unregister`].
    pub unregister: u64,
    /// Calls of [`Store::nodes`].
    pub nodes: u64,
    /// Calls of [`Store::list`].
    pub list: u64,
    /// Calls of [`Store::lookup`].
    pub lookup: u64,
    /// Calls of [`Store::publish`].
    pub publish: u64,
    /// Calls of [`Store::subscribe`], and of [`Subscription::add`] and [`Subscription::remove`].
    pub subscribe: u64,
    /// Calls of [`Store::acquire`].
    pub acquire: u64,
    /// Calls of [`Store::release`].
    pub release: u64,
}

impl Calls {
    /// Returns the number of all.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { register, unregister, nodes, list, lookup, publish, subscribe, acquire, release } = self;
        register + unregister + nodes + list + lookup + publish + subscribe + acquire + release
    }
}
