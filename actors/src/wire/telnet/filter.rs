//! Filter: the telnet of one connection, over buffers of others.
//!
//! Rule: what is no command is copied as it came, in as large pieces as there are; a command that is not whole is a few bytes of
//! state, so the wire may be cut anywhere. A reply is never longer than what it answers. Reading stops at what the handler is
//! told: so there is never more than one thing to tell.
//! Not here: when an option changes (`negotiation`), counting and sending bytes (`transport`).

use std::{any::Any, mem};

use memchr::memchr2;

use crate::{
    connection::ConnectionInfo,
    telnet_codes::{
        IAC,
        command::{ABORT, AO, AYT, BRK, DO, DONT, EC, EL, EOF, IP, SB, SE, SUSP, WILL, WONT},
        option::{ECHO, NAWS, SGA},
    },
    wire::{
        filter::{Eof, Fault, Filter, Flow, Inflow, Notice},
        telnet::{
            event::{Echo, TelnetEvent, WindowSize},
            negotiation::Negotiation,
            settings::Telnet,
        },
    },
};

/// The answer to "are you there", where the handler has no other.
const HERE: &[u8] = b"\r\n[Yes]\r\n";

/// The place in the wire's grammar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Data,
    /// Behind IAC.
    Command,
    /// Behind WILL, WONT, DO or DONT.
    Option(u8),
    /// Behind SB.
    Subnegotiation,
    /// In the parameters of a subnegotiation of this option.
    Parameters(u8),
    /// Behind an IAC among them.
    ParametersCommand(u8),
}

/// The telnet of one connection.
pub(crate) struct TelnetFilter {
    settings: Telnet,
    place: Place,
    /// The last byte of the peer's data was CR.
    has_read_cr: bool,
    /// The last byte of ours was CR, and nothing was said yet about what follows.
    has_written_cr: bool,
    has_begun: bool,
    /// Bytes of a command that is not whole.
    held: u16,
    our_echo: Negotiation,
    our_sga: Negotiation,
    peer_sga: Negotiation,
    peer_naws: Negotiation,
    /// The first parameters of a subnegotiation, and how many came.
    parameters: [u8; 4],
    parameter_count: u8,
    window: Option<WindowSize>,
    /// Not told yet.
    event: Option<TelnetEvent>,
}

impl Telnet {
    /// Makes a filter with these settings, for transports of no listener:
    /// [`Transport::with_filter`](crate::Transport::with_filter).
    pub fn filter(self) -> impl Filter {
        TelnetFilter::new(self)
    }
}

impl TelnetFilter {
    pub(super) fn new(settings: Telnet) -> Self {
        Self {
            settings,
            place: Place::Data,
            has_read_cr: false,
            has_written_cr: false,
            has_begun: false,
            held: 0,
            our_echo: Negotiation::No,
            our_sga: Negotiation::No,
            peer_sga: Negotiation::No,
            peer_naws: Negotiation::No,
            parameters: [0; 4],
            parameter_count: 0,
            window: None,
            event: None,
        }
    }

    /// Reads data up to the next command.
    fn read_data(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>) {
        let bytes = wire.rest();
        let (mut copied, mut at) = (0, 0);
        let end = loop {
            // NUL is rarer than CR, and means something only behind it.
            let Some(found) = memchr2(IAC, 0, &bytes[at..]).map(|found| at + found) else { break bytes.len() };
            if bytes[found] == IAC {
                self.place = Place::Command;
                break found;
            }
            if found.checked_sub(1).map_or(self.has_read_cr, |before| bytes[before] == b'\r') {
                plain.extend_from_slice(&bytes[copied..found]);
                if self.our_sga == Negotiation::Yes {
                    plain.push(b'\n');
                }
                copied = found + 1;
            }
            at = found + 1;
        };
        plain.extend_from_slice(&bytes[copied..end]);
        // A command between CR and what belongs to it changes nothing.
        if let Some(last) = bytes[..end].last() {
            self.has_read_cr = *last == b'\r';
        }
        let is_command = self.place == Place::Command;
        wire.advance(end + usize::from(is_command));
        self.held = u16::from(is_command);
    }

    /// Reads one byte of a command.
    fn read_command(&mut self, byte: u8, plain: &mut Vec<u8>, reply: &mut Vec<u8>) {
        self.held = self.held.saturating_add(1);
        self.place = match (self.place, byte) {
            (Place::Data, _) => Place::Data,
            (Place::Command, IAC) => {
                plain.push(IAC);
                self.has_read_cr = false;
                Place::Data
            }
            (Place::Command, _) => self.command(byte),
            (Place::Option(verb), option) => {
                self.negotiate(verb, option, reply);
                Place::Data
            }
            (Place::Subnegotiation, IAC) => Place::Command,
            (Place::Subnegotiation, option) => {
                self.parameter_count = 0;
                Place::Parameters(option)
            }
            (Place::Parameters(option), IAC) => Place::ParametersCommand(option),
            (Place::Parameters(option), _) => self.parameter(option, byte),
            (Place::ParametersCommand(option), IAC) => self.parameter(option, IAC),
            (Place::ParametersCommand(option), SE) => {
                self.subnegotiated(option);
                Place::Data
            }
            // Its end is missing: it is dropped, or all that comes would be.
            (Place::ParametersCommand(_), _) => self.command(byte),
        };
        if self.place == Place::Data {
            self.held = 0;
        }
    }

