//! Lists over nodes: from the store alone, page by page, in order, and what is missing is named.

#[path = "support/members.rs"]
mod members;
#[path = "support/nodes.rs"]
mod nodes;
mod support;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actix_lines::{
    LineServer,
    cluster::{
        Begin, Change, Cluster, ClusterFilter, ClusterOrder, ClusterPage, ClusterQuery, Cursor, GlobalId, ListError,
        NamedRows, NodeId, NodeRecord, Row, RowPage, Store, StoreAnswer, StoreError, UnreadError,
        memory::{Fault, Memory},
    },
    control::SessionState,
};
use members::Nameable;
use nodes::{Node, stores::pass_on};
use proptest::{prelude::*, sample::select};
use support::{CASES, eventually, pass, pause};

fn node(name: &str, incarnation: u32) -> NodeId {
    NodeId { name: name.parse().unwrap(), incarnation }
}

fn row(session: u64) -> Row {
    Row { session, peer: format!("192.0.2.{}:{}", session % 250, 1024 + session % 60_000), ..Row::default() }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A node that only lists: it joins nobody.
fn reader(store: impl Store) -> Cluster {
    Cluster::builder(store).node("reader").build().unwrap()
}

async fn begin(store: &impl Store, node: &NodeId, rows: impl IntoIterator<Item = Row>) {
    let begins = Some(Begin { about: format!("node {node}"), shares: vec![] });
    let change =
        Change { begins, lease: Duration::from_secs(600), put: rows.into_iter().collect(), ..Change::default() };
    store.register(node, &change).await.unwrap();
}

fn ids(sessions: &[actix_lines::cluster::ClusterSession]) -> Vec<(NodeId, u64)> {
    sessions.iter().map(|session| (session.id.node.clone(), session.id.session.get())).collect()
}

#[actix::test]
async fn six_thousand_sessions_of_three_nodes_come_in_order_each_once_on_pages() {
    pause();
    let memory = Memory::new();
    let nodes = [node("a", 7), node("b", 1), node("c", 3)];
    for (nth, node) in nodes.iter().enumerate() {
        begin(&memory.view(), node, (0..2000).map(|session| row(3 * session + nth as u64))).await;
    }
    let store = memory.view();
    let cluster = reader(store.clone());
    let mut expected = Vec::new();
    for (nth, node) in nodes.iter().enumerate() {
        expected.extend((0..2000).map(|session| (node.clone(), 3 * session + nth as u64)));
    }
    let mut found = Vec::new();
    for offset in (0..6000).step_by(700) {
        let page = cluster.list(ClusterQuery::default().offset(offset).limit(700)).await.unwrap();
        assert_eq!((page.total, page.unread.len()), (6000, 0));
        found.extend(ids(&page.sessions));
    }
    assert_eq!(found, expected);
    let calls = store.calls();
    let page = cluster.list(ClusterQuery::default().limit(10_000)).await.unwrap();
    assert_eq!(ids(&page.sessions), expected);
    assert_eq!(store.calls().total() - calls.total(), 1 + 3, "one for the nodes, and one for the rows of each");
    // Behind the end there is nothing, and there may be more than a page holds.
    let page = cluster.list(ClusterQuery::default().offset(6000)).await.unwrap();
    assert_eq!((page.sessions.len(), page.total), (0, 6000));
    begin(&memory, &nodes[0], (0..12_000).map(row)).await;
    let page = cluster.list(ClusterQuery::default().limit(usize::MAX)).await.unwrap();
    assert_eq!((page.sessions.len(), page.total), (ClusterQuery::MAX_PAGE, 16_000));
}

#[actix::test]
async fn nodes_are_listed_with_what_they_say_of_themselves_and_dead_ones_never() {
    pause();
    let memory = Memory::new();
    let (a, old, b) = (node("a", 2), node("a", 1), node("b", 1));
    begin(&memory, &a, [row(1)]).await;
    begin(&memory, &old, [Row { name: Some("alice".to_owned()), ..row(1) }, row(2)]).await;
    begin(&memory, &b, []).await;
    let cluster = reader(memory.view());
    let told = |nodes: Vec<NodeRecord>| -> Vec<_> {
        nodes.into_iter().map(|node| (node.id, node.about, node.sessions)).collect()
    };
    let about = |node: &NodeId, sessions: u64| (node.clone(), format!("node {node}"), sessions);
    assert_eq!(told(cluster.nodes().await.unwrap()), [about(&old, 2), about(&a, 1), about(&b, 0)]);
    assert_eq!(cluster.lookup("alice").await.unwrap().total, 1);
    memory.register(&old, &Change { lease: Duration::from_secs(1), ..Change::default() }).await.unwrap();
    pass(Duration::from_millis(1001)).await;
    assert_eq!(told(cluster.nodes().await.unwrap()), [about(&a, 1), about(&b, 0)]);
    let page = cluster.list(ClusterQuery::default()).await.unwrap();
    assert_eq!((ids(&page.sessions), page.total, page.unread.len()), (vec![(a.clone(), 1)], 1, 0));
    assert_eq!(cluster.lookup("alice").await.unwrap(), ClusterPage::default());
    let of_the_dead = ClusterFilter::id(format!("{old}.1").parse().unwrap());
    assert_eq!(cluster.list(of_the_dead).await.unwrap().total, 0);
    memory.unregister(&a).await.unwrap();
    assert_eq!(cluster.list(ClusterQuery::default()).await.unwrap().total, 0);
}

#[actix::test]
async fn a_list_costs_the_store_no_more_than_it_says() {
    pause();
    let memory = Memory::new();
    let nodes = ["a", "b", "c"].map(|name| node(name, 1));
    for node in &nodes {
        begin(&memory, node, (1..4500).map(row).chain([Row { name: Some("alice".to_owned()), ..row(9000) }])).await;
    }
    let store = memory.view();
    let cluster = reader(store.clone());
    let cost = async |filter: ClusterFilter| {
        let before = store.calls();
        let total = cluster.list(filter).await.unwrap().total;
        let after = store.calls();
        (total, after.nodes - before.nodes, after.list - before.list, after.lookup - before.lookup)
    };
    assert_eq!(cost(ClusterFilter::default()).await, (13_500, 1, 9, 0));
    assert_eq!(cost(ClusterFilter::default().node("b".parse().unwrap())).await, (4500, 1, 3, 0));
    assert_eq!(cost(ClusterFilter::default().name("alice")).await, (3, 0, 0, 1));
    assert_eq!(cost(ClusterFilter::default().name("alice").node("c".parse().unwrap())).await, (1, 0, 0, 1));
    assert_eq!(cost(ClusterFilter::id("b.00000001.17".parse().unwrap())).await, (1, 0, 3, 0));
    let before = store.calls().total();
    let found = cluster.lookup("alice").await.unwrap();
    assert_eq!(store.calls().total() - before, 1);
    assert_eq!(ids(&found.sessions), nodes.map(|node| (node, 9000)));
}

/// A store that does not tell the rows of some nodes, or not all.
#[derive(Clone, Debug)]
struct Partly {
    memory: Memory,
    /// The nodes, and the number of pages of each that it tells.
    silent: BTreeMap<NodeId, u64>,
    tell_twice: bool,
}

impl Store for Partly {
    pass_on!(memory: register, unregister, nodes, lookup, publish, subscribe, acquire);

    fn list<'a>(&'a self, node: &'a NodeId, after: Option<Cursor>) -> StoreAnswer<'a, RowPage> {
        Box::pin(async move {
            // A page of the store in memory has 2000 rows, with the numbers from 1.
            if self.silent.get(node).is_some_and(|pages| after.map_or(0, |Cursor(last)| last / 2000) >= *pages) {
                return Err(StoreError::Refused { reason: "no permission".to_owned() });
            }
            let mut page = self.memory.list(node, after).await?;
            if self.tell_twice {
                page.rows.extend(page.rows.clone());
            }
            Ok(page)
        })
    }
}

/// A store that has its own order: the last session of a name comes first, and the rows of the last node fail first.
#[derive(Clone, Debug)]
struct Turned {
    memory: Memory,
}

impl Store for Turned {
    pass_on!(memory: register, unregister, nodes, publish, subscribe, acquire);

    fn lookup<'a>(&'a self, name: &'a str) -> StoreAnswer<'a, NamedRows> {
        Box::pin(async move {
            let mut found = self.memory.lookup(name).await?;
            found.rows.reverse();
            Ok(found)
        })
    }

    fn list<'a>(&'a self, node: &'a NodeId, _: Option<Cursor>) -> StoreAnswer<'a, RowPage> {
        Box::pin(async move {
            pass(Duration::from_millis(100 * u64::from(9 - node.incarnation))).await;
            Err(StoreError::Refused { reason: "no permission".to_owned() })
        })
    }
}

#[actix::test]
async fn sessions_of_a_name_and_nodes_that_could_not_be_read_are_in_the_order_of_their_ids_whatever_the_stores_is() {
    pause();
    let memory = Memory::new();
    let nodes = [node("a", 1), node("a", 2), node("b", 1), node("c", 3)];
    let named = |session| Row { name: Some("alice".to_owned()), ..row(session) };
    for node in &nodes {
        begin(&memory, node, [9, 10, 100].map(named)).await;
    }
    let cluster = reader(Turned { memory });
    let expected: Vec<_> = nodes.iter().flat_map(|node| [9, 10, 100].map(|session| (node.clone(), session))).collect();
    assert_eq!(ids(&cluster.lookup("alice").await.unwrap().sessions), expected);
    let page = cluster.list(ClusterFilter::default().name("alice")).await.unwrap();
    assert_eq!(ids(&page.sessions), expected);
    let page = cluster.list(ClusterFilter::default()).await.unwrap();
    assert_eq!(page.unread.into_iter().map(|unread| unread.node).collect::<Vec<_>>(), nodes);
}

#[actix::test]
async fn a_node_that_is_still_writing_its_sessions_is_named_and_those_that_are_there_are_listed() {
    pause();
    let memory = Memory::new();
    let [a, b] = ["a", "b"].map(|name| node(name, 1));
    begin(&memory, &a, (1..=10).map(row)).await;
    begin(&memory, &b, (1..=10).map(row)).await;
    let cluster = reader(memory.view());
    let lease = Duration::from_secs(600);
    let some = Change { lease, is_partial: Some(true), ..Change::default() };
    memory.register(&b, &some).await.unwrap();
    let page = cluster.list(ClusterQuery::default()).await.unwrap();
    let unread: Vec<_> = page.unread.iter().map(|unread| (&unread.node, &unread.error)).collect();
    assert_eq!((page.total, unread), (20, vec![(&b, &UnreadError::Partial)]));
    let of_b = ClusterFilter::id(GlobalId { node: b.clone(), session: "7".parse().unwrap() });
    assert_eq!(cluster.list(of_b).await.unwrap().unread.len(), 1);
    // By name too, of whomever those are that are there; but not where it cannot matter.
    let partial = |page: ClusterPage| {
        let unread: Vec<_> = page.unread.into_iter().map(|unread| (unread.node, unread.error)).collect();
        assert_eq!((page.total, unread), (0, vec![(b.clone(), UnreadError::Partial)]));
    };
    partial(cluster.lookup("alice").await.unwrap());
    partial(cluster.list(ClusterFilter::default().name("alice")).await.unwrap());
    let of = |node: &NodeId| ClusterFilter::default().name("alice").node(node.name.clone());
    partial(cluster.list(of(&b)).await.unwrap());
    assert_eq!(cluster.list(of(&a)).await.unwrap(), ClusterPage::default());
    let rest = Change { lease, put: vec![row(11)], is_partial: Some(false), ..Change::default() };
    memory.register(&b, &rest).await.unwrap();
    let page = cluster.list(ClusterQuery::default()).await.unwrap();
    assert_eq!((page.total, page.unread.len()), (21, 0));
    assert_eq!(cluster.lookup("alice").await.unwrap(), ClusterPage::default());
}

#[actix::test]
async fn what_could_not_be_read_is_named_and_the_rest_is_listed() {
    pause();
    let memory = Memory::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| node(name, 1));
    begin(&memory, &a, (1..=10).map(row)).await;
    begin(&memory, &b, (1..=10).map(row)).await;
    begin(&memory, &c, (1..=5000).map(row)).await;
    let silent = BTreeMap::from([(b.clone(), 0), (c.clone(), 1)]);
    let cluster = reader(Partly { memory: memory.clone(), silent, tell_twice: true });
    let page = cluster.list(ClusterQuery::default().limit(5)).await.unwrap();
    assert_eq!(ids(&page.sessions), (1..=5).map(|session| (a.clone(), session)).collect::<Vec<_>>());
    assert_eq!(page.total, 10 + 2000, "each once, however often it is told");
    let unread: Vec<_> = page.unread.iter().map(|unread| (unread.node.clone(), unread.error.clone())).collect();
    let error = StoreError::Refused { reason: "no permission".to_owned() };
    let error = UnreadError::Store(error);
    assert_eq!(unread, [(b, error.clone()), (c, error)]);
    // Without the nodes there is no list.
    let store = memory.view();
    let cluster = reader(store.clone());
    for (fault, is_expected) in [
        (Fault::Lost, (|error| matches!(error, StoreError::Lost { .. })) as fn(&StoreError) -> bool),
        (Fault::Hanging, |error| matches!(error, StoreError::Slow { .. })),
        (Fault::Refusing, |error| matches!(error, StoreError::Refused { .. })),
    ] {
        store.fail(fault);
        let error = cluster.list(ClusterQuery::default()).await.unwrap_err();
        assert!(matches!(&error, ListError::Store(error) if is_expected(error)), "{fault:?}: {error}");
        assert!(is_expected(&cluster.nodes().await.unwrap_err()), "{fault:?}");
        assert!(is_expected(&cluster.lookup("x").await.unwrap_err()), "{fault:?}");
    }
    let error = cluster.list(ClusterFilter::default().state(SessionState::Open)).await.unwrap_err();
    assert_eq!(error, ListError::NotInStore { condition: "state" });
}

