//! Filter: one TLS connection, either side, over buffers of others.
//!
//! Records are decoded where they lie. Of the wire only what cannot be decoded yet is kept: a partial record, and the
//! records of a handshake message that is not whole, which rustls decodes in place and finds again at the same offsets.
//! Not here: certificates and settings (`server`, `client`), counting and sending bytes (`transport`).

use std::{cell::RefCell, time::SystemTime};

use rustls::{
    CommonState, Error, HandshakeKind, InvalidMessage,
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
        WriteTraffic,
    },
};

use crate::{
    connection::ConnectionInfo,
    wire::{
        filter::{Eof, Fault, Filter, Flow, Inflow},
        tls::{certificate::CertificateInfo, info::TlsInfo, words::words},
    },
};

/// Bytes of a record's header: type, version, length.
const HEADER_BYTES: usize = 5;

/// The longest record: header, text, and what a cipher may add to it.
const RECORD_BYTES: usize = HEADER_BYTES + 16 * 1024 + 2048;

/// Most bytes kept of a handshake. A message may have 64 KiB, and more than twenty times as much if each of its bytes
/// has a record of its own.
const HANDSHAKE_BYTES: usize = 64 * 1024;

/// Most bytes kept behind the handshake: a record, and the fragments of a short message such as a key update.
const OPEN_BYTES: usize = RECORD_BYTES + 1024;

/// Room for the header and the tag of a record, and for a key update before it.
const OVERHEAD_BYTES: usize = 64;

/// Names of faults, for reports and counters. The peer does not speak TLS.
const NOT_TLS: &str = "tls-not-tls";
/// The peer has shown no certificate.
const NO_CERTIFICATE: &str = "tls-no-certificate";
/// The peer's certificate is not trusted, has expired, or is not for its name.
const BAD_CERTIFICATE: &str = "tls-bad-certificate";
/// The peer has ended it by an alert, mostly since it does not trust our certificate.
const REJECTED: &str = "tls-rejected";
/// All others: nothing in common, a protocol violated.
const FAILED: &str = "tls-failed";

/// A fault with the name that operators tell it by.
fn fault(error: Error) -> Fault {
    let name = match &error {
        Error::NoCertificatesPresented => NO_CERTIFICATE,
        Error::InvalidCertificate(_) => BAD_CERTIFICATE,
        Error::AlertReceived(_) => REJECTED,
        _ => FAILED,
    };
    Fault::named(name, words(&error))
}

