//! Hub: one subscriber for all consoles that watch.
//!
//! An event is written once for all consoles that watch the same in the same form, and what is written goes out ten times a
//! second: a hundred consoles cost a thousand small writes a second, however much happens. What is more than all consoles
//! together may be told, or than one of them takes, is lost, and counted in its place. While nobody watches there is no hub.
//! Not here: the command (`watch`), the text of an event (`entry`).

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context as TaskContext, Poll, Waker},
    time::Duration,
};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message};
use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    console::entry::{self, Watched},
    control::{event::SessionEvent, messages::Subscribe},
    seconds,
    server::handle::ServerHandle,
};

/// Time that events are gathered before they go out.
const TICK: Duration = Duration::from_millis(100);

/// Time from one look at whether consoles have taken all to the next.
const TAKEN: Duration = Duration::from_millis(10);

/// Bytes that all consoles together are told in one tick, and the least of one.
const TICK_BYTES: usize = 128 * 1024;
const LEAST_BYTES: usize = 1024;

/// Bytes that may wait for a console which does not take them. More may only come at once, where nothing waits.
pub(crate) const WAITING_BYTES: usize = 4 * 1024;

/// Batches that may wait for the hub itself: it is late only where its arbiter is.
const MAILBOX_CAPACITY: usize = 256;

/// The way of consoles to their hub.
#[derive(Debug, Default)]
pub(crate) struct Watching {
    hub: Mutex<Option<Addr<Hub>>>,
    /// Feeds that are there, also where the hub does not know of one yet.
    feeds: Arc<AtomicUsize>,
}

impl Watching {
    /// Begins to watch.
    pub(crate) fn join(&self, server: &ServerHandle, watched: Watched) -> Feed {
        let feed = Feed { queue: Arc::default(), feeds: Arc::clone(&self.feeds) };
        self.feeds.fetch_add(1, SeqCst);
        let mut hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        hub.take_if(|hub| !hub.connected());
        let hub = hub.get_or_insert_with(|| {
            let (server, feeds) = (server.clone(), Arc::clone(&self.feeds));
            Hub { server, groups: Vec::new(), feeds, is_late: false }.start()
        });
        // It does not end before it has seen that this feed is there.
        hub.do_send(Join(watched, Arc::downgrade(&feed.queue)));
        feed
    }

    /// Ends all feeds, behind what has happened until now. Returns when each is taken to its end, or at the deadline.
    pub(crate) async fn end(&self, deadline: Instant) {
        let hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(hub) = hub else { return };
        let taken = async {
            // Without a hub nobody watches any more.
            let _ = hub.send(End).await;
            while self.feeds.load(SeqCst) > 0 {
                tokio::time::sleep(TAKEN).await;
            }
        };
        let _ = tokio::time::timeout_at(deadline, taken).await;
    }
}

/// What a console has yet to take.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Lines, each with its newline.
    Lines(Bytes),
    /// So many events were lost here.
    Lost(u64),
}

/// A console's end: what it watches comes here.
#[derive(Debug)]
pub(crate) struct Feed {
    queue: Arc<Mutex<Queue>>,
    feeds: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Queue {
    told: VecDeque<Told>,
    bytes: usize,
    /// Lost behind what waits.
    lost: u64,
    /// Nothing comes behind what waits.
    is_over: bool,
    waker: Option<Waker>,
}

impl Feed {
    /// Waits for something, and takes all that is there; `None` if nothing is to come.
    pub(crate) async fn next(&self) -> Option<Vec<Told>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&self, cx: &mut TaskContext<'_>) -> Poll<Option<Vec<Told>>> {
        let mut queue = lock(&self.queue);
        if queue.told.is_empty() && queue.lost == 0 {
            if queue.is_over {
                return Poll::Ready(None);
            }
            queue.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        queue.bytes = 0;
        let lost = std::mem::take(&mut queue.lost);
        let mut told: Vec<_> = queue.told.drain(..).collect();
        told.extend((lost > 0).then_some(Told::Lost(lost)));
        Poll::Ready(Some(told))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.feeds.fetch_sub(1, SeqCst);
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    /// Adds lines of so many events, if there is room for them, and then events that are lost. Returns true if something
    /// waits.
    fn push(&mut self, lines: &Bytes, events: u64, lost: u64) -> bool {
        if !lines.is_empty() && (self.bytes == 0 || self.bytes + lines.len() <= WAITING_BYTES) {
            let before = std::mem::take(&mut self.lost);
            self.told.extend((before > 0).then_some(Told::Lost(before)));
            self.bytes += lines.len();
            self.told.push_back(Told::Lines(lines.clone()));
        } else {
            self.lost += events;
        }
        self.lost += lost;
        let waits = self.bytes > 0 || self.lost > 0;
        if waits {
            self.wake();
        }
        waits
    }

    fn end(&mut self) {
        self.is_over = true;
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

/// A console begins to watch.
#[derive(Message)]
#[rtype(result = "()")]
struct Join(Watched, Weak<Mutex<Queue>>);

/// The server has ended, and with it all feeds.
#[derive(Message)]
#[rtype(result = "()")]
struct End;

/// Consoles that watch the same in the same form.
struct Group {
    watched: Watched,
    feeds: Vec<Weak<Mutex<Queue>>>,
    /// Written since the last tick.
    lines: Vec<u8>,
    events: u64,
    lost: u64,
}

impl Group {
    /// Writes an event, unless as much was written as may be.
    fn write(&mut self, event: &SessionEvent, at: Duration, most: usize) {
        if let SessionEvent::Lost(count) = event {
            // The rest of this tick as well, or the count would stand before what came earlier.
            self.lost += count;
            return;
        }
        for entry in event.entries().filter(|entry| self.watched.has(entry)) {
            if self.lost > 0 || self.lines.len() >= most {
                self.lost += entry::count(&entry);
            } else {
                self.events += entry::count(&entry);
                entry::write(&mut self.lines, &entry, at, self.watched.is_json);
            }
        }
    }

    /// Passes on what was written. Returns true if something waits for a console.
    fn flush(&mut self) -> bool {
        let lines = Bytes::copy_from_slice(&self.lines);
        self.lines.clear();
        let (events, lost) = (std::mem::take(&mut self.events), std::mem::take(&mut self.lost));
        let mut waits = false;
        self.feeds.retain(|feed| {
            let Some(queue) = feed.upgrade() else { return false };
            waits |= lock(&queue).push(&lines, events, lost);
            true
        });
        waits
    }
}

/// The subscriber.
#[derive(Debug)]
pub(crate) struct Hub {
    server: ServerHandle,
    groups: Vec<Group>,
    feeds: Arc<AtomicUsize>,
    /// The next tick is on its way.
    is_late: bool,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("watched", &self.watched).finish_non_exhaustive()
    }
}

impl Hub {
    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.is_late = false;
        let mut waits = false;
        for group in &mut self.groups {
            waits |= group.flush();
        }
        self.groups.retain(|group| !group.feeds.is_empty());
        if self.feeds.load(SeqCst) == 0 {
            return ctx.stop();
        }
        if waits {
            self.tick_later(ctx);
        }
    }

    fn tick_later(&mut self, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.is_late, true) {
            ctx.run_later(TICK, Self::tick);
        }
    }
}

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
        self.server.supervisor().do_send(Subscribe::new(ctx.address().recipient()));
        // Consoles go without a word.
        ctx.run_interval(Duration::from_secs(1), Self::tick);
    }
}

