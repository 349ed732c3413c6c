//! Spawned futures, timers and intervals, and how they are cancelled.

use std::time::Duration;

use actix::{
    ActorContext, ActorFuture, ActorFutureExt, ActorStreamExt, AsyncContext, SpawnHandle, fut::wrap_future,
    fut::wrap_stream,
};
use futures::StreamExt;

use crate::contexts::{Do, Kind, Note, Probe, Run, Tell, after, agree, settle, sleep, soon};

/// A future that says `text` so many times, and does not end.
pub(crate) fn every_10_ms<K: Kind>(
    text: &'static str,
    times: usize,
) -> impl ActorFuture<Probe<K>, Output = ()> + 'static {
    let ticks = futures::stream::unfold((), |()| async {
        sleep(10).await;
        Some(((), ()))
    });
    let ticks = wrap_stream::<_, Probe<K>>(ticks.take(times).chain(futures::stream::pending()));
    ticks.map(move |(), probe: &mut Probe<K>, _| probe.say(text)).finish()
}

#[test]
fn futures_are_polled_in_the_order_in_which_they_were_spawned() {
    async fn script<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            for text in ["one", "two", "three"] {
                ctx.spawn(every_10_ms::<K>(text, 2));
            }
        });
        settle().await;
    }
    agree!(script, ["started Running", "one", "two", "three", "one", "two", "three"]);
}

#[test]
fn what_a_future_spawns_runs_in_the_same_turn() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.started(|_, ctx| {
            ctx.spawn(soon::<K>(|probe, ctx| {
                probe.say("outer");
                ctx.spawn(soon::<K>(|probe, ctx| {
                    probe.say("inner");
                    ctx.spawn(soon::<K>(|probe, _| probe.say("innermost")));
                }));
            }));
        });
        let log = run.log.clone();
        actix_rt::spawn(async move { log.say("another task") });
        address.do_send(Note("message"));
        settle().await;
    }
    agree!(script, ["started Running", "message", "outer", "inner", "innermost", "another task"]);
}

#[test]
fn a_handle_is_known_to_its_future_and_is_no_other_s() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.started(|probe, ctx| {
            assert_eq!(K::handle(ctx), SpawnHandle::default());
            let first = ctx.spawn(after::<K>(10, |probe, ctx| {
                probe.say(format!("own: {}", K::handle(ctx) == probe.handle));
            }));
            let second = ctx.spawn(soon::<K>(move |probe, ctx| {
                probe.say(format!("own: {}", K::handle(ctx) != first && K::handle(ctx) != SpawnHandle::default()));
            }));
            assert!(first != second && first != SpawnHandle::default() && second != SpawnHandle::default());
            probe.handle = first;
        });
        settle().await;
        address.tell(|probe, ctx| {
            probe.say(format!("none: {}", K::handle(ctx) == SpawnHandle::default()));
        });
        settle().await;
    }
    agree!(script, ["started Running", "own: true", "own: true", "none: true"]);
}

#[test]
fn a_cancelled_future_is_dropped_and_never_polled_again() {
    async fn from_started<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            let handle = ctx.spawn(soon::<K>(|probe, _| probe.say("never")));
            ctx.cancel_future(handle);
            ctx.spawn(soon::<K>(|probe, _| probe.say("other")));
        });
        settle().await;
    }
    async fn from_a_message<K: Kind>(run: Run<K>) {
        let address = run.started(|probe, ctx| {
            let guard = probe.log.say_at_drop("its state dropped");
            probe.handle = ctx.spawn(after::<K>(20, move |probe, _| {
                let _guard = guard;
                probe.say("never");
            }));
            ctx.spawn(after::<K>(20, |probe, _| probe.say("other")));
        });
        sleep(10).await;
        address.tell(|probe, ctx| {
            ctx.cancel_future(probe.handle);
        });
        settle().await;
    }
    async fn from_a_future_before_it<K: Kind>(run: Run<K>) {
        let _address = run.started(|probe, ctx| {
            ctx.spawn(after::<K>(10, |probe, ctx| {
                probe.say("cancels");
                ctx.cancel_future(probe.handle);
            }));
            ctx.spawn(after::<K>(15, |probe, _| probe.say("between")));
            probe.handle = ctx.spawn(after::<K>(20, |probe, _| probe.say("never")));
        });
        settle().await;
    }
    async fn from_a_future_behind_it<K: Kind>(run: Run<K>) {
        let _address = run.started(|probe, ctx| {
            probe.handle = ctx.spawn(after::<K>(20, |probe, _| probe.say("never")));
            ctx.spawn(after::<K>(10, |probe, ctx| {
                probe.say("cancels");
                ctx.cancel_future(probe.handle);
            }));
        });
        settle().await;
    }
    async fn from_itself<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            ctx.spawn(wrap_future::<_, Probe<K>>(sleep(10)).then(|(), probe: &mut Probe<K>, ctx: &mut K::Context| {
                probe.say("cancels");
                ctx.cancel_future(K::handle(ctx));
                after::<K>(10, |probe, _| probe.say("never"))
            }));
            ctx.spawn(after::<K>(30, |probe, _| probe.say("other")));
        });
        settle().await;
    }
    async fn from_a_wait<K: Kind>(run: Run<K>) {
        let _address = run.started(|probe, ctx| {
            // Pending still when its turn comes: see the differences for the other case.
            probe.handle = ctx.spawn(after::<K>(30, |probe, _| probe.say("never")));
            ctx.wait(after::<K>(20, |probe, ctx| {
                probe.say("cancels");
                ctx.cancel_future(probe.handle);
            }));
        });
        settle().await;
    }
    agree!(from_started, ["started Running", "other"]);
    agree!(from_a_message, ["started Running", "its state dropped", "other"]);
    agree!(from_a_future_before_it, ["started Running", "cancels", "between"]);
    agree!(from_a_future_behind_it, ["started Running", "cancels"]);
    agree!(from_itself, ["started Running", "cancels", "other"]);
    agree!(from_a_wait, ["started Running", "cancels"]);
}

