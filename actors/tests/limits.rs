//! C3, the numbers: a limit that cannot work is refused with its reason, and one at its least or its most works.

mod support;

use std::time::Duration;

use actix::Actor;
use actix_lines::{
    ConfigError, Framing, Line, LineContext, LineHandler, LineServer, LineSession, Prefix, Rot13, SourcePrefix,
    Transport,
    connect::{Backoff, Connector},
    control::SessionFilter,
    limits::{Limits, LimitsBuilder, OutboxLimit, OutboxPolicy, OverLimit, Rate, RateLimit, SoftLimit, Watermarks},
};
use support::{Server, pause, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const LONGEST: Duration = Duration::from_secs(24 * 24 * 3600);
const NANO: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);
const GIB: usize = 1 << 30;

fn outbox_limit(hard: usize, soft: Option<SoftLimit>) -> OutboxLimit {
    OutboxLimit { policy: OutboxPolicy::DropNewest, hard, soft }
}

#[test]
fn limits_that_cannot_work_are_refused_each_with_its_reason() {
    let soft = |bytes, time| Some(SoftLimit { bytes, time });
    let with = |change: &dyn Fn(LimitsBuilder) -> LimitsBuilder| change(Limits::builder()).build();
    for timeout in [Duration::ZERO, NANO, SECOND - NANO, LONGEST + NANO, Duration::MAX] {
        let some = Some(timeout);
        let named = |limit| Err(ConfigError::Timeout { limit, timeout });
        assert_eq!(with(&|limits| limits.idle_timeout(some)), named("idle timeout"));
        assert_eq!(with(&|limits| limits.line_timeout(some)), named("line timeout"));
        assert_eq!(with(&|limits| limits.write_timeout(some)), named("write timeout"));
        assert_eq!(with(&|limits| limits.max_age(some)), named("max age"));
        assert_eq!(with(&|limits| limits.preface_timeout(timeout)), named("preface timeout"));
        assert_eq!(with(&|limits| limits.wait_timeout(timeout)), Err(ConfigError::WaitTimeout { timeout }));
    }
    assert_eq!(with(&|limits| limits.max_prefaces(0)), Err(ConfigError::MaxPrefaces));
    assert!(with(&|limits| limits.max_prefaces(1)).is_ok());
    for time in [LONGEST + NANO, Duration::MAX] {
        let limit = "linger timeout";
        assert_eq!(with(&|limits| limits.linger_timeout(time)), Err(ConfigError::TooLong { limit, time }));
        let limit = "time above the soft limit of an outbox";
        let forgiving = outbox_limit(1 << 20, soft(1, time));
        assert_eq!(with(&|limits| limits.outbox_limit(forgiving)), Err(ConfigError::TooLong { limit, time }));
    }
    for (low, high) in [(0, 0), (1, 1), (2, 1), (usize::MAX, usize::MAX)] {
        let marks = Watermarks { low, high };
        assert_eq!(with(&|limits| limits.outbox(marks)), Err(ConfigError::Watermarks { low, high }));
    }
    for bytes in [GIB + 1, 1 << 32, usize::MAX] {
        let marks = Watermarks { low: 0, high: bytes };
        let limit = "high watermark of an outbox";
        assert_eq!(with(&|limits| limits.outbox(marks)), Err(ConfigError::OutboxBytes { limit, bytes }));
        let limit = "hard limit of an outbox";
        assert_eq!(
            with(&|limits| limits.outbox_limit(outbox_limit(bytes, None))),
            Err(ConfigError::OutboxBytes { limit, bytes })
        );
    }
    let high = Watermarks::default().high;
    for hard in [0, 1, high - 1] {
        assert_eq!(
            with(&|limits| limits.outbox_limit(outbox_limit(hard, None))),
            Err(ConfigError::HardLimit { hard, high })
        );
    }
    let marks = Watermarks { low: 0, high: (1 << 20) + 1 };
    assert_eq!(
        with(&|limits| limits.outbox(marks)),
        Err(ConfigError::HardLimit { hard: 1 << 20, high: (1 << 20) + 1 }),
        "the default of the one, and not of the other"
    );
    for soft_bytes in [high + 1, usize::MAX] {
        assert_eq!(
            with(&|limits| limits.outbox_limit(outbox_limit(high, soft(soft_bytes, SECOND)))),
            Err(ConfigError::SoftLimit { soft: soft_bytes, hard: high })
        );
    }
    assert_eq!(with(&|limits| limits.max_sessions(0)), Err(ConfigError::MaxSessions));
    assert_eq!(with(&|limits| limits.max_sessions_per_source(0)), Err(ConfigError::MaxSessionsPerSource));
    for (v4, v6) in [(33, 0), (0, 129), (255, 255)] {
        let prefix = SourcePrefix { v4, v6 };
        assert_eq!(with(&|limits| limits.source_prefix(prefix)), Err(ConfigError::SourcePrefix { v4, v6 }));
    }
    for (per_second, burst) in [(0, 1), (1, 0), (0, 0)] {
        let rate = Some(Rate { per_second, burst });
        let named = |limit| Err(ConfigError::Rate { limit });
        assert_eq!(with(&|limits| limits.accept_rate(rate)), named("accept rate"));
        assert_eq!(with(&|limits| limits.accept_rate_per_source(rate)), named("accept rate per source"));
        let session = RateLimit { bytes: rate, lines: None };
        assert_eq!(with(&|limits| limits.session_rate(session)), named("session rate"));
    }
    assert_eq!(with(&|limits| limits.refuse_line(vec![b'x'; 1025])), Err(ConfigError::RefuseLine { bytes: 1025 }));
    for bytes in [0, 1, (1 << 20) - 1] {
        assert_eq!(with(&|limits| limits.memory_budget(Some(bytes))), Err(ConfigError::MemoryBudget { bytes }));
    }
    for bytes in [0, Framing::MAX_LINE_LIMIT + 1, usize::MAX] {
        assert_eq!(Framing::lf().max_line(bytes), Err(ConfigError::MaxLine { bytes }));
    }
}

