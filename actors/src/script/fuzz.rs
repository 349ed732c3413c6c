//! Fuzz: the same script again and again, cut elsewhere and held back elsewhere each time. Peers must receive the same bytes.
//!
//! Not here: single cases (`case`), which of them there are (`plan`), what is done to calls (`memory`).

mod case;
mod early;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt, mem,
    time::{Duration, Instant},
};

pub use self::case::{FuzzCase, FuzzCaseError};
use self::{
    case::{Case, call_name},
    plan::Plan,
};
use crate::{
    script::{
        ast::{Span, Statement},
        kind::{FailureKind, Mismatch},
        manner::{Manner, Observations, Sent, Taken},
        memory::{Stall, call_index},
        report::{Diagnostic, ScriptError, ScriptFailure, side_by_side},
        scope::peer_title,
        target::Target,
        text::{Script, ScriptOptions},
    },
    shown::Shown,
};

/// The settings of a fuzz: how much it tries, and for how long.
#[derive(Clone, Debug)]
pub struct Fuzz {
    seed: u64,
    random_cases: usize,
    max_cases: usize,
    max_time: Option<Duration>,
    turn: Duration,
    cases: Vec<FuzzCase>,
}

impl Default for Fuzz {
    fn default() -> Self {
        Self {
            seed: 0,
            random_cases: 16,
            max_cases: 10_000,
            max_time: None,
            turn: Duration::from_millis(1),
            cases: Vec::new(),
        }
    }
}

impl Fuzz {
    /// Sets the seed of what is chosen by chance. Default: 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the number of cases that cut what peers send at several random places at once. Default: 16.
    #[must_use]
    pub fn random_cases(mut self, cases: usize) -> Self {
        self.random_cases = cases;
        self
    }

    /// Sets how many cases are tried at most. Where a script has more, cuts near the ends of lines come first, and the others
    /// are chosen by the seed. Default: 10,000.
    #[must_use]
    pub fn max_cases(mut self, cases: usize) -> Self {
        self.max_cases = cases;
        self
    }

    /// Sets the time after which no further case begins; the one that runs is finished. Default: none.
    #[must_use]
    pub fn max_time(mut self, time: Option<Duration>) -> Self {
        self.max_time = time;
        self
    }

    /// Sets how long a server has to read each piece before the next leaves. In memory a service has until nobody has
    /// anything to do, which takes no time. Default: 1 ms.
    #[must_use]
    pub fn turn(mut self, time: Duration) -> Self {
        self.turn = time;
        self
    }

    /// Tries this case, and no others but those given so. For one that failed before: one that changes nothing in a script is a
    /// failure of the kind [`FailureKind::NotRun`].
    #[must_use]
    pub fn case(mut self, case: FuzzCase) -> Self {
        self.cases.push(case);
        self
    }
}

/// The result of a fuzz in which every case held. Displayed, it is one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FuzzReport {
    /// The number of cases that were tried.
    pub cases: usize,
    /// The seed of what was chosen by chance.
    pub seed: u64,
    /// Each thing that was not tried or not compared, and why: a sentence each.
    pub left_out: Vec<String>,
    /// The reason why nothing was run: something that the script needs is not there. `None` if it was run.
    pub skipped: Option<String>,
}

impl fmt::Display for FuzzReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.skipped {
            return write!(f, "skipped: {reason}");
        }
        let hold = if self.cases == 1 { "case holds" } else { "cases hold" };
        write!(f, "{} {hold}, seed {}", self.cases, self.seed)?;
        self.left_out.iter().try_for_each(|sentence| write!(f, "; left out: {sentence}"))
    }
}

/// A script that does not hold in one of the cases of a fuzz, or not even as it is. Its text is all of it.
#[derive(Clone, Debug)]
pub struct FuzzFailure {
    case: Option<FuzzCase>,
    failure: ScriptFailure,
}