thread_local! {
    /// The name that the client has asked for. The resolver of certificates gets it, within a call of the filter, and
    /// nobody else does: a connection over buffers of others does not tell it.
    static SERVER_NAME: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Notes the server's name of the handshake that is under way on this thread.
pub(super) fn note_server_name(name: Option<&str>) {
    SERVER_NAME.with_borrow_mut(|noted| *noted = name.map(Into::into));
}

/// A side of a connection: rustls has the same calls for both, but no name for them.
pub(super) trait Side: 'static {
    type Data: 'static;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn state(&self) -> &CommonState;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

/// A TLS connection of one side.
pub(super) struct TlsFilter<S> {
    side: S,
    /// Bytes of the wire that cannot be decoded yet. Those that a record of the handshake left here have been changed
    /// in place, so that they are never looked at again: only rustls knows what they are.
    pending: Vec<u8>,
    /// Of these, bytes of whole records, which rustls has read.
    parsed: usize,
    server_name: Option<Box<str>>,
    /// The peer has sent a byte.
    has_begun: bool,
    is_open: bool,
    has_ended: bool,
    has_finished: bool,
}

/// How far a call has come.
struct Step {
    /// Bytes that are not needed any more.
    discarded: usize,
    /// The peer has said that its bytes end.
    has_ended: bool,
}

impl<S: Side> TlsFilter<S> {
    pub(super) fn new(side: S, server_name: Option<Box<str>>) -> Self {
        Self {
            side,
            pending: Vec::new(),
            parsed: 0,
            server_name,
            has_begun: false,
            is_open: false,
            has_ended: false,
            has_finished: false,
        }
    }

    fn read_records(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, reply: &mut Vec<u8>) -> Result<(), Error> {
        while !self.pending.is_empty() && !wire.is_empty() {
            // No more than one record is completed here: the rest is decoded where it lies.
            let missing = missing(&self.pending[self.parsed..]);
            let part = wire.take(missing);
            let is_whole = part.len() == missing;
            self.pending.reserve_exact(part.len());
            self.pending.extend_from_slice(part);
            if is_whole {
                // A header, which may be none, or a record.
                self.decode_pending(plain, reply)?;
            }
            if self.has_ended {
                return Ok(());
            }
        }
        if !self.pending.is_empty() {
            return Ok(());
        }
        let bytes = wire.rest();
        let whole = whole_records(bytes);
        let Step { discarded, has_ended } = decode(&mut self.side, bytes, plain, reply)?;
        self.has_ended = has_ended;
        if !has_ended && discarded < bytes.len() {
            self.pending = bytes[discarded..].to_vec();
            self.parsed = whole.saturating_sub(discarded);
        }
        wire.advance(wire.len());
        Ok(())
    }

    /// Decodes what is pending. The offset of what is read is counted before the call: afterwards the headers may be
    /// overwritten.
    fn decode_pending(&mut self, plain: &mut Vec<u8>, reply: &mut Vec<u8>) -> Result<(), Error> {
        let whole = self.parsed + whole_records(&self.pending[self.parsed..]);
        let Step { discarded, has_ended } = decode(&mut self.side, &mut self.pending, plain, reply)?;
        self.has_ended = has_ended;
        if has_ended || discarded == self.pending.len() {
            self.pending = Vec::new();
            self.parsed = 0;
        } else {
            self.pending.drain(..discarded);
            self.parsed = whole.saturating_sub(discarded);
        }
        Ok(())
    }

    /// Has rustls come to where something can be written, and writes it.
    fn write_by(
        &mut self,
        wire: &mut Vec<u8>,
        room: usize,
        mut write: impl FnMut(&mut WriteTraffic<'_, S::Data>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), Fault> {
        loop {
            // All that is pending, though nothing of it is new: with less rustls would not find its fragments.
            let UnbufferedStatus { discard, state } = self.side.process(&mut self.pending);
            match state.map_err(fault)? {
                ConnectionState::EncodeTlsData(data) => {
                    encode(data, wire).map_err(|error| Fault::named(FAILED, words(&error)))?
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    let begin = wire.len();
                    let mut room = room;
                    loop {
                        wire.resize(begin + room, 0);
                        match write(&mut traffic, &mut wire[begin..]) {
                            Ok(written) => {
                                wire.truncate(begin + written);
                                return Ok(());
                            }
                            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                                room = required_size.max(room + 1);
                            }
                            Err(error) => {
                                wire.truncate(begin);
                                return Err(Fault::named(FAILED, error));
                            }
                        }
                    }
                }
                // Nothing that was read is left, and it is open.
                state => return Err(Fault::named(FAILED, format!("TLS cannot write in its state {state:?}"))),
            }
            self.pending.drain(..discard);
            self.parsed = self.parsed.saturating_sub(discard);
        }
    }
}

impl<S: Side> Filter for TlsFilter<S> {
    fn read(&mut self, wire: &mut Inflow<'_>, plain: &mut Vec<u8>, reply: &mut Vec<u8>) -> Result<Flow, Fault> {
        if self.has_ended {
            // Nothing behind the end is decoded or discarded any more.
            wire.advance(wire.len());
            return Ok(Flow::Ended);
        }
        let is_first = !self.has_begun;
        let begin = plain.len();
        self.has_begun |= !wire.is_empty();
        if !self.is_open {
            note_server_name(None);
        }
        if let Err(error) = self.read_records(wire, plain, reply) {
            send_alert(&mut self.side, plain, reply);
            let is_no_tls = is_first && matches!(error, Error::InvalidMessage(InvalidMessage::InvalidContentType));
            return Err(if is_no_tls { Fault::named(NOT_TLS, "the peer does not speak TLS") } else { fault(error) });
        }
        if !self.is_open {
            if let Some(name) = SERVER_NAME.take() {
                self.server_name = Some(name);
            }
            // With half-RTT data something could be written earlier: before the client has shown who it is.
            self.is_open = !self.side.state().is_handshaking();
            if self.is_open && comes_again_too_late(self.side.state()) {
                plain.truncate(begin);
                let text = "the peer has come again, but its certificate has expired meanwhile";
                return Err(Fault::named(BAD_CERTIFICATE, text));
            }
        }
        let most = if self.is_open { OPEN_BYTES } else { HANDSHAKE_BYTES };
        if self.pending.len() > most {
            return Err(Fault::named(
                FAILED,
                format!("a handshake message that is not whole has more than {most} bytes"),
            ));
        }
        Ok(match (self.has_ended, self.is_open) {
            (true, false) => return Err(Fault::named(FAILED, "the peer has ended its bytes in the handshake")),
            (true, true) => Flow::Ended,
            (false, true) => Flow::Open,
            (false, false) => Flow::Preface,
        })
    }

    fn write(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Fault> {
        if self.has_finished {
            // It would be encrypted, and the peer would have to ignore it.
            return Err(Fault::named(FAILED, "written behind the end of TLS"));
        }
        self.write_by(wire, plain.len() + OVERHEAD_BYTES, |traffic, room| traffic.encrypt(plain, room))
    }

    fn eof(&mut self) -> Eof {
        // A connection without a byte is a probe. All others end by a `close_notify`.
        if self.has_begun { Eof::Truncated } else { Eof::Clean }
    }

    fn finish(&mut self, wire: &mut Vec<u8>) {
        self.has_finished = true;
        if self.is_open {
            // An end that cannot be said is a FIN alone, which the peer takes for a truncation, and rightly.
            let _ = self.write_by(wire, OVERHEAD_BYTES, |traffic, room| traffic.queue_close_notify(room));
        }
    }

    fn learned(&self, info: &mut ConnectionInfo) {
        info.insert(TlsInfo::new(self.side.state(), self.server_name.as_deref()));
    }

    fn held(&self) -> usize {
        self.pending.len()
    }

    fn memory(&self) -> usize {
        self.pending.capacity()
    }
}

/// A short handshake does not verify again, and brings a ticket for the next one: without this a certificate would
/// never expire for whoever comes again often enough.
fn comes_again_too_late(state: &CommonState) -> bool {
    let certificate = || CertificateInfo::parse(state.peer_certificates()?.first()?);
    state.handshake_kind() == Some(HandshakeKind::Resumed)
        && certificate().is_some_and(|certificate| certificate.not_after() < SystemTime::now())
}

/// Decodes all whole records of `bytes`, as far as the peer's end.
fn decode<S: Side>(side: &mut S, bytes: &mut [u8], plain: &mut Vec<u8>, reply: &mut Vec<u8>) -> Result<Step, Error> {
    let mut at = 0;
    loop {
        let UnbufferedStatus { mut discard, state } = side.process(&mut bytes[at..]);
        let is_over = match state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                // A record each time: the next is asked for by the next call.
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
                false
            }
            ConnectionState::EncodeTlsData(data) => {
                encode(data, reply)?;
                false
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                false
            }
            ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => true,
            ConnectionState::PeerClosed | ConnectionState::Closed => {
                return Ok(Step { discarded: at + discard, has_ended: true });
            }
            // Early data is off, and there are no other states yet.
            state => return Err(Error::General(format!("unexpected state {state:?}"))),
        };
        at += discard;
        if is_over {
            return Ok(Step { discarded: at, has_ended: false });
        }
    }
}

