//! Rows: writes the node's sessions to the store: what has changed, in batches, and nothing while nothing changes.
//!
//! One change of the store at a time, one slice of sessions a turn. A batch of which it is unknown whether it was written is
//! written again.
//! Not here: what a row and a batch are to the store (`store`), lives (`lease`).

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    rc::{Rc, Weak},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler};
use tokio::{sync::Notify, time::sleep};

use crate::{
    address::Address,
    cluster::{
        core::{BACKOFF, Core},
        id::NodeId,
        store::{Change, Row},
    },
    connection::ListenerId,
    control::{
        event::SessionEvent,
        messages::Subscribe,
        query::{SessionFilter, SessionInfo, SessionQuery},
    },
    seconds,
    server::handle::ServerHandle,
};

/// Time that changes are gathered for. A session that comes and goes meanwhile costs the store nothing.
const BATCH: Duration = Duration::from_millis(50);

/// Most rows written and removed by one call.
const SLICE: usize = 1000;

/// Most sessions that the server lists at once.
const PAGE: usize = 5000;

/// Batches of events that wait for the watcher. More are lost, and all sessions are listed.
const MAILBOX: usize = 1024;

/// Runs until it is dropped.
pub(crate) async fn run(core: Arc<Core>) {
    // Set before any part runs.
    let Some(server) = core.server.get() else { return std::future::pending().await };
    // If it has run before, nobody knows any more which rows the store has: they go with the life.
    if let Some(id) = core.life() {
        core.fence(&id, "its rows are to be written anew");
    }
    let watched = Rc::new(Watched::default());
    let watcher = Watcher { watched: Rc::downgrade(&watched), core: Arc::clone(&core), events: 0 }.start();
    // Before anything is listed: what comes later is heard of.
    while server.supervisor().send(Subscribe::new(watcher.clone().recipient())).await.is_err() {
        // It has ended by a panic, and there is another one soon; or the system has ended.
        sleep(BATCH).await;
    }
    drop(watcher);
    let mut lives = core.life.subscribe();
    loop {
        let life = lives.borrow_and_update().clone();
        watched.book.borrow_mut().begin(life.is_some());
        tokio::select! {
            biased;
            ended = lives.changed() => if ended.is_err() { return },
            () = write(&core, life, server, &watched) => {}
        }
    }
}

/// What is heard of the sessions, and who is to write it.
#[derive(Debug, Default)]
struct Watched {
    book: RefCell<Book>,
    changed: Notify,
    /// Events were lost, or a life has begun: all sessions are to be listed.
    must_list: Cell<bool>,
}

/// Writes what the store lacks of a life, until that ends.
async fn write(core: &Core, life: Option<NodeId>, server: &ServerHandle, watched: &Watched) {
    let Some(id) = life else { return std::future::pending().await };
    watched.must_list.set(true);
    loop {
        if watched.must_list.take() && !list(core, &id, server, watched).await {
            // Not even a successor of the supervisor has answered: what was heard is written, and more is lacking.
            watched.must_list.set(true);
            flush(core, &id, watched, Rows::Some).await;
            sleep(BATCH).await;
            continue;
        }
        let waiting = watched.book.borrow().len();
        if waiting == 0 {
            watched.changed.notified().await;
        }
        if waiting < SLICE {
            sleep(BATCH).await;
        }
        flush(core, &id, watched, Rows::All).await;
    }
}

/// What the store has of the node's rows once a batch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// A row for each live session, but for what has just changed.
    All,
    /// Others are yet to be found.
    Some,
}