#[actix::test]
async fn what_lives_on_any_node_is_listed_with_its_names_and_what_has_ended_is_not() {
    pause();
    let memory = Memory::new();
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(Node::serve(name, &memory, LineServer::new(|_| Nameable)).await);
    }
    let mut peers = Vec::new();
    for (nth, node) in nodes.iter().enumerate() {
        for name in ["alice", "bob"] {
            let mut peer = node.server.connect().await;
            let line = format!("!name {name}{nth}\n!tag staff\n");
            peer.send(line.as_bytes()).await;
            peer.expect(line.as_bytes()).await;
            peers.push(peer);
        }
    }
    let (a, c) = (&nodes[0].cluster, &nodes[2].cluster);
    let staff = || ClusterFilter::default().tag("staff").listener("public");
    eventually("six names", async || a.list(staff()).await.unwrap().total == 6).await;
    let mut expected = Vec::new();
    for node in &nodes {
        expected.extend(node.ids().await);
    }
    for cluster in [a, c] {
        let page = cluster.list(staff()).await.unwrap();
        assert_eq!(page.sessions.iter().map(|session| session.id.clone()).collect::<Vec<_>>(), expected);
        let names: Vec<_> = page.sessions.iter().map(|session| session.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["alice0", "bob0", "alice1", "bob1", "alice2", "bob2"]);
        assert!(page.sessions.iter().all(|session| session.peer.starts_with("127.0.0.1:") && session.opened > 0));
    }
    let bob = a.lookup("bob1").await.unwrap().sessions;
    assert_eq!(bob.iter().map(|session| session.id.clone()).collect::<Vec<_>>(), expected[3..4]);
    // By what a list says the session is reached.
    assert_eq!(c.push(bob[0].id.clone(), "for bob\n").await.unwrap().sessions(), 1);
    peers[3].expect(b"for bob\n").await;
    drop(peers.remove(3));
    eventually("five sessions", async || a.list(ClusterFilter::default()).await.unwrap().total == 5).await;
    assert_eq!(a.lookup("bob1").await.unwrap().sessions, []);
    // A node that ends takes itself out.
    nodes.remove(1).server.end_all().await;
    eventually("four sessions", async || nodes[0].cluster.list(staff()).await.unwrap().total == 4).await;
    assert_eq!(nodes[0].cluster.nodes().await.unwrap().len(), 2);
    for node in nodes {
        node.server.end_all().await;
    }
}

