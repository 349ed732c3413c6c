//! `linescript compare`: a table of what holds on which server, and in which manner the rest fails.

mod support;

use std::{
    env, fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use actix_lines::rot13;
use rustix::net::sockopt::set_socket_linger;
use support::{compare, folder, linescript, stderr, stdout};

/// A server with a fault of its own: this program again.
#[test]
fn serve() {
    let Some(fault) = env::var_os("LINESCRIPT_FAULT") else { return };
    let fault = fault.into_string().expect("text");
    let port = env::var("port").expect("the port to listen on").parse::<u16>().expect("a number");
    assert_ne!(fault, "absent");
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    let mut kept = Vec::new();
    for mut stream in listener.incoming().map_while(Result::ok) {
        if fault == "keeps" {
            kept.push(stream.try_clone().expect("a descriptor"));
        }
        let fault = fault.clone();
        thread::spawn(move || session(&mut stream, &fault));
    }
}

fn session(stream: &mut TcpStream, fault: &str) {
    let mut space = [0; 1000];
    while let Ok(count @ 1..) = stream.read(&mut space) {
        let bytes = &mut space[..count];
        rot13(bytes);
        let answer = match fault {
            "ends" => return drop(stream.shutdown(Shutdown::Both)),
            "resets" => {
                set_socket_linger(&*stream, Some(Duration::ZERO)).expect("an option");
                return;
            }
            "deaf" => continue,
            "shouts" => bytes.to_ascii_uppercase(),
            "twice" => bytes.repeat(2),
            _ => bytes.to_vec(),
        };
        let _ = stream.write_all(&answer);
    }
}

fn server(name: &str, fault: &str) -> String {
    let this = env::current_exe().expect("a path");
    format!("{name}=env LINESCRIPT_FAULT={fault} LISTEN=$port '{}' --exact serve --nocapture", this.display())
}

#[test]
fn the_table_says_what_holds_and_how_the_rest_fails() {
    let folder = folder("compare");
    for (name, text) in [
        ("hello", "> hello\n< uryyb\n: close\n"),
        ("fin", "> hello\n< uryyb\n: fin\n: eof\n"),
        ("eof", ": connect\n: fin\n: eof\n"),
        ("here", "needs memory\n> hello\n< uryyb\n"),
        ("own", "server true\nserver: exit 0\n"),
    ] {
        fs::create_dir_all(folder.join("scripts")).expect("a folder");
        fs::write(folder.join("scripts").join(name).with_extension("session"), text).expect("a file");
    }
    let faults = ["none", "ends", "resets", "deaf", "shouts", "twice", "keeps"];
    let servers = faults.map(|fault| server(fault, fault));
    let servers = servers.iter().flat_map(|server| ["--server", server]);
    let arguments: Vec<_> =
        ["compare", "scripts", "--timeout", "2", "--jobs", "3"].into_iter().chain(servers).collect();
    let output = linescript(&folder, &arguments);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    compare("compare.md", &stdout(&output));
    assert!(
        stderr(&output).contains("shouts, hello: other bytes\nerror: the peer expected a line and"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn servers_that_cannot_choose_their_port_take_turns() {
    let folder = folder("compare_turns");
    fs::write(folder.join("hello.session"), "> hello\n< uryyb\n").expect("a file");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let servers = ["one", "two", "three"].map(|name| server(&format!("{name}:{port}"), "none"));
    let servers = servers.iter().flat_map(|server| ["--server", server]);
    let arguments: Vec<_> = ["compare", "hello.session", "--jobs", "3"].into_iter().chain(servers).collect();
    let output = linescript(&folder, &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("| hello | holds | holds | holds |"), "{}", stdout(&output));
}

#[test]
fn a_server_that_does_not_start_and_one_that_is_none_are_exit_code_2() {
    let folder = folder("compare_wrong");
    fs::write(folder.join("hello.session"), "> hello\n< uryyb\n").expect("a file");
    let output = linescript(&folder, &["compare", "hello.session", "--server", &server("absent", "absent")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stdout(&output).contains("| hello | not started |"), "{}", stdout(&output));
    for wrong in ["no name", "=no name", "name:port=true", "a|b=true", "name="] {
        let output = linescript(&folder, &["compare", "hello.session", "--server", wrong]);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        assert!(stderr(&output).contains("--server"), "{wrong}: {}", stderr(&output));
    }
}