/// Writes one batch, however often that has to be tried, and what the store has then, if it says otherwise.
async fn flush(core: &Core, id: &NodeId, watched: &Watched, rows: Rows) {
    let mut failed = 0;
    loop {
        // Borrowed for a moment: events come while the store is waited for.
        let batch = watched.book.borrow_mut().take(SLICE);
        let is_partial = rows == Rows::Some;
        let mark = (core.is_partial.load(Relaxed) != is_partial).then_some(is_partial);
        let batch = match batch {
            Some(batch) => batch,
            None if mark == Some(false) => Change::default(),
            None => return,
        };
        let (put, remove) = (batch.put.len() as u64, batch.remove.len() as u64);
        let change = Change { begins: None, lease: core.settings.lease, is_partial: mark, ..batch };
        if core.register(id, &change).await.is_ok() {
            core.is_partial.store(is_partial, Relaxed);
            core.counts.rows_written.add(put);
            core.counts.rows_removed.add(remove);
            return;
        }
        // Perhaps it was written; perhaps the lease is over, and this is dropped.
        watched.book.borrow_mut().give_back(change);
        failed += 1;
        tokio::select! {
            () = sleep(BACKOFF.wait(failed)) => {}
            () = core.health.found() => {}
        }
    }
}

/// Lists all sessions, and writes what the store lacks. From the first batch to the last one the store says that it lacks some.
/// Returns false if nobody told all of them: no supervisor answers, or the system has ended.
async fn list(core: &Core, id: &NodeId, server: &ServerHandle, watched: &Watched) -> bool {
    core.counts.resyncs.one();
    let listing = Listing::begin(watched);
    let mut after = None;
    loop {
        let filter = after.map_or_else(SessionFilter::default, |last| SessionFilter::default().after(last));
        let query = SessionQuery::from(filter).limit(PAGE);
        let Ok(page) = server.sessions(query).await else { return false };
        let Some(last) = page.sessions.last().map(|session| session.id) else { break };
        let is_last = page.sessions.len() < PAGE;
        let now = seconds::now();
        let mut slices = page.sessions.chunks(SLICE).peekable();
        while let Some(slice) = slices.next() {
            slice.iter().for_each(|session| watched.book.borrow_mut().find(row_of(session, now)));
            // The last one waits for what is to be removed.
            if is_last && slices.peek().is_none() {
                break;
            }
            flush(core, id, watched, Rows::Some).await;
            // Others of this thread have their turns, even if nothing was to be written.
            tokio::task::yield_now().await;
        }
        if is_last {
            break;
        }
        after = Some(last);
    }
    watched.book.borrow_mut().remove_unfound();
    drop(listing);
    let slices = watched.book.borrow().len() / SLICE;
    for _ in 0..slices {
        flush(core, id, watched, Rows::Some).await;
    }
    flush(core, id, watched, Rows::All).await;
    true
}

/// While this lives all sessions are listed.
struct Listing<'a>(&'a Watched);

impl<'a> Listing<'a> {
    fn begin(watched: &'a Watched) -> Self {
        watched.book.borrow_mut().begin_list();
        Self(watched)
    }
}

impl Drop for Listing<'_> {
    fn drop(&mut self) {
        self.0.book.borrow_mut().end_list();
    }
}

/// What the store has and lacks of the rows of a life.
#[derive(Debug, Default)]
struct Book {
    /// There is a life. Without one nothing is booked: the next begins with a list.
    is_on: bool,
    /// Sessions whose rows are in the store, or may be.
    written: HashMap<u64, Written>,
    put: HashMap<u64, Row>,
    remove: HashSet<u64>,
    list: Option<List>,
}

#[derive(Clone, Copy, Debug)]
struct Written {
    /// Stands for the row, apart from when it was opened; `None` if it is unknown whether that was written.
    mark: Option<u64>,
    opened: u64,
}

/// What was heard while sessions were listed.
#[derive(Debug, Default)]
struct List {
    /// Sessions that an event has told of: that is newer than the list.
    heard: HashSet<u64>,
    /// Sessions that were known before it, and were not found yet.
    unfound: HashSet<u64>,
    /// Sessions that were not known before it, and have these names.
    renamed: HashMap<u64, Row>,
}

impl Book {
    /// Begins anew.
    fn begin(&mut self, is_on: bool) {
        *self = Self { is_on, ..Self::default() };
    }

    /// Returns the number of rows that are to be written or removed.
    fn len(&self) -> usize {
        self.put.len() + self.remove.len()
    }

