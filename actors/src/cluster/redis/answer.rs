//! Answer: what a server has said, as the words of a store.
//!
//! The server may be anything that listens on that port, and its keys may be another program's: nothing here panics, no
//! text of it goes further than a cut line without our password, and an entry that is not understood is left out and counted.
//! Not here: who asks (`link`), scripts (`scripts`).

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerError, ServerErrorKind, Value};

use crate::{
    cluster::{
        id::NodeId,
        redis::url::Secret,
        stats::Count,
        store::{Cursor, NamedRows, NodeRecord, Row, RowPage, StoreError, Verdict},
    },
    escape::Escaped,
};

/// What becomes of a connection whose server has said this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Keep,
    /// Another server may do it, or the connection is of no more use.
    Reconnect,
    /// The server does not know the script: it is to be told.
    TellScript,
}

/// Longest text in an error, and of a server in it. Unit: characters.
const LONGEST: usize = 400;
const LONGEST_DETAIL: usize = 160;

/// Returns a text of a server without secrets and control characters, cut.
pub(super) fn clean(text: &str, secrets: &[Secret]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().map(Secret::as_str).filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "(secret)");
    }
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    Escaped::new(&short).to_string()
}

/// Returns the error of a connection, or of a server that refuses to be connected to.
pub(super) fn connection_error(error: &RedisError) -> (StoreError, Then) {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::Io => (
            lost(if error.is_connection_dropped() { "the connection has ended".to_owned() } else { text }),
            Then::Reconnect,
        ),
        ErrorKind::Parse => (
            lost("what answers there is no Redis, or speaks TLS: check the host, the port and the scheme".to_owned()),
            Then::Reconnect,
        ),
        ErrorKind::RESP3NotSupported => (refused(format!("HELLO is unknown there: {OLD}")), Then::Reconnect),
        _ => {
            let code = error.code().unwrap_or("ERR").to_owned();
            server_error(error_kind(error), &code, error.detail().unwrap_or(&text))
        }
    }
}

fn error_kind(error: &RedisError) -> Option<ServerErrorKind> {
    match error.kind() {
        ErrorKind::Server(kind) => Some(kind),
        _ => None,
    }
}

/// Returns what an answer is if it is no error.
pub(super) fn no_error(value: Value) -> Result<Value, (StoreError, Then)> {
    match value {
        Value::ServerError(error) => Err(named_error(&error)),
        value => Ok(value),
    }
}

fn named_error(error: &ServerError) -> (StoreError, Then) {
    server_error(error.kind(), error.code(), error.details().unwrap_or_default())
}

const PERMISSIONS: &str = "give the user what docs/operating.md names under Several nodes";
/// The versions that have what is asked for.
const OLD: &str = "use Redis 7.0, Valkey 7.2, or a later one";

fn server_error(kind: Option<ServerErrorKind>, code: &str, detail: &str) -> (StoreError, Then) {
    use ServerErrorKind as Kind;
    let cut: String = detail.chars().take(LONGEST_DETAIL).collect();
    let said = || format!("{code} {cut}");
    let advise = |advice: &str| refused(format!("{}; {advice}", said().trim_end_matches(['.', ' '])));
    match (kind, code) {
        (Some(Kind::NoScript), _) => (refused(said()), Then::TellScript),
        // Another server is the master, or will be.
        (Some(Kind::ReadOnly), _) => {
            (lost("the server is a replica, which takes no writes".to_owned()), Then::Reconnect)
        }
        (Some(Kind::MasterDown | Kind::BusyLoading | Kind::ClusterDown | Kind::TryAgain), _) => {
            (lost(said()), Then::Reconnect)
        }
        (_, "NOREPLICAS") => (lost(said()), Then::Reconnect),
        // A script or a module of somebody keeps it busy.
        (_, "BUSY" | "UNKILLABLE") => (lost(said()), Then::Keep),
        (Some(Kind::Moved | Kind::Ask | Kind::CrossSlot), _) => {
            (advise("it is a node of a Redis Cluster: use a single server, or one with Sentinel"), Then::Keep)
        }
        (Some(Kind::NoPerm), _) => (advise(PERMISSIONS), Then::Keep),
        // Of a command or a key in a script, which is an error of the script then.
        _ if detail.contains("The user executing the script") || detail.contains("ACL failure") => {
            (advise(PERMISSIONS), Then::Keep)
        }
        // What the crate makes of it while it connects.
        _ if detail.contains("no permissions") => (advise(PERMISSIONS), Then::Reconnect),
        (_, "NOAUTH") => (refused("NOAUTH: give a user and a password".to_owned()), Then::Reconnect),
        (_, "WRONGPASS") => (
            advise("check the user and the password; at the server `ACL SETUSER USER on >PASSWORD` sets both"),
            Then::Reconnect,
        ),
        (_, "DENIED") => {
            (refused("DENIED: the server is in protected mode; give it a password".to_owned()), Then::Reconnect)
        }
        (_, "OOM") => (advise("give the store more memory, or remove what others keep there"), Then::Keep),
        (_, "MISCONF") => {
            (advise("the store cannot write to its disk: give it space, or switch off snapshots"), Then::Keep)
        }
        (_, "WRONGTYPE" | "GARBLED") => (garbled(&format!("a key of another kind ({detail})")), Then::Keep),
        _ if detail.contains("WRONGTYPE") => (garbled("a key of another kind"), Then::Keep),
        _ if detail.contains("compiling script") => (advise(OLD), Then::Keep),
        _ if detail.contains("max number of clients") => (advise("raise its `maxclients`"), Then::Reconnect),
        _ if detail.contains("DB index") || detail.contains("SELECT") => {
            (advise("use a database that it has, such as 0"), Then::Reconnect)
        }
        // What a script makes of another program's values.
        _ if detail.contains("user_script") || detail.contains("not an integer") => {
            (garbled("values of another program"), Then::Keep)
        }
        _ => (refused(said()), Then::Keep),
    }
}

