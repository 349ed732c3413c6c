//! A list of sessions has each that lives once, however long it is and whatever comes and goes meanwhile, and nobody waits for it.

mod support;

use std::{collections::BTreeSet, time::Duration};

use actix_lines::{
    LineServer, Rot13, ServerHandle, SessionId,
    control::{SessionFilter, SessionOrder, SessionQuery},
};
use proptest::prelude::*;
use support::{PATIENCE, Peer, Server, within};

/// More than workers look at between two turns of their sessions.
const MANY: usize = 2600;

fn start(workers: usize) -> LineServer<Rot13, impl Fn(&actix_lines::Connection) -> Rot13 + Clone + Send + 'static> {
    LineServer::new(|_| Rot13).workers(workers)
}

async fn connect(server: &Server, count: usize) -> Vec<Peer> {
    let mut peers = Vec::new();
    for _ in 0..count {
        peers.push(server.connect().await);
    }
    // Every one of them is a session, not only a connection.
    for peer in &mut peers {
        peer.send(b"x\n").await;
    }
    for peer in &mut peers {
        peer.expect(b"k\n").await;
    }
    peers
}

/// All sessions, page by page.
async fn whole(server: &ServerHandle, limit: usize) -> Vec<SessionId> {
    let mut filter = SessionFilter::default();
    let mut ids = Vec::new();
    loop {
        let page = within("a page", server.sessions(SessionQuery::from(filter.clone()).limit(limit))).await.unwrap();
        let Some(last) = page.sessions.last() else { return ids };
        ids.extend(page.sessions.iter().map(|session| session.id));
        filter = filter.after(last.id);
    }
}

#[actix::test]
async fn a_list_of_any_length_has_each_session_once_page_by_page() {
    let server = Server::start(start(2)).await;
    let peers = connect(&server, MANY).await;
    for limit in [7 * 37, 1000, SessionQuery::MAX_PAGE] {
        let ids = whole(&server.handle, limit).await;
        assert_eq!(ids.len(), MANY);
        assert!(ids.is_sorted_by(|one, next| one < next), "in order, none twice");
    }
    // By offsets it is the same, and the total that of all pages.
    let ids = whole(&server.handle, 1000).await;
    let behind = SessionFilter::default().after(ids[99]);
    let page = server.handle.sessions(SessionQuery::from(behind.clone()).offset(2000).limit(300)).await.unwrap();
    assert_eq!(page.total, MANY as u64 - 100);
    assert_eq!(page.sessions.iter().map(|session| session.id).collect::<Vec<_>>(), ids[2100..2400]);
    drop(peers);
    server.end_all().await;
}

#[actix::test]
async fn who_lives_all_the_while_is_on_each_list_while_others_come_and_go() {
    let server = Server::start(start(2)).await;
    let mut stay = BTreeSet::new();
    let mut others = Vec::new();
    let mut peers = Vec::new();
    for nth in 0..MANY {
        let mut peer = server.connect().await;
        peer.send(b"x\n").await;
        peer.expect(b"k\n").await;
        if nth % 3 == 0 { others.push(peer) } else { peers.push(peer) }
    }
    drop(others);
    support::eventually("the ends", async || server.handle.stats().await.unwrap().live == peers.len() as u64).await;
    stay.extend(whole(&server.handle, 1000).await);
    assert_eq!(stay.len(), peers.len());
    // Slots become free and are taken again under the lists.
    let address = server.address();
    let churn = actix_rt::spawn(async move {
        loop {
            let mut peer = Peer::connect(address).await;
            peer.send(b"x\n").await;
            peer.expect(b"k\n").await;
        }
    });
    for _ in 0..30 {
        let ids = whole(&server.handle, 900).await;
        assert!(ids.is_sorted_by(|one, next| one < next), "none twice");
        let listed: BTreeSet<_> = ids.into_iter().collect();
        assert_eq!(stay.difference(&listed).count(), 0, "all that stay");
    }
    churn.abort();
    drop(peers);
    server.end_all().await;
}

