//! A server counts what its workers do, what its buffers hold, and how long sessions, turns and answers take.

mod support;

use std::time::{Duration, Instant};

use actix::Actor;
use actix_lines::{
    Line, LineContext, LineHandler, LineServer, Listener,
    control::{Histogram, Stats},
    limits::{Limits, Rate, RateLimit},
};
use support::{Echo, PATIENCE, Peer, Server, eventually, hold, pass, pause};

const SECOND: Duration = Duration::from_secs(1);
/// More than a socket takes.
const MUCH: usize = 16 * 1024 * 1024;

/// Does what a line says.
struct Told;

impl Actor for Told {
    type Context = LineContext<Self>;
}

impl LineHandler for Told {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        match line.text() {
            b"later" => ctx.wait_for(pass(20 * SECOND), |_, (), ctx| ctx.write("later\n")),
            b"much" => ctx.write(vec![b'x'; MUCH]),
            b"nothing" => {}
            b"block" => {
                hold(Duration::from_millis(30));
                ctx.write("blocked\n");
            }
            _ => ctx.write(&line),
        }
    }
}

fn told() -> LineServer<Told, impl Fn(&actix_lines::Connection) -> Told + Clone + Send + 'static> {
    LineServer::new(|_: &actix_lines::Connection| Told).on_current_arbiter()
}

async fn stats(server: &Server) -> Stats {
    server.handle.stats().await.expect("counters")
}

/// The bounds of the times that were measured, each as often as there were such.
fn bounds(histogram: &Histogram) -> Vec<Duration> {
    let counts = histogram.counts().iter().zip(histogram.bounds());
    counts.flat_map(|(count, bound)| std::iter::repeat_n(*bound, *count as usize)).collect()
}

async fn ask(peer: &mut Peer, line: &str, answer: &str) {
    peer.send(line.as_bytes()).await;
    peer.expect_later(answer.as_bytes()).await;
}

#[actix::test]
async fn an_answer_is_measured_from_the_read_until_the_kernel_has_its_last_byte() {
    pause();
    let listener = |name: &str| Listener::tcp("127.0.0.1:0").name(name);
    let builder = told().measure_answers(true).listen(listener("one")).unwrap().listen(listener("other")).unwrap();
    let server = Server::of(builder).await;
    let mut peer = server.connect().await;
    // What is not answered is no answer.
    peer.send(b"nothing\nnothing\nhel").await;
    ask(&mut peer, "lo\n", "hello\n").await;
    ask(&mut peer, "later\n", "later\n").await;
    let so_far = stats(&server).await.answer_times;
    assert_eq!(so_far.sum().as_secs(), 20, "the wait counts: {so_far:?}");
    assert_eq!(bounds(&so_far), [so_far.bounds()[0], 30 * SECOND]);

    // The peer does not read for a while.
    peer.send(b"much\n").await;
    eventually("an answer", async || stats(&server).await.outbox_bytes > 0).await;
    pass(7 * SECOND).await;
    assert_eq!(stats(&server).await.answer_times.count(), 2, "it is on its way");
    peer.send(b"more\n").await;
    let all = [vec![b'x'; MUCH], b"more\n".to_vec()].concat();
    peer.expect_later(&all).await;
    eventually("the end", async || stats(&server).await.outbox_bytes == 0).await;
    let stats = stats(&server).await;
    let times = &stats.answer_times;
    let took = times.sum() - 20 * SECOND;
    assert!(took >= 7 * SECOND, "{took:?}");
    // The line that came meanwhile belongs to no answer, or to one that began later.
    assert!((3..=4).contains(&times.count()), "{times:?}");
    let [one, other] = ["one", "other"].map(|name| &stats.listeners[&server.handle.listener(name).unwrap().id]);
    assert_eq!((&one.answer_times, other.answer_times.count()), (times, 0));
    server.handle.abort().await.unwrap();
}

#[actix::test]
async fn nothing_is_measured_that_nobody_asked_for() {
    pause();
    let server = Server::start(told()).await;
    let mut peer = server.connect().await;
    ask(&mut peer, "later\n", "later\n").await;
    assert_eq!(stats(&server).await.answer_times, Histogram::default());
    server.handle.abort().await.unwrap();
}

#[actix::test]
async fn a_session_is_counted_by_how_long_it_lasted() {
    pause();
    let mut server = Server::start(told()).await;
    for seconds in [0, 59, 599] {
        let mut peer = server.connect().await;
        ask(&mut peer, "hello\n", "hello\n").await;
        pass(seconds * SECOND).await;
        drop(peer);
        server.report().await;
    }
    let stats = stats(&server).await;
    let durations = &stats.session_durations;
    assert_eq!(bounds(durations)[1..], [60 * SECOND, 600 * SECOND], "{durations:?}");
    assert_eq!((durations.count(), durations.quantile(0.5)), (3, Some(60 * SECOND)));
    let (_, listener) = stats.listeners.first_key_value().expect("a listener");
    assert_eq!(listener.session_durations, *durations);
    server.end().await;
}

