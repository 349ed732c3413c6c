//! Rooms: what one session says all others hear, in order, over all workers, at no more cost than their writes; who does
//! not read loses it or is cut by his own policy, and nobody waits for him.

#[path = "support/members.rs"]
mod members;
mod support;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    rc::Rc,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use actix::{Actor, AsyncContext};
use actix_lines::{
    CloseReason, Line, LineContext, LineHandler, LineServer, LineSession, Room, SessionId, Transport,
    control::{SessionFilter, SessionState},
    limits::{Limits, OutboxLimit, OutboxPolicy},
    uplink::{Feed, News, Uplink},
};
use bytes::Bytes;
use members::Silent;
use support::{PATIENCE, Peer, Server, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Is in its room from its first turn on, and announces itself if it is to.
struct Member {
    room: Room,
    hello: &'static str,
}

impl Actor for Member {
    type Context = LineContext<Self>;
    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.join(&self.room);
        if !self.hello.is_empty() {
            ctx.say(&self.room, self.hello);
        }
    }
}

impl LineHandler for Member {
    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
}

/// Sessions in `room` whose peers take everything, and what they were written: each write with the number of its peer.
struct Crowd {
    members: usize,
    writes: Rc<RefCell<Vec<(usize, usize)>>>,
    written: Rc<Cell<usize>>,
}

impl Crowd {
    async fn enter(room: &Room, members: usize) -> Self {
        let crowd = Self::begin(room, members, "");
        crowd.all_in(room).await;
        crowd
    }

    fn begin(room: &Room, members: usize, hello: &'static str) -> Self {
        let (writes, written): (Rc<RefCell<Vec<_>>>, Rc<Cell<usize>>) = Default::default();
        for number in 0..members {
            let (noted, counted) = (Rc::clone(&writes), Rc::clone(&written));
            let peer = Silent(move |bytes: &[u8]| {
                noted.borrow_mut().push((number, bytes.len()));
                counted.set(counted.get() + bytes.len());
            });
            LineSession::new(Transport::new(peer)).start(Member { room: room.clone(), hello });
        }
        Self { members, writes, written }
    }

    async fn all_in(&self, room: &Room) {
        eventually("all to be in the room", async || room.len() == self.members).await;
    }

    /// Waits until each of them was written `bytes` bytes; returns the writes.
    async fn hears(&self, bytes: usize) -> Vec<(usize, usize)> {
        eventually("all to hear it", async || self.written.get() >= self.members * bytes).await;
        self.written.set(0);
        let writes = std::mem::take(&mut *self.writes.borrow_mut());
        let mut each = vec![0; self.members];
        writes.iter().for_each(|(number, bytes)| each[*number] += bytes);
        assert!(each.iter().all(|heard| *heard == bytes), "each hears everything once");
        writes
    }
}

/// Bytes whose destructor panics.
struct Bomb(Vec<u8>);

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("as the test wants it");
    }
}

/// Says every line to the others of its room, but for a few that it does as it is told.
struct Chatter {
    room: Room,
    /// Somebody has to say something for it to go on from `block`.
    gate: Option<Gate>,
    /// Its peer is told of messages that are missing.
    tells_missed: bool,
}

impl Chatter {
    fn new(room: &Room) -> Self {
        Self { room: room.clone(), gate: None, tells_missed: false }
    }
}

/// Holds up the worker of whoever waits at it.
#[derive(Clone)]
struct Gate {
    is_reached: mpsc::Sender<()>,
    is_open: Arc<Mutex<mpsc::Receiver<()>>>,
}

/// Who decides when a [`Gate`] opens.
struct Porter {
    reached: mpsc::Receiver<()>,
    open: mpsc::Sender<()>,
}

impl Gate {
    fn new() -> (Self, Porter) {
        let ((is_reached, reached), (open, is_open)) = (mpsc::channel(), mpsc::channel());
        (Self { is_reached, is_open: Arc::new(Mutex::new(is_open)) }, Porter { reached, open })
    }

    fn wait(&self) {
        let _ = self.is_reached.send(());
        let _ = self.is_open.lock().unwrap().recv();
    }
}

impl Porter {
    /// Waits until somebody is at the gate: from then on his worker does nothing.
    fn expect_somebody(&self) {
        self.reached.recv_timeout(PATIENCE).expect("somebody at the gate");
    }

    fn open(&self) {
        self.open.send(()).expect("a gate");
    }
}

impl Actor for Chatter {
    type Context = LineContext<Self>;
}

