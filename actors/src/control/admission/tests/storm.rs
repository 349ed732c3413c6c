//! Admission under everything that can happen to it, held against a model that counts by looking at all places each time.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::task::noop_waker_ref;
use proptest::{
    prelude::{Strategy, any},
    prop_assert_eq, prop_oneof,
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::{
    address::{Address, Credentials, UnixAddress},
    control::admission::{
        Admission, Denial,
        listener::{ListenerAdmission, Place, Ticket},
        tests::{admission, by_listener, peer},
    },
    limits::{Limits, OverLimit},
    rate::Rate,
    report::RefuseReason,
    source::{PeerId, SourcePrefix},
};

/// A peer, and its source by a short and by a long prefix: written down, not computed.
#[derive(Clone, Copy, Debug)]
enum Who {
    Ip(&'static str, u8, u8),
    /// Process and user of a unix socket.
    User(u32, u32, u8),
    Nobody,
}

const PEERS: [Who; 10] = [
    Who::Ip("192.0.2.1", 0, 10),
    Who::Ip("::ffff:192.0.2.1", 0, 10),
    Who::Ip("192.0.2.2", 1, 10),
    Who::Ip("198.51.100.1", 2, 11),
    Who::Ip("2001:db8::1", 3, 12),
    Who::Ip("2001:db8::2", 4, 12),
    Who::Ip("2001:db8:0:1::1", 5, 13),
    Who::User(100, 1, 6),
    Who::User(101, 1, 6),
    Who::Nobody,
];
const DENIED: &str = "198.51.100.1";
const EXEMPT: &str = "192.0.2.2";
const EXACT: SourcePrefix = SourcePrefix { v4: 32, v6: 128 };
const WIDE: SourcePrefix = SourcePrefix { v4: 24, v6: 64 };

impl Who {
    fn address(self) -> Address {
        match self {
            Self::Ip(text, ..) => peer(text),
            Self::User(pid, uid, _) => UnixAddress::of(Credentials { pid: Some(pid), uid, gid: uid }).into(),
            Self::Nobody => Address::Memory,
        }
    }

    fn source(self, is_wide: bool) -> Option<u8> {
        match self {
            Self::Ip(_, exact, wide) => Some(if is_wide { wide } else { exact }),
            Self::User(.., user) => Some(user),
            Self::Nobody => None,
        }
    }

    fn is(self, address: &str) -> bool {
        matches!(self, Self::Ip(text, ..) if text == address)
    }
}

/// Limits as the model knows them. Rates are one a second, with this burst.
#[derive(Clone, Copy, Debug)]
struct Rough {
    max_sessions: usize,
    per_source: usize,
    is_wide: bool,
    has_lists: bool,
    rate: Option<u32>,
    source_rate: Option<u32>,
    waits: bool,
}

impl Rough {
    fn limits(self) -> Limits {
        let rate = |burst| Rate { per_second: 1, burst };
        let limits = Limits::builder().max_sessions(self.max_sessions).max_sessions_per_source(self.per_source);
        let limits = limits.source_prefix(if self.is_wide { WIDE } else { EXACT });
        let limits = limits.accept_rate(self.rate.map(rate)).accept_rate_per_source(self.source_rate.map(rate));
        let limits = limits.over_limit(if self.waits { OverLimit::Wait } else { OverLimit::Refuse });
        let limits = match self.has_lists {
            true => limits.deny([DENIED.parse().unwrap()]).exempt([EXEMPT.parse().unwrap()]),
            false => limits,
        };
        limits.build().unwrap()
    }
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Reserve,
    Admit(usize, usize),
    AdmitUnknown(usize),
    Recharge(usize, usize),
    Excuse(usize),
    End(usize),
    Set(Rough),
    Pass(u64),
}

/// What has become of a place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reserved,
    Admitted,
    /// Refused or excused: nothing but its end is left.
    Over,
}

struct Model {
    way: Arc<ListenerAdmission>,
    rough: Rough,
    places: Vec<(Place, State, Who)>,
    tokens: u32,
    /// Tokens that sources have left, where they have used some.
    source_tokens: HashMap<u8, u32>,
    admitted: u64,
    refused: u64,
}

impl Model {
    fn new(rough: Rough, admission: &Arc<Admission>) -> Self {
        let tokens = rough.rate.unwrap_or(0);
        let way = by_listener(admission);
        Self { way, rough, places: Vec::new(), tokens, source_tokens: HashMap::new(), admitted: 0, refused: 0 }
    }

    fn sessions(&self, source: u8) -> usize {
        let is_its = |who: &Who| who.source(self.rough.is_wide) == Some(source);
        self.places.iter().filter(|(_, state, who)| *state == State::Admitted && is_its(who)).count()
    }

    fn denial_of_source(&self, who: Who) -> Option<RefuseReason> {
        if self.rough.has_lists && who.is(DENIED) {
            return Some(RefuseReason::Denied);
        }
        let source = self.limited(who)?;
        (self.sessions(source) >= self.rough.per_source).then_some(RefuseReason::MaxSessionsPerSource)
    }

    fn limited(&self, who: Who) -> Option<u8> {
        who.source(self.rough.is_wide).filter(|_| !(self.rough.has_lists && who.is(EXEMPT)))
    }

    fn take_of_source(&mut self, who: Who) -> bool {
        let (Some(source), Some(burst)) = (self.limited(who), self.rough.source_rate) else { return true };
        let tokens = self.source_tokens.entry(source).or_insert(burst);
        let has_one = *tokens > 0;
        *tokens -= u32::from(has_one);
        has_one
    }

    fn has_token(&self) -> bool {
        self.rough.rate.is_none() || self.tokens > 0
    }

    fn give_back(&mut self) {
        self.tokens = (self.tokens + 1).min(self.rough.rate.unwrap_or(0));
    }

    /// Who may be admitted, and if not why: `None` where the next token has to be waited for.
    fn admit(&mut self, who: Option<Who>) -> Result<(), Option<RefuseReason>> {
        if let Some(reason) = who.and_then(|who| self.denial_of_source(who)) {
            return Err(Some(reason));
        }
        if !self.has_token() {
            return Err((!self.rough.waits).then_some(RefuseReason::AcceptRate));
        }
        if who.is_some_and(|who| !self.take_of_source(who)) {
            return Err(Some(RefuseReason::AcceptRatePerSource));
        }
        self.tokens = self.tokens.saturating_sub(1);
        self.admitted += 1;
        Ok(())
    }

    fn set(&mut self, rough: Rough) {
        let old = std::mem::replace(&mut self.rough, rough);
        if old.rate != rough.rate {
            self.tokens = rough.rate.unwrap_or(0);
        }
        if old.source_rate != rough.source_rate || old.is_wide != rough.is_wide {
            self.source_tokens.clear();
        }
    }

    fn pass(&mut self, seconds: u64) {
        let filled = |tokens: u32, burst: u32| (tokens + seconds as u32).min(burst);
        self.tokens = filled(self.tokens, self.rough.rate.unwrap_or(0));
        for tokens in self.source_tokens.values_mut() {
            *tokens = filled(*tokens, self.rough.source_rate.unwrap_or(0));
        }
    }

    /// The place of this number, if it is in this state.
    fn at(&self, number: usize, state: State) -> Option<usize> {
        let at = number.checked_rem(self.places.len())?;
        (self.places[at].1 == state).then_some(at)
    }

    /// Does the same to both; whatever they answer is the same.
    async fn step(&mut self, admission: &Arc<Admission>, deed: Deed) -> Result<(), TestCaseError> {
        let as_denied = |denied: Result<(), Option<RefuseReason>>| denied.err();
        match deed {
            Deed::Reserve => {
                let expected = self.places.len() < self.rough.max_sessions && self.has_token();
                let place = reserve(&self.way);
                prop_assert_eq!(place.is_some(), expected);
                self.places.extend(place.map(|place| (place, State::Reserved, Who::Nobody)));
            }
            Deed::Admit(..) | Deed::AdmitUnknown(_) => {
                let (number, who) = match deed {
                    Deed::Admit(number, who) => (number, Some(PEERS[who])),
                    Deed::AdmitUnknown(number) => (number, None),
                    _ => return Ok(()),
                };
                let Some(at) = self.at(number, State::Reserved) else { return Ok(()) };
                let expected = self.admit(who);
                let place = &mut self.places[at].0;
                let denied = match who {
                    Some(who) => place.admit(who.address()),
                    None => place.admit_unknown(),
                };
                let denied = denied.map_err(|denial| match denial {
                    Denial::Refused(reason) => Some(reason),
                    Denial::NotYet(_) => None,
                });
                prop_assert_eq!(as_denied(denied), as_denied(expected));
                if denied.is_ok() {
                    (self.places[at].1, self.places[at].2) = (State::Admitted, who.unwrap_or(Who::Nobody));
                }
            }
            Deed::Recharge(number, who) => {
                let (Some(at), who) = (self.at(number, State::Admitted), PEERS[who]) else { return Ok(()) };
                // It is nobody's while it is looked at.
                self.places[at].2 = Who::Nobody;
                let expected = match self.denial_of_source(who) {
                    None if !self.take_of_source(who) => Some(RefuseReason::AcceptRatePerSource),
                    denial => denial,
                };
                prop_assert_eq!(self.places[at].0.recharge(who.address()).err(), expected);
                if expected.is_some() {
                    self.refused += 1;
                    self.give_back();
                    self.places[at].1 = State::Over;
                } else {
                    self.places[at].2 = who;
                }
            }
            Deed::Excuse(number) => {
                let Some(at) = self.at(number, State::Admitted) else { return Ok(()) };
                self.places[at].0.excuse();
                (self.places[at].1, self.places[at].2) = (State::Over, Who::Nobody);
                self.give_back();
            }
            Deed::End(number) => {
                if let Some(at) = number.checked_rem(self.places.len()) {
                    self.places.swap_remove(at);
                }
            }
            Deed::Set(rough) => {
                self.set(rough);
                admission.set(rough.limits().admission);
            }
            Deed::Pass(seconds) => {
                self.pass(seconds);
                tokio::time::advance(Duration::from_secs(seconds)).await;
            }
        }
        self.compare(admission)
    }

    fn compare(&self, admission: &Admission) -> Result<(), TestCaseError> {
        let rules = admission.rules();
        for who in PEERS {
            let counted = PeerId::of(&who.address()).map(|id| rules.count(id) as usize);
            prop_assert_eq!(counted, who.source(self.rough.is_wide).map(|source| self.sessions(source)), "{:?}", who);
        }
        drop(rules);
        prop_assert_eq!(admission.taken.load(SeqCst), self.places.len());
        prop_assert_eq!(admission.admitted(), self.admitted);
        prop_assert_eq!(refusals_of(&self.way), self.refused);
        Ok(())
    }
}

fn reserve(way: &Arc<ListenerAdmission>) -> Option<Place> {
    match way.ticket(noop_waker_ref()) {
        Ticket::Place(place) => Some(place),
        Ticket::Refusal(..) | Ticket::Wait(_) => None,
    }
}

fn refusals_of(way: &ListenerAdmission) -> u64 {
    way.refused().values().sum()
}

fn is_empty(admission: &Admission) -> bool {
    let rules = admission.rules();
    rules.by_address.is_empty() && rules.by_source.is_empty() && admission.taken.load(SeqCst) == 0
}

fn limits() -> impl Strategy<Value = Rough> {
    let burst = || prop_oneof![2 => (1..4_u32).prop_map(Some), 1 => proptest::strategy::Just(None)];
    (1..8_usize, 1..4_usize, any::<[bool; 3]>(), burst(), burst()).prop_map(
        |(max_sessions, per_source, flags, rate, source_rate)| {
            let [is_wide, has_lists, waits] = flags;
            Rough { max_sessions, per_source, is_wide, has_lists, rate, source_rate, waits }
        },
    )
}

fn deeds() -> impl Strategy<Value = Deed> {
    let (place, who) = (|| 0..100_usize, || 0..PEERS.len());
    prop_oneof![
        6 => (0..1).prop_map(|_| Deed::Reserve),
        3 => (place(), who()).prop_map(|(place, who)| Deed::Admit(place, who)),
        3 => place().prop_map(Deed::AdmitUnknown),
        6 => (place(), who()).prop_map(|(place, who)| Deed::Recharge(place, who)),
        1 => place().prop_map(Deed::Excuse),
        3 => place().prop_map(Deed::End),
        1 => limits().prop_map(Deed::Set),
        2 => (1..3_u64).prop_map(Deed::Pass),
    ]
}

#[test]
fn admissions_recharges_ends_and_changed_limits_count_as_a_model_does_that_looks_at_all_places() {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(300) });
    let all = (limits(), proptest::collection::vec(deeds(), 1..120));
    let result = runner.run(&all, |(rough, deeds)| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let admission = admission(rough.limits());
            let mut model = Model::new(rough, &admission);
            for deed in deeds {
                model.step(&admission, deed).await?;
            }
            model.places.clear();
            prop_assert_eq!(is_empty(&admission), true);
            Ok(())
        })
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// What may be no more at once than a limit says, counted from outside: after it has begun, until before it ends.
struct Shadow<'a>(&'a AtomicUsize);

