//! The example `connector` as a process: a client that survives the restarts of its `rot13d`.

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use rustix::{
    net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt::set_socket_reuseaddr},
    process::Signal,
};
use support::{PATIENCE, Server, eventually, example, rot13d};

/// The example as a process, which does not outlive its test.
struct Client {
    process: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    says: Receiver<String>,
}

fn lines(source: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        // Nobody may be left to be told.
        BufReader::new(source).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    receiver
}

impl Client {
    fn start(arguments: &[&str]) -> Self {
        let mut command = example("connector");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("the example starts");
        let stdin = process.stdin.take();
        let answers = lines(process.stdout.take().expect("it is piped"));
        let says = lines(process.stderr.take().expect("it is piped"));
        Self { process, stdin, answers, says }
    }

    fn type_in(&mut self, text: &str) {
        self.stdin.as_mut().expect("it is open").write_all(text.as_bytes()).expect("the example reads");
    }

    #[track_caller]
    fn expect_answer(&self, answer: &str) {
        assert_eq!(self.answers.recv_timeout(PATIENCE).as_deref(), Ok(answer));
    }

    /// Waits until it says something of which this is a part.
    #[track_caller]
    fn expect_to_say(&self, part: &str) {
        loop {
            let line = self.says.recv_timeout(PATIENCE);
            if line.unwrap_or_else(|error| panic!("instead of {part:?}: {error}")).contains(part) {
                return;
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that nobody else gets, also as one to call from; our server may listen there, again and again.
fn reserve() -> (OwnedFd, SocketAddr) {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    set_socket_reuseaddr(&socket, true).unwrap();
    bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = getsockname(&socket).unwrap().try_into().unwrap();
    (socket, address)
}

fn serve(address: SocketAddr) -> Server {
    let mut command = rot13d();
    command.args(["--listen", &address.to_string()]);
    Server::spawn(command)
}

#[test]
fn a_client_talks_on_when_its_server_was_restarted() {
    let (_ours, address) = reserve();
    let mut server = serve(address);
    let mut client = Client::start(&[&address.to_string()]);
    client.type_in("Hello\n");
    client.expect_answer("Uryyb");

    server.signal(Signal::TERM);
    assert_eq!(server.wait().0, Some(0));
    client.expect_to_say("closed: peer-eof");
    client.expect_to_say("connection refused");
    client.type_in("typed while nobody listened\n");
    let server = serve(address);
    client.expect_answer("glcrq juvyr abobql yvfgrarq");

    // Killed, it says good-bye to nobody.
    drop(server);
    client.expect_to_say("again in");
    let server = serve(address);
    client.type_in("one\ntwo\nthree\n");
    drop(client.stdin.take());
    for answer in ["bar", "gjb", "guerr"] {
        client.expect_answer(answer);
    }
    let status = eventually("the client to exit", || client.process.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    drop(server);
}

#[test]
fn a_client_that_is_told_no_address_says_how_to_write_one() {
    let mut client = Client::start(&["localhost"]);
    client.expect_to_say("localhost");
    let status = eventually("the client to exit", || client.process.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
}
