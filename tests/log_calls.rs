//! Every message of the log is known for how often it can come: none that peers can cause comes as often as they like.
//!
//! The sources of the server and of the library are read, and each of their calls has a row below. Whoever adds one has to
//! decide: a row of a kind that peers can cause is checked for its limit.

#[path = "support/files.rs"]
mod files;

use std::{collections::BTreeMap, fs, path::Path};

/// How often a message can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Often {
    /// Peers cause it: once each ten seconds, with a count.
    Limited,
    /// Peers cause it, once a session, and only with `-v`: that is what it is for.
    Verbose,
    /// Once for what an operator does: a start, a signal, a change.
    Asked,
    /// Once for what peers have no part in: a failed disk, a clock, a service manager.
    Rare,
    /// Once behind a message that is limited, and says that it is over.
    Behind,
    /// After a pause that grows with each failure.
    BackedOff,
}
use Often::{Asked, BackedOff, Behind, Limited, Rare, Verbose};

/// File, and the beginning of the message.
const CALLS: &[(&str, &str, Often)] = &[
    ("actors/src/connect/connector.rs", "connected to {}", BackedOff),
    ("actors/src/connect/connector.rs", "lost {}", BackedOff),
    ("actors/src/connect/connector.rs", "{}", BackedOff),
    ("actors/src/connect/connector.rs", "giving up on {}", BackedOff),
    ("actors/src/console/asked.rs", "console: {}: {} {what}", Asked),
    ("actors/src/console/asked.rs", "console: {}: {}: {what}", Asked),
    ("actors/src/console/builder.rs", "the console is not there", Asked),
    ("actors/src/console/changes.rs", "console: drained", Asked),
    ("actors/src/console/session.rs", "console: {}: {why}", Limited),
    ("actors/src/control/admission/setup.rs", "listener {label}: no connection gets through", Limited),
    ("actors/src/control/supervisor.rs", "the supervisor has ended", Rare),
    ("actors/src/control/supervisor.rs", "draining: ", Asked),
    ("actors/src/control/supervisor.rs", "worker {worker} has stopped", Rare),
    ("actors/src/control/supervisor.rs", "every worker has stopped", Rare),
    ("actors/src/control/ways.rs", "a worker's thread panicked", Rare),
    ("actors/src/http/control.rs", "http: {who}: wrong token", Limited),
    ("actors/src/http/control.rs", "http: {who}: {change}", Asked),
    ("actors/src/http/control.rs", "http: {who}: {command}", Asked),
    ("actors/src/http/control.rs", "drained: ", Asked),
    ("actors/src/http/listener.rs", "http at {shown} has ended", Rare),
    ("actors/src/listen/acceptor.rs", "listening on ", Asked),
    ("actors/src/listen/acceptor.rs", "listener {}: {what}", Asked),
    ("actors/src/listen/acceptor.rs", "listener {}: cannot accept: no descriptor", Rare),
    ("actors/src/listen/acceptor.rs", "listener {}: cannot accept: {error}\"", Rare),
    ("actors/src/listen/acceptor.rs", "listener {label}: its acceptor has failed", Rare),
    ("actors/src/listen/acceptor.rs", "listener {label}: cannot listen again", Rare),
    ("actors/src/listen/acceptor.rs", "listener {label}: has a descriptor", Rare),
    ("actors/src/listen/acceptor.rs", "listener {label}: accepts nothing yet", Rare),
    ("actors/src/listen/acceptor.rs", "listener {}: {error}", Rare),
    ("actors/src/listen/acceptor.rs", "listener {label}: accepts again", Behind),
    ("actors/src/listen/acceptor.rs", "listener {}: cannot accept: {error}; new", Limited),
    ("actors/src/listen/acceptor.rs", "listener {label}: {peer} is refused", Verbose),
    ("actors/src/listen/acceptor.rs", "listener {label}: {refused} refused", Limited),
    ("actors/src/listen/acceptor.rs", "listener {label}: every worker has stopped", Limited),
    ("actors/src/listen/listener.rs", "listener {address}: socket options", Asked),
    ("actors/src/listen/listener.rs", "listener {address}: backlog", Asked),
    ("actors/src/listen/listener.rs", "listener {address}: its socket was handed over", Asked),
    ("actors/src/log_limit.rs", "{about}{events} more", Behind),
    ("actors/src/metrics/text.rs", "a program's own metrics", Limited),
    ("actors/src/record/recorder.rs", "recording {file} was not written", Limited),
    ("actors/src/server/launch.rs", "signals cannot be handled", Asked),
    ("actors/src/server/launch.rs", "a listener is lost", Asked),
    ("actors/src/server/protocol.rs", "session {id}: the factory of a filter panicked", Limited),
    ("actors/src/server/signals.rs", "{name} again", Asked),
    ("actors/src/server/signals.rs", "{name}: draining", Asked),
    ("actors/src/server/signals.rs", "drained: ", Asked),
    ("actors/src/session/opening.rs", "session {id}: the factory of its actor panicked", Limited),
    ("actors/src/session/user_code.rs", "session {id}{}: its handler panicked", Limited),
    ("actors/src/shared.rs", "the destructor of bytes", Limited),
    ("actors/src/wire/transport.rs", "session {session}: a filter failed", Verbose),
    ("actors/src/worker/eviction.rs", "session {id}: evicted", Limited),
    ("actors/src/worker/worker.rs", "session {id}{} at {listener}: a turn took", Limited),
    ("actors/src/worker/worker.rs", "session {id}{}: a turn took", Limited),
    ("actors/src/worker/worker.rs", "session {id}: its last turn took", Limited),
    ("actors/src/worker/worker.rs", "session {id}{peer}{at} is refused", Verbose),
    ("actors/src/worker/worker.rs", "{refused} by way of proxies refused", Limited),
    ("actors/src/worker/worker.rs", "{} ended in handshakes", Limited),
    ("actors/src/worker/worker.rs", "{report}", Verbose),
    ("src/config.rs", "drain-spread is more than half of drain-", Asked),
    ("src/config.rs", "max-sessions {} is more", Asked),
    ("src/console.rs", "no console: ", Asked),
    ("src/descriptors.rs", "the descriptor limit stays", Asked),
    ("src/http.rs", "http: served at ", Asked),
    ("src/http.rs", "http: whoever ", Asked),
    ("src/listeners.rs", "SIGHUP: {}", Asked),
    ("src/listeners.rs", "{}: {note}", Asked),
    ("src/logging/panics.rs", "panicked at {location}", Limited),
    ("src/logging/panics.rs", "panicked: {text}", Limited),
    ("src/logging/panics.rs", "panicked {count} more times", Behind),
    ("src/recording.rs", "recording sessions in", Asked),
    ("src/recording.rs", "the last recordings", Asked),
    ("src/service.rs", "the socket {socket} was handed over", Asked),
    ("src/service.rs", "no watchdog", Asked),
    ("src/service.rs", "the service manager hears nothing", Asked),
    ("src/service.rs", "the service manager does not take", Rare),
    ("src/service.rs", "every worker answers again", Rare),
    ("src/service.rs", "no sign of life", Rare),
    ("src/secret.rs", "{shown} has mode", Asked),
    ("src/signals.rs", "SIGHUP: ", Asked),
    ("src/signals.rs", "{}{others}", Asked),
    ("src/signals.rs", "{line}", Asked),
    ("actors/src/agent_check.rs", "agent checks are not answered", Rare),
    ("actors/src/cluster/agent.rs", "cluster: node {} could not take itself", Rare),
    ("actors/src/cluster/agent.rs", "cluster: {name} has panicked", Rare),
    ("actors/src/cluster/health.rs", "cluster: store found", Rare),
    ("actors/src/cluster/health.rs", "cluster: the subscription is heard again", Rare),
    ("actors/src/cluster/health.rs", "cluster: store lost: {why}; {limits}", Rare),
    ("actors/src/cluster/health.rs", "cluster: {why}: the subscription is open", Rare),
    ("actors/src/cluster/lease.rs", "cluster: another live node has the name", Rare),
    ("actors/src/cluster/lease.rs", "cluster: joined as", Rare),
    ("actors/src/cluster/lease.rs", "cluster: {id} is fenced", Rare),
    ("actors/src/console/nodes.rs", "console: {}: {} over nodes has ended", Asked),
    ("actors/src/session/gated.rs", "session {id}: its gate panicked", Limited),
    ("actors/src/worker/worker.rs", "{refused} refused at gates", Limited),
    ("src/cluster.rs", "cluster: this is node", Asked),
];