impl LineHandler for Chatter {
    fn missed(&mut self, messages: u64, ctx: &mut Self::Context) {
        if self.tells_missed {
            ctx.write(format!("missed {messages}\n").as_bytes());
        }
    }

    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let of = |policy| OutboxLimit { policy, hard: 100_000, soft: None };
        match line.text() {
            b"join" => {
                ctx.join(&self.room);
                ctx.write(b"joined\n");
            }
            b"leave" => {
                ctx.leave(&self.room);
                ctx.write(b"left\n");
            }
            b"tell" => self.tells_missed = true,
            b"drop" => ctx.set_outbox_limit(of(OutboxPolicy::DropNewest)).unwrap(),
            b"take" => ctx.set_outbox_limit(of(OutboxPolicy::Accept)).unwrap(),
            b"disconnect" => ctx.set_outbox_limit(of(OutboxPolicy::Disconnect)).unwrap(),
            b"flood" => {
                // More than its worker can be owed, and none of it heard by whoever says it.
                let line = Bytes::from([&b"z".repeat(9999)[..], b"\n"].concat());
                (0..500).for_each(|_| ctx.say(&self.room, line.clone()));
                ctx.write(b"flooded\n");
            }
            b"block" => {
                ctx.write(b"blocked\n");
                // In another turn, when that has been sent. All of its worker is held up, and none of the others.
                ctx.run_later(Duration::from_millis(1), |actor, _| {
                    if let Some(gate) = &actor.gate {
                        gate.wait();
                    }
                });
            }
            _ => ctx.say(&self.room, line.to_vec()),
        }
    }
}

async fn member(server: &Server) -> Peer {
    let mut peer = server.connect().await;
    peer.send(b"join\n").await;
    peer.expect(b"joined\n").await;
    peer
}

#[actix::test]
async fn what_one_says_all_others_hear_once_and_in_its_order_over_all_workers() {
    const MEMBERS: usize = 12;
    const LINES: usize = 200;
    let room = Room::new();
    let of = room.clone();
    let server = Server::start(LineServer::new(move |_| Chatter::new(&of)).workers(3)).await;
    let mut peers = Vec::new();
    for _ in 0..MEMBERS {
        peers.push(member(&server).await);
    }
    assert_eq!(room.len(), MEMBERS);
    let talk = |number: usize| (0..LINES).map(move |line| format!("{number} {line}\n")).collect::<String>();
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.send(talk(number).as_bytes()).await;
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        let others = (0..MEMBERS).filter(|other| *other != number);
        let mut heard = vec![0; others.clone().map(|other| talk(other).len()).sum()];
        within("all that was said", peer.stream.read_exact(&mut heard)).await.unwrap();
        let heard = String::from_utf8(heard).unwrap();
        for other in others {
            let prefix = format!("{other} ");
            let lines: String = heard.split_inclusive('\n').filter(|line| line.starts_with(&prefix)).collect();
            assert_eq!(lines, talk(other), "{number} heard of {other}");
        }
    }
    assert_eq!(room.lost(), 0);
    // To all, from somewhere else.
    let outside = room.clone();
    std::thread::spawn(move || outside.say("all of you\n")).join().unwrap();
    for peer in &mut peers {
        peer.expect(b"all of you\n").await;
    }
}

/// In the rooms of its line; says to these, or to all at once, or in turns.
struct Visitor {
    rooms: Vec<Room>,
    mine: Vec<usize>,
}

impl Actor for Visitor {
    type Context = LineContext<Self>;
}

impl LineHandler for Visitor {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let text = String::from_utf8_lossy(line.text()).into_owned();
        match text.split_once(' ') {
            Some(("join", rooms)) => {
                self.mine = rooms.split(' ').map(|room| room.parse().unwrap()).collect();
                self.mine.iter().for_each(|room| ctx.join(&self.rooms[*room]));
                writeln!(ctx, "joined");
            }
            Some((who, "talk")) => {
                for number in 0..ROUNDS {
                    for (at, room) in self.rooms.iter().enumerate() {
                        ctx.say(room, format!("{who} {number} in {at}\n"));
                    }
                    // The first one twice: it is one room all the same.
                    ctx.say_to_all(self.rooms.iter().chain(&self.rooms[..1]), format!("{who} {number} in all\n"));
                    ctx.say_to_all(&self.rooms[1..], format!("{who} {number} in two\n"));
                }
                writeln!(ctx, "{who} has talked");
            }
            _ => panic!("a line like that: {text}"),
        }
    }
}

const ROUNDS: usize = 60;