impl FuzzFailure {
    /// Returns the case in which it does not hold: the smallest one that was found. `None` if the script does not hold as it is.
    #[must_use]
    pub fn case(&self) -> Option<&FuzzCase> {
        self.case.as_ref()
    }

    /// Returns what does not hold.
    #[must_use]
    pub fn failure(&self) -> &ScriptFailure {
        &self.failure
    }

    /// Returns its text with the colours of a terminal.
    #[must_use]
    pub fn to_coloured_string(&self) -> String {
        self.failure.to_coloured_string()
    }
}

impl fmt::Display for FuzzFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(f)
    }
}

impl Error for FuzzFailure {}

/// Runs statements in a manner, and returns what was seen.
type Run<'a> = dyn FnMut(&[Statement], Manner) -> Result<Observations, ScriptFailure> + 'a;

/// Runs that make a large failing case smaller. Unit: runs.
const SHRINKS: usize = 200;

/// Runs as it is before a case is blamed: what chance makes is the same in two runs too often. Unit: runs.
const DOUBTS: usize = 20;

/// The run as it is, with which every case is compared.
struct Base<'a> {
    script: &'a Script,
    seen: Observations,
    /// Peers that receive something else each time.
    unsteady: BTreeSet<String>,
}

/// The bytes that expectations took of a peer, but for those that the script leaves open.
fn taken_by<'a>(seen: &'a Observations, peer: &str) -> Vec<&'a Taken> {
    let at = seen.peers.iter().position(|name| name == peer);
    seen.observed.taken.iter().filter(|taken| Some(taken.peer) == at && !taken.bytes.is_empty()).collect()
}

/// The first place where a peer received something else.
fn difference<'a>(base: &'a Observations, other: &'a Observations, peer: &str) -> Option<(Span, &'a [u8], &'a [u8])> {
    let (before, after) = (taken_by(base, peer), taken_by(other, peer));
    for at in 0..before.len().max(after.len()) {
        let bytes = |taken: Option<&&'a Taken>| taken.map_or(&b""[..], |taken| &taken.bytes);
        let pair = (bytes(before.get(at)), bytes(after.get(at)));
        if pair.0 != pair.1 {
            let span = before.get(at).or(after.get(at)).map_or(Span::default(), |taken| taken.span);
            return Some((span, pair.0, pair.1));
        }
    }
    None
}

