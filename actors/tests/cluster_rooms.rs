//! Rooms over nodes, promise K2: what is said on one node members on all nodes hear at most once, in order for each node, and
//! what is missing is counted; no slow node or store holds back those of the same node.
//!
//! Several servers of this process share a store in memory, on the paused clock; a store of its own stands between, which
//! loses, repeats and delays. Not here: a real store (`cluster_redis`).

#[path = "support/members.rs"]
mod members;
#[path = "support/stores.rs"]
mod stores;
mod support;

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use actix::{Actor, Addr, Handler};
use actix_lines::{
    Line, LineContext, LineHandler, LineServer, LineSession, Room, Transport,
    cluster::{
        Cluster, Message, ShareError, Store, StoreAnswer, Subscription,
        memory::{Fault, Memory},
    },
    uplink::Uplink,
};
use bytes::Bytes;
use futures::future::{join, join_all};
use members::Heard;
use proptest::{prelude::*, test_runner::Config};
use stores::pass_on;
use support::{Server, pass, pause, still};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};

/// Longer than anything takes without a fault.
const MOMENT: Duration = Duration::from_millis(100);

/// Longer than it takes to find a store again, and to tell the others.
const RECOVERY: Duration = Duration::from_secs(20);

/// A member of rooms.
struct Member(Vec<Room>);

impl Actor for Member {
    type Context = LineContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.0.iter().for_each(|room| ctx.join(room));
    }
}

impl LineHandler for Member {
    fn missed(&mut self, messages: u64, ctx: &mut Self::Context) {
        writeln!(ctx, "missed {messages}");
    }

    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
}

#[derive(actix::Message)]
#[rtype(result = "()")]
enum Order {
    Say(&'static str),
    Leave,
}

impl Handler<Order> for Member {
    type Result = ();

    fn handle(&mut self, order: Order, ctx: &mut Self::Context) {
        match order {
            Order::Say(text) => ctx.say_to_all(&self.0, text),
            Order::Leave => self.0.drain(..).for_each(|room| ctx.leave(&room)),
        }
    }
}

/// A member, and what it hears.
fn member(rooms: &[Room]) -> (Addr<Member>, Heard) {
    let heard = Heard::default();
    let address = LineSession::new(heard.transport()).create(|_| Member(rooms.to_vec()));
    (address, heard)
}

struct Node {
    cluster: Cluster,
    /// Its way to the store.
    store: Memory,
    server: Server,
}

impl Node {
    async fn start(name: &str, store: &Memory) -> Self {
        Self::of(Cluster::builder(store.clone()).node(name).build().unwrap(), store).await
    }

    async fn of(cluster: Cluster, store: &Memory) -> Self {
        let server = LineServer::new(|_| Member(Vec::new())).on_current_arbiter().cluster(&cluster).unwrap();
        let server = Server::start(server).await;
        pass(MOMENT).await;
        assert!(cluster.node().is_some(), "it lives");
        Self { cluster, store: store.clone(), server }
    }

    fn room(&self) -> Room {
        self.cluster.room("lobby").unwrap()
    }

    async fn end(self) {
        self.store.heal();
        let _still = still();
        self.server.end_all().await;
    }
}

/// Nodes of these names.
async fn nodes<const N: usize>(names: [&str; N]) -> [Node; N] {
    pause();
    let store = Memory::new();
    let mut nodes = Vec::new();
    for name in names {
        nodes.push(Node::start(name, &store.view()).await);
    }
    nodes.try_into().unwrap_or_else(|_| unreachable!())
}

async fn end<const N: usize>(nodes: [Node; N]) {
    for node in nodes {
        node.end().await;
    }
}

/// A frame, as it is published.
#[derive(Clone, Debug)]
struct Frame {
    speaker: u64,
    first: u64,
    count: u32,
    bytes: usize,
    frame: Bytes,
}

/// Listens to what is published.
struct Spy {
    _subscription: Box<dyn Subscription>,
    messages: mpsc::Receiver<Message>,
}

impl Spy {
    async fn on(store: &Memory, channel: &str) -> Self {
        let (to, messages) = mpsc::channel(100_000);
        let mut subscription = store.subscribe(to).await.unwrap();
        subscription.add(&[channel.to_owned()]).await.unwrap();
        Self { _subscription: subscription, messages }
    }

    /// Takes what was published since.
    fn take(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.messages.try_recv().ok())
            .map(|message| {
                let frame = message.bytes;
                let head = &frame[2 + usize::from(frame[1])..];
                Frame {
                    speaker: u64::from_be_bytes(head[..8].try_into().unwrap()),
                    first: u64::from_be_bytes(head[8..16].try_into().unwrap()),
                    count: u32::from_be_bytes(head[16..20].try_into().unwrap()),
                    bytes: frame.len(),
                    frame,
                }
            })
            .collect()
    }
}

