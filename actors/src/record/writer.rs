//! Writer: what happened on connections, as the text of a script that holds when it is run again.
//!
//! Lines are lines, all else is quoted. The order of everything is kept, the sizes of chunks are not. At most one incomplete
//! line is in memory, and no more than 4 KiB of that.
//! Not here: whose connections they are (`recorder`, the command `linescript record`), running scripts (`script`).

use std::{
    borrow::Cow,
    fmt::{self, Display, Write as _},
    io, mem,
    time::Duration,
};

use crate::{escape::Escaped, shown::Shown};

/// An incomplete line that is longer is written in pieces. Unit: bytes.
const MAX_HELD: usize = 4096;

/// Bytes between one pair of quotes.
const MAX_QUOTED: usize = 1024;

/// A shorter time is not written down: it is no part of what was meant.
const LEAST_GAP: Duration = Duration::from_secs(1);

/// The longest time that is written down.
const MOST_GAP: Duration = Duration::from_secs(24 * 3600);

/// The longest mark of a cut, without the names of peers. Unit: bytes.
const MARK: u64 = 96;

/// Something that happened on a peer's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The peer has connected: `: connect`, where its first line does not say so.
    Connect,
    /// The peer sent these bytes, which may be cut anywhere: `>`.
    Sent(&'a [u8]),
    /// The service sent these bytes: `<`.
    Received(&'a [u8]),
    /// The peer has half-closed, its bytes have ended: `: fin`.
    Fin,
    /// The bytes of the service have ended: `: eof`.
    Eof,
    /// The peer has reset the connection: `: reset`.
    Reset,
    /// The service has reset the connection: `: reset by peer`.
    ResetByPeer,
}

/// Writes a script of what happens on the connections of peers, while it happens.
///
/// ```
/// use std::time::Duration;
///
/// use actix_lines::record::{Event, Writer};
///
/// let mut writer = Writer::new(Vec::new());
/// let second = Duration::from_secs(1);
/// writer.event("", second, Event::Connect)?;
/// writer.event("", second, Event::Sent(b"Hello,"))?;
/// writer.event("", second, Event::Sent(b" world\n\xff"))?;
/// writer.event("", second, Event::Received(b"Uryyb, jbeyq\n"))?;
/// writer.event("", 6 * second, Event::Fin)?;
/// writer.event("", 6 * second, Event::Eof)?;
/// let script = "> Hello, world\n> \"\\xff\"\n< Uryyb, jbeyq\n: after 5s\n: fin\n: eof\n";
/// assert_eq!(writer.finish()?, script.as_bytes());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    /// Bytes of the text so far, and at most.
    written: u64,
    max_bytes: u64,
    /// Bytes of peers and of the service that are written down.
    carried: u64,
    gaps: bool,
    peers: Vec<Peer>,
    /// The newline that `> text` ends with here.
    newline: Newline,
    /// Bytes of an incomplete line, and whose they are.
    held: Vec<u8>,
    holder: Option<(usize, Way)>,
    /// A peer whose connection needs no line if its first one follows.
    connects: Option<usize>,
    last: Option<Duration>,
    /// Made anew for each line.
    line: String,
    is_cut: bool,
}

#[derive(Debug)]
struct Peer {
    name: String,
    /// The newline of its first line. Others of its lines are quoted.
    newline: Option<Newline>,
    has_eof: bool,
    is_gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newline {
    Lf,
    CrLf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Sent,
    Received,
}

/// Bytes between quotes.
struct Quoted<'a>(&'a [u8]);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", Shown(self.0).to_string().replace('$', "$$"))
    }
}

impl Way {
    fn operator(self) -> char {
        match self {
            Self::Sent => '>',
            Self::Received => '<',
        }
    }

    /// Returns the text of a line if it needs no quotes: it is text that shows, and is read as what it is.
    fn plain(self, line: &[u8]) -> Option<&str> {
        let text = str::from_utf8(line).ok()?;
        let shows = |letter: char| matches!(letter, '"' | '\'' | '\\') || letter.escape_debug().len() == 1;
        let is_read_otherwise =
            text.starts_with([' ', '"']) || text.ends_with(' ') || (self == Self::Received && text.starts_with('/'));
        // Most lines are ASCII, of which that is quickly said.
        let all_show = line.iter().all(|byte| matches!(byte, b' '..=b'~')) || text.chars().all(shows);
        (!is_read_otherwise && all_show).then_some(text)
    }
}

/// Parts the terminator from a line.
fn without_newline(line: &[u8]) -> (&[u8], Newline) {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    match text.strip_suffix(b"\r") {
        Some(text) => (text, Newline::CrLf),
        None => (text, Newline::Lf),
    }
}

/// Returns how many of these bytes there are without a character at their end of which bytes are missing.
fn whole_len(bytes: &[u8]) -> usize {
    let len = bytes.len();
    let lead = (1..=len.min(3)).find(|back| bytes[len - back] & 0xc0 != 0x80);
    let whole = lead.filter(|back| {
        let lead = bytes[len - back];
        (lead >= 0xf0 && *back < 4) || (lead >= 0xe0 && *back < 3) || (lead >= 0xc0 && *back < 2)
    });
    whole.map_or(len, |back| len - back)
}