pub(super) fn lost(reason: String) -> StoreError {
    StoreError::Lost { reason }
}

pub(super) fn refused(reason: String) -> StoreError {
    StoreError::Refused { reason }
}

fn garbled(what: &str) -> StoreError {
    StoreError::Garbled { what: what.to_owned() }
}

/// Returns the error with a text that has passed [`clean`].
pub(super) fn cleaned(error: StoreError, secrets: &[Secret]) -> StoreError {
    match error {
        StoreError::Lost { reason } => StoreError::Lost { reason: clean(&reason, secrets) },
        StoreError::Refused { reason } => StoreError::Refused { reason: clean(&reason, secrets) },
        StoreError::Garbled { what } => StoreError::Garbled { what: clean(&what, secrets) },
        error => error,
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) | Value::VerbatimString { .. } | Value::Okay => "a text",
        Value::Array(_) | Value::Set(_) => "a list",
        _ => "something",
    }
}

fn unexpected(value: &Value, wanted: &str) -> StoreError {
    garbled(&format!("{} in place of {wanted}", kind_of(value)))
}

pub(super) fn integer(value: Value) -> Result<i64, StoreError> {
    match value {
        Value::Int(number) => Ok(number),
        value => Err(unexpected(&value, "a number")),
    }
}

fn unsigned(value: Value) -> Result<u64, StoreError> {
    u64::try_from(integer(value)?).map_err(|_| garbled("a negative number"))
}

fn bytes(value: Value) -> Result<Vec<u8>, StoreError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        value => Err(unexpected(&value, "a text")),
    }
}

fn text(value: Value) -> Result<String, StoreError> {
    String::from_utf8(bytes(value)?).map_err(|_| garbled("a text that is not UTF-8"))
}

pub(super) fn array(value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(values) => Ok(values),
        value => Err(unexpected(&value, "a list")),
    }
}

/// Splits a list into parts of the same number of values.
fn parts<const N: usize>(value: Value) -> Result<Vec<[Value; N]>, StoreError> {
    let values = array(value)?;
    if values.len() % N != 0 {
        return Err(garbled("a list of another length"));
    }
    let mut values = values.into_iter();
    let mut parts = Vec::with_capacity(values.len() / N);
    while values.len() > 0 {
        parts.push(std::array::from_fn(|_| values.next().unwrap_or_default()));
    }
    Ok(parts)
}

/// Reads something that may be another program's, or a later version's: then there is none, and it is counted.
fn known<T>(unknown: &Count, read: impl FnOnce() -> Result<T, StoreError>) -> Option<T> {
    let read = read().ok();
    if read.is_none() {
        unknown.one();
    }
    read
}

fn row(value: Value) -> Result<Row, StoreError> {
    serde_json::from_slice(&bytes(value)?).map_err(|_| garbled("a row that is none"))
}

fn id<T: std::str::FromStr>(value: Value) -> Result<T, StoreError> {
    text(value)?.parse().map_err(|_| garbled("an id of a node that is none"))
}

/// Reads the answer of `REGISTER`.
pub(super) fn registered(value: Value) -> Result<(), StoreError> {
    match integer(value)? {
        1 => Ok(()),
        0 => Err(StoreError::Fenced),
        2 => Err(forgotten()),
        _ => Err(garbled("an unknown number")),
    }
}

