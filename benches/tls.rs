//! What TLS costs a line server: processor time for each line and each handshake, over the same server without TLS, and
//! beside HAProxy and nginx that terminate TLS in front of it.
//!
//! All processes of a server share one core and count together; the client, which speaks TLS itself, has another and does
//! not count. Loads and servers take turns, round by round; the least of all rounds counts. The plain server runs twice, as
//! the control. All speak TLS 1.3 with one certificate (ECDSA P-256); each handshake is a full one.
//! Not here: the loads without TLS beside other servers (`server`).

mod support;

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustix::{
    event::{Timespec, epoll},
    net::{RecvFlags, SendFlags},
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, client::Resumption, crypto::ring, version::TLS13};
use support::{PATIENCE, Server, number};

const USAGE: &str = "\
usage: cargo bench --bench tls -- --report FILE [options]

  --connections N     of ping and the streams; default 64
  --idle-sessions N   default 1000
  --seconds S         of each load in each round; default 0.3
";

/// Of each load in each round.
const TIME: Duration = Duration::from_millis(300);
/// Connections under way at once in `connect`.
const CONNECTING: usize = 16;

type Options = support::Options<Own>;

struct Own {
    connections: usize,
    idle_sessions: usize,
}

fn main() -> ExitCode {
    let own = |own: &mut Own, flag: &str, value: &str| {
        match flag {
            "--connections" => own.connections = number(flag, value)?.max(1),
            "--idle-sessions" => own.idle_sessions = number(flag, value)?.max(1),
            _ => return Ok(false),
        }
        Ok(true)
    };
    support::main_of_these(USAGE, TIME, Vec::new(), Own { connections: 64, idle_sessions: 1000 }, own, run)
}