impl<W: io::Write> Writer<W> {
    /// Begins a script.
    pub fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            max_bytes: u64::MAX,
            carried: 0,
            gaps: true,
            peers: Vec::new(),
            newline: Newline::Lf,
            held: Vec::new(),
            holder: None,
            connects: None,
            last: None,
            line: String::new(),
            is_cut: false,
        }
    }

    /// Sets the size at which the script is cut: it ends there with a comment that says so, and each peer resets its
    /// connection, so that it still holds. Unit: bytes of the script. Default: none.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets whether times of a second and more between two events become `: after TIME`, in whole seconds, a day at most.
    /// Without them the script takes no time, and does not hold where the service waits for longer than its timeout.
    /// Default: true.
    #[must_use]
    pub fn gaps(mut self, gaps: bool) -> Self {
        self.gaps = gaps;
        self
    }

    /// Returns true if the script was cut: nothing more is written.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(crate) fn has_gaps(&self) -> bool {
        self.gaps
    }

    pub(crate) fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// Writes a comment, whose characters that do not print are escaped.
    ///
    /// # Errors
    /// Those of the output.
    pub fn comment(&mut self, text: &str) -> io::Result<()> {
        self.settle()?;
        self.line(None, format_args!("# {}", Escaped::new(text)))
    }

    /// Writes an event. `peer` is its name: letters, digits, `_` and `-`, a letter first; empty where there is only one.
    /// `at` is the time since any moment that is the same for all events.
    ///
    /// # Errors
    /// Those of the output.
    pub fn event(&mut self, peer: &str, at: Duration, event: Event<'_>) -> io::Result<()> {
        if self.is_cut {
            return Ok(());
        }
        let peer = self.peers.iter().position(|known| known.name == peer).unwrap_or_else(|| {
            let name = peer.to_owned();
            self.peers.push(Peer { name, newline: None, has_eof: false, is_gone: false });
            self.peers.len() - 1
        });
        self.gap(at)?;
        let way = match event {
            Event::Sent(_) => Some(Way::Sent),
            Event::Received(_) => Some(Way::Received),
            _ => None,
        };
        if self.holder.is_some_and(|(holder, held)| holder != peer || way != Some(held)) {
            self.flush_held()?;
        }
        if self.connects.is_some_and(|connects| connects != peer || event == Event::Connect) {
            self.settle()?;
        }
        if event != Event::Connect {
            self.connects = None;
        }
        match event {
            Event::Connect => {
                self.connects = Some(peer);
                Ok(())
            }
            Event::Sent(bytes) => self.bytes(peer, Way::Sent, bytes),
            Event::Received(bytes) => self.bytes(peer, Way::Received, bytes),
            Event::Fin => self.action(peer, "fin"),
            Event::Eof => {
                self.peers[peer].has_eof = true;
                self.action(peer, "eof")
            }
            Event::Reset => {
                self.peers[peer].is_gone = true;
                self.action(peer, "reset")
            }
            Event::ResetByPeer => {
                self.peers[peer].is_gone = true;
                self.action(peer, "reset by peer")
            }
        }
    }

    /// Ends the script, and returns the output. Each peer whose service has not ended its bytes resets its connection: what
    /// it would have got from here on is unknown.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self) -> io::Result<W> {
        self.end()?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Gives back memory that is not needed before the next event.
    pub(crate) fn trim(&mut self) {
        self.line = String::new();
        self.held.shrink_to_fit();
    }

    /// Writes down all that has happened. Returns the length of the text.
    pub(crate) fn mark(&mut self) -> io::Result<u64> {
        self.settle()?;
        Ok(self.written)
    }

    /// Goes on as if no connection had ended and nothing been written since the text had this length. The caller takes that
    /// back from the output.
    pub(crate) fn go_back(&mut self, written: u64) {
        self.written = written;
        (self.held, self.holder, self.connects) = (Vec::new(), None, None);
        self.peers.iter_mut().for_each(|peer| peer.has_eof = false);
    }

    /// Ends the script.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.settle()?;
        for peer in 0..self.peers.len() {
            if self.peers[peer].lives() {
                self.peers[peer].is_gone = true;
                self.action(peer, "reset")?;
            }
        }
        Ok(())
    }

    /// Writes down a time in which nothing happened.
    fn gap(&mut self, at: Duration) -> io::Result<()> {
        let gap = at.saturating_sub(self.last.replace(at).unwrap_or(at)).min(MOST_GAP);
        if !self.gaps || gap < LEAST_GAP {
            return Ok(());
        }
        self.settle()?;
        let seconds = gap.as_secs();
        match seconds {
            _ if seconds.is_multiple_of(3600) => self.line(None, format_args!(": after {}h", seconds / 3600)),
            _ if seconds.is_multiple_of(60) => self.line(None, format_args!(": after {}m", seconds / 60)),
            _ => self.line(None, format_args!(": after {seconds}s")),
        }
    }

    /// Writes down what waits for the next event.
    fn settle(&mut self) -> io::Result<()> {
        self.flush_held()?;
        match self.connects.take() {
            Some(peer) => self.action(peer, "connect"),
            None => Ok(()),
        }
    }

    fn bytes(&mut self, peer: usize, way: Way, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let has_ended = piece.ends_with(b"\n");
            if has_ended && self.held.is_empty() && piece.len() <= MAX_HELD {
                self.whole(peer, way, piece)?;
                continue;
            }
            for piece in piece.chunks(MAX_HELD) {
                if self.held.len() + piece.len() > MAX_HELD {
                    let whole = whole_len(&self.held);
                    let rest = self.held.split_off(whole);
                    self.flush_held()?;
                    self.held.extend_from_slice(&rest);
                }
                self.held.extend_from_slice(piece);
                self.holder = Some((peer, way));
            }
            if has_ended {
                let mut line = mem::take(&mut self.held);
                self.holder = None;
                self.whole(peer, way, &line)?;
                line.clear();
                self.held = line;
            }
        }
        Ok(())
    }

    /// Writes a line of a peer or of the service.
    fn whole(&mut self, peer: usize, way: Way, line: &[u8]) -> io::Result<()> {
        let (text, newline) = without_newline(line);
        let plain = way.plain(text);
        // A service's terminator is not said: a line is a line. A peer's is, by `newline`, for all of its lines.
        let is_own = way == Way::Received || *self.peers[peer].newline.get_or_insert(newline) == newline;
        let Some(text) = plain.filter(|_| is_own) else {
            return self.quoted(peer, way, line);
        };
        if way == Way::Sent && self.newline != newline {
            self.newline = newline;
            self.line(None, format_args!("newline {}", if newline == Newline::Lf { "lf" } else { "crlf" }))?;
        }
        let space = if text.is_empty() { "" } else { " " };
        let text = if text.contains('$') { Cow::Owned(text.replace('$', "$$")) } else { Cow::Borrowed(text) };
        self.line(Some(peer), format_args!("{}{space}{text}", way.operator()))?;
        self.carry(line.len());
        Ok(())
    }

    /// Writes exact bytes.
    fn quoted(&mut self, peer: usize, way: Way, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let end = if bytes.len() > MAX_QUOTED { whole_len(&bytes[..MAX_QUOTED]) } else { bytes.len() };
            let (piece, rest) = bytes.split_at(end);
            bytes = rest;
            self.line(Some(peer), format_args!("{} {}", way.operator(), Quoted(piece)))?;
            self.carry(piece.len());
        }
        Ok(())
    }

    fn flush_held(&mut self) -> io::Result<()> {
        let Some((peer, way)) = self.holder.take() else { return Ok(()) };
        let mut held = mem::take(&mut self.held);
        let result = self.quoted(peer, way, &held);
        held.clear();
        self.held = held;
        result
    }

    fn action(&mut self, peer: usize, action: &str) -> io::Result<()> {
        self.line(Some(peer), format_args!(": {action}"))
    }

    /// Counts bytes that were written down, unless the cut came in their place.
    fn carry(&mut self, bytes: usize) {
        if !self.is_cut {
            self.carried += bytes as u64;
        }
    }

    /// Writes a line, of a peer or of none, or the mark of the cut instead if there is no room for both.
    fn line(&mut self, peer: Option<usize>, text: fmt::Arguments<'_>) -> io::Result<()> {
        if self.is_cut {
            return Ok(());
        }
        let mut line = mem::take(&mut self.line);
        line.clear();
        line.push_str(peer.map_or("", |peer| &self.peers[peer].name));
        // Into a string: there is no error.
        let _ = line.write_fmt(text);
        line.push('\n');
        let resets: u64 = self.peers.iter().map(|peer| peer.name.len() as u64 + 8).sum();
        let result = if self.written + line.len() as u64 + MARK + resets > self.max_bytes {
            self.cut("this is as long as a recording may be")
        } else {
            self.written += line.len() as u64;
            self.out.write_all(line.as_bytes())
        };
        self.line = line;
        result
    }

    /// Ends the script here, whatever happens later.
    pub(crate) fn cut(&mut self, reason: &str) -> io::Result<()> {
        if self.is_cut {
            return Ok(());
        }
        self.is_cut = true;
        let mut mark = format!("# cut here after {} bytes: {reason}\n", self.carried);
        for peer in self.peers.iter().filter(|peer| peer.lives()) {
            mark.push_str(&peer.name);
            mark.push_str(": reset\n");
        }
        self.written += mark.len() as u64;
        self.out.write_all(mark.as_bytes())
    }
}

impl Peer {
    /// True if its service may still send something.
    fn lives(&self) -> bool {
        !(self.is_gone || self.has_eof)
    }
}