/// Times that others had a turn until a list was made. All of it is on this thread.
async fn turns_of_a_list(server: &Server, total: usize) -> usize {
    let mut turns = 0;
    let others = async {
        loop {
            turns += 1;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        page = server.handle.sessions(SessionQuery::default()) => assert_eq!(page.unwrap().total, total as u64),
        () = others => {}
    }
    turns
}

#[actix::test]
async fn sessions_have_their_turns_while_a_long_list_is_made() {
    let server = Server::of(start(1).on_current_arbiter().bind("127.0.0.1:0").unwrap()).await;
    let mut peers = connect(&server, 1).await;
    let of_one = turns_of_a_list(&server, 1).await;
    // Four parts, so three turns in between; of which those who count may miss one.
    peers.extend(connect(&server, 3699).await);
    let of_many = turns_of_a_list(&server, 3700).await;
    assert!(of_many >= of_one + 2, "3700 sessions in {of_many} turns, one in {of_one}");
    drop(peers);
    server.end_all().await;
}

#[actix::test]
async fn a_kick_takes_those_that_were_there_and_answers_with_their_number() {
    let mut server = Server::start(start(2)).await;
    let mut peers = connect(&server, MANY).await;
    let kicked = within("the kick", server.handle.kick(SessionFilter::default(), "bye\n")).await.unwrap();
    assert_eq!(kicked, MANY as u64);
    for peer in &mut peers {
        assert_eq!(peer.rest().await, b"bye\n");
    }
    drop(peers);
    for _ in 0..MANY {
        assert_eq!(server.report().await.reason.name(), "kicked");
    }
    within("the end", server.handle.drain(PATIENCE)).await.unwrap();
}

#[actix::test]
async fn questions_are_answered_in_order_and_counters_at_once() {
    let server = Server::start(start(1)).await;
    let peers = connect(&server, MANY).await;
    let pushed = server.handle.push(SessionFilter::default(), "news\n");
    let kicked = server.handle.kick(SessionFilter::default(), "bye\n");
    let stats = server.handle.stats();
    let (pushed, kicked, stats) = tokio::join!(pushed, kicked, stats);
    assert_eq!(
        (pushed.unwrap().sessions, kicked.unwrap(), stats.unwrap().live),
        (MANY as u64, MANY as u64, MANY as u64)
    );
    for mut peer in peers {
        assert_eq!(peer.rest().await, b"news\nbye\n");
    }
    server.end_all().await;
}

/// A session of the model: its number, lines in, bytes in and out, and how long it has been idle.
type Row = (u64, u64, u64, u64, u64);

fn orders() -> impl Strategy<Value = SessionOrder> {
    prop::sample::select(vec![
        SessionOrder::Id,
        SessionOrder::Idle,
        SessionOrder::Outbox,
        SessionOrder::BytesIn,
        SessionOrder::BytesOut,
        SessionOrder::Lines,
    ])
}

/// Lines that each session has said.
fn said() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0_u8..6, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Against a model that sorts all of them.
    #[test]
    fn a_page_is_the_part_of_the_sorted_list_that_was_asked_for(
        workers in 1_usize..3,
        said in said(),
        order in orders(),
        offset in 0_usize..50,
        limit in 0_usize..50,
        after in prop::option::of(0_usize..40),
    ) {
        actix_rt::System::new().block_on(async {
            let server = Server::start(start(workers)).await;
            let mut peers = Vec::new();
            for lines in &said {
                let mut peer = server.connect().await;
                peer.send("x\n".repeat(usize::from(*lines)).as_bytes()).await;
                peer.expect("k\n".repeat(usize::from(*lines)).as_bytes()).await;
                peers.push(peer);
            }
            support::eventually("the sessions", async || server.sessions().await.len() == said.len()).await;
            let all = server.sessions().await;
            let mut filter = SessionFilter::default();
            if let Some(after) = after {
                filter = filter.after(all[after.min(all.len() - 1)].id);
            }
            let query = SessionQuery::from(filter.clone()).order(order).offset(offset).limit(limit);
            let page = server.handle.sessions(query).await.unwrap();
            let row = |session: &actix_lines::control::SessionInfo| -> Row {
                (session.id.get(), session.lines_in, session.bytes_in, session.bytes_out, 0)
            };
            let mut model: Vec<Row> = all.iter().map(row).collect();
            model.sort_by_key(|(id, lines, bytes_in, bytes_out, _)| match order {
                SessionOrder::Lines => (u64::MAX - lines, *id),
                SessionOrder::BytesIn => (u64::MAX - bytes_in, *id),
                SessionOrder::BytesOut => (u64::MAX - bytes_out, *id),
                _ => (0, *id),
            });
            if let Some(after) = filter.after {
                model.retain(|(id, ..)| *id > after.get());
            }
            prop_assert_eq!(page.total, model.len() as u64);
            let model: Vec<_> = model.into_iter().skip(offset).take(limit).collect();
            // Idle times differ by a part of a second at most: their order is not this model's.
            if order != SessionOrder::Idle {
                prop_assert_eq!(page.sessions.iter().map(row).collect::<Vec<_>>(), model);
            } else {
                prop_assert_eq!(page.sessions.len(), model.len());
            }
            drop(peers);
            within("the end", server.handle.drain(Duration::from_secs(20))).await.unwrap();
            Ok(())
        })?;
    }
}
