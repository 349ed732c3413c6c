//! Agent check: a listener of line sessions that answers HAProxy's agent checks: up, drain, down, and a weight by load.
//! Feature `agent-check`.
//!
//! HAProxy connects every `agent-inter`, 2 s by default, reads one line, and sends more or fewer sessions by it, or none:
//!
//! ```text
//! backend lines
//!     server a 192.0.2.1:40713 check send-proxy-v2 agent-check agent-addr 192.0.2.1 agent-port 9000 agent-inter 1s weight 100
//! ```
//!
//! | answer | when | to HAProxy |
//! |---|---|---|
//! | `up ready 73%` | the server accepts; 27 % of its sessions are there | the share of new sessions; it ends a `drain` that was said before |
//! | `drain` | it drains or is about to ([`Drain::delay`](crate::control::Drain::delay)), or its listeners are paused | nobody new is sent; sessions go on |
//! | `down #reason`, `maint` | a [hook](AgentCheck::also) says so, or a [cluster](AgentCheck::cluster) whose store is lost lets nobody in | nobody new is sent; with `maint` health checks stop, too |
//!
//! `ready` also undoes, at the next check, what was set at HAProxy's own socket (`set server … state drain`). To take a server out
//! by hand pause its listeners, or first say `disable agent …` at that socket.
//!
//! Rule: an answer comes within a second, however busy the server is. Checks count in no limit and no counter of the server.
//! Not here: health checks, which are connections to the server's own listeners.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use actix::{Actor, ActorContext};
use tokio::time::timeout;

#[cfg(feature = "cluster")]
use crate::cluster::{builder::Cluster, health::Health};
use crate::{
    connection::Connection,
    error::{BindError, ServerEnded, StartError},
    escape::Escaped,
    framing::{Framing, Overlong},
    limits::{Limits, OverLimit},
    listen::listener::Listener,
    server::{builder::LineServer, handle::ServerHandle},
    session::{context::LineContext, handler::LineHandler, lines::Line},
};

/// Connections of checks at once. Others wait in the backlog.
const MAX_SESSIONS: usize = 64;
/// Longest wait for the counters of a busy server.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time that a check has to take its answer, and to close.
const READING_TIME: Duration = Duration::from_secs(5);
/// Time for the last answers when the server has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Longest reason. Unit: characters.
const LONGEST_REASON: usize = 100;

/// The answer to an agent check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AgentState {
    /// The server takes sessions: `up ready 73%`.
    Up {
        /// Percentage of the weight that HAProxy's configuration gives to the server, at most 255. 0 is as [`Drain`](Self::Drain).
        weight: u8,
    },
    /// Nobody new is to be sent: `drain`.
    Drain,
    /// Nobody new is to be sent, and health checks are to stop: `maint`.
    Maint,
    /// The server cannot serve, for a reason that HAProxy shows: `down #reason`.
    Down(String),
}

/// Writes the line without its newline.
impl fmt::Display for AgentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up { weight } => write!(f, "up ready {weight}%"),
            Self::Drain => f.write_str("drain"),
            Self::Maint => f.write_str("maint"),
            Self::Down(reason) => {
                let reason = Escaped::new(reason).to_string();
                let end = reason.char_indices().nth(LONGEST_REASON).map_or(reason.len(), |(end, _)| end);
                write!(f, "down #{}", &reason[..end])
            }
        }
    }
}

/// The sessions of a server, or of one of its listeners, at an agent check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Load {
    /// Live sessions.
    pub live: u64,
    /// Most sessions at once: [`max_sessions`](crate::limits::LimitsBuilder::max_sessions).
    pub max_sessions: u64,
}

impl Load {
    /// Returns the free share of the sessions in percent, rounded down, at least 1: HAProxy takes 0 for a drain.
    #[must_use]
    pub fn weight(&self) -> u8 {
        let free = self.max_sessions.saturating_sub(self.live);
        let percent = u128::from(free) * 100 / u128::from(self.max_sessions.max(1));
        // At most 100.
        u8::try_from(percent).unwrap_or(100).max(1)
    }
}

type Weigh = dyn Fn(Load) -> u8 + Send + Sync;
type Also = dyn Fn() -> Option<AgentState> + Send + Sync;

