//! C1, C3, D6: of a storm of peers of all kinds, behind all filters, while everything is changed that may be changed, each
//! leaves one report, the counters are the sum of these, and nothing is kept: no place, no memory, no share of a source.

#[path = "support/tls.rs"]
mod authority;
mod support;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use actix::Actor;
use actix_lines::{
    CloseReport, Connection, Line, LineContext, LineHandler, LineServer, Listener, ListenerInfo,
    control::{SessionFilter, Stats},
    limits::{Limits, LimitsBuilder, Rate},
    proxy::{Proxy, ProxyHeader, ProxyVersion},
    telnet::Telnet,
    tls::{Tls, rustls::ClientConfig, rustls::pki_types::ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    authority::Authority,
    support::{Server, eventually, within},
};

/// Of each storm.
const PEERS: usize = 400;
const PER_SOURCE: usize = 12;
const SESSIONS: usize = 150;

/// Echoes lines; some mean more.
struct Stormy {
    tls: Tls,
    panics_at_upgrade: bool,
    panics_at_end: bool,
}

/// Lets others have their turns, whatever time that takes.
async fn some_turns() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

impl Actor for Stormy {
    type Context = LineContext<Self>;
}

impl LineHandler for Stormy {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        match line.text() {
            b"starttls" => {
                ctx.write("go\n");
                drop(ctx.start_tls(&self.tls));
                // Twice is an error, and nothing else.
                assert!(ctx.start_tls(&self.tls).is_err());
            }
            b"wait" => ctx.wait_for(some_turns(), |_: &mut Self, (), ctx| {
                ctx.write("waited\n");
            }),
            b"panic" => panic!("a fault on purpose, in a storm"),
            b"panic later" => self.panics_at_upgrade = true,
            b"panic last" => self.panics_at_end = true,
            b"half" => ctx.half_close(),
            b"much" => ctx.write(vec![b'x'; 300_000]),
            _ => ctx.write(&line),
        }
    }

    fn upgraded(&mut self, ctx: &mut Self::Context) {
        assert!(!self.panics_at_upgrade, "a fault on purpose, in a storm");
        ctx.write("upgraded\n");
    }

    fn closed(&mut self, _: &CloseReport) {
        assert!(!self.panics_at_end, "a fault on purpose, in a storm");
    }
}

