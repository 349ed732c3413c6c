//! The ladder's first rung against a web server that somebody else wrote, and against peers that fail at each step.

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Output},
    thread,
    time::Duration,
};

use rustix::net::sockopt;
use support::{Server, assert_same, example, finish, reserve};

/// Exit code, standard output and standard error.
#[track_caller]
fn get(arguments: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let mut command = example("http_client");
    command.args(arguments);
    let Output { status, stdout, stderr } = finish(command, b"");
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
    (status.code(), stdout, stderr)
}

/// The lines of one request, without their ends; the connection is what follows them.
fn request(listener: &TcpListener) -> (Vec<String>, TcpStream) {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let text = line.strip_suffix("\r\n").expect("a whole line");
        if text.is_empty() {
            return (lines, reader.into_inner());
        }
        lines.push(text.to_owned());
    }
}

/// What is asked of a listener, and what becomes of it when that answers.
fn ask(listener: &TcpListener, arguments: &[&str], answer: &[u8]) -> (Vec<String>, (Option<i32>, Vec<u8>, String)) {
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (lines, mut stream) = request(listener);
            stream.write_all(answer).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "nothing follows the request");
            lines
        });
        let got = get(arguments);
        (server.join().unwrap(), got)
    })
}

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[test]
fn the_request_has_method_path_version_and_host_and_the_answer_is_printed_as_it_comes() {
    let (listener, address) = listener();
    let answer: Vec<u8> = (0..1 << 20).map(|at| (at % 251) as u8).collect();
    for (arguments, path) in [(&[address.as_str()][..], "/"), (&[address.as_str(), "/a/b?c=d"], "/a/b?c=d")] {
        let (lines, (code, stdout, stderr)) = ask(&listener, arguments, &answer);
        assert_eq!(lines, [format!("GET {path} HTTP/1.0"), format!("Host: {address}")]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert_same("the answer", &stdout, &answer);
    }
    // An answer of nothing is an answer, too.
    assert_eq!(ask(&listener, &[&address], b"").1, (Some(0), vec![], String::new()));
}

#[test]
fn ipv6_addresses_are_written_in_brackets() {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        return eprintln!("not tested: there is no IPv6 here");
    };
    let address = listener.local_addr().unwrap().to_string();
    let (lines, (code, stdout, _)) = ask(&listener, &[&address], b"six");
    assert_eq!(lines[1], format!("Host: {address}"));
    assert_eq!((code, stdout.as_slice()), (Some(0), &b"six"[..]));
}

#[test]
fn the_step_that_failed_is_said_with_code_1() {
    let (code, stdout, stderr) = get(&["no-such-host.invalid"]);
    assert_eq!((code, stdout), (Some(1), vec![]));
    assert!(stderr.starts_with("http_client: cannot look up \"no-such-host.invalid\": "), "{stderr}");

    let (_nobody, address) = reserve();
    let address = address.to_string();
    let (code, stdout, stderr) = get(&[&address]);
    assert_eq!((code, stdout), (Some(1), vec![]));
    assert!(stderr.starts_with(&format!("http_client: cannot connect to {address}: ")), "{stderr}");

    let (listener, address) = listener();
    let (code, stdout, stderr) = thread::scope(|scope| {
        let address = &address;
        let client = scope.spawn(move || get(&[address]));
        let (_, mut stream) = request(&listener);
        stream.write_all(b"half of the").unwrap();
        sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        drop(stream);
        client.join().unwrap()
    });
    assert_eq!(code, Some(1));
    assert!(b"half of the".starts_with(&stdout), "{stdout:?}");
    assert!(stderr.starts_with(&format!("http_client: cannot receive from {address}, ")), "{stderr}");
}

#[test]
fn a_request_that_cannot_be_sent_is_said_with_code_1() {
    let (listener, address) = listener();
    let (code, _, stderr) = thread::scope(|scope| {
        let address = &address;
        let client = scope.spawn(move || get(&[address]));
        let (stream, _) = listener.accept().unwrap();
        sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        drop(stream);
        client.join().unwrap()
    });
    // Which of the two notices the reset is a race that the client may win.
    assert_eq!(code, Some(1));
    assert!(stderr.contains("cannot send the request to") || stderr.contains("cannot receive from"), "{stderr}");
}

#[test]
fn bad_usage_is_said_with_code_2() {
    for (arguments, words) in [
        (&[][..], "HOST[:PORT]"),
        (&["localhost:http"], "use 0 to 65535"),
        (&["localhost:65536"], "use 0 to 65535"),
        (&["[::1"], "closing bracket"),
        (&["[::1]8080"], "only a port"),
        (&[""], "no host"),
        (&[":80"], "no host"),
        (&["http://localhost"], "use 0 to 65535"),
        (&["localhost", "index.html"], "begins with /"),
        (&["localhost", "/a b"], "%20"),
        (&["localhost", "/ HTTP/1.0\r\nX: y"], "visible ASCII"),
        (&["local\r\nhost"], "no host"),
    ] {
        let (code, stdout, stderr) = get(arguments);
        assert_eq!((code, stdout), (Some(2), vec![]), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?} should say {words:?}:\n{stderr}");
    }
}

/// A folder with one file, served by Python.
fn python(bind: &str, test: &str) -> (Server, SocketAddr, Vec<u8>, PathBuf) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    fs::create_dir_all(&folder).unwrap();
    let file: Vec<u8> = (0..300_000).map(|at| (at % 253) as u8).collect();
    fs::write(folder.join("file.bin"), &file).unwrap();
    let mut command = Command::new("sh");
    let script = "exec python3 -u -m http.server 0 --protocol HTTP/1.0 --bind \"$0\" --directory \"$1\" >&2";
    command.args(["-c", script, bind]).arg(&folder);
    let server = Server::launch(command);
    // "Serving HTTP on ADDRESS port NUMBER (URL) ..."
    let line = server.log_line("Serving HTTP on ");
    let port = line.split(" port ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a port");
    let address = SocketAddr::new(bind.parse().unwrap(), port.parse().unwrap());
    (server, address, file, folder)
}

#[test]
#[ignore = "needs python3: run tests/run"]
fn a_file_comes_whole_from_a_real_web_server() {
    for (bind, test) in [("127.0.0.1", "http4"), ("::1", "http6")] {
        if bind == "::1" && TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            eprintln!("not tested with IPv6: there is none here");
            continue;
        }
        let (server, address, file, folder) = python(bind, test);
        let (code, stdout, stderr) = get(&[&address.to_string(), "/file.bin"]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        let body = stdout.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8_lossy(&stdout[..body]).into_owned();
        assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
        assert_same("the file", &stdout[body..], &file);

        let (code, stdout, _) = get(&[&address.to_string(), "/no-such-file"]);
        let head = String::from_utf8_lossy(&stdout).into_owned();
        assert!(code == Some(0) && head.starts_with("HTTP/1.0 404 "), "its status is the server's to say: {head}");

        let (_, stdout, _) = get(&[&address.to_string()]);
        assert!(String::from_utf8_lossy(&stdout).contains("file.bin"), "the list of the folder");
        drop(server);
        fs::remove_dir_all(folder).unwrap();
    }
}
