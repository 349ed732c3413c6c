//! A room and its members: what a server does for them, how a client speaks to it or to its like, and how long a message takes
//! to the last of them.
//!
//! Not here: servers as processes, what is counted of them.

use std::{
    fmt, io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use actix::Actor;
use actix_lines::{Connection, Framing, Line, LineContext, LineHandler, LineServer, Room, limits::Limits};
use rustix::event::{Timespec, epoll};

use super::{
    Options, PATIENCE, Samples,
    client::{receive, send},
    number,
};

/// Length of a message, the newline included.
pub const MESSAGE_BYTES: usize = 64;

/// Names of servers that speak in their own way; all others speak in lines.
pub const REDIS: &str = "redis";
pub const NATS: &str = "nats";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Load {
    pub burst: usize,
    pub members: usize,
}

impl Load {
    /// All of them, in the order in which they are measured.
    pub fn all(bursts: &[usize], members: &[usize]) -> Vec<Self> {
        let of = |burst: usize| members.iter().map(move |members| Self { burst, members: *members });
        bursts.iter().flat_map(|burst| of(*burst)).collect()
    }

    /// The title of a table of all that have such bursts.
    pub fn title(burst: usize) -> String {
        if burst == 1 { "Single messages".to_owned() } else { format!("Bursts of {burst}") }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.burst {
            1 => write!(f, "{} members, single messages", self.members),
            burst => write!(f, "{} members, bursts of {burst}", self.members),
        }
    }
}

/// The numbers of an option, none of them 0.
pub fn list(flag: &str, value: &str) -> Result<Vec<usize>, String> {
    let numbers = value.split(',').filter(|number| !number.is_empty());
    numbers.map(|value| number(flag, value).map(|number| number.max(1))).collect()
}

/// Says which version of a program is there, if it is.
pub fn version_of(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_version =
        |word: &&str| word.trim_start_matches(['v', '=', ':']).starts_with(|letter: char| letter.is_ascii_digit());
    text.split_whitespace().find(is_version).map(|word| word.trim_start_matches(['v', '=', ':']).to_owned())
}

/// Lets loads and servers take turns, round by round, each round beginning with another server. `measure` gets the name and
/// the command.
pub fn rounds<Own, Sample>(
    options: &Options<Own>,
    loads: &[Load],
    measure: impl Fn(&str, &str, Load) -> Result<Sample, String>,
) -> Samples<Load, Sample> {
    super::turns(options, loads, |index, load| {
        let (name, command) = &options.servers[index];
        measure(name, command, load)
    })
}

/// Whoever says `join` or `enter` is in the room, and all but `count` is for the others.
pub struct Member(Room);

impl Actor for Member {
    type Context = LineContext<Self>;
}

impl LineHandler for Member {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        match line.text() {
            b"join" => {
                ctx.join(&self.0);
                ctx.write(b"joined\n");
            }
            b"enter" => {
                ctx.join(&self.0);
                ctx.say(&self.0, "* somebody is here\n");
            }
            b"count" => ctx.write(format!("{}\n", self.0.len()).as_bytes()),
            _ => ctx.say(&self.0, line.to_vec()),
        }
    }
}

/// A server of the room with one worker and no limits.
pub fn server(room: Room) -> io::Result<LineServer<Member, impl Fn(&Connection) -> Member + Clone + Send + 'static>> {
    let limits = Limits::builder()
        .max_sessions(usize::MAX)
        .max_sessions_per_source(usize::MAX)
        .accept_rate(None)
        .accept_rate_per_source(None);
    let limits = limits.build().map_err(io::Error::other)?;
    Ok(LineServer::new(move |_: &Connection| Member(room.clone())).framing(Framing::lf()).limits(limits).workers(1))
}

/// What a client says to a server of one kind, and what comes of it.
pub struct Talk {
    /// What a member says first, and what all has come when it is one.
    join: Vec<u8>,
    joined: Vec<&'static str>,
    /// What one says who is no member, likewise.
    greet: Vec<u8>,
    greeted: Vec<&'static str>,
    /// A message as it is said, and as it is heard; what comes back to who said it.
    said: Vec<u8>,
    heard: usize,
    answer: Box<dyn Fn(usize) -> usize>,
}

impl Talk {
    pub fn with(server: &str) -> Self {
        let text = "x".repeat(MESSAGE_BYTES - 1);
        let hello = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n".to_vec();
        match server {
            REDIS => Self {
                join: b"SUBSCRIBE room\r\n".to_vec(),
                joined: vec!["subscribe", ":1\r\n"],
                greet: Vec::new(),
                greeted: Vec::new(),
                said: format!("PUBLISH room {text}\r\n").into_bytes(),
                heard: format!("*3\r\n$7\r\nmessage\r\n$4\r\nroom\r\n${}\r\n{text}\r\n", text.len()).len(),
                answer: Box::new(|members| format!(":{members}\r\n").len()),
            },
            NATS => Self {
                join: [&hello[..], b"SUB room 1\r\nPING\r\n"].concat(),
                // It asks once, some seconds after it was greeted.
                joined: vec!["PONG\r\nPONG\r\n", "PING\r\n"],
                greet: hello,
                greeted: vec!["PONG\r\n", "PING\r\n"],
                said: format!("PUB room {}\r\n{text}\r\n", text.len()).into_bytes(),
                heard: format!("MSG room 1 {}\r\n{text}\r\n", text.len()).len(),
                answer: Box::new(|_| 0),
            },
            _ => Self {
                join: b"join\n".to_vec(),
                joined: vec!["joined\n"],
                greet: Vec::new(),
                greeted: Vec::new(),
                said: format!("{text}\n").into_bytes(),
                heard: MESSAGE_BYTES,
                answer: Box::new(|_| 0),
            },
        }
    }
}