/// Title, length of a line, bytes under way on each connection.
type Load = (&'static str, usize, usize);

const LOADS: [Load; 4] = [
    ("ping-pong, 64-byte lines: ns a line", 64, 64),
    ("stream, 64-byte lines, 8 KiB in flight: ns a line", 64, 8 << 10),
    ("stream, 1 KiB lines, 16 KiB in flight: ns a line", 1 << 10, 16 << 10),
    ("connect, one 64-byte line, close: ns a connection", 64, 64),
];

/// The last load makes a connection for each answer.
const CONNECT: usize = LOADS.len() - 1;

/// A folder with the certificate and the files of the servers. Removed when dropped.
struct Folder {
    path: PathBuf,
    client: Arc<ClientConfig>,
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Folder {
    fn new() -> Result<Self, String> {
        let path = env::temp_dir().join(format!("rot13d-bench-tls-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).map_err(|error| error.to_string())?;
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).map_err(|error| error.to_string())?;
        let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.resumption = Resumption::disabled();
        let folder = Self { path, client: Arc::new(client) };
        folder.write("cert.pem", &cert.pem())?;
        folder.write("key.pem", &signing_key.serialize_pem())?;
        folder.write("both.pem", &format!("{}{}", cert.pem(), signing_key.serialize_pem()))?;
        Ok(folder)
    }

    fn write(&self, name: &str, text: &str) -> Result<String, String> {
        let path = self.path.join(name);
        let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
        fs::write(&path, text).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(path.display().to_string())
    }
}

/// A server, which may be a terminator in front of another.
struct Chain {
    name: &'static str,
    /// The one that is connected to is the last.
    servers: Vec<Server>,
    client: Option<Arc<ClientConfig>>,
}

impl Chain {
    fn port(&self) -> u16 {
        self.servers.last().map_or(0, |server| server.port)
    }

    /// Nanoseconds of all processes.
    fn ran(&self) -> u64 {
        self.servers.iter().map(|server| server.scheduled().ran).sum()
    }

    /// Proportional set size of all processes, in bytes.
    fn memory(&self) -> u64 {
        let of = |server: &Server| {
            let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", server.id())).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
            line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        self.servers.iter().map(of).sum()
    }

    fn connect(&self) -> Result<Peer, String> {
        let socket = support::connect(self.port()).map_err(|error| format!("cannot connect: {error}"))?;
        let tls = match &self.client {
            None => None,
            Some(config) => {
                let name = "localhost".try_into().map_err(|_| "localhost is no name")?;
                let tls = ClientConnection::new(Arc::clone(config), name).map_err(|error| error.to_string())?;
                Some(Box::new(tls))
            }
        };
        Ok(Peer { socket, tls, missing: 0 })
    }
}

const NAMES: [&str; 5] =
    ["rot13d, plain", "rot13d, plain, again", "rot13d, TLS", "HAProxy before plain", "nginx before plain"];

/// Starts one of the servers. An error says which program is missing.
fn start(index: usize, folder: &Folder, options: &Options) -> Result<Chain, String> {
    let rot13d = env!("CARGO_BIN_EXE_rot13d");
    let plain = || Server::start(&format!("{rot13d} --listen 127.0.0.1:{{port}} --workers 1 -q"), options.cores);
    let port = support::free_port()?;
    let path = |name: &str| folder.path.join(name).display().to_string();
    let (certificate, key, both) = (path("cert.pem"), path("key.pem"), path("both.pem"));
    let name = NAMES[index];
    let servers = match index {
        0 | 1 => return Ok(Chain { name, servers: vec![plain()?], client: None }),
        2 => {
            let file = folder.write(
                "rot13d.toml",
                &format!(
                    "[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:{port}\"\n[listener.tls]\n\
                     certificate = \"{certificate}\"\nkey = \"{key}\"\n"
                ),
            )?;
            vec![Server::start_at(&format!("{rot13d} --config {file} --workers 1 -q"), port, options.cores)?]
        }
        3 => {
            let program = find(&["/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/usr/bin/haproxy"], "haproxy")?;
            let server = plain()?;
            let file = folder.write(
                "haproxy.cfg",
                &format!(
                    "global\n  nbthread 1\n  maxconn 5000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  \
                     timeout server 1h\nfrontend tls\n  bind 127.0.0.1:{port} ssl crt {both} ssl-min-ver TLSv1.3\n  \
                     default_backend lines\nbackend lines\n  server plain 127.0.0.1:{}\n",
                    server.port
                ),
            )?;
            vec![server, Server::start_at(&format!("{program} -db -f {file}"), port, options.cores)?]
        }
        _ => {
            let program = find(&["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"], "nginx")?;
            let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
            let load = if Path::new(module).exists() { format!("load_module {module};\n") } else { String::new() };
            let server = plain()?;
            let file = folder.write(
                "nginx.conf",
                &format!(
                    "{load}daemon off;\nmaster_process off;\nworker_processes 1;\npid {};\nerror_log {} crit;\n\
                     events {{ worker_connections 8192; }}\nstream {{\n  access_log off;\n  server {{\n    \
                     listen 127.0.0.1:{port} ssl;\n    ssl_certificate {certificate};\n    ssl_certificate_key {key};\n    \
                     ssl_protocols TLSv1.3;\n    tcp_nodelay on;\n    proxy_timeout 1h;\n    proxy_pass 127.0.0.1:{};\n  }}\n}}\n",
                    path("nginx.pid"),
                    path("nginx.log"),
                    server.port
                ),
            )?;
            vec![server, Server::start_at(&format!("{program} -c {file}"), port, options.cores)?]
        }
    };
    Ok(Chain { name, servers, client: Some(Arc::clone(&folder.client)) })
}

fn find(paths: &[&'static str], name: &str) -> Result<&'static str, String> {
    paths.iter().copied().find(|path| Path::new(path).exists()).ok_or_else(|| format!("{name} is not installed"))
}

/// The client's end of one connection.
struct Peer {
    socket: OwnedFd,
    tls: Option<Box<ClientConnection>>,
    /// Bytes of the answer that have not come yet.
    missing: usize,
}

/// A socket as rustls reads and writes one.
struct Socket<'a>(&'a OwnedFd);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(self.0, buffer, RecvFlags::empty())?.0)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Peer {
    /// Sends the question, with TLS as soon as the handshake allows.
    fn ask(&mut self, (question, answer): &(Vec<u8>, Vec<u8>)) -> Result<(), String> {
        self.missing = answer.len();
        match &mut self.tls {
            None => Socket(&self.socket).write_all(question).map_err(|error| format!("cannot send: {error}")),
            Some(tls) => {
                tls.writer().write_all(question).map_err(|error| format!("cannot send: {error}"))?;
                self.flush()
            }
        }
    }

    fn flush(&mut self) -> Result<(), String> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            tls.write_tls(&mut Socket(&self.socket)).map_err(|error| format!("cannot send: {error}"))?;
        }
        Ok(())
    }

    /// Reads what has come. True when the answer is whole.
    fn listen(&mut self, (_, answer): &(Vec<u8>, Vec<u8>), buffer: &mut [u8]) -> Result<bool, String> {
        let failed = |error: io::Error| format!("cannot receive: {error}");
        if let Some(tls) = &mut self.tls {
            match tls.read_tls(&mut Socket(&self.socket)) {
                Ok(0) => return Err("closes too early".to_owned()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                result => drop(result.map_err(failed)?),
            }
            tls.process_new_packets().map_err(|error| error.to_string())?;
        }
        let read = match &mut self.tls {
            Some(tls) => tls.reader().read(buffer),
            None => Socket(&self.socket).read(buffer),
        };
        let count = match read {
            Ok(0) => return Err("closes too early".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            result => result.map_err(failed)?,
        };
        // The client's part of the handshake.
        self.flush()?;
        let at = answer.len() - self.missing;
        if answer.get(at..at + count) != Some(&buffer[..count]) {
            return Err("wrong bytes".to_owned());
        }
        self.missing -= count;
        Ok(count > 0 && self.missing == 0)
    }
}

/// One thread that asks and listens on many connections.
struct Client<'a> {
    epoll: OwnedFd,
    chain: &'a Chain,
    talk: (Vec<u8>, Vec<u8>),
    buffer: Vec<u8>,
}

impl<'a> Client<'a> {
    fn new(chain: &'a Chain, line: usize, flight: usize) -> Result<Self, String> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
        Ok(Self { epoll, chain, talk: support::lines(line, flight), buffer: vec![0; 64 << 10] })
    }

    fn connect(&self, number: usize) -> Result<Peer, String> {
        let peer = self.chain.connect()?;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&self.epoll, &peer.socket, data, epoll::EventFlags::IN)
            .map_err(|error| format!("epoll: {error}"))?;
        Ok(peer)
    }

    /// Has `peers` ask and listen until `time` is over and every answer has come; returns how many answers came.
    fn converse(&mut self, peers: &mut [Peer], time: Duration, reconnects: bool) -> Result<u64, String> {
        for peer in &mut *peers {
            peer.ask(&self.talk)?;
        }
        let (mut answers, mut waiting) = (0, peers.len());
        let end = Instant::now() + time;
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); 256];
        while waiting > 0 {
            let (events, _) =
                epoll::wait(&self.epoll, &mut space, Some(&patience)).map_err(|error| format!("epoll: {error}"))?;
            if events.is_empty() {
                return Err("hangs".to_owned());
            }
            let goes_on = Instant::now() < end;
            for event in &*events {
                let number = event.data.u64() as usize;
                if !peers[number].listen(&self.talk, &mut self.buffer)? {
                    continue;
                }
                answers += 1;
                if !goes_on {
                    waiting -= 1;
                    continue;
                }
                if reconnects {
                    let _ = epoll::delete(&self.epoll, peers[number].socket.as_fd());
                    peers[number] = self.connect(number)?;
                }
                peers[number].ask(&self.talk)?;
            }
        }
        Ok(answers)
    }
}

