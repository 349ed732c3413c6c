//! `run` drains at SIGTERM and SIGINT unless it is told not to; `start` does only if it is told to.

mod support;

use std::{net::TcpListener, time::Duration};

use actix_lines::{EndSignals, LineServer, control::Drain};
use rustix::process::{Signal, getpid, kill_process};
use support::{Echo, Peer, eventually, within};
use tokio::signal::unix::{SignalKind, signal};

/// One test: a signal is the whole process's.
#[actix::test]
async fn run_drains_at_a_signal_unless_it_is_told_not_to_and_start_only_if_it_is_told_to() {
    // The process lives on when no server takes them.
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let mut interrupt = signal(SignalKind::interrupt()).unwrap();
    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();

    let left_alone = listener();
    let address = left_alone.local_addr().unwrap();
    let disabled = LineServer::new(|_| Echo).workers(1).listen(left_alone).unwrap().disable_signals();
    actix_rt::spawn(disabled.run());
    let started = LineServer::new(|_| Echo).workers(1).listen(listener()).unwrap().start().unwrap();

    for sent in [Signal::TERM, Signal::INT] {
        let of_run = listener();
        let of_run_address = of_run.local_addr().unwrap();
        let running = actix_rt::spawn(LineServer::new(|_| Echo).workers(1).listen(of_run).unwrap().run());
        let told = LineServer::new(|_| Echo).workers(1).listen(listener()).unwrap();
        let drain = Drain::within(Duration::from_secs(20)).goodbye("goodbye\n");
        let told = told.drain_on_signals(drain).start().unwrap();
        let mut drained = Vec::new();
        for address in [of_run_address, told.local_addrs()[0]] {
            let mut peer = Peer::connect(address).await;
            peer.send(b"hello\n").await;
            peer.expect(b"hello\n").await;
            drained.push(peer);
        }

        kill_process(getpid(), sent).unwrap();
        for (mut peer, goodbye) in drained.into_iter().zip([&b""[..], b"goodbye\n"]) {
            peer.expect(goodbye).await;
            peer.expect_eof().await;
        }
        within("the server that runs to end", running).await.unwrap().unwrap();
        within("the server that is told to drain to end", told.wait()).await.unwrap();
        let _ = match sent {
            Signal::TERM => within("SIGTERM", terminate.recv()).await,
            _ => within("SIGINT", interrupt.recv()).await,
        };
        for address in [address, started.local_addrs()[0]] {
            let mut peer = Peer::connect(address).await;
            peer.send(b"still there?\n").await;
            peer.expect(b"still there?\n").await;
        }
    }
    within("the abort", started.abort()).await.unwrap();
}

/// No signal is sent: each is applied by its name.
#[actix::test]
async fn a_program_that_handles_signals_of_its_own_has_the_same_steps() {
    let mut ends = EndSignals::new().unwrap();
    let server = LineServer::new(|_| Echo).workers(1).bind("127.0.0.1:0").unwrap().start().unwrap();
    let mut peer = Peer::connect(server.local_addrs()[0]).await;
    let drain = Drain::within(Duration::from_secs(1000)).delay(Duration::from_secs(1000)).goodbye("goodbye\n");

    assert!(ends.apply("SIGTERM", &server, drain.clone()).await.is_continue());
    eventually("the drain to be announced", async || server.draining().is_some()).await;
    peer.send(b"still there?\n").await;
    peer.expect(b"still there?\n").await;
    assert!(!server.draining().unwrap().has_begun());

    assert!(ends.apply("SIGINT", &server, drain.clone()).await.is_continue());
    peer.expect(b"goodbye\n").await;

    assert!(within("the abort", ends.apply("SIGTERM", &server, drain)).await.is_break());
    within("the server to end", server.wait()).await.unwrap();
}
