//! One actor for both contexts: its hooks and messages are closures, so that a script written once runs on either.
//!
//! Scripts run on tokio's paused clock: sleeping lets everybody finish what can be done before the clock has to move.
#![allow(unreachable_pub)]

use std::{
    future::Future,
    marker::PhantomData,
    sync::{Arc, Mutex},
    time::Duration,
};

use actix::{
    Actor, ActorContext, ActorFuture, ActorFutureExt, Addr, AsyncContext, AtomicResponse, Context, Handler, Message,
    ResponseActFuture, ResponseFuture, Running, SpawnHandle, StreamHandler, System, dev::ToEnvelope, fut::wrap_future,
};
use actix_lines::{Line, LineContext, LineHandler, LineSession, Transport};
use tokio::io::{AsyncReadExt, DuplexStream};

/// A context to run scripts on.
pub trait Kind: Sized + 'static {
    type Context: AsyncContext<Probe<Self>>
        + ToEnvelope<Probe<Self>, Note>
        + ToEnvelope<Probe<Self>, Do<Self>>
        + ToEnvelope<Probe<Self>, Atomic>
        + ToEnvelope<Probe<Self>, InActor>
        + ToEnvelope<Probe<Self>, Beside>;

    fn create(make: impl FnOnce(&mut Self::Context) -> Probe<Self>) -> Addr<Probe<Self>>;

    // What the contexts have besides their traits.
    fn handle(ctx: &Self::Context) -> SpawnHandle;
    fn connected(ctx: &Self::Context) -> bool;
    fn set_mailbox_capacity(ctx: &mut Self::Context, capacity: usize);

    /// Writes to the peer, where there is one.
    fn write(_ctx: &mut Self::Context, _bytes: &[u8]) {}
}

/// `actix::Context`.
pub struct Actix;

impl Kind for Actix {
    type Context = Context<Probe<Self>>;

    fn create(make: impl FnOnce(&mut Self::Context) -> Probe<Self>) -> Addr<Probe<Self>> {
        Probe::create(make)
    }

    fn handle(ctx: &Self::Context) -> SpawnHandle {
        ctx.handle()
    }

    fn connected(ctx: &Self::Context) -> bool {
        ctx.connected()
    }

    fn set_mailbox_capacity(ctx: &mut Self::Context, capacity: usize) {
        ctx.set_mailbox_capacity(capacity);
    }
}

/// `LineContext`, over a connection whose peer says nothing and closes when we do.
pub struct Lines;

impl Kind for Lines {
    type Context = LineContext<Probe<Self>>;

    fn create(make: impl FnOnce(&mut Self::Context) -> Probe<Self>) -> Addr<Probe<Self>> {
        let (ours, theirs) = tokio::io::duplex(1024);
        actix_rt::spawn(read_to_eof(theirs));
        LineSession::new(Transport::new(ours)).create(make)
    }

    fn write(ctx: &mut Self::Context, bytes: &[u8]) {
        ctx.write(bytes);
    }

    fn handle(ctx: &Self::Context) -> SpawnHandle {
        ctx.handle()
    }

    fn connected(ctx: &Self::Context) -> bool {
        ctx.connected()
    }

    fn set_mailbox_capacity(ctx: &mut Self::Context, capacity: usize) {
        ctx.set_mailbox_capacity(capacity);
    }
}

async fn read_to_eof(mut peer: DuplexStream) {
    let mut bytes = Vec::new();
    let _ = peer.read_to_end(&mut bytes).await;
}

/// What happened, in order. Shared with whoever takes part, on whatever thread.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn say(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// Says so when it is dropped.
    pub fn say_at_drop(&self, what: &'static str) -> SayAtDrop {
        SayAtDrop(self.clone(), what)
    }
}