#[actix::test]
async fn what_is_said_on_one_node_members_on_all_nodes_hear_once() {
    let nodes = nodes(["a", "b", "c"]).await;
    let rooms = nodes.each_ref().map(Node::room);
    // Nobody is on c.
    let (ann, ann_heard) = member(&rooms[..1]);
    let (_ben, ben_heard) = member(&rooms[1..2]);
    pass(MOMENT).await;
    ann.do_send(Order::Say("hello\n"));
    pass(MOMENT).await;
    rooms[2].say("from somewhere else\n");
    pass(MOMENT).await;
    assert_eq!(ann_heard.take(), ["from somewhere else"], "but for what it says itself");
    assert_eq!(ben_heard.take(), ["hello", "from somewhere else"]);
    let counts = nodes.each_ref().map(|node| node.cluster.stats().rooms);
    assert_eq!(counts.map(|counts| (counts.published, counts.heard)), [(1, 1), (0, 2), (1, 0)]);
    let listens = nodes.each_ref().map(|node| node.cluster.rooms()[0].is_heard);
    assert_eq!(listens, [true, true, false], "a node without members listens to nothing");
    end(nodes).await;
}

#[actix::test]
async fn what_is_said_at_once_is_one_message_to_the_store() {
    let nodes = nodes(["a", "b"]).await;
    let rooms = nodes.each_ref().map(Node::room);
    let (_ben, heard) = member(&rooms[1..]);
    pass(MOMENT).await;
    let before = nodes[0].store.calls().publish;
    let said: Vec<String> = (0..1000).map(|number| format!("line {number}")).collect();
    said.iter().for_each(|line| rooms[0].say(format!("{line}\n")));
    // Before the next probe.
    pass(MOMENT).await;
    assert_eq!(heard.take(), said);
    assert!(nodes[0].store.calls().publish - before <= 2, "one of them may be a probe");
    end(nodes).await;
}

#[actix::test]
async fn a_node_has_one_room_of_a_name_as_long_as_somebody_has_it() {
    let [a, b] = nodes(["a", "b"]).await;
    let one = a.room();
    assert_eq!(one.name(), Some("lobby"));
    let (_ann, heard) = member(&[a.room()]);
    let (_ben, elsewhere) = member(&[b.room()]);
    pass(MOMENT).await;
    one.say("one\n");
    drop(one);
    pass(MOMENT).await;
    // A member has it, too.
    a.room().say("two\n");
    pass(MOMENT).await;
    assert_eq!(heard.take(), ["one", "two"]);
    assert_eq!(elsewhere.take(), ["one", "two"]);
    // Rooms that are there for one message alone are heard, in order, however many come one after the other.
    let (_cid, transient) = member(&[b.cluster.room("yard").unwrap()]);
    pass(MOMENT).await;
    for number in 0..5 {
        a.cluster.room("yard").unwrap().say(format!("{number}\n"));
        if number % 2 == 0 {
            pass(MOMENT).await;
        }
    }
    pass(MOMENT).await;
    assert_eq!(transient.take(), ["0", "1", "2", "3", "4"]);
    assert_eq!(a.cluster.rooms().len(), 1, "nobody has it");
    assert_eq!((b.cluster.stats().rooms.missing, b.cluster.stats().rooms.repeated), (0, 0));
    end([a, b]).await;
}

#[actix::test]
async fn a_named_room_that_there_is_can_be_shared_once() {
    let [a, b] = nodes(["a", "b"]).await;
    let room = Room::named("lobby");
    let (_ann, heard) = member(std::slice::from_ref(&room));
    pass(MOMENT).await;
    room.say("before\n");
    a.cluster.share(&room).unwrap();
    a.cluster.share(&room).unwrap();
    pass(MOMENT).await;
    b.room().say("hello\n");
    pass(MOMENT).await;
    assert_eq!(heard.take(), ["before", "hello"]);
    let refused = |cluster: &Cluster, room: &Room| cluster.share(room).unwrap_err();
    let name = "lobby".to_owned();
    assert_eq!(refused(&a.cluster, &Room::named("lobby")), ShareError::Taken { name: name.clone() });
    assert_eq!(
        refused(&Cluster::builder(Memory::new()).node("c").build().unwrap(), &room),
        ShareError::Linked { name }
    );
    assert_eq!(refused(&a.cluster, &Room::new()), ShareError::NoName);
    assert_eq!(refused(&a.cluster, &Room::named("x".repeat(129))), ShareError::NameTooLong { bytes: 129 });
    a.cluster.room(&"x".repeat(128)).unwrap();
    let (uplink, _feed) = Uplink::new(1);
    assert!(!room.link(&uplink, 1));
    end([a, b]).await;
}

#[actix::test]
async fn a_room_is_left_some_time_after_its_last_member() {
    let [a, b] = nodes(["a", "b"]).await;
    let (room, other) = (a.room(), b.room());
    let (ann, heard) = member(std::slice::from_ref(&room));
    pass(MOMENT).await;
    ann.do_send(Order::Leave);
    pass(Duration::from_secs(4)).await;
    // Whoever comes back soon misses nothing.
    let (ben, ben_heard) = member(std::slice::from_ref(&room));
    pass(MOMENT).await;
    other.say("one\n");
    pass(MOMENT).await;
    assert_eq!((heard.take(), ben_heard.take()), (vec![], vec!["one".to_owned()]));
    ben.do_send(Order::Leave);
    pass(Duration::from_secs(4)).await;
    assert!(a.cluster.rooms()[0].is_heard);
    pass(Duration::from_secs(2)).await;
    assert!(!a.cluster.rooms()[0].is_heard);
    let heard_before = a.cluster.stats().rooms.heard;
    other.say("nobody\n");
    pass(MOMENT).await;
    // What was said meanwhile is not missing: nobody was there.
    let (_cid, cid_heard) = member(&[room]);
    pass(MOMENT).await;
    other.say("two\n");
    pass(MOMENT).await;
    assert_eq!(cid_heard.take(), ["two"]);
    let counts = a.cluster.stats().rooms;
    assert_eq!((counts.heard - heard_before, counts.missing, counts.gaps), (1, 0, 0));
    end([a, b]).await;
}

