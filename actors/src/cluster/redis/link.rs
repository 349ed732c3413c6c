//! Link: the connection by which calls go, made when one needs it and anew when it is lost.
//!
//! All calls share it. While the server is away few of them try to connect and the others fail at once, so that whoever waits
//! for the store does not wait long.
//! Not here: connecting (`connection`), trying again (`lease`, which has the pace of a cluster).

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use redis::{Cmd, Value};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::cluster::{
    redis::{
        answer::{self, Then},
        connection::{Connection, Dialer, ask},
        scripts::Program,
        url::{Host, Target},
    },
    stats::Count,
    store::StoreError,
};

/// Longest time after a failed attempt in which no other is made. It begins at `SHORTEST` and doubles.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// How often Sentinels are asked, by the calls that come, whether the master is still the same.
const ASK_SENTINELS_EACH: Duration = Duration::from_secs(3);

/// Calls and their connection.
pub(super) struct Link {
    pub(super) dialer: Arc<Dialer>,
    /// Longest time of a call.
    pub(super) within: Duration,
    state: Mutex<State>,
    /// Number of answers that came.
    heard: AtomicU64,
    /// Number of entries that were not understood.
    pub(super) unknown: Count,
    /// The server that calls go to, where Sentinels may name another.
    master: watch::Sender<Option<Host>>,
}

struct State {
    attempt: Option<Attempt>,
    /// Attempts that failed since a call was answered.
    failures: u32,
    /// No attempt before this time, and why the last one failed.
    paused: Option<(Instant, StoreError)>,
    sentinels_asked: Instant,
    /// The runtime of the first call, which is the node's: it drives all connections, for as long as it runs. A worker that
    /// somebody's code blocks would hold up the calls of all.
    home: Option<Handle>,
}

impl State {
    /// Returns true if it is the connection that calls go by.
    fn has(&self, connection: &Arc<Connection>) -> bool {
        let current = self.attempt.as_ref().and_then(|attempt| attempt.peek());
        matches!(current, Some(Ok(current)) if Arc::ptr_eq(current, connection))
    }

    /// An attempt has failed: the next one comes later.
    fn pause(&mut self, error: &StoreError) {
        let longest = (SHORTEST_PAUSE * (1 << self.failures.min(8))).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        // By chance, so that nodes do not come all at once.
        self.paused = Some((Instant::now() + longest.mul_f64(fastrand::f64()), error.clone()));
    }
}

/// A connection that is made, or is there. Whoever needs it waits for the same one.
type Attempt = Shared<BoxFuture<'static, Result<Arc<Connection>, StoreError>>>;

