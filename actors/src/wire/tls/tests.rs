//! A TLS filter against the buffered connections of rustls, however the wire is cut, framed or damaged.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, ClientConnection, ContentType, KeyLog, ProtocolVersion, RootCertStore, ServerConfig,
    ServerConnection, SupportedProtocolVersion, Tls13CipherSuite,
    crypto::{
        cipher::{MessageEncrypter, OutboundPlainMessage},
        ring,
        tls13::OkmBlock,
    },
    pki_types::{PrivateKeyDer, ServerName},
    version::{TLS12, TLS13},
};

use crate::{
    connection::ConnectionInfo,
    wire::{
        filter::{Broken, Eof, Filter, Flow, Inflow},
        tls::{
            client::TlsClient,
            error::TlsError,
            info::{TlsInfo, TlsVersion},
            pem::Pem,
            server::Tls,
        },
    },
};

const VERSIONS: [(&SupportedProtocolVersion, TlsVersion); 2] =
    [(&TLS12, TlsVersion::Tls12), (&TLS13, TlsVersion::Tls13)];

/// A certificate for `localhost` and its key, in all forms.
struct Identity {
    pair: CertifiedKey<rcgen::KeyPair>,
}

impl Identity {
    fn new() -> Self {
        Self { pair: generate_simple_self_signed(["localhost".to_owned()]).unwrap() }
    }

    fn tls(&self) -> Tls {
        Tls::builder(Pem::bytes(self.pair.cert.pem()), Pem::bytes(self.pair.signing_key.serialize_pem()))
            .build()
            .unwrap()
    }

    fn tls_client(&self) -> TlsClient {
        TlsClient::builder(Pem::bytes(self.pair.cert.pem())).build().unwrap()
    }

    fn client(&self, version: &'static SupportedProtocolVersion, fragment: Option<usize>) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(self.pair.cert.der().clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.max_fragment_size = fragment;
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
    }

    fn server(&self, version: &'static SupportedProtocolVersion, fragment: Option<usize>) -> ServerConnection {
        let key = PrivateKeyDer::Pkcs8(self.pair.signing_key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.pair.cert.der().clone()], key)
            .unwrap();
        config.max_fragment_size = fragment;
        ServerConnection::new(Arc::new(config)).unwrap()
    }
}

/// The other side.
trait Other {
    fn wire(&mut self) -> Vec<u8>;
    fn take(&mut self, wire: &[u8]) -> Result<(), rustls::Error>;
    fn say(&mut self, bytes: &[u8]);
    fn heard(&mut self) -> (Vec<u8>, bool);
    fn close(&mut self);
    fn update_keys(&mut self);
}

macro_rules! other {
    ($($name:ty),*) => { $(
        impl Other for $name {
            fn wire(&mut self) -> Vec<u8> {
                let mut wire = Vec::new();
                while self.wants_write() {
                    self.write_tls(&mut wire).unwrap();
                }
                wire
            }

            fn take(&mut self, mut wire: &[u8]) -> Result<(), rustls::Error> {
                while !wire.is_empty() {
                    self.read_tls(&mut wire).unwrap();
                    self.process_new_packets()?;
                }
                Ok(())
            }

            fn say(&mut self, bytes: &[u8]) {
                self.writer().write_all(bytes).unwrap();
            }

            /// What was heard, and whether the end was.
            fn heard(&mut self) -> (Vec<u8>, bool) {
                let mut heard = Vec::new();
                let end = self.reader().read_to_end(&mut heard);
                (heard, end.is_ok())
            }

            fn close(&mut self) {
                self.send_close_notify();
            }

            fn update_keys(&mut self) {
                self.refresh_traffic_keys().unwrap();
            }
        }
    )* };
}

other!(ClientConnection, ServerConnection);

/// A filter, what it has decoded, and what it wants to send.
struct Ours {
    filter: Box<dyn Filter>,
    flow: Flow,
    plain: Vec<u8>,
    reply: Vec<u8>,
    fault: Option<String>,
}

