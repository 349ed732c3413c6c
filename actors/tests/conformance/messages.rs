//! Messages, notifications, answers, addresses, and streams.

use std::time::Duration;

use actix::{
    ActorContext, ActorFutureExt, Addr, Arbiter, AsyncContext, MailboxError, System, WeakAddr, WeakRecipient,
    dev::SendError, fut::wrap_future,
};

use crate::contexts::{
    Actix, Atomic, Beside, Do, Ending, InActor, Kind, Lines, Log, Note, Passing, Probe, Run, Tell, after, agree, run,
    settle, sleep, soon,
};

#[test]
fn messages_sent_before_the_actor_has_started_come_after_started_and_before_its_futures() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.started(|_, ctx| {
            ctx.spawn(soon::<K>(|probe, _| probe.say("future")));
            ctx.notify(Note("notification"));
            ctx.address().do_send(Note("sent in started"));
        });
        address.do_send(Note("first"));
        address.do_send(Note("second"));
        run.say("sent");
        settle().await;
    }
    agree!(script, ["sent", "started Running", "first", "second", "sent in started", "future", "notification"]);
}

#[test]
fn a_message_to_oneself_comes_in_this_turn_and_a_notification_behind_it() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe());
        address.tell(|probe, ctx| {
            ctx.notify(Note("notified"));
            ctx.address().do_send(Note("sent"));
            probe.say("handled");
        });
        address.do_send(Note("next"));
        settle().await;
    }
    agree!(script, ["started Running", "handled", "next", "sent", "notified"]);
}

#[test]
fn an_actor_may_ask_itself_from_a_future() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe());
        address.tell(|probe, ctx| {
            let request = ctx.address().send(InActor(7));
            ctx.spawn(wrap_future::<_, Probe<K>>(request).map(|answer, probe: &mut Probe<K>, _| {
                probe.say(format!("answer {answer:?}"));
            }));
            probe.say("sent");
        });
        settle().await;
    }
    agree!(script, ["started Running", "sent", "asked 7", "answers 7", "answer Ok(7)"]);
}

#[test]
fn answers_may_be_atomic_or_not() {
    async fn atomic<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe());
        let (one, two) = futures::future::join(address.send(Atomic(1)), address.send(Atomic(2))).await;
        run.say(format!("{one:?} {two:?}"));
    }
    async fn in_actor<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe());
        let (one, two) = futures::future::join(address.send(InActor(1)), address.send(InActor(2))).await;
        run.say(format!("{one:?} {two:?}"));
    }
    async fn beside<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe());
        let (one, two) = futures::future::join(address.send(Beside(1)), address.send(Beside(2))).await;
        run.say(format!("{one:?} {two:?}"));
    }
    let interleaved = ["started Running", "asked 1", "asked 2", "answers 1", "answers 2", "Ok(1) Ok(2)"];
    agree!(atomic, ["started Running", "asked 1", "answers 1", "asked 2", "answers 2", "Ok(1) Ok(2)"]);
    agree!(in_actor, interleaved);
    agree!(beside, interleaved);
}

#[test]
fn an_answer_in_the_making_ends_with_its_actor_unless_it_is_made_beside_it() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe());
        let one = actix_rt::spawn(address.send(InActor(1)));
        sleep(5).await;
        let two = actix_rt::spawn(address.send(Beside(2)));
        sleep(1).await;
        address.tell(|_, ctx| ctx.stop());
        settle().await;
        run.say(format!("{:?} {:?}", one.await.unwrap().is_err(), two.await.unwrap()));
    }
    agree!(
        script,
        [
            "started Running",
            "asked 1",
            "asked 2",
            "stopping Stopping",
            "stopped Stopped",
            "dropped",
            "answers 2",
            "true Ok(2)"
        ]
    );
}

