//! Stores: those between a node and its store, which change what one or two of the calls do, and what is in one.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub, unused_imports, unused_macros)]

use actix_lines::cluster::{NodeId, Row, Store};

/// Writes, in an `impl Store`, calls that go as they are to the store in a field: `pass_on!(store: unregister, nodes, list);`.
macro_rules! pass_on {
    ($store:ident: $($call:ident),+) => {
        $(pass_on!(@ $call $store);)+
    };
    (@ register $store:ident) => {
        fn register<'a>(
            &'a self,
            node: &'a actix_lines::cluster::NodeId,
            change: &'a actix_lines::cluster::Change,
        ) -> actix_lines::cluster::StoreAnswer<'a, ()> {
            self.$store.register(node, change)
        }
    };
    (@ unregister $store:ident) => {
        fn unregister<'a>(
            &'a self,
            node: &'a actix_lines::cluster::NodeId,
        ) -> actix_lines::cluster::StoreAnswer<'a, ()> {
            self.$store.unregister(node)
        }
    };
    (@ nodes $store:ident) => {
        fn nodes(&self) -> actix_lines::cluster::StoreAnswer<'_, Vec<actix_lines::cluster::NodeRecord>> {
            self.$store.nodes()
        }
    };
    (@ list $store:ident) => {
        fn list<'a>(
            &'a self,
            node: &'a actix_lines::cluster::NodeId,
            after: Option<actix_lines::cluster::Cursor>,
        ) -> actix_lines::cluster::StoreAnswer<'a, actix_lines::cluster::RowPage> {
            self.$store.list(node, after)
        }
    };
    (@ lookup $store:ident) => {
        fn lookup<'a>(
            &'a self,
            name: &'a str,
        ) -> actix_lines::cluster::StoreAnswer<'a, actix_lines::cluster::NamedRows> {
            self.$store.lookup(name)
        }
    };
    (@ publish $store:ident) => {
        fn publish<'a>(
            &'a self,
            channel: &'a str,
            bytes: bytes::Bytes,
        ) -> actix_lines::cluster::StoreAnswer<'a, u64> {
            self.$store.publish(channel, bytes)
        }
    };
    (@ subscribe $store:ident) => {
        fn subscribe(
            &self,
            to: tokio::sync::mpsc::Sender<actix_lines::cluster::Message>,
        ) -> actix_lines::cluster::StoreAnswer<'_, Box<dyn actix_lines::cluster::Subscription>> {
            self.$store.subscribe(to)
        }
    };
    (@ acquire $store:ident) => {
        fn acquire<'a>(
            &'a self,
            node: &'a actix_lines::cluster::NodeId,
            held: &'a actix_lines::cluster::Held,
            wants: &'a [actix_lines::cluster::Want],
        ) -> actix_lines::cluster::StoreAnswer<'a, Vec<actix_lines::cluster::Verdict>> {
            self.$store.acquire(node, held, wants)
        }
    };
}

pub(crate) use pass_on;

/// All rows of a node, as another one finds them.
pub async fn rows(store: &impl Store, node: &NodeId) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(node, after).await.unwrap();
        rows.extend(page.rows);
        after = page.next;
        if after.is_none() {
            return rows;
        }
    }
}