/// Answers agent checks: see the [module](crate::agent_check).
///
/// ```
/// use actix_lines::{LineServer, Rot13, agent_check::AgentCheck};
///
/// # fn main() -> std::io::Result<()> {
/// let server = LineServer::new(|_| Rot13).bind("127.0.0.1:0")?.agent_check(AgentCheck::at("127.0.0.1:0"))?;
/// # drop(server);
/// # Ok(())
/// # }
/// ```
#[must_use = "it answers nothing until it is given to a server"]
pub struct AgentCheck {
    listener: Listener,
    setup: Setup,
}

/// What all checks share.
struct Setup {
    /// Set before the first check comes.
    server: OnceLock<ServerHandle>,
    /// The one listener that is asked for.
    name: Option<String>,
    weigh: Box<Weigh>,
    also: Vec<Box<Also>>,
}

impl fmt::Debug for AgentCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentCheck")
            .field("listener", &self.listener)
            .field("of", &self.setup.name)
            .field("hooks", &self.setup.also.len())
            .finish_non_exhaustive()
    }
}

/// Starts it beside a server; called once.
type Start = dyn FnOnce(&ServerHandle) -> Result<ServerHandle, StartError> + Send;

/// Answers agent checks at a listener that is bound: see [`AgentCheck::bind`].
#[must_use = "it answers nothing until it is started"]
pub struct BoundAgentCheck {
    local_addrs: Vec<SocketAddr>,
    start: Box<Start>,
}

impl fmt::Debug for BoundAgentCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundAgentCheck").field("local_addrs", &self.local_addrs).finish_non_exhaustive()
    }
}

impl AgentCheck {
    /// Listens at an address: whatever [`Listener::at`] takes, or a [`Listener`] with settings of its own. Whoever reaches it
    /// sees how full the server is, and nothing else.
    pub fn at(listener: impl Into<Listener>) -> Self {
        let setup = Setup {
            server: OnceLock::new(),
            name: None,
            weigh: Box::new(|load: Load| load.weight()),
            also: Vec::new(),
        };
        Self { listener: listener.into(), setup }
    }

    /// Answers for one listener of the server, by its name: `drain` while it is paused, and a weight by its own sessions.
    /// Default: for the whole server, which says `drain` while all listeners are paused.
    pub fn of_listener(mut self, name: &str) -> Self {
        self.setup.name = Some(name.to_owned());
        self
    }

    /// Sets the function that computes the weight, a percentage, of a load. It is called at each check. Default:
    /// [`Load::weight`], the free share of [`max_sessions`](crate::limits::LimitsBuilder::max_sessions).
    pub fn weight(mut self, weigh: impl Fn(Load) -> u8 + Send + Sync + 'static) -> Self {
        self.setup.weigh = Box::new(weigh);
        self
    }

    /// Adds a hook that may answer in place of the server; `None` leaves the answer as it would be. Hooks are called at each check,
    /// in the order in which they were added, and the first answer counts. While the server drains none is called. A hook must
    /// not block.
    ///
    /// ```
    /// use std::sync::{Arc, atomic::{AtomicBool, Ordering::Relaxed}};
    /// use actix_lines::agent_check::{AgentCheck, AgentState};
    ///
    /// let database_is_lost = Arc::new(AtomicBool::new(false));
    /// let agent = AgentCheck::at("127.0.0.1:9000").also({
    ///     let is_lost = Arc::clone(&database_is_lost);
    ///     move || is_lost.load(Relaxed).then(|| AgentState::Down("no database".to_owned()))
    /// });
    /// # drop(agent);
    /// ```
    pub fn also(mut self, hook: impl Fn() -> Option<AgentState> + Send + Sync + 'static) -> Self {
        self.setup.also.push(Box::new(hook));
        self
    }

    /// Answers `down` while this node of a cluster refuses connections because its store is lost or has not answered yet: there is a
    /// limit over nodes, and its policy is [closed](crate::cluster::OnPartition::Closed). Needs the feature `cluster`.
    #[cfg(feature = "cluster")]
    pub fn cluster(self, cluster: &Cluster) -> Self {
        let cluster = cluster.clone();
        self.also(move || {
            let reason = match cluster.health() {
                Health::Lost { .. } => "store lost",
                Health::Starting => "the store has not answered yet",
                _ => return None,
            };
            cluster.limits().refuse_alone().then(|| AgentState::Down(format!("cluster: {reason}")))
        })
    }

