//! Hub: the one subscription of a node, for all of its channels, and the probe that finds out whether it hears.
//!
//! A subscription can be alive and deaf: so the node publishes to itself, and expects that to come back.
//! Not here: who listens (`channels`), what messages mean.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::cluster::{
    core::{BACKOFF, Core},
    store::{Message, Subscription},
};

/// Time from one probe to the next. One that has not come back when the second one after it is due is lost.
const PROBE: Duration = Duration::from_millis(1500);

/// Messages that wait for the hub.
const MAILBOX: usize = 4096;

/// Most channels of one call.
const SLICE: usize = 1000;

/// A subscription that lasted for as long counts as a good one: the next loss waits as little as the first.
const GOOD: Duration = Duration::from_secs(10);

/// What every probe begins with; its number and a brace follow.
const PROBE_HEAD: &[u8] = br#"{"v":1,"probe":"#;

/// Why a subscription is opened anew.
enum Ended {
    /// The store has dropped it, or cannot change its channels.
    Lost,
    /// It does not hear its own probes.
    Deaf(&'static str),
}

/// Runs until it is dropped.
pub(crate) async fn run(core: Arc<Core>) {
    // If it has run before, what it heard then it hears no more.
    core.hub.set_heard(None);
    let mut failed = 0;
    loop {
        let (to, messages) = mpsc::channel(MAILBOX);
        let began = Instant::now();
        if let Ok(subscription) = core.subscribe(to).await {
            core.counts.subscriptions.one();
            let ended = hold(&core, subscription, messages).await;
            core.hub.set_heard(None);
            if let Ended::Deaf(why) = ended {
                core.counts.times_deaf.one();
                core.health.deafen(why);
            }
        }
        failed = if began.elapsed() >= GOOD { 1 } else { failed + 1 };
        tokio::select! {
            () = sleep(BACKOFF.wait(failed)) => {}
            () = core.health.found() => failed = 0,
        }
    }
}

/// Holds a subscription until it is lost or deaf.
async fn hold(core: &Core, mut subscription: Box<dyn Subscription>, mut messages: mpsc::Receiver<Message>) -> Ended {
    let answered = AtomicU64::new(0);
    let deliver = async {
        while let Some(message) = messages.recv().await {
            core.counts.messages.one();
            match number_of_probe(&message.bytes) {
                // One that was never sent is somebody else's, and no proof.
                Some(number) if core.hub.is_control(&message.channel) && number <= core.counts.probes.get() => {
                    answered.fetch_max(number, Relaxed);
                    core.health.hear();
                }
                _ => core.hub.deliver(message, &core.counts),
            }
        }
        Ended::Lost
    };
    let mut counted = 0;
    let ended = tokio::select! {
        ended = deliver => ended,
        ended = steer(core, &mut *subscription, &answered, &mut counted) => ended,
    };
    count_dropped(core, &*subscription, &mut counted);
    ended
}

/// Counts what the store had to drop of a subscription, beyond what was counted before.
fn count_dropped(core: &Core, subscription: &dyn Subscription, counted: &mut u64) {
    let dropped = subscription.dropped();
    core.counts.messages_dropped.add(dropped.saturating_sub(*counted));
    *counted = dropped;
}

/// Gives a subscription the channels that are wanted, probes whether it hears, and counts what it has lost.
async fn steer(core: &Core, subscription: &mut dyn Subscription, answered: &AtomicU64, counted: &mut u64) -> Ended {
    let mut probes = Probes::default();
    let mut due = interval(PROBE);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut changes, mut control) = core.hub.all();
    loop {
        let (mut missing, mut gone) = (Vec::new(), Vec::new());
        for (channel, is_wanted) in changes {
            let to = if is_wanted { &mut missing } else { &mut gone };
            to.push(String::from(&*channel));
        }
        for slice in missing.chunks(SLICE) {
            if core.add(subscription, slice).await.is_err() {
                return Ended::Lost;
            }
        }
        // Behind those that are new: no channel is missed because another one goes.
        for slice in gone.chunks(SLICE) {
            if core.remove(subscription, slice).await.is_err() {
                return Ended::Lost;
            }
        }
        core.hub.set_heard(control);

        tokio::select! {
            () = core.hub.changed() => {}
            _ = due.tick() => {
                count_dropped(core, subscription, counted);
                if let Some(deaf) = probe(core, &mut probes, answered).await {
                    return deaf;
                }
            }
        }
        (changes, control) = core.hub.changes();
    }
}

/// Probes that were published by way of one subscription.
#[derive(Debug, Default)]
struct Probes {
    /// Where the last one was published: those of a channel that the node has left do not come back.
    channel: Option<Arc<str>>,
    /// The one of the last tick, and that of the tick before.
    waiting: [Option<u64>; 2],
}