impl Ours {
    fn new(filter: Result<impl Filter, Broken>) -> Self {
        let filter = Box::new(filter.unwrap_or_else(|_| panic!("rustls takes the configuration")));
        let mut ours = Self { filter, flow: Flow::Preface, plain: Vec::new(), reply: Vec::new(), fault: None };
        ours.read(&[]);
        ours
    }

    fn read(&mut self, wire: &[u8]) {
        // Never called again after a fault.
        if self.fault.is_some() {
            return;
        }
        let mut wire = wire.to_vec();
        let mut inflow = Inflow::new(&mut wire);
        match self.filter.read(&mut inflow, &mut self.plain, &mut self.reply) {
            Ok(flow) => {
                assert!(inflow.is_empty());
                self.flow = flow;
            }
            Err(fault) => self.fault = Some(fault.into_text()),
        }
    }

    fn write(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        self.filter.write(plain, &mut wire).unwrap();
        wire
    }

    fn finish(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        self.filter.finish(&mut wire);
        wire
    }

    fn info(&self) -> ConnectionInfo {
        let mut info = ConnectionInfo::default();
        self.filter.learned(&mut info);
        info
    }
}

/// Cuts what the other side sends, counted over the whole conversation.
#[derive(Clone, Copy)]
enum Cut {
    Whole,
    Bytes,
    At(usize),
}

/// Bytes of the other side on the wire so far.
struct Wire {
    cut: Cut,
    sent: usize,
}

impl Wire {
    /// Brings all that there is to the filter, in pieces.
    fn carry(&mut self, other: &mut dyn Other, ours: &mut Ours) {
        let wire = other.wire();
        let at = match self.cut {
            Cut::Bytes => {
                wire.iter().for_each(|byte| ours.read(&[*byte]));
                self.sent += wire.len();
                return;
            }
            Cut::At(at) => at.saturating_sub(self.sent).min(wire.len()),
            Cut::Whole => 0,
        };
        self.sent += wire.len();
        let (first, rest) = wire.split_at(at);
        for part in [first, rest] {
            if !part.is_empty() {
                ours.read(part);
                // Where something may be written it is written between any two bytes.
                if at > 0 && ours.flow == Flow::Open && ours.fault.is_none() {
                    let sealed = ours.write(b".");
                    ours.reply.extend(sealed);
                }
            }
        }
    }

    /// Both ways until nothing is left.
    fn settle(&mut self, other: &mut dyn Other, ours: &mut Ours) -> Result<(), rustls::Error> {
        for _ in 0..20 {
            self.carry(other, ours);
            let reply = std::mem::take(&mut ours.reply);
            other.take(&reply)?;
        }
        Ok(())
    }
}

/// A conversation with handshake, data both ways, a key update, and both ends. Returns bytes of the other side.
fn converse(other: &mut dyn Other, ours: &mut Ours, cut: Cut, is_tls13: bool) -> usize {
    let mut wire = Wire { cut, sent: 0 };
    wire.settle(other, ours).unwrap();
    assert_eq!((ours.flow, ours.fault.as_deref()), (Flow::Open, None));
    assert_eq!(ours.filter.held(), 0);
    other.say(b"hello\n");
    if is_tls13 {
        other.update_keys();
    }
    other.say(b"again\n");
    wire.settle(other, ours).unwrap();
    assert_eq!(ours.plain, b"hello\nagain\n");
    let long = vec![b'x'; 10_000];
    let mut answer = ours.write(b"one\n");
    answer.extend(ours.write(&long));
    other.take(&answer).unwrap();
    other.close();
    wire.settle(other, ours).unwrap();
    assert_eq!((ours.flow, ours.filter.held(), ours.filter.memory()), (Flow::Ended, 0, 0));
    // Our half is open.
    let mut last = ours.write(b"last\n");
    last.extend(ours.finish());
    other.take(&last).unwrap();
    let (heard, has_ended) = other.heard();
    let expected = [b"one\n", long.as_slice(), b"last\n"].concat();
    let dots = heard.len() - expected.len();
    let heard: Vec<u8> = heard.into_iter().filter(|byte| *byte != b'.').collect();
    assert!(dots <= 8 && heard == expected && has_ended);
    wire.sent
}