pub struct SayAtDrop(Log, &'static str);

impl Drop for SayAtDrop {
    fn drop(&mut self) {
        self.0.say(self.1);
    }
}

type Ctx<K> = <K as Kind>::Context;
type Hook<K> = Box<dyn FnMut(&mut Probe<K>, &mut Ctx<K>)>;
type Part<K> = Box<dyn FnOnce(&mut Probe<K>, &mut Ctx<K>) + Send>;
type StoppingHook<K> = Box<dyn FnMut(&mut Probe<K>, &mut Ctx<K>) -> Running>;

/// An actor that says what happens to it.
pub struct Probe<K: Kind> {
    pub log: Log,
    /// For scripts that keep one between two calls.
    pub handle: SpawnHandle,
    started: Option<Hook<K>>,
    stopping: Option<StoppingHook<K>>,
    stopped: Option<Hook<K>>,
}

impl<K: Kind> Probe<K> {
    pub fn new(log: &Log) -> Self {
        Self { log: log.clone(), handle: SpawnHandle::default(), started: None, stopping: None, stopped: None }
    }

    pub fn on_started(mut self, hook: impl FnMut(&mut Self, &mut Ctx<K>) + 'static) -> Self {
        self.started = Some(Box::new(hook));
        self
    }

    pub fn on_stopping(mut self, hook: impl FnMut(&mut Self, &mut Ctx<K>) -> Running + 'static) -> Self {
        self.stopping = Some(Box::new(hook));
        self
    }

    pub fn on_stopped(mut self, hook: impl FnMut(&mut Self, &mut Ctx<K>) + 'static) -> Self {
        self.stopped = Some(Box::new(hook));
        self
    }

    /// Vetoes the first stop.
    pub fn vetoing_once(self) -> Self {
        let mut vetoes = 1;
        self.on_stopping(move |_, _| match vetoes {
            0 => Running::Stop,
            _ => {
                vetoes -= 1;
                Running::Continue
            }
        })
    }

    pub fn say(&self, what: impl Into<String>) {
        self.log.say(what);
    }
}

impl<K: Kind> Actor for Probe<K> {
    type Context = K::Context;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.say(format!("started {:?}", ctx.state()));
        if let Some(mut hook) = self.started.take() {
            hook(self, ctx);
        }
    }

    fn stopping(&mut self, ctx: &mut Self::Context) -> Running {
        self.say(format!("stopping {:?}", ctx.state()));
        let Some(mut hook) = self.stopping.take() else { return Running::Stop };
        let answer = hook(self, ctx);
        self.stopping = Some(hook);
        answer
    }

    fn stopped(&mut self, ctx: &mut Self::Context) {
        self.say(format!("stopped {:?}", ctx.state()));
        if let Some(mut hook) = self.stopped.take() {
            hook(self, ctx);
        }
    }
}

impl<K: Kind> Drop for Probe<K> {
    fn drop(&mut self) {
        self.say("dropped");
    }
}

impl LineHandler for Probe<Lines> {
    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {
        self.say("a line, though the peer says nothing");
    }
}

/// A message that is only noted.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Note(pub &'static str);

impl<K: Kind> Handler<Note> for Probe<K> {
    type Result = ();
    fn handle(&mut self, Note(text): Note, _: &mut Self::Context) {
        self.say(text);
    }
}

/// A message that is a part of the script.
pub struct Do<K: Kind>(Part<K>);

impl<K: Kind> Do<K> {
    pub fn new(what: impl FnOnce(&mut Probe<K>, &mut Ctx<K>) + Send + 'static) -> Self {
        Self(Box::new(what))
    }
}

/// Sends a part of the script.
pub trait Tell<K: Kind> {
    fn tell(&self, what: impl FnOnce(&mut Probe<K>, &mut Ctx<K>) + Send + 'static);
}

impl<K: Kind> Tell<K> for Addr<Probe<K>> {
    fn tell(&self, what: impl FnOnce(&mut Probe<K>, &mut Ctx<K>) + Send + 'static) {
        self.do_send(Do::new(what));
    }
}

impl<K: Kind> Message for Do<K> {
    type Result = ();
}

impl<K: Kind> Handler<Do<K>> for Probe<K> {
    type Result = ();
    fn handle(&mut self, Do(what): Do<K>, ctx: &mut Self::Context) {
        what(self, ctx);
    }
}

/// Requests that take 10 ms to answer with their number, each in another way.
#[derive(Message)]
#[rtype(result = "u32")]
pub struct Atomic(pub u32);

#[derive(Message)]
#[rtype(result = "u32")]
pub struct InActor(pub u32);

#[derive(Message)]
#[rtype(result = "u32")]
pub struct Beside(pub u32);

fn answer<K: Kind>(number: u32) -> ResponseActFuture<Probe<K>, u32> {
    Box::pin(wrap_future::<_, Probe<K>>(delay(10)).map(move |(), probe: &mut Probe<K>, _| {
        probe.say(format!("answers {number}"));
        number
    }))
}

impl<K: Kind> Handler<Atomic> for Probe<K> {
    type Result = AtomicResponse<Self, u32>;
    fn handle(&mut self, Atomic(number): Atomic, _: &mut Self::Context) -> Self::Result {
        self.say(format!("asked {number}"));
        AtomicResponse::new(answer(number))
    }
}

impl<K: Kind> Handler<InActor> for Probe<K> {
    type Result = ResponseActFuture<Self, u32>;
    fn handle(&mut self, InActor(number): InActor, _: &mut Self::Context) -> Self::Result {
        self.say(format!("asked {number}"));
        answer(number)
    }
}

impl<K: Kind> Handler<Beside> for Probe<K> {
    type Result = ResponseFuture<u32>;
    fn handle(&mut self, Beside(number): Beside, _: &mut Self::Context) -> Self::Result {
        self.say(format!("asked {number}"));
        let log = self.log.clone();
        Box::pin(async move {
            delay(10).await;
            log.say(format!("answers {number}"));
            number
        })
    }
}

/// An item of a stream whose end stops the actor, as by default.
pub struct Ending(pub u32);

impl<K: Kind> StreamHandler<Ending> for Probe<K> {
    fn handle(&mut self, Ending(item): Ending, _: &mut Self::Context) {
        self.say(format!("item {item}"));
    }
}

/// An item of a stream whose end is only noted.
pub struct Passing(pub u32);

impl<K: Kind> StreamHandler<Passing> for Probe<K> {
    fn handle(&mut self, Passing(item): Passing, _: &mut Self::Context) {
        self.say(format!("item {item}"));
    }

