//! A script as its user has it: read, checked, run.
//!
//! Not here: what its lines mean (`parse`, `run`), where it runs (`target`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io, panic,
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::runtime::{self, Runtime};

#[cfg(feature = "script-tls")]
use crate::script::tls::TlsOptions;
use crate::script::{
    ast::{Newline, Span, Statement},
    driver::Driver,
    idle,
    kind::FailureKind,
    literal::is_variable,
    manner::{Cuts, Manner, Observations, Observed},
    memory::MemoryDriver,
    needs,
    parse::Parser,
    peer::Peer,
    report::{Diagnostic, Report, ScriptError, ScriptFailure, Source},
    run::Runner,
    scope::Scope,
    servers::Servers,
    target::{Kind, NetDriver, Target},
};

/// How long each wait of a script may last where neither it nor its options say so.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// A script that was read: its lines are well formed.
///
/// Displayed, it is a script again: the same lines without comments, in one manner of writing.
///
/// ```
/// use actix_lines::{
///     LineSession, Rot13,
///     script::{Script, ScriptOptions, Target},
/// };
///
/// let script = Script::parse("an hour.session", "> Hello\n< Uryyb\n: after 1h\n: eof\n")?;
/// let target = Target::memory(|transport| {
///     LineSession::new(transport).start(Rot13);
/// });
/// let run = script.run(&target, &ScriptOptions::default())?;
/// assert_eq!(run.transcripts[0].received, b"Uryyb\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Script {
    statements: Vec<Statement>,
    sources: Arc<Vec<Source>>,
}

/// The options of a run: all that a script is given from outside.
#[derive(Clone, Debug, Default)]
pub struct ScriptOptions {
    variables: BTreeMap<String, Vec<u8>>,
    split: Option<u64>,
    features: BTreeSet<String>,
    #[cfg(feature = "script-tls")]
    tls: TlsOptions,
    timeout: Option<Duration>,
}

/// A script that held, or was skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScriptRun {
    /// The transcripts of the peers, in the order in which they came.
    pub transcripts: Vec<Transcript>,
    /// The reason why nothing was run: something that the script needs is not there. `None` for a script that held.
    pub skipped: Option<String>,
}

/// The bytes that a peer received, on all connections of its name together; of one that it reset, those that were expected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transcript {
    /// The peer's name. Empty for the one without.
    pub peer: String,
    /// Its bytes.
    pub received: Vec<u8>,
}

impl ScriptOptions {
    /// Sets a variable, as `let` does within a script.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Sets how peers speak TLS, at addresses that begin with `tls:`. Default: no certificate is trusted.
    #[cfg(feature = "script-tls")]
    #[must_use]
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.tls = tls;
        self
    }

    /// Says that something is there, for scripts that need it: `needs NAME`.
    #[must_use]
    pub fn feature(mut self, name: impl Into<String>) -> Self {
        self.features.insert(name.into());
        self
    }

    /// Has all that peers send leave in chunks of random sizes. The same seed makes the same sizes. Default: in one piece.
    #[must_use]
    pub fn split(mut self, seed: u64) -> Self {
        self.split = Some(seed);
        self
    }

    /// Sets how long each wait may last in a script that does not say so itself. Default: 5 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    pub(crate) fn has_timeout(&self) -> bool {
        self.timeout.is_some()
    }

    /// How long each wait may last until the script says so itself.
    pub(crate) fn patience(&self) -> Duration {
        self.timeout.unwrap_or(DEFAULT_TIMEOUT)
    }

    pub(crate) fn cuts(&self) -> Cuts {
        self.split.map_or(Cuts::None, |seed| Cuts::Random(fastrand::Rng::with_seed(seed)))
    }

    /// Returns true if a text can be the name of a variable: letters, digits and `_`, and no digit first.
    #[must_use]
    pub fn is_variable(name: &str) -> bool {
        is_variable(name)
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.statements.iter().try_for_each(|statement| statement.write(f, 0))
    }
}

impl Script {
    /// Reads a script from a text. Reports call it `name`; what it includes is looked for beside a file of that name.
    ///
    /// # Errors
    /// [`ScriptError`] with all that is wrong in it.
    pub fn parse(name: impl Into<String>, text: impl Into<String>) -> Result<Self, ScriptError> {
        Self::read(name.into(), text.into().into_bytes())
    }

