//! A session without a listener keeps its promises over any two-way stream: a socket of one's own, a unix socket, a pair of
//! pipes, TLS, memory.

mod support;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix::{Actor, ActorContext, AsyncContext, Handler, Message, fut::wrap_future};
use actix_lines::{
    Address, CloseReason, CloseReport, Connection, Framing, Half, Line, LineContext, LineHandler, LineSession,
    Transport,
    limits::Limits,
    testing::{MemoryCapacity, memory_pair},
};
use support::{Gate, within};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream, UnixStream, unix::pipe},
    sync::oneshot,
    time::Instant,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        pki_types::{PrivateKeyDer, ServerName},
    },
};

/// What `much` answers.
const MUCH: usize = 1024 * 1024;

/// Answers each line with itself; some mean more.
struct Echo(Option<oneshot::Sender<CloseReport>>, Gate);

impl Actor for Echo {
    type Context = LineContext<Self>;
}

impl LineHandler for Echo {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
        match line.text() {
            b"wait" => ctx.wait(wrap_future::<_, Self>(self.1.passed())),
            b"much" => {
                ctx.write(vec![b'x'; MUCH]);
                ctx.stop();
            }
            b"stop" => ctx.stop(),
            _ => {}
        }
    }

    fn closed(&mut self, report: &CloseReport) {
        let _ = self.0.take().expect("a session is closed once").send(report.clone());
    }
}

/// A session of one's own, and the report that it will make.
fn start(transport: Transport) -> oneshot::Receiver<CloseReport> {
    start_at(&Gate::default(), transport)
}

/// The same, where waits are over when the gate is open.
fn start_at(gate: &Gate, transport: Transport) -> oneshot::Receiver<CloseReport> {
    let (closed, report) = oneshot::channel();
    LineSession::new(transport).start(Echo(Some(closed), gate.clone()));
    report
}

/// Two ends of a connection: the session's and the peer's.
trait Link {
    type Peer: AsyncRead + AsyncWrite + Unpin;
    const NAME: &'static str;
    async fn link() -> (Transport, Self::Peer);
}

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0, peer)
}

struct Tcp;

impl Link for Tcp {
    type Peer = TcpStream;
    const NAME: &'static str = "TCP";
    async fn link() -> (Transport, TcpStream) {
        let (ours, peer) = tcp().await;
        (ours.into(), peer)
    }
}

struct Unix;

impl Link for Unix {
    type Peer = UnixStream;
    const NAME: &'static str = "a unix socket";
    async fn link() -> (Transport, UnixStream) {
        let (ours, peer) = UnixStream::pair().unwrap();
        (Transport::new(ours), peer)
    }
}

/// Two pipes as one stream. A pipe has no half-close but to close its end, so that is what a shutdown does.
struct Pipes {
    receiver: pipe::Receiver,
    sender: Option<pipe::Sender>,
}

impl Pipes {
    fn pair() -> (Self, Self) {
        let (there, there_end) = pipe::pipe().unwrap();
        let (back, back_end) = pipe::pipe().unwrap();
        (Self { receiver: there_end, sender: Some(back) }, Self { receiver: back_end, sender: Some(there) })
    }

    fn sender(&mut self) -> io::Result<Pin<&mut pipe::Sender>> {
        self.sender.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncRead for Pipes {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.receiver).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipes {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.sender()?.poll_write(cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sender = None;
        Poll::Ready(Ok(()))
    }
}

struct Pipe;

impl Link for Pipe {
    type Peer = Pipes;
    const NAME: &'static str = "two pipes";
    async fn link() -> (Transport, Pipes) {
        let (ours, peer) = Pipes::pair();
        (Transport::new(ours), peer)
    }
}

struct Tls;

impl Link for Tls {
    type Peer = tokio_rustls::client::TlsStream<TcpStream>;
    const NAME: &'static str = "TLS";
    async fn link() -> (Transport, Self::Peer) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key);
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let (ours, peer) = tcp().await;
        let (ours, peer) = tokio::try_join!(
            TlsAcceptor::from(Arc::new(server.unwrap())).accept(ours),
            TlsConnector::from(Arc::new(client)).connect(ServerName::try_from("localhost").unwrap(), peer)
        )
        .unwrap();
        (Transport::new(ours), peer)
    }
}

struct Memory;

impl Link for Memory {
    type Peer = actix_lines::testing::MemoryStream;
    const NAME: &'static str = "memory";
    async fn link() -> (Transport, Self::Peer) {
        let (ours, peer) = memory_pair(MemoryCapacity::default());
        (Transport::new(ours), peer)
    }
}

/// Sends all, half-closes, and meanwhile reads to the EOF.
async fn converse(peer: impl AsyncRead + AsyncWrite + Unpin, input: &[u8], then_close: bool) -> io::Result<Vec<u8>> {
    let (mut read, mut write) = tokio::io::split(peer);
    let send = async {
        write.write_all(input).await?;
        if then_close {
            write.shutdown().await?;
        }
        io::Result::Ok(())
    };
    let mut answer = Vec::new();
    let receive = read.read_to_end(&mut answer);
    within("the answer", async { tokio::try_join!(send, receive) }).await?;
    Ok(answer)
}