    /// Binds its listener. Nobody is answered before it is [started](BoundAgentCheck::start).
    ///
    /// # Errors
    /// Returns a [`BindError`] that names the address that cannot be bound, and the reason.
    pub fn bind(self) -> Result<BoundAgentCheck, BindError> {
        let Self { listener, setup } = self;
        let setup = Arc::new(setup);
        let checks = Arc::clone(&setup);
        let bound = LineServer::new(move |_: &Connection| Check(Arc::clone(&checks))).listen(listener)?;
        let local_addrs = bound.local_addrs();
        let start = Box::new(move |watched: &ServerHandle| {
            // Nobody else has set it: this is called once.
            let _ = setup.server.set(watched.clone());
            let limits = Limits::builder()
                .max_sessions(MAX_SESSIONS)
                .over_limit(OverLimit::Wait)
                .idle_timeout(Some(READING_TIME))
                .write_timeout(Some(READING_TIME))
                .linger_timeout(READING_TIME)
                .build()?;
            let agent = bound
                .on_current_arbiter()
                .disable_signals()
                .framing(Framing::lf().overlong(Overlong::Discard))
                .limits(limits)
                .start()?;
            let mut companion = watched.companion();
            let ending = agent.clone();
            ending.drain_quietly();
            actix_rt::spawn(async move {
                companion.server_ended().await;
                // Its system may have ended, too.
                let _ = ending.drain(LAST_ANSWERS).await;
                drop(companion);
            });
            Ok(agent)
        });
        Ok(BoundAgentCheck { local_addrs, start })
    }
}

impl BoundAgentCheck {
    /// Returns the IP addresses that it listens on; none for a unix socket.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// Starts it on the current arbiter, for a server that runs. It is a server of its own, whose handle is returned, and answers
    /// until the other one has ended.
    ///
    /// # Errors
    /// Returns a [`StartError`] without an actix system.
    pub fn start(self, server: &ServerHandle) -> Result<ServerHandle, StartError> {
        (self.start)(server)
    }
}

/// The state of the server, or of its listener that is asked for.
async fn state(setup: Arc<Setup>) -> AgentState {
    let Setup { server, name, weigh, also } = &*setup;
    let Some(server) = server.get() else { return AgentState::Drain };
    if server.draining().is_some() {
        return AgentState::Drain;
    }
    if let Some(state) = also.iter().find_map(|hook| hook()) {
        return state;
    }
    let listeners = server.listeners();
    let own = match name {
        None => None,
        Some(name) => match listeners.iter().find(|listener| listener.id.name() == Some(name.as_str())) {
            Some(listener) => Some(listener),
            None => return AgentState::Down(format!("no listener {name}")),
        },
    };
    if own.map_or_else(|| listeners.iter().all(|listener| listener.is_paused), |own| own.is_paused) {
        return AgentState::Drain;
    }
    let counters = async { Ok((server.stats().await?, server.limits().await?)) };
    match timeout(PATIENCE, counters).await {
        Ok(Ok((stats, limits))) => {
            let max_sessions = limits.admission.max_sessions as u64;
            let load = match own {
                None => Load { live: stats.live, max_sessions },
                Some(own) => Load {
                    live: stats.listeners.get(&own.id).map_or(0, |listener| listener.live),
                    max_sessions: own.max_sessions.map_or(max_sessions, |most| max_sessions.min(most as u64)),
                },
            };
            AgentState::Up { weight: weigh(load) }
        }
        Ok(Err(ServerEnded)) => AgentState::Drain,
        // A worker has no time. Others may have no more: whoever says `down` here takes the whole fleet away.
        Err(_) => AgentState::Up { weight: 1 },
    }
}

/// One check.
struct Check(Arc<Setup>);

impl Actor for Check {
    type Context = LineContext<Self>;
}

impl LineHandler for Check {
    fn opened(&mut self, ctx: &mut Self::Context) {
        ctx.wait_for(state(Arc::clone(&self.0)), |_, state, ctx| {
            ctx.write(format!("{state}\n"));
            ctx.stop();
        });
    }

    /// What `agent-send` says is not needed.
    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
}

impl<A, F> LineServer<A, F>
where
    A: LineHandler,
    F: Fn(&Connection) -> A + Clone + Send + 'static,
{
    /// Answers HAProxy's agent checks. Their listener is bound now, and begins to answer when the server starts, on the arbiter that
    /// starts it. Needs the feature `agent-check`.
    ///
    /// # Errors
    /// As [`AgentCheck::bind`].
    pub fn agent_check(self, agent: AgentCheck) -> Result<Self, BindError> {
        let agent = agent.bind()?;
        Ok(self.when_started(move |server| {
            // It needs no more than the server itself, which has just started here.
            if let Err(error) = agent.start(server) {
                log::error!("agent checks are not answered: {error}");
            }
        }))
    }
}