    fn note(&mut self, session: u64) {
        if let Some(list) = &mut self.list {
            list.heard.insert(session);
        }
    }

    /// A session has opened.
    fn open(&mut self, row: Row) {
        if self.is_on {
            self.note(row.session);
            self.set(row);
        }
    }

    /// A session has another name or other tags.
    fn rename(&mut self, mut row: Row) {
        if !self.is_on {
            return;
        }
        let waiting = self.put.get(&row.session).map(|put| put.opened);
        let opened = waiting.or_else(|| self.written.get(&row.session).map(|written| written.opened));
        match (opened, &mut self.list) {
            (Some(opened), _) => {
                row.opened = opened;
                self.note(row.session);
                self.set(row);
            }
            // A page that is on its way knows when it was opened, and perhaps not yet its name.
            (None, Some(list)) => drop(list.renamed.insert(row.session, row)),
            // Its opening was lost: the list that follows has the name, too.
            (None, None) => {}
        }
    }

    /// A session has ended.
    fn close(&mut self, session: u64) {
        if !self.is_on {
            return;
        }
        self.note(session);
        if let Some(list) = &mut self.list {
            list.renamed.remove(&session);
        }
        self.drop_row(session);
    }

    fn drop_row(&mut self, session: u64) {
        self.put.remove(&session);
        if self.written.remove(&session).is_some() {
            self.remove.insert(session);
        }
    }

    /// A session is to have this row, unless the store has it already.
    fn set(&mut self, row: Row) {
        let is_written = self.written.get(&row.session).is_some_and(|written| written.mark == Some(mark(&row)));
        if is_written {
            // One that waits is another.
            self.put.remove(&row.session);
        } else {
            self.put.insert(row.session, row);
        }
    }

    /// Takes what is to be written next, if there is something. From now on that may be in the store.
    fn take(&mut self, most: usize) -> Option<Change> {
        if self.len() == 0 {
            return None;
        }
        let put: Vec<_> = self.put.extract_if(|_, _| true).take(most).map(|(_, row)| row).collect();
        for row in &put {
            self.written.insert(row.session, Written { mark: Some(mark(row)), opened: row.opened });
        }
        let remove: Vec<_> = self.remove.extract_if(|_| true).take(most).collect();
        Some(Change { put, remove, ..Change::default() })
    }

    /// It is unknown whether this was written. What has been heard since then is newer.
    fn give_back(&mut self, change: Change) {
        for row in change.put {
            // Gone means that its row is to be removed.
            if let Some(written) = self.written.get_mut(&row.session) {
                written.mark = None;
                self.put.entry(row.session).or_insert(row);
            }
        }
        self.remove.extend(change.remove);
    }

    fn begin_list(&mut self) {
        let unfound = self.written.keys().chain(self.put.keys()).copied().collect();
        self.list = Some(List { unfound, ..List::default() });
    }

    /// The list has this session.
    fn find(&mut self, mut row: Row) {
        let Some(list) = &mut self.list else { return };
        list.unfound.remove(&row.session);
        if let Some(renamed) = list.renamed.remove(&row.session) {
            list.heard.insert(row.session);
            row = Row { opened: row.opened, ..renamed };
            return self.set(row);
        }
        if !list.heard.contains(&row.session) {
            self.set(row);
        }
    }

    /// The list has no more sessions.
    fn remove_unfound(&mut self) {
        let Some(list) = self.list.take() else { return };
        // Those that were heard of since then are what they were heard to be.
        list.unfound.difference(&list.heard).for_each(|session| self.drop_row(*session));
    }

    fn end_list(&mut self) {
        self.list = None;
    }
}

/// Stands for a row, apart from when it was opened, which a list knows less exactly.
fn mark(row: &Row) -> u64 {
    let Row { session: _, peer, listener, opened: _, name, tags } = row;
    let mut hasher = DefaultHasher::new();
    (peer, listener, name, tags).hash(&mut hasher);
    hasher.finish()
}