fn ordinal(nth: usize) -> String {
    let ending = match (nth % 10, nth % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{nth}{ending}")
}

impl Base<'_> {
    /// Fails where a run does not hold, or peers received something else in it than in the base.
    fn compare(&self, ran: Result<Observations, ScriptFailure>) -> Result<(), ScriptFailure> {
        let seen = ran?;
        for peer in self.seen.peers.iter().filter(|peer| !self.unsteady.contains(*peer)) {
            if let Some((span, expected, received)) = difference(&self.seen, &seen, peer) {
                let title = format!("{} received something else than in one piece", peer_title(peer));
                let diagnostic = Diagnostic::new(title, span, "received here")
                    .kind(FailureKind::Differs)
                    .mismatch(Mismatch::new(peer, Some(expected.to_vec()), received))
                    .note(side_by_side(&Shown(expected).to_string(), received));
                return Err(self.script.failure(diagnostic));
            }
        }
        Ok(())
    }

    /// Notes peers that receive something else in another run as it is: those have to hold only.
    fn note_unsteady(&mut self, again: &Observations) {
        let differs = |peer: &&String| difference(&self.seen, again, peer).is_some();
        self.unsteady.extend(self.seen.peers.iter().filter(differs).cloned());
    }

    /// The statement that sent a byte of a peer, and what stands before and behind it there.
    fn place(&self, peer: &str, cut: usize) -> Option<(&Sent, usize)> {
        let at = self.seen.peers.iter().position(|name| name == peer)?;
        let mut before = 0;
        for sent in self.seen.observed.sent.iter().filter(|sent| sent.peer == at) {
            if cut <= before + sent.bytes.len() {
                return Some((sent, cut - before));
            }
            before += sent.bytes.len();
        }
        None
    }

    fn describe(&self, case: &Case) -> String {
        match case {
            Case::Split(cuts) => {
                let of_peer = |(peer, at): (&String, &Vec<usize>)| match (
                    &at[..],
                    at.first().and_then(|cut| self.place(peer, *cut)),
                ) {
                    ([_], Some((sent, cut))) => {
                        const SHOWN: usize = 24;
                        let (before, behind) = sent.bytes.split_at(cut);
                        let before = Shown(&before[before.len().saturating_sub(SHOWN)..]);
                        let place =
                            self.script.place(sent.span).map(|place| format!(", at {place}")).unwrap_or_default();
                        if behind.is_empty() {
                            format!("what {} sends is cut behind \"{before}\"{place}", peer_title(peer))
                        } else {
                            let behind = Shown(&behind[..behind.len().min(SHOWN)]);
                            format!(
                                "what {} sends is cut between \"{before}\" and \"{behind}\"{place}",
                                peer_title(peer)
                            )
                        }
                    }
                    _ => {
                        let at: Vec<_> = at.iter().map(ToString::to_string).collect();
                        format!("what {} sends is cut behind its bytes {}", peer_title(peer), at.join(", "))
                    }
                };
                cuts.iter().map(of_peer).collect::<Vec<_>>().join("; ")
            }
            Case::Bytes => "each byte that peers send comes by itself".to_owned(),
            Case::Early(nth) => {
                let early = early::early(self.script.statements(), *nth);
                let place = early.and_then(|early| self.script.place(early.span)).unwrap_or_default();
                format!("the first byte of the line at {place} comes before what others send ahead of it")
            }
            Case::Slow => "peers read little and seldom".to_owned(),
            Case::Stall(Stall::One { peer, call, nth }) => format!(
                "the service's {} {} on connections of {} waits until nobody else has anything to do",
                ordinal(*nth),
                call_name(*call),
                peer_title(peer)
            ),
            Case::Stall(Stall::Each(call)) => {
                format!("each {} of the service waits until nobody else has anything to do", call_name(*call))
            }
            Case::Reads(most) => format!("the service reads at most {most} bytes at once"),
            Case::Writes(most) => format!("the service writes at most {most} bytes at once"),
            Case::Window(bytes) => format!("at most {bytes} bytes that the service sends fit in before the peer reads"),
        }
    }

    /// Fails for a case that changes nothing here: that it holds would say nothing.
    fn can_try(&self, case: &FuzzCase, in_memory: bool) -> Result<(), FuzzFailure> {
        let sent = |peer: &str| {
            let at = self.seen.peers.iter().position(|name| name == peer);
            self.seen
                .observed
                .sent
                .iter()
                .filter(|sent| Some(sent.peer) == at)
                .map(|sent| sent.bytes.len())
                .sum::<usize>()
        };
        let reason = match &case.0 {
            case if case.needs_memory() && !in_memory => "the service is not in memory".to_owned(),
            // What is sent may be longer each time, so one place is enough.
            Case::Split(cuts) if cuts.iter().all(|(peer, at)| at.iter().all(|cut| *cut >= sent(peer))) => {
                let of_peer = |peer: &String| format!("{} sends {} bytes", peer_title(peer), sent(peer));
                cuts.keys().map(of_peer).collect::<Vec<_>>().join(", ")
            }
            Case::Early(nth) if *nth > early::count(self.script.statements()) => {
                format!("it has {} lines that others speak before", early::count(self.script.statements()))
            }
            Case::Stall(Stall::One { peer, call, nth }) => {
                let counts = self.seen.counts.get(peer);
                let count = counts.map_or(0, |counts| counts[call_index(*call)]);
                if *nth <= count {
                    return Ok(());
                }
                format!("on connections of {} the calls of {} are {count}", peer_title(peer), call_name(*call))
            }
            _ => return Ok(()),
        };
        let title = format!("the case {case} tries nothing here: {reason}");
        let diagnostic = Diagnostic::new(title, Span::nowhere(), "").kind(FailureKind::NotRun);
        Err(FuzzFailure { case: Some(case.clone()), failure: self.script.failure(diagnostic) })
    }

    fn attempt(&self, case: &Case, turn: Duration, run: &mut Run<'_>) -> Result<(), ScriptFailure> {
        let manner = Manner { turn, ..case.manner() };
        let changed = match case {
            Case::Early(nth) => early::early(self.script.statements(), *nth),
            _ => None,
        };
        self.compare(run(changed.as_ref().map_or(self.script.statements(), |early| &early.statements), manner))
    }

    /// A failing case with as few cuts as were found to be enough.
    fn shrunk(&self, case: Case, failure: ScriptFailure, turn: Duration, run: &mut Run<'_>) -> (Case, ScriptFailure) {
        let mut cuts: Vec<(String, usize)> = match &case {
            Case::Split(cuts) => cuts.iter().flat_map(|(peer, at)| at.iter().map(|at| (peer.clone(), *at))).collect(),
            Case::Bytes => {
                let mut sent = BTreeMap::<&str, usize>::new();
                for one in &self.seen.observed.sent {
                    *sent.entry(self.seen.peers.get(one.peer).map_or("", String::as_str)).or_default() +=
                        one.bytes.len();
                }
                sent.iter().flat_map(|(peer, len)| (1..*len).map(|at| ((*peer).to_owned(), at))).collect()
            }
            _ => return (case, failure),
        };
        let split = |cuts: &[(String, usize)]| {
            let mut by_peer = BTreeMap::<String, Vec<usize>>::new();
            for (peer, at) in cuts {
                by_peer.entry(peer.clone()).or_default().push(*at);
            }
            Case::Split(by_peer)
        };
        let mut smallest = (case, failure);
        let mut step = cuts.len().div_ceil(2);
        let mut left = SHRINKS;
        while step > 0 && left > 0 {
            let mut at = 0;
            while at < cuts.len() && cuts.len() > 1 && left > 0 {
                let mut fewer = cuts.clone();
                fewer.drain(at..cuts.len().min(at + step));
                left -= 1;
                let case = split(&fewer);
                match self.attempt(&case, turn, run) {
                    Err(failure) if !fewer.is_empty() => {
                        smallest = (case, failure);
                        cuts = fewer;
                    }
                    _ => at += step,
                }
            }
            step /= 2;
        }
        smallest
    }

    fn failed(&self, case: Case, mut failure: ScriptFailure) -> FuzzFailure {
        let sentence = self.describe(&case);
        let case = FuzzCase(case);
        failure.add_note(format!("it holds as it is, but not when {sentence}\ncase: {case}"));
        FuzzFailure { case: Some(case), failure }
    }
}