#[actix::test]
async fn what_is_said_to_several_rooms_each_member_hears_once_and_in_its_place() {
    let rooms = vec![Room::new(), Room::new(), Room::new()];
    let of = rooms.clone();
    let server = LineServer::new(move |_| Visitor { rooms: of.clone(), mine: Vec::new() }).workers(2);
    let server = Server::start(server).await;
    let mut members = Vec::new();
    for mine in [&[0][..], &[1], &[2], &[0, 1], &[1, 2], &[2, 0], &[0, 1, 2], &[2, 1, 0]] {
        // One on each worker.
        for _ in 0..2 {
            let mut peer = server.connect().await;
            peer.send(format!("join {}\n", mine.iter().map(usize::to_string).collect::<Vec<_>>().join(" ")).as_bytes())
                .await;
            peer.expect(b"joined\n").await;
            members.push((mine, peer));
        }
    }
    // Two who are in no room say something at the same time.
    let mut speakers = Vec::new();
    for who in ["one", "two"] {
        let mut peer = server.connect().await;
        peer.send(format!("{who} talk\n").as_bytes()).await;
        speakers.push((who, peer));
    }
    for (who, peer) in &mut speakers {
        peer.expect(format!("{who} has talked\n").as_bytes()).await;
    }
    for (mine, peer) in &mut members {
        let expected = |who: &str| {
            let mut lines = Vec::new();
            for number in 0..ROUNDS {
                lines.extend(mine.iter().map(|room| format!("{who} {number} in {room}")));
                lines.push(format!("{who} {number} in all"));
                if mine.iter().any(|room| *room > 0) {
                    lines.push(format!("{who} {number} in two"));
                }
            }
            lines
        };
        let bytes: usize = ["one", "two"].iter().flat_map(|who| expected(who)).map(|line| line.len() + 1).sum();
        let mut heard = vec![0; bytes];
        within("all that was said", peer.stream.read_exact(&mut heard)).await.unwrap();
        let heard = String::from_utf8(heard).unwrap();
        for who in ["one", "two"] {
            let heard: Vec<&str> = heard.lines().filter(|line| line.starts_with(who)).collect();
            // In each room by itself: of what is said in two rooms either may come first.
            let of_room = |line: &str, room: &usize| {
                line.ends_with(&format!("in {room}")) || line.ends_with("all") || (line.ends_with("two") && *room > 0)
            };
            for room in mine.iter() {
                let in_room: Vec<&str> = heard.iter().copied().filter(|line| of_room(line, room)).collect();
                let expected: Vec<String> = expected(who).into_iter().filter(|line| of_room(line, room)).collect();
                assert_eq!(in_room, expected, "of {who} in room {room}, with rooms {mine:?}");
            }
            let mut all = expected(who);
            all.sort_unstable();
            let mut heard = heard;
            heard.sort_unstable();
            assert_eq!(heard, all, "of {who}, with rooms {mine:?}");
        }
    }
    // From somewhere else.
    let outside = rooms.clone();
    std::thread::spawn(move || Room::say_to_all(&outside, "all of you\n")).join().unwrap();
    for (_, peer) in &mut members {
        peer.expect(b"all of you\n").await;
    }
    assert!(rooms.iter().all(|room| room.lost() == 0));
}

#[actix::test]
async fn the_members_of_a_room_are_listed_on_whatever_workers_they_are() {
    let room = Room::new();
    let of = room.clone();
    let server = Server::start(LineServer::new(move |_| Chatter::new(&of)).workers(2)).await;
    assert_eq!(room.members().await, []);
    let mut peers = Vec::new();
    for _ in 0..5 {
        peers.push(member(&server).await);
    }
    let _other = server.connect().await;
    let sessions = server.sessions().await;
    let workers: BTreeSet<usize> = sessions.iter().map(|session| session.worker).collect();
    assert_eq!(workers.len(), 2);
    let ids: Vec<SessionId> = sessions.iter().map(|session| session.id).take(5).collect();
    assert_eq!(within("the members", room.members()).await, ids);
    assert_eq!(room.len(), 5);
    peers[2].send(b"leave\n").await;
    peers[2].expect(b"left\n").await;
    let others = [ids[0], ids[1], ids[3], ids[4]];
    assert_eq!(within("the members", room.members()).await, others);
}

#[actix::test]
async fn members_come_once_and_leave_by_their_own_will_or_with_their_session() {
    let room = Room::new();
    let of = room.clone();
    let mut server = Server::start(LineServer::new(move |_| Chatter::new(&of)).workers(2)).await;
    let (mut one, mut two, mut three) = (member(&server).await, member(&server).await, member(&server).await);
    two.send(b"join\n").await;
    two.expect(b"joined\n").await;
    assert_eq!(room.len(), 3);
    one.send(b"hello\n").await;
    two.expect(b"hello\n").await;
    three.expect(b"hello\n").await;
    two.send(b"leave\nleave\n").await;
    two.expect(b"left\nleft\n").await;
    assert_eq!(room.len(), 2);
    // Who is not in the room may say something all the same.
    two.send(b"from outside\n").await;
    one.expect(b"from outside\n").await;
    three.expect(b"from outside\n").await;
    two.send(b"join\n").await;
    two.expect(b"joined\n").await;
    one.send(b"again\n").await;
    two.expect(b"again\n").await;
    drop(one);
    server.report().await;
    assert_eq!(room.len(), 2);
    server.handle.kick(SessionFilter::default(), "").await.unwrap();
    assert_eq!(two.rest().await, b"");
    assert_eq!(three.rest().await, b"again\n");
    // Not even while it lingers.
    eventually("the room to be empty", async || room.is_empty()).await;
    drop((two, three));
    server.report().await;
    server.report().await;
    room.say("nobody\n");
    assert_eq!(room.lost(), 0);
    server.end().await;
}

