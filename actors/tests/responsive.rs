//! A worker that hangs is known by its number, and one that only has much to do is not taken for one that hangs.

mod support;

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use actix::{Actor, Context};
use actix_lines::{Line, LineContext, LineHandler, LineServer, Rot13};
use support::{PATIENCE, eventually, within};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// Blocks its worker at a line until the test ends that.
struct Blocks(Arc<Mutex<Option<Receiver<()>>>>);

impl Actor for Blocks {
    type Context = LineContext<Self>;
}

impl LineHandler for Blocks {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let end = self.0.lock().unwrap().take();
        if let Some(end) = end {
            let _ = end.recv_timeout(PATIENCE);
        }
        ctx.write(line);
    }
}

/// Not long, for those who give no sign of life whatever the machine does.
const SHORT: Duration = Duration::from_millis(200);

#[actix::test]
async fn a_worker_that_hangs_is_named_until_it_goes_on() {
    let (go_on, end) = channel();
    let end = Arc::new(Mutex::new(Some(end)));
    let server = {
        let end = Arc::clone(&end);
        let server = LineServer::new(move |_| Blocks(end.clone())).slow_turn(None).workers(3);
        server.bind("127.0.0.1:0").unwrap().start().unwrap()
    };
    assert_eq!(within("all workers", server.unresponsive(PATIENCE)).await, [0_usize; 0]);
    let mut peer = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    peer.write_all(b"stop\n").await.unwrap();
    eventually("the handler to block", async || end.lock().unwrap().is_none()).await;
    // The others may have to wait for a processor longer than that.
    eventually("one alone to be silent", async || {
        let silent = server.unresponsive(SHORT).await;
        assert!(!silent.is_empty() && silent.iter().all(|worker| *worker < 3), "{silent:?}");
        silent.len() == 1
    })
    .await;
    assert!(
        tokio::time::timeout(SHORT, server.stats()).await.is_err(),
        "the counters of a worker that hangs are known"
    );
    go_on.send(()).unwrap();
    assert_eq!(within("all workers", server.unresponsive(PATIENCE)).await, [0_usize; 0]);
    server.abort().await.unwrap();
    server.wait().await.unwrap();
}

#[actix::test]
async fn a_worker_that_has_stopped_is_silent_at_once() {
    let server = LineServer::new(|_| Rot13).workers(2).bind("127.0.0.1:0").unwrap().start().unwrap();
    server.arbiters()[1].stop();
    eventually("the worker to stop", async || server.unresponsive(PATIENCE).await == [1]).await;
    server.abort().await.unwrap();
}

#[actix::test]
async fn a_worker_of_this_thread_answers_beside_other_actors() {
    struct Other;
    impl Actor for Other {
        type Context = Context<Self>;
    }
    let _other = Other.start();
    let server = LineServer::new(|_| Rot13).on_current_arbiter().bind("127.0.0.1:0").unwrap().start().unwrap();
    assert_eq!(within("the worker", server.unresponsive(PATIENCE)).await, [0_usize; 0]);
    server.abort().await.unwrap();
}