#[test]
fn senders_of_messages_that_a_stop_leaves_behind_are_told_so() {
    async fn ends<K: Kind>(run: Run<K>, end: fn(&mut K::Context)) {
        let address = run.start(run.probe());
        let weak = address.downgrade();
        address.tell(move |_, ctx| end(ctx));
        let behind = actix_rt::spawn(address.send(Note("never")));
        settle().await;
        run.say(format!("behind: {:?}", behind.await.unwrap()));
        run.say(format!("connected: {}", address.connected()));
        run.say(format!("after: {:?}", address.send(Note("never")).await));
        run.say(format!("closed: {}", matches!(address.try_send(Note("never")), Err(SendError::Closed(_)))));
        drop(address);
        run.say(format!("an address: {}", weak.upgrade().is_some()));
    }
    async fn stop<K: Kind>(run: Run<K>) {
        ends(run, |ctx| ctx.stop()).await;
    }
    async fn terminate<K: Kind>(run: Run<K>) {
        ends(run, |ctx| ctx.terminate()).await;
    }
    let end = [
        "stopped Stopped",
        "dropped",
        "behind: Err(MailboxClosed)",
        "connected: false",
        "after: Err(MailboxClosed)",
        "closed: true",
        "an address: false",
    ];
    let closed = format!("behind: {:?}", Err::<(), _>(MailboxError::Closed));
    let after = format!("after: {:?}", Err::<(), _>(MailboxError::Closed));
    let end = end.map(|text| match text {
        "behind: Err(MailboxClosed)" => closed.as_str(),
        "after: Err(MailboxClosed)" => after.as_str(),
        other => other,
    });
    agree!(stop, [&["started Running", "stopping Stopping"][..], &end].concat());
    agree!(terminate, [&["started Running"][..], &end].concat());
}

#[test]
fn a_full_mailbox_says_so_and_has_room_again_later() {
    async fn script<K: Kind>(run: Run<K>) {
        fn fill<K: Kind>(address: &Addr<Probe<K>>) -> usize {
            // Each clone of an address has room for one more, so it has to be one of them.
            (0..).take_while(|_| address.try_send(Note("message")).is_ok()).take(100).count()
        }
        let address = run.started(|_, ctx| ctx.wait(after::<K>(10, |probe, _| probe.say("waited"))));
        run.say(format!("{} fit", fill(&address)));
        settle().await;
        run.log.take();
        address
            .send(Do::<K>::new(|_, ctx| {
                K::set_mailbox_capacity(ctx, 3);
                ctx.wait(after::<K>(10, |probe, _| probe.say("waited")));
            }))
            .await
            .unwrap();
        run.say(format!("{} fit", fill(&address)));
        settle().await;
    }
    let (actix, lines) = (run::<Actix, _>(script), run::<Lines, _>(script));
    assert_eq!(lines, actix);
    assert_eq!(lines.iter().filter(|text| *text == "message").count() + 2, lines.len(), "{lines:?}");
}

#[test]
fn a_sender_waits_for_a_full_mailbox() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.started(|_, ctx| {
            K::set_mailbox_capacity(ctx, 1);
            ctx.wait(after::<K>(10, |probe, _| probe.say("waited")));
        });
        sleep(1).await;
        let sends = (0..5).map(|_| address.send(Note("message")));
        let answers = futures::future::join_all(sends).await;
        run.say(format!("{} answers", answers.iter().filter(|answer| answer.is_ok()).count()));
    }
    let message = ["message"; 5];
    agree!(script, [&["started Running", "waited"][..], &message, &["5 answers"]].concat());
}

#[test]
fn recipients_and_weak_addresses_are_addresses() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.started(|probe, ctx| {
            let own = ctx.address();
            probe.say(format!("own: {}", own == ctx.address() && own.connected()));
        });
        let recipient = address.clone().recipient::<Note>();
        recipient.send(Note("by recipient")).await.unwrap();
        recipient.do_send(Note("by recipient"));
        let weak: WeakRecipient<Note> = recipient.downgrade();
        weak.upgrade().unwrap().send(Note("by weak recipient")).await.unwrap();
        let weak: WeakAddr<Probe<K>> = address.downgrade();
        weak.upgrade().unwrap().send(Note("by weak address")).await.unwrap();
        address.downgrade().recipient::<Note>().upgrade().unwrap().send(Note("by its recipient")).await.unwrap();
        run.say(format!("same: {}", weak.upgrade().unwrap() == address));
        address.tell(|_, ctx| ctx.stop());
        settle().await;
        run.say(format!("connected: {} {}", address.connected(), recipient.connected()));
        run.say(format!("{:?}", recipient.send(Note("never")).await.is_err()));
    }
    agree!(
        script,
        [
            "started Running",
            "own: true",
            "by recipient",
            "by recipient",
            "by weak recipient",
            "by weak address",
            "by its recipient",
            "same: true",
            "stopping Stopping",
            "stopped Stopped",
            "dropped",
            "connected: false false",
            "true"
        ]
    );
}

