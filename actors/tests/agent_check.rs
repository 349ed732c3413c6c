//! Agent checks: one line for each, at once, that says what HAProxy is to do with the server.

#[cfg(feature = "cluster")]
#[path = "support/bent.rs"]
mod bent;
mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use actix_lines::{
    LineServer, ListenAddress, Listener, ServerHandle,
    agent_check::{AgentCheck, AgentState, Load},
    control::Drain,
    limits::Limits,
};
use support::{Echo, PATIENCE, Peer, eventually, free, pause, within};

type EchoServer = LineServer<Echo, fn(&actix_lines::Connection) -> Echo>;

fn echo(max_sessions: usize) -> EchoServer {
    let limits = Limits::builder().max_sessions(max_sessions).build().unwrap();
    let echo: fn(&actix_lines::Connection) -> Echo = |_| Echo;
    LineServer::new(echo).limits(limits).on_current_arbiter()
}

/// Starts a server and what answers for it; returns where that is.
fn start(server: EchoServer, agent: AgentCheck) -> (ServerHandle, SocketAddr) {
    let server = server.start().unwrap();
    let agent = agent.bind().unwrap();
    let address = agent.local_addrs()[0];
    agent.start(&server).unwrap();
    (server, address)
}

/// What HAProxy does.
async fn ask(agent: SocketAddr) -> String {
    let answer = Peer::connect(agent).await.rest().await;
    String::from_utf8(answer).unwrap()
}

async fn greet(server: &ServerHandle) -> Peer {
    let mut peer = Peer::connect(server.local_addrs()[0]).await;
    peer.send(b"hello\n").await;
    peer.expect(b"hello\n").await;
    peer
}

#[test]
fn a_weight_is_the_free_share_and_never_none() {
    let weight = |live, max_sessions| {
        let mut load = Load::default();
        (load.live, load.max_sessions) = (live, max_sessions);
        load.weight()
    };
    assert_eq!(weight(0, 10), 100);
    assert_eq!(weight(27, 100), 73);
    assert_eq!(weight(999, 1000), 1);
    assert_eq!((weight(10, 10), weight(11, 10), weight(0, 0)), (1, 1, 1));
    assert_eq!(weight(1_000_000, u64::MAX), 99);
}

#[test]
fn an_answer_is_a_line_that_haproxy_reads() {
    let line = |state: AgentState| state.to_string();
    assert_eq!(line(AgentState::Up { weight: 73 }), "up ready 73%");
    assert_eq!(line(AgentState::Drain), "drain");
    assert_eq!(line(AgentState::Maint), "maint");
    assert_eq!(line(AgentState::Down("store lost".to_owned())), "down #store lost");
    // A reason is part of the line, whatever is in it.
    let odd = line(AgentState::Down(format!("a\r\nready\u{1b}{}", "x".repeat(1000))));
    assert!(odd.len() < 200 && !odd.contains(['\r', '\n', '\u{1b}']), "{odd}");
}

#[actix::test]
async fn the_weight_falls_as_sessions_come() {
    let (server, agent) = start(echo(4).bind("127.0.0.1:0").unwrap(), AgentCheck::at(free()));
    assert_eq!(ask(agent).await, "up ready 100%\n");
    let mut peers = Vec::new();
    for expected in ["up ready 75%\n", "up ready 50%\n", "up ready 25%\n", "up ready 1%\n"] {
        peers.push(greet(&server).await);
        assert_eq!(ask(agent).await, expected);
    }
    drop(peers);
    eventually("the weight to rise again", async || ask(agent).await == "up ready 100%\n").await;
    // Checks are no sessions of the server.
    assert_eq!(server.stats().await.unwrap().opened, 4);
    within("the end", server.abort()).await.unwrap();
}

