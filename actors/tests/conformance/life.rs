//! From `started` to the drop, by a stop or by the end of the arbiter.

use std::time::Duration;

use actix::{ActorContext, Arbiter, AsyncContext, Running, System, fut::wrap_future};

use crate::contexts::{Actix, Do, Kind, Lines, Log, Note, Passing, Probe, Run, Tell, after, agree, settle, soon};

#[test]
fn each_hook_is_called_once_and_knows_the_state() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe());
        address
            .send(Do::<K>::new(|probe, ctx| {
                probe.say(format!("message {:?}", ctx.state()));
                ctx.stop();
                probe.say(format!("message {:?}", ctx.state()));
            }))
            .await
            .unwrap();
        settle().await;
    }
    agree!(
        script,
        ["started Running", "message Running", "message Stopping", "stopping Stopping", "stopped Stopped", "dropped"]
    );
}

#[test]
fn terminate_does_not_ask() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe());
        address
            .send(Do::<K>::new(|probe, ctx| {
                ctx.terminate();
                probe.say(format!("message {:?}", ctx.state()));
            }))
            .await
            .unwrap();
        settle().await;
    }
    agree!(script, ["started Running", "message Stopped", "stopped Stopped", "dropped"]);
}

#[test]
fn an_actor_may_end_in_started() {
    async fn stop<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| ctx.stop());
        settle().await;
    }
    async fn terminate<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| ctx.terminate());
        settle().await;
    }
    agree!(stop, ["started Running", "stopping Stopping", "stopped Stopped", "dropped"]);
    agree!(terminate, ["started Running", "stopped Stopped", "dropped"]);
}

#[test]
fn an_actor_may_end_before_it_has_started() {
    async fn stop<K: Kind>(run: Run<K>) {
        let _address = K::create(|ctx| {
            ctx.stop();
            run.probe()
        });
        settle().await;
    }
    agree!(stop, ["started Stopping", "stopping Stopping", "stopped Stopped", "dropped"]);
}

#[test]
fn a_veto_makes_it_run_again_with_all_that_it_had() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe().vetoing_once().on_started(|_, ctx| {
            ctx.spawn(after::<K>(10, |probe, _| probe.say("future")));
            ctx.add_stream(futures::stream::iter([Passing(1), Passing(2)]));
        }));
        address.tell(|_, ctx| ctx.stop());
        address.tell(|probe, ctx| probe.say(format!("message {:?}", ctx.state())));
        settle().await;
        address.tell(|_, ctx| ctx.stop());
        settle().await;
    }
    agree!(
        script,
        [
            "started Running",
            "stopping Stopping",
            "message Running",
            "stream started",
            "item 1",
            "item 2",
            "stream finished",
            "future",
            "stopping Stopping",
            "stopped Stopped",
            "dropped"
        ]
    );
}

#[test]
fn to_stop_twice_is_to_stop_once() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.start(
            run.probe()
                .on_stopping(|_, ctx| {
                    ctx.stop();
                    Running::Stop
                })
                .on_stopped(|_, ctx| {
                    ctx.stop();
                    ctx.terminate();
                }),
        );
        address.tell(|_, ctx| {
            ctx.stop();
            ctx.stop();
        });
        settle().await;
    }
    agree!(script, ["started Running", "stopping Stopping", "stopped Stopped", "dropped"]);
}

#[test]
fn stop_comes_from_a_future_a_timer_and_a_wait() {
    async fn future<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            ctx.spawn(soon::<K>(|_, ctx| ctx.stop()));
            ctx.spawn(soon::<K>(|probe, _| probe.say("never: it has stopped")));
        });
        settle().await;
    }
    async fn timer<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            ctx.run_later(Duration::from_millis(10), |_, ctx| ctx.stop());
        });
        settle().await;
    }
    async fn wait<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            ctx.spawn(soon::<K>(|probe, _| probe.say("never: it waits, then it has stopped")));
            ctx.wait(after::<K>(10, |_, ctx| ctx.stop()));
        });
        settle().await;
    }
    let expected = ["started Running", "stopping Stopping", "stopped Stopped", "dropped"];
    agree!(future, expected);
    agree!(timer, expected);
    agree!(wait, expected);
}

#[test]
fn stopping_may_wait_and_spawn_if_it_vetoes() {
    async fn script<K: Kind>(run: Run<K>) {
        let mut vetoes = 1;
        let address = run.start(run.probe().on_stopping(move |_, ctx| {
            if vetoes == 0 {
                return Running::Stop;
            }
            vetoes -= 1;
            ctx.spawn(soon::<K>(|probe, _| probe.say("spawned in stopping")));
            ctx.wait(after::<K>(10, |probe, _| probe.say("waited in stopping")));
            Running::Continue
        }));
        address.tell(|_, ctx| ctx.stop());
        address.do_send(Note("message"));
        settle().await;
    }
    agree!(script, ["started Running", "stopping Stopping", "waited in stopping", "message", "spawned in stopping"]);
}

#[test]
fn what_is_asked_for_at_the_end_never_happens() {
    async fn script<K: Kind>(run: Run<K>) {
        let at_the_end = |_: &mut Probe<K>, ctx: &mut K::Context| {
            ctx.spawn(soon::<K>(|probe, _| probe.say("a future")));
            ctx.wait(soon::<K>(|probe, _| probe.say("a wait")));
            ctx.run_later(Duration::ZERO, |probe, _| probe.say("a timer"));
            ctx.notify(Note("a notification"));
            ctx.add_stream(futures::stream::iter([Passing(1)]));
            ctx.address().do_send(Note("a message"));
        };
        let address = run.start(
            run.probe()
                .on_stopping(move |probe, ctx| {
                    at_the_end(probe, ctx);
                    Running::Stop
                })
                .on_stopped(at_the_end),
        );
        address.tell(|_, ctx| ctx.stop());
        settle().await;
    }
    agree!(script, ["started Running", "stopping Stopping", "stopped Stopped", "dropped"]);
}

#[test]
fn a_stopped_arbiter_ends_its_actors_with_every_hook() {
    async fn script<K: Kind>(run: Run<K>) {
        let arbiter = Arbiter::new();
        let (ready, started) = tokio::sync::oneshot::channel();
        let log = run.log.clone();
        arbiter.spawn_fn(move || {
            let mut ready = Some(ready);
            let address = K::create(|_| {
                Probe::<K>::new(&log).on_started(move |_, ctx| {
                    ctx.spawn(wrap_future(std::future::pending()));
                    let _ = ready.take().unwrap().send(());
                })
            });
            // Held for as long as the arbiter lives.
            actix_rt::spawn(async move {
                let _address = address;
                std::future::pending::<()>().await;
            });
        });
        started.await.unwrap();
        arbiter.stop();
        arbiter.join().unwrap();
    }
    agree!(script, ["started Running", "stopping Stopping", "stopped Stopped", "dropped"]);
}

#[test]
fn a_stopped_system_ends_its_actors_with_every_hook() {
    fn lives<K: Kind>() -> Vec<String> {
        let log = Log::default();
        let system = System::new();
        let address = system.block_on(async {
            K::create(|_| {
                Probe::<K>::new(&log).on_started(|_, ctx| {
                    ctx.run_later(Duration::from_millis(1), |_, _| System::current().stop());
                })
            })
        });
        system.run().unwrap();
        assert!(!address.connected());
        log.take()
    }
    let expected = ["started Running", "stopping Stopping", "stopped Stopped", "dropped"];
    assert_eq!(lives::<Actix>(), expected);
    assert_eq!(lives::<Lines>(), expected);
}
