//! Channels: what is published, and who hears it.

use std::sync::Arc;

use actix_lines::cluster::{Message, Store, Subscription};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    Engine,
    support::{eventually, within},
};

fn names(channels: &[&str]) -> Vec<String> {
    channels.iter().map(|channel| (*channel).to_owned()).collect()
}

async fn listen(
    store: &Arc<dyn Store>,
    room: usize,
    channels: &[&str],
) -> (Box<dyn Subscription>, mpsc::Receiver<Message>) {
    let (to, messages) = mpsc::channel(room);
    let mut subscription = store.subscribe(to).await.unwrap();
    subscription.add(&names(channels)).await.unwrap();
    (subscription, messages)
}

async fn next(messages: &mut mpsc::Receiver<Message>) -> (String, Bytes) {
    let message = within("a message", messages.recv()).await.expect("the subscription lives");
    (message.channel.to_string(), message.bytes)
}

pub(crate) async fn who_publishes_is_told_how_many_receive_it(engine: &impl Engine) {
    let (first, second) = (engine.store().await, engine.store().await);
    assert_eq!(second.publish("x", "nobody".into()).await, Ok(0));
    let (mut a, mut to_a) = listen(&first, 16, &["x", "x", "y"]).await;
    let (b, mut to_b) = listen(&second, 16, &["x"]).await;
    assert_eq!(second.publish("x", "both".into()).await, Ok(2));
    assert_eq!(first.publish("y", "one".into()).await, Ok(1));
    assert_eq!(first.publish("z", "nobody".into()).await, Ok(0));
    a.add(&names(&["x", "z"])).await.unwrap();
    assert_eq!(second.publish("z", "z".into()).await, Ok(1));
    a.remove(&names(&["x", "nothing"])).await.unwrap();
    assert_eq!(second.publish("x", "b alone".into()).await, Ok(1));
    assert_eq!(second.publish("y", "end".into()).await, Ok(1));
    for expected in [("x", "both"), ("y", "one"), ("z", "z"), ("y", "end")] {
        let (channel, bytes) = next(&mut to_a).await;
        assert_eq!((channel.as_str(), &bytes[..]), (expected.0, expected.1.as_bytes()));
    }
    for expected in [("x", "both"), ("x", "b alone")] {
        let (channel, bytes) = next(&mut to_b).await;
        assert_eq!((channel.as_str(), &bytes[..]), (expected.0, expected.1.as_bytes()));
    }
    drop(b);
    eventually("nobody to listen", async || second.publish("x", "gone".into()).await == Ok(0)).await;
    assert_eq!(within("the end of the subscription", async { while to_b.recv().await.is_some() {} }).await, ());
}

pub(crate) async fn what_one_publishes_arrives_in_order(engine: &impl Engine) {
    const MESSAGES: u32 = 500;
    let (first, second, third) = (engine.store().await, engine.store().await, engine.store().await);
    let (_subscription, mut messages) = listen(&third, 4096, &["x", "y"]).await;
    let publish = async |store: &Arc<dyn Store>, letter: u8| {
        for number in 0..MESSAGES {
            let channel = if number % 3 == 0 { "x" } else { "y" };
            let bytes: Vec<u8> = [&[letter][..], &number.to_be_bytes()].concat();
            assert_eq!(store.publish(channel, bytes.into()).await, Ok(1));
        }
    };
    tokio::join!(publish(&first, b'a'), publish(&second, b'b'));
    let mut expected = [0; 2];
    for _ in 0..2 * MESSAGES {
        let (channel, bytes) = next(&mut messages).await;
        let number = u32::from_be_bytes(bytes[1..].try_into().unwrap());
        assert_eq!(channel, if number % 3 == 0 { "x" } else { "y" });
        let expected = &mut expected[usize::from(bytes[0] - b'a')];
        assert_eq!(number, *expected);
        *expected += 1;
    }
}

pub(crate) async fn who_does_not_read_loses_messages_and_nobody_waits(engine: &impl Engine) {
    let (first, second) = (engine.store().await, engine.store().await);
    let (slow, mut to_slow) = listen(&first, 2, &["x"]).await;
    let (fast, mut to_fast) = listen(&second, 200, &["x"]).await;
    for number in 0..100_u8 {
        assert_eq!(second.publish("x", vec![number].into()).await, Ok(2));
    }
    for number in 0..100 {
        assert_eq!(next(&mut to_fast).await.1, [number][..]);
    }
    eventually("those that were lost to be counted", async || slow.dropped() == 98).await;
    assert_eq!(fast.dropped(), 0);
    // One that comes behind all that there was no room for.
    let mut last = 0;
    eventually("a message behind those that were lost", async || {
        second.publish("x", vec![200].into()).await.unwrap();
        while let Ok(message) = to_slow.try_recv() {
            assert!(message.bytes[0] >= last, "in order, with gaps");
            last = message.bytes[0];
        }
        last == 200
    })
    .await;
}

pub(crate) async fn a_subscription_whose_receiver_is_gone_ends(engine: &impl Engine) {
    let store = engine.store().await;
    let (_subscription, messages) = listen(&store, 4, &["x"]).await;
    assert_eq!(store.publish("x", "heard".into()).await, Ok(1));
    drop(messages);
    eventually("nobody to listen", async || store.publish("x", "gone".into()).await == Ok(0)).await;
}