    fn started(&mut self, _: &mut Self::Context) {
        self.say("stream started");
    }

    fn finished(&mut self, _: &mut Self::Context) {
        self.say("stream finished");
    }
}

/// One run of a script.
pub struct Run<K> {
    pub log: Log,
    kind: PhantomData<K>,
}

impl<K: Kind> Run<K> {
    pub fn probe(&self) -> Probe<K> {
        Probe::new(&self.log)
    }

    pub fn start(&self, probe: Probe<K>) -> Addr<Probe<K>> {
        K::create(|_| probe)
    }

    /// Starts an actor with `hook` for its `started`.
    pub fn started(&self, hook: impl FnMut(&mut Probe<K>, &mut Ctx<K>) + 'static) -> Addr<Probe<K>> {
        self.start(self.probe().on_started(hook))
    }

    pub fn say(&self, what: impl Into<String>) {
        self.log.say(what);
    }
}

/// Runs a script in a system of its own, and returns what was said until its end.
pub fn run<K: Kind, F: Future<Output = ()>>(script: impl FnOnce(Run<K>) -> F) -> Vec<String> {
    System::new().block_on(async {
        tokio::time::pause();
        let log = Log::default();
        script(Run { log: log.clone(), kind: PhantomData }).await;
        log.take()
    })
}

/// Lets time pass on the paused clock of [`run`], which costs none.
pub async fn sleep(milliseconds: u64) {
    // Panics unless it is paused.
    tokio::time::resume();
    tokio::time::pause();
    delay(milliseconds).await;
}

/// What takes an actor some time, on whatever clock its arbiter has.
pub async fn delay(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

/// Lets everything happen that needs less than a second.
pub async fn settle() {
    sleep(1000).await;
}

/// A future of the actor: `then`, after some time.
pub fn after<K: Kind>(
    milliseconds: u64,
    then: impl FnOnce(&mut Probe<K>, &mut Ctx<K>) + 'static,
) -> impl ActorFuture<Probe<K>, Output = ()> + 'static {
    wrap_future::<_, Probe<K>>(delay(milliseconds)).map(move |(), probe, ctx| then(probe, ctx))
}

/// A future of the actor: `then`, as soon as it is polled.
pub fn soon<K: Kind>(
    then: impl FnOnce(&mut Probe<K>, &mut Ctx<K>) + 'static,
) -> impl ActorFuture<Probe<K>, Output = ()> + 'static {
    wrap_future::<_, Probe<K>>(std::future::ready(())).map(move |(), probe, ctx| then(probe, ctx))
}

/// The script says the same on both contexts, and it is this.
macro_rules! agree {
    ($script:ident, $expected:expr) => {{
        let expected: &[&str] = &$expected;
        let (actix, lines) = (
            $crate::contexts::run($script::<$crate::contexts::Actix>),
            $crate::contexts::run($script::<$crate::contexts::Lines>),
        );
        assert_eq!(actix, expected, "on actix::Context");
        assert_eq!(lines, expected, "on LineContext");
        assert_eq!(lines, actix);
    }};
}

/// The script says one thing on `actix::Context` and another on `LineContext`, on purpose.
macro_rules! differ {
    ($script:ident, actix: $actix:expr, lines: $lines:expr) => {{
        let (on_actix, on_lines): (&[&str], &[&str]) = (&$actix, &$lines);
        assert_ne!(on_actix, on_lines, "no difference");
        assert_eq!($crate::contexts::run($script::<$crate::contexts::Actix>), on_actix, "on actix::Context");
        assert_eq!($crate::contexts::run($script::<$crate::contexts::Lines>), on_lines, "on LineContext");
    }};
}

pub(crate) use {agree, differ};
