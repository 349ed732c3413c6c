//! Tests of admission.

mod storm;

use std::net::SocketAddr;

use futures::task::noop_waker_ref;

use super::{
    listener::{ListenerAdmission, Place, Ticket},
    *,
};
use crate::{
    limits::{Limits, LimitsBuilder},
    source::SourcePrefix,
};

#[test]
fn an_accept_rate_is_met_with_a_burst_of_less_than_comes_while_a_timer_rings_late() {
    for (per_second, burst) in [(10_000, 1), (1000, 1), (100, 1), (7, 3), (u32::MAX / 1000, 1)] {
        let begin = Instant::now();
        let (mut bucket, mut now, mut taken) = (Bucket::new(Rate { per_second, burst }), begin, 0_u32);
        while now < begin + Duration::from_secs(1) {
            match bucket.next_token(now) {
                // Up to two milliseconds late.
                Some(next) => now = next + Duration::from_micros(1900),
                None => {
                    bucket.take(now);
                    taken += 1;
                }
            }
        }
        // A full bucket to begin with, and what nobody has come for yet at the end.
        let slack = i64::from(burst) + i64::from(per_second / 500) + 1;
        assert!((i64::from(taken) - i64::from(per_second)).abs() <= slack, "{per_second}/{burst}: {taken}");
    }
}

/// A way in without limits of its own.
fn by_listener(admission: &Arc<Admission>) -> Arc<ListenerAdmission> {
    ListenerAdmission::new(admission, ListenerLimits::default())
}

fn reserve(admission: &Arc<Admission>) -> Option<Place> {
    match by_listener(admission).ticket(noop_waker_ref()) {
        Ticket::Place(place) => Some(place),
        Ticket::Refusal(..) | Ticket::Wait(_) => None,
    }
}

fn admission(limits: Limits) -> Arc<Admission> {
    Admission::new(limits.admission)
}

#[test]
fn never_more_places_than_the_limit_whoever_asks() {
    let admission = admission(Limits::builder().max_sessions(10).build().unwrap());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    let place = reserve(&admission);
                    assert!(admission.taken.load(SeqCst) <= 10);
                    drop(place);
                }
            });
        }
    });
    let places: Vec<_> = (0..11).map(|_| reserve(&admission)).collect();
    assert_eq!(places.iter().flatten().count(), 10);
    drop(places);
    assert_eq!(admission.taken.load(SeqCst), 0);
}

#[test]
fn counts_of_sources_stay_true_when_sources_are_drawn_anew() {
    let limits = Limits::builder().max_sessions_per_source(2).build().unwrap();
    let admission = admission(limits.clone());
    let peer = |text: &str| Address::Ip(SocketAddr::new(text.parse().unwrap(), 1));
    let admit = |text: &str| {
        let mut place = reserve(&admission).unwrap();
        place.admit(peer(text)).map(|()| place)
    };
    let first = admit("192.0.2.1").unwrap();
    let second = admit("::ffff:192.0.2.1").unwrap();
    let third = admit("192.0.2.2").unwrap();
    assert_eq!(admit("192.0.2.1").unwrap_err(), Denial::Refused(RefuseReason::MaxSessionsPerSource));
    let wide = limits.to_builder().source_prefix(SourcePrefix { v4: 24, v6: 48 }).max_sessions_per_source(4);
    admission.set(wide.build().unwrap().admission);
    let fourth = admit("192.0.2.3").unwrap();
    assert_eq!(admit("192.0.2.4").unwrap_err(), Denial::Refused(RefuseReason::MaxSessionsPerSource));
    drop(first);
    let fifth = admit("192.0.2.4").unwrap();
    assert_eq!(admit("192.0.2.5").unwrap_err(), Denial::Refused(RefuseReason::MaxSessionsPerSource));
    // Back again, with the counts of each address.
    admission.set(limits.admission);
    let sixth = admit("192.0.2.1").unwrap();
    assert_eq!(admit("192.0.2.1").unwrap_err(), Denial::Refused(RefuseReason::MaxSessionsPerSource));
    drop((second, third, fourth, fifth, sixth));
    assert!(admission.rules().by_address.is_empty() && admission.rules().by_source.is_empty());
    assert_eq!(admission.taken.load(SeqCst), 0);
}

