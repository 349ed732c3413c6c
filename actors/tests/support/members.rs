//! Sessions of nodes: one that can be named, and a member of a room; and peers without a socket that say nothing.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use std::{
    cell::RefCell,
    future::pending,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix::{Actor, Addr};
use actix_lines::{Line, LineContext, LineHandler, LineSession, Room, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Answers lines with themselves: `!name NAME` gives the session its name, `!tag TAG` one more tag. `!wait` waits for something that
/// never comes.
pub struct Nameable;

impl Actor for Nameable {
    type Context = LineContext<Self>;
}

impl LineHandler for Nameable {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        let text = String::from_utf8_lossy(line.text());
        match text.split_once(' ') {
            Some(("!name", name)) => ctx.set_name(name).expect("a name"),
            Some(("!tag", tag)) => ctx.add_tag(tag).expect("a tag"),
            _ if text == "!wait" => return ctx.wait_for(pending(), |_, (), _| {}),
            _ => {}
        }
        ctx.write(&line);
    }
}

/// A member of a room, who says nothing.
pub struct Member(Room);

impl Member {
    /// Opens a session that is in the room. Returns what it hears, too.
    pub fn enter(room: &Room) -> (Addr<Self>, Heard) {
        let heard = Heard::default();
        (Self::behind(heard.transport(), room), heard)
    }

    /// Opens a session of this peer that is in the room.
    pub fn behind(peer: Transport, room: &Room) -> Addr<Self> {
        let room = room.clone();
        LineSession::new(peer).create(|_| Self(room))
    }
}

impl Actor for Member {
    type Context = LineContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.join(&self.0);
    }
}

impl LineHandler for Member {
    fn line(&mut self, _: Line<'_>, _: &mut Self::Context) {}
}

/// All that a session was sent.
#[derive(Clone, Default)]
pub struct Heard(Rc<RefCell<Vec<u8>>>);

impl Heard {
    /// Returns the lines.
    pub fn lines(&self) -> Vec<String> {
        str::from_utf8(&self.0.borrow()).expect("UTF-8").lines().map(str::to_owned).collect()
    }

    /// Takes the lines.
    pub fn take(&self) -> Vec<String> {
        let lines = self.lines();
        self.0.borrow_mut().clear();
        lines
    }

    /// Returns the way to a peer that hears this, and says nothing.
    pub fn transport(&self) -> Transport {
        let heard = Rc::clone(&self.0);
        Transport::new(Silent(move |bytes: &[u8]| heard.borrow_mut().extend_from_slice(bytes)))
    }
}

/// A peer that takes everything at once and says nothing. Each write is handed to the function.
pub struct Silent<F>(pub F);

impl<F: Unpin> AsyncRead for Silent<F> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl<F: FnMut(&[u8]) + Unpin> AsyncWrite for Silent<F> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