/// Runs the script as it is, twice, and then in each case.
fn fuzz(script: &Script, how: &Fuzz, in_memory: bool, run: &mut Run<'_>) -> Result<FuzzReport, FuzzFailure> {
    let begin = Instant::now();
    let as_it_is = || Manner { observes: true, turn: how.turn, ..Manner::default() };
    let unfit = |mut failure: ScriptFailure, note: &str| {
        failure.add_note(note.to_owned());
        FuzzFailure { case: None, failure }
    };
    let first = run(script.statements(), as_it_is());
    let seen = first
        .map_err(|failure| unfit(failure, "nothing was cut or held back yet: the script does not hold as it is"))?;
    let mut report = FuzzReport { seed: how.seed, ..FuzzReport::default() };
    let again = run(script.statements(), as_it_is());
    let again = again.map_err(|failure| unfit(failure, "nothing was cut or held back yet: the script held once, but not a second time. What one run leaves behind must not matter to the next"))?;
    let mut base = Base { script, seen, unsteady: BTreeSet::new() };
    base.note_unsteady(&again);
    let mut has_doubted = false;
    let cases = if how.cases.is_empty() {
        let plan = Plan::new(script.statements(), &base.seen, in_memory, how.max_cases, how.random_cases, how.seed);
        report.left_out.extend(plan.left_out);
        plan.cases
    } else {
        for case in &how.cases {
            base.can_try(case, in_memory)?;
        }
        how.cases.iter().map(|case| case.0.clone()).collect()
    };
    let mut found = None;
    let all = cases.len();
    for (at, case) in cases.into_iter().enumerate() {
        if how.max_time.is_some_and(|most| begin.elapsed() >= most) {
            let noun = if all - at == 1 { "case" } else { "cases" };
            report.left_out.push(format!("{} {noun}: the time was over", all - at));
            break;
        }
        // After a large one only a small one is of interest.
        if found.is_some() && !case.is_single() {
            continue;
        }
        report.cases += 1;
        let mut attempt = base.attempt(&case, how.turn, run);
        if attempt.is_err() && !mem::replace(&mut has_doubted, true) {
            let before = base.unsteady.len();
            for _ in 0..DOUBTS {
                let again = run(script.statements(), as_it_is());
                base.note_unsteady(&again.map_err(|failure| {
                    unfit(failure, "nothing was cut or held back: the script has held before, but does not each time")
                })?);
            }
            if base.unsteady.len() > before {
                attempt = base.attempt(&case, how.turn, run);
            }
        }
        if let Err(failure) = attempt {
            if case.is_single() {
                return Err(base.failed(case, failure));
            }
            found = Some((case, failure));
        }
    }
    match found {
        Some((case, failure)) => {
            let (case, failure) = base.shrunk(case, failure, how.turn, run);
            Err(base.failed(case, failure))
        }
        None => {
            let unsteady = base.unsteady.iter().map(|peer| peer_title(peer));
            let left_out = unsteady.map(|peer| format!("the bytes of {peer}: they are others each time, as it is"));
            report.left_out.extend(left_out);
            Ok(report)
        }
    }
}

