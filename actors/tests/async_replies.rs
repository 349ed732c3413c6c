//! Replies that somebody else has to give: in order, however long he takes, and one question for all lines that came
//! together.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use actix::{
    Actor, Addr, Arbiter, AtomicResponse, Context, Handler, Message, ResponseFuture,
    fut::{ActorFutureExt, wrap_future},
};
use actix_lines::{Framing, Line, LineContext, LineHandler, LineServer, LineSession, Lines, Transport};
use support::{Server, converse, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// On an arbiter of its own: answers each text with its length, and counts how often it was asked.
struct Lengths(Arc<AtomicUsize>);

impl Actor for Lengths {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "Vec<usize>")]
struct Ask(Vec<Vec<u8>>);

impl Handler<Ask> for Lengths {
    type Result = ResponseFuture<Vec<usize>>;

    fn handle(&mut self, Ask(texts): Ask, _: &mut Self::Context) -> Self::Result {
        self.0.fetch_add(1, SeqCst);
        Box::pin(async move {
            // Later answers would come first, if they could.
            for _ in texts.len()..10 {
                tokio::task::yield_now().await;
            }
            texts.iter().map(Vec::len).collect()
        })
    }
}

/// Asks for all lines that came together, or for each by itself.
struct Asker {
    lengths: Addr<Lengths>,
    batches: bool,
}

impl Actor for Asker {
    type Context = LineContext<Self>;
}

impl Asker {
    fn ask(&self, texts: Vec<Vec<u8>>, ctx: &mut LineContext<Self>) {
        ctx.wait_for(self.lengths.send(Ask(texts)), |_, answers, ctx| match answers {
            Ok(answers) => answers.iter().for_each(|length| writeln!(ctx, "{length}")),
            Err(error) => {
                writeln!(ctx, "{error}");
                ctx.drain();
            }
        });
    }
}

impl LineHandler for Asker {
    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        let mut texts = Vec::new();
        while let Some(line) = lines.next(ctx) {
            texts.push(line.text().to_vec());
            if !self.batches {
                break;
            }
        }
        self.ask(texts, ctx);
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        self.ask(vec![line.text().to_vec()], ctx);
    }
}

fn lengths() -> (Arbiter, Addr<Lengths>, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let arbiter = Arbiter::new();
    let counter = Arc::clone(&asked);
    let address = Lengths::start_in_arbiter(&arbiter.handle(), move |_| Lengths(counter));
    (arbiter, address, asked)
}

#[actix::test]
async fn lines_that_come_together_are_one_question_and_all_are_answered_in_order() {
    const LINES: usize = 3000;
    let input: String = (0..LINES).map(|number| "x".repeat(number % 7) + "\n").collect();
    let expected: String = (0..LINES).map(|number| format!("{}\n", number % 7)).collect();
    let (arbiter, address, asked) = lengths();
    for (batches, most) in [(true, 40), (false, LINES)] {
        let lengths = address.clone();
        let mut server = Server::start(LineServer::new(move |_| Asker { lengths: lengths.clone(), batches })).await;
        let mut peer = server.connect().await;
        peer.send(input.as_bytes()).await;
        peer.expect(expected.as_bytes()).await;
        let asked = asked.swap(0, SeqCst);
        assert!((1..=most).contains(&asked), "asked {asked} times for {LINES} lines");
        drop(peer);
        server.report().await;
        server.end().await;
    }
    arbiter.stop();
    arbiter.join().unwrap();
}

#[actix::test]
async fn a_session_whose_adviser_is_gone_says_so() {
    let (arbiter, lengths, _) = lengths();
    arbiter.stop();
    arbiter.join().unwrap();
    let answer = converse(Framing::lf(), Asker { lengths, batches: true }, &[b"one\ntwo\n"]).await;
    assert_eq!(String::from_utf8(answer).unwrap(), "Mailbox has closed\n");
}

/// Asks its peer on behalf of others: each question of theirs is a line, and the peer's next line is the answer.
#[derive(Default)]
struct Interviewer {
    answer: Option<tokio::sync::oneshot::Sender<String>>,
}

impl Actor for Interviewer {
    type Context = LineContext<Self>;
}

impl LineHandler for Interviewer {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        match self.answer.take() {
            Some(answer) => drop(answer.send(String::from_utf8_lossy(line.text()).into_owned())),
            None => ctx.write(b"nobody asked\n"),
        }
    }
}

/// A question whose answer takes two steps, between which nothing else may be said.
#[derive(Message)]
#[rtype(result = "usize")]
struct Measure(&'static str);

impl Handler<Measure> for Interviewer {
    type Result = AtomicResponse<Self, usize>;

    fn handle(&mut self, Measure(text): Measure, ctx: &mut Self::Context) -> Self::Result {
        ctx.write(format!("measuring {text}\n").as_bytes());
        let steps = async move {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            text.len()
        };
        AtomicResponse::new(Box::pin(wrap_future::<_, Self>(steps).map(
            move |length, _, ctx: &mut LineContext<Self>| {
                ctx.write(format!("{text}: {length}\n").as_bytes());
                length
            },
        )))
    }
}

#[actix::test]
async fn an_atomic_response_lets_no_message_and_no_line_come_in_between() {
    let (ours, mut theirs) = tokio::io::duplex(1000);
    let session = LineSession::new(Transport::new(ours)).create(|_| Interviewer::default());
    let (first, second) = (session.send(Measure("one")), session.send(Measure("three")));
    theirs.write_all(b"hello\n").await.unwrap();
    let (first, second) = within("both answers", async { tokio::join!(first, second) }).await;
    assert_eq!((first.unwrap(), second.unwrap()), (3, 5));
    theirs.shutdown().await.unwrap();
    let mut said = String::new();
    within("the end", theirs.read_to_string(&mut said)).await.unwrap();
    let lines: Vec<_> = said.lines().collect();
    let at = |wanted: &str| lines.iter().position(|line| *line == wanted).unwrap_or_else(|| panic!("{lines:?}"));
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert_eq!(at("one: 3"), at("measuring one") + 1, "{lines:?}");
    assert_eq!(at("three: 5"), at("measuring three") + 1, "{lines:?}");
    let _ = at("nobody asked");
}
