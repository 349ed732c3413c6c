//! Rung 1, blocking calls: one HTTP request, from the name to the last byte, written from top to bottom.
//!
//! `cargo run --release --example http_client -- example.org`, or `HOST[:PORT] [PATH]`; `[::1]:8080` for IPv6.
//!
//! It teaches what a call costs that returns only when it has an answer: look-up, connect, send and receive each stop
//! the program for as long as the network likes, and the code is as plain as it can be because of that.
//! It costs one thread for one conversation, and nothing else.
//! What breaks it is a second conversation. Whoever waits in `read` for one peer cannot hear another, and does not know
//! in advance which of them will speak first. The next rung gives each conversation a process of its own.
//!
//! Exit codes: 0, the server has closed and all is printed, whatever its status line says; 1, it could not be done, and
//! standard error says at which step; 2, bad usage.
//! Not here: TLS, redirects, time limits: the kernel gives up on a dead peer in minutes, on a silent one never.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    process::ExitCode,
};

use clap::Parser;

/// Prints what a web server answers to GET, status line and header fields included.
#[derive(Parser)]
struct Arguments {
    /// Whom to ask; the port is 80 unless given.
    #[arg(value_name = "HOST[:PORT]", value_parser = origin)]
    origin: Origin,
    /// What to ask for.
    #[arg(default_value = "/", value_parser = path)]
    path: String,
}

#[derive(Clone)]
struct Origin {
    host: String,
    port: u16,
    /// As the `Host` field has it: the port is left out if it is 80.
    authority: String,
}

/// The step that failed: the cases of the C program.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot look up {0:?}: {1}")]
    LookUp(String, io::Error),
    #[error("cannot connect to {0}: {1}")]
    Connect(String, io::Error),
    #[error("cannot send the request to {0}: {1}")]
    Send(String, io::Error),
    #[error("cannot receive from {0}, the answer may be incomplete: {1}")]
    Receive(String, io::Error),
    #[error("cannot print the answer: {0}")]
    Print(io::Error),
}

fn main() -> ExitCode {
    match get(&Arguments::parse(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        // Who pipes it into `head` has what they want.
        Err(Error::Print(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("http_client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn get(Arguments { origin, path }: &Arguments, out: &mut impl Write) -> Result<(), Error> {
    let Origin { host, port, authority } = origin;
    // Blocks until the resolver has answered, or given up.
    let addresses: Vec<_> =
        (host.as_str(), *port).to_socket_addrs().map_err(|error| Error::LookUp(host.clone(), error))?.collect();
    // Blocks for one round trip, or for minutes if nobody answers. Tries each address in turn; the last error is told.
    let mut stream = TcpStream::connect(&addresses[..]).map_err(|error| Error::Connect(authority.clone(), error))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\n\r\n");
    // Blocks until the kernel has taken all of it.
    stream.write_all(request.as_bytes()).map_err(|error| Error::Send(authority.clone(), error))?;
    let mut buffer = vec![0; 16 << 10];
    loop {
        // Blocks until something has come, or nothing will any more.
        let count = match stream.read(&mut buffer) {
            Ok(0) => return out.flush().map_err(Error::Print),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::Receive(authority.clone(), error)),
        };
        out.write_all(&buffer[..count]).map_err(Error::Print)?;
    }
}

/// `HOST`, `HOST:PORT`, `[IPV6]`, `[IPV6]:PORT`, or a bare IPv6 address.
fn origin(typed: &str) -> Result<Origin, String> {
    let (host, port) = match typed.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(None) => return Err("the closing bracket is missing: write [::1] or [::1]:8080".to_owned()),
        Some(Some((host, ""))) => (host, None),
        Some(Some((host, rest))) => match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None => return Err("only a port may follow the bracket: write [::1]:8080".to_owned()),
        },
        // Of several colons none begins a port: it is an IPv6 address.
        None => match typed.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (typed, None),
        },
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
        return Err("no host: write a name or an address, such as example.org or 127.0.0.1:8080".to_owned());
    }
    let port = port.map_or(Ok(80), str::parse).map_err(|_| "no port: use 0 to 65535".to_owned())?;
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let authority = if port == 80 { bracketed } else { format!("{bracketed}:{port}") };
    Ok(Origin { host: host.to_owned(), port, authority })
}

/// Anything else than visible ASCII could end the request line, and begin another.
fn path(typed: &str) -> Result<String, String> {
    if typed.starts_with('/') && typed.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(typed.to_owned())
    } else {
        Err("a path begins with / and has visible ASCII only: write %20 for a space".to_owned())
    }
}
