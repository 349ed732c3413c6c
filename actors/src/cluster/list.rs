//! List: reads the sessions of a cluster from the store. No node is asked.
//!
//! Not here: which ones (`query`), what users call (`sessions`).

use std::sync::{Mutex, PoisonError};

use futures::{StreamExt, stream};

use crate::{
    cluster::{
        core::Core,
        id::NodeId,
        query::{ClusterPage, ClusterQuery, ListError, Seen, Selection, Unread, UnreadError},
        store::{NamedRows, Row, StoreError},
    },
    seconds,
};

/// Most nodes whose rows are read at the same time: their pages may come in one turn of whoever asks, beside sessions of its
/// thread.
const AT_ONCE: usize = 4;

/// Returns the milliseconds since 1970.
pub(crate) fn now() -> u64 {
    seconds::now().as_millis() as u64
}

/// Reads a page.
pub(crate) async fn list(core: &Core, query: &ClusterQuery) -> Result<ClusterPage, ListError> {
    query.check()?;
    let selection = Mutex::new(Selection::new(query, now()));
    let unread = match (&query.filter.name, &query.filter.id) {
        (Some(name), _) => {
            let (rows, mut unread) = lookup(core, name).await?;
            let mut selection = selection.lock().unwrap_or_else(PoisonError::into_inner);
            for (node, row) in rows {
                selection.add(&node, vec![row], &mut Seen::default());
            }
            unread.retain(|unread| query.filter.has_node(&unread.node));
            unread
        }
        (None, Some(id)) => read_all(core, vec![id.node.clone()], &selection).await,
        (None, None) => {
            let nodes = core.nodes().await?.into_iter().map(|node| node.id);
            read_all(core, nodes.filter(|node| query.filter.has_node(node)).collect(), &selection).await
        }
    };
    let selection = selection.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(ClusterPage { unread, ..selection.finish() })
}

/// Returns the rows with a name, and the nodes of which there may be more.
pub(crate) async fn lookup(core: &Core, name: &str) -> Result<(Vec<(NodeId, Row)>, Vec<Unread>), StoreError> {
    let NamedRows { rows, partial, unknown } = core.lookup(name).await?;
    let unknown = unknown.into_iter().filter(|(node, _)| !partial.contains(node));
    let unknown: Vec<_> = unknown.map(|(node, rows)| Unread { node, error: UnreadError::Unknown { rows } }).collect();
    let partial = partial.into_iter().map(|node| Unread { node, error: UnreadError::Partial });
    let mut unread: Vec<_> = partial.chain(unknown).collect();
    unread.sort_by(|a, b| a.node.cmp(&b.node));
    Ok((rows, unread))
}

/// Reads the rows of nodes. Returns those of which not all could be read.
async fn read_all(core: &Core, nodes: Vec<NodeId>, selection: &Mutex<Selection<'_>>) -> Vec<Unread> {
    let read = stream::iter(nodes).map(|node| async move {
        let error = match read(core, &node, selection).await {
            Err(error) => UnreadError::Store(error),
            Ok(Lacks { is_partial: true, .. }) => UnreadError::Partial,
            Ok(Lacks { unknown: 0, .. }) => return None,
            Ok(Lacks { unknown: rows, .. }) => UnreadError::Unknown { rows },
        };
        Some(Unread { node, error })
    });
    let mut unread: Vec<_> = read.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
    unread.sort_by(|a, b| a.node.cmp(&b.node));
    unread
}

/// What the rows of a node lack.
#[derive(Default)]
struct Lacks {
    /// The node has not written all of them yet.
    is_partial: bool,
    /// Number of those that are not understood.
    unknown: u64,
}

/// Reads the rows of a node.
async fn read(core: &Core, node: &NodeId, selection: &Mutex<Selection<'_>>) -> Result<Lacks, StoreError> {
    let mut seen = Seen::default();
    let mut after = None;
    let mut lacks = Lacks::default();
    loop {
        let page = core.list(node, after).await?;
        selection.lock().unwrap_or_else(PoisonError::into_inner).add(node, page.rows, &mut seen);
        lacks.unknown += page.unknown;
        // A row that comes while they are read may be missed.
        lacks.is_partial |= page.is_partial;
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(lacks),
        }
    }
}
