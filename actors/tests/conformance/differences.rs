//! Where the two differ on purpose, for the reasons in `docs/decisions/conformance.md`: the script's logs stand side by side,
//! so that a change of either is noticed.

use std::{os::unix::process::ExitStatusExt, process::Command, task::Poll, time::Duration};

use actix::{ActorContext, ActorFutureExt, AsyncContext, MailboxError, Running, System, fut::wrap_future};

use crate::{
    contexts::{Actix, Do, Kind, Lines, Log, Note, Probe, Run, Tell, after, differ, run, settle, sleep, soon},
    spawned::every_10_ms,
};

#[test]
fn a_session_lives_as_long_as_its_socket_whether_anybody_has_its_address_or_not() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe());
        settle().await;
        drop(address);
        settle().await;
        run.say("later");
    }
    differ!(
        script,
        actix: ["started Running", "stopping Running", "stopped Stopped", "dropped", "later"],
        lines: ["started Running", "later"]
    );
}

#[test]
fn a_wait_holds_every_future_the_first_one_too() {
    async fn script<K: Kind>(run: Run<K>) {
        let log = run.log.clone();
        let address = run.started(move |_, ctx| {
            let log = log.clone();
            ctx.spawn(wrap_future(std::future::poll_fn(move |_| {
                log.say("polled");
                Poll::Pending
            })));
        });
        settle().await;
        run.log.take();
        address.tell(|probe, ctx| {
            probe.say("asks for a wait");
            ctx.wait(after::<K>(10, |probe, ctx| {
                probe.say("waited");
                ctx.terminate();
            }));
        });
        settle().await;
    }
    differ!(
        script,
        actix: ["asks for a wait", "polled", "waited", "stopped Stopped", "dropped"],
        lines: ["asks for a wait", "waited", "stopped Stopped", "dropped"]
    );
}

#[test]
fn a_future_that_waits_is_itself_waiting() {
    async fn script<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            ctx.wait(soon::<K>(|probe, ctx| probe.say(format!("{}", ctx.waiting()))));
        });
        settle().await;
    }
    differ!(script, actix: ["started Running", "false"], lines: ["started Running", "true"]);
}

#[test]
fn a_wait_ends_by_its_deadline() {
    async fn script<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            // Nobody hears this message while the actor waits for its answer.
            let request = ctx.address().send(Note("never"));
            ctx.wait(wrap_future::<_, Probe<K>>(request).map(|_, probe, _| probe.say("never")));
        });
        sleep(60_000).await;
        run.say("a minute later");
    }
    differ!(
        script,
        actix: ["started Running", "a minute later"],
        lines: ["started Running", "stopping Stopping", "stopped Stopped", "dropped", "a minute later"]
    );
}

#[test]
fn a_wait_that_stops_its_actor_goes_on_after_a_veto() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe().vetoing_once().on_started(|_, ctx| {
            ctx.wait(soon::<K>(|_, ctx| ctx.stop()).then(|(), _, _| after::<K>(10, |probe, _| probe.say("waited"))));
        }));
        address.do_send(Note("message"));
        settle().await;
    }
    differ!(
        script,
        actix: ["started Running", "stopping Stopping", "message"],
        lines: ["started Running", "stopping Stopping", "waited", "message"]
    );
}

#[test]
fn terminate_cannot_be_vetoed() {
    async fn script<K: Kind>(run: Run<K>) {
        let mut asked = 0;
        let address = run.start(run.probe().on_stopping(move |_, ctx| {
            asked += 1;
            ctx.terminate();
            if asked == 1 { Running::Continue } else { Running::Stop }
        }));
        address.tell(|_, ctx| ctx.stop());
        settle().await;
    }
    differ!(
        script,
        actix: ["started Running", "stopping Stopping", "stopping Running", "stopped Stopped", "dropped"],
        lines: ["started Running", "stopping Stopping", "stopped Stopped", "dropped"]
    );
}

#[test]
fn a_cancelled_future_is_never_polled_not_even_once() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe());
        address.tell(|_, ctx| {
            let handle = ctx.spawn(soon::<K>(|probe, _| probe.say("polled")));
            ctx.cancel_future(handle);
        });
        settle().await;
    }
    differ!(script, actix: ["started Running", "polled"], lines: ["started Running"]);
}