#[test]
fn a_server_is_exact_wherever_its_clients_bytes_are_cut() {
    let identity = Identity::new();
    let tls = identity.tls();
    for (version, name) in VERSIONS {
        for fragment in [None, Some(40)] {
            let run = |cut| {
                let mut ours = Ours::new(tls.filter());
                let mut client = identity.client(version, fragment);
                let sent = converse(&mut client, &mut ours, cut, name == TlsVersion::Tls13);
                let info = ours.info();
                let info: &TlsInfo = info.get().unwrap();
                assert_eq!((info.version(), info.server_name()), (name, Some("localhost")));
                sent
            };
            let len = run(Cut::Whole);
            run(Cut::Bytes);
            for at in 1..len {
                run(Cut::At(at));
            }
        }
    }
}

#[test]
fn a_client_is_exact_wherever_its_servers_bytes_are_cut() {
    let identity = Identity::new();
    let tls = identity.tls_client();
    for (version, name) in VERSIONS {
        let run = |cut| {
            let mut ours = Ours::new(tls.filter(tls.name_for("localhost:1").unwrap()));
            let mut server = identity.server(version, Some(100));
            converse(&mut server, &mut ours, cut, name == TlsVersion::Tls13)
        };
        let len = run(Cut::Whole);
        run(Cut::Bytes);
        for at in 1..len {
            run(Cut::At(at));
        }
    }
}

#[test]
fn a_flipped_bit_is_a_fault_or_changes_nothing() {
    let identity = Identity::new();
    let tls = identity.tls();
    for (version, _) in VERSIONS {
        let mut at = 0;
        loop {
            let mut ours = Ours::new(tls.filter());
            let mut client = identity.client(version, None);
            let mut sent = 0;
            let mut is_said = false;
            for _ in 0..12 {
                let mut wire = client.wire();
                if (sent..sent + wire.len()).contains(&at) {
                    wire[at - sent] ^= 1 << (at % 8);
                }
                sent += wire.len();
                ours.read(&wire);
                if Other::take(&mut client, &std::mem::take(&mut ours.reply)).is_err() {
                    break;
                }
                if !is_said && !client.is_handshaking() {
                    is_said = true;
                    client.say(b"a line\n");
                    client.send_close_notify();
                }
            }
            assert!(ours.plain.is_empty() || ours.plain == b"a line\n", "at {at}");
            assert!(ours.fault.is_some() || ours.flow != Flow::Ended || ours.plain == b"a line\n", "at {at}");
            if at >= sent {
                assert_eq!((ours.flow, ours.plain.as_slice()), (Flow::Ended, b"a line\n".as_slice()));
                break;
            }
            at += 1;
        }
        assert!(at > 300, "{at}");
    }
}

/// Writes the bytes of a record in records of one byte each.
fn in_small_records(record: &[u8]) -> Vec<u8> {
    record[5..].iter().flat_map(|byte| [record[0], record[1], record[2], 0, 1, *byte]).collect()
}

#[test]
fn a_hello_may_come_in_records_of_a_byte() {
    let identity = Identity::new();
    for (version, _) in VERSIONS {
        for cut in [1, 7, 10_000] {
            let mut client = identity.client(version, None);
            let mut ours = Ours::new(identity.tls().filter());
            in_small_records(&client.wire()).chunks(cut).for_each(|part| ours.read(part));
            assert_eq!(ours.fault, None);
            assert_eq!(ours.filter.held(), 0);
            let reply = std::mem::take(&mut ours.reply);
            Other::take(&mut client, &reply).unwrap();
            converse(&mut client, &mut ours, Cut::Whole, false);
        }
    }
}

#[test]
fn a_handshake_message_without_an_end_is_bounded() {
    let tls = Identity::new().tls();
    let mut ours = Ours::new(tls.filter());
    // A ClientHello of 60,000 bytes, of which each has a record.
    let hello = [&[22, 3, 1, 0, 4, 1, 0, 0xEA, 0x60][..], &[22, 3, 1, 0, 1, 0].repeat(20_000)].concat();
    for part in hello.chunks(100) {
        ours.read(part);
        assert!(ours.filter.memory() < 2 * 65 * 1024);
    }
    assert!(ours.fault.unwrap().contains("not whole"));
}