/// Messages that are said at once: their bytes, how many of them each member hears, and who says them.
pub struct Burst {
    said: Vec<u8>,
    heard: usize,
    answer: usize,
}

impl Burst {
    pub fn of(talk: &Talk, load: Load) -> Self {
        Self {
            said: talk.said.repeat(load.burst),
            heard: talk.heard * load.burst,
            answer: (talk.answer)(load.members) * load.burst,
        }
    }
}

/// All connections of a client: the last is who says something.
pub struct Crowd {
    epoll: OwnedFd,
    sockets: Vec<OwnedFd>,
    buffer: Vec<u8>,
}

impl Crowd {
    /// Connects so many members, in turns if there are several ports, and who says something.
    pub fn connect(ports: &[u16], members: usize) -> Result<Self, String> {
        let connect = || {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let mut sockets = Vec::with_capacity(members + 1);
            for (number, port) in (0..=members as u64).zip(ports.iter().cycle()) {
                let socket = super::connect(*port)?;
                epoll::add(&epoll, &socket, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
                sockets.push(socket);
            }
            Ok(Self { epoll, sockets, buffer: vec![0; 64 << 10] })
        };
        connect().map_err(|error: rustix::io::Errno| format!("cannot connect: {error}"))
    }

    pub fn members(&self) -> &[OwnedFd] {
        &self.sockets[..self.sockets.len() - 1]
    }

    pub fn speaker(&self) -> &OwnedFd {
        &self.sockets[self.sockets.len() - 1]
    }

    /// Reads whatever comes, until `heard`, which gets the number and the bytes, says that it was all. It polls: else a server
    /// would pay for waking it, and the slower one more often.
    pub fn listen(&mut self, mut heard: impl FnMut(usize, &[u8]) -> Result<bool, String>) -> Result<(), String> {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut end = Instant::now() + PATIENCE;
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); 256];
        loop {
            let (events, _) = epoll::wait(&self.epoll, &mut space, Some(&now)).map_err(|error| error.to_string())?;
            if !events.is_empty() {
                end = Instant::now() + PATIENCE;
            } else if Instant::now() > end {
                return Err("hangs".to_owned());
            }
            for event in &*events {
                let number = event.data.u64() as usize;
                let Some(count) = receive(&self.sockets[number], &mut self.buffer)? else { continue };
                if heard(number, &self.buffer[..count])? {
                    return Ok(());
                }
            }
        }
    }

    /// Has all but the last become members.
    pub fn join(&mut self, talk: &Talk) -> Result<(), String> {
        let last = self.members().len();
        let (mut texts, mut left) = (vec![String::new(); self.sockets.len()], 0);
        for (number, socket) in self.sockets.iter().enumerate() {
            let (words, expected) =
                if number == last { (&talk.greet, &talk.greeted) } else { (&talk.join, &talk.joined) };
            left += usize::from(!expected.is_empty());
            if !words.is_empty() {
                send(socket, words)?;
            }
        }
        self.listen(|number, bytes| {
            let expected = if number == last { &talk.greeted } else { &talk.joined };
            let text = &mut texts[number];
            let is_there = |text: &str| expected.iter().all(|word| text.contains(word));
            let before = is_there(text);
            text.push_str(&String::from_utf8_lossy(bytes));
            left -= usize::from(!before && is_there(text));
            Ok(left == 0)
        })
    }

    /// Says a burst, and waits until each has heard all of it. Returns milliseconds.
    pub fn say(&mut self, burst: &Burst) -> Result<f64, String> {
        let begin = Instant::now();
        send(self.speaker(), &burst.said)?;
        let mut missing = vec![burst.heard; self.members().len()];
        missing.push(burst.answer);
        let mut left = missing.iter().filter(|missing| **missing > 0).count();
        self.listen(|number, bytes| {
            let missing = &mut missing[number];
            *missing = missing.checked_sub(bytes.len()).ok_or("says too much")?;
            left -= usize::from(*missing == 0);
            Ok(left == 0)
        })?;
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    }

    /// Says one burst after the other for some time. Returns the milliseconds of each.
    pub fn say_for(&mut self, time: Duration, burst: &Burst) -> Result<Vec<f64>, String> {
        let end = Instant::now() + time;
        let mut times = Vec::new();
        while Instant::now() < end {
            times.push(self.say(burst)?);
        }
        Ok(times)
    }
}