/// Reads the answer of `STAGE`: the number of shares that are there.
pub(super) fn staged(value: Value) -> Result<u64, StoreError> {
    match integer(value)? {
        ..0 => Err(forgotten()),
        there => Ok(there.unsigned_abs()),
    }
}

/// A life has not begun: it is begun anew.
fn forgotten() -> StoreError {
    lost("it has forgotten what a life was to begin with".to_owned())
}

/// Reads the answer of `NODES`.
pub(super) fn nodes(value: Value, unknown: &Count) -> Result<Vec<NodeRecord>, StoreError> {
    let record = |[name, about, sessions, left]: [Value; 4]| {
        Some(NodeRecord {
            id: known(unknown, || id(name))?,
            about: known(unknown, || text(about)).unwrap_or_default(),
            sessions: known(unknown, || unsigned(sessions)).unwrap_or_default(),
            lease_left: Duration::from_millis(known(unknown, || unsigned(left))?),
        })
    };
    let mut nodes: Vec<_> = parts(value)?.into_iter().filter_map(record).collect();
    nodes.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    Ok(nodes)
}

/// Reads the answer of `LIST`.
pub(super) fn page(value: Value, unknown: &Count) -> Result<RowPage, StoreError> {
    let Ok([next, rows, is_partial]) = <[Value; 3]>::try_from(array(value)?) else {
        return Err(garbled("a list of another length"));
    };
    let is_partial = integer(is_partial)? != 0;
    let next = text(next)?.parse().map_err(|_| garbled("a cursor that is none"))?;
    let of_session = |[session, json]: [Value; 2]| {
        let row = row(json)?;
        let is_of_it = text(session)? == row.session.to_string();
        if is_of_it { Ok(row) } else { Err(garbled("a row of another session")) }
    };
    let all = parts(rows)?;
    let count = all.len();
    let rows: Vec<_> = all.into_iter().filter_map(|row| known(unknown, || of_session(row))).collect();
    let left_out = (count - rows.len()) as u64;
    Ok(RowPage { rows, is_partial, unknown: left_out, next: Some(Cursor(next)).filter(|cursor| cursor.0 != 0) })
}

/// Reads the answer of `LOOKUP`.
pub(super) fn found(value: Value, unknown: &Count) -> Result<NamedRows, StoreError> {
    let Ok([rows, partial]) = <[Value; 2]>::try_from(array(value)?) else {
        return Err(garbled("a list of another length"));
    };
    let mut found = NamedRows::default();
    for [node, json] in parts(rows)? {
        let Some(node) = known(unknown, || id::<NodeId>(node)) else { continue };
        match (known(unknown, || row(json)), found.unknown.last_mut()) {
            (Some(row), _) => found.rows.push((node, row)),
            // Those of a node come one after the other.
            (None, Some((of, rows))) if *of == node => *rows += 1,
            (None, _) => found.unknown.push((node, 1)),
        }
    }
    found.partial = array(partial)?.into_iter().filter_map(|node| known(unknown, || id(node))).collect();
    Ok(found)
}

/// Reads the answer of `ACQUIRE` to so many wants.
pub(super) fn verdicts(value: Value, wants: usize, unknown: &Count) -> Result<Vec<Verdict>, StoreError> {
    let mut values = array(value)?.into_iter();
    let done = integer(values.next().unwrap_or_default())?;
    if let Some(left_out) = values.next() {
        unknown.add(unsigned(left_out)?);
    }
    match done {
        0 => {}
        1 => return Err(StoreError::Fenced),
        2 => return Err(StoreError::Late),
        _ => return Err(garbled("an unknown number")),
    }
    if values.len() != wants {
        return Err(garbled("a list of another length"));
    }
    let verdict = |value| {
        let number = integer(value)?;
        let place = usize::try_from(number.unsigned_abs()).map_err(|_| garbled("an unknown number"))?;
        Ok(match number {
            0 => Verdict::Granted,
            1.. => Verdict::Count(place - 1),
            _ => Verdict::Rate(place - 1),
        })
    };
    values.map(verdict).collect()
}

/// Reads the answer of `ROLE`.
pub(super) fn is_master(value: Value) -> Result<bool, StoreError> {
    let role = array(value)?.into_iter().next().unwrap_or_default();
    Ok(text(role)? == "master")
}

/// Reads the answer of a Sentinel: a host and a port, or nothing if it does not know the name.
pub(super) fn master_address(value: Value) -> Result<Option<(String, u16)>, StoreError> {
    if value == Value::Nil {
        return Ok(None);
    }
    let Ok([host, port]) = <[Value; 2]>::try_from(array(value)?) else {
        return Err(garbled("a list of another length"));
    };
    let port = text(port)?.parse().map_err(|_| garbled("a port that is none"))?;
    Ok(Some((text(host)?, port)))
}