#[actix::test]
async fn a_member_that_does_not_read_loses_messages_or_is_cut_and_the_others_hear_all() {
    let room = Room::new();
    let of = room.clone();
    let mut server = Server::start(LineServer::new(move |_| Chatter::new(&of)).workers(2)).await;
    let (mut good, mut sayer) = (member(&server).await, server.connect().await);
    let (mut dropping, mut cut) = (member(&server).await, member(&server).await);
    dropping.send(b"drop\n").await;
    cut.send(b"disconnect\n").await;
    let mut line = vec![b'x'; 10_000];
    line.push(b'\n');
    let mut said = 0;
    // Until what the kernel takes is full, and what the outbox may hold, too.
    while room.lost() < 20 {
        sayer.send(&line).await;
        good.expect(&line).await;
        said += 1;
        assert!(said < 20_000, "nobody ever loses anything");
    }
    let report = server.report().await;
    assert_eq!((report.reason, report.cut), (CloseReason::OutboxFull, true));
    drop(cut);
    let outbox = server.sessions().await.into_iter().map(|session| session.outbox_bytes).max().unwrap();
    assert!(outbox <= 100_000, "{outbox}");
    dropping.shutdown_write().await;
    let got = dropping.rest().await;
    assert_eq!(got.len() % line.len(), 0, "whole messages");
    let lost = said - (got.len() / line.len()) as u64;
    // The other's is one, or some more if others are said something before its next turn.
    assert!(lost > 0 && lost < room.lost(), "{lost} of {}", room.lost());
    assert!(got.chunks(line.len()).all(|message| message == line));
}

#[actix::test]
async fn all_members_share_one_message() {
    // Those that are read last have all the time that it takes.
    tokio::time::pause();
    let room = Room::new();
    let mut ends = Vec::new();
    let (ours, mut sayer) = tokio::io::duplex(1000);
    LineSession::new(Transport::new(ours)).start(Chatter::new(&room));
    for _ in 0..50 {
        let (ours, mut theirs) = tokio::io::duplex(10);
        LineSession::new(Transport::new(ours)).start(Chatter::new(&room));
        theirs.write_all(b"join\n").await.unwrap();
        theirs.read_exact(&mut [0; 7]).await.unwrap();
        ends.push(theirs);
    }
    let message = Bytes::from(vec![b'm'; 100_000]);
    room.say(message.clone());
    eventually("all to have it", async || {
        let mut begun = [0; 1];
        for end in &mut ends {
            if end.read(&mut begun).await.unwrap() == 0 || begun != *b"m" {
                return false;
            }
        }
        true
    })
    .await;
    // Each holds the rest of it, and none of them a copy: else they would let go of it at once.
    assert!(!message.is_unique());
    sayer.write_all(b"end\n").await.unwrap();
    for end in &mut ends {
        let mut rest = vec![0; 99_999 + 4];
        within("the rest", end.read_exact(&mut rest)).await.unwrap();
        assert!(rest.ends_with(b"mend\n"));
    }
    eventually("all to let go of it", async || message.is_unique()).await;
}

#[actix::test]
async fn a_worker_that_does_not_keep_up_holds_back_who_says_something_and_nothing_is_lost() {
    let (gate, porter) = Gate::new();
    let room = Room::new();
    let of = room.clone();
    let chatter = move |_: &_| Chatter { gate: Some(gate.clone()), ..Chatter::new(&of) };
    // A worker each.
    let listening = Server::start(LineServer::new(chatter.clone()).workers(1)).await;
    let server = Server::start(LineServer::new(chatter).workers(1)).await;
    let (mut blocked, mut sayer) = (member(&listening).await, server.connect().await);
    // What this member does with it is not the question.
    blocked.send(b"take\nblock\n").await;
    blocked.expect(b"blocked\n").await;
    porter.expect_somebody();
    let line = [&b"y".repeat(9999)[..], b"\n"].concat();
    // More than any kernel holds.
    let all = line.repeat(6000);
    let taken = sayer.send_until_held(&server, &all).await;
    // What it has said, what it has read, and what the kernel holds.
    assert!((1024 * 1024..all.len()).contains(&taken), "{taken} bytes taken");
    porter.open();
    let mut heard = vec![0; all.len()];
    let (sent, received) = tokio::join!(
        within("the rest to be taken", sayer.stream.write_all(&all[taken..])),
        within("all that was said", blocked.stream.read_exact(&mut heard)),
    );
    sent.unwrap();
    received.unwrap();
    assert!(heard == all);
    assert_eq!(room.lost(), 0);
    let sessions = [listening.sessions().await, server.sessions().await].concat();
    assert!(sessions.iter().all(|session| session.state == SessionState::Open), "all go on: {sessions:?}");

    // Whoever is no session cannot be held back: what is too much is lost and counted.
    blocked.send(b"block\n").await;
    blocked.expect(b"blocked\n").await;
    porter.expect_somebody();
    for _ in 0..1000 {
        room.say(line.clone());
    }
    let lost = room.lost();
    assert!((500..700).contains(&lost), "of 10 MB, 4 MiB are kept: {lost}");
    porter.open();
    for _ in lost..1000 {
        blocked.expect(&line).await;
    }
    // And what sessions say is heard again.
    sayer.send(b"still here\n").await;
    blocked.expect(b"still here\n").await;
}

