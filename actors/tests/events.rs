//! Subscribers get the beginning and the end of each session, in batches that all subscribers share; and what becomes of
//! refused connections, listeners and limits.

mod support;

use std::{collections::HashMap, ptr, sync::Arc, time::Duration};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use actix_lines::{
    CloseReport, Connection, LineServer, Listener, ServerHandle, SessionId,
    control::{EventRef, ListenerChange, RefuseReason, SessionEvent, Subscribe},
    limits::{Limits, OverLimit},
};
use support::{Echo, PATIENCE, Peer, eventually, pause, within};
use tokio::sync::{mpsc, oneshot};

/// Passes events on, from when it is let go.
struct Watcher {
    events: mpsc::UnboundedSender<SessionEvent>,
    held: Option<oneshot::Receiver<()>>,
    capacity: usize,
}

impl Actor for Watcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.capacity);
        if let Some(held) = self.held.take() {
            ctx.wait(held.into_actor(self).map(|_, _, _| ()));
        }
    }
}

impl Handler<SessionEvent> for Watcher {
    type Result = ();

    fn handle(&mut self, event: SessionEvent, _: &mut Self::Context) {
        let _ = self.events.send(event);
    }
}

type Events = mpsc::UnboundedReceiver<SessionEvent>;

/// A subscriber that handles nothing until it is let go, and what it will have heard.
async fn held_watcher(
    server: &ServerHandle,
    how: fn(actix::Recipient<SessionEvent>) -> Subscribe,
    capacity: usize,
) -> (oneshot::Sender<()>, Events) {
    let (events, heard) = mpsc::unbounded_channel();
    let (let_go, held) = oneshot::channel();
    let watcher = Watcher { events, held: Some(held), capacity }.start();
    server.supervisor().send(how(watcher.recipient())).await.unwrap();
    (let_go, heard)
}

async fn watch(server: &ServerHandle) -> Events {
    let (let_go, heard) = held_watcher(server, Subscribe::lossless, 1).await;
    let_go.send(()).unwrap();
    heard
}

fn start(workers: usize) -> ServerHandle {
    LineServer::new(|_| Echo).workers(workers).bind("127.0.0.1:0").unwrap().start().unwrap()
}

/// So many sessions, one after the other, each with a line.
async fn sessions(server: &ServerHandle, count: usize) {
    for _ in 0..count {
        let mut peer = Peer::connect(server.local_addrs()[0]).await;
        peer.send(b"hello\n").await;
        peer.expect(b"hello\n").await;
    }
}

/// What is heard until so many sessions have ended.
async fn until_closed(heard: &mut Events, count: usize) -> Vec<SessionEvent> {
    let mut events = Vec::new();
    let mut closed = 0;
    while closed < count {
        let event = within("an event", heard.recv()).await.expect("the watcher lives");
        if let SessionEvent::Closed(reports) = &event {
            closed += reports.len();
        }
        events.push(event);
    }
    events
}

