//! Lines of a script that are about servers: they are started, heard, signalled, awaited.
//!
//! Not here: what is known of them (`servers`), what peers say to them (`run`).

use std::{
    future::poll_fn,
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use crate::script::{
    address::Address,
    ast::{Ending, ServerAction, Span, Text, Time},
    driver::Driver,
    kind::FailureKind,
    matching::{Wanted, resolve},
    peer::Peer,
    process::{Process, free_port, listens},
    report::{Diagnostic, Held},
    run::Runner,
    scope::{port_variable, server_title},
    servers::{Server, shown},
};

/// A server has at least so long until it listens: it may be built without optimization, on a busy machine.
const START: Duration = Duration::from_secs(20);
/// Between looks at what tells nobody.
const LOOK: Duration = Duration::from_millis(5);

/// A server that waits for the end of its peers does not end before them.
fn still_open(peer: &Peer) -> String {
    format!("{} is still connected: `{}: close` it before", peer.title(), peer.name)
}

impl<D: Driver> Runner<D> {
    /// Starts a server of the script, in the folder of its file.
    pub(crate) async fn start(&mut self, name: &str, command: &Text, span: Span) -> Held<()> {
        let title = server_title(name);
        let port_name = port_variable(name);
        let known = self.servers.all.iter().position(|server| server.name == name);
        if known.is_some_and(|at| !self.servers.all[at].process.has_ended()) {
            let title = format!("{title} runs already");
            let help = "`server: signal TERM` and `server: exit 0` before it";
            return Err(Box::new(Diagnostic::new(title, span, "starts again").help(help)));
        }
        if let Some(at) = known {
            self.servers.all[at].has_held()?;
        }
        // Started again, it has the port it had.
        let port = known.map_or_else(free_port, |at| Ok(self.servers.all[at].port));
        let cannot = |error: io::Error| {
            let title = format!("cannot start {title}: {error}");
            Box::new(Diagnostic::new(title, span, "starts here").kind(FailureKind::Server))
        };
        let port = port.map_err(cannot)?;
        let variables = self.servers.variables(port).map_err(cannot)?;
        // Within its own command, and in its environment, `$port` is its own.
        let outer = self.variables.get("port").cloned();
        self.variables.extend(variables.iter().cloned());
        self.variables.insert(port_name.clone(), port.to_string().into_bytes());
        let line = resolve(command, &self.variables);
        if !name.is_empty() {
            match outer {
                Some(outer) => self.variables.insert("port".to_owned(), outer),
                None => self.variables.remove("port"),
            };
        }
        let line = line?;
        let folder =
            self.sources.get(span.file).map_or_else(PathBuf::new, |file| Path::new(&file.name).with_file_name(""));
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
        let process = Process::start(&line, folder, &variables).map_err(cannot)?;
        let server =
            Server { name: name.to_owned(), process, port, heard: 0, may_end: false, is_end_said: false, span };
        let at = match known {
            Some(at) => {
                self.servers.all[at] = server;
                at
            }
            None => {
                self.servers.all.push(server);
                self.servers.all.len() - 1
            }
        };
        // A variable that was given may hold a command with the shell's variable in it.
        let is_in_line = |text: &[u8]| memchr::memmem::find(&line, text).is_some();
        if !(command.uses("port") || command.uses(&port_name) || is_in_line(b"$port") || is_in_line(b"${port}")) {
            return Ok(());
        }
        if name.is_empty() {
            self.service = Some(Address::Tcp(format!("127.0.0.1:{port}")));
        }
        self.listening(at, span).await
    }

    /// Starts the server that is given from outside, in the folder of who runs the script.
    pub(crate) async fn start_given(&mut self, command: &str, port: Option<u16>) -> Held<()> {
        let span = Span::nowhere();
        let cannot = |error: io::Error| {
            let title = format!("cannot start the server: {error}");
            Box::new(Diagnostic::new(title, span, "").kind(FailureKind::NotRun))
        };
        let port = port.map_or_else(free_port, Ok).map_err(cannot)?;
        let variables = self.servers.variables(port).map_err(cannot)?;
        self.variables.extend(variables.iter().cloned());
        let process = Process::start(command.as_bytes(), Path::new("."), &variables).map_err(cannot)?;
        self.servers.all.push(Server {
            name: String::new(),
            process,
            port,
            heard: 0,
            may_end: false,
            is_end_said: false,
            span,
        });
        self.service = Some(Address::Tcp(format!("127.0.0.1:{port}")));
        self.listening(0, span).await.map_err(|diagnostic| Box::new(diagnostic.kind(FailureKind::NotRun)))
    }

    /// Waits until a server listens on its port.
    async fn listening(&mut self, at: usize, span: Span) -> Held<()> {
        let time = self.timeout.max(START);
        let deadline = Instant::now() + time;
        loop {
            let server = &mut self.servers.all[at];
            let title = server_title(&server.name);
            // Where nobody can tell, its first peer tries until it may come in.
            if listens(server.port).unwrap_or(true) {
                return Ok(());
            }
            let reason = if server.process.has_ended() {
                format!("{title} ended before it listened on $port: {}", shown(server.process.status()))
            } else if Instant::now() >= deadline {
                format!("{title} did not listen on $port within {}", Time(time))
            } else {
                self.next(deadline.min(Instant::now() + LOOK)).await;
                continue;
            };
            server.may_end = true;
            return Err(Box::new(Diagnostic::new(reason, span, "starts here").kind(FailureKind::Server)));
        }
    }

    /// Tries to connect again after a refusal: a server that was just started may not listen yet. False if none runs.
    pub(crate) async fn may_listen_soon(&mut self, deadline: Instant) -> bool {
        if !self.servers.are_running() || Instant::now() >= deadline {
            return false;
        }
        self.next(deadline.min(Instant::now() + LOOK)).await;
        true
    }

    pub(crate) async fn of_server(&mut self, name: &str, action: &ServerAction, span: Span) -> Held<()> {
        let title = server_title(name);
        let Some(at) = self.servers.all.iter().position(|server| server.name == name) else {
            return Err(Box::new(Diagnostic::new(format!("{title} was not started"), span, "unknown here")));
        };
        let failed = |title: String, span: Span, label: &str| {
            Box::new(Diagnostic::new(title, span, label).kind(FailureKind::Server))
        };
        match action {
            ServerAction::Signal(signal) => {
                let server = &mut self.servers.all[at];
                server.may_end = true;
                server.process.signal(signal.1).map_err(|error| {
                    let ended = server.process.status().map(|status| format!("it has ended: {}", shown(Some(status))));
                    let reason = ended.unwrap_or_else(|| error.to_string());
                    failed(format!("cannot signal {title}: {reason}"), span, "signals here")
                })
            }
            ServerAction::Exit(ending) => {
                let time = self.timeout;
                if !self.until(at, |server| server.process.has_ended()).await {
                    let diagnostic =
                        failed(format!("{title} still runs after {}", Time(time)), span, "expected its end");
                    return Err(match self.still_connected(at) {
                        Some(peer) => Box::new(diagnostic.help(still_open(peer))),
                        None => diagnostic,
                    });
                }
                let server = &mut self.servers.all[at];
                server.may_end = true;
                let status = server.process.status();
                let is_so = status.is_some_and(|status| match ending {
                    Ending::Code(code) => status.code() == Some(i32::from(*code)),
                    Ending::Signal(signal) => status.signal() == Some(signal.1.as_raw()),
                });
                server.is_end_said = is_so;
                if is_so {
                    return Ok(());
                }
                let expected = match ending {
                    Ending::Code(code) => format!("exit code {code}"),
                    Ending::Signal(signal) => format!("signal {}", signal.0),
                };
                Err(failed(format!("{title} ended by {}, not by {expected}", shown(status)), span, "expected"))
            }
            ServerAction::Log(pattern) => {
                let wanted = Wanted::pattern(pattern, &self.variables)?;
                let mut captured = None;
                let time = self.timeout;
                let found = self.until(at, |server| {
                    // First: what it says before its end is there when the end is.
                    let has_ended = server.process.is_silent();
                    let (heard, found) = server.process.hear(server.heard, |line| {
                        captured = wanted.line(line);
                        captured.is_some()
                    });
                    server.heard = heard;
                    found || has_ended
                });
                found.await;
                if let Some(captured) = captured {
                    self.variables.extend(captured);
                    return Ok(());
                }
                let server = &mut self.servers.all[at];
                let title = if server.process.has_ended() {
                    format!("{title} ended, and did not say that")
                } else {
                    format!("{title} did not say that within {}", Time(time))
                };
                let diagnostic = failed(title, pattern.span, "expected in its log");
                Err(Box::new(diagnostic.note(format!("expected: {}", wanted.shown()))))
            }
        }
    }

    /// The first peer with a connection to a server. A path is taken for its own where it is the only server.
    fn still_connected(&self, server: usize) -> Option<&Peer> {
        let port = format!(":{}", self.servers.all[server].port);
        self.peers.iter().filter(|peer| peer.wire.is_some()).find(|peer| match &peer.address {
            Some(Address::Tcp(address) | Address::Tls(address)) => address.ends_with(&port),
            Some(Address::Unix(_)) => self.servers.all.len() == 1,
            None => false,
        })
    }

    /// Waits for something of a server, while everybody reads. False if it is too late.
    async fn until(&mut self, at: usize, mut is_it: impl FnMut(&mut Server) -> bool) -> bool {
        let deadline = Instant::now() + self.timeout;
        let peers = &mut self.peers;
        let server = &mut self.servers.all[at];
        let done = poll_fn(|cx| {
            peers.iter_mut().for_each(|peer| {
                peer.poll_read(cx);
            });
            server.process.wake(cx.waker());
            if is_it(server) { Poll::Ready(()) } else { Poll::Pending }
        });
        timeout_at(deadline, done).await.is_ok()
    }
}