#[test]
fn an_address_works_from_another_thread() {
    // Not on the paused clock: threads do not know of it.
    fn asks<K: Kind>() -> Vec<String> {
        let log = Log::default();
        System::new().block_on(async {
            let address = K::create(|_| Probe::<K>::new(&log));
            let other = Arbiter::new();
            let (done, answers) = tokio::sync::oneshot::channel();
            other.spawn(async move {
                address.do_send(Note("one way"));
                let first = address.send(InActor(1)).await;
                address.tell(|_, ctx| ctx.stop());
                let _ = done.send((first, address.send(Note("never")).await));
            });
            let (first, last) = answers.await.unwrap();
            log.say(format!("{first:?} {}", last == Err(MailboxError::Closed)));
            other.stop();
            other.join().unwrap();
        });
        log.take().into_iter().filter(|text| !text.starts_with("stop") && *text != "dropped").collect()
    }
    let expected = ["started Running", "one way", "asked 1", "answers 1", "Ok(1) true"];
    assert_eq!(asks::<Actix>(), expected);
    assert_eq!(asks::<Lines>(), expected);
}

#[test]
fn the_context_knows_whether_anybody_has_an_address() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.started(|_, ctx| {
            for time in [10, 30] {
                ctx.run_later(Duration::from_millis(time), move |probe, ctx| {
                    probe.say(format!("{time} ms: {}", K::connected(ctx)));
                });
            }
            ctx.spawn(wrap_future(std::future::pending()));
        });
        sleep(20).await;
        drop(address);
        settle().await;
    }
    agree!(script, ["started Running", "10 ms: true", "30 ms: false"]);
}

#[test]
fn a_request_may_time_out() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.start(run.probe());
        let answer = address.send(InActor(1)).timeout(Duration::from_millis(5)).await;
        run.say(format!("{answer:?}"));
        settle().await;
    }
    agree!(script, ["started Running", "asked 1", &format!("{:?}", Err::<u32, _>(MailboxError::Timeout)), "answers 1"]);
}

#[test]
fn a_stream_that_ends_stops_its_actor_by_default() {
    async fn script<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            ctx.add_stream(futures::stream::iter([Ending(1), Ending(2)]));
            ctx.add_stream(futures::stream::iter([Passing(3)]));
        });
        settle().await;
    }
    agree!(script, ["started Running", "item 1", "item 2", "stopping Stopping", "stopped Stopped", "dropped"]);
}

#[test]
fn streams_take_turns_of_sixteen_items() {
    async fn script<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            ctx.add_stream(futures::stream::iter((0..20).map(Passing)));
            ctx.add_stream(futures::stream::iter((100..120).map(Passing)));
        });
        settle().await;
    }
    let items = |from: u32, to: u32| (from..to).map(|item| format!("item {item}")).collect::<Vec<_>>();
    let mut expected = vec!["started Running".to_owned(), "stream started".to_owned()];
    expected.extend(items(0, 16));
    expected.push("stream started".to_owned());
    expected.extend(items(100, 116));
    expected.extend(items(16, 20));
    expected.push("stream finished".to_owned());
    expected.extend(items(116, 120));
    expected.push("stream finished".to_owned());
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    agree!(script, expected);
}

#[test]
fn an_item_that_waits_holds_the_rest_of_its_stream() {
    async fn script<K: Kind>(run: Run<K>) {
        let _address = run.started(|_, ctx| {
            ctx.add_message_stream(futures::stream::iter(["one", "two"].map(|text| {
                Do::<K>::new(move |probe, ctx| {
                    probe.say(text);
                    ctx.wait(after::<K>(10, move |probe, _| probe.say("waited")));
                })
            })));
        });
        settle().await;
    }
    agree!(script, ["started Running", "one", "waited", "two", "waited"]);
}

#[test]
fn a_stream_of_messages_may_end() {
    async fn script<K: Kind>(run: Run<K>) {
        let address = run.started(|_, ctx| {
            ctx.add_message_stream(futures::stream::iter([Note("one"), Note("two")]));
        });
        settle().await;
        address.do_send(Note("lives"));
        settle().await;
    }
    agree!(script, ["started Running", "one", "two", "lives"]);
}

#[test]
fn a_stream_can_be_cancelled() {
    async fn script<K: Kind>(run: Run<K>) {
        let _address = run.started(|probe, ctx| {
            probe.handle = ctx.add_stream(futures::stream::unfold((), |()| async {
                sleep(10).await;
                Some((Passing(1), ()))
            }));
            ctx.run_later(Duration::from_millis(25), |probe, ctx| {
                ctx.cancel_future(probe.handle);
            });
        });
        settle().await;
    }
    agree!(script, ["started Running", "stream started", "item 1", "item 1"]);
}