#[test]
fn a_flood_of_sources_whose_rate_has_recovered_is_not_remembered() {
    let rate = Some(Rate { per_second: u32::MAX, burst: 1 });
    let admission = admission(Limits::builder().accept_rate_per_source(rate).build().unwrap());
    for number in 0..100_000_u32 {
        let mut place = reserve(&admission).unwrap();
        place.admit(Address::Ip(SocketAddr::new(std::net::Ipv4Addr::from_bits(number).into(), 1))).unwrap();
        let remembered = admission.rules().buckets.as_ref().unwrap().full_at.len();
        assert!(remembered <= FORGET_AFTER + 1, "{remembered} after {number}");
    }
    assert!(admission.rules().by_address.is_empty());
}

fn peer(text: &str) -> Address {
    Address::Ip(SocketAddr::new(text.parse().unwrap(), 1))
}

fn rated(per_second: u32, burst: u32, policy: OverLimit) -> LimitsBuilder {
    Limits::builder().accept_rate(Some(Rate { per_second, burst })).over_limit(policy)
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl std::task::Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn an_acceptor_that_can_neither_admit_nor_refuse_sleeps_until_it_can() {
    let admission = admission(rated(1, 1, OverLimit::Refuse).build().unwrap());
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut place = reserve(&admission).unwrap();
    place.admit(peer("192.0.2.1")).unwrap();
    let listener = by_listener(&admission);
    let mut refusals: Vec<_> = (0..MAX_REFUSALS).map(|_| admission.try_refusal().unwrap()).collect();
    for _ in 0..3 {
        let Ticket::Wait(Some(until)) = listener.ticket(&waker) else { panic!("it can do nothing") };
        assert_eq!(until, Instant::now() + Duration::from_secs(1), "by then the rate allows one");
    }
    assert_eq!(wakes.0.load(SeqCst), 0, "looking wakes nobody");
    assert_eq!(admission.waiters.wakers().len(), 1, "it waits once");
    refusals.pop();
    assert_eq!(wakes.0.load(SeqCst), 1, "a refusal has room");
    assert!(matches!(listener.ticket(&waker), Ticket::Refusal(_, RefuseReason::AcceptRate)));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(matches!(listener.ticket(&waker), Ticket::Place(_)));
}

#[tokio::test(start_paused = true)]
async fn only_who_is_admitted_pays_for_the_accept_rate() {
    let limits = rated(1, 1, OverLimit::Wait).deny(["192.0.2.66".parse().unwrap()]).max_sessions_per_source(1);
    let admission = admission(limits.accept_rate_per_source(Some(Rate { per_second: 1, burst: 1 })).build().unwrap());
    let admit = |text: &str| {
        let mut place = reserve(&admission).expect("the rate allows one");
        place.admit(peer(text)).map(|()| place)
    };
    let refused = |reason| Some(Denial::Refused(reason));
    let first = admit("192.0.2.1").unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    for _ in 0..10 {
        assert_eq!(admit("192.0.2.66").err(), refused(RefuseReason::Denied));
        assert_eq!(admit("192.0.2.1").err(), refused(RefuseReason::MaxSessionsPerSource));
    }
    drop(admit("192.0.2.2").unwrap());
    assert!(reserve(&admission).is_none(), "that was the one");
    tokio::time::advance(Duration::from_millis(500)).await;
    assert!(reserve(&admission).is_none());
    tokio::time::advance(Duration::from_millis(500)).await;
    drop((first, admit("192.0.2.3").unwrap()));
    // The bucket of a source is emptier than that of all where another rate says so.
    let slower = rated(4, 1, OverLimit::Wait).accept_rate_per_source(Some(Rate { per_second: 1, burst: 1 }));
    admission.set(slower.build().unwrap().admission);
    for _ in 0..10 {
        assert_eq!(admit("192.0.2.3").err(), refused(RefuseReason::AcceptRatePerSource));
    }
    admit("192.0.2.4").unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_two_acceptors_that_see_the_last_token_one_takes_it() {
    for policy in [OverLimit::Wait, OverLimit::Refuse] {
        let per_source = Some(Rate { per_second: 1, burst: 1 });
        let admission = admission(rated(10, 1, policy).accept_rate_per_source(per_source).build().unwrap());
        let (mut first, mut second) = (reserve(&admission).unwrap(), reserve(&admission).unwrap());
        first.admit(peer("192.0.2.1")).unwrap();
        let denial = second.admit(peer("192.0.2.2")).unwrap_err();
        if policy == OverLimit::Refuse {
            assert_eq!(denial, Denial::Refused(RefuseReason::AcceptRate));
            continue;
        }
        let next = Instant::now() + Duration::from_millis(100);
        assert_eq!(denial, Denial::NotYet(next));
        tokio::time::sleep_until(next).await;
        second.admit(peer("192.0.2.2")).expect("its source has paid nothing for the first try");
    }
}

#[test]
fn never_more_are_admitted_than_the_rate_allows_whoever_asks() {
    let admission = admission(rated(100, 50, OverLimit::Wait).build().unwrap());
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while admission.admitted() < 80 {
                    // They all see the same token.
                    let places: Vec<_> = (0..8).filter_map(|_| reserve(&admission)).collect();
                    for mut place in places {
                        let _ = place.admit(peer("192.0.2.1"));
                        let admitted = admission.admitted();
                        let due = 50.0 + begin.elapsed().as_secs_f64() * 100.0;
                        assert!(admitted as f64 <= due + 1.0, "{admitted} of {due}");
                    }
                }
            });
        }
    });
}

