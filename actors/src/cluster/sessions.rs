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
    /// Returns the [`StoreError`] of the call.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, StoreError> {
        self.core.nodes().await
    }

    /// Returns a page of the sessions of all nodes, from the store: no node is asked, so none that is slow or dead delays or
    /// distorts it. Nodes whose sessions could not be read are [named](ClusterPage::unread) in the page.
    ///
    /// It costs one call to the store for the nodes, and one for some five hundred rows of each node; by
    /// [name](ClusterFilter::name) one call in all; by [id](ClusterFilter::id) only those for the rows of one node. It takes
    /// memory for the sessions of this page and of all pages before it, and a bit for each session that matches.
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
    /// Returns a [`ListError`] if the store does not return the nodes, or if a condition is about something that is not in the
    /// store.
    pub async fn list(&self, query: impl Into<ClusterQuery>) -> Result<ClusterPage, ListError> {
        list::list(&self.core, &query.into()).await
    }

    /// Returns the sessions of all nodes with this name, in the order of their ids: none, one, or several, as the application
    /// gives names; no session has an empty one. All of them are on one page, however many there are, by one call to the store. Nodes
    /// that have not written all of their sessions yet are [named](ClusterPage::unread) in it: others of theirs may have the name.
    ///
    /// # Errors
    /// Returns the [`StoreError`] of the call.
    pub async fn lookup(&self, name: &str) -> Result<ClusterPage, StoreError> {
        let now = list::now();
        let (rows, unread) = list::lookup(&self.core, name).await?;
        let mut sessions: Vec<_> = rows.into_iter().map(|(node, row)| ClusterSession::new(node, row, now)).collect();
        sessions.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(ClusterPage { total: sessions.len() as u64, sessions, unread })
    }

    /// Writes bytes to the sessions that `whom` selects, on whatever nodes: [`ServerHandle::push`](crate::ServerHandle::push) on each.
    ///
    /// By [id](ClusterFilter::id) only the session's node is asked, which costs one call to the store, and one for the answer.
    /// Otherwise each node is asked, or the one that the filter [names](ClusterFilter::node): one call for the nodes, and two for
    /// each. A node looks at its sessions, not at their rows: one that has not written all of them yet misses none, by
    /// [name](ClusterFilter::name) neither. This node does its own part at once, without the store. The answers come when all nodes have answered, at the
    /// latest after [`ask_timeout`](crate::cluster::ClusterBuilder::ask_timeout); each names its node.
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
    /// Returns an [`AskError`] if no node can be asked; then nothing was done. A node that fails is an answer, not an error.
    pub async fn push(&self, whom: impl Into<ClusterFilter>, bytes: impl Into<Bytes>) -> Result<Answers, AskError> {
        ask::ask(&self.core, &whom.into(), Order::Push(bytes.into())).await
    }

    /// Ends the sessions that `whom` selects, on whatever nodes, each with `goodbye` if that is not empty:
    /// [`ServerHandle::kick`](crate::ServerHandle::kick) on each. Which nodes are asked, and what that costs, is as for
    /// [`push`](Self::push).
    ///
    /// [`Done`](crate::cluster::Outcome::Done) means that the sessions were told to end; they read no more. Each then ends by the
    /// limits of its node: it answers what it has read, a handler that waits has `wait_timeout`, a peer that takes nothing
    /// `write_timeout`, and a peer that does not close `linger_timeout`. A session that has not ended after
    /// [`kick_timeout`](crate::cluster::ClusterBuilder::kick_timeout) is aborted in any case.
    ///
    /// A node carries a request out at most once, and not at all once its lease is over.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub async fn kick(&self, whom: impl Into<ClusterFilter>, goodbye: impl Into<Bytes>) -> Result<Answers, AskError> {
        ask::ask(&self.core, &whom.into(), Order::Kick(goodbye.into())).await
    }
}
