//! Behind: a server whose listener has filters, and conversations through them; for the rest as `plain` has it.
// As `support` is.
#![allow(unreachable_pub)]

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    sync::{Arc, OnceLock},
};

use actix_lines::Half;
use actix_lines::{
    Connection, Framing, LineContext, LineHandler, LineServer, Listener, Transport,
    proxy::Proxy,
    telnet::Telnet,
    testing::{FaultyStream, MemoryCapacity, memory_pair},
    tls::{Pem, Tls, rustls::ClientConfig},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub use crate::plain::Peer;
use crate::{authority::Authority, plain, tunnel};

/// Names the filters, with commas between.
pub const VARIABLE: &str = "ACTIX_LINES_BEHIND";

/// How often a property is tried: each time has a handshake.
pub const CASES: u32 = 8;

/// False: between a peer and its session there is a tunnel.
pub fn is_direct() -> bool {
    false
}

/// Returns true if a header tells who the peer is; else the tunnel is the peer.
pub fn knows_peer() -> bool {
    Filters::get().proxy
}

/// The filters of this process.
pub struct Filters {
    pub proxy: bool,
    pub telnet: bool,
    pub tls: Option<(Tls, Arc<ClientConfig>)>,
}

impl Filters {
    pub fn get() -> &'static Self {
        static FILTERS: OnceLock<Filters> = OnceLock::new();
        FILTERS.get_or_init(|| {
            let names = std::env::var(VARIABLE).unwrap_or_else(|_| "proxy,tls,telnet".to_owned());
            let has = |name| names.split(',').any(|known| known == name);
            let tls = has("tls").then(|| {
                let authority = Authority::new();
                let files = authority.issue("server", &["localhost"]);
                let pem = |path| Pem::bytes(std::fs::read(path).unwrap());
                let tls = Tls::builder(pem(files.certificate), pem(files.key)).build().unwrap();
                (tls, authority.client().config())
            });
            Self { proxy: has("proxy"), telnet: has("telnet"), tls }
        })
    }

    fn listener(&self) -> Listener {
        let mut listener = Listener::tcp("127.0.0.1:0");
        if self.proxy {
            listener = listener.proxy(Proxy::required().trust(["127.0.0.0/8".parse().unwrap()]));
        }
        if let Some((tls, _)) = &self.tls {
            listener = listener.tls(tls);
        }
        if self.telnet { listener.telnet(Telnet::new()) } else { listener }
    }

    fn transport(&self, mut transport: Transport) -> Transport {
        if self.proxy {
            transport = transport.with_filter(Proxy::required().filter());
        }
        if let Some((tls, _)) = &self.tls {
            transport = transport.with_tls(tls);
        }
        if self.telnet { transport.with_filter(Telnet::new().filter()) } else { transport }
    }
}

/// A server behind filters, and the tunnel to it.
pub struct Server {
    server: plain::Server,
    tunnel: SocketAddr,
}

impl Server {
    pub async fn start<A, F>(server: LineServer<A, F>) -> Self
    where
        A: LineHandler,
        F: Fn(&Connection) -> A + Clone + Send + 'static,
    {
        let server = plain::Server::of(server.listen(Filters::get().listener()).unwrap()).await;
        let tunnel = tunnel::open(server.address()).await;
        Self { server, tunnel }
    }

    /// The tunnel's address.
    pub fn address(&self) -> SocketAddr {
        self.tunnel
    }

    pub async fn connect(&self) -> Peer {
        Peer::connect(self.tunnel).await
    }

    pub async fn end(self) {
        self.server.end().await;
    }
}

impl Deref for Server {
    type Target = plain::Server;
    fn deref(&self) -> &plain::Server {
        &self.server
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut plain::Server {
        &mut self.server
    }
}

/// Runs one session over an in-memory pair, as `plain::converse` does. A short wire is read and written in pieces of a
/// few bytes, but where there is one chunk.
pub async fn converse<A: LineHandler>(framing: Framing, actor: A, chunks: &[&[u8]]) -> Vec<u8> {
    const PIECES: [usize; 5] = [1, 2, 5, 64, 1000];
    let total: usize = chunks.iter().map(|chunk| chunk.len()).sum();
    let capacity = 128 * 1024;
    let (ours, theirs) = memory_pair(MemoryCapacity { to_session: capacity, to_peer: capacity });
    let (ours, faults) = FaultyStream::new(ours);
    if chunks.len() > 1 && total < 4096 {
        faults.limit(Half::Read, PIECES[total % PIECES.len()]);
        faults.limit(Half::Write, PIECES[chunks.len() % PIECES.len()]);
    }
    LineContext::start(Filters::get().transport(Transport::new(ours)), framing, actor);
    let wire = plain::within("the handshake", tunnel::begin(theirs, None)).await.unwrap();
    let (mut read, mut write) = tokio::io::split(wire);
    let answer = tokio::task::spawn_local(async move {
        let mut answer = Vec::new();
        // An abort is a truncation.
        let _ = read.read_to_end(&mut answer).await;
        tunnel::Words::default().decode(&answer)
    });
    let mut words = tunnel::Words::default();
    for chunk in chunks {
        // A session that closed early reads no more.
        if write.write_all(&words.encode(chunk)).await.is_err() || write.flush().await.is_err() {
            break;
        }
        // The session's turn.
        tokio::task::yield_now().await;
    }
    let _ = write.write_all(words.last()).await;
    let _ = write.shutdown().await;
    plain::within("the answer", answer).await.unwrap()
}