#[actix::test]
async fn whatever_a_check_sends_it_has_its_answer_without_a_reset() {
    let (server, agent) = start(echo(4).bind("127.0.0.1:0").unwrap(), AgentCheck::at(free()));
    for sent in [&b"public\n"[..], b"GET / HTTP/1.0\r\n\r\n", &[b'x'; 20_000]] {
        let mut check = Peer::connect(agent).await;
        check.send(sent).await;
        assert_eq!(check.rest().await, b"up ready 100%\n");
    }
    // One that only connects and leaves.
    drop(Peer::connect(agent).await);
    assert_eq!(ask(agent).await, "up ready 100%\n");
    within("the end", server.abort()).await.unwrap();
}

#[actix::test]
async fn a_server_that_is_about_to_drain_says_so_until_it_has_ended() {
    pause();
    let (server, agent) = start(echo(4).bind("127.0.0.1:0").unwrap(), AgentCheck::at(free()));
    let mut peer = greet(&server).await;
    let drain = Drain::within(PATIENCE / 2).delay(Duration::from_secs(5));
    let drained = actix_rt::spawn(server.supervisor().send(drain));
    eventually("the announcement", async || server.draining().is_some()).await;
    assert_eq!(ask(agent).await, "drain\n");
    peer.send(b"hello\n").await;
    peer.expect(b"hello\n").await;
    peer.expect_eof().await;
    assert!(server.draining().is_some_and(|progress| progress.has_begun()));
    assert_eq!(ask(agent).await, "drain\n");
    drop(peer);
    within("the drain", drained).await.unwrap().unwrap();
    within("the end of the server, and of what answers for it", server.wait()).await.unwrap();
    assert!(tokio::net::TcpStream::connect(agent).await.is_err(), "nobody is there any more");
}

#[actix::test]
async fn a_paused_listener_drains_and_comes_back() {
    let server = echo(10).listen(free().name("public")).unwrap().listen(free().name("private")).unwrap();
    let (server, agent) = start(server, AgentCheck::at(free()));
    let bind = |name| AgentCheck::at(free()).of_listener(name).bind().unwrap();
    let (public, none) = (bind("public"), bind("other"));
    let (of_public, of_none) = (public.local_addrs()[0], none.local_addrs()[0]);
    public.start(&server).unwrap();
    none.start(&server).unwrap();
    assert_eq!([ask(agent).await, ask(of_public).await], ["up ready 100%\n"; 2]);
    assert_eq!(ask(of_none).await, "down #no listener other\n");
    let [public, private] = ["public", "private"].map(|name| server.listener(name).unwrap().id);
    server.pause(public).await.unwrap();
    assert_eq!([ask(agent).await, ask(of_public).await], ["up ready 100%\n", "drain\n"]);
    server.pause(private).await.unwrap();
    assert_eq!([ask(agent).await, ask(of_public).await], ["drain\n"; 2]);
    server.resume(public).await.unwrap();
    assert_eq!([ask(agent).await, ask(of_public).await], ["up ready 100%\n"; 2]);
    within("the end", server.abort()).await.unwrap();
}

#[actix::test]
async fn a_listener_has_a_weight_of_its_own() {
    let server =
        echo(100).listen(free().name("public").max_sessions(2)).unwrap().listen(free().name("private")).unwrap();
    let (server, agent) = start(server, AgentCheck::at(free()).of_listener("public"));
    let _peer = greet(&server).await;
    assert_eq!(ask(agent).await, "up ready 50%\n");
    within("the end", server.abort()).await.unwrap();
}

#[actix::test]
async fn hooks_say_what_only_the_program_knows() {
    let state: Arc<Mutex<Option<AgentState>>> = Arc::default();
    let weight = Arc::new(AtomicU8::new(42));
    let agent = AgentCheck::at(free())
        .weight({
            let weight = Arc::clone(&weight);
            move |load| weight.load(Relaxed).saturating_sub(load.live as u8)
        })
        .also(|| None)
        .also({
            let state = Arc::clone(&state);
            move || state.lock().unwrap().clone()
        });
    let (server, agent) = start(echo(10).bind("127.0.0.1:0").unwrap(), agent);
    let _peer = greet(&server).await;
    assert_eq!(ask(agent).await, "up ready 41%\n");
    for (said, line) in [
        (AgentState::Down("no database".to_owned()), "down #no database\n"),
        (AgentState::Maint, "maint\n"),
        (AgentState::Drain, "drain\n"),
    ] {
        *state.lock().unwrap() = Some(said);
        assert_eq!(ask(agent).await, line);
    }
    *state.lock().unwrap() = None;
    assert_eq!(ask(agent).await, "up ready 41%\n");
    within("the end", server.abort()).await.unwrap();
}

