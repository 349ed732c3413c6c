//! A store on real servers, with what happens to them: killed, hung, full, replaced by Sentinel, somebody else's, or no store at all.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use actix_lines::cluster::{
    Begin, Change, Cluster, ClusterQuery, CountLimit, Held, Message, NamedRows, NodeId, RateLimit, Row, Share, Store,
    StoreError, Subscription, UnreadError, Verdict, Want, redis::Redis,
};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
    sync::mpsc,
};

#[path = "support/redis.rs"]
mod servers;
mod support;

use servers::{PERMISSIONS, Program, StoreServer};
use support::{at_once, eventually, pass, pause, within};

/// A call may be slower than its second where the machine is busy, and no test is about that.
const CALL: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(600);

fn store(server: &StoreServer) -> Redis {
    at(&server.url())
}

fn at(url: &str) -> Redis {
    Redis::at(url).timeout(CALL).connect_timeout(CALL).build().unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId { name: name.parse().unwrap(), incarnation: 7 }
}

fn row(session: u64) -> Row {
    let name = (session.is_multiple_of(2)).then(|| format!("name {session}"));
    Row { session, peer: "192.0.2.1:1".to_owned(), name, ..Row::default() }
}

fn begin(rows: impl IntoIterator<Item = Row>) -> Change {
    let begins = Begin { about: "about".to_owned(), shares: vec![Share { resource: "all".to_owned(), count: 2 }] };
    Change { begins: Some(begins), lease: LEASE, put: rows.into_iter().collect(), ..Change::default() }
}

fn want() -> Want {
    let rate = RateLimit { resource: "rate".to_owned(), per_second: 1, burst: 1000 };
    Want { counts: Vec::new(), rates: vec![rate] }
}

fn is_lost(error: &StoreError) -> bool {
    matches!(error, StoreError::Lost { .. })
}

async fn subscribe(
    store: &Redis,
    channel: &str,
) -> Result<(Box<dyn Subscription>, mpsc::Receiver<Message>), StoreError> {
    let (to, messages) = mpsc::channel(4096);
    let mut subscription = store.subscribe(to).await?;
    subscription.add(&[channel.to_owned()]).await?;
    Ok((subscription, messages))
}

async fn subscribed(store: &Redis, channel: &str) -> (Box<dyn Subscription>, mpsc::Receiver<Message>) {
    subscribe(store, channel).await.unwrap()
}

/// Calls a store whose time is short until it answers: where the machine is busy a call may be slower than that.
async fn answered<T>(call: impl AsyncFn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    within("an answer", async {
        loop {
            match call().await {
                Err(StoreError::Lost { .. } | StoreError::Slow { .. }) => tokio::task::yield_now().await,
                answer => return answer,
            }
        }
    })
    .await
}

async fn said(messages: &mut mpsc::Receiver<Message>) -> Option<Bytes> {
    within("a message", messages.recv()).await.map(|message| message.bytes)
}

#[actix::test]
async fn nothing_connects_before_the_first_call_and_each_call_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let short = Duration::from_millis(50);
    let store = Redis::at(&url).timeout(short).connect_timeout(short).build().unwrap();
    // Whoever comes first is who calls: were there a connection already it would be another's.
    let error = within("an end of the call", store.nodes()).await.unwrap_err();
    assert!(is_lost(&error) && !error.to_string().contains("TLS"), "{error}");
    let (to, mut messages) = mpsc::channel(1);
    let error = within("an end of the call", store.subscribe(to)).await.unwrap_err();
    assert!(is_lost(&error), "{error}");
    assert_eq!(said(&mut messages).await, None);
    rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
    let error = within("an end of the call", store.publish("c", Bytes::new())).await.unwrap_err();
    assert!(is_lost(&error) && error.to_string().contains(&url["redis://".len()..]), "{error}");
}