impl Link {
    pub(super) fn new(dialer: Dialer, within: Duration) -> Self {
        let state = State { attempt: None, failures: 0, paused: None, sentinels_asked: Instant::now(), home: None };
        Self {
            dialer: Arc::new(dialer),
            within,
            state: Mutex::new(state),
            heard: AtomicU64::new(0),
            unknown: Count::default(),
            master: watch::Sender::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the server that calls go to, and hears of the next one.
    pub(super) fn master(&self) -> watch::Receiver<Option<Host>> {
        self.master.subscribe()
    }

    /// Sets a password for connections from now on; the next call makes one at once, if there is none. Returns true if it was another.
    pub(super) fn change_password(&self, set: impl FnOnce(&Dialer) -> bool) -> bool {
        let is_other = set(&self.dialer);
        if is_other {
            let mut state = self.lock();
            state.paused = None;
            state.failures = 0;
        }
        is_other
    }

    /// Calls a program, by its hash if the server knows it.
    pub(super) async fn run(
        self: &Arc<Self>,
        program: &Program,
        key: &[u8],
        arguments: &Arguments,
    ) -> Result<Value, StoreError> {
        let command = |word: &str, text: &str| {
            let mut command = Cmd::with_capacity(4 + arguments.0.len(), text.len() + arguments.1 + 64);
            command.arg(word).arg(text).arg(1).arg(key);
            for argument in &arguments.0 {
                command.arg(&argument[..]);
            }
            command
        };
        let until = Instant::now() + self.within;
        match self.send(&command("EVALSHA", &program.hash), until).await {
            // It is another server, or has started anew. `EVAL` lets it know the program, too.
            Err((_, Then::TellScript)) => self.send(&command("EVAL", &program.text), until).await,
            result => result,
        }
        .map_err(|(error, _)| error)
    }

    /// Sends a command.
    pub(super) async fn ask(self: &Arc<Self>, command: &Cmd) -> Result<Value, StoreError> {
        self.send(command, Instant::now() + self.within).await.map_err(|(error, _)| error)
    }

    async fn send(self: &Arc<Self>, command: &Cmd, until: Instant) -> Result<Value, (StoreError, Then)> {
        let connection = self.connected(until).await.map_err(|error| (error, Then::Keep))?;
        let heard = self.heard.load(Relaxed);
        let mut redis = connection.redis.clone();
        let Ok(result) = timeout_at(until, ask(&mut redis, command)).await else {
            // Nobody else was answered either: whatever is there is hung, and Sentinels may know of another.
            if self.heard.load(Relaxed) == heard {
                self.discard(&connection);
            }
            return Err((StoreError::Slow { after: self.within }, Then::Keep));
        };
        self.heard.fetch_add(1, Relaxed);
        let result = result.map_err(|(error, then)| (answer::cleaned(error, &self.dialer.secrets()), then));
        match &result {
            Err((error, Then::Reconnect)) => self.give_up(&connection, error),
            _ => self.prove(&connection),
        }
        result
    }

    /// Returns the connection. Bounded in time.
    async fn connected(self: &Arc<Self>, until: Instant) -> Result<Arc<Connection>, StoreError> {
        loop {
            let attempt = self.attempt()?;
            let Ok(result) = timeout_at(until, attempt.clone()).await else {
                return Err(self.dialer.not_connected(self.within));
            };
            match result {
                Ok(connection) if connection.is_closed() => {
                    let is_proven = connection.is_proven.load(Relaxed);
                    let error = self.dialer.hung_up();
                    self.give_up(&connection, &error);
                    if !is_proven {
                        return Err(error);
                    }
                }
                Ok(connection) => {
                    self.succeed(&connection);
                    return Ok(connection);
                }
                Err(error) => {
                    self.fail(&attempt, &error);
                    return Err(error);
                }
            }
        }
    }

    fn attempt(self: &Arc<Self>) -> Result<Attempt, StoreError> {
        let mut state = self.lock();
        if let Some(attempt) = &state.attempt {
            return Ok(attempt.clone());
        }
        if let Some((_, error)) = state.paused.as_ref().filter(|(until, _)| Instant::now() < *until) {
            return Err(error.clone());
        }
        let connect = || {
            let dialer = self.dialer.clone();
            async move { dialer.connect(None).await.map(Arc::new) }
        };
        // A task of its own: it goes on when the call that began it has no more time.
        let home = state.home.get_or_insert_with(Handle::current);
        let mut connecting = home.spawn(connect());
        if connecting.is_finished() {
            // That runtime has ended.
            *home = Handle::current();
            connecting = home.spawn(connect());
        }
        let ended = |_| Err(answer::lost("the runtime that connected has ended".to_owned()));
        let attempt = connecting.map(move |result| result.unwrap_or_else(ended)).boxed().shared();
        state.attempt = Some(attempt.clone());
        Ok(attempt)
    }

    fn succeed(self: &Arc<Self>, connection: &Arc<Connection>) {
        let asks_sentinels = {
            let mut state = self.lock();
            let is_time = state.sentinels_asked.elapsed() >= ASK_SENTINELS_EACH;
            if is_time {
                state.sentinels_asked = Instant::now();
            }
            is_time
        };
        let Target::Sentinel { .. } = self.dialer.place.target else { return };
        self.master.send_if_modified(|master| {
            let is_other = *master != connection.server;
            master.clone_from(&connection.server);
            is_other
        });
        if asks_sentinels {
            tokio::spawn(self.clone().follow_master(connection.clone()));
        }
    }

    /// Leaves a master for the one that Sentinels name: it may be one that nobody but us still reaches.
    async fn follow_master(self: Arc<Self>, from: Arc<Connection>) {
        let Some(server) = &from.server else { return };
        if !self.dialer.is_superseded(server).await {
            return;
        }
        // A Sentinel may be the one that is wrong: what counts is where we come to.
        if self.dialer.connect(None).await.is_ok_and(|connection| connection.server.as_ref() != Some(server)) {
            self.discard(&from);
        }
    }

    fn fail(&self, attempt: &Attempt, error: &StoreError) {
        let mut state = self.lock();
        if state.attempt.as_ref().is_some_and(|current| current.ptr_eq(attempt)) {
            state.attempt = None;
            state.pause(error);
        }
    }

    /// A call was answered: the next failure is the first one again.
    fn prove(&self, connection: &Connection) {
        if !connection.is_proven.load(Relaxed) {
            connection.is_proven.store(true, Relaxed);
            self.lock().failures = 0;
        }
    }

    /// Leaves a connection that is of no use. One that never was counts as a failed attempt, or a server that greets and hangs
    /// up would be connected to without a pause.
    fn give_up(&self, connection: &Arc<Connection>, error: &StoreError) {
        let mut state = self.lock();
        if state.has(connection) {
            state.attempt = None;
            if !connection.is_proven.load(Relaxed) {
                state.pause(error);
            }
        }
        drop(state);
        connection.close();
    }

    /// Leaves a connection for another one, at once.
    fn discard(&self, connection: &Arc<Connection>) {
        let mut state = self.lock();
        if state.has(connection) {
            state.attempt = None;
        }
        drop(state);
        connection.close();
    }
}

/// What a program is told, and the length of all of it.
#[derive(Default)]
pub(super) struct Arguments(Vec<Vec<u8>>, usize);

impl Arguments {
    pub(super) fn push(&mut self, argument: impl Into<Vec<u8>>) -> &mut Self {
        let argument = argument.into();
        self.1 += argument.len() + 16;
        self.0.push(argument);
        self
    }

    pub(super) fn number(&mut self, number: impl std::fmt::Display) -> &mut Self {
        self.push(number.to_string())
    }
}
