//! Fleet limits: what all nodes of a cluster may have together.
//!
//! Not here: what is had (`ledger`), asking the store for more (`limits`).

use crate::{
    error::ConfigError,
    rate::Rate,
    source::{Peers, SourcePrefix},
};

/// Whether new connections that a limit over nodes applies to are let in while the store is lost or slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPartition {
    /// They are let in as long as this node alone is below the limit. The default: a store that is down keeps nobody out, and all
    /// nodes together have at most the limit times their number.
    #[default]
    Open,
    /// They are refused as [`StoreLost`](crate::control::RefuseReason::StoreLost): for limits that matter more than that the
    /// service is there.
    Closed,
}

/// Limits on the sessions of all nodes of a cluster together, beside the [limits](crate::limits::Limits) of each server. Give every
/// node the same: a connection has to meet those of the node that it comes to.
///
/// They are exact while nodes reach the store: at no moment do live nodes have more sessions than a limit allows. Without the
/// store a node decides by [`on_partition`](FleetLimitsBuilder::on_partition).
///
/// ```
/// use actix_lines::cluster::{FleetLimits, OnPartition};
///
/// let limits = FleetLimits::builder()
///     .max_sessions(100_000)
///     .max_sessions_per_source(20)
///     .on_partition(OnPartition::Closed)
///     .build()?;
/// # let _ = limits;
/// # Ok::<(), actix_lines::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetLimits {
    pub(crate) max_sessions: Option<u64>,
    pub(crate) max_sessions_per_source: Option<u64>,
    pub(crate) accept_rate_per_source: Option<Rate>,
    pub(crate) source_prefix: SourcePrefix,
    pub(crate) exempt: Vec<Peers>,
    pub(crate) on_partition: OnPartition,
}

impl FleetLimits {
    /// Starts from the default: no limit.
    pub fn builder() -> FleetLimitsBuilder {
        FleetLimitsBuilder { limits: Self::default() }
    }

    /// Returns true if there is a limit, and it refuses connections while the store is lost.
    pub(crate) fn refuse_alone(&self) -> bool {
        let is_any = self.max_sessions.is_some()
            || self.max_sessions_per_source.is_some()
            || self.accept_rate_per_source.is_some();
        is_any && self.on_partition == OnPartition::Closed
    }
}

/// Sets [`FleetLimits`].
#[derive(Clone, Debug)]
#[must_use = "limits are made by `build`"]
pub struct FleetLimitsBuilder {
    limits: FleetLimits,
}

impl FleetLimitsBuilder {
    /// Sets the most sessions of all nodes together. More connections are refused as
    /// [`ClusterFull`](crate::control::RefuseReason::ClusterFull). Default: no limit.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::MaxSessions`] for 0.
    pub fn max_sessions(mut self, sessions: u64) -> Self {
        self.limits.max_sessions = Some(sessions);
        self
    }

    /// Sets the most sessions of one source on all nodes together. More connections of it are refused as
    /// [`ClusterSource`](crate::control::RefuseReason::ClusterSource). Default: no limit.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::MaxSessionsPerSource`] for 0.
    pub fn max_sessions_per_source(mut self, sessions: u64) -> Self {
        self.limits.max_sessions_per_source = Some(sessions);
        self
    }

    /// Sets the rate at which all nodes together let in connections of one source. More are refused as
    /// [`ClusterRate`](crate::control::RefuseReason::ClusterRate). Default: `None`, no limit.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::Rate`] for a rate or a burst of 0.
    pub fn accept_rate_per_source(mut self, rate: Option<Rate>) -> Self {
        self.limits.accept_rate_per_source = rate;
        self
    }

    /// Sets which addresses are one source, as [`LimitsBuilder::source_prefix`](crate::limits::LimitsBuilder::source_prefix)
    /// does for one server. Default: [`SourcePrefix::default`]. It has to be the same on all nodes.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`ConfigError::SourcePrefix`] for more bits than an address has.
    pub fn source_prefix(mut self, prefix: SourcePrefix) -> Self {
        self.limits.source_prefix = prefix;
        self
    }

    /// Sets the peers that are exempt from the limits per source. Default: none.
    pub fn exempt(mut self, peers: impl IntoIterator<Item = Peers>) -> Self {
        self.limits.exempt = peers.into_iter().collect();
        self
    }

    /// Sets whether connections are let in while the store is lost or slow. Default: [`OnPartition::Open`].
    pub fn on_partition(mut self, policy: OnPartition) -> Self {
        self.limits.on_partition = policy;
        self
    }

    /// Checks the limits.
    ///
    /// # Errors
    /// Returns a [`ConfigError`] for an invalid setting.
    pub fn build(self) -> Result<FleetLimits, ConfigError> {
        let FleetLimits { max_sessions, max_sessions_per_source, accept_rate_per_source, source_prefix, .. } =
            &self.limits;
        if *max_sessions == Some(0) {
            return Err(ConfigError::MaxSessions);
        }
        if *max_sessions_per_source == Some(0) {
            return Err(ConfigError::MaxSessionsPerSource);
        }
        accept_rate_per_source.map_or(Ok(()), |rate| rate.check("accept rate per source of the cluster"))?;
        let SourcePrefix { v4, v6 } = *source_prefix;
        if v4 > 32 || v6 > 128 {
            return Err(ConfigError::SourcePrefix { v4, v6 });
        }
        Ok(self.limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_on_its_own_refuses_connections_if_there_is_a_limit_of_any_kind_and_the_policy_is_closed() {
        let rate = Rate { per_second: 1, burst: 1 };
        let limits = FleetLimits::builder;
        for (limits, is_any) in [
            (limits(), false),
            (limits().max_sessions(1), true),
            (limits().max_sessions_per_source(1), true),
            (limits().accept_rate_per_source(Some(rate)), true),
        ] {
            for policy in [OnPartition::Open, OnPartition::Closed] {
                let limits = limits.clone().on_partition(policy).build().unwrap();
                assert_eq!(limits.refuse_alone(), is_any && policy == OnPartition::Closed, "{limits:?}");
            }
        }
    }
}