impl<'a> Shadow<'a> {
    fn of(count: &'a AtomicUsize, most: usize) -> Self {
        let now = count.fetch_add(1, SeqCst) + 1;
        assert!(now <= most, "{now} of {most}");
        Self(count)
    }
}

impl Drop for Shadow<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[test]
fn no_source_exceeds_its_limit_while_threads_recharge_admit_end_and_change_limits() {
    const MOST: usize = 3;
    const PLACES: usize = 24;
    let limited: Vec<_> = PEERS.into_iter().filter(|who| who.source(true).is_some()).collect();
    // Where sources are drawn anew each address keeps to its limit; where they are not, each source does.
    for is_regrouped in [true, false] {
        let rough = |is_other: bool| Rough {
            max_sessions: PLACES - usize::from(is_other) * 8,
            per_source: MOST - usize::from(is_other),
            is_wide: !(is_regrouped && is_other),
            has_lists: false,
            rate: None,
            source_rate: None,
            waits: true,
        };
        let admission = admission(rough(false).limits());
        let way = by_listener(&admission);
        let (counts, taken): ([AtomicUsize; 16], _) = (Default::default(), AtomicUsize::new(0));
        let (is_over, refused) = (AtomicBool::new(false), AtomicU64::new(0));
        let (admission, counts, taken, is_over, refused, limited) =
            (&admission, &counts, &taken, &is_over, &refused, &limited);
        let way = &way;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for at in 0_u64.. {
                    admission.set(rough(at.is_multiple_of(2)).limits().admission);
                    if is_over.load(SeqCst) {
                        break;
                    }
                    std::thread::yield_now();
                }
            });
            let storms: Vec<_> = (0..4)
                .map(|seed| {
                    scope.spawn(move || {
                        let mut random = fastrand::Rng::with_seed(seed);
                        // Dropped in this order: the shadows before the place.
                        let mut held: Vec<(Option<Shadow<'_>>, Shadow<'_>, Place)> = Vec::new();
                        for _ in 0..20_000 {
                            let who = limited[random.usize(..limited.len())];
                            let count = || &counts[usize::from(who.source(!is_regrouped).unwrap())];
                            match random.u8(..8) {
                                0..3 => {
                                    let Some(mut place) = reserve(way) else { continue };
                                    let its = Shadow::of(taken, PLACES);
                                    if random.bool() {
                                        place.admit_unknown().unwrap();
                                        held.push((None, its, place));
                                    } else if place.admit(who.address()).is_ok() {
                                        held.push((Some(Shadow::of(count(), MOST)), its, place));
                                    } else {
                                        drop(its);
                                    }
                                }
                                3..6 if !held.is_empty() => {
                                    let at = random.usize(..held.len());
                                    held[at].0 = None;
                                    if held[at].2.recharge(who.address()).is_ok() {
                                        held[at].0 = Some(Shadow::of(count(), MOST));
                                    } else {
                                        refused.fetch_add(1, SeqCst);
                                        held.swap_remove(at);
                                    }
                                }
                                6.. if !held.is_empty() => {
                                    held.swap_remove(random.usize(..held.len()));
                                }
                                _ => {}
                            }
                        }
                    })
                })
                .collect();
            let results: Vec<_> = storms.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            is_over.store(true, SeqCst);
            results.into_iter().for_each(|result| result.unwrap());
        });
        assert!(is_empty(admission), "all were given back");
        assert!(refused.load(SeqCst) > 0);
        assert_eq!(refusals_of(way), refused.load(SeqCst));
    }
}
