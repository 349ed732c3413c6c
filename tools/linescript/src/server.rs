//! A server that is started for one script, and stopped after it.
//!
//! Not here: what it is asked (`run`).

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Until it listens.
const START: Duration = Duration::from_secs(20);
/// From SIGTERM to SIGKILL.
const STOP: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);
/// Lines of its log that are kept for a report.
const LOG: usize = 20;

pub(crate) struct Server {
    process: Child,
    address: SocketAddr,
    log: Option<JoinHandle<VecDeque<String>>>,
}

impl Server {
    /// Starts one, and waits until it listens. The connection that finds out is closed at once.
    pub(crate) fn start(command: &str) -> Result<Self, String> {
        // Bound, looked at, and let go: whoever listens on it next is most likely the server.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.map_err(|error| format!("no free port: {error}"))?;
        let mut shell = Command::new("sh");
        // Without `exec` a shell might stay in between, and signals would end with it.
        shell.arg("-c").arg(format!("exec {command}")).env("port", address.port().to_string());
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = shell.spawn().map_err(|error| format!("cannot start a shell: {error}"))?;
        let log = process.stderr.take().map(|log| {
            thread::spawn(move || {
                let mut last = VecDeque::new();
                let lines = BufReader::new(log).split(b'\n').map_while(Result::ok);
                for line in lines {
                    if last.len() == LOG {
                        last.pop_front();
                    }
                    last.push_back(actix_lines::Escaped::new(&line).to_string());
                }
                last
            })
        });
        let mut server = Self { process, address, log };
        let end = Instant::now() + START;
        loop {
            if TcpStream::connect(address).is_ok() {
                return Ok(server);
            }
            let ended = server.process.try_wait().ok().flatten().map(|status| status.to_string());
            let ended = ended.or_else(|| (Instant::now() > end).then(|| "too slow".to_owned()));
            if let Some(reason) = ended {
                let log: Vec<_> = server.stop().into_iter().collect();
                return Err(format!("the server did not listen on {address} ({reason}): {}", log.join("\n")));
            }
            thread::sleep(LOOK);
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it; returns the end of its log.
    pub(crate) fn stop(mut self) -> VecDeque<String> {
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself: it is not waited for yet, so the number is still its own.
            let _ = kill_process(pid, Signal::TERM);
        }
        let end = Instant::now() + STOP;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < end {
            thread::sleep(LOOK);
        }
        self.kill();
        self.log.take().and_then(|log| log.join().ok()).unwrap_or_default()
    }

    fn kill(&mut self) {
        // Neither fails but for a process that has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
