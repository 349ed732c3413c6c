//! Metrics are the counters of the server: the same numbers, that only grow, under few labels.

#[path = "support/exposition.rs"]
mod exposition;
mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_lines::{
    ConfigError, LineServer, Listener, Rot13,
    control::{Histogram, ListenerStats, Stats},
    limits::Limits,
    metrics::{Metrics, TextFormat, prometheus_client::metrics::gauge::Gauge},
    tls::{Pem, Tls},
};
use exposition::Exposition;
use support::{Peer, Server, eventually, greet, ip, pass, pause, seconds, talk};

const LISTENER: &str = "listener";

async fn scrape(metrics: &Metrics) -> Exposition {
    let open = Exposition::parse(&metrics.encode().await.expect("metrics"));
    assert!(open.has_end);
    open
}

fn named(name: &str) -> Listener {
    Listener::tcp("127.0.0.1:0").name(name)
}

fn assert_histogram(all: &Exposition, name: &str, label: (&str, &str), expected: &Histogram) {
    let mut sum = 0;
    let bounds = expected.bounds().iter().map(|bound| seconds(*bound).to_string()).chain(["+Inf".to_owned()]);
    let bounds: Vec<_> = bounds.collect();
    for (bound, count) in bounds.iter().zip(expected.counts()) {
        sum += count;
        let le = all.get(&format!("{name}_bucket"), &[label, ("le", bound)]);
        assert_eq!(le, Some(sum as f64), "{name} {bound}");
    }
    assert_eq!(all.get(&format!("{name}_count"), &[label]), Some(sum as f64));
    assert_eq!(all.get(&format!("{name}_sum"), &[label]), Some(seconds(expected.sum())));
}

fn assert_listener(all: &Exposition, name: &str, expected: &ListenerStats) {
    let label = (LISTENER, name);
    for (metric, value) in [
        ("sessions", expected.live),
        ("sessions_held", expected.held),
        ("prefaces", expected.prefaces),
        ("sessions_opened_total", expected.opened),
        ("received_lines_total", expected.lines_in),
        ("received_bytes_total", expected.bytes_in),
        ("sent_bytes_total", expected.bytes_out),
        ("unsent_bytes_total", expected.unsent_bytes),
        ("undelivered_bytes_total", expected.undelivered_bytes),
        ("outbox_bytes", expected.outbox_bytes),
    ] {
        assert_eq!(all.get(&format!("actix_lines_{metric}"), &[label]), Some(value as f64), "{name}: {metric}");
    }
    for (metric, counts) in [("sessions_closed", &expected.closed), ("connections_refused", &expected.refused)] {
        let metric = format!("actix_lines_{metric}_total");
        for (reason, count) in counts {
            assert_eq!(
                all.get(&metric, &[label, ("reason", reason)]),
                Some(*count as f64),
                "{name}: {metric} {reason}"
            );
        }
        let of_it = all
            .samples
            .iter()
            .filter(|((own, labels), _)| *own == metric && labels.contains(&(LISTENER.to_owned(), name.to_owned())));
        assert_eq!(of_it.map(|(_, value)| value).sum::<f64>(), counts.values().sum::<u64>() as f64, "{name}: {metric}");
    }
    assert_histogram(all, "actix_lines_session_duration_seconds", label, &expected.session_durations);
    if expected.answer_times.count() > 0 {
        assert_histogram(all, "actix_lines_answer_duration_seconds", label, &expected.answer_times);
    }
}

fn assert_workers(all: &Exposition, stats: &Stats) {
    assert!(!stats.workers.is_empty());
    for worker in &stats.workers {
        let number = worker.worker.to_string();
        let label = ("worker", &*number);
        for (metric, value) in [
            ("worker_sessions", worker.live),
            ("buffer_bytes", worker.memory_bytes),
            ("turns_cut_total", worker.turns_cut),
            ("slow_turns_total", worker.slow_turns),
            ("reads_throttled_total", worker.throttled),
        ] {
            assert_eq!(all.get(&format!("actix_lines_{metric}"), &[label]), Some(value as f64), "{metric}");
        }
        let of_it = |name: &str| all.get(&format!("actix_lines_{name}"), &[label]);
        assert_eq!(of_it("worker_max_lag_seconds"), Some(seconds(worker.max_lag)));
        assert_eq!(of_it("slow_turns_seconds_total"), Some(seconds(worker.slow_turn_time)));
        assert_histogram(all, "actix_lines_turn_duration_seconds", label, &worker.turn_times);
    }
}

/// Certificates for `localhost`, and when they expire.
fn tls() -> (Tls, SystemTime) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("parameters");
    params.not_after = rcgen::date_time_ymd(2120, 1, 1);
    let pem = params.self_signed(&key).expect("a certificate").pem();
    let tls = Tls::builder(Pem::bytes(pem.into_bytes()), Pem::bytes(key.serialize_pem().into_bytes())).build().unwrap();
    let expires = tls.expires().expect("its end");
    (tls, expires)
}