    /// Reads the byte behind an IAC that is none of the data. What is not known has nothing behind it.
    fn command(&mut self, command: u8) -> Place {
        self.event = match command {
            WILL | WONT | DO | DONT => return Place::Option(command),
            SB => return Place::Subnegotiation,
            EOF => Some(TelnetEvent::EndOfFile),
            SUSP => Some(TelnetEvent::Suspend),
            ABORT => Some(TelnetEvent::Abort),
            BRK => Some(TelnetEvent::Break),
            IP => Some(TelnetEvent::Interrupt),
            AO => Some(TelnetEvent::AbortOutput),
            AYT => Some(TelnetEvent::AreYouThere),
            EC => Some(TelnetEvent::EraseCharacter),
            EL => Some(TelnetEvent::EraseLine),
            _ => None,
        };
        Place::Data
    }

    fn parameter(&mut self, option: u8, byte: u8) -> Place {
        if let Some(parameter) = self.parameters.get_mut(usize::from(self.parameter_count)) {
            *parameter = byte;
        }
        self.parameter_count = self.parameter_count.saturating_add(1);
        Place::Parameters(option)
    }

    /// A subnegotiation is whole.
    fn subnegotiated(&mut self, option: u8) {
        if option == NAWS && self.peer_naws == Negotiation::Yes && self.parameter_count == 4 {
            let [a, b, c, d] = self.parameters;
            let size = WindowSize { columns: u16::from_be_bytes([a, b]), rows: u16::from_be_bytes([c, d]) };
            if self.window.replace(size) != Some(size) {
                self.event = Some(TelnetEvent::WindowSize(size));
            }
        }
    }

    /// Hears WILL, WONT, DO or DONT.
    fn negotiate(&mut self, verb: u8, option: u8, reply: &mut Vec<u8>) {
        let is_peers = matches!(verb, WILL | WONT);
        let is_on = matches!(verb, WILL | DO);
        let mut unknown = Negotiation::No;
        let (state, agrees) = match (is_peers, option) {
            (true, SGA) => (&mut self.peer_sga, true),
            (true, NAWS) => (&mut self.peer_naws, self.settings.asks_window_size),
            (false, SGA) => (&mut self.our_sga, self.settings.suppresses_go_ahead),
            (false, ECHO) => (&mut self.our_echo, false),
            _ => (&mut unknown, false),
        };
        let answer = state.receive(is_on, agrees);
        say(is_peers, option, answer, reply);
    }
}

/// Says that an option of the peer's, or of ours, is to be on or off.
fn say(is_peers: bool, option: u8, answer: Option<bool>, reply: &mut Vec<u8>) {
    let verb = match (is_peers, answer) {
        (_, None) => return,
        (true, Some(true)) => DO,
        (true, Some(false)) => DONT,
        (false, Some(true)) => WILL,
        (false, Some(false)) => WONT,
    };
    reply.extend_from_slice(&[IAC, verb, option]);
}

impl Filter for TelnetFilter {
    fn read(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, reply: &mut Vec<u8>) -> Result<Flow, Fault> {
        if !mem::replace(&mut self.has_begun, true) && self.settings.asks_window_size {
            say(true, NAWS, self.peer_naws.request(true), reply);
        }
        while !wire.is_empty() && self.event.is_none() {
            if self.place == Place::Data {
                self.read_data(wire, plain);
            } else if let Some(byte) = wire.take(1).first() {
                self.read_command(*byte, plain, reply);
            }
        }
        Ok(Flow::Open)
    }

    fn notice(&mut self) -> Option<Notice> {
        let event = self.event.take()?;
        let notice = Notice::new(event);
        Some(if event == TelnetEvent::AreYouThere { notice.with_answer(HERE) } else { notice })
    }

    fn tell(&mut self, word: &dyn Any, reply: &mut Vec<u8>) -> bool {
        let Some(Echo(is_on)) = word.downcast_ref() else { return false };
        say(false, ECHO, self.our_echo.request(*is_on), reply);
        true
    }

    fn learned(&self, info: &mut ConnectionInfo) {
        if let Some(size) = self.window {
            info.insert(size);
        }
    }

    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        let Some(first) = plain.first() else { return Ok(()) };
        if mem::take(&mut self.has_written_cr) && *first != b'\n' {
            wire.push(0);
        }
        let (mut copied, mut at) = (0, 0);
        while let Some(found) = memchr2(IAC, b'\r', &plain[at..]) {
            at += found + 1;
            let escape = match (plain[at - 1], plain.get(at)) {
                (IAC, _) => IAC,
                (_, Some(b'\n')) => continue,
                (_, Some(_)) => 0,
                (_, None) => {
                    self.has_written_cr = true;
                    continue;
                }
            };
            wire.extend_from_slice(&plain[copied..at]);
            wire.push(escape);
            copied = at;
        }
        wire.extend_from_slice(&plain[copied..]);
        Ok(())
    }

    /// Telnet has no end of its own: data that came is whole, and a command that is not is nobody's.
    fn eof(&mut self) -> Eof {
        Eof::Clean
    }

    fn finish(&mut self, wire: &mut Vec<u8>) {
        if mem::take(&mut self.has_written_cr) {
            wire.push(0);
        }
    }

    fn held(&self) -> usize {
        usize::from(self.held)
    }

    /// No buffers.
    fn memory(&self) -> usize {
        0
    }
}
