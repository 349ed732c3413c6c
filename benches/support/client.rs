//! A client that asks and listens on many connections from one thread.
//!
//! Not here: what is measured meanwhile.

use std::{
    mem::MaybeUninit,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
    net::{RecvFlags, SendFlags},
};

use super::PATIENCE;

/// Sends all of it at once.
pub fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<(), String> {
    match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(sent) => Err(format!("only {sent} bytes fitted the socket")),
        Err(error) => Err(format!("cannot send: {error}")),
    }
}

/// Reads what has come. Returns how many bytes, if there are some; an end is an error.
pub fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Option<usize>, String> {
    match rustix::net::recv(socket, buffer, RecvFlags::empty()) {
        Ok((0, _)) => Err("closes too early".to_owned()),
        Ok((count, _)) => Ok(Some(count)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(format!("cannot receive: {error}")),
    }
}

/// The client's end of one connection.
pub struct Peer {
    pub socket: OwnedFd,
    /// Bytes of the answer that have not come yet.
    missing: usize,
}

/// One client thread on one core, with its own event loop.
pub struct Client {
    epoll: OwnedFd,
    port: u16,
    question: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    /// Lines of so many bytes, and so many bytes sent before an answer is awaited.
    pub fn new(port: u16, (line, flight): (usize, usize)) -> Result<Self, String> {
        let (question, answer) = super::lines(line, flight);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
        Ok(Self { epoll, port, question, answer })
    }

    /// Its number is its place among the peers of [`Client::converse`].
    pub fn connect(&self, number: usize) -> Result<Peer, String> {
        let connect = || {
            let socket = super::connect(self.port)?;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
            Ok(socket)
        };
        let socket = connect().map_err(|error: Errno| format!("cannot connect: {error}"))?;
        Ok(Peer { socket, missing: 0 })
    }

    /// Sends the question.
    pub fn ask(&self, peer: &mut Peer) -> Result<(), String> {
        peer.missing = self.answer.len();
        send(&peer.socket, &self.question)
    }

    /// Reads what has come. True when the answer is whole; what comes is compared with what has to come.
    pub fn listen(&self, peer: &mut Peer, buffer: &mut [u8]) -> Result<bool, String> {
        let Some(count) = receive(&peer.socket, buffer)? else { return Ok(false) };
        let at = self.answer.len() - peer.missing;
        if self.answer.get(at..at + count) != Some(&buffer[..count]) {
            return Err("wrong bytes".to_owned());
        }
        peer.missing -= count;
        Ok(peer.missing == 0)
    }

    /// Has `peers` ask and listen until `time` is over and every answer has come; returns how many answers came.
    pub fn converse(&self, peers: &mut [Peer], time: Duration, reconnect: bool) -> Result<u64, String> {
        let mut buffer = vec![0; 64 << 10];
        let mut answers = 0;
        let mut waiting = peers.len();
        for peer in &mut *peers {
            self.ask(peer)?;
        }
        let end = Instant::now() + time;
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); 256];
        while waiting > 0 {
            let (events, _) =
                epoll::wait(&self.epoll, &mut space, Some(&patience)).map_err(|error| format!("epoll: {error}"))?;
            if events.is_empty() {
                return Err("hangs".to_owned());
            }
            let go_on = Instant::now() < end;
            for event in &*events {
                let number = event.data.u64() as usize;
                let Some(peer) = peers.get_mut(number) else {
                    return Err("an idle session has something to say".to_owned());
                };
                if !self.listen(peer, &mut buffer)? {
                    continue;
                }
                answers += 1;
                if !go_on {
                    waiting -= 1;
                    continue;
                }
                if reconnect {
                    // Closed first, so that no more than the wanted number is open.
                    let _ = epoll::delete(&self.epoll, &peers[number].socket);
                    let fresh = self.connect(number)?;
                    peers[number] = fresh;
                }
                self.ask(&mut peers[number])?;
            }
        }
        Ok(answers)
    }
}