fn row(session: u64, peer: &Address, listener: Option<ListenerId>, opened: Duration) -> Row {
    let listener = listener.map(|listener| listener.name().map_or_else(|| listener.get().to_string(), str::to_owned));
    // Half a billion years fit.
    let opened = opened.as_millis() as u64;
    Row { session, peer: peer.to_string(), listener, opened, ..Row::default() }
}

/// Gives a row the name and the tags of its session.
fn named(row: Row, name: Option<&Arc<str>>, tags: &[Arc<str>]) -> Row {
    Row { name: name.map(|name| name.to_string()), tags: tags.iter().map(ToString::to_string).collect(), ..row }
}

fn row_of(session: &SessionInfo, now: Duration) -> Row {
    let row = row(session.id.get(), &session.peer, session.listener, now.saturating_sub(session.age));
    named(row, session.name.as_ref(), &session.tags)
}

/// Books the events of the sessions.
struct Watcher {
    watched: Weak<Watched>,
    core: Arc<Core>,
    /// Batches that were handled since the mailbox was last empty.
    events: usize,
}

impl Actor for Watcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<SessionEvent> for Watcher {
    type Result = ();

    fn handle(&mut self, event: SessionEvent, ctx: &mut Self::Context) {
        let Some(watched) = self.watched.upgrade() else { return ctx.stop() };
        let mut book = watched.book.borrow_mut();
        match event {
            SessionEvent::Opened(sessions) => {
                let now = seconds::now();
                let rows = sessions
                    .iter()
                    .map(|session| row(session.id().get(), session.peer_addr(), session.listener(), now));
                rows.for_each(|row| book.open(row));
            }
            SessionEvent::Named(sessions) => {
                let now = seconds::now();
                for session in sessions.iter() {
                    let row = row(session.id.get(), &session.peer, session.listener, now);
                    book.rename(named(row, session.name.as_ref(), &session.tags));
                }
            }
            SessionEvent::Closed(reports) => reports.iter().for_each(|report| book.close(report.id.get())),
            SessionEvent::Lost(count) => {
                self.core.counts.events_lost.add(count);
                watched.must_list.set(true);
            }
            _ => return,
        }
        if self.events == 0 {
            // Items of an actor have their turn when its mailbox is empty.
            ctx.run_later(Duration::ZERO, Self::mailbox_was_empty);
        }
        self.events += 1;
        watched.changed.notify_one();
    }
}

