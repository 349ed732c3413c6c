//! Whoever looks by HTTP costs a bounded amount: of events, of memory, of guesses. On tokio's paused clock, without sockets.

mod support;

use std::{future::poll_fn, pin::Pin, time::Duration};

use actix_lines::{LineServer, Rot13, Token, control::SessionFilter, http::Admin};
use actix_web::{
    App, Error,
    body::{BoxBody, MessageBody},
    dev::{Service, ServiceResponse},
    http::header,
    test::{self, TestRequest},
};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use serde_json::Value;
use support::{CASES, Server, pass, pause, within};

const TOKEN: &str = "correct-horse-battery-staple";

async fn server() -> Server {
    Server::start(LineServer::new(|_| Rot13).on_current_arbiter()).await
}

/// A request for events.
fn look() -> TestRequest {
    TestRequest::get().uri("/events").insert_header((header::HOST, "localhost"))
}

/// A viewer that reads when it is told to.
struct Viewer(Pin<Box<BoxBody>>);

impl Viewer {
    fn of(response: Result<ServiceResponse<BoxBody>, Error>) -> Self {
        let response = response.expect("a response");
        assert_eq!(response.status(), 200);
        Self(Box::pin(response.into_body()))
    }

    /// The next part of the answer.
    async fn next(&mut self) -> String {
        let part = within("an event", poll_fn(|cx| self.0.as_mut().poll_next(cx))).await;
        let part = part.expect("the events go on").expect("no error");
        String::from_utf8(part.to_vec()).expect("UTF-8")
    }

    /// The number of the next event, which comes alone.
    async fn number(&mut self) -> u64 {
        let event = self.next().await;
        let number = event.strip_prefix("id: ").and_then(|event| event.split_once("\nevent: server\ndata: {"));
        number.and_then(|(number, _)| number.parse().ok()).unwrap_or_else(|| panic!("no event: {event}"))
    }
}

#[actix::test]
async fn an_event_is_made_once_a_second_for_all_viewers_and_none_while_nobody_looks() {
    pause();
    let server = server().await;
    let admin = Admin::new(&server.handle);
    let service = test::init_service(App::new().configure(admin.routes())).await;
    let mut viewers = Vec::new();
    for _ in 0..20 {
        viewers.push(Viewer::of(service.call(look().to_request()).await));
    }
    let begin = tokio::time::Instant::now();
    for second in 1..=5 {
        for viewer in &mut viewers {
            assert_eq!(viewer.number().await, second);
        }
        assert_eq!(begin.elapsed().as_secs(), second - 1);
    }
    // One that comes later sees the newest at once.
    let mut late = Viewer::of(service.call(look().to_request()).await);
    assert_eq!((late.number().await, begin.elapsed().as_secs()), (5, 4));
    drop((viewers, late));
    pass(Duration::from_secs(100)).await;
    let mut first = Viewer::of(service.call(look().to_request()).await);
    assert_eq!(first.number().await, 6);
    server.end_all().await;
}

#[actix::test]
async fn a_viewer_that_does_not_read_loses_events_and_is_told_how_many() {
    pause();
    let server = server().await;
    let admin = Admin::new(&server.handle);
    let service = test::init_service(App::new().configure(admin.routes())).await;
    let mut slow = Viewer::of(service.call(look().to_request()).await);
    let mut quick = Viewer::of(service.call(look().to_request()).await);
    assert_eq!((slow.number().await, quick.number().await), (1, 1));
    for second in 2..=100 {
        assert_eq!(quick.number().await, second);
    }
    let event = slow.next().await;
    assert!(event.starts_with("event: lost\ndata: {\"events\":98}\n\nid: 100\nevent: server\ndata: {"), "{event}");
    assert_eq!((slow.number().await, quick.number().await), (101, 101));
    server.end_all().await;
}