#[test]
fn a_future_spawned_in_this_very_turn_can_be_cancelled() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.started(|_, ctx| {
            // Something that is pending and polled first: see the differences for the other case.
            ctx.spawn(wrap_future(std::future::pending()));
        });
        address.tell(|_, ctx| {
            let handle = ctx.spawn(soon::<K>(|probe, _| probe.say("never")));
            ctx.cancel_future(handle);
            let timer = ctx.run_later(Duration::ZERO, |probe, _| probe.say("never"));
            ctx.cancel_future(timer);
        });
        settle().await;
    }
    agree!(script, ["started Running"]);
}

#[test]
fn a_cancelled_future_is_dropped_after_the_handler_that_cancels_it() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.started(|probe, ctx| {
            let guard = probe.log.say_at_drop("its state dropped");
            probe.handle = ctx.spawn(wrap_future(async move {
                let _guard = guard;
                std::future::pending().await
            }));
        });
        sleep(10).await;
        address.tell(|probe, ctx| {
            ctx.cancel_future(probe.handle);
            probe.say("cancelled");
        });
        settle().await;
    }
    agree!(script, ["started Running", "cancelled", "its state dropped"]);
}

#[test]
fn to_cancel_is_always_fine() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.started(|probe, ctx| {
            probe.handle = ctx.spawn(soon::<K>(|probe, _| probe.say("finished")));
        });
        sleep(10).await;
        let cancel = || {
            Do::<K>::new(|probe, ctx| {
                // Finished, then finished and cancelled, then one that never was.
                probe.say(format!("{}", ctx.cancel_future(probe.handle)));
                probe.say(format!("{}", ctx.cancel_future(probe.handle)));
                probe.say(format!("{}", ctx.cancel_future(SpawnHandle::default())));
                let handle = ctx.spawn(wrap_future(std::future::pending()));
                ctx.spawn(soon::<K>(move |probe, ctx| {
                    probe.say(format!("{}", ctx.cancel_future(handle)));
                    probe.say(format!("{}", ctx.cancel_future(handle)));
                }));
            })
        };
        address.send(cancel()).await.unwrap();
        address.send(cancel()).await.unwrap();
        settle().await;
        address.do_send(Note("lives"));
        settle().await;
    }
    let once = ["true"; 5];
    let expected = [&["started Running", "finished"][..], &once, &once, &["lives"]].concat();
    agree!(script, expected);
}

#[test]
fn timers_fire_in_the_order_of_their_times() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.started(|probe, ctx| {
            ctx.run_later(Duration::from_millis(30), |probe, _| probe.say("30 ms"));
            let start = tokio::time::Instant::now() + Duration::from_millis(40);
            ctx.run_interval_at(start, Duration::from_millis(600), |probe, _| probe.say("40 ms and each 600 ms"));
            ctx.notify_later(Note("20 ms"), Duration::from_millis(20));
            ctx.run_later(Duration::from_millis(10), |probe, _| probe.say("10 ms"));
            ctx.run_later(Duration::ZERO, |probe, _| probe.say("0 ms"));
            probe.handle = ctx.notify_later(Note("never"), Duration::from_millis(25));
        });
        address.tell(|probe, ctx| {
            ctx.cancel_future(probe.handle);
        });
        settle().await;
    }
    agree!(
        script,
        ["started Running", "0 ms", "10 ms", "20 ms", "30 ms", "40 ms and each 600 ms", "40 ms and each 600 ms"]
    );
}

#[test]
fn an_interval_goes_on_until_it_is_cancelled_and_catches_up_after_a_wait() {
    async fn script<K: Kind>(run: Run<K>) {
        let _address = run.started(|probe, ctx| {
            let begin = tokio::time::Instant::now();
            let mut ticks = 0;
            probe.handle = ctx.run_interval(Duration::from_millis(10), move |probe, ctx| {
                ticks += 1;
                // Tokio's timers have a grain of a millisecond.
                probe.say(format!("tick {ticks} at {} ms", begin.elapsed().as_millis() / 5 * 5));
                match ticks {
                    2 => ctx.wait(after::<K>(25, |probe, _| probe.say("waited"))),
                    5 => {
                        ctx.cancel_future(K::handle(ctx));
                    }
                    _ => {}
                }
            });
        });
        settle().await;
    }
    agree!(
        script,
        [
            "started Running",
            "tick 1 at 10 ms",
            "tick 2 at 20 ms",
            "waited",
            "tick 3 at 45 ms",
            "tick 4 at 45 ms",
            "tick 5 at 50 ms"
        ]
    );
}

#[test]
fn no_future_and_no_timer_outlives_the_actor() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.started(|_, ctx| {
            ctx.spawn(after::<K>(20, |probe, _| probe.say("never")));
            ctx.run_later(Duration::from_millis(20), |probe, _| probe.say("never"));
            ctx.run_interval(Duration::from_millis(20), |probe, _| probe.say("never"));
            ctx.notify_later(Note("never"), Duration::from_millis(20));
        });
        sleep(10).await;
        address.tell(|_, ctx| ctx.stop());
        settle().await;
    }
    agree!(script, ["started Running", "stopping Stopping", "stopped Stopped", "dropped"]);
}
