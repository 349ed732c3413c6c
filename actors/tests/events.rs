//! Subscribers get the beginning and the end of each session, in batches that all subscribers share.

mod support;

use std::{collections::HashMap, ptr, sync::Arc};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use actix_lines::{
    CloseReport, Connection, LineServer, ServerHandle, SessionId,
    control::{SessionEvent, Subscribe},
};
use support::{Echo, PATIENCE, Peer, eventually, within};
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
) -> (oneshot::Sender<()>, Events) {
    let (events, heard) = mpsc::unbounded_channel();
    let (let_go, held) = oneshot::channel();
    let watcher = Watcher { events, held: Some(held), capacity: 1 }.start();
    server.supervisor().send(how(watcher.recipient())).await.unwrap();
    (let_go, heard)
}

async fn watch(server: &ServerHandle) -> Events {
    let (let_go, heard) = held_watcher(server, Subscribe::lossless).await;
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
    let (let_bounded_go, mut bounded) = held_watcher(&server, Subscribe::new).await;
    let (let_lossless_go, mut lossless) = held_watcher(&server, Subscribe::lossless).await;
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

fn count(event: &SessionEvent) -> u64 {
    match event {
        SessionEvent::Opened(sessions) => sessions.len() as u64,
        SessionEvent::Closed(reports) => reports.len() as u64,
        _ => 0,
    }
}
