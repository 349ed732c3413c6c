//! Peers of unix sockets and of both families of IP, in lists, limits and what is known of sessions.
//!
//! Not here: limits of sources in general (`admission`), who may connect to a path (`unix`).

use std::path::PathBuf;

use actix_lines::{
    LineServer, Peers, Rot13,
    control::SessionFilter,
    limits::{Limits, LimitsBuilder},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use crate::support::{Server, at_once};

mod support;

/// A server at a unix socket and on `[::1]` and `127.0.0.1` by way of `[::]`.
struct Both {
    server: Server,
    path: PathBuf,
}

impl Both {
    async fn start(name: &str, limits: LimitsBuilder) -> Self {
        let path = std::env::temp_dir().join(format!("actix-lines-peers-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let server = LineServer::new(|_| Rot13).limits(limits.build().unwrap()).workers(1);
        let server = server.bind("[::]:0").unwrap().bind(format!("unix:{}", path.display())).unwrap();
        Self { server: Server::of(server).await, path }
    }

    async fn unix(&self) -> UnixStream {
        at_once("a connection", UnixStream::connect(&self.path)).await.unwrap()
    }

    async fn ipv4(&self) -> TcpStream {
        let port = self.server.address().port();
        at_once("a connection", TcpStream::connect(("127.0.0.1", port))).await.unwrap()
    }
}

/// True if the peer is served, false if it is closed without an answer.
async fn is_served(mut peer: impl AsyncReadExt + AsyncWriteExt + Unpin) -> bool {
    let _ = peer.write_all(b"hello\n").await;
    let mut answer = [0; 6];
    at_once("an answer or the end", peer.read_exact(&mut answer)).await.is_ok() && &answer == b"uryyb\n"
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn list(texts: &[String]) -> Vec<Peers> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[actix::test]
async fn a_list_of_those_allowed_keeps_out_all_others_of_whichever_kind() {
    let (uid, gid) = (own_uid(), rustix::process::getegid().as_raw());
    for (name, allow, deny, unix, ipv4) in [
        ("none", vec![], vec![], true, true),
        ("network", vec!["127.0.0.0/8".to_owned()], vec![], false, true),
        ("unix", vec!["unix".to_owned()], vec![], true, false),
        ("both", vec!["unix".to_owned(), "127.0.0.0/8".to_owned()], vec![], true, true),
        ("uid", vec![format!("uid:{uid}")], vec![], true, false),
        ("other-uid", vec![format!("uid:{}", uid + 1)], vec![], false, false),
        ("gid", vec![format!("gid:{gid}")], vec![], true, false),
        ("deny-uid", vec![], vec![format!("uid:{uid}")], false, true),
        ("deny-gid", vec!["unix".to_owned()], vec![format!("gid:{gid}")], false, false),
        ("deny-other", vec![], vec![format!("uid:{}", uid + 1)], true, true),
        ("deny-mapped", vec![], vec!["127.0.0.1".to_owned()], true, false),
    ] {
        let mut both = Both::start(name, Limits::builder().allow(list(&allow)).deny(list(&deny))).await;
        assert_eq!(is_served(both.unix().await).await, unix, "{name}");
        assert_eq!(is_served(both.ipv4().await).await, ipv4, "{name}");
        for _ in 0..u32::from(unix) + u32::from(ipv4) {
            both.server.report().await;
        }
        both.server.end().await;
    }
}

#[actix::test]
async fn a_user_is_one_source_unless_it_is_exempt() {
    for (name, exempt, second) in [("user", vec![], false), ("exempt", vec![format!("uid:{}", own_uid())], true)] {
        let mut both = Both::start(name, Limits::builder().max_sessions_per_source(1).exempt(list(&exempt))).await;
        let mut first = both.unix().await;
        first.write_all(b"hello\n").await.unwrap();
        at_once("an answer", first.read_exact(&mut [0; 6])).await.unwrap();
        assert_eq!(is_served(both.unix().await).await, second, "{name}");
        assert!(is_served(both.ipv4().await).await, "another source");
        drop(first);
        for _ in 0..2 + u32::from(second) {
            both.server.report().await;
        }
        both.server.end().await;
    }
}

#[actix::test]
async fn sessions_are_found_by_user_and_shown_with_it() {
    let mut both = Both::start("found", Limits::builder()).await;
    let mut unix = both.unix().await;
    let mut ipv4 = both.ipv4().await;
    for peer in [&mut unix as &mut (dyn AsyncBoth + Unpin), &mut ipv4] {
        peer.write_all(b"hello\n").await.unwrap();
        at_once("an answer", peer.read_exact(&mut [0; 6])).await.unwrap();
    }
    let of = |text: String| SessionFilter::source(text.parse().unwrap());
    let found = both.server.handle.sessions(of(format!("uid:{}", own_uid()))).await.unwrap();
    assert_eq!(found.total, 1);
    let shown = found.sessions[0].peer.to_string();
    assert!(shown.contains(&format!("pid {}, uid {}, gid ", std::process::id(), own_uid())), "{shown}");
    let found = both.server.handle.sessions(of("127.0.0.0/8".to_owned())).await.unwrap();
    let local = ipv4.local_addr().unwrap();
    assert_eq!((found.total, found.sessions[0].peer.to_string()), (1, local.to_string()), "IPv4 is shown as such");
    drop((unix, ipv4));
    let mut reports = [both.server.report().await.peer.to_string(), both.server.report().await.peer.to_string()];
    reports.sort();
    assert_eq!(reports, [local.to_string(), shown]);
    both.server.end().await;
}

trait AsyncBoth: tokio::io::AsyncRead + tokio::io::AsyncWrite {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite> AsyncBoth for T {}