#[actix::test]
async fn each_session_is_opened_once_and_closed_once_in_this_order() {
    const SESSIONS: usize = 300;
    let server = start(2);
    let mut heard = watch(&server).await;
    sessions(&server, SESSIONS).await;
    let mut open: HashMap<SessionId, Connection> = HashMap::new();
    let mut opened = 0;
    for event in until_closed(&mut heard, SESSIONS).await {
        match event {
            SessionEvent::Opened(sessions) => {
                assert!(!sessions.is_empty());
                opened += sessions.len();
                open.extend(sessions.iter().map(|session| (session.id(), session.clone())));
            }
            SessionEvent::Closed(reports) => {
                assert!(!reports.is_empty());
                for CloseReport { id, peer, listener, lines_in, .. } in reports.iter() {
                    let session = open.remove(id).expect("a session is opened before it is closed");
                    assert_eq!((session.peer_addr(), session.listener()), (peer, *listener));
                    assert!(peer.ip().is_some() && listener.is_some());
                    assert_eq!(*lines_in, 1);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((opened, open.len()), (SESSIONS, 0));
    server.abort().await.unwrap();
}

#[actix::test]
async fn who_subscribes_later_hears_of_the_end_of_what_was_there() {
    let server = start(1);
    let peer = Peer::connect(server.local_addrs()[0]).await;
    eventually("a session", async || server.stats().await.unwrap().live == 1).await;
    let mut heard = watch(&server).await;
    drop(peer);
    let events = until_closed(&mut heard, 1).await;
    assert!(matches!(&events[..], [SessionEvent::Closed(_)]), "{events:?}");
    server.abort().await.unwrap();
}

#[actix::test]
async fn subscribers_share_a_batch() {
    let server = start(1);
    let (mut first, mut second) = (watch(&server).await, watch(&server).await);
    sessions(&server, 10).await;
    let (first, second) = (until_closed(&mut first, 10).await, until_closed(&mut second, 10).await);
    assert_eq!(first.len(), second.len());
    for events in first.iter().zip(&second) {
        match events {
            (SessionEvent::Opened(one), SessionEvent::Opened(other)) => assert!(Arc::ptr_eq(one, other)),
            (SessionEvent::Closed(one), SessionEvent::Closed(other)) => {
                assert!(ptr::eq(&raw const **one, &raw const **other))
            }
            other => panic!("{other:?}"),
        }
    }
    server.abort().await.unwrap();
}

#[actix::test]
async fn the_bound_is_the_subscribers_choice_and_what_it_loses_is_counted() {
    const SESSIONS: usize = 20;
    let server = start(1);
    let (let_bounded_go, mut bounded) = held_watcher(&server, Subscribe::new, 1).await;
    let (let_lossless_go, mut lossless) = held_watcher(&server, Subscribe::lossless, 1).await;
    for nth in 1..=SESSIONS as u64 {
        sessions(&server, 1).await;
        // A batch or two each.
        eventually("an end", async || server.stats().await.unwrap().closed.get("peer-eof") == Some(&nth)).await;
    }
    let_lossless_go.send(()).unwrap();
    let all: u64 = until_closed(&mut lossless, SESSIONS).await.iter().map(count).sum();
    assert_eq!(all, 2 * SESSIONS as u64);
    let lost = server.stats().await.unwrap().events_lost;
    let_bounded_go.send(()).unwrap();
    let mut kept = 0;
    while kept + lost < all {
        kept += count(&within("what was kept", bounded.recv()).await.expect("the watcher lives"));
    }
    assert!(lost > 0 && kept > 0, "{lost} lost, {kept} kept");
    assert_eq!(kept + lost, all);
    within("the end", server.drain(PATIENCE)).await.unwrap();
}

/// Sessions in an event.
fn count(event: &SessionEvent) -> u64 {
    event.entries().filter(|entry| matches!(entry, EventRef::Opened(_) | EventRef::Closed(_))).count() as u64
}

/// The number of events that the subscriber was told are lost.
fn lost(event: &SessionEvent) -> u64 {
    if let SessionEvent::Lost(count) = event { *count } else { 0 }
}

#[actix::test]
async fn a_subscriber_hears_how_many_events_it_has_lost_before_the_next_one() {
    let server = start(1);
    let (let_go, mut heard) = held_watcher(&server, Subscribe::new, 4).await;
    let mut ends = 0;
    let mut end = async || {
        sessions(&server, 1).await;
        ends += 1;
        eventually("an end", async || server.stats().await.unwrap().closed.get("peer-eof") == Some(&ends)).await;
    };
    for _ in 0..20 {
        end().await;
    }
    let before = server.stats().await.unwrap().events_lost;
    let_go.send(()).unwrap();
    let mut events = Vec::new();
    while events.iter().map(count).sum::<u64>() + before < 40 {
        events.push(within("what was kept", heard.recv()).await.expect("the watcher lives"));
    }
    assert!(before > 0 && events.iter().all(|event| lost(event) == 0), "{before} lost, {events:?}");
    // Room again.
    end().await;
    let first = within("an event", heard.recv()).await.expect("the watcher lives");
    assert_eq!(lost(&first), before);
    let next = within("an event", heard.recv()).await.expect("the watcher lives");
    assert!(matches!(next, SessionEvent::Opened(_) | SessionEvent::Closed(_)), "{next:?}");
    server.abort().await.unwrap();
}

#[actix::test]
async fn refused_connections_are_told_with_peer_listener_and_reason() {
    let limits = Limits::builder().max_sessions(1).over_limit(OverLimit::Refuse).refuse_line("no\n").build().unwrap();
    let server = LineServer::new(|_| Echo).workers(1).limits(limits);
    let server = server.listen(Listener::tcp("127.0.0.1:0").name("public")).unwrap().start().unwrap();
    let mut heard = watch(&server).await;
    let mut held = Peer::connect(server.local_addrs()[0]).await;
    held.send(b"hello\n").await;
    held.expect(b"hello\n").await;
    let mut peers = HashMap::new();
    for _ in 0..3 {
        let mut peer = Peer::connect(server.local_addrs()[0]).await;
        peers.insert(peer.stream.local_addr().unwrap(), ());
        peer.expect(b"no\n").await;
    }
    while !peers.is_empty() {
        let event = within("an event", heard.recv()).await.expect("the watcher lives");
        let SessionEvent::Refused(refusals) = &event else { continue };
        assert_eq!(refusals.more, 0);
        for refused in &refusals.connections {
            assert!(peers.remove(&refused.peer.socket_addr().unwrap()).is_some(), "{refused:?}");
            assert_eq!(refused.listener.and_then(|listener| listener.name()), Some("public"));
            assert_eq!(refused.reason, RefuseReason::MaxSessions);
        }
    }
    assert_eq!(server.stats().await.unwrap().refused["max-sessions"], 3);
    server.abort().await.unwrap();
}

#[actix::test]
async fn of_a_flood_of_refusals_the_first_are_told_apart_and_all_are_counted() {
    const REFUSED: u64 = 700;
    // Time passes when all of them are refused.
    pause();
    let limits = Limits::builder().deny(["127.0.0.0/8".parse().unwrap()]).build().unwrap();
    let server = LineServer::new(|_| Echo).on_current_arbiter().limits(limits).bind("127.0.0.1:0").unwrap();
    let server = server.start().unwrap();
    let mut heard = watch(&server).await;
    let connect = || std::net::TcpStream::connect(server.local_addrs()[0]).unwrap();
    let mut peers = Vec::new();
    while peers.len() < REFUSED as usize {
        // No more than the backlog has room for.
        peers.extend((0..100).map(|_| connect()));
        tokio::task::yield_now().await;
    }
    let (mut told, mut more) = (0, 0);
    while told + more < REFUSED {
        let event = within("an event", heard.recv()).await.expect("the watcher lives");
        let SessionEvent::Refused(refusals) = &event else { panic!("{event:?}") };
        assert!((1..=256).contains(&refusals.connections.len()), "{}", refusals.connections.len());
        assert!(refusals.more == 0 || refusals.connections.len() == 256);
        told += refusals.connections.len() as u64;
        more += refusals.more;
    }
    assert!(told + more == REFUSED && more > 0, "{told} told apart, {more} more");
    server.abort().await.unwrap();
}

#[actix::test]
async fn a_change_of_limits_is_told_with_both_and_how_many_sessions_it_ends() {
    let server = start(2);
    let mut heard = watch(&server).await;
    sessions(&server, 1).await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = Peer::connect(server.local_addrs()[0]).await;
        peer.send(b"hello\n").await;
        peer.expect(b"hello\n").await;
        peers.push(peer);
    }
    let before = server.limits().await.unwrap();
    let denied = before.to_builder().deny(["127.0.0.0/8".parse().unwrap()]).build().unwrap();
    assert_eq!(server.preview_limits(denied.clone()).await.unwrap().ends.len(), 3);
    assert_eq!(server.set_limits(denied.clone()).await.unwrap().ends.len(), 3);
    // Not said again.
    server.set_limits(denied.clone()).await.unwrap();
    let drained = server.drain(Duration::from_secs(20)).await.unwrap();
    assert_eq!(drained.ended + drained.cut, 3);
    let mut changes = Vec::new();
    while let Ok(event) = heard.try_recv() {
        if let SessionEvent::LimitsChanged(change) = event {
            changes.push(change);
        }
    }
    let [change] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!((&change.before, &change.limits, change.ends), (&before, &denied, 3));
}

#[actix::test]
async fn what_becomes_of_a_listener_is_told_in_order() {
    let server = start(1);
    let mut heard = watch(&server).await;
    let listener = || Listener::tcp("127.0.0.1:0").name("second");
    let second = server.listen(listener()).await.unwrap();
    for _ in 0..2 {
        assert!(server.pause(second.id).await.unwrap());
    }
    assert!(server.resume(second.id).await.unwrap());
    server.replace_listener(second.id, listener().max_sessions(7)).await.unwrap();
    assert!(server.close_listener(second.id).await);
    let mut changes = Vec::new();
    while changes.last() != Some(&ListenerChange::Closed) {
        let event = within("an event", heard.recv()).await.expect("the watcher lives");
        let SessionEvent::Listener(event) = event else { panic!("{event:?}") };
        assert_eq!((event.listener, &event.local_addr), (second.id, &second.local_addr));
        changes.push(event.change);
    }
    use ListenerChange::{Closed, Opened, Paused, Replaced, Resumed};
    assert_eq!(changes, [Opened, Paused, Resumed, Replaced, Closed]);
    server.abort().await.unwrap();
}