#[actix::test]
async fn a_store_that_hangs_holds_back_nobody_here_and_what_it_does_not_take_is_bounded_and_counted() {
    const LINES: usize = 2000;
    let [a, b] = nodes(["a", "b"]).await;
    let (room, other) = (a.room(), b.room());
    let (_ann, ann_heard) = member(std::slice::from_ref(&room));
    let (_ben, ben_heard) = member(&[other]);
    pass(MOMENT).await;
    room.say("one\n");
    pass(MOMENT).await;
    assert_eq!((ann_heard.take(), ben_heard.take()), (vec!["one".to_owned()], vec!["one".to_owned()]));
    a.store.fail(Fault::Hanging);
    // 10 MB, of which 4 MiB and a turn's 1 MiB may wait. Members here hear each line at once.
    let line = "x".repeat(4999);
    for number in 0..LINES {
        room.say(format!("{line}\n"));
        if number % 100 == 99 {
            // No time passes.
            eventually_here(&ann_heard, 100).await;
        }
    }
    let lost = a.cluster.stats().rooms.lost;
    let least = (LINES * 5000 - 6 * 1024 * 1024) / 5064;
    assert!(lost as usize > least, "{lost} of {LINES} are lost at once, more than {least}");
    a.store.heal();
    pass(RECOVERY).await;
    // Nobody has said anything since: the room knows what it has lost, and the others know it, too.
    let (here, there) = (a.cluster.stats().rooms, b.cluster.stats().rooms);
    assert_eq!(a.cluster.rooms()[0].counts.lost, here.lost);
    assert_eq!((here.published + here.lost, there.heard + there.missing), (LINES as u64 + 1, LINES as u64 + 1));
    room.say("two\n");
    pass(MOMENT).await;
    assert_eq!(ann_heard.take(), ["two"]);
    // Those that were given up are told where they are missing; some may have been published after the store was well again.
    let (mut heard, mut missed) = (0, 0);
    let lines = ben_heard.take();
    for line in &lines {
        match line.strip_prefix("missed ") {
            Some(count) => missed += count.parse::<usize>().unwrap(),
            None => heard += 1,
        }
    }
    assert_eq!(lines.last().map(String::as_str), Some("two"));
    assert_eq!(heard + missed, LINES + 1);
    let (here, there) = (a.cluster.stats().rooms, b.cluster.stats().rooms);
    assert_eq!(here.published + here.lost, LINES as u64 + 2);
    assert_eq!((there.heard + there.missing, there.missing), (LINES as u64 + 2, missed as u64));
    end([a, b]).await;
}

#[actix::test]
async fn what_comes_from_other_nodes_has_32_mib_of_room_and_more_is_a_gap() {
    let [a, b] = nodes(["a", "b"]).await;
    let (room, other) = (a.room(), b.room());
    let mut spy = Spy::on(&a.store, "r:lobby").await;
    let line = Bytes::from([&[b'x'; 1024 * 1024 - 1000][..], b"\n"].concat());
    for _ in 0..40 {
        room.say(line.clone());
        pass(MOMENT).await;
    }
    let mut all: Vec<_> = spy.take().into_iter().map(|frame| frame.frame).collect();
    drop(spy);
    let (_ben, _heard) = member(&[other]);
    pass(MOMENT).await;
    // All at the same moment, of a node that was quick.
    let arrive = |frames: Vec<Bytes>| join_all(frames.into_iter().map(|frame| a.store.publish("r:lobby", frame)));
    let others = all.split_off(20);
    let (some, others) = join(arrive(all), arrive(others)).await;
    assert_eq!([some, others].concat(), vec![Ok(1); 40]);
    pass(MOMENT).await;
    room.say("last\n");
    pass(MOMENT).await;
    let counts = b.cluster.stats().rooms;
    assert_eq!((counts.heard, counts.missing, counts.gaps), (32 + 1, 8, 1));
    assert_eq!(b.cluster.stats().messages_dropped, 8);
    end([a, b]).await;
}

/// Peers of a chat name rooms as they like.
#[actix::test]
async fn rooms_that_come_and_go_as_fast_as_can_be_hold_up_nothing_else_of_their_node() {
    let [a] = nodes(["a"]).await;
    for nth in 0..20_000 {
        a.cluster.room(&nth.to_string()).unwrap().say("x");
    }
    let mut turns = 0;
    while !a.cluster.rooms().is_empty() {
        tokio::task::yield_now().await;
        turns += 1;
    }
    assert!(turns > 10, "others had {turns} turns meanwhile");
    end([a]).await;
}

/// A peer that takes nothing.
struct Stuck;