#[test]
fn a_source_that_is_refused_leaves_room_for_others() {
    let limits = Limits::builder().source_prefix(SourcePrefix { v4: 24, v6: 64 });
    let admission = admission(limits.exempt(["198.51.100.1".parse().unwrap()]).build().unwrap());
    let refusal = |text: &str| {
        let mut refusal = admission.try_refusal().unwrap();
        refusal.charge(&peer(text)).then_some(refusal)
    };
    let mut held: Vec<_> = (0..100).filter_map(|at| refusal(&format!("192.0.2.{at}"))).collect();
    assert_eq!(held.len(), MAX_REFUSALS_PER_SOURCE as usize);
    let other = refusal("203.0.113.1").unwrap();
    held.pop();
    held.push(refusal("192.0.2.1").expect("one has ended"));
    assert!(refusal("192.0.2.1").is_none());
    let exempt: Vec<_> = (0..100).filter_map(|_| refusal("198.51.100.1")).collect();
    assert_eq!(exempt.len(), 100);
    drop((held, other, exempt));
    assert_eq!(admission.refusing(), 0);
    assert!(admission.rules().refusals.is_empty());
}

fn limited(admission: &Arc<Admission>, max_sessions: usize) -> Arc<ListenerAdmission> {
    ListenerAdmission::new(admission, ListenerLimits { max_sessions: Some(max_sessions), ..ListenerLimits::default() })
}

