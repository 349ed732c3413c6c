//! A server that cannot have its threads says so, and leaves nothing behind. Alone in its file: it lowers the limit of the
//! whole process.

mod support;

use actix_lines::{LineServer, StartError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Echo, Peer, eventually, within};

/// Names of what `/proc/self` has under `kind`: open descriptors or threads.
fn count(kind: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{kind}")).unwrap().count()
}

#[actix::test]
async fn workers_that_cannot_be_made_are_an_error_and_those_that_were_are_gone() {
    const WORKERS: usize = 3;
    let limit = getrlimit(Resource::Nofile);
    let (descriptors, threads) = (count("fd"), count("task"));
    let mut failed = [0; WORKERS];
    for free in 0.. {
        let server = LineServer::new(|_| Echo).workers(WORKERS).bind("127.0.0.1:0").unwrap();
        // The listener has one, the reading of the folder had one.
        let lowered = Some((descriptors + free) as u64);
        setrlimit(Resource::Nofile, Rlimit { current: lowered, maximum: limit.maximum }).unwrap();
        let started = server.start();
        setrlimit(Resource::Nofile, limit).unwrap();
        match started {
            Err(error @ StartError::Worker { worker, workers, .. }) => {
                assert_eq!(workers, WORKERS);
                failed[worker - 1] += 1;
                assert_eq!(
                    error.to_string(),
                    format!(
                        "cannot start worker {worker} of 3: too many open files; raise the descriptor limit (ulimit -n, or \
                         LimitNOFILE= of its service), or use fewer workers"
                    )
                );
                // A thread that was joined may be listed a moment longer.
                eventually("nothing to be left", async || (count("fd"), count("task")) == (descriptors, threads)).await;
            }
            Err(error) => panic!("{error}"),
            Ok(server) => {
                let mut peer = Peer::connect(server.local_addrs()[0]).await;
                peer.send(b"hello\n").await;
                peer.expect(b"hello\n").await;
                within("the abort", server.abort()).await.unwrap();
                return assert!(failed.iter().all(|count| *count > 0), "{failed:?}");
            }
        }
    }
}