#[actix::test]
async fn a_large_room_lets_its_worker_do_other_things_meanwhile() {
    const MEMBERS: usize = 5000;
    let room = Room::new();
    let mut ends = Vec::new();
    for _ in 0..MEMBERS {
        let (ours, mut theirs) = tokio::io::duplex(16);
        LineSession::new(Transport::new(ours)).start(Chatter::new(&room));
        theirs.write_all(b"join\n").await.unwrap();
        ends.push(theirs);
    }
    for end in &mut ends {
        end.read_exact(&mut [0; 7]).await.unwrap();
    }
    assert_eq!(room.len(), MEMBERS);
    let (ours, mut typist) = tokio::io::duplex(16);
    LineSession::new(Transport::new(ours)).start(Chatter::new(&room));
    room.say("hello\n");
    // Who types something when the worker has begun to tell them is not answered behind all of them.
    let typing = tokio::task::spawn_local(async move {
        tokio::task::yield_now().await;
        typist.write_all(b"leave\n").await.unwrap();
        typist.read_exact(&mut [0; 5]).await.unwrap();
    });
    within("an answer", typing).await.unwrap();
    let has_heard = |end: &mut tokio::io::DuplexStream| {
        let mut message = [0; 6];
        // Or tokio would have nobody read more than 128 times at once.
        let read = futures::FutureExt::now_or_never(tokio::task::unconstrained(end.read_exact(&mut message)));
        read.is_some_and(|read| read.is_ok() && message == *b"hello\n")
    };
    let mut heard: Vec<_> = ends.iter_mut().map(has_heard).collect();
    let count = heard.iter().filter(|heard| **heard).count();
    assert!((1..MEMBERS * 4 / 5).contains(&count), "{count} of {MEMBERS} had heard it by then");
    eventually("all to hear it", async || {
        for (end, heard) in ends.iter_mut().zip(&mut heard) {
            *heard = *heard || has_heard(end);
        }
        heard.iter().all(|heard| *heard)
    })
    .await;
    // The room is as good as new when half of it has left.
    ends.truncate(MEMBERS / 2);
    eventually("half of them to leave", async || room.len() == MEMBERS / 2).await;
    room.say("half\n");
    for end in &mut ends {
        let mut message = [0; 5];
        within("the half to hear it", end.read_exact(&mut message)).await.unwrap();
    }
    assert_eq!(room.lost(), 0);
}

#[actix::test]
async fn sessions_with_and_without_a_server_share_a_room_and_one_that_ends_may_say_so() {
    struct Leaving(Room);
    impl Actor for Leaving {
        type Context = LineContext<Self>;
        fn stopping(&mut self, ctx: &mut Self::Context) -> actix::Running {
            ctx.say(&self.0, "I am going\n");
            actix::Running::Stop
        }
        fn stopped(&mut self, ctx: &mut Self::Context) {
            ctx.say(&self.0, "I am gone\n");
            ctx.join(&self.0);
        }
    }
    impl LineHandler for Leaving {
        fn line(&mut self, _: Line<'_>, ctx: &mut Self::Context) {
            ctx.join(&self.0);
            ctx.write(b"in\n");
        }
    }
    let room = Room::new();
    let of = room.clone();
    let server = Server::start(LineServer::new(move |_| Chatter::new(&of)).workers(1)).await;
    let mut listener = member(&server).await;
    let (ours, mut leaving) = tokio::io::duplex(100);
    LineSession::new(Transport::new(ours)).start(Leaving(room.clone()));
    leaving.write_all(b"\n").await.unwrap();
    leaving.read_exact(&mut [0; 3]).await.unwrap();
    listener.send(b"hello\n").await;
    let mut heard = [0; 6];
    within("the greeting", leaving.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"hello\n");
    drop(leaving);
    listener.expect(b"I am going\nI am gone\n").await;
    assert_eq!(room.len(), 1);
}

#[actix::test]
async fn whoever_waits_for_a_worker_that_ends_goes_on() {
    // A room whose only member lives on an arbiter that never gets to deliver, and then stops.
    let room = Room::new();
    let arbiter = actix::Arbiter::new();
    let (release, blocked) = mpsc::channel::<()>();
    let (joined, has_joined) = tokio::sync::oneshot::channel();
    let member = room.clone();
    arbiter.spawn(async move {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        LineSession::new(Transport::new(ours)).start(Chatter::new(&member));
        theirs.write_all(b"join\n").await.unwrap();
        theirs.read_exact(&mut [0; 7]).await.unwrap();
        joined.send(()).unwrap();
        let _ = blocked.recv();
        actix::Arbiter::current().stop();
        drop(theirs);
    });
    within("the member", has_joined).await.unwrap();
    let of = room.clone();
    let server = Server::start(LineServer::new(move |_| Chatter::new(&of)).workers(1)).await;
    let mut sayer = server.connect().await;
    let line = [&b"z".repeat(9999)[..], b"\n"].concat();
    // More than any kernel holds.
    let all = line.repeat(6000);
    let taken = sayer.send_until_held(&server, &all).await;
    assert!(taken < all.len());
    release.send(()).unwrap();
    within("the rest to be taken", sayer.stream.write_all(&all[taken..])).await.unwrap();
    eventually("the room to be empty", async || room.is_empty()).await;
    sayer.send(b"join\n").await;
    sayer.expect(b"joined\n").await;
    arbiter.join().unwrap();
}