#[test]
fn never_more_places_than_the_limit_of_a_listener_nor_than_that_of_all_whoever_asks() {
    let admission = admission(Limits::builder().max_sessions(5).build().unwrap());
    let (first, second) = (limited(&admission, 3), limited(&admission, 4));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            for (listener, most) in [(&first, 3), (&second, 4)] {
                let admission = &admission;
                scope.spawn(move || {
                    for _ in 0..5_000 {
                        let places: Vec<_> = (0..3).filter_map(|_| listener.ticket_at_once().ok()).collect();
                        assert!(listener.taken() <= most && admission.taken.load(SeqCst) <= 5);
                        drop(places);
                    }
                });
            }
        }
    });
    let held: Vec<_> = (0..3).map(|_| first.ticket_at_once().unwrap()).collect();
    assert_eq!(first.ticket_at_once().unwrap_err(), RefuseReason::ListenerFull);
    let others: Vec<_> = (0..2).map(|_| second.ticket_at_once().unwrap()).collect();
    assert_eq!(second.ticket_at_once().unwrap_err(), RefuseReason::MaxSessions);
    drop((held, others));
    assert!(first.is_empty() && second.is_empty());
    assert_eq!(admission.taken.load(SeqCst), 0);
}

#[test]
fn acceptors_that_wait_for_a_place_of_their_listener_are_woken_by_that_alone() {
    let limits = Limits::builder().max_sessions(3).over_limit(OverLimit::Wait).build().unwrap();
    let admission = admission(limits.clone());
    let (full, other) = (limited(&admission, 1), limited(&admission, 3));
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let place = full.ticket_at_once().unwrap();
    let waits = |woken| {
        assert!(matches!(full.ticket(&waker), Ticket::Wait(None)));
        assert_eq!(wakes.0.load(SeqCst), woken, "looking wakes nobody");
    };
    waits(0);
    drop(other.ticket_at_once().unwrap());
    assert_eq!(wakes.0.load(SeqCst), 0, "a place of another listener is none of its own");
    drop(place);
    assert_eq!(wakes.0.load(SeqCst), 1);
    // Then it is the server that is full.
    let held: Vec<_> = (0..3).map(|_| other.ticket_at_once().unwrap()).collect();
    waits(1);
    drop(held);
    assert_eq!(wakes.0.load(SeqCst), 2);
    let place = full.ticket_at_once().unwrap();
    waits(2);
    full.set(ListenerLimits { max_sessions: Some(2), ..ListenerLimits::default() });
    assert_eq!(wakes.0.load(SeqCst), 3, "its limit is raised");
    drop((full.ticket_at_once().unwrap(), place));
}

#[test]
fn lists_of_a_listener_hold_beside_those_of_the_server_and_for_the_real_peer() {
    let admission = admission(Limits::builder().deny(["192.0.2.66".parse().unwrap()]).build().unwrap());
    let lists = |allow: &[&str], deny: &[&str]| ListenerLimits {
        allow: allow.iter().map(|text| text.parse().unwrap()).collect(),
        deny: deny.iter().map(|text| text.parse().unwrap()).collect(),
        ..ListenerLimits::default()
    };
    let listener = ListenerAdmission::new(&admission, lists(&["192.0.2.0/24"], &["192.0.2.7"]));
    let admit = |text: &str| listener.ticket_at_once().unwrap().admit(peer(text));
    let recharge = |text: &str| {
        let mut place = listener.ticket_at_once().unwrap();
        place.admit_unknown().unwrap();
        place.recharge(peer(text))
    };
    for (text, is_let_in) in [("192.0.2.1", true), ("192.0.2.7", false), ("192.0.2.66", false), ("198.51.100.1", false)]
    {
        let denied = (!is_let_in).then_some(RefuseReason::Denied);
        assert_eq!(admit(text).err(), denied.map(Denial::Refused), "{text}");
        assert_eq!(recharge(text).err(), denied, "{text}");
        assert_eq!(listener.denies(&peer(text)), !is_let_in, "{text}");
    }
    assert_eq!(listener.refused(), [("denied", 3)].into(), "an acceptor counts those that it refuses itself");
    listener.set(lists(&[], &[]));
    admit("198.51.100.1").unwrap();
    assert!(admission.rules().by_address.is_empty() && listener.is_empty());
}
