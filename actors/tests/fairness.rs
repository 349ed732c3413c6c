//! C6: one session, whatever its actor or its peer does without end, does not keep the others of its worker waiting.

mod support;

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    sync::mpsc,
    task::{Context, Poll},
};

use actix::{Actor, AsyncContext, Handler, Message, fut::ActorFuture};
use actix_lines::{Delimiter, Framing, Line, LineContext, LineHandler, LineServer, Lines, Overlong, Rot13, Transport};
use support::{Echo, PATIENCE, Server, within};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

/// What an actor does again and again, each time at once.
#[derive(Clone, Copy, Debug)]
enum Busy {
    /// Notifies itself whenever it is notified.
    Notify,
    /// Sends itself a message whenever it gets one.
    Message,
    /// Has a future that asks for reading whenever it is polled.
    Resume,
    /// Has a future that stops and starts reading whenever it is polled.
    PauseAndResume,
    /// Changes the framing before it takes a line, so that it never takes one.
    Reframe,
}

impl Actor for Busy {
    type Context = LineContext<Self>;
}

impl LineHandler for Busy {
    fn opened(&mut self, ctx: &mut Self::Context) {
        match self {
            Self::Notify => ctx.notify(Again),
            Self::Message => ctx.address().do_send(Again),
            Self::Resume | Self::PauseAndResume => {
                ctx.spawn(Restless);
            }
            Self::Reframe => {}
        }
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
    }

    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        if let Self::Reframe = self {
            ctx.set_framing(Framing::new(Delimiter::Byte(b';')));
            ctx.set_framing(Framing::lf());
        }
        while let Some(line) = lines.next(ctx) {
            self.line(line, ctx);
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Again;

impl Handler<Again> for Busy {
    type Result = ();
    fn handle(&mut self, _: Again, ctx: &mut Self::Context) {
        match self {
            Self::Notify => ctx.notify(Again),
            _ => ctx.address().do_send(Again),
        }
    }
}

struct Restless;

impl ActorFuture<Busy> for Restless {
    type Output = ();
    fn poll(self: Pin<&mut Self>, actor: &mut Busy, ctx: &mut LineContext<Busy>, _: &mut Context<'_>) -> Poll<()> {
        if let Busy::PauseAndResume = actor {
            ctx.pause();
        }
        ctx.resume();
        Poll::Pending
    }
}

fn start<A: LineHandler>(actor: A) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(1024);
    LineContext::start(Transport::new(ours), Framing::lf(), actor);
    theirs
}

async fn expect(peer: &mut DuplexStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    within(&String::from_utf8_lossy(expected), peer.read_exact(&mut got)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
}

/// Runs `test` on a thread of its own: one that never yields cannot be timed out from within.
fn in_time<F: Future<Output = ()>>(what: String, test: impl FnOnce() -> F + Send + 'static) {
    let (done, when_done) = mpsc::channel();
    std::thread::spawn(move || {
        actix_rt::System::new().block_on(test());
        let _ = done.send(());
    });
    assert_eq!(when_done.recv_timeout(PATIENCE), Ok(()), "{what}: it panicked above, or hangs");
}

#[test]
fn an_actor_that_is_never_done_starves_neither_the_others_nor_its_own_socket() {
    for busy in [Busy::Notify, Busy::Message, Busy::Resume, Busy::PauseAndResume] {
        in_time(format!("{busy:?}"), move || async move {
            let mut own = start(busy);
            let mut other = start(Echo);
            for _ in 0..10 {
                own.write_all(b"own\n").await.unwrap();
                other.write_all(b"other\n").await.unwrap();
                expect(&mut own, b"own\n").await;
                expect(&mut other, b"other\n").await;
            }
            own.shutdown().await.unwrap();
            let mut rest = Vec::new();
            within("the EOF of a session that is never done", own.read_to_end(&mut rest)).await.unwrap();
            assert_eq!(rest, b"");
        });
    }
}

#[test]
fn an_actor_that_never_takes_a_line_does_not_starve_the_others() {
    in_time("changing the framing".into(), || async {
        let mut own = start(Busy::Reframe);
        own.write_all(b"never answered\n").await.unwrap();
        let mut other = start(Echo);
        for _ in 0..10 {
            other.write_all(b"other\n").await.unwrap();
            expect(&mut other, b"other\n").await;
        }
    });
}

/// A stream over memory: ready whenever it is asked, with at most so many bytes of what it repeats; it takes all that is
/// written. It knows nothing of tokio's budget.
struct Ready {
    line: &'static [u8],
    /// Bytes that it still has; then it ends.
    left: usize,
    most: usize,
    /// What each read is interrupted by instead.
    error: Option<io::ErrorKind>,
    writes: Rc<Cell<usize>>,
}

impl Ready {
    fn endless(line: &'static [u8], most: usize) -> Self {
        Self { line, left: usize::MAX, most, error: None, writes: Rc::default() }
    }
}

impl AsyncRead for Ready {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.error {
            return Poll::Ready(Err(error.into()));
        }
        let count = self.most.min(buffer.remaining()).min(self.left);
        let bytes: Vec<u8> = self.line.iter().copied().cycle().take(count).collect();
        buffer.put_slice(&bytes);
        self.left -= count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Ready {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.set(self.writes.get() + 1);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn a_stream_that_is_always_ready_leaves_the_others_their_turn_however_little_it_brings() {
    for (most, error) in
        [(1, None), (100, None), (60_000, None), (1 << 20, None), (1, Some(io::ErrorKind::Interrupted))]
    {
        in_time(format!("{most} bytes a read, {error:?}"), move || async move {
            let stream = Ready { error, ..Ready::endless(b"x\n", most) };
            LineContext::start(Transport::new(stream), Framing::lf(), Rot13);
            let mut other = start(Echo);
            for _ in 0..10 {
                other.write_all(b"other\n").await.unwrap();
                expect(&mut other, b"other\n").await;
            }
        });
    }
}

#[actix::test]
async fn lines_that_are_cut_small_do_not_cost_a_system_call_each() {
    const BYTES: usize = 60_000;
    for policy in [Overlong::Pieces, Overlong::Split, Overlong::Truncate] {
        for line in [&b"x"[..], b"xxx\n", b"x\nxxxx\n"] {
            let writes = Rc::default();
            let stream = Ready { left: BYTES, writes: Rc::clone(&writes), ..Ready::endless(line, BYTES) };
            let (done, when_done) = tokio::sync::oneshot::channel::<()>();
            let framing = Framing::lf().max_line(1).unwrap().overlong(policy);
            LineContext::start(Transport::new(stream), framing, Rot13Until(done));
            let _ = within("the end of the session", when_done).await;
            // One for what is in the outbox each time that it is above the high watermark, and a few for large blocks.
            assert!(writes.get() <= 20, "{policy:?}, {:?}: {} writes", String::from_utf8_lossy(line), writes.get());
        }
    }
}

/// ROT13 in place; says when it is dropped.
struct Rot13Until(#[allow(dead_code)] tokio::sync::oneshot::Sender<()>);

impl Actor for Rot13Until {
    type Context = LineContext<Self>;
}

impl LineHandler for Rot13Until {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
    }

    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        lines.answer_in_place(ctx, actix_lines::rot13);
    }
}

#[actix::test]
async fn firehoses_leave_a_typist_of_the_same_worker_his_turn() {
    let server = Server::start(LineServer::new(|_| Rot13).workers(1)).await;
    let mut firehoses = Vec::new();
    for _ in 0..4 {
        let (mut read, mut write) = server.connect().await.stream.into_split();
        firehoses.push(actix_rt::spawn(async move {
            let block = [[b'a'; 63].as_slice(), b"\n"].concat().repeat(1000);
            while write.write_all(&block).await.is_ok() {}
        }));
        firehoses.push(actix_rt::spawn(async move {
            let mut block = vec![0; 64_000];
            while read.read(&mut block).await.is_ok_and(|count| count > 0) {}
        }));
    }
    let mut typist = server.connect().await;
    for _ in 0..100 {
        typist.send(b"hello\n").await;
        typist.expect(b"uryyb\n").await;
    }
    let sessions = server.sessions().await;
    assert!(sessions[..4].iter().all(|firehose| firehose.bytes_out > 0), "{sessions:?}");
    drop(typist);
    within("the abort", server.handle.abort()).await.unwrap();
    for firehose in firehoses {
        within("a firehose to end", firehose).await.unwrap();
    }
}
