//! Reports: the commands that change nothing.
//!
//! Rule: a long answer is made of pages, and the next page is asked for when the one before is on its way.
//! Not here: commands that change something (`changes`) or go on by themselves (`watch`, `top`, `trace`).

use serde::Serialize;
use serde_json::{Value, json};

#[cfg(feature = "cluster")]
use crate::console::nodes;
use crate::{
    console::{asked::Asked, out::Failure, rows},
    control::{
        listeners::ListenerInfo,
        query::{SessionOrder, SessionQuery},
        stats::{ListenerStats, Stats},
    },
    escape::Escaped,
    limits::keys::LimitKey,
    plural::Counted,
    seconds,
    units::{rough_time, written_time},
    words,
};

/// Sessions of one page of a list.
const PAGE: usize = if cfg!(test) { 7 } else { 1000 };

pub(crate) async fn version(asked: Asked) -> Result<(), Failure> {
    let (setup, uptime) = (&asked.setup, asked.setup.since.elapsed());
    let object = json!({ "name": setup.name, "version": setup.version, "uptime": seconds::of(uptime) });
    asked.out.record(&object, format_args!("{} {}, up {}", setup.name, setup.version, rough_time(uptime)));
    Ok(())
}

pub(crate) async fn stats(asked: Asked) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Record<'a> {
        #[serde(flatten)]
        stats: &'a Stats,
        #[serde(skip_serializing_if = "Option::is_none")]
        cluster: Option<Value>,
    }
    let stats = asked.server.stats().await?;
    #[cfg(feature = "cluster")]
    let (cluster, lines) = asked.setup.cluster.as_ref().map(nodes::summary).unzip();
    #[cfg(not(feature = "cluster"))]
    let (cluster, lines): (_, Option<[(&str, String); 2]>) = (None, None);
    if asked.out.is_json() {
        asked.out.object(&Record { stats: &stats, cluster });
        return Ok(());
    }
    let stats = serde_json::to_value(&stats).unwrap_or_default();
    if let Value::Object(stats) = stats {
        // Those of listeners are a command of their own.
        for (name, value) in stats.iter().filter(|(name, _)| !name.contains("listeners")) {
            counters(&asked, name, value);
        }
    }
    for (name, text) in lines.into_iter().flatten() {
        asked.out.line(format_args!("{name:<32} {text}"));
    }
    Ok(())
}

/// Writes a counter, or all that it is made of: `closed.peer-eof 12`. Of a histogram it is how many there were; its buckets
/// are for programs. Numbers with a fraction are times.
fn counters(asked: &Asked, name: &str, value: &Value) {
    if let Some(counts) = value.get("counts").and_then(Value::as_array) {
        let count: u64 = counts.iter().filter_map(Value::as_u64).sum();
        asked.out.line(format_args!("{:<32} {count}", format!("{name}.count").replace('_', "-")));
        return value.get("sum").into_iter().for_each(|sum| counters(asked, &format!("{name}.sum"), sum));
    }
    match value {
        Value::Object(parts) => {
            parts.iter().for_each(|(part, value)| counters(asked, &format!("{name}.{part}"), value))
        }
        Value::Array(parts) => {
            parts.iter().enumerate().for_each(|(part, value)| counters(asked, &format!("{name}.{part}"), value));
        }
        Value::String(text) => asked.out.line(format_args!("{:<32} {text}", name.replace('_', "-"))),
        Value::Number(time) if time.is_f64() => {
            asked.out.line(format_args!("{:<32} {time} s", name.replace('_', "-")));
        }
        value => asked.out.line(format_args!("{:<32} {value}", name.replace('_', "-"))),
    }
}

pub(crate) async fn listeners(asked: Asked) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Record<'a> {
        #[serde(flatten)]
        info: &'a ListenerInfo,
        stats: &'a ListenerStats,
    }
    let (listeners, stats) = (asked.server.listeners(), asked.server.stats().await?);
    if !asked.out.is_json() {
        asked.out.line(format_args!(
            "{:<16} {:<28} {:<8} {:>8} {:>8} {:>10} {:>8} {:>12} {:>14} {:>14}",
            "LISTENER", "ADDRESS", "STATE", "LIVE", "MAX", "OPENED", "REFUSED", "LINES", "BYTES-IN", "BYTES-OUT"
        ));
    }
    let none = ListenerStats::default();
    for info in &listeners {
        let stats = stats.listeners.get(&info.id).unwrap_or(&none);
        let text = format_args!(
            "{:<16} {:<28} {:<8} {:>8} {:>8} {:>10} {:>8} {:>12} {:>14} {:>14}",
            rows::listener(Some(info.id)),
            info.local_addr.to_string(),
            if info.is_paused { "paused" } else { "accepts" },
            stats.live,
            info.max_sessions.map_or_else(|| "-".to_owned(), |max| max.to_string()),
            stats.opened,
            stats.refused.values().sum::<u64>(),
            stats.lines_in,
            stats.bytes_in,
            stats.bytes_out,
        );
        asked.out.record(&Record { info, stats }, text);
        asked.out.room().await;
    }
    Ok(())
}

