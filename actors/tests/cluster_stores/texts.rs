//! Texts: nothing that stands in a field means anything to the engine.

use actix_lines::cluster::{Begin, Change, CountLimit, RateLimit, Row, Verdict, Want};
use tokio::sync::mpsc;

use crate::{Engine, LONG, begin, held, node, rows, share, support::within};

fn hostile() -> Vec<String> {
    let mut texts: Vec<String> = [
        "",
        " ",
        "\0",
        "a\0b",
        "\r\n$4\r\nPING\r\n",
        "\"",
        "'",
        "\\",
        "{}",
        "{\"i\":1}",
        "[]",
        "null",
        "nil",
        "0",
        "-1",
        "1e999",
        "*",
        "?",
        "[a-z]*",
        "a:b:c",
        "__proto__",
        "; return redis.call('FLUSHALL')",
        "%s%n",
        "\u{feff}ä\u{202e}€\u{1f600}",
        "\u{fffd}",
        "\u{7f}\u{1b}[31m",
    ]
    .into_iter()
    .map(str::to_owned)
    .collect();
    texts.push("x".repeat(64 * 1024));
    texts.push("€\0\"".repeat(13_000));
    texts
}

pub(crate) async fn any_text_may_stand_anywhere(engine: &impl Engine) {
    let (store, other) = (engine.store().await, engine.store().await);
    let (a, b) = (node("a", 1), node("b", 1));
    let texts = hostile();
    other.register(&b, &begin([])).await.unwrap();
    let row = |session: usize, text: &String| Row {
        session: session as u64,
        peer: text.clone(),
        listener: Some(text.clone()),
        opened: 0,
        name: Some(text.clone()),
        tags: vec![text.clone(), String::new(), text.clone()],
    };
    let all: Vec<_> = texts.iter().enumerate().map(|(session, text)| row(session, text)).collect();
    let shares = texts.iter().map(|text| share(text, 1)).collect();
    let begins = Some(Begin { about: texts.concat(), shares });
    store.register(&a, &Change { begins, lease: LONG, put: all.clone(), ..Change::default() }).await.unwrap();
    assert_eq!(rows(&other, &a).await, all);
    assert_eq!(other.nodes().await.unwrap()[0].about, texts.concat());
    for (serial, (text, row)) in (1..).zip(texts.iter().zip(&all)) {
        assert_eq!(other.lookup(text).await.unwrap().rows, [(a.clone(), row.clone())], "{:?}", text.get(..20));
        let count = |most| vec![CountLimit { resource: text.clone(), most }];
        let rates = vec![RateLimit { resource: text.clone(), per_second: 1, burst: 1 }];
        let wants = [
            Want { counts: count(1), rates: vec![] },
            Want { counts: count(2), rates: rates.clone() },
            Want { counts: count(9), rates },
        ];
        let verdicts = other.acquire(&b, &held(serial, []), &wants).await.unwrap();
        assert_eq!(verdicts, [Verdict::Count(0), Verdict::Granted, Verdict::Rate(0)], "{:?}", text.get(..20));
    }
    // Each of them can be taken back.
    let none = held(100, texts.iter().map(|text| share(text, 0)));
    other.release(&b, &none).await.unwrap();
    store.release(&a, &none).await.unwrap();
    let free = texts.iter().map(|text| CountLimit { resource: text.clone(), most: 1 }).collect();
    let want = Want { counts: free, rates: vec![] };
    assert_eq!(other.acquire(&b, &held(101, []), &[want]).await.unwrap(), [Verdict::Granted]);
    let remove = (0..texts.len() as u64).collect();
    store.register(&a, &Change { lease: LONG, remove, ..Change::default() }).await.unwrap();
    for text in &texts {
        assert_eq!(other.lookup(text).await.unwrap().rows, []);
    }
}

pub(crate) async fn any_bytes_may_be_published(engine: &impl Engine) {
    let (store, other) = (engine.store().await, engine.store().await);
    let (to, mut messages) = mpsc::channel(1024);
    let mut subscription = store.subscribe(to).await.unwrap();
    let texts = hostile();
    subscription.add(&texts).await.unwrap();
    let mut bytes: Vec<Vec<u8>> = texts.iter().map(|text| text.clone().into_bytes()).collect();
    bytes.push((0..=255).collect());
    bytes.push(vec![0xff; 1024 * 1024]);
    for (channel, bytes) in texts.iter().zip(bytes.iter().rev()) {
        assert_eq!(other.publish(channel, bytes.clone().into()).await, Ok(1), "{:?}", channel.get(..20));
        let message = within("a message", messages.recv()).await.unwrap();
        assert!(*message.channel == **channel && message.bytes == *bytes, "{:?}", channel.get(..20));
    }
    for bytes in bytes {
        assert_eq!(other.publish("\0", bytes.clone().into()).await, Ok(1));
        assert!(within("a message", messages.recv()).await.unwrap().bytes == bytes, "{:?}", bytes.get(..20));
    }
    subscription.remove(&texts).await.unwrap();
    assert_eq!(other.publish("*", "nobody".into()).await, Ok(0));
}