/// D1, D6: what comes back is what was sent, whatever bytes it has, and the report counts it.
async fn is_exact<L: Link>() {
    let mut input = Vec::new();
    for length in 0..700_usize {
        input.extend((0..length).map(|at| (at * 31 + length) as u8).filter(|byte| *byte != b'\n'));
        input.extend_from_slice(if length % 3 == 0 { b"\r\n" } else { b"\n" });
    }
    input.extend_from_slice(b"and a tail\0");
    let (ours, peer) = within("a connection", L::link()).await;
    let report = start(ours);
    let answer = converse(peer, &input, true).await.unwrap_or_else(|error| panic!("{}: {error}", L::NAME));
    assert!(answer == input, "{}: {} bytes of {} came back, or others", L::NAME, answer.len(), input.len());
    let report = within("the report", report).await.unwrap();
    assert_eq!((report.reason, report.cut), (CloseReason::PeerEof, false), "{}", L::NAME);
    assert_eq!((report.lines_in, report.tail_bytes), (701, 11), "{}", L::NAME);
    let all = input.len() as u64;
    assert_eq!((report.bytes_in, report.bytes_out), (all, all), "{}", L::NAME);
    assert_eq!((report.unsent_bytes, report.undelivered_bytes), (0, 0), "{}", L::NAME);
}

/// D3: a peer that shuts down its half gets what it is owed, what has to be waited for included, then EOF.
async fn survives_a_half_close<L: Link>() {
    let (ours, peer) = within("a connection", L::link()).await;
    let gate = Gate::default();
    let report = start_at(&gate, ours);
    let (mut read, mut write) = tokio::io::split(peer);
    let mut answer = Vec::new();
    within("the answer", async {
        write.write_all(b"one\nwait\ntwo\nwait\ntail").await.unwrap();
        write.shutdown().await.unwrap();
        gate.open();
        read.read_to_end(&mut answer).await.unwrap();
    })
    .await;
    drop((read, write));
    assert_eq!(answer, b"one\nwait\ntwo\nwait\ntail", "{}", L::NAME);
    assert_eq!(within("the report", report).await.unwrap().reason, CloseReason::PeerEof, "{}", L::NAME);
}

/// D4: when we close first, with bytes unread, the peer gets all that was written, then EOF.
async fn closes_politely<L: Link>() {
    let (ours, mut peer) = within("a connection", L::link()).await;
    let report = start(ours);
    let input = [b"much\n", b"never read\n".repeat(9000).as_slice()].concat();
    let answer = converse(&mut peer, &input, false).await.unwrap_or_else(|error| panic!("{}: {error}", L::NAME));
    assert!(answer.starts_with(b"much\nxxx"), "{}", L::NAME);
    assert_eq!(answer.len(), 5 + MUCH, "{}", L::NAME);
    drop(peer);
    let report = within("the report", report).await.unwrap();
    assert_eq!((report.reason, report.cut), (CloseReason::ClosedByHandler, false), "{}", L::NAME);
    assert_eq!((report.lines_in, report.bytes_out, report.unsent_bytes), (1, 5 + MUCH as u64, 0), "{}", L::NAME);
    assert_eq!(report.bytes_in, 5 + report.undelivered_bytes, "{}", L::NAME);
}

macro_rules! over {
    ($($name:ident $link:ident)*) => {
        $(mod $name {
            use super::*;
            #[actix::test]
            async fn it_is_exact() {
                is_exact::<$link>().await;
            }
            #[actix::test]
            async fn it_survives_a_half_close() {
                survives_a_half_close::<$link>().await;
            }
            #[actix::test]
            async fn it_closes_politely() {
                closes_politely::<$link>().await;
            }
        })*
    };
}

over! {
    a_socket_of_ones_own Tcp
    a_unix_socket Unix
    a_pair_of_pipes Pipe
    tls Tls
    memory Memory
}

#[actix::test]
async fn a_tls_peer_that_vanishes_without_saying_so_is_no_eof() {
    let (ours, mut peer) = within("a connection", Tls::link()).await;
    let report = start(ours);
    peer.write_all(b"one\nperhaps not all of tw").await.unwrap();
    let mut got = [0; 4];
    within("the answer", peer.read_exact(&mut got)).await.unwrap();
    // The socket below is closed, but not the stream above.
    drop(peer.into_inner().0);
    let report = within("the report", report).await.unwrap();
    assert_eq!(report.reason, CloseReason::Io(Half::Read, io::ErrorKind::UnexpectedEof));
    assert_eq!((report.lines_in, report.tail_bytes), (1, 21));
}

