//! Claim: a name that only one session of a cluster may have.
//!
//! It is a share of a limit of one, so that it goes with its owner: with the session, and with its node's lease.
//! Not here: shares (`ledger`), the names of sessions (`LineContext::set_name`), which several may have.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    cluster::{builder::Cluster, id::NodeName, ledger::Hold, query::ClusterSession, store::StoreError},
    names::{NameError, Names},
};

/// The waits between two tries of [`Cluster::claim_within`].
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// A name that nobody else of the cluster has while this lives. Kept in a session's actor it is free again when the session has
/// ended; dropped in [`ending`](crate::LineHandler::ending), when it begins to.
#[must_use = "a claim that is dropped is given back"]
pub struct Claim {
    name: Arc<str>,
    _hold: Hold,
}

impl Claim {
    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Claim").field(&self.name).finish()
    }
}

/// A name was not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Somebody has it.
    #[error("the name is taken: refuse, or kick who has it and claim it again")]
    Taken {
        /// The sessions that the store lists under this name: those that were [named](crate::LineContext::set_name) so. None if who
        /// has it has not said so yet.
        holders: Result<Vec<ClusterSession>, StoreError>,
    },
    /// The store does not say whether somebody has it: decide without it.
    #[error("it is unknown whether the name is taken: the store did not answer within {after:?}")]
    Unknown {
        /// The wait; zero while the store is known to be lost.
        after: Duration,
    },
    /// It is no name that a session may have.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No server is the node.
    #[error("no server is node {node} of the cluster: start one with LineServer::cluster first")]
    NoServer {
        /// The node.
        node: NodeName,
    },
}

impl Cluster {
    /// Claims a name that only one session of the cluster may have: granted, it is held until the [`Claim`] is dropped. One call to
    /// the store, with all that is claimed meanwhile; one more for who has it if it is taken.
    ///
    /// The application decides about a name that is taken: it refuses the newcomer, or kicks the older session.
    ///
    /// ```
    /// use std::time::Duration;
    /// use actix::Actor;
    /// use actix_lines::{Line, LineContext, LineHandler, cluster::{Claim, ClaimError, Cluster, ClusterFilter}};
    ///
    /// struct Guest {
    ///     cluster: Cluster,
    ///     claim: Option<Claim>,
    /// }
    ///
    /// impl Actor for Guest {
    ///     type Context = LineContext<Self>;
    /// }
    ///
    /// impl LineHandler for Guest {
    ///     fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
    ///         let name = String::from_utf8_lossy(line.text()).into_owned();
    ///         let cluster = self.cluster.clone();
    ///         let claimed = async move {
    ///             match cluster.claim(&name).await {
    ///                 // The newcomer stays, and who was there before goes.
    ///                 Err(ClaimError::Taken { .. }) => {
    ///                     let _ = cluster.kick(ClusterFilter::default().name(&*name), "you came again\n").await;
    ///                     cluster.claim_within(&name, Duration::from_secs(5)).await
    ///                 }
    ///                 other => other,
    ///             }
    ///         };
    ///         ctx.wait_for(claimed, |guest, claim, ctx| match claim {
    ///             Ok(claim) if ctx.set_name(claim.name()).is_ok() => guest.claim = Some(claim),
    ///             Ok(_) => {}
    ///             Err(error) => writeln!(ctx, "{error}"),
    ///         });
    ///     }
    /// }
    /// ```
    ///
    /// Only one node is granted a name as long as the store is reached. A node that has lost its lease tells the store in its next life what
    /// its sessions have, so a name that was claimed elsewhere meanwhile has two owners then.
    ///
    /// # Errors
    /// Returns [`ClaimError::Taken`] with who has it, and [`ClaimError::Unknown`] if the store does not answer within
    /// [`ask_timeout`](crate::cluster::ClusterBuilder::ask_timeout).
    pub async fn claim(&self, name: &str) -> Result<Claim, ClaimError> {
        let core = &self.core;
        Names::default().set_name(name)?;
        if core.server.get().is_none() {
            return Err(ClaimError::NoServer { node: core.settings.name.clone() });
        }
        if core.life().is_none() || core.health.is_lost() {
            return Err(ClaimError::Unknown { after: Duration::ZERO });
        }
        let after = core.settings.ask_timeout;
        match timeout(after, core.ledger.claim(&format!("name:{name}"), 1)).await {
            Ok(Ok(Ok(hold))) => Ok(Claim { name: name.into(), _hold: hold }),
            Ok(Ok(Err(_))) => Err(ClaimError::Taken { holders: self.lookup(name).await }),
            Ok(Err(_)) | Err(_) => Err(ClaimError::Unknown { after }),
        }
    }

    /// Claims a name, again and again for a time while it is taken: for who has kicked the session that has it. Each try costs as
    /// [`claim`](Self::claim); one comes 20 to 250 ms after the other.
    ///
    /// # Errors
    /// As [`claim`](Self::claim), of the last try.
    pub async fn claim_within(&self, name: &str, time: Duration) -> Result<Claim, ClaimError> {
        let until = Instant::now() + time;
        let mut wait = FIRST_WAIT;
        loop {
            match self.claim(name).await {
                Err(ClaimError::Taken { .. }) if Instant::now() + wait < until => sleep(wait).await,
                other => return other,
            }
            wait = (2 * wait).min(LONGEST_WAIT);
        }
    }
}