#[test]
fn futures_keep_their_order_when_one_ends() {
    async fn script<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            ctx.spawn(after::<K>(10, |probe, _| probe.say("one")));
            ctx.spawn(every_10_ms::<K>("two", 2));
            ctx.spawn(every_10_ms::<K>("three", 2));
        });
        settle().await;
    }
    differ!(
        script,
        actix: ["started Running", "one", "three", "two", "three", "two"],
        lines: ["started Running", "one", "two", "three", "two", "three"]
    );
}

#[test]
fn what_futures_hold_is_gone_before_stopped() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.started(|probe, ctx| {
            let guard = probe.log.say_at_drop("its state dropped");
            ctx.spawn(after::<K>(5000, move |_, _| drop(guard)));
        });
        address.tell(|_, ctx| ctx.stop());
        settle().await;
    }
    differ!(
        script,
        actix: ["started Running", "stopping Stopping", "stopped Stopped", "dropped", "its state dropped"],
        lines: ["started Running", "stopping Stopping", "its state dropped", "stopped Stopped", "dropped"]
    );
}

#[test]
fn stopped_comes_when_the_connection_is_closed() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe());
        address.tell(|_, ctx| {
            // A session that wrote nothing has nothing to wait for.
            K::write(ctx, b"goodbye\n");
            ctx.stop();
        });
        let log = run.log.clone();
        actix_rt::spawn(async move { log.say("another task") });
        settle().await;
    }
    differ!(
        script,
        actix: ["started Running", "stopping Stopping", "stopped Stopped", "dropped", "another task"],
        lines: ["started Running", "stopping Stopping", "another task", "stopped Stopped", "dropped"]
    );
}

#[test]
fn a_flood_of_messages_is_handled_in_portions() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe());
        for _ in 0..100 {
            address.do_send(Note("message"));
        }
        let log = run.log.clone();
        actix_rt::spawn(async move { log.say("another task") });
        settle().await;
        let log = run.log.take();
        let before = log.iter().take_while(|text| *text != "another task").filter(|text| *text == "message").count();
        let all = log.iter().filter(|text| *text == "message").count();
        run.say(format!("{before} of {all}"));
    }
    differ!(script, actix: ["100 of 100"], lines: ["32 of 100"]);
}

#[test]
fn an_actor_that_notifies_itself_without_end_lets_others_live() {
    async fn script<K: Kind>(run: Run<K>) {
        fn again<K: Kind>(ctx: &mut K::Context, left: usize) {
            ctx.notify(Do::<K>::new(move |probe, ctx| {
                probe.say("message");
                if left > 1 {
                    again::<K>(ctx, left - 1);
                }
            }));
        }
        let _address = run.started(|_, ctx| again::<K>(ctx, 1000));
        let log = run.log.clone();
        actix_rt::spawn(async move { log.say("another task") });
        settle().await;
        let log = run.log.take();
        let before = log.iter().position(|text| text == "another task").unwrap_or(log.len());
        run.say(format!("all before another task: {}", before > 1000));
        run.say(format!("all: {}", log.len()));
    }
    differ!(
        script,
        actix: ["all before another task: true", "all: 1002"],
        lines: ["all before another task: false", "all: 1002"]
    );
}

#[test]
fn an_actor_that_never_ran_is_only_dropped() {
    fn lives<K: Kind>() -> Vec<String> {
        let log = Log::default();
        let system = System::new();
        // Nothing that is spawned runs before it ends.
        let _address = system.block_on(async { K::create(|_| Probe::<K>::new(&log)) });
        drop(system);
        log.take()
    }
    assert_eq!(lives::<Actix>(), ["started Stopping", "stopping Stopping", "stopped Stopped", "dropped"]);
    assert_eq!(lives::<Lines>(), ["dropped"]);
}

#[test]
fn the_end_of_an_arbiter_cannot_be_vetoed() {
    fn lives<K: Kind>() -> Vec<String> {
        let log = Log::default();
        let system = System::new();
        let _address = system.block_on(async {
            tokio::time::pause();
            let address = K::create(|_| Probe::<K>::new(&log).on_stopping(|_, _| Running::Continue));
            sleep(1).await;
            address
        });
        drop(system);
        log.take()
    }
    assert_eq!(lives::<Actix>(), ["started Running", "stopping Stopping", "dropped"]);
    assert_eq!(lives::<Lines>(), ["started Running", "stopping Stopping", "stopped Stopped", "dropped"]);
}

