//! `wait`: one, several, nested, and what comes meanwhile.

use std::time::Duration;

use actix::{ActorContext, ActorFutureExt, AsyncContext, Running, fut::wrap_future};

use crate::contexts::{Do, Kind, Note, Passing, Probe, Run, Tell, after, agree, settle, sleep, soon};

#[test]
fn while_one_waits_nothing_else_happens() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.started(|_, ctx| {
            ctx.spawn(after::<K>(5, |probe, _| probe.say("future")));
            ctx.run_later(Duration::from_millis(6), |probe, _| probe.say("timer"));
            ctx.notify(Note("notification"));
            ctx.add_stream(futures::stream::iter([Passing(1)]));
            ctx.wait(after::<K>(20, |probe, _| probe.say("waited")));
        });
        address.do_send(Note("sent before"));
        sleep(10).await;
        run.say("10 ms");
        address.do_send(Note("sent meanwhile"));
        settle().await;
        let mut log = run.log.take();
        // In which order the rest comes is another question.
        log[5..].sort();
        log.into_iter().for_each(|text| run.say(text));
    }
    agree!(
        script,
        [
            "started Running",
            "10 ms",
            "waited",
            "sent before",
            "sent meanwhile",
            "future",
            "item 1",
            "notification",
            "stream finished",
            "stream started",
            "timer"
        ]
    );
}

#[test]
fn the_newest_wait_comes_first() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.started(|_, ctx| {
            for text in ["first", "second", "third"] {
                ctx.wait(after::<K>(10, move |probe, _| probe.say(text)));
            }
        });
        address.do_send(Note("message"));
        settle().await;
    }
    agree!(script, ["started Running", "third", "second", "first", "message"]);
}

#[test]
fn a_wait_asked_for_by_a_wait_comes_after_it_and_before_older_ones() {
    async fn at_its_end<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            ctx.wait(soon::<K>(|probe, _| probe.say("older")));
            ctx.wait(after::<K>(10, |probe, ctx| {
                ctx.wait(after::<K>(10, |probe, _| probe.say("nested")));
                probe.say("outer");
            }));
        });
        settle().await;
    }
    async fn in_the_middle<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            ctx.wait(soon::<K>(|probe, _| probe.say("older")));
            ctx.wait(wrap_future::<_, Probe<K>>(sleep(10)).then(|(), _, ctx: &mut K::Context| {
                ctx.wait(soon::<K>(|probe, _| probe.say("nested")));
                ctx.wait(soon::<K>(|probe, _| probe.say("nested last")));
                after::<K>(10, |probe, _| probe.say("outer"))
            }));
        });
        settle().await;
    }
    agree!(at_its_end, ["started Running", "outer", "nested", "older"]);
    agree!(in_the_middle, ["started Running", "outer", "nested last", "nested", "older"]);
}

#[test]
fn a_wait_asked_for_by_a_message_holds_the_next_one() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe());
        address.tell(|probe, ctx| {
            probe.say("first");
            ctx.wait(after::<K>(10, |probe, _| probe.say("waited for first")));
        });
        address.tell(|probe, ctx| {
            probe.say("second");
            ctx.wait(after::<K>(10, |probe, _| probe.say("waited for second")));
        });
        address.do_send(Note("third"));
        settle().await;
    }
    agree!(script, ["started Running", "first", "waited for first", "second", "waited for second", "third"]);
}

#[test]
fn a_wait_asked_for_by_a_future_holds_the_others() {
    async fn script<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            ctx.spawn(soon::<K>(|probe, ctx| {
                probe.say("first");
                ctx.wait(after::<K>(10, |probe, _| probe.say("waited")));
            }));
            ctx.spawn(soon::<K>(|probe, _| probe.say("second")));
        });
        settle().await;
    }
    agree!(script, ["started Running", "first", "waited", "second"]);
}

#[test]
fn a_future_that_asks_for_a_wait_again_and_again_lets_the_others_have_their_turn() {
    async fn script<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            let waits = (0..3).map(|_| Do::<K>::new(|_, ctx| ctx.wait(soon::<K>(|probe, _| probe.say("waited")))));
            ctx.add_message_stream(futures::stream::iter(waits));
            ctx.spawn(soon::<K>(|probe, _| probe.say("other")));
        });
        settle().await;
    }
    agree!(script, ["started Running", "waited", "other", "waited", "waited"]);
}

#[test]
fn waiting_is_to_wait_or_to_end() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.start(
            run.probe()
                .on_started(|probe, ctx| {
                    probe.say(format!("{}", ctx.waiting()));
                    ctx.wait(soon::<K>(|_, _| ()));
                    probe.say(format!("{}", ctx.waiting()));
                })
                .on_stopping(|probe, ctx| {
                    probe.say(format!("{}", ctx.waiting()));
                    Running::Stop
                })
                .on_stopped(|probe, ctx| probe.say(format!("{}", ctx.waiting()))),
        );
        address.tell(|probe, ctx| {
            probe.say(format!("message {}", ctx.waiting()));
            ctx.stop();
            probe.say(format!("message {}", ctx.waiting()));
        });
        settle().await;
    }
    agree!(
        script,
        [
            "started Running",
            "false",
            "true",
            "message false",
            "message true",
            "stopping Stopping",
            "true",
            "stopped Stopped",
            "true",
            "dropped"
        ]
    );
}