const MINUTE: u64 = 60_000;

/// Sessions of some nodes, by node and number: name, tags, listener, peer, age.
type Fleet = BTreeMap<(u8, u64), (u8, u8, u8, u8, u64)>;

fn fleet() -> impl Strategy<Value = Fleet> {
    prop::collection::btree_map((0_u8..4, 1_u64..300), (0_u8..3, 0_u8..3, 0_u8..3, 0_u8..3, 1_u64..6), 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    /// Against a model that looks at all of them with conditions of its own.
    #[test]
    fn a_list_is_what_a_model_lists(
        fleet in fleet(),
        node_is in select(vec![None, Some("n0"), Some("n1"), Some("nobody")]),
        name_is in select(vec![None, Some("alice"), Some("bob"), Some("nobody")]),
        tag_is in select(vec![None, Some("x"), Some("y")]),
        listener_is in select(vec![None, Some("public"), Some("0")]),
        source_is in select(vec![None, Some("192.0.2.0/24"), Some("2001:db8::/32"), Some("unix"), Some("uid:7")]),
        id_is in prop::option::weighted(0.1, (0_u8..4, 1_u64..300)),
        minutes in 0_u64..6,
        by_age in any::<bool>(),
        offset in 0_usize..20,
        limit in 1_usize..40,
    ) {
        actix::System::new().block_on(async move {
            pause();
            let memory = Memory::new();
            // Two lives of a name are two nodes.
            let nodes = [node("n0", 1), node("n0", 2), node("n1", 1), node("n2", 1)];
            let now = now();
            let name = |nth: u8| [None, Some("alice"), Some("bob")][usize::from(nth)];
            let tags = |nth: u8| [&[][..], &["x"], &["y", "x"]][usize::from(nth)];
            let listener = |nth: u8| [None, Some("public"), Some("0")][usize::from(nth)];
            let peer = |nth: u8| ["192.0.2.7:1", "[2001:db8::7]:1", "unix (pid 1, uid 7, gid 1)"][usize::from(nth)];
            for (nth, node) in nodes.iter().enumerate() {
                let rows = fleet.iter().filter(|((at, _), _)| usize::from(*at) == nth);
                let rows = rows.map(|((_, session), (n, t, l, p, minutes))| Row {
                    session: *session,
                    peer: peer(*p).to_owned(),
                    listener: listener(*l).map(str::to_owned),
                    // In the middle of a minute: the clock goes on while this runs.
                    opened: now - minutes * MINUTE + MINUTE / 2,
                    name: name(*n).map(str::to_owned),
                    tags: tags(*t).iter().map(|tag| (*tag).to_owned()).collect(),
                });
                begin(&memory, node, rows).await;
            }
            let mut filter = ClusterFilter::default().age_at_least(Duration::from_millis(minutes * MINUTE));
            filter.node = node_is.map(|name| name.parse().unwrap());
            filter.name = name_is.map(Into::into);
            filter.tag = tag_is.map(Into::into);
            filter.listener = listener_is.map(Into::into);
            filter.source = source_is.map(|source| source.parse().unwrap());
            filter.id = id_is.map(|(at, session)| format!("{}.{session}", nodes[usize::from(at)]).parse().unwrap());
            let mut model: Vec<_> = fleet.into_iter().filter(|((at, session), (n, t, l, p, age))| {
                node_is.is_none_or(|name| (*at < 2 && name == "n0") || (*at == 2 && name == "n1"))
                    && name_is.is_none_or(|wanted| name(*n) == Some(wanted))
                    && tag_is.is_none_or(|wanted| tags(*t).contains(&wanted))
                    && listener_is.is_none_or(|wanted| listener(*l) == Some(wanted))
                    && source_is.is_none_or(|wanted| match wanted {
                        "192.0.2.0/24" => *p == 0,
                        "2001:db8::/32" => *p == 1,
                        _ => *p == 2,
                    })
                    && id_is.is_none_or(|id| id == (*at, *session))
                    && *age > minutes
            }).collect();
            model.sort_by_key(|((at, session), (.., age))| (if by_age { 6 - age } else { 0 }, *at, *session));
            let total = model.len() as u64;
            let page: Vec<_> = model.iter().skip(offset).take(limit).map(|((at, session), _)| (nodes[usize::from(*at)].clone(), *session)).collect();

            let order = if by_age { ClusterOrder::Age } else { ClusterOrder::Id };
            let query = ClusterQuery::from(filter).order(order).offset(offset).limit(limit);
            let listed = reader(memory).list(query).await.unwrap();
            prop_assert_eq!((ids(&listed.sessions), listed.total), (page, total));
            Ok(())
        })?;
    }
}