#[test]
fn whatever_is_no_tls_is_answered_by_an_alert() {
    let tls = Identity::new().tls();
    let others: [&[u8]; 5] =
        [b"GET / HTTP/1.1\r\n\r\n", b"hi\n", b"SSH-2.0-OpenSSH_9.2\r\n", &[0x80, 0x2E, 1, 0, 2, 0], &[0]];
    for bytes in others {
        let mut ours = Ours::new(tls.filter());
        ours.read(&bytes[..1]);
        let mut whole = Ours::new(tls.filter());
        whole.read(bytes);
        for ours in [ours, whole] {
            assert_eq!(ours.fault.as_deref(), Some("the peer does not speak TLS"));
            assert!(ours.reply.starts_with(&[21, 3]) && ours.reply.len() == 7, "{:?}", ours.reply);
            assert!(ours.plain.is_empty());
        }
    }
    // A header that begins well.
    for bytes in [&[22, 3, 1, 0xFF, 0xFF][..], &[22, 9, 9, 0, 10], &[22, 3, 1, 0, 0]] {
        let mut ours = Ours::new(tls.filter());
        bytes.iter().for_each(|byte| ours.read(&[*byte]));
        assert!(ours.fault.is_some() && ours.reply.starts_with(&[21, 3]), "{bytes:?}");
    }
}

#[test]
fn a_wire_that_ends_without_close_notify_is_truncated_but_a_probe_is_not() {
    let identity = Identity::new();
    let mut ours = Ours::new(identity.tls().filter());
    assert_eq!(ours.filter.eof(), Eof::Clean);
    ours.read(&[22]);
    assert_eq!(ours.filter.eof(), Eof::Truncated);
    let mut ours = Ours::new(identity.tls().filter());
    let mut client = identity.client(&TLS13, None);
    Wire { cut: Cut::Whole, sent: 0 }.settle(&mut client, &mut ours).unwrap();
    assert_eq!((ours.flow, ours.filter.eof()), (Flow::Open, Eof::Truncated));
}

#[test]
fn bytes_behind_the_close_notify_are_not_looked_at() {
    let identity = Identity::new();
    for (version, _) in VERSIONS {
        let mut ours = Ours::new(identity.tls().filter());
        let mut client = identity.client(version, None);
        let mut wire = Wire { cut: Cut::Whole, sent: 0 };
        wire.settle(&mut client, &mut ours).unwrap();
        client.say(b"a line\n");
        client.close();
        let junk = [client.wire(), b"junk behind the end".repeat(9)].concat();
        ours.read(&junk);
        ours.read(b"and more");
        assert_eq!((ours.flow, ours.fault.as_deref(), ours.plain.as_slice()), (Flow::Ended, None, &b"a line\n"[..]));
        assert_eq!(ours.filter.memory(), 0);
        let last = [ours.write(b"last\n"), ours.finish()].concat();
        Other::take(&mut client, &last).unwrap();
        assert_eq!(client.heard(), (b"last\n".to_vec(), true));
    }
}

#[test]
fn nothing_is_written_behind_our_close_notify() {
    let identity = Identity::new();
    let mut ours = Ours::new(identity.tls().filter());
    let mut client = identity.client(&TLS13, None);
    Wire { cut: Cut::Whole, sent: 0 }.settle(&mut client, &mut ours).unwrap();
    assert!(!ours.finish().is_empty());
    assert!(ours.filter.write(b"late", &mut Vec::new()).is_err());
}

#[test]
fn a_flood_of_key_updates_is_a_fault() {
    let identity = Identity::new();
    let mut ours = Ours::new(identity.tls().filter());
    let mut client = identity.client(&TLS13, None);
    let mut wire = Wire { cut: Cut::Whole, sent: 0 };
    wire.settle(&mut client, &mut ours).unwrap();
    for round in 0..40 {
        client.update_keys();
        ours.read(&client.wire());
        if ours.fault.is_some() {
            assert!(round > 16, "{round}");
            return;
        }
        assert!(ours.reply.len() < 200 && ours.filter.memory() == 0);
    }
    panic!("40 key updates in a row");
}