/// Sends the alert that an error has left, and what was to be sent before it. The bytes of the error are not shown again.
fn send_alert<S: Side>(side: &mut S, plain: &mut Vec<u8>, reply: &mut Vec<u8>) {
    while side.state().wants_write() {
        let UnbufferedStatus { state, .. } = side.process(&mut []);
        match state {
            Ok(ConnectionState::EncodeTlsData(data)) => {
                if encode(data, reply).is_err() {
                    return;
                }
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(Ok(record)) = traffic.next_record() {
                    plain.extend_from_slice(record.payload);
                }
            }
            _ => return,
        }
    }
}

/// Appends a record of the handshake. Its size is told by a first attempt without room.
fn encode<D>(mut data: EncodeTlsData<'_, D>, into: &mut Vec<u8>) -> Result<(), Error> {
    let begin = into.len();
    let failed = |error: EncodeError| Error::General(error.to_string());
    match data.encode(&mut []) {
        Ok(_) => return Ok(()),
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
            into.resize(begin + required_size, 0);
        }
        Err(error) => return Err(failed(error)),
    }
    let written = data.encode(&mut into[begin..]).map_err(failed)?;
    into.truncate(begin + written);
    Ok(())
}

/// The length of a record by its header, if that is there.
fn record_len(bytes: &[u8]) -> Option<usize> {
    let [_, _, _, high, low, ..] = bytes else { return None };
    Some(HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low])))
}

/// Bytes that are missing of the header, or else of the record.
fn missing(record: &[u8]) -> usize {
    record_len(record).unwrap_or(HEADER_BYTES) - record.len()
}

/// Bytes of whole records at the beginning.
fn whole_records(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(end) = record_len(&bytes[at..]).map(|len| at + len).filter(|end| *end <= bytes.len()) {
        at = end;
    }
    at
}