#[actix::test]
async fn a_server_that_is_no_store_is_an_error_with_advice() {
    let mut random = fastrand::Rng::with_seed(20);
    let mut answers: Vec<Vec<u8>> = [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"",
        b"-DENIED Redis is running in protected mode\r\n",
        b"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'sesame8'\r\n",
        b"-ERR max number of clients reached\r\n",
        b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n",
        b"+OK\r\n:5\r\n:5\r\n",
        b"+OK\r\n*3\r\n:0\r\n$-1\r\n_\r\n",
        b"+OK\r\n$-5\r\n",
        b"+OK\r\n=-1\r\n",
        b"+OK\r\n!-1\r\n",
        b"+OK\r\n*9223372036854775807\r\n",
        b"+OK\r\n%9223372036854775807\r\n",
        b"+OK\r\n|1\r\n",
        b"+OK\r\n>1\r\n:1\r\n",
        b"+OK\r\n>3\r\n$7\r\nmessage\r\n:1\r\n:2\r\n",
        b"+OK\r\n-\xff\xfe\r\n",
        b"+OK\r\n-\r\n",
    ]
    .map(<[u8]>::to_vec)
    .into();
    answers.extend((0..40).map(|_| {
        let bytes =
            (0..random.usize(1..60)).map(|_| *random.choice(b"+-:$*%>~|_,#!=(0123456789\r\n\r\n a\xff").unwrap());
        [b"+OK\r\n".to_vec(), bytes.collect()].concat()
    }));
    for answer in answers {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://:sesame8@{}", listener.local_addr().unwrap());
        let shown = answer.escape_ascii().to_string();
        let serving = actix::spawn(async move {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let answer = answer.clone();
                actix::spawn(async move {
                    let mut bytes = [0; 4096];
                    for part in answer.split_inclusive(|byte| *byte == b'\n') {
                        if stream.read(&mut bytes).await.is_err() || stream.write_all(part).await.is_err() {
                            return;
                        }
                    }
                    let _ = stream.write_all(&answer).await;
                });
            }
        });
        let short = Duration::from_millis(60);
        let store = Redis::at(url).timeout(short).connect_timeout(short).build().unwrap();
        for call in 0..3 {
            let result = within("an end of the call", async {
                match call {
                    0 => store.nodes().await.map(drop),
                    1 => store.acquire(&node("a"), &Held::default(), &[want()]).await.map(drop),
                    _ => store.list(&node("a"), None).await.map(drop),
                }
            });
            let error = result.await.expect_err(&shown).to_string();
            assert!(!error.contains("sesame8"), "{shown}: {error}");
        }
        serving.abort();
    }
}

/// A server, or a proxy before it, that greets whoever connects and hangs up. Returns its URL and the number of its connections.
async fn hangs_up() -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&connections);
    actix::spawn(async move {
        // It ends where whoever connects does not: a clock that is paused passes no bound while somebody is busy.
        for _ in 0..1000 {
            let (mut socket, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Relaxed);
            let greeted = socket.read(&mut [0; 512]).await.is_ok() && socket.write_all(b"+OK\r\n").await.is_ok();
            drop((greeted, socket));
        }
    });
    (url, connections)
}

#[actix::test]
async fn a_server_that_greets_and_hangs_up_is_connected_to_as_seldom_as_one_that_refuses() {
    pause();
    let (url, connections) = hangs_up().await;
    let store = at(&url);
    // Each 20 ms, for 10 s.
    for _ in 0..500 {
        let error = at_once("an end of the call", store.nodes()).await.unwrap_err();
        assert!(is_lost(&error), "{error}");
        pass(Duration::from_millis(20)).await;
    }
    // About 40: pauses grow to 500 ms, half of which is what they last by chance. Some 280 if they did not grow.
    let made = connections.load(Relaxed);
    assert!((2..=100).contains(&made), "{made} connections");
}