pub(crate) async fn list(asked: Asked) -> Result<(), Failure> {
    #[cfg(feature = "cluster")]
    {
        if let [nodes, others @ ..] = &asked.words[..]
            && nodes == "nodes"
        {
            return match others {
                [] => nodes::nodes(asked).await,
                [word, ..] => Err(words::WrongWord::new(word, "is too much: list nodes stands alone").into()),
            };
        }
        if asked.is_list_over_nodes() {
            return nodes::list(asked).await;
        }
    }
    let asked_for = asked.query().await?;
    // Unless a limit is written there is none.
    let is_limited = asked.words.iter().any(|word| word == "limit");
    let mut left = if is_limited { asked_for.limit } else { usize::MAX };
    rows::header(&asked.out);
    let mut query = asked_for;
    let (mut shown, mut total) = (0_u64, None);
    loop {
        query.limit = left.min(PAGE);
        let page = asked.server.sessions(query.clone()).await?;
        total.get_or_insert(page.total);
        for session in &page.sessions {
            rows::session(&asked.out, session);
            asked.out.room().await;
        }
        let count = page.sessions.len();
        shown += count as u64;
        left -= count;
        let Some(last) = page.sessions.last().filter(|_| left > 0 && count == query.limit) else { break };
        match query.order {
            // Whoever lives all the while is listed once, whoever else comes and goes.
            SessionOrder::Id => (query.filter.after, query.offset) = (Some(last.id), 0),
            _ => query.offset += count,
        }
    }
    if !asked.out.is_json() {
        asked.out.line(format_args!("{shown} of {}", Counted(total.unwrap_or_default(), "session")));
    }
    Ok(())
}

pub(crate) async fn count(asked: Asked) -> Result<(), Failure> {
    #[cfg(feature = "cluster")]
    if asked.is_list_over_nodes() {
        return nodes::count(asked).await;
    }
    let filter = asked.filter().await?;
    let total = asked.server.sessions(SessionQuery::from(filter).limit(0)).await?.total;
    asked.out.record(&json!({ "sessions": total }), format_args!("{total}"));
    Ok(())
}

pub(crate) async fn show(asked: Asked) -> Result<(), Failure> {
    let word = match &asked.words[..] {
        [] => return Err(words::WrongWord::alone("show", "a session's number, as 7,").into()),
        [word] => word,
        [_, second, ..] => return Err(words::WrongWord::new(second, "is too much: show has one session").into()),
    };
    #[cfg(feature = "cluster")]
    if let Ok(id) = word.parse() {
        return nodes::show(&asked, id).await;
    }
    let id = words::id(word);
    #[cfg(feature = "cluster")]
    let id = id.map_err(|error| match asked.setup.cluster {
        Some(_) => {
            words::WrongWord::new(word, "is no session: use its number, as 7 or #7, or its id, as a.1f3a5c7d.17")
        }
        None => error,
    });
    let session = asked.server.session(id?).await?;
    let session = session.ok_or_else(|| words::WrongWord::new(word, "is no live session: list has them all"))?;
    if asked.out.is_json() {
        asked.out.object(&session);
        return Ok(());
    }
    for (name, value) in [
        ("id", session.id.to_string()),
        ("peer", session.peer.to_string()),
        ("listener", rows::listener(session.listener)),
        ("worker", session.worker.to_string()),
        ("state", session.state.name().to_owned()),
        ("age", rough_time(session.age)),
        ("idle", rough_time(session.idle)),
        ("lines-in", session.lines_in.to_string()),
        ("bytes-in", session.bytes_in.to_string()),
        ("bytes-out", session.bytes_out.to_string()),
        ("outbox", session.outbox_bytes.to_string()),
    ] {
        asked.out.line(format_args!("{name:<12} {value}"));
    }
    if let Some(name) = &session.name {
        asked.out.line(format_args!("{:<12} {}", "name", Escaped::new(&**name)));
    }
    if !session.tags.is_empty() {
        let tags: Vec<_> = session.tags.iter().map(|tag| Escaped::new(&**tag).to_string()).collect();
        asked.out.line(format_args!("{:<12} {}", "tags", tags.join(" ")));
    }
    Ok(())
}

pub(crate) async fn limits(asked: Asked) -> Result<(), Failure> {
    let limits = asked.server.limits().await?;
    for key in LimitKey::all() {
        let (name, value, unit) = (key.name(), key.value(&limits), key.unit());
        let object = json!({ "key": name, "value": value, "unit": unit, "help": key.help() });
        asked.out.record(&object, format_args!("{}", format!("{name:<24} {value:<24} {unit}").trim_end()));
        asked.out.room().await;
    }
    Ok(())
}

/// Writes a time in full, for the commands that say how long something took.
pub(crate) fn took(time: std::time::Duration) -> String {
    written_time(std::time::Duration::from_millis(time.as_millis().try_into().unwrap_or(u64::MAX)))
}