impl Handler<Join> for Hub {
    type Result = ();

    fn handle(&mut self, Join(watched, feed): Join, ctx: &mut Self::Context) {
        match self.groups.iter_mut().find(|group| group.watched == watched) {
            Some(group) => {
                // What was written before is not for this one.
                group.flush();
                group.feeds.push(feed);
            }
            None => self.groups.push(Group { watched, feeds: vec![feed], lines: Vec::new(), events: 0, lost: 0 }),
        }
        self.tick_later(ctx);
    }
}

impl Handler<End> for Hub {
    type Result = ();

    fn handle(&mut self, _: End, _: &mut Self::Context) {
        for group in &mut self.groups {
            group.flush();
            group.feeds.iter().filter_map(Weak::upgrade).for_each(|queue| lock(&queue).end());
        }
    }
}

impl Handler<SessionEvent> for Hub {
    type Result = ();

    fn handle(&mut self, event: SessionEvent, ctx: &mut Self::Context) {
        let at = seconds::now();
        let most = (TICK_BYTES / self.feeds.load(SeqCst).max(1)).max(LEAST_BYTES);
        self.groups.iter_mut().for_each(|group| group.write(&event, at, most));
        self.tick_later(ctx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::query::SessionFilter, rot13::Rot13, server::builder::LineServer};

    fn queue() -> (Arc<Mutex<Queue>>, Feed) {
        let queue = Arc::<Mutex<Queue>>::default();
        let feed = Feed { queue: Arc::clone(&queue), feeds: Arc::new(AtomicUsize::new(1)) };
        (queue, feed)
    }

    fn taken(feed: &Feed) -> Vec<Told> {
        let mut cx = TaskContext::from_waker(Waker::noop());
        if let Poll::Ready(Some(told)) = feed.poll_next(&mut cx) { told } else { Vec::new() }
    }

    #[test]
    fn what_a_console_does_not_take_is_bounded_and_counted_in_its_place() {
        let (queue, feed) = queue();
        let lines = Bytes::from(vec![b'x'; WAITING_BYTES / 2]);
        assert_eq!(taken(&feed), []);
        for _ in 0..5 {
            assert!(lock(&queue).push(&lines, 10, 0));
        }
        assert_eq!(taken(&feed), [Told::Lines(lines.clone()), Told::Lines(lines.clone()), Told::Lost(30)]);
        lock(&queue).push(&lines, 10, 7);
        lock(&queue).push(&lines, 10, 0);
        lock(&queue).push(&Bytes::new(), 0, 1);
        assert_eq!(
            taken(&feed),
            [Told::Lines(lines.clone()), Told::Lost(7), Told::Lines(lines.clone()), Told::Lost(1)]
        );
        assert!(!lock(&queue).push(&Bytes::new(), 0, 0));
        // However much comes at once, where nothing waits.
        let much = Bytes::from(vec![b'x'; WAITING_BYTES * 3]);
        lock(&queue).push(&much, 1, 0);
        assert_eq!(taken(&feed), [Told::Lines(much)]);
    }

    #[actix::test]
    async fn nobody_subscribes_while_nobody_watches() {
        tokio::time::pause();
        let server = LineServer::new(|_| Rot13).on_current_arbiter().bind("127.0.0.1:0").unwrap().start().unwrap();
        let watching = Watching::default();
        let watched = Watched { kinds: 0, filter: SessionFilter::default(), is_json: false };
        let has_hub = || watching.hub.lock().unwrap().as_ref().is_some_and(Addr::connected);
        for _ in 0..2 {
            let (first, second) = (watching.join(&server, watched.clone()), watching.join(&server, watched.clone()));
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert!(has_hub() && server.control().ledger.has_subscribers());
            drop(first);
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert!(has_hub(), "another watches");
            drop(second);
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert!(!has_hub());
        }
        server.abort().await.unwrap();
    }
}
