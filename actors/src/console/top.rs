//! Top: the command that shows what sessions do, by rates.
//!
//! Its answer is made of blocks, one for each interval. As JSON a block is one object on a line: `every` (seconds that the
//! rates are of), `total` (sessions that the filter selects), `lines_rate`, `bytes_in_rate` and `bytes_out_rate` of all of
//! them, each a second, and `sessions`, the largest first, each with its own. As text it is a line about all, a header and
//! rows; where blocks go on each ends with the line `--`. With `once` there is one block.
//! Not here: counting (`snapshots`).

use std::{cmp::Ordering, io::Write as _, time::Duration};

use serde::Serialize;

use crate::{
    address::Address,
    connection::{ListenerId, SessionId},
    console::{
        asked::Asked,
        out::{Clean, Failure},
        rows,
        snapshots::{INTERVAL, Snapshot},
    },
    control::query::{SessionInfo, SessionOrder, SessionQuery, SessionState},
    plural::Counted,
    units::rough_time,
    words::{self, WrongWord},
};

/// Sessions that a block has where no number is written.
const ROWS: usize = 20;

/// Most sessions of a block: it is made at once, on the thread of the console.
const MOST_ROWS: usize = 1000;

/// A session with its rates, each a second.
#[derive(Clone, Copy, Debug)]
struct Row<'a> {
    session: &'a SessionInfo,
    lines: f64,
    bytes_in: f64,
    bytes_out: f64,
}

/// Returns true where the answer goes on until its peer sends a line.
pub(crate) fn is_live(words: &[String]) -> bool {
    !words.iter().any(|word| word == "once")
}

pub(crate) async fn top(mut asked: Asked) -> Result<(), Failure> {
    let is_once = asked.take("once");
    let every = every(&mut asked)?;
    let mut query = asked.query().await?;
    if !asked.words.iter().any(|word| word == "sort") {
        query.order = SessionOrder::BytesIn;
    }
    if !asked.words.iter().any(|word| word == "limit") {
        query.limit = ROWS;
    }
    if query.limit > MOST_ROWS {
        let problem = format_args!("sessions are too many: use {MOST_ROWS} at most, or list");
        return Err(WrongWord::new(&query.limit.to_string(), problem).into());
    }
    let form = if asked.out.is_json() { "json" } else { "text" };
    let mut looking = asked.setup.snapshots.look(&asked.server);
    let stopped = asked.out.clone();
    let blocks = async {
        let mut before = looking.since(tokio::time::Instant::now()).await;
        loop {
            // One that is a little early would have to wait for the next.
            let now = looking.since(before.at + every - INTERVAL / 2).await;
            let words = format!("{form} {is_once} {:?} {query:?}", before.at);
            let block = now.text(&words, || block(&before, &now, &query, asked.out.is_json(), is_once));
            asked.out.lines(&block);
            if is_once {
                return;
            }
            asked.out.sent().await;
            before = now;
        }
    };
    tokio::select! {
        () = stopped.stopped() => {}
        () = blocks => {}
    }
    Ok(())
}

/// Takes `every TIME`.
fn every(asked: &mut Asked) -> Result<Duration, Failure> {
    let Some(at) = asked.words.iter().position(|word| word == "every") else { return Ok(INTERVAL) };
    let Some(word) = asked.words.get(at + 1) else {
        return Err(WrongWord::alone("every", "a time, as 2s,").into());
    };
    let time = words::time(word)?;
    if time < INTERVAL || time > Duration::from_secs(3600) {
        return Err(WrongWord::new(word, "is no interval: use 1s to 1h").into());
    }
    asked.words.drain(at..at + 2);
    if asked.words.iter().any(|word| word == "every") {
        return Err(WrongWord::twice("every").into());
    }
    Ok(time)
}

/// Returns the rates between two moments of the sessions that are there at the later. Of one that is new it is its own time
/// that counts.
fn rated<'a>(before: &[SessionInfo], now: &'a [SessionInfo], interval: Duration, query: &SessionQuery) -> Vec<Row<'a>> {
    let mut known = before.iter().peekable();
    let mut rows = Vec::new();
    for session in now {
        while known.next_if(|known| known.id < session.id).is_some() {}
        let before = known.next_if(|known| known.id == session.id);
        if !query.filter.has(session) {
            continue;
        }
        let rate = |count: fn(&SessionInfo) -> u64| {
            let more = count(session).saturating_sub(before.map_or(0, count));
            // Each is asked for a little earlier or later than its snapshot begins.
            more as f64 / interval.as_secs_f64().max(0.001)
        };
        rows.push(Row {
            session,
            lines: rate(|session| session.lines_in),
            bytes_in: rate(|session| session.bytes_in),
            bytes_out: rate(|session| session.bytes_out),
        });
    }
    rows
}

fn compare(order: SessionOrder, a: &Row<'_>, b: &Row<'_>) -> Ordering {
    match order {
        SessionOrder::Id => Ordering::Equal,
        SessionOrder::Idle => b.session.idle.cmp(&a.session.idle),
        SessionOrder::Outbox => b.session.outbox_bytes.cmp(&a.session.outbox_bytes),
        SessionOrder::BytesIn => b.bytes_in.total_cmp(&a.bytes_in),
        SessionOrder::BytesOut => b.bytes_out.total_cmp(&a.bytes_out),
        SessionOrder::Lines => b.lines.total_cmp(&a.lines),
    }
    .then(a.session.id.cmp(&b.session.id))
}

