//! Claim: a name that only one session of a cluster may have.
//!
//! It is a share of a limit of one, so that it goes with its owner: with the session, and with its node's lease.
//! Not here: shares (`ledger`), the names of sessions (`LineContext::set_name`), which several may have.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    cluster::{builder::Cluster, id::NodeName, ledger::Hold, query::ClusterPage, store::StoreError},
    names::{self, NameError},
};

/// The waits between two tries of [`Cluster::claim_within`].
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// A name that no one else in the cluster has for as long as this value lives. Keep it in a session's actor, and the name is
/// free when the session has ended; drop it in [`ending`](crate::LineHandler::ending), and it is free when the session begins to
/// end.
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
    /// Another session has it.
    #[error("the name is taken: refuse, or kick who has it and claim it again")]
    Taken {
        /// The sessions that have this [name](crate::LineContext::set_name) in the store: none if the owner of the claim has not
        /// set the name yet, or if its node, which is [named](ClusterPage::unread) then, has not written it.
        holders: Result<ClusterPage, StoreError>,
    },
    /// The store did not answer, so it is unknown whether the name is taken: decide without it.
    #[error("it is unknown whether the name is taken: the store did not answer within {after:?}")]
    Unknown {
        /// Time that was waited; zero if the store was known to be lost, or the node held no lease.
        after: Duration,
    },
    /// It is not a name that a session may have.
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
    /// Claims a name that only one session of the cluster may have, until the [`Claim`] is dropped. It costs one call to the store,
    /// which claims of the same moment share, and one more if the name is taken.
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
    /// While nodes reach the store, a name has one owner. A node that has lost its lease keeps the claims of its sessions, and
    /// tells the store of them in its next life: a name that was claimed elsewhere meanwhile has two owners then.
    ///
    /// # Errors
    /// Returns [`ClaimError::Taken`] with the sessions that have the name, [`ClaimError::Unknown`] if the store does not answer
    /// within [`ask_timeout`](crate::cluster::ClusterBuilder::ask_timeout) or is known to be lost, [`ClaimError::Name`] for a text
    /// that is no name, an empty one included, and [`ClaimError::NoServer`] before a server is the node.
    pub async fn claim(&self, name: &str) -> Result<Claim, ClaimError> {
        let core = &self.core;
        names::check_name(name)?;
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

    /// Claims a name, and tries again for this time while it is taken, for instance after a kick of the session that has it. It
    /// tries every 20 ms at first and every 250 ms later; each try costs as much as a [`claim`](Self::claim).
    ///
    /// # Errors
    /// Those of [`claim`](Self::claim): of the last try, or of the first that fails for another reason than that the name is taken.
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
