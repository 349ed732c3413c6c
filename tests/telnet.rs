//! Real peers: `telnet` in a pseudo-terminal, `curl`, `nc` with a file.

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    thread,
};

use actix::Actor;
use actix_lines::{
    Line, LineContext, LineHandler, LineServer, Listener,
    filter::Notice,
    telnet::{Telnet, TelnetEvent},
};
use support::{Server, assert_same, finish, tr};

#[test]
#[ignore = "needs telnet: run tests/run"]
fn a_person_at_a_telnet_gets_answers_and_quits() {
    let server = Server::start(&["-v"]);
    let mut command = Command::new("telnet");
    command.args(["127.0.0.1", &server.address.port().to_string()]);
    let patience = Some(support::PATIENCE.as_millis() as u64);
    let mut telnet = rexpect::session::spawn_command(command, patience).unwrap();
    telnet.exp_string("Escape character is '^]'.").unwrap();
    telnet.send_line("Why did the chicken cross the road?").unwrap();
    telnet.exp_string("Jul qvq gur puvpxra pebff gur ebnq?").unwrap();
    telnet.send_line("To get to the other side.").unwrap();
    telnet.exp_string("Gb trg gb gur bgure fvqr.").unwrap();
    telnet.send_control(']').unwrap();
    telnet.exp_string("telnet>").unwrap();
    telnet.send_line("quit").unwrap();
    telnet.exp_eof().unwrap();
    let line = server.log_line(" closed: ");
    // telnet ends lines with CR LF.
    assert!(line.contains("peer-eof, 2 lines and 64 bytes in, 64 bytes out"), "{line}");
}

#[test]
#[ignore = "needs netcat-openbsd: run tests/run"]
fn a_file_sent_by_nc_comes_back_as_tr_prints_it() {
    let server = Server::start(&[]);
    let input = fs::read(env!("CARGO_BIN_EXE_rot13d")).unwrap();
    let mut nc = Command::new("nc");
    nc.args(["-N", "127.0.0.1", &server.address.port().to_string()]);
    let output = finish(nc, &input);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_same("what nc printed", &output.stdout, &tr(&input));
}

/// Says what it was told, a line each.
#[derive(Default)]
struct Desk;

impl Actor for Desk {
    type Context = LineContext<Self>;
}

impl LineHandler for Desk {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        writeln!(ctx, "line of {}", line.text().escape_ascii());
    }

    fn notice(&mut self, notice: &Notice, ctx: &mut Self::Context) {
        writeln!(ctx, "told {:?}", notice.get::<TelnetEvent>());
    }
}

/// Starts a server that speaks telnet; returns its port.
fn serve() -> u16 {
    let (sender, address) = std::sync::mpsc::channel();
    thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let listener = Listener::tcp("127.0.0.1:0").telnet(Telnet::new().window_size(true));
            let server = LineServer::new(|_| Desk).listen(listener).unwrap().start().unwrap();
            sender.send(server.local_addrs()[0]).unwrap();
            server.wait().await.unwrap();
        });
    });
    address.recv_timeout(support::PATIENCE).unwrap().port()
}

#[test]
#[ignore = "needs curl: run tests/run"]
fn curl_negotiates_and_gets_its_answers() {
    let mut curl = Command::new("curl");
    // It offers its terminal, which is refused, and tells the size of a window that it has not.
    curl.args(["-sSN", "-m", "50", "-t", "TTYPE=vt100", &format!("telnet://127.0.0.1:{}", serve())]);
    let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    // It reads its input before it reads answers, and waits for it: so it is always given more.
    let typist = thread::spawn(move || while input.write_all(b"hello\r\n").is_ok() {});
    let (mut sizes, mut answers) = (0, 0);
    while sizes < 1 || answers < 3 {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        match line.as_str() {
            "told Some(WindowSize(WindowSize { columns: 0, rows: 0 }))\n" => sizes += 1,
            "line of hello\n" => answers += 1,
            other => panic!("{other:?}"),
        }
    }
    // It does not end by itself when the server has closed.
    child.kill().unwrap();
    child.wait().unwrap();
    typist.join().unwrap();
}

#[test]
#[ignore = "needs telnet: run tests/run"]
fn what_a_real_telnet_negotiates_and_says_reaches_the_handler() {
    let port = serve();
    let patience = Some(support::PATIENCE.as_millis() as u64);
    let mut telnet = rexpect::session::spawn_command(Command::new("telnet"), patience).unwrap();
    telnet.exp_string("telnet>").unwrap();
    // With a dash it negotiates from the beginning, as at port 23.
    telnet.send_line(&format!("open 127.0.0.1 -{port}")).unwrap();
    telnet.exp_string("Escape character is '^]'.").unwrap();
    telnet.exp_string("told Some(WindowSize(").unwrap();
    telnet.send_line("hello").unwrap();
    // It sends lines, not characters.
    telnet.exp_string("line of hello").unwrap();
    for (command, told) in [("ayt", "AreYouThere"), ("ip", "Interrupt"), ("brk", "Break"), ("el", "EraseLine")] {
        telnet.send_control(']').unwrap();
        telnet.exp_string("telnet>").unwrap();
        telnet.send_line(&format!("send {command}")).unwrap();
        telnet.exp_string(&format!("told Some({told})")).unwrap();
    }
    telnet.send_line("still here").unwrap();
    telnet.exp_string("line of still here").unwrap();
    telnet.send_control(']').unwrap();
    telnet.exp_string("telnet>").unwrap();
    telnet.send_line("quit").unwrap();
    telnet.exp_eof().unwrap();
}