/// A server with all that there are metrics of, but for sessions.
async fn whole_server() -> Server {
    let limits = Limits::builder().max_sessions(100).memory_budget(Some(1 << 20)).build().unwrap();
    let server = LineServer::new(|_| Rot13).on_current_arbiter().limits(limits).measure_answers(true);
    let server = server.listen(named("public").max_sessions(2)).unwrap().listen(named("secure").tls(tls().0)).unwrap();
    Server::of(server.bind("127.0.0.1:0").unwrap()).await
}

#[actix::test]
async fn every_number_is_that_of_the_counters() {
    pause();
    let mut server = whole_server().await;
    let listeners = server.handle.listeners();
    let mut peers =
        vec![greet(ip(&listeners[0])).await, greet(ip(&listeners[0])).await, greet(ip(&listeners[2])).await];
    drop(Peer::connect(ip(&listeners[0])).await);
    pass(Duration::from_secs(90)).await;
    drop(peers.remove(0));
    server.report().await;
    peers[1].send(b"half of a line").await;
    let metrics = Metrics::new(&server.handle);
    eventually("a refusal", async || server.handle.stats().await.unwrap().refused.contains_key("listener-full")).await;
    pass(Duration::from_secs(3)).await;
    let all = scrape(&metrics).await;
    // Nothing happens any more, but for the turn of nobody.
    let stats = server.handle.stats().await.expect("counters");
    for (listener, name) in listeners.iter().zip(["public", "secure", "2"]) {
        assert_listener(&all, name, &stats.listeners[&listener.id]);
    }
    assert!(stats.listeners[&listeners[0].id].answer_times.count() > 0);
    assert_workers(&all, &stats);
    assert_eq!(all.sum("actix_lines_sessions"), stats.live as f64);
    assert_eq!(all.get("actix_lines_sessions_limit", &[]), Some(100.0));
    assert_eq!(all.get("actix_lines_listener_sessions_limit", &[(LISTENER, "public")]), Some(2.0));
    assert_eq!(all.get("actix_lines_buffer_budget_bytes", &[]), Some(1_048_576.0));
    assert!(stats.memory.bytes > 0);
    assert_eq!(all.get("actix_lines_events_lost_total", &[]), Some(0.0));
    assert_eq!(all.get("actix_lines_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), Some(1.0));
    // A first one would be no growth otherwise.
    assert_eq!(
        all.get("actix_lines_sessions_closed_total", &[(LISTENER, "secure"), ("reason", "handler-panicked")]),
        Some(0.0)
    );
    server.handle.abort().await.unwrap();
}

#[actix::test]
async fn a_pause_a_drain_and_the_expiry_of_certificates_are_seen() {
    let (tls, expires) = tls();
    let builder = LineServer::new(|_| Rot13).on_current_arbiter();
    let server = Server::of(builder.listen(named("secure").tls(tls)).unwrap().listen(named("plain")).unwrap()).await;
    let starttls = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let metrics = Metrics::new(&server.handle).certificate("mail", move || Some(starttls)).certificate("none", || None);
    let all = scrape(&metrics).await;
    let end = |name: &str| all.get("actix_lines_certificate_expiry_timestamp_seconds", &[(LISTENER, name)]);
    let expires = seconds(expires.duration_since(UNIX_EPOCH).unwrap());
    assert_eq!(["secure", "mail", "plain", "none"].map(end), [Some(expires), Some(4_000_000_000.0), None, None]);
    assert_eq!(all.get("actix_lines_listener_paused", &[(LISTENER, "plain")]), Some(0.0));
    assert_eq!(all.get("actix_lines_draining", &[]), Some(0.0));
    server.handle.pause(server.handle.listener("plain").unwrap().id).await.unwrap();
    assert_eq!(scrape(&metrics).await.get("actix_lines_listener_paused", &[(LISTENER, "plain")]), Some(1.0));
    server.handle.drain(Duration::ZERO).await.unwrap();
    assert_eq!(scrape(&metrics).await.get("actix_lines_draining", &[]), Some(1.0));
}

#[actix::test]
async fn no_counter_goes_back_and_no_listener_stays_for_ever() {
    let mut server = Server::of(LineServer::new(|_| Rot13).workers(2).listen(named("first")).unwrap()).await;
    let metrics = Metrics::new(&server.handle);
    let mut last = scrape(&metrics).await;
    let (mut kept, mut firsts) = (Vec::new(), Vec::new());
    for round in 0..40 {
        // Sessions of the first come and go.
        firsts.push(greet(server.address()).await);
        if round % 3 == 2 {
            firsts.clear();
            for _ in 0..3 {
                server.report().await;
            }
        }
        // Two names take turns, and every third listener has none.
        let listener = match round % 3 {
            0 => Listener::tcp("127.0.0.1:0"),
            1 => named("one"),
            _ => named("\"two\\\n"),
        };
        let listener = server.handle.listen(listener).await.expect("a listener");
        let mut peers = [greet(ip(&listener)).await, greet(ip(&listener)).await];
        talk(&mut peers[0]).await;
        let [one, other] = peers;
        drop(one);
        server.report().await;
        // Of every eighth a session stays.
        if round % 8 == 0 {
            kept.push(other);
        } else {
            drop(other);
            server.report().await;
        }
        let now = scrape(&metrics).await;
        for (series, value) in &now.samples {
            let (_, kind) = now.family(&series.0).expect("its family");
            let before = last.samples.get(series);
            // A name that another listener has now begins anew.
            let is_other = series.1.iter().any(|(_, value)| value == "one" || value == "\"two\\\n");
            if let Some(before) = before
                && kind != "gauge"
                && !is_other
            {
                assert!(value >= before, "{series:?} went from {before} to {value}");
            }
        }
        assert_eq!(now.sum("actix_lines_sessions"), (kept.len() + firsts.len()) as f64);
        assert!(server.handle.close_listener(listener.id).await);
        last = scrape(&metrics).await;
        let labels = last.values(LISTENER);
        assert!(labels.contains("first") && labels.len() <= 1 + kept.len() + 8, "{labels:?}");
    }
    assert_eq!(last.values("worker"), ["0", "1"].into());
    server.handle.abort().await.unwrap();
}

#[actix::test]
async fn names_are_escaped_and_labels_of_the_program_are_on_all_its_own() {
    let odd = "a \"name\",\\with\nall";
    let server = Server::of(LineServer::new(|_| Rot13).on_current_arbiter().listen(named(odd)).unwrap()).await;
    let mut metrics = Metrics::new(&server.handle).label("zone", "\"here\"\n").expect("a name");
    let own: Gauge = Gauge::default();
    metrics.registry().register("own", "One of the program", own.clone());
    own.set(7);
    for format in [TextFormat::OpenMetrics, TextFormat::Prometheus] {
        let all = Exposition::parse(&metrics.encode_as(format).await.unwrap());
        let labels = [("zone", "\"here\"\n"), (LISTENER, odd)];
        assert_eq!(all.get("actix_lines_sessions", &labels), Some(0.0));
        assert!(
            all.samples
                .keys()
                .all(|(name, labels)| name == "own" || labels.contains(&("zone".to_owned(), "\"here\"\n".to_owned())))
        );
        assert_eq!(all.get("own", &[]), Some(7.0));
        let process = all.samples.keys().filter(|(name, _)| name.starts_with("process_")).count();
        assert_eq!(process, if cfg!(target_os = "linux") { 7 } else { 0 });
    }
    let without = scrape(&Metrics::new(&server.handle).without_process()).await;
    assert!(!without.names().iter().any(|name| name.starts_with("process_")));
    server.handle.abort().await.unwrap();
}

#[actix::test]
async fn a_label_that_no_scraper_reads_is_an_error() {
    let server = Server::start(LineServer::new(|_| Rot13).on_current_arbiter()).await;
    for name in ["", "a b", "1st", "__name__", "zône", "listener", "le", "worker", "zone"] {
        let metrics = Metrics::new(&server.handle).label("zone", "here").expect("a name");
        let error = metrics.label(name, "x").expect_err(name);
        assert_eq!(error, ConfigError::Label { name: name.to_owned() });
        assert!(error.to_string().starts_with(&format!("{name:?} is no name for a label: use letters")), "{error}");
    }
    Metrics::new(&server.handle).label("_a1", "").expect("a name").label("B", "").expect("a name");
    server.end().await;
}

#[actix::test]
async fn both_formats_say_the_same() {
    let server = whole_server().await;
    let mut peer = greet(server.address()).await;
    talk(&mut peer).await;
    let metrics = Metrics::new(&server.handle).without_process();
    let open = scrape(&metrics).await;
    let plain = Exposition::parse(&metrics.encode_as(TextFormat::Prometheus).await.unwrap());
    assert!(!plain.has_end);
    assert_eq!(open.names(), plain.names());
    let differs = open.samples.keys().filter(|series| !plain.samples.contains_key(*series)).collect::<Vec<_>>();
    assert!(differs.is_empty() && open.samples.len() == plain.samples.len(), "{differs:?}");
    assert_eq!(Metrics::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    // Units are those of the names.
    for (name, (_, unit)) in &open.families {
        let has_unit = ["_seconds", "_bytes"].iter().any(|unit| name.ends_with(unit));
        assert_eq!(has_unit, unit.is_some(), "{name}");
    }
    server.handle.abort().await.unwrap();
}

#[actix::test]
async fn a_scrape_is_as_long_for_many_sessions_as_for_one() {
    let server = Server::start(LineServer::new(|_| Rot13).workers(2)).await;
    let metrics = Metrics::new(&server.handle).without_process();
    let mut peers = vec![greet(server.address()).await];
    let lines = async || metrics.encode().await.unwrap().lines().count();
    let one = lines().await;
    for _ in 0..200 {
        peers.push(greet(server.address()).await);
    }
    assert_eq!(scrape(&metrics).await.sum("actix_lines_sessions"), 201.0);
    assert_eq!(lines().await, one);
    server.handle.abort().await.unwrap();
}