/// A call in the sources.
#[derive(Debug)]
struct Call {
    line: usize,
    level: String,
    /// The message, as it is in the source.
    text: String,
    /// From some lines before the call to its end.
    around: String,
}

/// The calls of a source, without those of its tests.
fn calls(source: &str) -> Vec<Call> {
    let source = source.split("\n#[cfg(test)]\nmod ").next().unwrap();
    let mut found = Vec::new();
    for (at, _) in source.match_indices("log::") {
        let rest = &source[at + "log::".len()..];
        let Some((level, arguments)) = rest.split_once("!(") else { continue };
        if !["error", "warn", "info", "debug", "trace", "log"].contains(&level) {
            continue;
        }
        let line_start = source[..at].rfind('\n').map_or(0, |end| end + 1);
        if source[line_start..at].trim_start().starts_with("//") {
            continue;
        }
        let text = arguments.split_once('"').map_or("", |(_, text)| text);
        let end = arguments.find(";\n").or(arguments.find(",\n")).unwrap_or(arguments.len());
        let before: Vec<_> = source[..at].lines().rev().take(24).collect();
        found.push(Call {
            line: source[..at].lines().count(),
            level: level.to_owned(),
            text: text.chars().take(200).collect(),
            around: before.into_iter().rev().chain([&arguments[..end]]).collect::<Vec<_>>().join("\n"),
        });
    }
    found
}

