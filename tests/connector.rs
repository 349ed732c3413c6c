//! The example `connector` as a process: a client that survives the restarts of its `rot13d`.

mod support;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    process::{Child, ChildStdin, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use support::{PATIENCE, Server, assert_same, eventually, example, finish, measure_for, reserve, rot13d};

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
    // What it said of the attempts before is behind us.
    client.expect_to_say("connected to");

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

/// The example, with all of its input and a server that sends back what it gets.
fn echoed(input: &[u8]) -> Output {
    let mut command = example("echo");
    command.args(["--listen", "127.0.0.1:0"]);
    let server = Server::spawn(command);
    let mut client = example("connector");
    client.arg(server.address.to_string());
    finish(client, input)
}

#[test]
fn every_byte_passes_unchanged() {
    // CR LF and CR, bytes that are no UTF-8, NUL, a long line, and a last one without an end.
    let all: Vec<u8> = (0..=255).collect();
    let input = [b"one\r\n\xff\xfe\n\r\ntwo\rthree\n", &*all, b"\n", &vec![b'x'; 200_000], b"\n\0\ntail \xc3"].concat();
    let output = echoed(&input);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_same("what came back", &output.stdout, &input);
    assert_eq!(echoed(b"").status.code(), Some(0));
}

#[test]
fn a_signal_ends_a_client_once_it_has_its_answers() {
    let server = Server::start(&[]);
    for signal in [Signal::TERM, Signal::INT] {
        let mut client = Client::start(&[&server.address.to_string()]);
        client.type_in("Hello\n");
        client.expect_answer("Uryyb");
        kill_process(Pid::from_child(&client.process), signal).unwrap();
        let status = eventually("the client to exit", || client.process.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{signal:?}");
    }
    // While it has no connection as well.
    let (_ours, address) = reserve();
    let mut client = Client::start(&[&address.to_string()]);
    client.type_in("Hello\n");
    client.expect_to_say("again in");
    kill_process(Pid::from_child(&client.process), Signal::TERM).unwrap();
    let status = eventually("the client to exit", || client.process.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_client_that_is_told_no_address_says_how_to_write_one() {
    let mut client = example("connector");
    client.arg("localhost");
    let output = finish(client, b"");
    assert_eq!(output.status.code(), Some(1));
    let says = String::from_utf8(output.stderr).unwrap();
    assert!(says.starts_with("\"localhost\" is no address: write it as example.org:40713"), "{says}");
}

#[test]
fn input_that_cannot_be_read_is_an_error() {
    let server = Server::start(&[]);
    let mut client = example("connector");
    // A folder can be opened, not read.
    client.arg(server.address.to_string()).stdin(File::open("/").unwrap()).stdout(Stdio::null());
    let output = client.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let says = String::from_utf8(output.stderr).unwrap();
    assert!(says.contains("the input cannot be read: "), "{says}");
}

#[test]
fn a_server_that_does_not_read_costs_no_memory() {
    const INPUT: usize = 24 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = Client::start(&[&listener.local_addr().unwrap().to_string()]);
    let (mut server, _) = listener.accept().unwrap();
    let mut stdin = client.stdin.take().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let writer = thread::spawn(move || {
        let line = [vec![b'x'; 1023], vec![b'\n']].concat();
        for _ in 0..INPUT / line.len() {
            stdin.write_all(&line).unwrap();
            counted.fetch_add(line.len(), Relaxed);
        }
    });
    // Until it takes no more. Should it only be slow, this shows less than it could; the bound holds at any time.
    let mut before = 0;
    while taken.load(Relaxed) > before || before == 0 {
        before = taken.load(Relaxed);
        measure_for(Duration::from_millis(300));
    }
    let mut got = 0;
    let mut buffer = vec![0; 1 << 20];
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    while got < INPUT {
        got += server.read(&mut buffer).unwrap();
    }
    let status = fs::read_to_string(format!("/proc/{}/status", client.process.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < INPUT / 2 / 1024, "{peak_kib} KiB for {INPUT} bytes");
    writer.join().unwrap();
    drop(server);
}
