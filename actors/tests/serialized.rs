//! What a server says of itself is the same as JSON: the names of the fields, times in seconds, addresses and reasons as texts.

mod support;

use std::time::Duration;

use actix_lines::{
    Address, Connection, LineServer, Listener, Rot13,
    control::{EventRef, SessionQuery, Stats},
    limits::{Limits, OverLimit},
};
use serde_json::{Value, json};
use support::{PATIENCE, Server, pass, pause, seconds};

fn of(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("JSON")
}

#[actix::test]
async fn sessions_counters_and_reports_have_the_names_of_their_fields() {
    pause();
    let listener = Listener::tcp("127.0.0.1:0").name("public");
    let builder = LineServer::new(|_| Rot13).on_current_arbiter().listen(listener).expect("a listener");
    let mut server = Server::of(builder).await;
    let mut peer = server.connect().await;
    peer.send(b"hello\n").await;
    peer.expect(b"uryyb\n").await;
    pass(Duration::from_millis(1500)).await;
    let page = server.handle.sessions(SessionQuery::default()).await.expect("a page");
    let [session] = page.sessions.as_slice() else { panic!("one session, not {page:?}") };
    let id = session.id.get();
    let json = of(&page);
    let expected = json!({
        "total": 1,
        "sessions": [{
            "id": id, "peer": session.peer.to_string(), "listener": "public", "worker": 0, "age": seconds(session.age),
            "idle": seconds(session.idle), "lines_in": 1, "bytes_in": 6, "bytes_out": 6, "outbox_bytes": 0, "state": "open",
        }],
    });
    assert_eq!(json, expected);
    assert!(json["sessions"][0]["age"].as_f64().is_some_and(|age| age >= 1.5), "{json}");
    assert_eq!(of(&server.handle.listeners())[0]["local_addr"], session_address(&server));

    drop(peer);
    let report = server.report().await;
    let json = of(&report);
    assert_eq!((&json["id"], &json["reason"], &json["cut"]), (&json!(id), &json!("peer-eof"), &json!(false)));
    assert_eq!(json["duration"].as_f64(), Some(seconds(report.duration)));

    let stats = of(&server.handle.stats().await.expect("counters"));
    assert_eq!((&stats["opened"], &stats["closed"]["peer-eof"]), (&json!(1), &json!(1)));
    assert_eq!(stats["listeners"]["public"]["bytes_out"], 6);
    assert_eq!(stats["slow_turn_time"], 0.0);
    assert_eq!(of(&Stats::default())["refused"], json!({}));
    server.handle.drain(PATIENCE).await.expect("a drain");
}

fn session_address(server: &Server) -> String {
    server.handle.local_addrs()[0].to_string()
}

#[actix::test]
async fn each_entry_of_an_event_is_an_object_whose_event_is_its_kind() {
    let listener = Listener::tcp("127.0.0.1:0").name("public");
    let limits = Limits::builder().max_sessions(1).over_limit(OverLimit::Refuse).build().expect("limits");
    let builder = LineServer::new(|_| Rot13).on_current_arbiter().limits(limits).listen(listener).expect("a listener");
    let mut server = Server::of(builder).await;
    let mut heard = server.events().await;
    let mut peer = server.connect().await;
    peer.send(b"hello\n").await;
    peer.expect(b"uryyb\n").await;
    let mut refused = server.connect().await;
    let refused_peer = refused.stream.local_addr().expect("an address").to_string();
    assert!(!refused.rest().await.is_empty(), "a refuse line");
    server.handle.pause(server.handle.listeners()[0].id).await.expect("a listener");
    server.handle.set_limits(Limits::default()).await.expect("limits");
    drop(peer);
    let report = server.report().await;
    server.handle.drain(PATIENCE).await.expect("a drain");
    let mut events = Vec::new();
    while let Ok(event) = heard.try_recv() {
        events.extend(event.entries().map(|entry| of(&entry)));
    }
    let of_kind =
        |kind: &str| events.iter().find(|event| event["event"] == kind).unwrap_or_else(|| panic!("{kind}: {events:?}"));
    assert_eq!((&of_kind("opened")["listener"], &of_kind("opened")["id"]), (&json!("public"), &json!(report.id.get())));
    assert_eq!((&of_kind("closed")["reason"], &of_kind("closed")["lines_in"]), (&json!("peer-eof"), &json!(1)));
    let address = session_address(&server);
    assert_eq!(
        *of_kind("refused"),
        json!({"event": "refused", "peer": refused_peer, "listener": "public", "reason": "max-sessions"})
    );
    assert_eq!(
        *of_kind("listener"),
        json!({"event": "listener", "change": "paused", "listener": "public", "local_addr": address})
    );
    assert_eq!(*of_kind("limits-changed"), json!({"event": "limits-changed", "ends": 0}));
    assert_eq!(of_kind("draining")["left"], 0);
    assert_eq!(of(&EventRef::Lost { count: 3 }), json!({"event": "lost", "count": 3}));
}

#[actix::test]
async fn a_connection_and_a_listener_without_a_name_are_texts_and_numbers() {
    let connection = Connection::between(std::net::SocketAddr::from(([192, 0, 2, 7], 1024)), Address::Memory);
    let id = connection.id().get();
    assert_eq!(of(&connection), json!({"id": id, "peer": "192.0.2.7:1024", "local": "memory", "listener": null}));
    let server = Server::of(LineServer::new(|_| Rot13).bind("127.0.0.1:0").expect("a listener")).await;
    assert_eq!(of(&server.handle.listeners())[0]["id"], "0");
    server.end().await;
}