#[actix::test]
async fn a_burst_is_one_write_for_each_member_in_a_room_of_any_size() {
    for members in [100, 505, 520, 1000, 5000] {
        let room = Room::new();
        let crowd = Crowd::enter(&room, members).await;
        for _ in 0..10 {
            room.say(&[b'x'; 64][..]);
        }
        let writes = crowd.hears(640).await;
        assert_eq!(writes.len(), members, "of a room with {members} members");
        // What is more than a slice's worth of bytes comes in as few as there may be.
        let message = Bytes::from(vec![b'y'; 10_000]);
        (0..18).for_each(|_| room.say(message.clone()));
        let writes = crowd.hears(180_000).await;
        assert_eq!(writes.len(), 3 * members, "of a room with {members} members");
        assert_eq!(room.lost(), 0);
    }
}

#[actix::test]
async fn between_two_turns_of_others_a_large_room_hears_a_bounded_amount() {
    const MEMBERS: usize = 5000;
    let room = Room::new();
    let crowd = Crowd::enter(&room, MEMBERS).await;
    let (ours, mut typist) = tokio::io::duplex(16);
    LineSession::new(Transport::new(ours)).start(Chatter::new(&Room::new()));
    let message = Bytes::from(vec![b'm'; 20_000]);
    (0..30).for_each(|_| room.say(message.clone()));
    let writes = || crowd.writes.borrow().len();
    let mut most = 0;
    // Ten bursts: often enough for the typist to be answered at all kinds of moments.
    while crowd.written.get() < 540_000 * MEMBERS {
        let before = writes();
        typist.write_all(b"leave\n").await.unwrap();
        within("an answer", typist.read_exact(&mut [0; 5])).await.unwrap();
        most = most.max(writes() - before);
    }
    // One slice that was under way when it was typed, one before the session's turn, one before the test's.
    assert!(most <= 3 * 1024, "{most} members heard something before a line was answered");
    let writes = crowd.hears(600_000).await;
    let most = writes.iter().map(|(_, bytes)| *bytes).max().unwrap();
    assert!(most <= 64 * 1024, "{most} bytes for a member at once");
}

#[actix::test]
async fn a_small_room_need_not_wait_for_a_large_one() {
    const MEMBERS: usize = 5000;
    let (large, small) = (Room::new(), Room::new());
    let crowd = Crowd::enter(&large, MEMBERS).await;
    let few = Crowd::enter(&small, 2).await;
    let message = Bytes::from(vec![b'm'; 60_000]);
    (0..10).for_each(|_| large.say(message.clone()));
    small.say("hello\n");
    few.hears(6).await;
    let heard = crowd.writes.borrow().len();
    assert!(heard < 4 * MEMBERS, "{heard} of {} writes came before", 10 * MEMBERS);
    crowd.hears(600_000).await;
}

#[actix::test]
async fn those_who_come_at_once_are_announced_together() {
    const MEMBERS: usize = 2000;
    const HELLO: &str = "* somebody is here\n";
    let room = Room::new();
    let crowd = Crowd::begin(&room, MEMBERS, HELLO);
    crowd.all_in(&room).await;
    // Each has heard those who came after it, and perhaps some who came before.
    room.say("*");
    let ends = |(_, bytes): &&(usize, usize)| bytes % HELLO.len() == 1;
    let (mut seen, mut ended) = (0, 0);
    eventually("all to hear the last word", async || {
        let writes = crowd.writes.borrow();
        ended += writes[seen..].iter().filter(ends).count();
        seen = writes.len();
        ended == MEMBERS
    })
    .await;
    let writes = crowd.writes.borrow().len();
    assert!(writes <= 20 * MEMBERS, "{writes} writes for {MEMBERS} announcements");
}