#[actix::test]
async fn a_worker_whose_sweep_is_late_says_by_how_much() {
    pause();
    let server = Server::start(told()).await;
    let mut peer = server.connect().await;
    ask(&mut peer, "hello\n", "hello\n").await;
    pass(2 * SECOND).await;
    let usual = stats(&server).await.workers.remove(0);
    assert!(usual.max_lag < SECOND / 10, "{usual:?}");
    ask(&mut peer, "hello\n", "hello\n").await;
    // As if something else had kept the thread.
    tokio::time::advance(5 * SECOND).await;
    eventually("the sweep", async || stats(&server).await.workers[0].max_lag > 4 * SECOND).await;
    pass(2 * SECOND).await;
    let worker = stats(&server).await.workers.remove(0);
    assert!(worker.max_lag > 4 * SECOND && worker.max_lag <= 5 * SECOND, "{worker:?}");
    assert!(worker.lag < SECOND / 10, "that was another one: {worker:?}");
    pass(125 * SECOND).await;
    let worker = stats(&server).await.workers.remove(0);
    assert!(worker.max_lag < SECOND / 10, "it is forgotten: {worker:?}");
    server.handle.abort().await.unwrap();
}

#[actix::test]
async fn turns_count_by_their_length_on_the_thread_of_their_session() {
    let begin = Instant::now();
    let server = Server::start(LineServer::new(|_| Told).workers(2)).await;
    let mut peers = [server.connect().await, server.connect().await];
    ask(&mut peers[0], "block\n", "blocked\n").await;
    ask(&mut peers[0], "block\n", "blocked\n").await;
    ask(&mut peers[1], "hello\n", "hello\n").await;
    // A turn is counted behind its answer.
    let mut both = stats(&server).await;
    eventually("the turns", async || {
        both = stats(&server).await;
        both.workers[0].turn_times.sum().max(both.workers[1].turn_times.sum()) >= Duration::from_millis(40)
    })
    .await;
    // However long a thread had to wait for a processor.
    let most = begin.elapsed();
    let workers = &both.workers;
    assert_eq!(workers.iter().map(|worker| worker.worker).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(workers.iter().map(|worker| worker.live).collect::<Vec<_>>(), [1, 1]);
    assert!(workers.iter().all(|worker| worker.turn_times.count() > 0), "{workers:?}");
    let slowest = workers.iter().max_by_key(|worker| worker.turn_times.sum()).unwrap();
    // To a tick of the coarse clock for each.
    assert!(slowest.turn_times.sum() <= most + Duration::from_millis(30), "{slowest:?}");
    assert!(slowest.turn_times.quantile(1.0) >= Some(Duration::from_millis(25)), "{slowest:?}");
    server.handle.abort().await.unwrap();

    let server = Server::start(LineServer::new(|_| Told).workers(1).slow_turn(None)).await;
    ask(&mut server.connect().await, "block\n", "blocked\n").await;
    assert_eq!(stats(&server).await.workers[0].turn_times, Histogram::default(), "nobody times them");
    server.handle.abort().await.unwrap();
}

#[actix::test]
async fn the_memory_of_buffers_counts_against_its_budget() {
    let limits = Limits::builder().memory_budget(Some(64 * 1024 * 1024)).build().unwrap();
    let mut server = Server::start(LineServer::new(|_| Echo).workers(2).limits(limits)).await;
    let mut peers = [server.connect().await, server.connect().await];
    for peer in &mut peers {
        peer.send(&[b'x'; 1000]).await;
    }
    eventually("all input", async || stats(&server).await.bytes_in == 2000).await;
    let so_far = stats(&server).await;
    assert!((2000..20_000).contains(&so_far.memory.bytes), "{:?}", so_far.memory);
    assert_eq!(so_far.memory.budget, Some(64 * 1024 * 1024));
    assert_eq!(so_far.workers.iter().map(|worker| worker.memory_bytes).sum::<u64>(), so_far.memory.bytes);
    drop(peers);
    server.report().await;
    server.report().await;
    assert_eq!(stats(&server).await.memory.bytes, 0);
    server.end().await;
}

#[actix::test]
async fn sessions_that_are_held_and_held_back_count_at_their_worker() {
    pause();
    let once = Some(Rate { per_second: 1, burst: 1 });
    let limits = Limits::builder().session_rate(RateLimit { lines: once, bytes: None }).build().unwrap();
    let server = Server::start(told().limits(limits)).await;
    let mut waits = server.connect().await;
    waits.send(b"later\n").await;
    let _idle = server.connect().await;
    let mut hurries = server.connect().await;
    hurries.send(b"one\ntwo\n").await;
    hurries.expect(b"one\n").await;
    eventually("both", async || stats(&server).await.held == 2).await;
    let stats = stats(&server).await;
    let worker = &stats.workers[0];
    assert_eq!((worker.live, worker.held, worker.throttled), (3, 2, stats.throttled));
    assert!(stats.throttled >= 1);
    assert_eq!(stats.listeners.values().map(|listener| listener.held).sum::<u64>(), 2);
    server.handle.drain(PATIENCE).await.unwrap();
}