/// Writes a block.
fn block(before: &Snapshot, now: &Snapshot, query: &SessionQuery, is_json: bool, is_once: bool) -> Vec<u8> {
    let interval = now.at - before.at;
    let mut rows = rated(&before.sessions, &now.sessions, interval, query);
    let total = rows.len();
    let sum = |rate: fn(&Row<'_>) -> f64| rows.iter().map(rate).fold(0.0, |sum, rate| sum + rate);
    let (lines, bytes_in, bytes_out) = (sum(|row| row.lines), sum(|row| row.bytes_in), sum(|row| row.bytes_out));
    let most = query.offset.saturating_add(query.limit);
    if most > 0 && most < rows.len() {
        rows.select_nth_unstable_by(most - 1, |a, b| compare(query.order, a, b));
    }
    rows.truncate(most);
    rows.sort_unstable_by(|a, b| compare(query.order, a, b));
    let rows = &rows[query.offset.min(rows.len())..];
    let mut block = Vec::new();
    if is_json {
        let sessions = rows.iter().map(Row::record).collect();
        let record = Block {
            every: tenths(interval.as_secs_f64()),
            total,
            lines_rate: tenths(lines),
            bytes_in_rate: tenths(bytes_in),
            bytes_out_rate: tenths(bytes_out),
            sessions,
        };
        // A vector takes all.
        let _ = serde_json::to_writer(&mut block, &record);
    } else {
        // Likewise.
        let _ = write!(
            block,
            "{}, {lines:.1} lines/s, {bytes_in:.1} bytes/s in, {bytes_out:.1} bytes/s out, of {:.1} s",
            Counted(total, "session"),
            interval.as_secs_f64()
        );
        row(&mut block, ["ID", "PEER", "LISTENER", "STATE", "IDLE", "LINES/S", "IN/S", "OUT/S", "OUTBOX"]);
        rows.iter().for_each(|each| each.write(&mut block));
        if !is_once {
            block.extend_from_slice(b"\n--");
        }
    }
    block.push(b'\n');
    block
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

fn row(block: &mut Vec<u8>, [id, peer, listener, state, idle, lines, bytes_in, bytes_out, outbox]: [&str; 9]) {
    block.push(b'\n');
    // Only a value's own `Display` can fail.
    let _ = std::fmt::Write::write_fmt(
        &mut Clean(block),
        format_args!(
            "{id:<8} {peer:<24} {listener:<12} {state:<8} {idle:>7} {lines:>10} {bytes_in:>12} {bytes_out:>12} {outbox:>10}"
        ),
    );
}

#[derive(Serialize)]
struct Block<'a> {
    every: f64,
    total: usize,
    lines_rate: f64,
    bytes_in_rate: f64,
    bytes_out_rate: f64,
    sessions: Vec<Record<'a>>,
}

#[derive(Serialize)]
struct Record<'a> {
    id: SessionId,
    peer: &'a Address,
    listener: Option<ListenerId>,
    state: SessionState,
    idle: f64,
    lines_rate: f64,
    bytes_in_rate: f64,
    bytes_out_rate: f64,
    outbox_bytes: usize,
}

impl<'a> Row<'a> {
    fn record(&self) -> Record<'a> {
        let Self { session, lines, bytes_in, bytes_out } = *self;
        Record {
            id: session.id,
            peer: &session.peer,
            listener: session.listener,
            state: session.state,
            idle: tenths(session.idle.as_secs_f64()),
            lines_rate: tenths(lines),
            bytes_in_rate: tenths(bytes_in),
            bytes_out_rate: tenths(bytes_out),
            outbox_bytes: session.outbox_bytes,
        }
    }

    fn write(&self, block: &mut Vec<u8>) {
        let session = self.session;
        row(
            block,
            [
                &session.id.to_string(),
                &session.peer.to_string(),
                &rows::listener(session.listener),
                session.state.name(),
                &rough_time(session.idle),
                &format!("{:.1}", self.lines),
                &format!("{:.1}", self.bytes_in),
                &format!("{:.1}", self.bytes_out),
                &session.outbox_bytes.to_string(),
            ],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Connection;

    fn session(id: SessionId, bytes_in: u64) -> SessionInfo {
        SessionInfo {
            id,
            peer: Address::Memory,
            listener: None,
            worker: 0,
            age: Duration::ZERO,
            idle: Duration::ZERO,
            lines_in: bytes_in / 2,
            bytes_in,
            bytes_out: 0,
            outbox_bytes: 0,
            state: SessionState::Open,
            name: None,
            tags: Vec::new(),
        }
    }

    #[test]
    fn a_rate_is_what_has_come_between_two_moments_and_of_a_new_session_all() {
        let ids: Vec<_> = (0..4).map(|_| Connection::between(Address::Memory, Address::Memory).id()).collect();
        let before = [session(ids[0], 100), session(ids[1], 100), session(ids[2], 100)];
        let now = [session(ids[0], 100), session(ids[2], 140), session(ids[3], 20)];
        let rows = rated(&before, &now, Duration::from_secs(2), &SessionQuery::default());
        let rates: Vec<_> = rows.iter().map(|row| (row.session.id, row.bytes_in, row.lines)).collect();
        assert_eq!(rates, [(ids[0], 0.0, 0.0), (ids[2], 20.0, 10.0), (ids[3], 10.0, 5.0)]);
    }
}