impl AsyncRead for Stuck {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Stuck {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// Bytes of which it is known whether anybody has them.
struct Kept {
    bytes: Bytes,
    _by: Arc<()>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Else one whose outbox has little room left would keep a megabyte for each short line that fits.
#[actix::test]
async fn a_member_that_does_not_read_keeps_its_own_bytes_and_no_more_of_what_was_published_with_them() {
    let [a, b] = nodes(["a", "b"]).await;
    let (room, other) = (a.room(), b.room());
    let mut spy = Spy::on(&a.store, "r:lobby").await;
    // Each one is offered to members by itself.
    for len in [600, 65_000, 1000] {
        room.say(Bytes::from(vec![b'x'; len]));
    }
    pass(MOMENT).await;
    let frame = spy.take().remove(0).frame;
    assert!(frame.len() > 66_600, "all of them");
    let _stuck = LineSession::new(Transport::new(Stuck)).create(|_| Member(vec![other.clone()]));
    pass(MOMENT).await;
    drop(spy);
    let kept = Arc::new(());
    let frame = Bytes::from_owner(Kept { bytes: frame, _by: Arc::clone(&kept) });
    assert_eq!(a.store.publish("r:lobby", frame).await, Ok(1));
    pass(MOMENT).await;
    assert_eq!((b.cluster.stats().rooms.heard, other.lost()), (3, 0));
    assert_eq!(Arc::strong_count(&kept), 1, "the publication is gone");
    end([a, b]).await;
}

fn texts<const N: usize>(lines: [&str; N]) -> Vec<String> {
    lines.map(str::to_owned).into()
}

/// Waits, without time, until there are so many lines, and takes them.
async fn eventually_here(heard: &Heard, lines: usize) {
    let mut count = 0;
    for _ in 0..10_000 {
        count += heard.take().len();
        if count == lines {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{count} of {lines} lines were heard");
}

#[actix::test]
async fn what_is_said_while_the_store_is_lost_is_lost_and_others_learn_how_much_when_it_is_found() {
    let [a, b] = nodes(["a", "b"]).await;
    let (room, other) = (a.room(), b.room());
    let (_ann, ann_heard) = member(std::slice::from_ref(&room));
    let (_ben, ben_heard) = member(std::slice::from_ref(&other));
    pass(MOMENT).await;
    room.say("one\n");
    other.say("two\n");
    pass(MOMENT).await;
    assert_eq!((ann_heard.take(), ben_heard.take()), (texts(["one", "two"]), texts(["two", "one"])));
    a.store.fail(Fault::Lost);
    // Longer than a lease: it begins another life then.
    for number in 0..30 {
        room.say(format!("{number}\n"));
        other.say(format!("not heard on a: {number}\n"));
        pass(Duration::from_secs(1)).await;
    }
    a.store.heal();
    pass(RECOVERY).await;
    // Without another message: each node says how far it is.
    assert_eq!(b.cluster.stats().rooms.missing, 30);
    room.say("three\n");
    other.say("four\n");
    pass(MOMENT).await;
    let here: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    assert_eq!(ann_heard.take(), [here, texts(["three", "missed 30", "four"])].concat());
    let ben = ben_heard.take();
    assert_eq!(ben.len(), 30 + 3);
    assert_eq!(ben[30..], texts(["missed 30", "four", "three"]));
    let counts = a.cluster.stats().rooms;
    assert_eq!((counts.published, counts.lost, counts.missing, counts.gaps), (2, 30, 30, 1));
    end([a, b]).await;
}

/// Has a node lose its store for so long, and three messages by that, of which the others are told within a time.
async fn lose_for(loss: Duration, told: Duration) {
    let [a, b] = nodes(["a", "b"]).await;
    let (room, other) = (a.room(), b.room());
    let yard = a.cluster.room("yard").unwrap();
    let (_ben, _heard) = member(&[other]);
    pass(MOMENT).await;
    let mut spy = Spy::on(&b.store, "r:yard").await;
    room.say("one\n");
    yard.say("one\n");
    pass(MOMENT).await;
    let life = a.cluster.node();
    a.store.fail(Fault::Lost);
    (0..3).for_each(|_| room.say("lost\n"));
    pass(loss).await;
    a.store.heal();
    pass(told).await;
    assert_eq!(b.cluster.stats().rooms.missing, 3, "after {loss:?}");
    assert_eq!(a.cluster.node(), life);
    assert_eq!(spy.take().len(), 1, "nothing of the room that has lost nothing");
    end([a, b]).await;
}

#[actix::test]
async fn a_loss_of_a_moment_shows_without_another_message_and_in_the_same_life() {
    lose_for(MOMENT, Duration::from_secs(1)).await;
}

#[actix::test]
async fn a_loss_of_seconds_shows_without_another_message_and_in_the_same_life() {
    // The store is known to be lost then.
    lose_for(Duration::from_secs(4), RECOVERY).await;
}

#[actix::test]
async fn a_message_to_several_rooms_reaches_members_elsewhere_once_for_each_and_members_are_of_their_node() {
    let [a, b] = nodes(["a", "b"]).await;
    let rooms = [&a, &b].map(|node| ["lobby", "yard"].map(|name| node.cluster.room(name).unwrap()));
    let (ann, _) = member(&rooms[0]);
    let (_ben, here) = member(&rooms[0]);
    let (_cid, elsewhere) = member(&rooms[1]);
    pass(MOMENT).await;
    ann.do_send(Order::Say("hello\n"));
    pass(MOMENT).await;
    assert_eq!((here.take(), elsewhere.take()), (texts(["hello"]), texts(["hello", "hello"])));
    assert_eq!(rooms.each_ref().map(|rooms| rooms[0].len()), [2, 1]);
    end([a, b]).await;
}

#[actix::test]
async fn a_node_without_a_lease_that_was_not_heard_for_ten_minutes_begins_anew() {
    for (minutes, missing) in [(9, 1), (11, 0)] {
        let [a, b] = nodes(["a", "b"]).await;
        let (room, other) = (a.room(), b.room());
        let mut of_b = member(std::slice::from_ref(&other));
        pass(MOMENT).await;
        room.say("one\n");
        pass(MOMENT).await;
        a.store.fail(Fault::Lost);
        room.say("lost\n");
        for _ in 0..minutes {
            pass(Duration::from_secs(60)).await;
            // Each hears nothing, and ends after a while.
            of_b = member(std::slice::from_ref(&other));
        }
        a.store.heal();
        pass(RECOVERY).await;
        room.say("two\n");
        pass(MOMENT).await;
        assert_eq!(of_b.1.take().last().map(String::as_str), Some("two"), "after {minutes} min");
        assert_eq!(b.cluster.stats().rooms.missing, missing, "after {minutes} min");
        end([a, b]).await;
        tokio::time::resume();
    }
}

#[actix::test]
async fn what_is_said_at_once_is_published_in_frames_of_a_mebibyte() {
    let [a, b] = nodes(["a", "b"]).await;
    let mut spy = Spy::on(&b.store, "r:lobby").await;
    let room = a.room();
    (0..5).for_each(|_| room.say(vec![b'x'; 700 * 1024]));
    pass(MOMENT).await;
    let frames = spy.take();
    assert!(frames.iter().all(|frame| frame.bytes <= 1024 * 1024), "{frames:?}");
    assert_eq!(frames.iter().map(|frame| u64::from(frame.count)).sum::<u64>(), 5);
    end([a, b]).await;
}

#[actix::test]
async fn rooms_are_left_each_in_its_time_and_listed_by_name() {
    let [a, b] = nodes(["a", "b"]).await;
    let rooms = ["d", "c", "b", "a"].map(|name| a.cluster.room(name).unwrap());
    let members: Vec<_> = rooms.iter().map(|room| member(std::slice::from_ref(room))).collect();
    pass(MOMENT).await;
    for (member, _) in &members[..3] {
        member.do_send(Order::Leave);
        pass(Duration::from_secs(2)).await;
    }
    let is_heard = |name: &str| a.cluster.rooms().iter().any(|room| room.name == name && room.is_heard);
    let heard = || ["d", "c", "b", "a"].map(is_heard);
    // Six seconds after the first one, four after the second, two after the third.
    assert_eq!(heard(), [false, true, true, true]);
    pass(Duration::from_millis(1100)).await;
    assert_eq!(heard(), [false, false, true, true]);
    pass(Duration::from_secs(2)).await;
    assert_eq!(heard(), [false, false, false, true]);
    let names: Vec<_> = a.cluster.rooms().into_iter().map(|room| room.name).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    end([a, b]).await;
}

#[actix::test]
async fn a_room_that_nobody_has_any_more_is_not_listened_to() {
    let [a, b] = nodes(["a", "b"]).await;
    for is_made_anew in [false, true] {
        let (ann, _heard) = member(&[a.room()]);
        pass(MOMENT).await;
        assert_eq!(b.store.publish("r:lobby", Bytes::new()).await, Ok(1));
        ann.do_send(Order::Leave);
        let mut anew = None;
        // Before the end of the other one is known.
        while is_made_anew && anew.is_none() {
            tokio::task::yield_now().await;
            anew = Some(a.room()).filter(Room::is_empty);
        }
        pass(Duration::from_secs(6)).await;
        assert_eq!(b.store.publish("r:lobby", Bytes::new()).await, Ok(0), "{is_made_anew}");
        drop(anew);
    }
    // One of the same name that is made before the end of the other one is known is the one that there is.
    drop(a.room());
    let anew = a.room();
    pass(MOMENT).await;
    let (_ben, heard) = member(&[anew]);
    pass(MOMENT).await;
    a.room().say("hello\n");
    pass(MOMENT).await;
    assert_eq!(heard.take(), ["hello"]);
    assert_eq!(a.cluster.rooms().len(), 1);
    end([a, b]).await;
}

#[actix::test]
async fn a_room_goes_on_with_its_numbers_when_it_is_made_anew_and_those_of_4096_are_kept() {
    const KEPT: usize = 4096;
    let [a, b] = nodes(["a", "b"]).await;
    let mut spy = Spy::on(&b.store, "r:first").await;
    let mut spy_of_kept = Spy::on(&b.store, "r:kept").await;
    let say = |name: &str| a.cluster.room(name).unwrap().say("x\n");
    let mut others = 0;
    let mut end_others = async |count: usize| {
        for _ in 0..count {
            say(&others.to_string());
            others += 1;
        }
        pass(RECOVERY).await;
    };
    // One that comes and goes takes no place of others, and loses nothing.
    for _ in 0..KEPT + 10 {
        say("first");
    }
    say("kept");
    pass(RECOVERY).await;
    let kept = a.cluster.room("kept").unwrap();
    let frames = spy.take();
    let (first, before) = (&frames[0], spy_of_kept.take().remove(0));
    assert!(frames.iter().all(|frame| frame.speaker == first.speaker));
    for next in [KEPT as u64 + 10, KEPT as u64 + 11] {
        end_others(KEPT - 2).await;
        say("first");
        pass(MOMENT).await;
        let again = spy.take().remove(0);
        assert_eq!((again.speaker, again.first), (first.speaker, next), "fewer have ended since");
    }
    end_others(KEPT).await;
    say("first");
    pass(MOMENT).await;
    assert_ne!(spy.take().remove(0).speaker, first.speaker, "it was forgotten");
    // Somebody has this one all the while.
    kept.say("y\n");
    pass(MOMENT).await;
    let again = spy_of_kept.take().remove(0);
    assert_eq!((again.speaker, again.first), (before.speaker, 1));
    end([a, b]).await;
}

/// Has a node go, and another one stay. Returns what is heard of both when all that they have said comes again after so long.
async fn heard_again_after(time: Duration, is_refused_at: Option<Duration>) -> Vec<String> {
    let [a, b, c] = nodes(["a", "b", "c"]).await;
    let mut spy = Spy::on(&b.store, "r:lobby").await;
    let (_ben, heard) = member(&[b.room()]);
    pass(MOMENT).await;
    for (node, text) in [(&a, "of a\n"), (&c, "of c\n")] {
        node.room().say(text);
        pass(MOMENT).await;
    }
    assert_eq!(heard.take(), ["of a", "of c"]);
    a.end().await;
    let frames = spy.take();
    let say_again = async || {
        for frame in &frames {
            c.store.publish("r:lobby", frame.frame.clone()).await.unwrap();
        }
        pass(MOMENT).await;
    };
    say_again().await;
    assert_eq!(heard.take(), texts([]), "they were heard");
    let mut members = vec![member(&[b.room()])];
    let mut passed = Duration::ZERO;
    while passed < time {
        if let Some(at) = is_refused_at {
            b.store.fail(if passed.abs_diff(at) <= Duration::from_secs(4) { Fault::Refusing } else { Fault::None });
        }
        // Sessions without a line end.
        if passed.as_secs().is_multiple_of(60) {
            members.push(member(&[b.room()]));
        }
        pass(Duration::from_secs(1)).await;
        passed += Duration::from_secs(1);
    }
    say_again().await;
    let heard = members.last().unwrap().1.take();
    end([b, c]).await;
    heard
}

/// Time after which a node that is gone is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(610);

#[actix::test]
async fn a_node_that_is_gone_is_forgotten_then_and_one_that_lives_is_not() {
    assert_eq!(heard_again_after(FORGOTTEN + Duration::from_secs(3), None).await, ["of a"]);
}

#[actix::test]
async fn a_node_that_is_gone_is_forgotten_later_if_the_store_does_not_say_who_lives() {
    assert_eq!(heard_again_after(2 * FORGOTTEN + Duration::from_secs(8), Some(FORGOTTEN)).await, ["of a"]);
}

#[actix::test]
async fn a_room_that_is_made_anew_while_its_end_is_still_unknown_is_heard() {
    let [a, b] = nodes(["a", "b"]).await;
    let (ann, _heard) = member(&[a.room()]);
    pass(MOMENT).await;
    // While a message is on its way nothing else is looked at.
    a.store.fail(Fault::Slow(Duration::from_millis(500)));
    a.cluster.room("yard").unwrap().say("one\n");
    pass(MOMENT).await;
    ann.do_send(Order::Leave);
    pass(MOMENT).await;
    assert!(a.cluster.rooms().iter().any(|room| room.name == "lobby" && room.is_heard), "its end is not known yet");
    let (_ben, heard) = member(&[a.room()]);
    pass(RECOVERY).await;
    a.store.heal();
    b.room().say("two\n");
    pass(MOMENT).await;
    assert_eq!(heard.take(), ["two"]);
    end([a, b]).await;
}

#[actix::test]
async fn a_node_that_is_deaf_misses_messages_and_counts_them_when_it_hears_again() {
    let [a, b] = nodes(["a", "b"]).await;
    let (room, other) = (a.room(), b.room());
    let (_ben, heard) = member(std::slice::from_ref(&other));
    pass(MOMENT).await;
    room.say("one\n");
    pass(MOMENT).await;
    b.store.fail(Fault::Deaf);
    room.say("two\n");
    other.say("its own\n");
    pass(Duration::from_secs(5)).await;
    b.store.heal();
    b.store.end_subscriptions();
    pass(RECOVERY).await;
    room.say("three\n");
    other.say("its own again\n");
    pass(MOMENT).await;
    assert_eq!(heard.take(), ["one", "its own", "its own again", "missed 1", "three"]);
    let counts = b.cluster.stats().rooms;
    assert_eq!((counts.heard, counts.missing, counts.gaps), (2, 1, 1));
    end([a, b]).await;
}

#[actix::test]
async fn frames_that_mean_nothing_are_counted_and_change_nothing() {
    let [a, b, c] = nodes(["a", "b", "c"]).await;
    let room = a.room();
    let (_ben, heard) = member(&[b.room()]);
    // What a frame looks like.
    let mut spy = Spy::on(&a.store, "r:lobby").await;
    pass(MOMENT).await;
    room.say("one\n");
    room.say("two\n");
    pass(MOMENT).await;
    let frame = spy.take().remove(0).frame;
    assert_eq!(heard.take(), ["one", "two"]);
    let garbled = [&b""[..], b"{\"v\":1}", &[0xff; 100], &frame[..frame.len() - 1], &[&frame[..], b"x"].concat()];
    for bytes in garbled {
        a.store.publish("r:lobby", Bytes::copy_from_slice(bytes)).await.unwrap();
    }
    // The same once more is heard already.
    a.store.publish("r:lobby", frame.clone()).await.unwrap();
    pass(MOMENT).await;
    assert!(heard.take().is_empty());
    let counts = b.cluster.stats().rooms;
    assert_eq!((counts.garbled, counts.repeated, counts.missing), (garbled.len() as u64, 2, 0));
    // Each single change of it: never more than it says, never a panic.
    for at in 0..frame.len() {
        for change in [1, 0x80, 0xff] {
            let mut changed = frame.to_vec();
            changed[at] ^= change;
            a.store.publish("r:lobby", changed.into()).await.unwrap();
        }
        pass(Duration::from_millis(1)).await;
    }
    c.room().say("three\n");
    pass(MOMENT).await;
    assert!(heard.take().iter().any(|line| line == "three"), "it still listens");
    end([a, b, c]).await;
}

#[actix::test]
async fn a_room_where_nothing_is_said_costs_the_store_nothing() {
    let nodes = nodes(["a"]).await;
    let before = nodes[0].store.calls();
    pass(Duration::from_secs(60)).await;
    let without = nodes[0].store.calls().total() - before.total();
    let rooms: Vec<Room> = (0..100).map(|number| nodes[0].cluster.room(&number.to_string()).unwrap()).collect();
    let (_ann, _heard) = member(&rooms);
    pass(RECOVERY).await;
    let before = nodes[0].store.calls();
    pass(Duration::from_secs(60)).await;
    let with = nodes[0].store.calls().total() - before.total();
    // Renewals have some jitter.
    assert!(with.abs_diff(without) <= 4, "{with} calls in a minute, and {without} without rooms");
    end(nodes).await;
}

/// What happens to messages on their way.
#[derive(Clone, Default)]
struct Weather {
    is_bad: Arc<AtomicBool>,
    chance: Arc<Mutex<fastrand::Rng>>,
}

impl Weather {
    fn dice(&self, sides: u32) -> u32 {
        self.chance.lock().unwrap().u32(..sides)
    }
}

/// A way to a store whose messages are lost, repeated and overtaken while the weather is bad.
#[derive(Clone)]
struct Stormy {
    store: Memory,
    weather: Weather,
}

impl std::fmt::Debug for Stormy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stormy")
    }
}

impl Store for Stormy {
    pass_on!(store: register, unregister, nodes, list, lookup, publish, acquire);

