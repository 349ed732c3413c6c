//! Sessions: what a user of a cluster asks of the sessions of all nodes.
//!
//! Not here: doing it (`list` reads the store, `ask` asks nodes).

use bytes::Bytes;

#[cfg(feature = "console")]
use crate::cluster::id::NodeId;
use crate::cluster::{
    answers::{Answers, AskError},
    ask,
    builder::Cluster,
    list,
    query::{ClusterFilter, ClusterPage, ClusterQuery, ClusterSession, ListError},
    request::Order,
    store::{NodeRecord, StoreError},
};

impl Cluster {
    /// Most bytes of a [`push`](Self::push) or of a goodbye: 1 MiB.
    pub const MAX_BYTES: usize = ask::MAX_BYTES;

    /// Returns true for the node's own life, or, while it holds no lease, for the one that it had.
    #[cfg(feature = "console")]
    pub(crate) fn is_own(&self, node: &NodeId) -> bool {
        match self.core.life() {
            Some(own) => own == *node,
            None => self.core.traces().contains(node),
        }
    }

    /// Returns the nodes whose leases are not over, in the order of their ids. One call to the store.
    ///
    /// # Errors
    /// Returns the [`StoreError`] if the store does not say.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, StoreError> {
        self.core.nodes().await
    }

    /// Returns a page of the sessions of all nodes, from the store: no node is asked, so none that is slow or dead delays or
    /// distorts it. What could not be read is named in the page.
    ///
    /// It costs the store one call for the nodes and one for some five hundred rows of each; by
    /// [name](ClusterFilter::name) one call alone; by [id](ClusterFilter::id) those for the rows of one node. Here it takes the memory
    /// of the page and of those before it, and a bit for each session that matches.
    ///
    /// ```
    /// # use actix_lines::cluster::{Cluster, ClusterFilter, ClusterQuery, ListError};
    /// # async fn print(cluster: Cluster) -> Result<(), ListError> {
    /// let public = ClusterFilter::default().listener("public");
    /// let page = cluster.list(ClusterQuery::from(public).limit(100)).await?;
    /// page.sessions.iter().for_each(|session| println!("{} {}", session.id, session.peer));
    /// println!("{} of {}", page.sessions.len(), page.total);
    /// page.unread.iter().for_each(|unread| println!("node {} is missing: {}", unread.node, unread.error));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns a [`ListError`] if the store does not say which nodes there are, or a condition does not stand in the store.
    pub async fn list(&self, query: impl Into<ClusterQuery>) -> Result<ClusterPage, ListError> {
        list::list(&self.core, &query.into()).await
    }

    /// Returns the sessions with this name, of all nodes, in the order of their ids: none, one, or several, as the application
    /// gives names. One call to the store, whatever number of sessions there are.
    ///
    /// # Errors
    /// Returns the [`StoreError`] if the store does not say.
    pub async fn lookup(&self, name: &str) -> Result<Vec<ClusterSession>, StoreError> {
        let now = list::now();
        let rows = self.core.lookup(name).await?.into_iter();
        let mut sessions: Vec<_> = rows.map(|(node, row)| ClusterSession::new(node, row, now)).collect();
        sessions.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(sessions)
    }

    /// Writes bytes to the sessions that `whom` selects, on whatever nodes: [`ServerHandle::push`](crate::ServerHandle::push) on each.
    ///
    /// By [id](ClusterFilter::id) only the owner is asked: one call to the store, and one of the owner for the answer. Otherwise
    /// each node is asked once, or that of the filter: one call for the nodes, and two for each of them. The node itself does its part
    /// at once, without the store. The answers come when all nodes have answered, at the latest after
    /// [`ask_timeout`](crate::cluster::ClusterBuilder::ask_timeout); each names its node.
    ///
    /// ```
    /// # use actix_lines::cluster::{AskError, Cluster, ClusterFilter};
    /// # async fn tell(cluster: Cluster) -> Result<(), AskError> {
    /// let answers = cluster.push(ClusterFilter::default().tag("staff"), "we close at noon\n").await?;
    /// println!("{} sessions were told", answers.sessions());
    /// if !answers.is_complete() {
    ///     answers.nodes.iter().filter(|answer| !answer.outcome.is_answered()).for_each(|answer| println!("{answer}"));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns an [`AskError`] if it cannot begin. What has become of it on a node is no error but the node's answer.
    pub async fn push(&self, whom: impl Into<ClusterFilter>, bytes: impl Into<Bytes>) -> Result<Answers, AskError> {
        ask::ask(&self.core, &whom.into(), Order::Push(bytes.into())).await
    }

    /// Ends the sessions that `whom` selects, on whatever nodes, each with `goodbye` if that is not empty:
    /// [`ServerHandle::kick`](crate::ServerHandle::kick) on each. Asks and costs as [`push`](Self::push).
    ///
    /// [`Done`](crate::cluster::Outcome::Done) says that these sessions were told to end, and read no more. Each ends by the limits of its
    /// node: what it has read is answered; a handler that waits has `wait_timeout`, a peer that takes nothing `write_timeout`, and one
    /// that does not close `linger_timeout`. Whatever these are, a session that has not ended after
    /// [`kick_timeout`](crate::cluster::ClusterBuilder::kick_timeout) is aborted. A request is carried out at most once, and one that the node's lease did not outlive
    /// not at all.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub async fn kick(&self, whom: impl Into<ClusterFilter>, goodbye: impl Into<Bytes>) -> Result<Answers, AskError> {
        ask::ask(&self.core, &whom.into(), Order::Kick(goodbye.into())).await
    }
}
