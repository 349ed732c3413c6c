//! D2: replies keep the order of the lines, also when one has to be waited for.

mod support;

use std::rc::Rc;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, AtomicResponse, Context, Handler, Message, ResponseFuture, WrapFuture,
};
use actix_lines::{Framing, Line, LineContext, LineHandler, LineServer, Lines, Overlong, rot13};
use support::{Log, Server, converse, cut, within};

/// Gives way as often, so that whatever is ready happens meanwhile.
async fn some_turns(turns: usize) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

/// An actor elsewhere that takes its time.
struct Oracle;

impl Actor for Oracle {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "Vec<u8>")]
struct Question(Vec<u8>);

impl Handler<Question> for Oracle {
    type Result = ResponseFuture<Vec<u8>>;

    fn handle(&mut self, Question(text): Question, _: &mut Self::Context) -> Self::Result {
        // Longer questions are answered sooner: an order that is not kept shows.
        let turns = 20 - text.len().min(20);
        Box::pin(async move {
            some_turns(turns).await;
            [b"answer to ", text.as_slice()].concat()
        })
    }
}

/// Asks for each line, and waits.
struct Asking(Addr<Oracle>);

impl Actor for Asking {
    type Context = LineContext<Self>;
}

impl LineHandler for Asking {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let answer = self.0.send(Question(line.to_vec())).into_actor(self);
        ctx.wait(answer.map(|answer, _, ctx| ctx.write(answer.unwrap())));
    }
}

#[actix::test]
async fn replies_from_another_actor_keep_the_order_of_pipelined_lines() {
    let oracle = Oracle.start();
    let server = Server::start(LineServer::new(move |_| Asking(oracle.clone()))).await;
    let mut peer = server.connect().await;
    peer.send(b"a\nbbbbbbbbbbbbbbbb\ncc\ndddddd\ne\n").await;
    for line in ["a", "bbbbbbbbbbbbbbbb", "cc", "dddddd", "e"] {
        peer.expect(format!("answer to {line}\n").as_bytes()).await;
    }
    peer.shutdown_write().await;
    peer.expect_eof().await;
}

/// Waits at the line `wait`, answers everything else in place.
struct Mixed;

impl Actor for Mixed {
    type Context = LineContext<Self>;
}

impl LineHandler for Mixed {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        if line.text() == b"wait" {
            let pause = some_turns(20).into_actor(self);
            ctx.wait(pause.map(|(), _, ctx| ctx.write(b"waited\n")));
        } else {
            ctx.write(&line);
        }
    }

    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        while let Some(line) = lines.next(ctx) {
            let waits = line.text() == b"wait";
            self.line(line, ctx);
            if !waits {
                // Refuses while the context waits; else it comes behind the line just written.
                lines.answer_in_place(ctx, |rest| {
                    assert!(!rest.windows(4).any(|bytes| bytes == b"wait"), "delivered past a wait");
                    rot13(rest);
                });
            }
        }
    }
}

#[actix::test]
async fn no_line_is_delivered_past_one_that_waits_though_it_was_read_already() {
    let server = Server::start(LineServer::new(|_| Mixed)).await;
    let mut peer = server.connect().await;
    peer.send(b"wait\nwait\nuryyb\njbeyq\n").await;
    peer.expect(b"waited\nwaited\nuryyb\nworld\n").await;
}

#[derive(Message)]
#[rtype(result = "()")]
struct Say(&'static str);

/// Handles a message atomically, in two steps with a pause between.
struct Atomic;

impl Actor for Atomic {
    type Context = LineContext<Self>;
}

impl LineHandler for Atomic {
    fn opened(&mut self, ctx: &mut Self::Context) {
        let own = ctx.address();
        own.do_send(Say("first"));
        own.do_send(Say("second"));
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ctx.write(&line);
    }
}

impl Handler<Say> for Atomic {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, Say(text): Say, ctx: &mut Self::Context) -> Self::Result {
        ctx.write(format!("{text} begins\n").as_bytes());
        let pause = some_turns(20).into_actor(self);
        AtomicResponse::new(Box::pin(
            pause.map(move |(), _, ctx: &mut LineContext<Self>| ctx.write(format!("{text} ends\n").as_bytes())),
        ))
    }
}

#[actix::test]
async fn an_atomic_response_lets_nothing_in_between() {
    let server = Server::start(LineServer::new(|_| Atomic)).await;
    let mut peer = server.connect().await;
    peer.send(b"line\n").await;
    let mut all = vec![0; "first begins\nfirst ends\nsecond begins\nsecond ends\nline\n".len()];
    within("all answers", tokio::io::AsyncReadExt::read_exact(&mut peer.stream, &mut all)).await.unwrap();
    let all = String::from_utf8(all).unwrap();
    let without_line = all.replace("line\n", "");
    assert_eq!(without_line, "first begins\nfirst ends\nsecond begins\nsecond ends\n");
    assert!(!all.contains("begins\nline"), "a line was delivered in between: {all}");
}

/// Waits in each hook, and says when a wait is over.
struct Hesitant(Log<String>);

impl Hesitant {
    fn hesitate(&mut self, hook: &'static str, ctx: &mut LineContext<Self>) {
        self.0.borrow_mut().push(hook.to_owned());
        let wait = some_turns(20).into_actor(self);
        ctx.wait(wait.map(move |(), actor, ctx| {
            actor.0.borrow_mut().push(format!("{hook} over"));
            ctx.write(format!("{hook}\n").as_bytes());
        }));
    }
}

impl Actor for Hesitant {
    type Context = LineContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.hesitate("started", ctx);
    }
}

impl LineHandler for Hesitant {
    fn line(&mut self, _: Line<'_>, ctx: &mut Self::Context) {
        self.hesitate("line", ctx);
    }

    fn tail(&mut self, _: Line<'_>, ctx: &mut Self::Context) {
        self.hesitate("tail", ctx);
    }

    fn overlong(&mut self, ctx: &mut Self::Context) {
        self.hesitate("overlong", ctx);
    }

    fn eof(&mut self, ctx: &mut Self::Context) {
        self.hesitate("eof", ctx);
        ctx.drain();
    }
}

#[actix::test]
async fn a_wait_in_any_hook_holds_what_comes_after_it_and_its_answer_is_owed() {
    let framing = Framing::lf().max_line(4).unwrap().overlong(Overlong::Truncate);
    let input = b"one\noverlong\ntwo\ntail";
    for size in [1, 5, 100] {
        let calls = Log::default();
        let got = converse(framing, Hesitant(Rc::clone(&calls)), &cut(input, &[size])).await;
        let hooks = ["started", "line", "overlong", "line", "line", "tail", "eof"];
        let expected: Vec<_> = hooks.iter().flat_map(|hook| [(*hook).to_owned(), format!("{hook} over")]).collect();
        assert_eq!(calls.take(), expected, "chunks of {size}");
        assert_eq!(String::from_utf8(got).unwrap(), hooks.map(|hook| format!("{hook}\n")).concat());
    }
}