/// Panics once in the named place, then says what the sender of a message behind it is told.
async fn panics<K: Kind>(run: Run<K>, place: &'static str) {
    let fault = move |here: &str, probe: &Probe<K>| {
        if here == place && !std::thread::panicking() {
            probe.say("panics");
            panic!("a fault on purpose");
        }
    };
    let address = run.start(
        run.probe()
            .on_started(move |probe, ctx| {
                fault("started", probe);
                let name = move |name: &'static str| move |probe: &mut Probe<K>, _: &mut K::Context| fault(name, probe);
                match place {
                    "future" => {
                        ctx.spawn(after::<K>(5, name("future")));
                    }
                    "wait" => ctx.wait(after::<K>(5, name("wait"))),
                    "timer" => {
                        ctx.run_later(Duration::from_millis(5), name("timer"));
                    }
                    "notification" => ctx.notify(Do::<K>::new(name("notification"))),
                    _ => {}
                }
            })
            .on_stopping(move |probe, _| {
                fault("stopping", probe);
                Running::Stop
            })
            .on_stopped(move |probe, _| fault("stopped", probe)),
    );
    sleep(10).await;
    address.tell(move |probe, ctx| {
        fault("message", probe);
        ctx.stop();
    });
    let behind = address.send(Note("never"));
    settle().await;
    let is_told = matches!(behind.await, Err(MailboxError::Closed));
    run.say(format!("told: {is_told}, connected: {}", address.connected()));
}

#[test]
fn after_a_panic_no_hook_runs() {
    let end = "told: true, connected: false";
    for place in ["started", "message", "future", "wait", "timer", "notification"] {
        let actix = run::<Actix, _>(|run| panics(run, place));
        let expected = ["started Running", "panics", "stopping Stopping", "stopped Stopped", "dropped", end];
        assert_eq!(actix, expected, "a panic in {place}, on actix::Context");
        let lines = run::<Lines, _>(|run| panics(run, place));
        assert_eq!(lines, ["started Running", "panics", "dropped", end], "a panic in {place}, on LineContext");
    }
    let actix = run::<Actix, _>(|run| panics(run, "stopping"));
    let expected = ["started Running", "stopping Stopping", "panics", "stopping Stopping", "stopped Stopped"];
    assert_eq!(actix, [&expected[..], &["dropped", end]].concat());
    let lines = run::<Lines, _>(|run| panics(run, "stopping"));
    assert_eq!(lines, ["started Running", "stopping Stopping", "panics", "dropped", end]);
    // The last hook is the last on either.
    let expected = ["started Running", "stopping Stopping", "stopped Stopped", "panics", "dropped", end];
    assert_eq!(run::<Actix, _>(|run| panics(run, "stopped")), expected);
    assert_eq!(run::<Lines, _>(|run| panics(run, "stopped")), expected);
}

/// A message panics, and so does `stopped`.
async fn panics_twice<K: Kind>(run: Run<K>) {
    let address = run.start(run.probe().on_stopped(|_, _| panic!("a second fault on purpose")));
    address.tell(|_, _| panic!("a fault on purpose"));
    settle().await;
    assert!(!address.connected());
}

#[test]
fn two_panics_do_not_end_the_process() {
    const NAME: &str = "differences::two_panics_do_not_end_the_process";
    const KIND: &str = "CONFORMANCE_PANICS_ON";
    match std::env::var(KIND).as_deref() {
        Ok("actix") => drop(run::<Actix, _>(panics_twice)),
        Ok(_) => drop(run::<Lines, _>(panics_twice)),
        Err(_) => {
            let ends = |kind: &str| {
                let mut program = Command::new(std::env::current_exe().unwrap());
                program.args(["--exact", NAME]).env(KIND, kind).output().unwrap().status
            };
            const SIGABRT: i32 = 6;
            assert_eq!(ends("actix").signal(), Some(SIGABRT));
            assert!(ends("lines").success());
        }
    }
}