/// A small generator of numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % most
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// A header, or what passes for one.
fn header(random: &mut Random) -> Vec<u8> {
    let source = format!("192.0.2.{}:{}", random.below(20), 1 + random.below(60_000));
    let real = ProxyHeader::of(
        source.parse::<std::net::SocketAddr>().unwrap(),
        "198.51.100.1:443".parse::<std::net::SocketAddr>().unwrap(),
    );
    match random.below(12) {
        0 => b"PROXY TCP4 192.0.2.1  198.51.100.1 1 2\r\n".to_vec(),
        1 => b"PROXY TCP4 192.0.2.1 198.51.100.1 1 99999\r\n".to_vec(),
        2 => b"PROXY UNKNOWN\r\n".to_vec(),
        3 => ProxyHeader::local().encode(ProxyVersion::V2).unwrap(),
        4 => {
            // A field that says it is longer than it is.
            let mut bytes = real.with_unique_id(b"1234").encode(ProxyVersion::V2).unwrap();
            let at = bytes.len() - 5;
            bytes[at] = 200;
            bytes
        }
        5 => vec![b'P'; 300],
        6 => b"PROXY TCP6 ::1 ::1 1 2".to_vec(),
        7 | 8 => real.encode(ProxyVersion::V1).unwrap(),
        _ => real.with_authority("lines.example").with_crc32c().encode(ProxyVersion::V2).unwrap(),
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8], random: &mut Random) -> std::io::Result<()> {
    let size = 1 + random.below(40);
    let bytes_one_by_one = random.below(3) == 0;
    for piece in bytes.chunks(if bytes_one_by_one { size } else { bytes.len().max(1) }) {
        stream.write_all(piece).await?;
        stream.flush().await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Reads some, or all that comes within a moment.
async fn listen(stream: &mut (impl AsyncRead + Unpin), random: &mut Random) {
    let mut buffer = vec![0; 4096];
    for _ in 0..random.below(4) {
        match tokio::time::timeout(Duration::from_millis(5), stream.read(&mut buffer)).await {
            Ok(Ok(1..)) => {}
            _ => break,
        }
    }
}

async fn talk(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), random: &mut Random) -> std::io::Result<()> {
    for _ in 0..random.below(6) {
        let line: &[u8] = random.one(&[
            b"one\n",
            b"two\r\nthree\n",
            b"half a line",
            b"wait\n",
            b"wait\nbehind it\n",
            b"panic\n",
            b"panic last\n",
            b"much\n",
            b"half\n",
            b"\xff\xfd\x01\xff\xfb\x1f\xff\xfa\x1f\0\x50\0\x18\xff\xf0",
            b"\xff\xf6\xff\xf4\xff",
        ]);
        send(stream, line, random).await?;
        listen(stream, random).await;
    }
    Ok(())
}

/// A whole life. Errors are the server's answers.
async fn live(kind: usize, mut stream: TcpStream, tls: Arc<ClientConfig>, random: &mut Random) -> std::io::Result<()> {
    let name = || ServerName::try_from("lines.example").unwrap();
    if kind > 0 {
        let header = header(random);
        send(&mut stream, &header, random).await?;
        if random.below(8) == 0 {
            listen(&mut stream, random).await;
            return Ok(());
        }
    }
    if kind == 2 {
        if random.below(4) == 0 {
            send(&mut stream, b"\x16\x03\x01\x02\0\x01\0\x01", random).await?;
            listen(&mut stream, random).await;
            return Ok(());
        }
        let connecting = TlsConnector::from(tls).connect(name(), stream);
        if let Ok(stream) = tokio::time::timeout(Duration::from_millis(500), connecting).await {
            let mut stream = stream?;
            talk(&mut stream, random).await?;
            if random.below(2) == 0 {
                let _ = stream.shutdown().await;
            }
            listen(&mut stream, random).await;
        }
        return Ok(());
    }
    talk(&mut stream, random).await?;
    if random.below(3) == 0 {
        if random.below(4) == 0 {
            send(&mut stream, b"panic later\n", random).await?;
        }
        let command: &[u8] = random.one(&[b"\nstarttls\n".as_slice(), b"\nstarttls\ninjected\n", b"\nstarttls\n\x16"]);
        send(&mut stream, command, random).await?;
        if random.below(2) == 0 {
            let mut all = Vec::new();
            while !all.ends_with(b"go\n") {
                let mut byte = [0];
                match tokio::time::timeout(Duration::from_millis(500), stream.read(&mut byte)).await {
                    Ok(Ok(1)) => all.extend(byte),
                    _ => return Ok(()),
                }
            }
            let connecting = TlsConnector::from(tls).connect(name(), stream);
            if let Ok(stream) = tokio::time::timeout(Duration::from_millis(500), connecting).await {
                talk(&mut stream?, random).await?;
            }
            return Ok(());
        }
    }
    match random.below(3) {
        0 => stream.shutdown().await?,
        1 => stream.set_zero_linger()?,
        _ => {}
    }
    listen(&mut stream, random).await;
    Ok(())
}

fn limits() -> LimitsBuilder {
    Limits::builder()
        .max_sessions(SESSIONS)
        .max_sessions_per_source(PER_SOURCE)
        .exempt(["127.0.0.1".parse().unwrap()])
        .max_prefaces(10)
        .preface_timeout(Duration::from_secs(1))
        .linger_timeout(Duration::from_millis(200))
        .refuse_line("no\n")
        .memory_budget(Some(1 << 20))
}

struct Site {
    kind: usize,
    info: ListenerInfo,
}

fn listener(kind: usize, tls: &Tls) -> Listener {
    let proxy = Proxy::required().trust(["127.0.0.0/8".parse().unwrap()]).timeout(Duration::from_secs(1));
    let listener = Listener::tcp("127.0.0.1:0");
    match kind {
        0 => listener.telnet(Telnet::new()),
        1 => listener.proxy(proxy).telnet(Telnet::new()),
        _ => listener.proxy(proxy).tls(tls.clone()).telnet(Telnet::new()),
    }
}

/// Changes what may be changed, one after the other.
async fn disturb(server: &actix_lines::ServerHandle, sites: &[Site], tls: &Tls, random: &mut Random) {
    let site = &sites[random.below(sites.len())];
    match random.below(7) {
        0 => {
            let source = format!("192.0.2.{}", random.below(20)).parse().unwrap();
            server.kick(SessionFilter::source(source), "bye\n").await.unwrap();
        }
        1 => drop(server.push(SessionFilter::default(), "hear\n").await.unwrap()),
        2 => {
            let address = site.info.local_addr.socket_addr().unwrap();
            let same = listener(site.kind, tls);
            // At its own port.
            let replaced = server.replace_listener(site.info.id, same).await.unwrap();
            assert_eq!(replaced.local_addr.socket_addr(), Some(address));
        }
        3 => {
            server.pause(site.info.id).await.unwrap();
            some_turns().await;
            server.resume(site.info.id).await.unwrap();
        }
        4 => {
            let rate = Some(Rate { per_second: 2000, burst: 50 });
            let changed = limits()
                .deny([format!("192.0.2.{}", random.below(20)).parse().unwrap()])
                .accept_rate(rate)
                .max_prefaces(1 + random.below(20))
                .max_sessions_per_source(1 + random.below(PER_SOURCE))
                .memory_budget(Some((1 << 20) + random.below(1 << 20)));
            server.set_limits(changed.build().unwrap()).await.unwrap();
        }
        5 => drop(server.set_limits(limits().build().unwrap()).await.unwrap()),
        _ => tls.reload().unwrap(),
    }
}

async fn storm(workers: Option<usize>, seed: u64) {
    let authority = Authority::new();
    let files = authority.issue("server", &["lines.example"]);
    let tls = Tls::builder(files.certificate.clone(), files.key.clone()).build().unwrap();
    let client = authority.client().config();
    let mut server = LineServer::new({
        let tls = tls.clone();
        move |_: &Connection| Stormy { tls: tls.clone(), panics_at_upgrade: false, panics_at_end: false }
    })
    .limits(limits().build().unwrap());
    for kind in 0..3 {
        server = server.listen(listener(kind, &tls)).unwrap();
    }
    let mut server = Server::of(match workers {
        Some(workers) => server.workers(workers),
        None => server.on_current_arbiter(),
    })
    .await;
    let sites: Vec<_> =
        server.handle.listeners().into_iter().enumerate().map(|(kind, info)| Site { kind, info }).collect();
    let mut random = Random(seed);
    let mut peers = Vec::new();
    for peer in 0..PEERS {
        let site = &sites[random.below(3)];
        let (kind, to, client) = (site.kind, site.info.local_addr.socket_addr().unwrap(), Arc::clone(&client));
        let mut own = Random(seed ^ ((peer as u64 + 1) << 20));
        peers.push(actix_rt::spawn(async move {
            if let Ok(stream) = TcpStream::connect(to).await {
                // What it was told is its own business.
                let _ = live(kind, stream, client, &mut own).await;
            }
        }));
        if peer % 8 == 0 {
            disturb(&server.handle, &sites, &tls, &mut random).await;
        }
    }
    for peer in peers {
        within("a peer", peer).await.unwrap();
    }
    server.handle.set_limits(limits().build().unwrap()).await.unwrap();
    let mut stats = Stats::default();
    eventually("all to be gone", async || {
        stats = server.handle.stats().await.unwrap();
        stats.live == 0
    })
    .await;
    assert_eq!((stats.prefaces, stats.outbox_bytes), (0, 0), "{stats:?}");
    assert_eq!(stats.closed.values().sum::<u64>(), stats.opened, "{stats:?}");

    // One report each, which add up to the counters.
    let mut ids = HashSet::new();
    let mut sums = [0; 5];
    let mut closed = BTreeMap::new();
    for _ in 0..stats.opened {
        let report = server.report().await;
        assert!(ids.insert(report.id), "twice: {report}");
        *closed.entry(report.reason.name()).or_insert(0) += 1;
        let counts =
            [report.lines_in, report.bytes_in, report.bytes_out, report.unsent_bytes, report.undelivered_bytes];
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    assert_eq!(server.report_if_any(), None);
    assert_eq!(closed, stats.closed);
    for reason in ["peer-eof", "handler-panicked", "proxy-invalid"] {
        assert!(closed.contains_key(reason), "the storm had no {reason}: {closed:?}");
    }
    assert_eq!(sums, [stats.lines_in, stats.bytes_in, stats.bytes_out, stats.unsent_bytes, stats.undelivered_bytes]);

    // Each source has its share again, exactly, and all together have all places.
    let before = stats.refused.get("max-sessions-per-source").copied().unwrap_or(0);
    let to = sites[1].info.local_addr.socket_addr().unwrap();
    let mut held = Vec::new();
    for source in 0..SESSIONS / PER_SOURCE {
        for nth in 0..=PER_SOURCE {
            let mut stream = within("a connection", TcpStream::connect(to)).await.unwrap();
            let header = format!("PROXY TCP4 192.0.2.{source} 198.51.100.1 1 2\r\nhello\n");
            within("the server", stream.write_all(header.as_bytes())).await.unwrap();
            let mut answer = [0; 3];
            within("an answer", stream.read_exact(&mut answer)).await.unwrap();
            let expected = if nth < PER_SOURCE { b"hel" } else { b"no\n" };
            assert_eq!(&answer, expected, "of source {source} the {nth}. of {PER_SOURCE}");
            if nth < PER_SOURCE {
                held.push(stream);
            }
        }
    }
    let stats = server.handle.stats().await.unwrap();
    assert_eq!(stats.refused["max-sessions-per-source"] - before, (SESSIONS / PER_SOURCE) as u64);
    drop(held);
    server.end_all().await;
}

#[actix::test]
async fn a_storm_of_all_kinds_leaves_one_report_each_and_nothing_else() {
    for (workers, seed) in [(None, 0x9e37_79b9_7f4a_7c15), (Some(1), 0xdead_beef_1234), (Some(2), 0x5eed_5eed_5eed)] {
        storm(workers, seed).await;
    }
}