#[actix::test]
async fn a_builder_takes_it_and_an_address_in_use_is_an_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = ListenAddress::Ip(taken.local_addr().unwrap());
    let refused = echo(1).bind("127.0.0.1:0").unwrap().agent_check(AgentCheck::at(Listener::at(at.clone())));
    assert!(refused.unwrap_err().to_string().contains("in use"));
    drop(taken);
    let server = echo(1).bind("127.0.0.1:0").unwrap().agent_check(AgentCheck::at(at.clone())).unwrap().start().unwrap();
    let ListenAddress::Ip(agent) = at else { unreachable!("an IP address") };
    assert_eq!(ask(agent).await, "up ready 100%\n");
    within("the end", server.abort()).await.unwrap();
    within("the end", server.wait()).await.unwrap();
}

#[cfg(feature = "cluster")]
#[actix::test]
async fn a_node_that_lets_nobody_in_on_its_own_is_down_until_its_store_is_back() {
    use actix_lines::cluster::{
        Cluster, FleetLimits, OnPartition,
        memory::{Fault, Memory},
    };

    for (policy, lost) in [(OnPartition::Open, "up ready 100%\n"), (OnPartition::Closed, "down #cluster: store lost\n")]
    {
        let store = Memory::new();
        let limits = FleetLimits::builder().max_sessions(7).on_partition(policy).build().unwrap();
        let cluster = Cluster::builder(store.clone()).node("a").lease(Duration::from_secs(3)).limits(limits);
        let cluster = cluster.build().unwrap();
        let server = echo(10).cluster(&cluster).unwrap().bind("127.0.0.1:0").unwrap();
        let (server, agent) = start(server, AgentCheck::at(free()).cluster(&cluster));
        eventually("the node to join", async || cluster.node().is_some()).await;
        assert_eq!(ask(agent).await, "up ready 100%\n");
        store.fail(Fault::Hanging);
        let is_lost = async || matches!(cluster.health(), actix_lines::cluster::Health::Lost { .. });
        eventually("the store to be lost", is_lost).await;
        assert_eq!(ask(agent).await, lost);
        store.heal();
        eventually("the store to be back", async || ask(agent).await == "up ready 100%\n").await;
        within("the end", server.abort()).await.unwrap();
    }
}

#[cfg(feature = "cluster")]
#[actix::test]
async fn a_node_that_lets_nobody_in_on_its_own_is_down_until_its_store_has_answered() {
    use actix_lines::cluster::{Cluster, FleetLimits, OnPartition, memory::Memory};

    for (policy, starting) in [
        (OnPartition::Open, "up ready 100%\n"),
        (OnPartition::Closed, "down #cluster: the store has not answered yet\n"),
    ] {
        let hour = Duration::from_secs(3600);
        let store = bent::Bent::new(&Memory::new());
        store.bend("unregister", bent::Bend::Late(hour));
        let limits = FleetLimits::builder().max_sessions(7).on_partition(policy).build().unwrap();
        let cluster = Cluster::builder(store).node("a").lease(hour).call_timeout(hour / 3).limits(limits);
        let cluster = cluster.build().unwrap();
        let server = echo(10).cluster(&cluster).unwrap().bind("127.0.0.1:0").unwrap();
        let (server, agent) = start(server, AgentCheck::at(free()).cluster(&cluster));
        assert_eq!(ask(agent).await, starting);
        within("the end", server.abort()).await.unwrap();
    }
}