#[test]
fn a_limit_that_is_refused_says_what_to_write_instead() {
    let mapped = "::ffff:10.0.0.0/8".parse::<Prefix>().unwrap_err();
    for (error, words) in [
        (ConfigError::WaitTimeout { timeout: Duration::ZERO }, "wait timeout is 0ns: use 1 s to 24 days"),
        (ConfigError::TooLong { limit: "linger timeout", time: 25 * DAY }, "2160000s: use at most 24 days"),
        (ConfigError::OutboxBytes { limit: "high watermark of an outbox", bytes: 1 << 32 }, "use at most 1 GiB"),
        (ConfigError::HardLimit { hard: 5, high: 6 }, "5 bytes, under its high watermark of 6: use that much or more"),
        (ConfigError::SoftLimit { soft: 6, hard: 5 }, "6 bytes, over its hard limit of 5: use that much or less"),
        (mapped, "write a network of IPv4 as 10.0.0.0/8"),
    ] {
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// The least and the most of everything.
fn edges() -> [LimitsBuilder; 2] {
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    let least = Limits::builder()
        .max_sessions(1)
        .max_sessions_per_source(1)
        .source_prefix(SourcePrefix { v4: 0, v6: 0 })
        .accept_rate(rate(1, 1))
        .accept_rate_per_source(rate(1, 1))
        .over_limit(OverLimit::Refuse)
        .refuse_line("")
        .memory_budget(Some(1 << 20))
        .outbox(Watermarks { low: 0, high: 1 })
        .outbox_limit(outbox_limit(1, Some(SoftLimit { bytes: 0, time: SECOND })))
        .linger_timeout(Duration::ZERO)
        .linger_bytes(0)
        .wait_timeout(SECOND)
        .idle_timeout(Some(SECOND))
        .line_timeout(Some(SECOND))
        .write_timeout(Some(SECOND))
        .max_age(Some(SECOND))
        .session_rate(RateLimit { bytes: rate(1, 100), lines: rate(1, 1) });
    let (most, burst) = (rate(u32::MAX, u32::MAX), rate(1, u32::MAX));
    let most = Limits::builder()
        .max_sessions(usize::MAX)
        .max_sessions_per_source(usize::MAX)
        .source_prefix(SourcePrefix { v4: 32, v6: 128 })
        .accept_rate(most)
        .accept_rate_per_source(burst)
        .refuse_line(vec![b'x'; 1024])
        .memory_budget(Some(usize::MAX))
        .outbox(Watermarks { low: GIB - 1, high: GIB })
        .outbox_limit(outbox_limit(GIB, Some(SoftLimit { bytes: GIB, time: LONGEST })))
        .linger_timeout(LONGEST)
        .linger_bytes(u32::MAX)
        .wait_timeout(LONGEST)
        .idle_timeout(Some(LONGEST))
        .line_timeout(Some(LONGEST))
        .write_timeout(Some(LONGEST))
        .max_age(Some(LONGEST))
        .session_rate(RateLimit { bytes: most, lines: burst });
    [least, most]
}

#[actix::test]
async fn limits_at_their_least_and_their_most_serve_a_session() {
    // A second is short on a machine that is busy; on this clock nothing but waiting takes time.
    pause();
    for (limits, max_line) in edges().into_iter().zip([1, Framing::MAX_LINE_LIMIT]) {
        let framing = Framing::lf().max_line(max_line).unwrap();
        let limits = limits.build().unwrap();
        let mut server =
            Server::start(LineServer::new(|_| Rot13).limits(limits).framing(framing).on_current_arbiter().backlog(1))
                .await;
        let mut peer = server.connect().await;
        peer.send(b"a\n").await;
        peer.expect(b"n\n").await;
        let all = SessionFilter::default();
        assert_eq!(within("a push", server.handle.push(all, "x")).await.unwrap().sessions, 1);
        peer.expect(b"x").await;
        peer.shutdown_write().await;
        peer.expect_eof().await;
        drop(peer);
        assert_eq!(server.report().await.bytes_in, 2);
        server.end().await;
    }
}

#[actix::test]
async fn a_session_without_a_linger_gives_its_answers_and_closes_at_once() {
    pause();
    let limits = Limits::builder().linger_timeout(Duration::ZERO).build().unwrap();
    let (ours, mut theirs) = tokio::io::duplex(1024);
    let (closed, when_closed) = oneshot::channel();
    LineSession::new(Transport::new(ours)).limits(limits.clone()).start(Stopping(Some(closed)));
    theirs.write_all(b"stop\n").await.unwrap();
    let mut got = Vec::new();
    theirs.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"stop\n");
    // The peer does not close, and the clock is paused: half a second is what two sweeps take, to a timer's millisecond.
    let begin = tokio::time::Instant::now();
    within("the close", when_closed).await.unwrap();
    assert!(begin.elapsed() <= Duration::from_millis(502), "{:?}", begin.elapsed());
}

/// Stops after a line.
struct Stopping(Option<oneshot::Sender<()>>);

impl Actor for Stopping {
    type Context = LineContext<Self>;
}

impl LineHandler for Stopping {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        actix::ActorContext::stop(ctx);
    }

    fn closed(&mut self, _: &actix_lines::CloseReport) {
        let _ = self.0.take().map(|closed| closed.send(()));
    }
}