#[actix::test]
async fn an_event_has_no_more_than_a_hundred_ends_and_says_how_many_there_were() {
    pause();
    let server = server().await;
    let admin = Admin::new(&server.handle);
    let service = test::init_service(App::new().configure(admin.routes())).await;
    let mut viewer = Viewer::of(service.call(look().to_request()).await);
    viewer.number().await;
    let mut peers = Vec::new();
    for _ in 0..130 {
        let mut peer = server.connect().await;
        peer.send(b"a\n").await;
        peer.expect(b"n\n").await;
        peers.push(peer);
    }
    assert_eq!(server.handle.kick(SessionFilter::default(), "").await.unwrap(), 130);
    drop(peers);
    let (mut ends, mut left_out) = (0, 0);
    // One a second on the paused clock: none of the ends is told later than that.
    for _ in 0..10 {
        let event = viewer.next().await;
        let data = event.split("\ndata: ").nth(1).expect("data");
        let data: Value = serde_json::from_str(data).expect("JSON");
        let some = data["ends"].as_array().expect("a list").len() as u64;
        assert!(some <= 100, "{some}");
        ends += some;
        left_out += data["ends_left_out"].as_u64().expect("a number");
    }
    assert_eq!(ends + left_out, 130);
    server.end_all().await;
}

#[actix::test]
async fn each_guess_of_a_token_takes_a_second() {
    pause();
    let server = server().await;
    let admin = Admin::new(&server.handle).control(Token::new(TOKEN).expect("a token"));
    let service = test::init_service(App::new().configure(admin.routes())).await;
    let begin = tokio::time::Instant::now();
    for guess in 1..=10 {
        let request = TestRequest::post()
            .uri("/api/kick")
            .insert_header((header::HOST, "localhost"))
            .insert_header((header::CONTENT_TYPE, "application/json"))
            .insert_header((header::AUTHORIZATION, format!("Bearer {guess:016}")))
            .set_payload("{\"q\": \"all\"}");
        let response = within("an answer", service.call(request.to_request())).await.expect("a response");
        assert_eq!((response.status().as_u16(), begin.elapsed().as_secs()), (401, guess));
    }
    server.end_all().await;
}

#[actix::test]
async fn whatever_is_asked_for_is_answered_with_a_page_or_with_what_is_wrong() {
    let server = server().await;
    let admin = Admin::new(&server.handle);
    let service = test::init_service(App::new().configure(admin.routes())).await;
    let mut peer = server.connect().await;
    peer.send(b"a\n").await;
    peer.expect(b"n\n").await;
    let word = prop_oneof![
        "(all|#?[0-9]{1,25}|peer|listener|state|age|idle|outbox|sort|limit|offset)?[=>]{0,2}[a-z0-9./:#]{0,12}",
        "\\PC{0,20}",
        ".{0,20}",
        Just("peer=127.0.0.0/8".to_owned()),
        Just("state=open".to_owned()),
        Just("listener=0".to_owned()),
        Just("age>0s".to_owned()),
        Just("outbox>=0".to_owned()),
    ];
    let name = prop_oneof![Just("q".to_owned()), "q|sort|limit|offset", ".{0,5}"];
    let parameters = proptest::collection::vec((name, proptest::collection::vec(word, 0..4)), 0..3);
    let mut runner = TestRunner::new(Config::default());
    let mut pages = 0;
    for _ in 0..CASES * 4 {
        let parameters = parameters.new_tree(&mut runner).expect("parameters").current();
        let parameters: Vec<_> = parameters.into_iter().map(|(name, words)| (name, words.join(" "))).collect();
        let query = url_encoded(&parameters);
        let request =
            TestRequest::get().uri(&format!("/api/sessions?{query}")).insert_header((header::HOST, "localhost"));
        let response = within("an answer", service.call(request.to_request())).await.expect("a response");
        let status = response.status().as_u16();
        let body: Value = test::read_body_json(response).await;
        match status {
            200 => {
                let listed = body["sessions"].as_array().expect("a list").len() as u64;
                assert!(
                    body["total"].as_u64().is_some_and(|total| listed <= total && total <= 1),
                    "{parameters:?}: {body}"
                );
                pages += 1;
            }
            400 => {
                let texts = [&body["error"], &body["word"]].map(|text| text.as_str().expect("a text"));
                assert!(!texts[0].is_empty(), "{parameters:?}: {body}");
                assert!(!texts.iter().any(|text| text.chars().any(char::is_control)), "{parameters:?}: {body}");
            }
            status => panic!("{status} for {parameters:?}: {body}"),
        }
    }
    assert!(pages > 0);
    server.end_all().await;
}

fn url_encoded(parameters: &[(String, String)]) -> String {
    let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let pairs = parameters.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}