#[actix::test]
async fn who_comes_and_goes_in_the_middle_of_a_delivery_changes_nothing_for_the_others() {
    const MEMBERS: usize = 3000;
    let room = Room::new();
    let mut ends = Vec::new();
    for _ in 0..MEMBERS {
        let (ours, mut theirs) = tokio::io::duplex(100);
        LineSession::new(Transport::new(ours)).start(Chatter::new(&room));
        theirs.write_all(b"join\n").await.unwrap();
        theirs.read_exact(&mut [0; 7]).await.unwrap();
        ends.push(theirs);
    }
    room.say("one\n");
    tokio::task::yield_now().await;
    // While some have heard it and others have not, a third of them leaves, in no order, and a few come.
    let (mut gone, mut stay) = (Vec::new(), Vec::new());
    for (number, end) in ends.into_iter().enumerate() {
        if (number * 7919).is_multiple_of(3) { gone.push(end) } else { stay.push(end) }
    }
    for end in &mut gone {
        end.write_all(b"leave\n").await.unwrap();
        if room.len().is_multiple_of(100) {
            tokio::task::yield_now().await;
        }
    }
    eventually("a third to leave", async || room.len() == MEMBERS - gone.len()).await;
    room.say("two\n");
    for end in &mut stay {
        let mut heard = [0; 8];
        within("both messages", end.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"one\ntwo\n");
    }
    room.say("three\n");
    for end in &mut stay {
        let mut heard = [0; 6];
        within("the third", end.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"three\n", "nobody hears a message twice");
    }
}

#[actix::test]
async fn a_member_is_told_how_many_messages_are_missing_where_they_are() {
    let room = Room::new();
    let (ours, mut slow) = tokio::io::duplex(1000);
    LineSession::new(Transport::new(ours)).start(Chatter::new(&room));
    slow.write_all(b"join\ndrop\ntell\n").await.unwrap();
    slow.read_exact(&mut [0; 7]).await.unwrap();
    // Who hears everything, after both were told.
    let (ours, mut witness) = tokio::io::duplex(20_000);
    LineSession::new(Transport::new(ours)).start(Chatter::new(&room));
    witness.write_all(b"join\n").await.unwrap();
    witness.read_exact(&mut [0; 7]).await.unwrap();
    let mut number = 0;
    let mut expected = String::new();
    for gap in 0..3 {
        let lost = room.lost();
        while room.lost() < lost + 5 {
            let (message, before) = (format!("{number:0>9999}\n"), room.lost());
            number += 1;
            room.say(message.clone());
            within("the witness", witness.read_exact(&mut [0; 10_000])).await.unwrap();
            if room.lost() == before {
                expected += &message;
            }
        }
        let mut heard = vec![0; expected.len()];
        within("what was not lost", slow.read_exact(&mut heard)).await.unwrap();
        assert!(heard == expected.as_bytes(), "gap {gap}");
        expected = format!("missed {}\n", room.lost() - lost);
    }
    room.say("the end\n");
    expected += "the end\n";
    let mut heard = vec![0; expected.len()];
    within("the last gap", slow.read_exact(&mut heard)).await.unwrap();
    assert_eq!(String::from_utf8(heard).unwrap(), expected);
}

#[actix::test]
async fn members_are_told_what_their_worker_was_not_given_but_not_what_they_said_or_came_too_late_for() {
    let (gate, porter) = Gate::new();
    let room = Room::new();
    let of = room.clone();
    let chatter = move |_: &_| Chatter { gate: Some(gate.clone()), ..Chatter::new(&of) };
    // All that the worker is given fits the members' outboxes: none of it is lost there.
    let outbox_limit = OutboxLimit { hard: 16 << 20, ..OutboxLimit::default() };
    let limits = Limits::builder().outbox_limit(outbox_limit).build().unwrap();
    let server = Server::start(LineServer::new(chatter).limits(limits).workers(1)).await;
    let (mut one, mut two) = (member(&server).await, member(&server).await);
    for peer in [&mut one, &mut two] {
        peer.send(b"take\ntell\nleave\njoin\n").await;
        peer.expect(b"left\njoined\n").await;
    }
    let line = [&b"z".repeat(9999)[..], b"\n"].concat();
    one.send(b"block\n").await;
    one.expect(b"blocked\n").await;
    porter.expect_somebody();
    for _ in 0..500 {
        room.say(line.clone());
    }
    let lost = room.lost() / 2;
    assert!((50..150).contains(&lost), "of 5 MB, 4 MiB are kept: {lost}");
    porter.open();
    for _ in lost..500 {
        one.expect(&line).await;
        two.expect(&line).await;
    }
    let mut late = member(&server).await;
    late.send(b"take\ntell\nleave\njoin\n").await;
    late.expect(b"left\njoined\n").await;
    room.say("end\n");
    let expected = format!("missed {lost}\nend\n");
    one.expect(expected.as_bytes()).await;
    two.expect(expected.as_bytes()).await;
    late.expect(b"end\n").await;
    // What a session says itself it does not miss: it says more than fits, in one turn.
    let before = room.lost();
    one.send(b"flood\nhello\n").await;
    one.expect(b"flooded\n").await;
    // Two of three, that is.
    let lost = (room.lost() - before) / 2;
    assert!((50..150).contains(&lost), "of 5 MB, 4 MiB are kept: {lost}");
    for _ in lost..500 {
        two.expect(&line).await;
    }
    two.expect(format!("missed {lost}\nhello\n").as_bytes()).await;
    room.say("bye\n");
    one.expect(b"bye\n").await;
}