/// Sets a outbox limit of its own, and says what came of it.
struct Own(OutboxLimit, Option<oneshot::Sender<Result<(), ConfigError>>>);

impl Actor for Own {
    type Context = LineContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let result = ctx.set_outbox_limit(self.0);
        let _ = self.1.take().map(|said| said.send(result));
    }
}

impl LineHandler for Own {
    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
}

#[actix::test]
async fn an_outbox_limit_of_a_sessions_own_is_checked_whatever_the_watermarks_are() {
    let high = 1000;
    let limits = Limits::builder().outbox(Watermarks { low: 10, high }).build().unwrap();
    let limit = "hard limit of an outbox";
    for (own, expected) in [
        (outbox_limit(high - 1, None), Ok(())),
        (outbox_limit(GIB + 1, None), Err(ConfigError::OutboxBytes { limit, bytes: GIB + 1 })),
        (
            outbox_limit(high, Some(SoftLimit { bytes: high + 1, time: SECOND })),
            Err(ConfigError::SoftLimit { soft: high + 1, hard: high }),
        ),
    ] {
        let (said, heard) = oneshot::channel();
        let (ours, _theirs) = tokio::io::duplex(1024);
        LineSession::new(Transport::new(ours)).limits(limits.clone()).start(Own(own, Some(said)));
        assert_eq!(within("the session to begin", heard).await.unwrap(), expected, "{own:?}");
    }
}

#[actix::test]
async fn a_connector_at_its_least_and_its_most_connects() {
    pause();
    let server = Server::start(LineServer::new(|_| Rot13).on_current_arbiter()).await;
    let (least, most) = (Duration::from_millis(1), LONGEST);
    for (backoff, keepalive, limits) in [
        (Backoff { initial: least, factor: 1, max: least }, SECOND, &edges()[0]),
        (Backoff { initial: most, factor: u32::MAX, max: most }, 9 * 3600 * SECOND, &edges()[1]),
    ] {
        let connector = Connector::builder(server.address().to_string(), |_, _| Rot13)
            .connect_timeout(most)
            .backoff(backoff)
            .keepalive(Some(keepalive))
            .max_attempts(u32::MAX)
            .limits(limits.clone().build().unwrap())
            .start()
            .unwrap();
        let session = connector.send(actix_lines::connect::GetSession::when_connected());
        within("a session", session).await.unwrap().expect("it connects");
        let end = connector.send(actix_lines::connect::Disconnect::within(Duration::MAX));
        within("its end", end).await.unwrap().expect("a report");
    }
}
