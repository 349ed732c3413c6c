//! Each store does what the trait says: one suite of cases, which every engine has to pass.
//!
//! An engine is a module with a function that makes one, empty, and `suite!` with its name. A case makes a way to it for each
//! of its nodes, and says nothing of times but that a lease ends.

#[path = "../support/stores.rs"]
mod stores;
#[path = "../support/mod.rs"]
#[allow(clippy::duplicate_mod)]
mod support;

mod channels;
mod leases;
mod rates;
mod rows;
mod shares;
mod texts;

mod memory;
#[cfg(all(feature = "redis", feature = "tls"))]
mod redis;

use std::{sync::Arc, time::Duration};

use actix_lines::cluster::{Begin, Change, Held, NodeId, Row, Share, Store};
use futures::future::BoxFuture;

/// An engine, empty at first. It ends when it is dropped.
pub(crate) trait Engine {
    /// Makes a way to it.
    fn store(&self) -> BoxFuture<'_, Arc<dyn Store>>;
}

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);

/// Returns a life of a node of this name.
fn node(name: &str, incarnation: u32) -> NodeId {
    NodeId { name: name.parse().unwrap(), incarnation }
}

/// Returns the change that begins a life with these rows and a long lease.
fn begin(rows: impl IntoIterator<Item = Row>) -> Change {
    Change { begins: Some(Begin::default()), lease: LONG, put: rows.into_iter().collect(), ..Change::default() }
}

/// Returns the change that renews a lease.
fn renew(lease: Duration) -> Change {
    Change { lease, ..Change::default() }
}

fn row(session: u64) -> Row {
    let peer = format!("192.0.2.{}:4000", session % 250);
    Row { session, peer, opened: 1_700_000_000_000 + session, ..Row::default() }
}

fn named(session: u64, name: &str) -> Row {
    Row { name: Some(name.to_owned()), ..row(session) }
}

fn share(resource: &str, count: u64) -> Share {
    Share { resource: resource.to_owned(), count }
}

fn held(serial: u64, counts: impl IntoIterator<Item = Share>) -> Held {
    Held { serial, counts: counts.into_iter().collect() }
}

/// Returns the ids of the nodes that are listed.
async fn ids(store: &Arc<dyn Store>) -> Vec<NodeId> {
    store.nodes().await.unwrap().into_iter().map(|node| node.id).collect()
}

/// Returns all rows of a node, in the order of their sessions, each once.
async fn rows(store: &Arc<dyn Store>, node: &NodeId) -> Vec<Row> {
    let mut rows = stores::rows(store, node).await;
    rows.sort_by_key(|row| row.session);
    rows.dedup();
    rows
}

/// Lets the lease of a node end, with nobody told.
async fn die(store: &Arc<dyn Store>, node: &NodeId) {
    store.register(node, &renew(Duration::from_millis(1))).await.unwrap();
    support::eventually("the end of a lease", async || !ids(store).await.contains(node)).await;
}

/// Makes of each case a test with an engine.
#[macro_export]
macro_rules! suite {
    ($make:path) => {
        $crate::cases! { tests($make) }
    };
}

/// Runs each case, one after the other, each with an engine of its own.
#[macro_export]
macro_rules! run_each {
    ($make:expr) => {
        $crate::cases! { run($make) }
    };
}

/// All cases, which are the same for every engine.
#[macro_export]
macro_rules! cases {
    ($way:ident($make:expr)) => {
        $crate::cases! {
            $way($make)
            leases: a_node_is_listed_while_its_lease_lasts, who_has_lost_its_lease_writes_nothing_and_begins_another_life,
                a_life_begins_with_nothing_but_what_it_says, a_node_that_unregisters_is_gone_at_once,
                what_was_said_of_a_dead_node_is_said_of_no_other;
            rows: rows_are_read_as_they_were_written, a_node_that_lacks_rows_says_so_until_all_are_there, twenty_thousand_rows_come_page_by_page_while_others_change,
                sessions_are_found_by_their_names_on_all_live_nodes;
            channels: who_publishes_is_told_how_many_receive_it, what_one_publishes_arrives_in_order,
                who_does_not_read_loses_messages_and_nobody_waits, a_subscription_whose_receiver_is_gone_ends;
            shares: many_at_once_never_hold_more_than_the_most, a_want_is_taken_as_a_whole_or_not_at_all,
                a_dead_nodes_shares_go_with_its_lease, a_node_says_what_it_holds, a_call_that_was_overtaken_does_nothing, a_life_begins_with_however_many_shares;
            rates: a_bucket_gives_its_burst_and_then_its_rate, buckets_are_of_all_nodes_and_apart_from_each_other;
            texts: any_text_may_stand_anywhere, any_bytes_may_be_published;
        }
    };
    (tests($make:expr) $($module:ident: $($case:ident),+;)+) => {
        $($(
            #[actix::test]
            async fn $case() {
                let engine = $make().await;
                $crate::$module::$case(&engine).await;
            }
        )+)+
    };
    (run($make:expr) $($module:ident: $($case:ident),+;)+) => {
        $($(
            eprintln!(stringify!($case));
            let engine = $make().await;
            $crate::$module::$case(&engine).await;
        )+)+
    };
}