/// One load on one server: nanoseconds of its processes for each line or connection.
fn measure(chain: &Chain, load: usize, options: &Options) -> Result<f64, String> {
    let (_, line, flight) = LOADS[load];
    let mut client = Client::new(chain, line, flight)?;
    let is_connect = load == CONNECT;
    let count = if is_connect { CONNECTING } else { options.own.connections };
    let mut peers = (0..count).map(|number| client.connect(number)).collect::<Result<Vec<_>, _>>()?;
    if !is_connect {
        // Handshakes are over before anything is counted.
        client.converse(&mut peers, Duration::ZERO, false)?;
    }
    let before = chain.ran();
    let answers = client.converse(&mut peers, options.time, is_connect)?;
    Ok((chain.ran() - before) as f64 / (answers as f64 * (flight / line) as f64))
}

/// Bytes for each of many idle sessions that have answered a line.
fn measure_idle(chain: &Chain, options: &Options) -> Result<f64, String> {
    let count = options.own.idle_sessions;
    let mut client = Client::new(chain, 64, 64)?;
    // What the first ones take is there for all.
    let mut warm = (0..32).map(|number| client.connect(number)).collect::<Result<Vec<_>, _>>()?;
    client.converse(&mut warm, Duration::ZERO, false)?;
    let before = chain.memory();
    let idle = Client::new(chain, 64, 64)?;
    let mut peers = Vec::with_capacity(count);
    for number in 0..count {
        peers.push(idle.connect(number)?);
        // A few at a time, so that no backlog is full.
        if number % 16 == 15 || number + 1 == count {
            let begin = number / 16 * 16;
            let mut some = Client::new(chain, 64, 64)?;
            for (place, peer) in peers[begin..].iter().enumerate() {
                let data = epoll::EventData::new_u64(place as u64);
                let added = epoll::add(&some.epoll, &peer.socket, data, epoll::EventFlags::IN);
                added.map_err(|error| format!("epoll: {error}"))?;
            }
            some.converse(&mut peers[begin..], Duration::ZERO, false)?;
        }
    }
    Ok(chain.memory().saturating_sub(before) as f64 / count as f64)
}