#[actix::test]
async fn a_connection_on_which_nothing_is_answered_any_more_is_left_for_another_one() {
    pause();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = at(&format!("redis://{}", listener.local_addr().unwrap()));
    actix::spawn(async move {
        let mut hung = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            for answer in ["+OK\r\n", ":0\r\n"] {
                assert_ne!(socket.read(&mut [0; 512]).await.unwrap(), 0);
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
            hung.push(socket);
        }
    });
    let publish = || store.publish("c", Bytes::new());
    assert_eq!(at_once("the first call", publish()).await, Ok(0));
    let error = within("the end of a call that is not answered", publish()).await.unwrap_err();
    assert!(matches!(error, StoreError::Slow { .. }), "{error}");
    assert_eq!(at_once("the next call", publish()).await, Ok(0));
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn a_server_that_was_killed_is_found_again_and_starts_empty() {
    for program in Program::installed() {
        let mut server = StoreServer::start(program);
        let store = store(&server);
        store.register(&node("a"), &begin([row(1)])).await.unwrap();
        let (mut subscription, mut messages) = subscribed(&store, "c").await;
        assert_eq!(store.publish("c", Bytes::from_static(b"\0\xff\r\n")).await, Ok(1));
        assert_eq!(said(&mut messages).await.as_deref(), Some(&b"\0\xff\r\n"[..]));

        server.kill();
        assert_eq!(said(&mut messages).await, None, "the receiver ends with the connection");
        assert!(is_lost(&subscription.add(&["d".to_owned()]).await.unwrap_err()));
        let error = store.nodes().await.unwrap_err();
        assert!(is_lost(&error), "{error}");

        server.start_again();
        eventually("the store", async || store.nodes().await.is_ok()).await;
        assert_eq!(store.nodes().await, Ok(Vec::new()));
        // The scripts are not known there any more, nor is the node.
        let renewal = Change { lease: LEASE, put: vec![row(2)], ..Change::default() };
        assert_eq!(store.register(&node("a"), &renewal).await, Err(StoreError::Fenced));
        store.register(&node("a"), &begin([row(2)])).await.unwrap();
        assert_eq!(store.list(&node("a"), None).await.unwrap().rows, [row(2)]);
        server.must(&["SCRIPT", "FLUSH"]);
        assert_eq!(store.lookup("name 2").await.unwrap().rows, vec![(node("a"), row(2))]);
    }
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn a_server_that_hangs_holds_no_call_longer_than_its_time() {
    let server = StoreServer::start(Program::Redis);
    let short = Duration::from_millis(200);
    let store = Redis::at(server.url()).timeout(short).connect_timeout(short).build().unwrap();
    eventually("the store", async || store.nodes().await.is_ok()).await;
    for stops in [true, false] {
        if stops {
            server.pause()
        } else {
            server.sleep(Duration::from_secs(3))
        }
        eventually("a call that is not answered", async || {
            let result = within("an end of the call", store.nodes()).await;
            matches!(result, Err(StoreError::Slow { .. }))
        })
        .await;
        let error = within("an end of the call", store.nodes()).await.unwrap_err();
        assert!(matches!(error, StoreError::Lost { .. } | StoreError::Slow { .. }), "{error}");
        if stops {
            server.resume();
        }
        eventually("the store", async || store.nodes().await.is_ok()).await;
    }
    // A call that came late is done in its order, or not at all.
    assert_eq!(answered(async || store.publish("c", Bytes::new()).await).await, Ok(0));
}

/// Kills the master, or hangs it.
async fn fail_over(program: Program, hangs: bool) {
    let mut old = StoreServer::start(program);
    let new = StoreServer::start_replica(&old);
    let sentinel = StoreServer::start_sentinel("main", &old);
    let is_known = async || sentinel.must(&["SENTINEL", "REPLICAS", "main"]).contains(&new.port().to_string());
    eventually("a replica that Sentinel knows", is_known).await;
    // One Sentinel is away, as one may be: nobody listens there, and nobody else gets the port.
    let away = TcpSocket::new_v4().unwrap();
    away.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let url = format!("redis-sentinel://{},127.0.0.1:{}/main", away.local_addr().unwrap(), sentinel.port());
    let short = Duration::from_millis(500);
    let store = Redis::at(&url).timeout(short).connect_timeout(short).build().unwrap();
    eventually("the store", async || store.nodes().await.is_ok()).await;
    eventually("a life", async || store.register(&node("a"), &begin([])).await.is_ok()).await;
    let (_subscription, mut messages) = answered(async || subscribe(&store, "c").await).await.unwrap();
    eventually("a copy", async || !new.must(&["KEYS", "*leases"]).is_empty()).await;

    if hangs {
        old.pause()
    } else {
        old.kill()
    }
    eventually("the new master", async || new.is_master() && store.nodes().await.is_ok_and(|nodes| nodes.len() == 1))
        .await;
    answered(async || store.register(&node("b"), &begin([])).await).await.unwrap();
    assert!(new.must(&["ZRANGE", "{lines:}leases", "0", "-1"]).contains("b."));
    // What listened to the old one ends by itself, also if that one is alive and says nothing any more.
    eventually("the end of the subscription", async || {
        messages.try_recv() == Err(mpsc::error::TryRecvError::Disconnected)
    })
    .await;
    let (_subscription, mut messages) = answered(async || subscribe(&store, "c").await).await.unwrap();
    assert_eq!(answered(async || store.publish("c", Bytes::from_static(b"new")).await).await, Ok(1));
    assert_eq!(said(&mut messages).await.as_deref(), Some(&b"new"[..]));
    if hangs {
        // The old one comes back, and takes itself for the master for a while.
        old.resume();
        eventually("a replica", async || old.is_replica()).await;
        assert_eq!(answered(async || store.nodes().await).await.unwrap().len(), 2);
    }
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn after_a_failover_calls_and_messages_go_to_the_new_master() {
    fail_over(Program::Redis, false).await;
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn a_master_that_hangs_is_left_for_the_new_one() {
    // As long as some have no Valkey.
    let program = Program::installed().into_iter().last().unwrap();
    fail_over(program, true).await;
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn who_still_reaches_only_the_old_master_leaves_it() {
    let old = StoreServer::start(Program::Redis);
    let new = StoreServer::start(Program::Redis);
    let sentinel = StoreServer::start_sentinel("main", &old);
    let store = at(&format!("redis-sentinel://127.0.0.1:{}/main", sentinel.port()));
    store.register(&node("a"), &begin([])).await.unwrap();
    let (_subscription, mut messages) = subscribed(&store, "c").await;
    // Nobody ends a connection: both servers take themselves for the master.
    sentinel.must(&["SENTINEL", "REMOVE", "main"]);
    sentinel.must(&["SENTINEL", "MONITOR", "main", "127.0.0.1", &new.port().to_string(), "1"]);
    eventually("the new master", async || store.nodes().await.is_ok_and(|nodes| nodes.is_empty())).await;
    assert_eq!(said(&mut messages).await, None, "and the subscription goes with the calls");
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn a_sentinel_has_a_password_of_its_own_and_knows_the_name_or_says_so() {
    let server = StoreServer::start(Program::Redis);
    let sentinel = StoreServer::start_sentinel_with("main", &server, "requirepass sesame8");
    let by = |name: &str| Redis::at(format!("redis-sentinel://127.0.0.1:{}/{name}", sentinel.port())).timeout(CALL);
    by("main").sentinel_password(None, "sesame8\n").build().unwrap().nodes().await.unwrap();
    for (builder, advice) in [
        (by("main"), "give a user and a password"),
        (by("main").sentinel_password(None, "open sesame"), "check the user and the password"),
        (by("other").sentinel_password(None, "sesame8"), "check the name in the URL"),
    ] {
        match builder.build().unwrap().nodes().await {
            Err(StoreError::Refused { reason }) => assert!(reason.contains(advice), "{reason}"),
            result => panic!("{result:?} in place of {advice:?}"),
        }
    }
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn a_changed_password_is_that_of_the_next_connections_and_the_former_one_is_said_nowhere() {
    let server = StoreServer::start(Program::Redis);
    server.allow("node", "sesame1", &PERMISSIONS);
    let sentinel = StoreServer::start_sentinel_with("main", &server, "user watcher on >watch1 allchannels +@all");
    let direct = Redis::at(server.url());
    let by_sentinel = Redis::at(format!("redis-sentinel://127.0.0.1:{}/main", sentinel.port()));
    let by_sentinel = by_sentinel.sentinel_password(Some("watcher"), "watch1");
    for (builder, has_sentinel) in [(direct, false), (by_sentinel, true)] {
        server.must(&["ACL", "SETUSER", "node", "resetpass", ">sesame1"]);
        let builder = builder.timeout(CALL).connect_timeout(CALL).username("node").password("sesame1");
        let store = builder.build().unwrap();
        store.register(&node("a"), &begin([])).await.unwrap();
        let (_subscription, mut messages) = subscribed(&store, "c").await;
        // It is told in time: nobody notices, and the same again is no change.
        assert!(store.clone().set_password("sesame2\n") && !store.set_password("sesame2"));
        assert_eq!(store.publish("c", Bytes::from_static(b"on")).await, Ok(1));
        assert_eq!(said(&mut messages).await.as_deref(), Some(&b"on"[..]));
        server.must(&["ACL", "SETUSER", "node", "resetpass", ">sesame2"]);
        server.must(&["CLIENT", "KILL", "USER", "node"]);
        assert_eq!(said(&mut messages).await, None);
        eventually("the store", async || store.nodes().await.is_ok_and(|nodes| nodes.len() == 1)).await;

        // It is told too late: calls say why they fail, and the next one after it does not.
        server.must(&["ACL", "SETUSER", "node", "resetpass", ">sesame3"]);
        server.must(&["CLIENT", "KILL", "USER", "node"]);
        eventually("a refusal", async || {
            let result = store.nodes().await;
            matches!(result, Err(StoreError::Refused { reason }) if reason.contains("check the user and the password"))
        })
        .await;
        assert!(store.set_password("sesame3"));
        assert_eq!(store.nodes().await.unwrap().len(), 1, "at once, whatever pause there was");
        if has_sentinel {
            assert_eq!(sentinel.must(&["ACL", "SETUSER", "watcher", "resetpass", ">watch2"]), "OK");
            assert!(store.set_sentinel_password("watch2") && !store.set_sentinel_password("watch2"));
            server.must(&["CLIENT", "KILL", "USER", "node"]);
            eventually("the store", async || store.nodes().await.is_ok_and(|nodes| nodes.len() == 1)).await;
        }
        assert!(!format!("{store:?} {store}").contains("sesame"), "{store:?}");
    }
    // A server that repeats what it was told, then and before.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = at(&format!("redis://:sesame1@{}", listener.local_addr().unwrap()));
    assert!(store.set_password("sesame2"));
    let parrot = actix::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let mut bytes = [0; 4096];
            let _ = stream.read(&mut bytes).await;
            let _ = stream.write_all(b"-ERR sesame1 sesame2\r\n").await;
        }
    });
    let error = within("an error", store.nodes()).await.unwrap_err().to_string();
    assert!(error.contains("(secret) (secret)") && !error.contains("sesame"), "{error}");
    parrot.abort();
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn each_refusal_says_what_to_do() {
    let server = StoreServer::start(Program::Redis);
    let store = store(&server);
    let begun = begin([row(1)]);
    let register = async || store.register(&node("a"), &begun).await;
    let set = |key: &str, value: &str| assert_eq!(server.must(&["CONFIG", "SET", key, value]), "OK");
    let refusal = |result: Result<(), StoreError>, advice: &str| match result {
        Err(StoreError::Refused { reason }) => assert!(reason.contains(advice), "{reason}"),
        result => panic!("{result:?} in place of {advice:?}"),
    };
    register().await.unwrap();

    set("maxmemory", "1");
    refusal(register().await, "more memory");
    // What reads goes on.
    assert_eq!(store.nodes().await.unwrap().len(), 1);
    assert_eq!(store.list(&node("a"), None).await.unwrap().rows.len(), 1);
    set("maxmemory", "0");

    set("min-replicas-to-write", "1");
    let error = register().await.unwrap_err();
    assert!(is_lost(&error) && error.to_string().contains("NOREPLICAS"), "{error}");
    set("min-replicas-to-write", "0");
    register().await.unwrap();

    let replica = StoreServer::start_replica(&server);
    let of_replica = at(&replica.url());
    let error = of_replica.register(&node("a"), &begun).await.unwrap_err();
    assert!(is_lost(&error) && error.to_string().contains("replica"), "{error}");
    drop(replica);

    // Somebody's script that does not end.
    set("busy-reply-threshold", "1");
    let busy = std::thread::spawn({
        let port = server.port();
        move || {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(b"EVAL \"while true do end\" 0\r\n").unwrap();
            let _ = stream.read(&mut [0; 64]);
        }
    });
    eventually(
        "a busy server",
        async || matches!(register().await, Err(error) if is_lost(&error) && error.to_string().contains("BUSY")),
    )
    .await;
    server.must(&["SCRIPT", "KILL"]);
    busy.join().unwrap();
    register().await.unwrap();

    // Users.
    server.allow("node", "sesame8", &PERMISSIONS);
    server.allow("reader", "sesame8", &["~*", "&*", "+@all", "-evalsha", "-eval", "-subscribe"]);
    let with = |user: &str, password: &str| {
        Redis::at(server.url()).timeout(CALL).username(user).password(password).build().unwrap()
    };
    with("node", "sesame8\n").register(&node("a"), &begun).await.unwrap();
    let reader = with("reader", "sesame8");
    refusal(reader.register(&node("a"), &begun).await, "docs/operating.md");
    // A command of a script, and a key of one.
    for (user, lacks) in [("fixer", ["~*", "-hset"]), ("other", ["~{lines:*}leases", "+hset"])] {
        server.allow(user, "sesame8", &[&["&*", "+@all"], &lacks[..]].concat());
        refusal(with(user, "sesame8").register(&node("a"), &begun).await, "docs/operating.md");
    }
    let mut subscription = reader.subscribe(mpsc::channel(1).0).await.unwrap();
    refusal(subscription.add(&["c".to_owned()]).await, "docs/operating.md");
    let wrong = with("node", "open sesame").nodes().await;
    refusal(wrong.map(drop), "check the user and the password");
    server.must(&["ACL", "SETUSER", "default", "off"]);
    let fresh = at(&server.url());
    refusal(fresh.nodes().await.map(drop), "give a user and a password");
    for (user, advice) in [("reader", "use a database that it has"), ("node", "docs/operating.md")] {
        let other = at(&format!("redis://{user}:sesame8@127.0.0.1:{}/99", server.port()));
        refusal(other.nodes().await.map(drop), advice);
    }
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn values_of_another_program_are_an_error_and_no_panic() {
    let server = StoreServer::start(Program::Redis);
    let store = store(&server);
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let id = node("a");
    let keys = ["leases", "node:", "rows:", "names:", "held:", "rate:rate"];
    let texts = [
        "",
        "x",
        "-1",
        "1e400",
        "nan",
        "{}",
        "[]",
        "{\"i\":1}",
        "{\"i\":-1,\"p\":2,\"o\":3}",
        "{\"n\":\"x\"}",
        "\u{0}",
        "1 2 3",
        "inf",
    ];
    let mut garbled = 0;
    for _ in 0..400 {
        store.unregister(&id).await.ok();
        server.must(&["FLUSHALL"]);
        store.register(&id, &begin([row(2)])).await.unwrap();
        for _ in 0..random.usize(1..3) {
            let key = random.choice(keys).unwrap();
            let key = if key.ends_with(':') { format!("{{lines:}}{key}{id}") } else { format!("{{lines:}}{key}") };
            let field = random.choice(["2", "serial", "about", "all", "name 2", "x"]).unwrap();
            let text = random.choice(texts).unwrap();
            if random.bool() {
                server.must(&["DEL", &key]);
            }
            match random.u8(..4) {
                0 => server.must(&["SET", &key, text]),
                1 => server.must(&["HSET", &key, field, text]),
                2 => server.must(&["RPUSH", &key, text]),
                _ => server.must(&["ZADD", &key, "1e300", text]),
            };
        }
        let renewal = Change { lease: LEASE, put: vec![row(2), row(4)], remove: vec![6], ..Change::default() };
        let tells = Held { serial: 1, counts: vec![Share { resource: "other".to_owned(), count: 3 }] };
        let mut wants = want();
        wants.counts.push(CountLimit { resource: "all".to_owned(), most: 100 });
        let results = [
            store.nodes().await.map(drop),
            store.list(&id, None).await.map(drop),
            store.lookup("name 2").await.map(drop),
            store.acquire(&id, &tells, &[wants]).await.map(drop),
            store.register(&id, &renewal).await,
        ];
        for result in results {
            match result {
                Ok(()) | Err(StoreError::Fenced | StoreError::Late) => {}
                Err(StoreError::Garbled { .. }) => garbled += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    assert!(garbled > 100, "{garbled}");
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn an_entry_that_is_not_understood_is_left_out_and_counted_and_the_others_are_there() {
    let server = StoreServer::start(Program::Redis);
    let store = store(&server);
    let (a, b) = (node("a"), node("b"));
    let id = |kind: &str, node: &NodeId| format!("{{lines:}}{kind}:{node}");
    let mut known = 0;
    let mut met = |times: u64| {
        known += times;
        assert_eq!(store.unknown(), known);
    };
    for (node, rows) in [(&a, vec![row(1), row(2), row(4)]), (&b, vec![row(2)])] {
        store.register(node, &begin(rows)).await.unwrap();
    }
    met(0);

    // Nodes: of a later version, of another program, for longer than any clock runs.
    for (ends, member) in [("1e15", "eu/a.7"), ("1e300", "job:17"), ("inf", "")] {
        server.must(&["ZADD", "{lines:}leases", ends, member]);
    }
    let nodes = store.nodes().await.unwrap();
    assert_eq!(nodes.iter().map(|node| (&node.id, node.sessions)).collect::<Vec<_>>(), [(&a, 3), (&b, 1)]);
    met(3);
    assert_eq!(store.list(&a, None).await.unwrap().rows.len(), 3);
    assert_eq!(store.lookup("name 2").await.unwrap().rows, vec![(a.clone(), row(2)), (b.clone(), row(2))]);
    let all = |most| {
        let limit = CountLimit { resource: "all".to_owned(), most };
        Want { counts: vec![limit], rates: want().rates }
    };
    let mut serial = 0;
    let mut acquire = async |most| {
        serial += 1;
        store.acquire(&a, &Held { serial, counts: Vec::new() }, &[all(most)]).await
    };
    assert_eq!(acquire(5).await, Ok(vec![Verdict::Granted]));
    met(0);
    // They go with a lease, as those of nodes do.
    store.register(&b, &Change { lease: LEASE, ..Change::default() }).await.unwrap();
    let ends: f64 = server.must(&["ZSCORE", "{lines:}leases", "job:17"]).parse().unwrap();
    let of_b: f64 = server.must(&["ZSCORE", "{lines:}leases", &b.to_string()]).parse().unwrap();
    assert!(ends <= of_b, "{ends} {of_b}");
    for member in ["eu/a.7", "job:17", ""] {
        server.must(&["ZREM", "{lines:}leases", member]);
    }

    // Rows.
    for (session, json) in [("3", "{}"), ("x", "no row"), ("5", r#"{"i":6,"p":"","o":0}"#)] {
        server.must(&["HSET", &id("rows", &a), session, json]);
    }
    let page = store.list(&a, None).await.unwrap();
    let mut sessions: Vec<_> = page.rows.iter().map(|row| row.session).collect();
    sessions.sort_unstable();
    assert_eq!((sessions, page.unknown), (vec![1, 2, 4], 3));
    met(3);
    server.must(&["HSET", &id("rows", &b), "2", "[]"]);
    let found = NamedRows { rows: vec![(a.clone(), row(2))], unknown: vec![(b.clone(), 1)], partial: Vec::new() };
    assert_eq!(store.lookup("name 2").await, Ok(found));
    met(1);
    // A list over nodes has the others, and says that some are missing.
    let cluster = Cluster::builder(store.clone()).node("reader").build().unwrap();
    let page = cluster.list(ClusterQuery::default()).await.unwrap();
    let unread: Vec<_> = page.unread.iter().map(|unread| (&unread.node, &unread.error)).collect();
    let unknown = |rows| UnreadError::Unknown { rows };
    assert_eq!((page.total, unread), (3, vec![(&a, &unknown(3)), (&b, &unknown(1))]));
    assert!(unknown(1).to_string().starts_with("1 row is not understood"), "{}", unknown(1));
    met(4);
    let page = cluster.lookup("name 2").await.unwrap();
    let unread: Vec<_> = page.unread.iter().map(|unread| (&unread.node, &unread.error)).collect();
    assert_eq!((page.total, unread), (1, vec![(&b, &unknown(1))]));
    met(1);
    assert_eq!(cluster.stats().entries_unknown, store.unknown());

    // A node's words of itself.
    server.must(&["DEL", &id("node", &b)]);
    server.must(&["RPUSH", &id("node", &b), "x"]);
    let nodes = store.nodes().await.unwrap();
    assert_eq!(nodes.iter().map(|node| &*node.about).collect::<Vec<_>>(), ["about", ""]);
    met(1);

    // Counts and rates: what is none counts nothing, and is replaced where it is one's own.
    for other in ["x", "-1", "nan", "inf", "1e400", "0x10", ""] {
        server.must(&["HSET", &id("held", &b), "all", other]);
        server.must(&["HSET", &id("held", &a), "all", other]);
        server.must(&["SET", "{lines:}rate:rate", other]);
        assert_eq!(acquire(1).await, Ok(vec![Verdict::Granted]), "{other:?}");
        met(3);
        assert_eq!(server.must(&["HGET", &id("held", &a), "all"]), "1", "{other:?}");
        assert_eq!(acquire(1).await, Ok(vec![Verdict::Count(0)]), "{other:?}");
        met(1);
    }
    // A number of the last call that is none: which calls come late is unknown, and the life is over.
    server.must(&["HSET", &id("node", &a), "serial", "1e400"]);
    assert_eq!(acquire(9).await, Err(StoreError::Fenced));
    met(1);
    store.register(&a, &begin([])).await.unwrap();
    assert_eq!(acquire(9).await, Ok(vec![Verdict::Granted]));
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn a_life_that_begins_in_parts_is_partial_until_the_last_one() {
    const ROWS: u64 = 20_000;
    let server = StoreServer::start(Program::Redis);
    let (writer, reader) = (store(&server), store(&server));
    let id = node("a");
    let begun = begin((0..ROWS).map(row));
    // Connected before anything is written.
    assert_eq!(reader.nodes().await, Ok(Vec::new()));
    let mut parts = 0;
    let reading = async {
        loop {
            let page = reader.list(&id, None).await.unwrap();
            if page.is_partial {
                parts += 1;
            } else if !page.rows.is_empty() {
                assert_eq!(reader.nodes().await.unwrap()[0].sessions, ROWS, "a list that lacks rows says so");
                return;
            }
        }
    };
    let (written, ()) = within("all rows", futures::future::join(writer.register(&id, &begun), reading)).await;
    written.unwrap();
    assert!(parts > 0, "it was looked at in between");
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn nothing_is_left_of_nodes_that_died() {
    let server = StoreServer::start(Program::Redis);
    let store = store(&server);
    let short = Duration::from_millis(300);
    let (died, other) = (node("a"), node("b"));
    store.register(&died, &begin((0..1200).map(row))).await.unwrap();
    let verdict = store.acquire(&died, &Held { serial: 1, counts: Vec::new() }, &[want()]).await;
    assert_eq!(verdict, Ok(vec![Verdict::Granted]));
    store.register(&died, &Change { lease: short, ..Change::default() }).await.unwrap();
    // By the next one who renews.
    store.register(&other, &begin([])).await.unwrap();
    eventually("the end of the lease", async || store.nodes().await.unwrap().len() == 1).await;
    let renewal = Change { lease: short, ..Change::default() };
    store.register(&other, &renewal).await.unwrap();
    assert!(!server.must(&["KEYS", "*"]).contains(&died.to_string()));
    // By the server itself, if nobody comes.
    eventually("an empty store", async || {
        let _ = server.must(&["KEYS", "*"]);
        server.must(&["DBSIZE"]) == "0"
    })
    .await;
}

/// A server has the same channels in all of its databases.
#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn clusters_in_two_databases_of_a_server_share_nothing() {
    let server = StoreServer::start(Program::Redis);
    let [first, second, same] = [0, 1, 1].map(|database| at(&format!("{}/{database}", server.url())));
    first.register(&node("a"), &begin([row(1)])).await.unwrap();
    assert_eq!(second.nodes().await, Ok(Vec::new()));
    let (_one, mut messages) = subscribed(&first, "r:lobby").await;
    let (_other, mut others) = subscribed(&second, "r:lobby").await;
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    assert_eq!(same.publish("r:lobby", text("of the second")).await, Ok(1));
    assert_eq!(first.publish("r:lobby", text("of the first")).await, Ok(1));
    assert_eq!(said(&mut messages).await, Some(text("of the first")));
    assert_eq!(said(&mut others).await, Some(text("of the second")));
}

#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn many_calls_at_once_share_a_connection_and_keep_their_order() {
    let server = StoreServer::start(Program::Redis);
    let store = store(&server);
    let (_subscription, mut messages) = subscribed(&store, "c").await;
    let reading = async {
        for number in 0..2000_u32 {
            assert_eq!(said(&mut messages).await.as_deref(), Some(&number.to_be_bytes()[..]));
        }
    };
    let publishing = async {
        for begin in (0..2000_u32).step_by(50) {
            let publish = async |number: u32| store.publish("c", Bytes::copy_from_slice(&number.to_be_bytes())).await;
            let all = futures::future::join_all((begin..begin + 50).map(publish)).await;
            assert!(all.iter().all(|receivers| *receivers == Ok(1)), "{all:?}");
        }
    };
    futures::future::join(publishing, reading).await;
    let clients = server.must(&["CLIENT", "LIST"]);
    assert_eq!(clients.lines().filter(|line| line.contains("resp=3")).count(), 2, "{clients}");
}

/// A session's handler may make the first call after a loss, and block its worker then.
#[actix::test]
#[ignore = "needs redis-server; tests/run runs it"]
async fn a_thread_that_blocks_holds_up_no_call_of_others_and_one_that_ends_no_later_call() {
    let server = StoreServer::start(Program::Redis);
    let store = store(&server);
    let cut = || server.must(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    // Calls the store on a thread of its own, which then blocks until it is told to end.
    let call_and_block = || {
        let (called, is_called) = tokio::sync::oneshot::channel();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let store = store.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                eventually("the store", async || store.nodes().await.is_ok()).await;
                let _ = called.send(());
                let _ = ends.recv();
            });
        });
        (is_called, move || {
            drop(end);
            thread.join().unwrap();
        })
    };
    // One that was there first, and has ended.
    let (called, end) = call_and_block();
    within("a call", called).await.unwrap();
    end();
    eventually("the store", async || store.nodes().await.is_ok()).await;

    cut();
    let (called, end) = call_and_block();
    within("a call", called).await.unwrap();
    // It would have waited for all of its time.
    let answered = tokio::time::timeout(CALL / 2, store.nodes()).await;
    end();
    assert_eq!(answered.expect("an answer while the other thread blocks"), Ok(Vec::new()));
    eventually("the store", async || store.nodes().await.is_ok()).await;
}
