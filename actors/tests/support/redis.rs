//! Servers of the Redis protocol for tests: Debian's `redis-server`, Valkey, and their Sentinel.
//!
//! Each has a directory of its own, a free port and a unix socket, keeps nothing on disk, and ends with its value. All of it
//! blocks, and every wait is bounded. Valkey's program is named by the variable `VALKEY_SERVER`, or is on the path.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use std::{
    env,
    ffi::OsString,
    fmt, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt::set_socket_reuseaddr,
};

/// How long a server may take until it answers, or is gone. A guard and no measure.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Redis,
    Valkey,
}

impl Program {
    /// All that are here. The others are named.
    pub fn installed() -> Vec<Self> {
        let (here, missing): (Vec<_>, Vec<_>) =
            [Self::Redis, Self::Valkey].into_iter().partition(|program| program.path().is_some());
        for program in missing {
            eprintln!("{program} is not installed: nothing is tested with it");
        }
        here
    }

    fn path(self) -> Option<PathBuf> {
        let on_path = |name: &str| {
            let directories = env::var_os("PATH")?;
            env::split_paths(&directories).map(|directory| directory.join(name)).find(|path| path.is_file())
        };
        match self {
            Self::Redis => on_path("redis-server"),
            Self::Valkey => env::var_os("VALKEY_SERVER").map(PathBuf::from).or_else(|| on_path("valkey-server")),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => "redis-server",
            Self::Valkey => "valkey-server",
        })
    }
}

/// What a node has to be allowed, as `docs/decisions/redis.md` has it, for prefixes that begin with `lines:`.
pub const PERMISSIONS: [&str; 30] = [
    "resetkeys",
    "~{lines:*",
    "resetchannels",
    "&{lines:*",
    "-@all",
    "+evalsha",
    "+eval",
    "+time",
    "+zadd",
    "+zrem",
    "+zscore",
    "+zrange",
    "+zrangebyscore",
    "+zrangebylex",
    "+hset",
    "+hget",
    "+hdel",
    "+hlen",
    "+hscan",
    "+hincrby",
    "+unlink",
    "+del",
    "+rename",
    "+pexpireat",
    "+get",
    "+set",
    "+publish",
    "+subscribe",
    "+unsubscribe",
    "+role",
];

/// A server, or a Sentinel, which ends when it is dropped.
pub struct StoreServer {
    program: Program,
    directory: PathBuf,
    port: u16,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, PathBuf)>,
    child: Option<Child>,
    /// Speaks TLS in its place.
    tunnel: Option<Child>,
    /// Its ports, also while it does not listen.
    reserved: Vec<OwnedFd>,
}

impl StoreServer {
    /// Starts an empty server.
    pub fn start(program: Program) -> Self {
        Self::start_with(program, &[] as &[&str])
    }

