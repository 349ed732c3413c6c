//! C4: a listener that is added while descriptors are short begins to accept when there are some, and ends nobody.

use std::{env, fs::File, process::Command, time::Duration};

use actix_lines::{LineServer, Rot13};

mod support;
use support::{Peer, Server, pass, pause, within};

/// Set where descriptors are few: in a process of its own.
const FEW: &str = "ACTIX_LINES_FEW_DESCRIPTORS";

#[test]
fn a_listener_that_is_added_without_a_descriptor_to_spare_accepts_as_soon_as_there_is_one() {
    if env::var_os(FEW).is_some() {
        return actix::System::new().block_on(add_without_a_descriptor_to_spare());
    }
    let mut few = Command::new("sh");
    few.args(["-c", "ulimit -n 100; exec \"$0\" \"$@\""]).arg(env::current_exe().unwrap()).arg("--nocapture");
    let output = few.env(FEW, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn talk(peer: &mut Peer) {
    peer.send(b"hello\n").await;
    peer.expect(b"uryyb\n").await;
}

async fn add_without_a_descriptor_to_spare() {
    let server = Server::start(LineServer::new(|_| Rot13).on_current_arbiter()).await;
    let mut peer = server.connect().await;
    talk(&mut peer).await;
    let mut taken: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    // One for its socket, none for its acceptor.
    taken.pop();
    let added = server.handle.listen("127.0.0.1:0").await.unwrap();
    // Longer than failures of an acceptor are counted.
    pause();
    pass(Duration::from_secs(70)).await;
    talk(&mut peer).await;
    let ended = tokio::time::timeout(Duration::ZERO, server.handle.wait()).await;
    assert!(ended.is_err(), "the server goes on: {ended:?}");
    taken.clear();
    let address = added.local_addr.socket_addr().unwrap();
    let mut later = Peer::connect(address).await;
    later.send(b"hello\n").await;
    later.expect_later(b"uryyb\n").await;
    within("the end", server.handle.abort()).await.unwrap();
}