/// Publishes a probe to the node itself. Returns why the subscription is deaf, if it is.
async fn probe(core: &Core, probes: &mut Probes, answered: &AtomicU64) -> Option<Ended> {
    if probes.channel != core.hub.heard() {
        *probes = Probes { channel: core.hub.heard(), waiting: [None; 2] };
    }
    let lost = probes.waiting[1].is_some_and(|number| answered.load(Relaxed) < number);
    if lost {
        core.counts.probes_lost.one();
        return Some(Ended::Deaf("a message of this node to itself did not come back"));
    }
    probes.waiting[1] = probes.waiting[0].take();
    let channel = core.hub.heard()?;
    // Of all subscriptions: an answer to a probe of the one before says nothing of this one.
    core.counts.probes.one();
    let number = core.counts.probes.get();
    let bytes = [PROBE_HEAD, number.to_string().as_bytes(), b"}"].concat();
    // A store that does not answer is not deaf: the lease finds out.
    let receivers = core.publish(&channel, Bytes::from(bytes)).await.ok()?;
    if receivers == 0 {
        core.counts.probes_lost.one();
        return Some(Ended::Deaf("nobody is subscribed to this node's own channel"));
    }
    probes.waiting[0] = Some(number);
    None
}

/// Returns the number of a probe, if these bytes are one.
fn number_of_probe(bytes: &[u8]) -> Option<u64> {
    let number = bytes.strip_prefix(PROBE_HEAD)?.strip_suffix(b"}")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use futures::future::FutureExt;

    use super::*;
    use crate::cluster::{
        builder::Cluster,
        mailbox::Mailbox,
        memory::{Fault, Memory},
        store::{Store, StoreAnswer},
    };

    /// A subscription that has lost so many messages.
    #[derive(Debug)]
    struct Losing(u64);

    impl Subscription for Losing {
        fn add<'a>(&'a mut self, _: &'a [String]) -> StoreAnswer<'a, ()> {
            Box::pin(async { Ok(()) })
        }

        fn remove<'a>(&'a mut self, _: &'a [String]) -> StoreAnswer<'a, ()> {
            Box::pin(async { Ok(()) })
        }

        fn dropped(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn what_a_subscription_has_lost_is_counted_once() {
        let core = Cluster::builder(Memory::new()).node("a").build().unwrap().core;
        let mut counted = 0;
        for lost in [0, 3, 3, 5, 5] {
            count_dropped(&core, &Losing(lost), &mut counted);
            assert_eq!(core.counts.messages_dropped.get(), lost);
        }
    }

    #[actix::test]
    async fn a_channel_is_the_subscriptions_at_once_for_as_long_as_it_is_wanted() {
        tokio::time::pause();
        let memory = Memory::new();
        let core = Cluster::builder(memory.clone()).node("a").build().unwrap().core;
        let hub = tokio::task::spawn_local(run(Arc::clone(&core)));
        let (to, _reader) = Mailbox::new(9);
        let began = Instant::now();
        let receivers = async |channel: &str| {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            memory.publish(channel, Bytes::new()).await.unwrap()
        };
        assert_eq!(receivers("r:1").await, 0);
        core.hub.listen("r:1".to_owned(), to.clone());
        assert_eq!(receivers("r:1").await, 1);
        core.hub.forget("r:1");
        assert_eq!(receivers("r:1").await, 0);
        let calls = memory.calls().subscribe;
        // One that comes and goes at once.
        core.hub.listen("r:2".to_owned(), to);
        core.hub.forget("r:2");
        assert_eq!(receivers("r:2").await, 0);
        assert_eq!((memory.calls().subscribe, core.counts.subscriptions.get()), (calls, 1));
        assert_eq!(began.elapsed(), Duration::ZERO);
        hub.abort();
    }

    #[actix::test]
    async fn a_probe_on_the_channel_of_a_former_life_is_not_awaited_and_one_that_nobody_hears_is_lost() {
        let memory = Memory::new();
        let core = Cluster::builder(memory.clone()).node("a").build().unwrap().core;
        core.hub.set_heard(Some("c:now".into()));
        let mut probes = Probes { channel: Some("c:before".into()), waiting: [Some(2), Some(1)] };
        let deaf = probe(&core, &mut probes, &AtomicU64::new(0)).await;
        assert!(matches!(deaf, Some(Ended::Deaf(why)) if why.starts_with("nobody")));
        assert_eq!(core.counts.probes_lost.get(), 1);
    }

    #[actix::test]
    async fn a_hub_that_begins_anew_hears_nothing_yet() {
        let memory = Memory::new();
        memory.fail(Fault::Lost);
        let core = Cluster::builder(memory).node("a").build().unwrap().core;
        core.hub.set_heard(Some("c:of a hub that has panicked".into()));
        assert!(run(Arc::clone(&core)).now_or_never().is_none());
        assert_eq!(core.hub.heard(), None);
    }
}
