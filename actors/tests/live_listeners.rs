//! Listeners may be added, replaced and removed while a server runs: sessions do not notice, and an error changes nothing.

use std::{net::SocketAddr, os::unix::fs::MetadataExt, time::Duration};

use actix::Actor;
use actix_lines::{
    BindError, Connection, Framing, Line, LineContext, LineHandler, LineServer, Listener, ListenerInfo, Rot13,
    ServerHandle,
    filter::{Eof, Fault, Filter, Flow, Inflow},
    limits::Limits,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod support;
use support::{PATIENCE, Peer, Server, eventually, free, greet, ip, talk, within};

/// The ways in which a server runs its sessions.
#[derive(Clone, Copy, Debug)]
enum Threads {
    Current,
    Workers(usize),
}

const ALL: [Threads; 3] = [Threads::Current, Threads::Workers(1), Threads::Workers(3)];

async fn start(threads: Threads) -> Server {
    let server = LineServer::new(|_: &Connection| Rot13);
    Server::start(match threads {
        Threads::Current => server.on_current_arbiter(),
        Threads::Workers(workers) => server.workers(workers),
    })
    .await
}

async fn is_refused(address: SocketAddr) -> bool {
    tokio::net::TcpStream::connect(address).await.is_err()
}

/// Answers each line with a fixed one.
struct Says(&'static str);

impl Actor for Says {
    type Context = LineContext<Self>;
}

impl LineHandler for Says {
    fn line(&mut self, _: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(self.0);
    }
}

/// Changes each byte on the wire.
struct Mask;

impl Filter for Mask {
    fn read(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Flow, Fault> {
        let count = wire.len();
        plain.extend(wire.take(count).iter().map(|byte| byte ^ 0x5A));
        Ok(Flow::Open)
    }

    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        wire.extend(plain.iter().map(|byte| byte ^ 0x5A));
        Ok(())
    }

    fn eof(&mut self) -> Eof {
        Eof::Clean
    }

    fn finish(&mut self, _: &mut Vec<u8>) {}

    fn held(&self) -> usize {
        0
    }

    fn memory(&self) -> usize {
        0
    }
}

fn masked(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ 0x5A).collect()
}

async fn close(server: &ServerHandle, listener: &ListenerInfo) {
    assert!(within("a listener to be closed", server.close_listener(listener.id)).await);
}

#[actix::test]
async fn a_listener_is_added_and_removed_while_its_sessions_and_those_of_others_go_on() {
    for threads in ALL {
        let server = start(threads).await;
        let mut first = greet(server.address()).await;
        let added = server.handle.listen(free().name("second")).await.unwrap();
        assert_eq!((added.id.get(), added.id.name()), (1, Some("second")));
        assert_eq!(server.handle.listener("second"), Some(added.clone()));
        assert_eq!(server.handle.local_addrs().len(), 2);
        let mut second = greet(ip(&added)).await;
        close(&server.handle, &added).await;
        assert!(is_refused(ip(&added)).await, "{threads:?}");
        assert_eq!(server.handle.listener("second"), None);
        assert!(!server.handle.close_listener(added.id).await, "it is closed already");
        talk(&mut first).await;
        talk(&mut second).await;
        let sessions = server.sessions().await;
        assert_eq!(sessions[1].listener, Some(added.id), "{threads:?}");
        // The name is free again, the number is not.
        let again = server.handle.listen(free().name("second")).await.unwrap();
        assert_eq!((again.id.get(), again.id.name()), (2, Some("second")));
        let _third = greet(ip(&again)).await;
        within("the end", server.handle.abort()).await.unwrap();
        within("the end", server.handle.wait()).await.unwrap();
    }
}

#[actix::test]
async fn an_added_listener_has_its_own_factory_framing_filters_and_limits() {
    for threads in ALL {
        let server = start(threads).await;
        let patient = Limits::builder().idle_timeout(None).build().unwrap();
        let listener = free().framing(Framing::nul()).filter(|_: &Connection| Mask).limits(patient);
        let added = server.handle.listen_with(listener, |_: &Connection| Says("own\0")).await.unwrap();
        let mut peer = Peer::connect(ip(&added)).await;
        peer.send(&masked(b"a\nb\0c\0")).await;
        peer.expect(&masked(b"own\0own\0")).await;
        // A second listener with the same limits shares their workers, and a replacement keeps the factory.
        let second = server.handle.listen(free().limits(Limits::builder().idle_timeout(None).build().unwrap())).await;
        let mut shares = greet(ip(&second.unwrap())).await;
        let replaced = server.handle.replace_listener(added.id, free()).await.unwrap();
        assert_eq!(replaced, added, "{threads:?}");
        let mut plain = Peer::connect(ip(&replaced)).await;
        plain.send(b"x\n").await;
        plain.expect(b"own\0").await;
        peer.send(&masked(b"d\0")).await;
        peer.expect(&masked(b"own\0")).await;
        talk(&mut shares).await;
        let other = server.handle.replace_listener_with(added.id, free(), |_: &Connection| Rot13).await.unwrap();
        let _peer = greet(ip(&other)).await;
        assert_eq!(server.handle.stats().await.unwrap().live, 4, "{threads:?}");
        within("the end", server.handle.abort()).await.unwrap();
        within("the end", server.handle.wait()).await.unwrap();
    }
}

#[actix::test]
async fn workers_with_limits_of_their_own_end_behind_their_last_session_and_their_counts_stay() {
    for threads in ALL {
        let server = start(threads).await;
        for round in 1..=5_u64 {
            let limits = Limits::builder().idle_timeout(Some(Duration::from_secs(1000 + round))).build().unwrap();
            let added = server.handle.listen(free().limits(limits)).await.unwrap();
            let mut peer = greet(ip(&added)).await;
            close(&server.handle, &added).await;
            talk(&mut peer).await;
            drop(peer);
            eventually("the session to be counted", async || {
                let stats = server.handle.stats().await.unwrap();
                assert_eq!(stats.opened, round, "{threads:?}");
                stats.closed.values().sum::<u64>() == round && stats.lines_in == 2 * round
            })
            .await;
        }
        let _peer = greet(server.address()).await;
        within("the end", server.handle.abort()).await.unwrap();
        within("the end", server.handle.wait()).await.unwrap();
    }
}

#[actix::test]
async fn a_listener_that_cannot_be_added_or_replaced_changes_nothing() {
    for threads in ALL {
        let server = start(threads).await;
        let named = server.handle.listen(free().name("public")).await.unwrap();
        let before = server.handle.listeners();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken.local_addr().unwrap();
        let blocker = std::net::TcpListener::bind(taken);
        let error = server.handle.listen(free().name("public")).await.unwrap_err();
        assert!(matches!(&error, BindError::NameTaken { name } if name == "public"), "{error}");
        let error = server.handle.listen(Listener::tcp(ip(&named))).await.unwrap_err();
        assert!(matches!(error, BindError::Listen { .. }), "{error}");
        if let Ok(_blocker) = &blocker {
            let error = server.handle.replace_listener(named.id, Listener::tcp(taken)).await.unwrap_err();
            assert!(matches!(error, BindError::Listen { .. }), "{error}");
        }
        let error = server.handle.replace_listener(named.id, free().name("private")).await.unwrap_err();
        assert!(matches!(error, BindError::Renamed { .. }), "{error}");
        let gone = server.handle.listen(free()).await.unwrap();
        close(&server.handle, &gone).await;
        let error = server.handle.replace_listener(gone.id, free()).await.unwrap_err();
        assert!(matches!(error, BindError::NoSuchListener { listener } if listener == gone.id), "{error}");
        assert_eq!(server.handle.listeners(), before);
        let _peer = greet(ip(&named)).await;
        within("the end", server.handle.abort()).await.unwrap();
        let error = server.handle.listen(free()).await.unwrap_err();
        assert!(matches!(error, BindError::ServerEnding), "{error}");
        assert_eq!(server.handle.listeners(), before, "those that it had last");
        within("the end", server.handle.wait()).await.unwrap();
    }
}

#[actix::test]
async fn a_replaced_listener_that_moves_is_bound_before_the_old_one_is_closed() {
    for threads in ALL {
        let server = start(threads).await;
        let old = server.handle.listeners().remove(0);
        let mut session = greet(ip(&old)).await;
        let moved = server.handle.replace_listener(old.id, Listener::tcp("127.0.0.2:0")).await.unwrap();
        assert_eq!(moved.id, old.id);
        assert_ne!(ip(&moved), ip(&old));
        let mut later = greet(ip(&moved)).await;
        eventually("the old address to be free", async || is_refused(ip(&old)).await).await;
        talk(&mut session).await;
        talk(&mut later).await;
        assert_eq!(server.handle.listeners(), [moved]);
        within("the end", server.handle.abort()).await.unwrap();
        within("the end", server.handle.wait()).await.unwrap();
    }
}

#[actix::test]
async fn a_path_gets_the_permissions_of_the_listener_that_replaces_another_there() {
    let folder = std::env::temp_dir().join(format!("actix-lines-permissions-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("socket");
    let is = || {
        let file = std::fs::symlink_metadata(&path).unwrap();
        (file.ino(), file.mode() & 0o777)
    };
    let server = start(Threads::Current).await;
    let added = server.handle.listen(Listener::unix(&path).unix_mode(0o660)).await.unwrap();
    let (inode, mode) = is();
    assert_eq!(mode, 0o660);
    // It waits in the backlog, and is not lost.
    assert!(server.handle.pause(added.id).await.unwrap());
    let mut early = tokio::net::UnixStream::connect(&path).await.unwrap();

    let again = folder.join(".").join("socket");
    server.handle.replace_listener(added.id, Listener::unix(again).unix_mode(0o606)).await.unwrap();
    assert_eq!(is(), (inode, 0o606));
    let error = server.handle.replace_listener(added.id, Listener::unix(&path).unix_mode(0o1777)).await.unwrap_err();
    assert!(matches!(error, BindError::UnixMode { mode: 0o1777, .. }), "{error}");
    assert_eq!(is(), (inode, 0o606));
    server.handle.replace_listener(added.id, Listener::unix(&path)).await.unwrap();
    assert_eq!(is(), (inode, 0o600), "that of a listener that says nothing");

    assert!(server.handle.resume(added.id).await.unwrap());
    early.write_all(b"hello\n").await.unwrap();
    let mut answer = [0; 6];
    within("an answer", early.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"uryyb\n");
    assert!(server.handle.close_listener(added.id).await);
    assert!(!path.exists());
    std::fs::remove_dir_all(folder).unwrap();
}

#[actix::test]
async fn a_listener_that_is_replaced_where_it_is_has_no_setting_that_it_could_not_have() {
    let server = start(Threads::Current).await;
    let both = server.handle.listen("[::]:0").await.unwrap();
    let port = both.local_addr.port().unwrap();
    let all = || Listener::tcp(("::", port));
    let error = server.handle.replace_listener(both.id, all().only_v6(true)).await.unwrap_err();
    assert!(matches!(error, BindError::OnlyV6 { only: true, .. }), "{error}");
    server.handle.replace_listener(both.id, all().only_v6(false)).await.unwrap();
    let error = server.handle.replace_listener(both.id, all().unix_mode(0o600)).await.unwrap_err();
    assert!(matches!(error, BindError::Unsuited { setting: "unix_mode", .. }), "{error}");
    greet(SocketAddr::from(([127, 0, 0, 1], port))).await;
}

#[actix::test]
async fn a_pause_holds_for_a_listener_that_is_replaced_and_what_is_in_its_backlog_is_answered_when_it_is_closed() {
    for threads in ALL {
        let server = start(threads).await;
        let added = server.handle.listen(free().name("second")).await.unwrap();
        assert!(server.handle.pause(added.id).await.unwrap());
        let replaced = server.handle.replace_listener(added.id, free().name("second")).await.unwrap();
        assert!(replaced.is_paused && server.handle.listener("second").unwrap().is_paused);
        let mut peers = Vec::new();
        for _ in 0..5 {
            let mut peer = Peer::connect(ip(&added)).await;
            peer.send(b"hello\n").await;
            peers.push(peer);
        }
        assert_eq!(server.handle.stats().await.unwrap().opened, 0, "{threads:?}");
        close(&server.handle, &added).await;
        for peer in &mut peers {
            peer.expect(b"uryyb\n").await;
        }
        assert!(is_refused(ip(&added)).await);
        let at_once = server.handle.listen(free()).await.unwrap();
        assert!(server.handle.pause(at_once.id).await.unwrap());
        let mut reset = Peer::connect(ip(&at_once)).await;
        assert!(within("a listener to be closed", server.handle.abort_listener(at_once.id)).await);
        let read = within("a reset", tokio::io::AsyncReadExt::read(&mut reset.stream, &mut [0; 1])).await;
        assert!(read.is_err(), "{threads:?}: {read:?}");
        within("the end", server.handle.abort()).await.unwrap();
        within("the end", server.handle.wait()).await.unwrap();
    }
}

#[actix::test]
async fn a_server_without_listeners_goes_on_until_it_is_drained() {
    for threads in ALL {
        let server = start(threads).await;
        let mut peer = greet(server.address()).await;
        let only = server.handle.listeners().remove(0);
        close(&server.handle, &only).await;
        assert!(server.handle.listeners().is_empty());
        talk(&mut peer).await;
        let again = server.handle.listen(free()).await.unwrap();
        let mut second = greet(ip(&again)).await;
        close(&server.handle, &again).await;
        talk(&mut second).await;
        drop((peer, second));
        let report = within("the drain", server.handle.drain(PATIENCE)).await.unwrap();
        assert_eq!(report.cut, 0, "{threads:?}");
        within("the end", server.handle.wait()).await.unwrap();
    }
}

#[actix::test]
async fn sessions_keep_every_byte_while_a_hundred_changes_happen() {
    for threads in ALL {
        let server = start(threads).await;
        let kept = server.handle.listen(free().name("kept")).await.unwrap();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut loads = Vec::new();
        for address in [server.address(), ip(&kept)] {
            for number in 0..4 {
                let stopped = stopped.clone();
                loads.push(actix_rt::spawn(async move {
                    let mut lines = 0;
                    let mut peer = Peer::connect(address).await;
                    while !*stopped.borrow() {
                        // The half of them comes anew for each line.
                        if number % 2 == 0 {
                            peer = Peer::connect(address).await;
                        }
                        let line = format!("line {lines} of peer {number}\n");
                        peer.send(line.as_bytes()).await;
                        peer.expect(&actix_lines_rot13(line.as_bytes())).await;
                        lines += 1;
                    }
                    lines
                }));
            }
        }
        for round in 0..34_u64 {
            let added = server.handle.listen(free().name("other")).await.unwrap();
            let mut peer = greet(ip(&added)).await;
            let limits = Limits::builder().idle_timeout(Some(Duration::from_secs(1000 + round % 3))).build().unwrap();
            let listener = free().name("kept");
            let listener = if round % 2 == 0 { listener.limits(limits) } else { listener };
            let replaced = server.handle.replace_listener(kept.id, listener).await.unwrap();
            assert_eq!(replaced, kept);
            close(&server.handle, &added).await;
            talk(&mut peer).await;
        }
        stop.send_replace(true);
        for load in loads {
            assert!(within("a peer", load).await.unwrap() > 0, "{threads:?}");
        }
        let stats = server.handle.stats().await.unwrap();
        assert!(stats.refused.is_empty(), "{threads:?}: {:?}", stats.refused);
        within("the drain", server.handle.drain(PATIENCE)).await.unwrap();
        within("the end", server.handle.wait()).await.unwrap();
    }
}

fn actix_lines_rot13(bytes: &[u8]) -> Vec<u8> {
    let rotate = |byte: u8, first: u8| (byte - first + 13) % 26 + first;
    let of = |byte: u8| match byte {
        b'a'..=b'z' => rotate(byte, b'a'),
        b'A'..=b'Z' => rotate(byte, b'A'),
        other => other,
    };
    bytes.iter().copied().map(of).collect()
}

#[actix::test]
async fn a_thousand_listeners_that_came_and_went_leave_no_descriptor() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let server = start(Threads::Workers(2)).await;
    let before = descriptors();
    for round in 0..1000_u64 {
        let limits = Limits::builder().idle_timeout(Some(Duration::from_secs(1000 + round % 7))).build().unwrap();
        let listener = free().name("other");
        let listener = if round % 10 == 0 { listener.limits(limits) } else { listener };
        let added = server.handle.listen(listener).await.unwrap();
        if round % 100 == 0 {
            drop(greet(ip(&added)).await);
        }
        close(&server.handle, &added).await;
    }
    eventually("the descriptors of sessions to be closed", async || descriptors() <= before).await;
    assert_eq!(server.handle.listeners().len(), 1);
    let _peer = greet(server.address()).await;
    within("the end", server.handle.abort()).await.unwrap();
    within("the end", server.handle.wait()).await.unwrap();
}

#[actix::test]
async fn a_drain_that_begins_while_listeners_are_added_closes_every_one_of_them() {
    for threads in ALL {
        let server = start(threads).await;
        let adding = actix_rt::spawn({
            let server = server.handle.clone();
            async move {
                let mut added = Vec::new();
                loop {
                    // An address of this test's own: its ports are nobody else's afterwards.
                    match server.listen(Listener::tcp("127.77.0.1:0")).await {
                        Ok(listener) => added.push(listener),
                        Err(BindError::ServerEnding) => return added,
                        Err(error) => panic!("{error}"),
                    }
                    tokio::task::yield_now().await;
                }
            }
        });
        eventually("some to be there", async || server.handle.listeners().len() > 5).await;
        within("the drain", server.handle.drain(PATIENCE)).await.unwrap();
        within("the end", server.handle.wait()).await.unwrap();
        let added = within("the last to be refused", adding).await.unwrap();
        for listener in added {
            assert!(is_refused(ip(&listener)).await, "{threads:?}");
        }
    }
}