#[test]
fn an_answer_to_a_key_update_goes_before_the_next_line() {
    let identity = Identity::new();
    let mut ours = Ours::new(identity.tls().filter());
    let mut client = identity.client(&TLS13, None);
    let mut wire = Wire { cut: Cut::Whole, sent: 0 };
    wire.settle(&mut client, &mut ours).unwrap();
    client.update_keys();
    client.say(b"a line\n");
    let sent = client.wire();
    for part in sent.chunks(1) {
        ours.read(part);
        let sealed = [std::mem::take(&mut ours.reply), ours.write(b".")].concat();
        Other::take(&mut client, &sealed).unwrap();
    }
    assert_eq!(ours.plain, b"a line\n");
    assert_eq!(client.heard().0, b".".repeat(sent.len()));
}

#[test]
fn a_connection_is_as_small_as_it_was() {
    // The box of an idle session; most of it is rustls'.
    let server = size_of::<super::filter::TlsFilter<rustls::server::UnbufferedServerConnection>>();
    let client = size_of::<super::filter::TlsFilter<rustls::client::UnbufferedClientConnection>>();
    eprintln!("{server} {client}");
    assert!(server <= 1280 && client <= 1280, "{server} {client}");
}

#[test]
fn a_reload_does_not_undo_what_was_put_in_place_meanwhile() {
    let newer = Identity::new();
    let (tls, other) = (Identity::new().tls(), newer.tls());
    let mut readings = 0;
    let reloaded = tls.reload_and(|| {
        readings += 1;
        if readings == 1 {
            tls.replace(&other);
        }
    });
    reloaded.unwrap();
    assert_eq!(readings, 2, "the newer files are read again");
    let mut ours = Ours::new(tls.filter());
    let mut client = newer.client(&TLS13, None);
    Wire { cut: Cut::Whole, sent: 0 }.settle(&mut client, &mut ours).unwrap();
    assert_eq!(ours.flow, Flow::Open, "the newer certificate is shown");
}

#[test]
fn an_end_within_the_handshake_is_none() {
    let identity = Identity::new();
    let close_notify = [21, 3, 3, 0, 2, 1, 0];
    for (version, _) in VERSIONS {
        let mut client = identity.client(version, None);
        let hello = client.wire();
        for wire in [vec![], hello] {
            let mut ours = Ours::new(identity.tls().filter());
            ours.read(&wire);
            ours.read(&close_notify);
            assert_eq!(ours.flow, Flow::Preface);
            ours.read(&close_notify);
            assert_ne!(ours.flow, Flow::Ended);
        }
    }
}

/// The first secret of a client, from which all of its later keys are made.
#[derive(Debug, Default)]
struct ClientSecret(Mutex<Vec<u8>>);

impl KeyLog for ClientSecret {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if label == "CLIENT_TRAFFIC_SECRET_0" {
            *self.0.lock().unwrap() = secret.to_vec();
        }
    }
}

/// Records of a client by hand, with TLS_AES_256_GCM_SHA384: rustls does not cut a message as short as a key update.
struct Records {
    secret: OkmBlock,
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Records {
    fn suite() -> &'static Tls13CipherSuite {
        ring::cipher_suite::TLS13_AES_256_GCM_SHA384.tls13().unwrap()
    }

    fn new(secret: OkmBlock) -> Self {
        let (mut key, mut iv) = ([0; 32], [0; 12]);
        Self::expand(&secret, b"key", &mut key);
        Self::expand(&secret, b"iv", &mut iv);
        let encrypter = Self::suite().aead_alg.encrypter(key.into(), iv.into());
        Self { secret, encrypter, sequence: 0 }
    }

    /// HKDF-Expand-Label of RFC 8446, 7.1, without a context.
    fn expand(secret: &OkmBlock, label: &[u8], into: &mut [u8]) {
        let len = (into.len() as u16).to_be_bytes();
        let info: [&[u8]; 5] = [&len, &[6 + label.len() as u8], b"tls13 ", label, &[0]];
        Self::suite().hkdf_provider.expander_for_okm(secret).expand_slice(&info, into).unwrap();
    }