impl Script {
    /// Runs the script in one piece, then in every case of `how`: cut at each place of what peers send, byte by byte, at random places,
    /// with peers that read slowly, and in memory with each single call of the service held back, with short reads, short writes and
    /// small windows. In every case it has to hold, and each peer has to receive the same bytes.
    ///
    /// Not compared is what a script leaves open: optional lines, which one of `one-of` came, the order within `unordered`; and a
    /// peer whose bytes are others each time. In memory nothing that is cut or held back takes time.
    ///
    /// Blocks until it is done; within an actor system, let it be on a thread that serves nobody.
    ///
    /// ```
    /// use actix_lines::{
    ///     LineSession, Rot13,
    ///     script::{Fuzz, Script, ScriptOptions, Target},
    /// };
    ///
    /// let script = Script::parse("cut.session", "> Hello\n< Uryyb\n: fin\n: eof\n")?;
    /// let target = Target::memory(|transport| {
    ///     LineSession::new(transport).start(Rot13);
    /// });
    /// let report = script.fuzz(&target, &ScriptOptions::default(), &Fuzz::default())?;
    /// assert!(report.cases > 20 && report.left_out.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`FuzzFailure`] with the smallest case that was found not to hold.
    pub fn fuzz(&self, target: &Target, options: &ScriptOptions, how: &Fuzz) -> Result<FuzzReport, FuzzFailure> {
        if let Some(name) = self.lacks(target, options) {
            let report = FuzzReport { seed: how.seed, skipped: Some(format!("needs {name}")), ..FuzzReport::default() };
            return Ok(report);
        }
        let failed = |failure| FuzzFailure { case: None, failure };
        self.check(options).map_err(|ScriptError(report)| failed(ScriptFailure(report)))?;
        let run = |statements: &[Statement], manner| {
            let ran = self.on_a_thread(|| self.run_once(target, options, statements, manner))?;
            ran.map(|(_, seen)| seen)
        };
        fuzz(self, how, target.is_memory(), &mut { run })
    }
}