#[actix::test]
async fn tokio_s_pipes_say_that_we_have_ended_once_we_linger_no_more() {
    tokio::time::pause();
    let (there, there_end) = pipe::pipe().unwrap();
    let (back, mut back_end) = pipe::pipe().unwrap();
    let report = start(Transport::new(tokio::io::join(there_end, back)));
    let mut there = there;
    let begin = Instant::now();
    there.write_all(b"one\nstop\n").await.unwrap();
    let mut answer = Vec::new();
    within("EOF", back_end.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"one\nstop\n");
    let linger = Duration::from_secs(5);
    assert!((linger..linger * 2).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    assert!(within("the report", report).await.unwrap().cut);
}

#[actix::test]
async fn who_it_is_depends_on_the_transport() {
    struct Who(Option<oneshot::Sender<Connection>>);
    impl Actor for Who {
        type Context = LineContext<Self>;
    }
    impl LineHandler for Who {
        fn opened(&mut self, ctx: &mut Self::Context) {
            let _ = self.0.take().unwrap().send(ctx.connection());
        }
        fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
    }
    let who = |transport: Transport| {
        let (sender, answer) = oneshot::channel();
        let session = LineSession::new(transport);
        let id = session.id();
        session.start(Who(Some(sender)));
        (id, answer)
    };
    let (ours, peer) = tcp().await;
    let (id, answer) = who(ours.into());
    let connection = within("the answer", answer).await.unwrap();
    assert_eq!((connection.id(), connection.listener()), (id, None));
    let ends = (peer.local_addr().unwrap().into(), peer.peer_addr().unwrap().into());
    assert_eq!((connection.peer_addr(), connection.local_addr()), (&ends.0, &ends.1));
    let (ours, _peer) = UnixStream::pair().unwrap();
    let (other, answer) = who(Transport::new(ours));
    let connection = within("the answer", answer).await.unwrap();
    let memory = &Address::Memory;
    assert_eq!((connection.id(), connection.peer_addr(), connection.local_addr()), (other, memory, memory));
    assert_ne!(other, id);
}

// ---- Limits, framing, address ----

fn over_memory() -> (Transport, actix_lines::testing::MemoryStream) {
    let (ours, peer) = memory_pair(MemoryCapacity::default());
    (Transport::new(ours), peer)
}

#[actix::test]
async fn each_session_has_its_own_limits() {
    tokio::time::pause();
    let begin = Instant::now();
    let mut ends = Vec::new();
    // The default is 10 minutes; two have the same limits, and so the same clock.
    for idle in [None, Some(5), Some(60), Some(5)] {
        let (ours, mut peer) = over_memory();
        let mut session = LineSession::new(ours);
        if let Some(idle) = idle {
            let limits = Limits::builder().idle_timeout(Some(Duration::from_secs(idle))).build().unwrap();
            session = session.limits(limits.clone());
        }
        let (closed, report) = oneshot::channel();
        session.start(Echo(Some(closed), Gate::default()));
        ends.push(actix_rt::spawn(async move {
            // No bound: that would be a deadline of its own.
            peer.read_to_end(&mut Vec::new()).await.unwrap();
            drop(peer);
            let report = report.await.unwrap();
            assert_eq!(report.reason, CloseReason::IdleTimeout);
            begin.elapsed().as_secs()
        }));
    }
    for (end, least) in ends.into_iter().zip([600, 5, 60, 5]) {
        let elapsed = end.await.unwrap();
        assert!((least..=least + 1).contains(&elapsed), "{elapsed} s, not {least} s");
    }
}

#[actix::test]
async fn it_has_its_own_framing() {
    let (ours, peer) = over_memory();
    let (closed, report) = oneshot::channel();
    LineSession::new(ours).framing(Framing::nul()).start(Echo(Some(closed), Gate::default()));
    assert_eq!(converse(peer, b"one\n\0two\0", true).await.unwrap(), b"one\n\0two\0");
    assert_eq!(within("the report", report).await.unwrap().lines_in, 2);
}

/// Writes what it is told.
struct Teller;

impl Actor for Teller {
    type Context = LineContext<Self>;
    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.write(b"started\n");
    }
}

impl LineHandler for Teller {
    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
}

#[derive(Message)]
#[rtype(result = "usize")]
struct Tell(&'static str);

impl Handler<Tell> for Teller {
    type Result = usize;
    fn handle(&mut self, Tell(text): Tell, ctx: &mut Self::Context) -> usize {
        ctx.write(text.as_bytes());
        ctx.outbox_len()
    }
}

#[actix::test]
async fn it_can_be_told_from_the_beginning() {
    let (ours, mut peer) = over_memory();
    let teller = LineSession::new(ours).create(|ctx| {
        ctx.write(b"before\n");
        ctx.notify(Tell("notified\n"));
        Teller
    });
    teller.do_send(Tell("told\n"));
    assert!(teller.connected());
    let expected = b"before\nstarted\ntold\nnotified\n";
    let mut got = vec![0; expected.len()];
    within("its words", peer.read_exact(&mut got)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
    drop(peer);
    support::eventually("the end", async || !teller.connected()).await;
}

#[actix::test]
async fn an_actor_that_cannot_be_made_costs_its_connection_only() {
    let (ours, mut peer) = over_memory();
    let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        LineSession::new(ours).create(|ctx: &mut LineContext<Teller>| {
            ctx.write(b"never sent\n");
            panic!("a fault on purpose")
        })
    }));
    assert!(made.is_err());
    let mut got = Vec::new();
    within("EOF", peer.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"");
    // The others share its worker.
    is_exact::<Memory>().await;
}