    /// Reads a script from a file.
    ///
    /// # Errors
    /// [`ScriptError`] with all that is wrong in it, or why it cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ScriptError> {
        let name = path.as_ref().display().to_string();
        match fs::read(path) {
            Ok(text) => Self::read(name, text),
            Err(error) => {
                // There is no text to show.
                let span = Span::nowhere();
                let diagnostics = vec![Diagnostic::new(format!("cannot read {name}: {error}"), span, "")];
                Err(ScriptError(Report { sources: Arc::default(), diagnostics }))
            }
        }
    }

    pub(crate) fn read(name: String, text: Vec<u8>) -> Result<Self, ScriptError> {
        let mut parser = Parser::new();
        let statements = parser.file(name, text);
        let sources = Arc::new(parser.sources);
        if parser.errors.is_empty() {
            Ok(Self { statements, sources })
        } else {
            Err(ScriptError(Report { sources, diagnostics: parser.errors }))
        }
    }

    /// What reports call the text that it was read from, and the text.
    pub(crate) fn source(&self) -> (&str, &str) {
        self.sources.first().map_or(("", ""), |source| (&source.name, &source.text))
    }

    /// The same script with other statements, at the places of before.
    pub(crate) fn with_statements(&self, statements: Vec<Statement>) -> Self {
        Self { statements, sources: Arc::clone(&self.sources) }
    }

    pub(crate) fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// Looks for variables that nothing has set when they are used.
    ///
    /// # Errors
    /// [`ScriptError`] with each of them.
    pub fn check(&self, options: &ScriptOptions) -> Result<(), ScriptError> {
        let mut scope = Scope::new(options.variables.keys().cloned());
        scope.statements(&self.statements);
        if scope.errors.is_empty() {
            return Ok(());
        }
        Err(ScriptError(Report { sources: Arc::clone(&self.sources), diagnostics: scope.errors }))
    }

    /// Runs it, on a thread of its own, and returns what the peers received, or why it was skipped.
    ///
    /// Blocks until it is done; within an actor system, let it be on a thread that serves nobody.
    ///
    /// # Errors
    /// [`ScriptFailure`] with the first line that does not hold.
    pub fn run(&self, target: &Target, options: &ScriptOptions) -> Result<ScriptRun, ScriptFailure> {
        self.on_a_thread(|| self.run_here(target, options)).and_then(|outcome| outcome)
    }

    /// Does something on a thread of its own, where nothing is left of what ran before. A panic is passed on.
    pub(crate) fn on_a_thread<T: Send>(&self, run: impl FnOnce() -> T + Send) -> Result<T, ScriptFailure> {
        let ran = thread::scope(|scope| {
            Ok(thread::Builder::new().name("script".to_owned()).spawn_scoped(scope, run)?.join())
        });
        match ran {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(panic)) => panic::resume_unwind(panic),
            Err(error) => Err(self.failure(no_runtime(&error))),
        }
    }

    fn run_here(&self, target: &Target, options: &ScriptOptions) -> Result<ScriptRun, ScriptFailure> {
        if let Some(name) = self.lacks(target, options) {
            return Ok(ScriptRun { transcripts: Vec::new(), skipped: Some(format!("needs {name}")) });
        }
        if let Err(ScriptError(report)) = self.check(options) {
            return Err(ScriptFailure(report));
        }
        let manner = Manner { cuts: options.cuts(), ..Manner::default() };
        self.run_once(target, options, &self.statements, manner).map(|(run, _)| run)
    }

    /// Runs these statements of it, on this thread, in a manner of their own.
    pub(crate) fn run_once(
        &self,
        target: &Target,
        options: &ScriptOptions,
        statements: &[Statement],
        manner: Manner,
    ) -> Result<(ScriptRun, Observations), ScriptFailure> {
        let (turn, is_slow) = (manner.turn, manner.disturbance.slow_peers);
        match &target.0 {
            Kind::None | Kind::Address(_) | Kind::Server(..) => self.runtime()?.block_on(self.run_over(
                NetDriver {
                    turn,
                    is_slow,
                    #[cfg(feature = "script-tls")]
                    tls: options.tls.clone(),
                },
                target,
                options,
                statements,
                manner,
            )),
            // Sessions are actors: they want an arbiter.
            Kind::Memory(service) => {
                let runtime = self.runtime()?;
                actix_rt::System::with_tokio_rt(|| runtime).block_on(async {
                    tokio::time::pause();
                    let driver = MemoryDriver::new(service(), manner.disturbance.clone());
                    self.run_over(driver, target, options, statements, manner).await
                })
            }
        }
    }

    /// The first thing that it needs and that is not there.
    pub(crate) fn lacks(&self, target: &Target, options: &ScriptOptions) -> Option<&str> {
        let mut needs = Vec::new();
        needs::needs(&self.statements, &mut needs);
        let there = needs::features(&target.0);
        needs.into_iter().find(|name| !there.contains(name) && !options.features.contains(*name))
    }

    /// Returns whether it starts servers, or names addresses, and so may run without a service: over [`Target::none`].
    #[must_use]
    pub fn brings_its_service(&self) -> bool {
        let mut needs = Vec::new();
        needs::needs(&self.statements, &mut needs);
        needs.iter().any(|name| matches!(*name, "processes" | "addresses"))
    }

    fn runtime(&self) -> Result<Runtime, ScriptFailure> {
        let runtime = runtime::Builder::new_current_thread().enable_all().on_thread_park(idle::parked).build();
        runtime.map_err(|error| self.failure(no_runtime(&error)))
    }

    async fn run_over<D: Driver>(
        &self,
        driver: D,
        target: &Target,
        options: &ScriptOptions,
        statements: &[Statement],
        manner: Manner,
    ) -> Result<(ScriptRun, Observations), ScriptFailure> {
        let mut runner = Runner {
            driver,
            peers: Vec::new(),
            variables: options.variables.clone(),
            newline: Newline::Lf,
            timeout: options.patience(),
            service: match &target.0 {
                Kind::Address(address) => Some(address.clone()),
                _ => None,
            },
            servers: Servers::default(),
            listeners: Vec::new(),
            sources: Arc::clone(&self.sources),
            cuts: manner.cuts,
            acting: 0,
            observed: manner.observes.then(Observed::default),
            amending: manner.amends.then(Box::default),
        };
        let held = match &target.0 {
            Kind::Server(command, port) => runner.start_given(command, *port).await,
            _ => Ok(()),
        };
        let held = match held {
            Ok(()) => runner.script(statements).await,
            failed => failed,
        };
        let given = usize::from(matches!(target.0, Kind::Server(..)));
        let is_nothing = runner.peers.is_empty() && runner.listeners.is_empty() && runner.servers.all.len() <= given;
        let held = held.and_then(|()| if is_nothing { Err(Box::new(nothing())) } else { Ok(()) });
        // Servers that wait for their peers' end, when they are asked to stop, are to see it.
        let peers = std::mem::take(&mut runner.peers);
        let peers: Vec<_> = peers.into_iter().map(|Peer { name, received, .. }| (name, received)).collect();
        match held.and_then(|()| runner.servers.stop()) {
            Ok(()) => {
                let observations = Observations {
                    observed: runner.observed.unwrap_or_default(),
                    counts: runner.driver.counts(),
                    peers: peers.iter().map(|(name, _)| name.clone()).collect(),
                    amending: runner.amending.unwrap_or_default(),
                };
                let transcripts = peers.into_iter().map(|(peer, received)| Transcript { peer, received }).collect();
                Ok((ScriptRun { transcripts, skipped: None }, observations))
            }
            Err(diagnostic) => Err(self.failure(runner.servers.explain(*diagnostic))),
        }
    }

    /// The file and the line in which something stands.
    pub(crate) fn place(&self, span: Span) -> Option<String> {
        let source = self.sources.get(span.file)?;
        let before = source.text.as_bytes().get(..span.start)?;
        Some(format!("{}:{}", source.name, 1 + before.iter().filter(|byte| **byte == b'\n').count()))
    }

    pub(crate) fn failure(&self, diagnostic: Diagnostic) -> ScriptFailure {
        ScriptFailure(Report { sources: Arc::clone(&self.sources), diagnostics: vec![diagnostic] })
    }
}

/// A test that tests nothing is a mistake.
fn nothing() -> Diagnostic {
    let title = "the script did nothing: no peer connects in it, and no server starts";
    Diagnostic::new(title, Span::nowhere(), "").kind(FailureKind::NotRun)
}

fn no_runtime(error: &io::Error) -> Diagnostic {
    let span = Span::nowhere();
    Diagnostic::new(format!("cannot run the script: {error}"), span, "").kind(FailureKind::NotRun)
}