fn run(options: &Options) -> Result<String, String> {
    let folder = Folder::new()?;
    let chains: Vec<_> = (0..NAMES.len()).map(|index| start(index, &folder, options)).collect();
    let mut samples: BTreeMap<(usize, usize), Result<Vec<f64>, String>> = BTreeMap::new();
    for round in 0..options.rounds {
        for load in 0..LOADS.len() {
            for turn in 0..chains.len() {
                let index = (turn + round) % chains.len();
                let Ok(chain) = &chains[index] else { continue };
                let sample = samples.entry((load, index)).or_insert_with(|| Ok(Vec::new()));
                let Ok(values) = sample else { continue };
                eprint!("\rround {}/{}: load {} of {}        ", round + 1, options.rounds, load + 1, chain.name);
                match measure(chain, load, options) {
                    Ok(value) => values.push(value),
                    Err(error) => *sample = Err(error),
                }
            }
        }
    }
    let mut report = support::head("Processor time and memory of TLS", "tls");
    let _ = writeln!(
        report,
        "- {} rounds of {:?} for each load and server, least and median of them; all processes of a server on one core",
        options.rounds, options.time
    );
    for (load, (title, ..)) in LOADS.iter().enumerate() {
        let of = |index| support::least_and_median(samples.get(&(load, index)));
        let [plain, again, tls] = [0, 1, 2].map(|index| of(index).map_or(f64::NAN, |(least, _)| least));
        let control = support::control(plain, again);
        let _ = write!(
            report,
            "\n## {title}\n\nControl, plain against plain: {control}.\n\n\
             | server | least | median | over plain | over rot13d's TLS |\n|---|--:|--:|--:|--:|\n"
        );
        for (index, name) in NAMES.iter().enumerate() {
            let _ = match (&chains[index], samples.get(&(load, index)), of(index)) {
                (Err(error), ..) | (_, Some(Err(error)), _) => writeln!(report, "| {name} | {error} | | | |"),
                (.., Some((least, median))) => {
                    let (plain, tls) = (least / plain, least / tls);
                    writeln!(report, "| {name} | {least:.0} | {median:.0} | {plain:.2} | {tls:.2} |")
                }
                _ => writeln!(report, "| {name} | not measured | | | |"),
            };
        }
    }
    drop(chains);
    let _ = write!(
        report,
        "\n## Idle sessions: bytes of memory each\n\n{} sessions, each of which has answered one line; proportional set size \
         of all processes.\n\n| server | bytes each |\n|---|--:|\n",
        options.own.idle_sessions
    );
    for (index, name) in NAMES.iter().enumerate().filter(|(index, _)| *index != 1) {
        // Processes whose memory nothing has used yet.
        let measured = start(index, &folder, options).and_then(|chain| measure_idle(&chain, options));
        let _ = match measured {
            Ok(each) => writeln!(report, "| {name} | {each:.0} |"),
            Err(error) => writeln!(report, "| {name} | {error} |"),
        };
    }
    Ok(report)
}