    /// Starts an empty server in an environment of its own.
    pub fn start_in(program: Program, environment: Vec<(&'static str, PathBuf)>) -> Self {
        let mut server = Self::start(program);
        server.environment = environment;
        server.start_again();
        server
    }

    /// Starts an empty server with more arguments, such as `["--maxmemory", "4mb"]`.
    pub fn start_with<A: Into<OsString> + Clone>(program: Program, more: &[A]) -> Self {
        Self::launch(program, |directory| {
            let mut arguments = ["--save", "", "--appendonly", "no", "--enable-debug-command", "yes", "--unixsocket"]
                .map(OsString::from)
                .to_vec();
            arguments.push(directory.join("socket").into());
            arguments.extend(more.iter().cloned().map(Into::into));
            arguments
        })
    }

    /// Starts a replica of a server that asks nobody for a password. It has a copy of all that is there.
    pub fn start_replica(of: &Self) -> Self {
        let replica = Self::start_with(
            of.program,
            &["--replicaof", "127.0.0.1", &of.port.to_string(), "--repl-diskless-sync-delay", "0"],
        );
        let begin = Instant::now();
        // A server that takes over a copy ends its connections.
        while !replica.command(&["INFO", "replication"]).is_ok_and(|state| state.contains("master_link_status:up")) {
            assert!(begin.elapsed() < PATIENCE, "{replica:?} is no replica of {of:?}: {}", replica.log());
            thread::sleep(Duration::from_millis(5));
        }
        replica
    }

    /// Starts a Sentinel, by whose word alone the replica of a master takes over that did not answer for a second.
    pub fn start_sentinel(name: &str, master: &Self) -> Self {
        Self::start_sentinel_with(name, master, "")
    }

    /// The same with more lines in its file.
    pub fn start_sentinel_with(name: &str, master: &Self, more: &str) -> Self {
        let port = master.port;
        Self::launch(master.program, |directory| {
            let file = directory.join("sentinel.conf");
            let text = format!(
                "sentinel monitor {name} 127.0.0.1 {port} 1\nsentinel down-after-milliseconds {name} 1000\n\
                 sentinel failover-timeout {name} 6000\n{more}\n"
            );
            fs::write(&file, text).unwrap();
            vec![file.into(), "--sentinel".into()]
        })
    }

    fn launch(program: Program, arguments: impl Fn(&Path) -> Vec<OsString>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("actix-lines-store-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let directory = env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let arguments = arguments(&directory);
        let (reserved, port) = reserve();
        let mut server = Self {
            program,
            directory,
            port,
            arguments,
            environment: Vec::new(),
            child: None,
            tunnel: None,
            reserved: vec![reserved],
        };
        assert!(server.spawn(), "{program} does not start: {}", server.log());
        server
    }

    /// Returns true when it answers, and false if it has ended.
    fn spawn(&mut self) -> bool {
        let path = self.program.path().unwrap_or_else(|| panic!("{} is not installed", self.program));
        let log = fs::File::create(self.directory.join("log")).unwrap();
        let mut command = Command::new(path);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // A Sentinel's file comes first.
        command.args(&self.arguments).args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"]);
        command.arg(&self.directory).stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
        self.child = Some(command.spawn().unwrap());
        let begin = Instant::now();
        loop {
            if let Some(child) = &mut self.child
                && child.try_wait().unwrap().is_some()
            {
                self.child = None;
                return false;
            }
            // Behind a password, too: any answer will do.
            if self.command(&["PING"]).is_ok_and(|answer| !answer.starts_with("LOADING")) {
                return true;
            }
            assert!(begin.elapsed() < PATIENCE, "{} does not answer: {}", self.program, self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn program(&self) -> Program {
        self.program
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server was stopped").id()
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// `unix:///PATH`.
    pub fn unix_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    /// A path of this name in the server's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Sends a command by a connection of its own and returns the answer as text; an array's parts are in lines.
    pub fn command(&self, words: &[&str]) -> io::Result<String> {
        self.command_within(PATIENCE, words)
    }

    fn command_within(&self, patience: Duration, words: &[&str]) -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(&packed(words))?;
        answer(&mut BufReader::new(stream))
    }

    /// The same where nothing may fail.
    pub fn must(&self, words: &[&str]) -> String {
        self.command(words).unwrap_or_else(|error| panic!("{words:?}: {error}; {}", self.log()))
    }

    /// Returns true if it takes itself for a master. A server whose role changes ends its connections, so no answer is none.
    pub fn is_master(&self) -> bool {
        self.command(&["ROLE"]).is_ok_and(|role| role.starts_with("master"))
    }

    /// Returns true if it takes itself for a replica.
    pub fn is_replica(&self) -> bool {
        self.command(&["ROLE"]).is_ok_and(|role| role.starts_with("slave"))
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Lets a user in with these permissions alone.
    pub fn allow(&self, user: &str, password: &str, permissions: &[&str]) {
        let password = format!(">{password}");
        let mut words = vec!["ACL", "SETUSER", user, "reset", "on", &password];
        words.extend(permissions);
        assert_eq!(self.must(&words), "OK");
    }

    /// Has it speak TLS on another port, which is returned. The wheel of Valkey has no TLS: socat has it there.
    pub fn tls_port(&mut self, certificate: &Path, key: &Path, authority: &Path) -> u16 {
        let [certificate, key, authority] = [certificate, key, authority].map(|path| path.to_str().unwrap());
        let (reserved, port) = reserve();
        self.reserved.push(reserved);
        let number = port.to_string();
        match self.program {
            Program::Redis => {
                let words = ["tls-cert-file", certificate, "tls-key-file", key, "tls-ca-cert-file", authority];
                let words = [&["CONFIG", "SET"][..], &words, &["tls-auth-clients", "no", "tls-port", &number]].concat();
                assert_eq!(self.must(&words), "OK", "{} speaks no TLS: {}", self.program, self.log());
            }
            Program::Valkey => {
                let listen = format!(
                    "OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,cert={certificate},key={key},verify=0,fork"
                );
                let child = Command::new("socat").args([listen, format!("TCP:127.0.0.1:{}", self.port)]).spawn();
                let tunnel = self.tunnel.insert(child.unwrap_or_else(|error| panic!("socat: {error}")));
                let begin = Instant::now();
                while TcpStream::connect(("127.0.0.1", port)).is_err() {
                    assert_eq!(tunnel.try_wait().unwrap(), None, "socat has ended");
                    assert!(begin.elapsed() < PATIENCE, "socat does not listen");
                    thread::sleep(Duration::from_millis(5));
                }
            }
        }
        port
    }

    /// Starts it again on the same port: it is empty.
    pub fn start_again(&mut self) {
        self.kill();
        let begin = Instant::now();
        while !self.spawn() {
            assert!(begin.elapsed() < PATIENCE, "{} does not start again: {}", self.program, self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts it again, empty, on another port.
    pub fn move_to(&mut self, port: u16) {
        self.port = port;
        self.start_again();
    }

    /// Stops its process where it is: the kernel goes on to accept connections and bytes.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets its process go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Keeps it from answering anybody for a time. Does not wait.
    pub fn sleep(&self, time: Duration) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(&packed(&["DEBUG", "SLEEP", &time.as_secs_f64().to_string()])).unwrap();
        // It must not see the end of the connection before it has read the command.
        thread::spawn(move || {
            let _ = stream.set_read_timeout(Some(time + PATIENCE));
            let _ = stream.read(&mut [0; 16]);
        });
    }
}

impl Drop for StoreServer {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process too.
        self.kill();
        if let Some(mut tunnel) = self.tunnel.take() {
            let _ = tunnel.kill();
            let _ = tunnel.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl fmt::Debug for StoreServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on port {}", self.program, self.port)
    }
}

/// A port where nobody listens, and that nobody else gets, also not to call from: whoever asks for it by number may listen there,
/// again and again.
fn reserve() -> (OwnedFd, u16) {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    set_socket_reuseaddr(&socket, true).unwrap();
    bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = SocketAddr::try_from(getsockname(&socket).unwrap()).unwrap();
    (socket, address.port())
}

fn packed(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

fn answer(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let text = line.trim_end().get(1..).unwrap_or_default().to_owned();
    let count = || text.parse::<i64>().map_err(io::Error::other);
    match line.as_bytes()[0] {
        b'$' => {
            let Ok(length) = usize::try_from(count()?) else { return Ok(String::new()) };
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes)?;
            bytes.truncate(length);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        b'*' => {
            let parts = (0..count()?).map(|_| answer(reader)).collect::<io::Result<Vec<_>>>()?;
            Ok(parts.join("\n"))
        }
        _ => Ok(text),
    }
}