#[actix::test]
async fn a_destructor_of_what_was_said_ends_nothing_wherever_it_runs() {
    let room = Room::new();
    let of = room.clone();
    let mut server = Server::start(LineServer::new(move |_| Chatter::new(&of)).workers(2)).await;
    let (mut one, mut two, mut stuck) = (member(&server).await, member(&server).await, member(&server).await);
    stuck.send(b"drop\n").await;
    for round in 0..10_u8 {
        // Alone, and joined with others; the last with nobody but a session that ends.
        for messages in 1..3 {
            (0..messages).for_each(|_| room.say(Bytes::from_owner(Bomb(vec![round; 50_000]))));
            for _ in 0..messages {
                one.expect(&[round; 50_000]).await;
                two.expect(&[round; 50_000]).await;
            }
        }
    }
    drop(stuck);
    server.report().await;
    one.send(b"still here\n").await;
    two.expect(b"still here\n").await;
    drop((one, two));
    server.report().await;
    server.report().await;
    server.end().await;
}

/// What has gone up: the room's key and what was said there.
fn gone_up(feed: &mut Feed) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    while let Some(news) = feed.try_next() {
        if let News::Said(said) = news {
            all.push((said.key(), String::from_utf8_lossy(said.bytes()).into_owned()));
        }
    }
    all
}

#[actix::test]
async fn what_is_said_here_goes_up_once_and_what_comes_from_elsewhere_does_not() {
    let (uplink, mut feed) = Uplink::new(100_000);
    let rooms = vec![Room::named("one"), Room::named("two"), Room::new()];
    assert!(rooms[0].link(&uplink, 1) && rooms[1].link(&uplink, 2));
    assert!(!rooms[0].link(&uplink, 3), "a room has one link");
    assert_eq!(rooms.iter().map(Room::name).collect::<Vec<_>>(), [Some("one"), Some("two"), None]);
    let of = rooms.clone();
    let server = Server::start(LineServer::new(move |_| Chatter::new(&of[0]))).await;
    let (mut ann, mut ben) = (member(&server).await, member(&server).await);
    ann.send(b"hello\n").await;
    ben.expect(b"hello\n").await;
    rooms[0].say_here("from elsewhere\n");
    for peer in [&mut ann, &mut ben] {
        peer.expect(b"from elsewhere\n").await;
    }
    // Also where nobody is, and to each of several rooms.
    rooms[1].say("nobody\n");
    Room::say_to_all(&rooms, "to all\n");
    let said = [(1, "hello\n"), (2, "nobody\n"), (1, "to all\n"), (2, "to all\n")];
    assert_eq!(gone_up(&mut feed), said.map(|(key, text)| (key, text.to_owned())));
}

#[actix::test]
async fn an_uplink_hears_of_the_first_member_of_the_last_and_of_the_end_of_a_room() {
    let (uplink, mut feed) = Uplink::new(100_000);
    let room = Room::new();
    assert!(room.link(&uplink, 1));
    let of = room.clone();
    let server = Server::start(LineServer::new(move |_| Chatter::new(&of)).workers(2)).await;
    let mut news = async |what: &str| within(what, feed.next()).await.expect("an uplink");
    assert!(matches!(news("the link").await, News::Members { key: 1 }));
    let (mut ann, mut ben) = (member(&server).await, member(&server).await);
    assert!(matches!(news("the first member").await, News::Members { key: 1 }));
    for peer in [&mut ann, &mut ben] {
        peer.send(b"leave\n").await;
        peer.expect(b"left\n").await;
    }
    assert!(matches!(news("the last member").await, News::Members { key: 1 }));
    assert!(room.is_empty());
    let weak = room.downgrade();
    drop((ann, ben));
    server.end_all().await;
    drop(room);
    assert!(matches!(news("the end of the room").await, News::Gone { key: 1 }));
    assert!(weak.upgrade().is_none());
}

#[actix::test]
async fn what_has_not_come_from_elsewhere_members_are_told_where_it_is_missing() {
    let room = Room::new();
    let of = room.clone();
    let server = Server::start(LineServer::new(move |_| Chatter::new(&of)).workers(2)).await;
    let (mut ann, mut ben) = (member(&server).await, member(&server).await);
    for peer in [&mut ann, &mut ben] {
        peer.send(b"tell\nleave\njoin\n").await;
        peer.expect(b"left\njoined\n").await;
    }
    room.say_here("one\n");
    room.note_missing(2);
    room.note_missing(1);
    room.say_here("five\n");
    // Who comes later misses nothing of it.
    let mut cid = member(&server).await;
    cid.send(b"tell\n").await;
    room.say_here("six\n");
    for peer in [&mut ann, &mut ben] {
        peer.expect(b"one\nmissed 3\nfive\nsix\n").await;
    }
    cid.expect(b"six\n").await;
    assert_eq!(room.lost(), 6);
}