impl Watcher {
    /// A mailbox that had been full has lost events, perhaps, of which only a later event would tell.
    fn mailbox_was_empty(&mut self, _: &mut Context<Self>) {
        if std::mem::take(&mut self.events) >= MAILBOX
            && let Some(watched) = self.watched.upgrade()
        {
            watched.must_list.set(true);
            watched.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    /// What happens, in some order.
    #[derive(Clone, Debug)]
    enum Step {
        Open,
        Close(usize),
        Rename(usize, u8),
        /// The watcher hears the next event.
        Hear,
        /// The next event is lost.
        Lose,
        /// The writer does its next thing; a batch that it has sent has this fate.
        Write(Fate),
        /// The life ends, and another begins.
        Fence,
    }

    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Done,
        DoneUnheard,
        Lost,
    }

    #[derive(Clone, Debug)]
    enum Event {
        Opened(Row),
        Named(Row),
        Closed(u64),
    }

    /// The next thing of the writer.
    #[derive(Debug)]
    enum Next {
        Look,
        Ask(Option<u64>),
        Answer(Vec<Row>),
        SendAndAsk(Change, u64),
        Send(Change),
    }

    #[derive(Debug)]
    struct World {
        live: BTreeMap<u64, Row>,
        events: VecDeque<Event>,
        store: BTreeMap<u64, Row>,
        book: Book,
        must_list: bool,
        next: Next,
        last: u64,
    }

    impl World {
        fn new() -> Self {
            let mut book = Book::default();
            book.begin(true);
            Self {
                live: BTreeMap::new(),
                events: VecDeque::new(),
                store: BTreeMap::new(),
                book,
                must_list: true,
                next: Next::Look,
                last: 0,
            }
        }

        fn nth(&self, place: usize) -> Option<u64> {
            let sessions = self.live.len();
            self.live.keys().nth(place % sessions.max(1)).copied()
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Open => {
                    self.last += 1;
                    let row = Row { session: self.last, opened: self.last, ..Row::default() };
                    self.live.insert(row.session, row.clone());
                    self.events.push_back(Event::Opened(row));
                }
                Step::Close(place) => {
                    if let Some(session) = self.nth(place) {
                        self.live.remove(&session);
                        self.events.push_back(Event::Closed(session));
                    }
                }
                Step::Rename(place, name) => {
                    if let Some(row) = self.nth(place).and_then(|session| self.live.get_mut(&session)) {
                        row.name = (name > 0).then(|| name.to_string());
                        // The event does not know when it was opened.
                        self.events.push_back(Event::Named(Row { opened: 0, ..row.clone() }));
                    }
                }
                Step::Hear => match self.events.pop_front() {
                    Some(Event::Opened(row)) => self.book.open(row),
                    Some(Event::Named(row)) => self.book.rename(row),
                    Some(Event::Closed(session)) => self.book.close(session),
                    None => {}
                },
                Step::Lose => self.must_list |= self.events.pop_front().is_some(),
                Step::Write(fate) => self.write(fate),
                Step::Fence => {
                    self.store.clear();
                    self.book.begin(true);
                    self.must_list = true;
                    self.next = Next::Look;
                }
            }
        }

        fn send(&mut self, change: Change, fate: Fate) {
            if !matches!(fate, Fate::Lost) {
                self.store.extend(change.put.iter().map(|row| (row.session, row.clone())));
                change.remove.iter().for_each(|session| drop(self.store.remove(session)));
            }
            if !matches!(fate, Fate::Done) {
                self.book.give_back(change);
            }
        }

        fn write(&mut self, fate: Fate) {
            self.next = match std::mem::replace(&mut self.next, Next::Look) {
                Next::Look if std::mem::take(&mut self.must_list) => {
                    self.book.begin_list();
                    Next::Ask(None)
                }
                Next::Look => self.book.take(2).map_or(Next::Look, Next::Send),
                Next::Send(change) => {
                    self.send(change, fate);
                    Next::Look
                }
                Next::Ask(after) => {
                    let rows =
                        self.live.range(after.map_or(0, |after| after + 1)..).take(3).map(|(_, row)| row.clone());
                    Next::Answer(rows.collect())
                }
                Next::Answer(rows) => {
                    let last = rows.last().map(|row| row.session);
                    rows.into_iter().for_each(|row| self.book.find(row));
                    match last {
                        Some(last) => match self.book.take(2) {
                            Some(change) => Next::SendAndAsk(change, last),
                            None => Next::Ask(Some(last)),
                        },
                        None => {
                            self.book.remove_unfound();
                            Next::Look
                        }
                    }
                }
                Next::SendAndAsk(change, last) => {
                    self.send(change, fate);
                    Next::Ask(Some(last))
                }
            };
        }

        fn is_quiet(&self) -> bool {
            self.events.is_empty() && !self.must_list && matches!(self.next, Next::Look) && self.book.len() == 0
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        let fate = prop_oneof![3 => Just(Fate::Done), 1 => Just(Fate::DoneUnheard), 1 => Just(Fate::Lost)];
        prop_oneof![
            4 => Just(Step::Open),
            3 => any::<usize>().prop_map(Step::Close),
            3 => (any::<usize>(), 0_u8..3).prop_map(|(place, name)| Step::Rename(place, name)),
            10 => Just(Step::Hear),
            1 => Just(Step::Lose),
            10 => fate.prop_map(Step::Write),
            1 => Just(Step::Fence),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn rows_are_the_live_sessions_when_all_is_quiet(steps in prop::collection::vec(step(), 0..200)) {
            let mut world = World::new();
            steps.into_iter().for_each(|step| world.step(step));
            let mut turns = 0;
            while !world.is_quiet() {
                world.step(Step::Hear);
                world.step(Step::Write(Fate::Done));
                turns += 1;
                prop_assert!(turns < 10_000, "it never gets quiet: {world:?}");
            }
            prop_assert_eq!(&world.store, &world.live);
        }
    }

    fn row(session: u64, opened: u64, name: Option<&str>) -> Row {
        Row { session, opened, name: name.map(str::to_owned), ..Row::default() }
    }

    #[test]
    fn a_name_that_is_given_while_the_list_is_on_its_way_is_written() {
        let mut book = Book::default();
        book.begin(true);
        book.begin_list();
        // The event of its opening was lost.
        book.rename(row(1, 0, Some("alice")));
        for _ in 0..2 {
            book.find(row(1, 7, None));
        }
        book.remove_unfound();
        assert_eq!(book.take(10).unwrap().put, [row(1, 7, Some("alice"))]);
    }

    #[test]
    fn a_name_that_was_heard_is_newer_than_the_list() {
        let mut book = Book::default();
        book.begin(true);
        book.open(row(1, 7, None));
        book.take(10).unwrap();
        book.begin_list();
        book.rename(row(1, 0, Some("alice")));
        book.find(row(1, 7, None));
        book.remove_unfound();
        assert_eq!(book.take(10).unwrap().put, [row(1, 7, Some("alice"))]);
    }

    #[test]
    fn a_session_that_ends_while_the_list_is_on_its_way_is_not_written() {
        let mut book = Book::default();
        book.begin(true);
        book.begin_list();
        book.rename(row(1, 0, Some("alice")));
        book.close(1);
        book.find(row(1, 7, None));
        book.remove_unfound();
        assert_eq!(book.len(), 0);
    }

    #[test]
    fn a_row_that_the_store_has_is_not_written_again() {
        let mut book = Book::default();
        book.begin(true);
        book.open(row(1, 7, None));
        book.take(10).unwrap();
        book.begin_list();
        // A list knows less exactly when it was opened.
        book.find(row(1, 8, None));
        book.remove_unfound();
        assert_eq!(book.len(), 0);
    }

    /// A watcher, and what it has heard.
    fn watcher() -> (actix::Addr<Watcher>, Rc<Watched>, Arc<Core>) {
        let cluster = crate::cluster::builder::Cluster::builder(crate::cluster::memory::Memory::new());
        let core = cluster.node("a").build().unwrap().core;
        let watched = Rc::new(Watched::default());
        let watcher = Watcher { watched: Rc::downgrade(&watched), core: Arc::clone(&core), events: 0 };
        (watcher.start(), watched, core)
    }

    #[actix::test]
    async fn events_that_were_lost_are_counted_and_have_all_sessions_listed() {
        let (watcher, watched, core) = watcher();
        watcher.send(SessionEvent::Closed([].into())).await.unwrap();
        assert!(!watched.must_list.get(), "nothing is lost");
        watcher.send(SessionEvent::Lost(3)).await.unwrap();
        assert!(watched.must_list.get());
        assert_eq!(core.counts.events_lost.get(), 3);
        watched.changed.notified().await;
    }

    #[actix::test]
    async fn a_mailbox_that_was_full_has_all_sessions_listed() {
        for (batches, must_list) in [(MAILBOX - 2, false), (MAILBOX - 1, true)] {
            let (watcher, watched, _core) = watcher();
            (0..batches).for_each(|_| watcher.do_send(SessionEvent::Closed([].into())));
            // Behind them, and behind the turn of its items.
            watcher.send(SessionEvent::Closed([].into())).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(watched.must_list.get(), must_list, "after {batches} batches and one");
        }
    }

    #[test]
    fn a_session_that_comes_and_goes_within_a_batch_is_never_written() {
        let mut book = Book::default();
        book.begin(true);
        book.open(Row { session: 1, ..Row::default() });
        book.close(1);
        assert!(book.take(10).is_none());
    }
}