    fn record(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        let message = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload: payload.into() };
        let record = self.encrypter.encrypt(message, self.sequence).unwrap();
        self.sequence += 1;
        record.encode()
    }

    /// The keys behind an update.
    fn next(self) -> Self {
        let mut secret = [0; 48];
        Self::expand(&self.secret, b"traffic upd", &mut secret);
        Self::new(OkmBlock::new(&secret))
    }
}

#[test]
fn a_key_update_may_be_split_over_records_with_a_write_between_any_two() {
    let identity = Identity::new();
    for request in [0, 1] {
        let update = [24, 0, 0, 1, request];
        // Every set of places to cut it at.
        for cuts in 0..1_u32 << (update.len() - 1) {
            let secret = Arc::new(ClientSecret::default());
            let mut roots = RootCertStore::empty();
            roots.add(identity.pair.cert.der().clone()).unwrap();
            let mut provider = ring::default_provider();
            provider.cipher_suites = vec![ring::cipher_suite::TLS13_AES_256_GCM_SHA384];
            let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&[&TLS13])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.key_log = secret.clone();
            let name = ServerName::try_from("localhost").unwrap();
            let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
            let mut ours = Ours::new(identity.tls().filter());
            Wire { cut: Cut::Whole, sent: 0 }.settle(&mut client, &mut ours).unwrap();

            let mut records = Records::new(OkmBlock::new(&secret.0.lock().unwrap()));
            ours.read(&records.record(ContentType::ApplicationData, b"before\n"));
            let mut begin = 0;
            let mut dots = 0;
            for end in 1..=update.len() {
                if end < update.len() && cuts & 1 << (end - 1) == 0 {
                    continue;
                }
                for byte in records.record(ContentType::Handshake, &update[begin..end]) {
                    ours.read(&[byte]);
                    assert_eq!(ours.fault, None, "{cuts:b}");
                    let sealed = [std::mem::take(&mut ours.reply), ours.write(b".")].concat();
                    Other::take(&mut client, &sealed).unwrap();
                    dots += 1;
                }
                begin = end;
            }
            ours.read(&records.next().record(ContentType::ApplicationData, b"behind\n"));
            assert_eq!((ours.fault.as_deref(), &ours.plain[..]), (None, &b"before\nbehind\n"[..]), "{cuts:b}");
            assert_eq!((ours.filter.held(), ours.filter.memory()), (0, 0));
            assert_eq!(client.heard().0, b".".repeat(dots));
        }
    }
}

/// The certificate as one of version 1: without the field that says another.
fn as_version_1(der: &[u8]) -> Vec<u8> {
    let (outer, rest) = der.split_at(4);
    let (inner, rest) = rest.split_at(4);
    let shorter = |header: &[u8]| {
        let len = u16::from_be_bytes([header[2], header[3]]) - 5;
        [&header[..2], &len.to_be_bytes()].concat()
    };
    assert_eq!([&outer[..2], &inner[..2], &rest[..5]], [&[0x30, 0x82][..], &[0x30, 0x82], &[0xA0, 3, 2, 1, 2]]);
    [shorter(outer), shorter(inner), rest[5..].to_vec()].concat()
}

#[test]
fn a_certificate_of_version_1_is_called_so() {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    // Long enough for headers of four bytes.
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Tests".repeat(12));
    let key = rcgen::KeyPair::generate().unwrap();
    let der = as_version_1(params.self_signed(&key).unwrap().der());
    let base64 = Command::new("base64").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut base64 = base64.unwrap();
    base64.stdin.take().unwrap().write_all(&der).unwrap();
    let text = String::from_utf8(base64.wait_with_output().unwrap().stdout).unwrap();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n");
    let error = Tls::builder(Pem::bytes(pem), Pem::bytes(key.serialize_pem())).build().unwrap_err();
    assert!(matches!(error, TlsError::CertificateVersion { version: 1, .. }), "{error}");
}
