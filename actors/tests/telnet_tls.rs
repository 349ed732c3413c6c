//! Telnet within TLS: commands and their answers are encrypted as lines are, and come in order with them.

#[path = "support/tls.rs"]
mod authority;
mod support;

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use actix::Actor;
use actix_lines::{
    CloseReason, Line, LineContext, LineHandler, LineServer, Listener,
    filter::Notice,
    telnet::{Telnet, TelnetEvent},
    tls::{Tls, TlsInfo},
};
use authority::Authority;
use support::{Server, cut, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Says what it was told, a line each.
struct Desk;

impl Actor for Desk {
    type Context = LineContext<Self>;
}

impl LineHandler for Desk {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        assert!(ctx.connection().tls().and_then(TlsInfo::server_name).is_some());
        writeln!(ctx, "line of {}", line.text().escape_ascii());
        ctx.write(&line);
    }

    fn notice(&mut self, notice: &Notice, ctx: &mut Self::Context) {
        writeln!(ctx, "told {:?}", notice.get::<TelnetEvent>().unwrap());
    }
}

async fn serve(telnet: Telnet) -> (Server, Authority) {
    let authority = Authority::new();
    let files = authority.issue("server", &["localhost"]);
    let tls = Tls::builder(files.certificate, files.key).build().unwrap();
    let listener = Listener::tcp("127.0.0.1:0").tls(tls).telnet(telnet);
    (Server::of(LineServer::new(|_| Desk).workers(1).listen(listener).unwrap()).await, authority)
}

/// A command within a line, one that is answered, data of 255, a subnegotiation, and a line behind all.
const SAID: &[u8] =
    b"o\xff\xf4ne\r\n\xff\xf6\xff\xfb\x2atwo\xff\xff\n\xff\xfb\x1f\xff\xfa\x1f\0\x50\0\x18\xff\xf0three\n";

/// What comes back, but for when an option is answered.
const TOLD: &[u8] = b"told Interrupt\nline of one\none\r\ntold AreYouThere\n\
    line of two\\xff\ntwo\xff\xff\ntold WindowSize(WindowSize { columns: 80, rows: 24 })\nline of three\nthree\n";

/// Asks for the window's size; refuses what it does not know.
const ASKS: &[u8] = b"\xff\xfd\x1f";
const REFUSES: &[u8] = b"\xff\xfe\x2a";

#[actix::test]
async fn commands_come_in_order_with_lines_and_are_answered_within_tls_wherever_records_end() {
    let (mut server, authority) = serve(Telnet::new().window_size(true)).await;
    for sizes in (1..SAID.len()).map(|at| [at, SAID.len()]).chain([[1, 1], [2, 3]]) {
        let mut peer = authority.client().connect(server.address(), "localhost").await;
        let (mut reader, mut writer) = tokio::io::split(&mut peer);
        let send = async {
            for record in cut(SAID, &sizes) {
                writer.write_all(record).await.unwrap();
                writer.flush().await.unwrap();
            }
            writer.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        within("the end", async { tokio::join!(send, reader.read_to_end(&mut got)).1.unwrap() }).await;
        let rest = got.strip_prefix(ASKS).expect("the filter speaks first");
        let at = rest.windows(3).position(|three| three == REFUSES).expect("an unknown option is refused");
        let told = [&rest[..at], &rest[at + 3..]].concat();
        assert_eq!(told.escape_ascii().to_string(), TOLD.escape_ascii().to_string(), "{sizes:?}");
        let report = server.report().await;
        // Of lines, not of commands and not of records.
        assert_eq!((report.reason, report.lines_in, report.bytes_in), (CloseReason::PeerEof, 3, 5 + 5 + 6), "{report}");
    }
    server.end().await;
}

#[actix::test]
#[ignore = "needs openssl: run tests/run"]
async fn openssl_carries_commands_and_their_answers() {
    let (mut server, authority) = serve(Telnet::new()).await;
    let port = server.address().port();
    let mut command = Command::new("timeout");
    command.args(["50", "openssl", "s_client", "-quiet", "-no_ign_eof", "-connect", &format!("127.0.0.1:{port}")]);
    command.args(["-servername", "localhost", "-verify_return_error", "-CAfile"]).arg(authority.file());
    let talk = move || {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        input.write_all(b"o\xff\xf4ne\r\n\xff\xfb\x2a\xff\xf6two\xff\xff\n").unwrap();
        let told = b"told Interrupt\nline of one\none\r\ntold AreYouThere\nline of two\\xff\ntwo\xff\xff\n";
        let mut got = vec![0; told.len() + 3];
        output.read_exact(&mut got).unwrap();
        drop(input);
        child.wait().unwrap();
        let at = got.windows(3).position(|three| three == REFUSES).expect("an unknown option is refused");
        got.drain(at..at + 3);
        assert_eq!(got.escape_ascii().to_string(), told.escape_ascii().to_string());
    };
    within("openssl", tokio::task::spawn_blocking(talk)).await.unwrap();
    let report = server.report().await;
    assert_eq!((report.reason, report.lines_in, report.bytes_in), (CloseReason::PeerEof, 2, 10), "{report}");
    server.end().await;
}