    fn subscribe(&self, to: mpsc::Sender<Message>) -> StoreAnswer<'_, Box<dyn Subscription>> {
        let (through, mut messages) = mpsc::channel::<Message>(10_000);
        let weather = self.weather.clone();
        actix_rt::spawn(async move {
            while let Some(message) = messages.recv().await {
                let is_bad = weather.is_bad.load(SeqCst) && message.channel.starts_with("r:");
                match if is_bad { weather.dice(10) } else { 9 } {
                    // Lost.
                    0 | 1 => {}
                    // Once more, now or later.
                    2 => {
                        let _ = to.try_send(message.clone());
                        let _ = to.try_send(message);
                    }
                    // Overtaken, after it came or not.
                    dice @ (3 | 4) => {
                        if dice == 3 {
                            let _ = to.try_send(message.clone());
                        }
                        let (to, time) = (to.clone(), Duration::from_millis(weather.dice(300).into()));
                        actix_rt::spawn(async move {
                            pass(time).await;
                            let _ = to.try_send(message);
                        });
                    }
                    _ => {
                        let _ = to.try_send(message);
                    }
                }
            }
        });
        self.store.subscribe(through)
    }
}

#[derive(Clone, Debug)]
enum Event {
    Say { node: usize, room: usize, lines: usize },
    Pass(u64),
    Weather(bool),
    Fail(usize, Fault),
    Heal(usize),
    EndSubscriptions(usize),
    EndLease(usize),
    Forget,
    Restart,
}

const NODES: usize = 3;
const ROOMS: [&str; 2] = ["lobby", "yard"];

fn event() -> impl Strategy<Value = Event> {
    let faults = [
        Fault::Lost,
        Fault::Hanging,
        Fault::Unanswered,
        Fault::Slow(Duration::from_millis(700)),
        Fault::Slow(Duration::from_millis(30)),
        Fault::Refusing,
        Fault::Deaf,
        Fault::Partitioned,
    ];
    prop_oneof![
        10 => (0..NODES, 0..ROOMS.len(), 1..30_usize).prop_map(|(node, room, lines)| Event::Say { node, room, lines }),
        8 => (0..400_u64).prop_map(Event::Pass),
        2 => any::<bool>().prop_map(Event::Weather),
        2 => (0..NODES, prop::sample::select(faults.to_vec())).prop_map(|(node, fault)| Event::Fail(node, fault)),
        2 => (0..NODES).prop_map(Event::Heal),
        1 => (0..NODES).prop_map(Event::EndSubscriptions),
        1 => (0..NODES).prop_map(Event::EndLease),
        1 => Just(Event::Forget),
        1 => Just(Event::Restart),
    ]
}

/// What a member has heard of each node in each room: the numbers, in order.
fn heard_by_node(lines: &[String]) -> (BTreeMap<(usize, usize), Vec<usize>>, usize) {
    let (mut heard, mut missed) = (BTreeMap::<_, Vec<usize>>::new(), 0);
    for line in lines {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["missed", count] => missed += count.parse::<usize>().unwrap(),
            [node, room, number] => {
                heard.entry((node.parse().unwrap(), room.parse().unwrap())).or_default().push(number.parse().unwrap());
            }
            _ => panic!("a line like that: {line}"),
        }
    }
    (heard, missed)
}

async fn play(events: Vec<Event>, seed: u64) {
    pause();
    let memory = Memory::new();
    let weather = Weather::default();
    weather.chance.lock().unwrap().seed(seed);
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        let store = memory.view();
        let way = Stormy { store: store.clone(), weather: weather.clone() };
        // Longer than the test, so that nobody is forgotten.
        let cluster = Cluster::builder(way).node(name).lease(Duration::from_secs(60)).build().unwrap();
        nodes.push(Node::of(cluster, &store).await);
    }
    let rooms: Vec<Vec<Room>> =
        nodes.iter().map(|node| ROOMS.iter().map(|name| node.cluster.room(name).unwrap()).collect()).collect();
    let members: Vec<_> = rooms.iter().map(|rooms| member(rooms)).collect();
    pass(MOMENT).await;
    let mut said = [[0_usize; ROOMS.len()]; NODES];
    let mut say = |node: usize, room: usize, lines: usize| {
        for _ in 0..lines {
            rooms[node][room].say(format!("{node} {room} {}\n", said[node][room]));
            said[node][room] += 1;
        }
    };
    // All have heard all once, so that they know each other.
    (0..NODES * ROOMS.len()).for_each(|at| say(at % NODES, at / NODES, 1));
    pass(MOMENT).await;
    for event in &events {
        match *event {
            Event::Say { node, room, lines } => say(node, room, lines),
            Event::Pass(millis) => pass(Duration::from_millis(millis)).await,
            Event::Weather(is_bad) => weather.is_bad.store(is_bad, SeqCst),
            Event::Fail(node, fault) => nodes[node].store.fail(fault),
            Event::Heal(node) => nodes[node].store.heal(),
            Event::EndSubscriptions(node) => nodes[node].store.end_subscriptions(),
            Event::EndLease(node) => nodes[node].cluster.node().into_iter().for_each(|id| memory.end_lease(&id)),
            Event::Forget => memory.forget(),
            Event::Restart => memory.restart(),
        }
    }
    weather.is_bad.store(false, SeqCst);
    nodes.iter().for_each(|node| node.store.heal());
    pass(RECOVERY * 2).await;
    // All are well again, and the last word says what is missing.
    let before: Vec<_> = members.iter().map(|(_, transcript)| transcript.take()).collect();
    (0..NODES * ROOMS.len()).for_each(|at| say(at % NODES, at / NODES, 1));
    pass(MOMENT).await;
    for (node, (_, transcript)) in members.iter().enumerate() {
        let lines = [before[node].clone(), transcript.take()].concat();
        let (heard, missed) = heard_by_node(&lines);
        let mut of_others = 0;
        for ((speaker, room), numbers) in &heard {
            let all: Vec<usize> = (0..said[*speaker][*room]).collect();
            if *speaker == node {
                assert_eq!(*numbers, all, "those of the same node hear all at once");
            } else {
                assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{node} hears {speaker}: {numbers:?}");
                assert_eq!(numbers.last(), all.last(), "{node} hears the last word of {speaker}");
                of_others += numbers.len();
            }
        }
        let said_by_others: usize =
            (0..NODES).filter(|other| *other != node).map(|other| said[other].iter().sum::<usize>()).sum();
        assert_eq!(of_others + missed, said_by_others, "{node} heard {of_others} and was told of {missed}");
        let counts = nodes[node].cluster.stats().rooms;
        assert_eq!((counts.heard, counts.missing), (of_others as u64, missed as u64), "{node} counts the same");
        let said_here: usize = said[node].iter().sum();
        assert_eq!(counts.published + counts.lost, said_here as u64, "of {node} all are published or lost");
    }
    for node in nodes {
        node.end().await;
    }
}

proptest! {
    #![proptest_config(Config { cases: 40, ..Config::default() })]

    #[test]
    fn each_member_hears_each_node_in_order_at_most_once_and_is_told_of_all_that_is_missing(
        events in prop::collection::vec(event(), 1..60),
        seed in any::<u64>(),
    ) {
        actix_rt::System::new().block_on(play(events, seed));
    }
}