fn all_calls() -> BTreeMap<String, Vec<Call>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = ["src", "actors/src"].iter().flat_map(|folder| files::below(&root.join(folder), "rs"));
    let name = |path: &Path| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    paths.map(|path| (name(&path), calls(&fs::read_to_string(path).unwrap()))).collect()
}

#[test]
fn each_message_has_a_limit_that_fits_its_cause() {
    let all = all_calls();
    let mut wrong = Vec::new();
    for (file, calls) in &all {
        for Call { line, level, text, around } in calls {
            let rows: Vec<_> =
                CALLS.iter().filter(|(of, begin, _)| of == file && text.starts_with(begin)).map(|row| row.2).collect();
            // Several calls may begin alike, and are limited alike.
            let Some(often) = rows.first().filter(|first| rows.iter().all(|row| row == *first)) else {
                wrong.push(format!("    (\"{file}\", \"{}\", ...), // {level}, line {line}", first_words(text)));
                continue;
            };
            let is_limited = [".pass(", ".due(", ".begin("].iter().any(|call| around.contains(call));
            let is_verbose = level == "debug" || level == "trace";
            if *often == Limited && !(is_limited && around.contains("count = ")) {
                wrong.push(format!("{file}:{line}: a limit and its `count` are missing: {text:.40}"));
            }
            if is_verbose && !matches!(often, Verbose | Asked) || *often == Verbose && !is_verbose {
                wrong.push(format!("{file}:{line}: it is at {level}: {text:.40}"));
            }
        }
    }
    for (file, begin, _) in CALLS {
        let is_there = all.get(*file).is_some_and(|calls| calls.iter().any(|call| call.text.starts_with(begin)));
        if !is_there {
            wrong.push(format!("{file}: no message begins so any more: {begin:?}"));
        }
    }
    assert!(wrong.is_empty(), "add a row for each, or mend it:\n{}", wrong.join("\n"));
}

fn first_words(text: &str) -> String {
    let line = text.split(['"', '\n']).next().unwrap_or_default();
    line.chars().take(40).collect()
}

#[test]
fn calls_are_found_in_a_source_and_not_in_its_comments_and_tests() {
    let source = "//! log::warn!(\"no\")\nfn f() {\n    if let Some(events) = limit.pass(&KIND, \"\") {\n        log::warn!(\n            \
                  count = events;\n            \"so {events}\"\n        );\n    }\n    // log::info!(\"no\")\n    log::info!(\"yes\");\n}\n\n\
                  #[cfg(test)]\nmod tests {\n    log::error!(\"no\");\n}\n";
    let found = calls(source);
    let found: Vec<_> = found.iter().map(|call| (&*call.level, first_words(&call.text))).collect();
    assert_eq!(found, [("warn", "so {events}".to_owned()), ("info", "yes".to_owned())]);
    assert!(calls(source)[0].around.contains(".pass(") && calls(source)[0].around.contains("count = "));
}
