//! Changes: the commands that change something.
//!
//! Rule: each is logged, with who asks for it, before it is made; and which sessions it has ended.
//! Not here: commands that only look (`reports`).

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

#[cfg(feature = "cluster")]
use crate::console::nodes;
use crate::{
    console::{asked::Asked, out::Failure, reports::took, rows},
    control::{
        query::{SessionFilter, SessionInfo, SessionQuery},
        stats::DrainProgress,
    },
    escape::Escaped,
    limits::keys::LimitKey,
    plural::Counted,
    words::{self, WrongWord},
};

/// Sessions that a dry run and the log name.
const FIRST: usize = 10;

/// Time from one line about a drain to the next.
const PROGRESS: Duration = Duration::from_secs(1);

/// A text as a line for sessions; none stays none.
fn line(text: Option<Bytes>) -> Bytes {
    match text {
        Some(text) if !text.is_empty() => [&text[..], b"\r\n"].concat().into(),
        _ => Bytes::new(),
    }
}

/// Writes the sessions that a dry run would end.
fn would_end(asked: &Asked, first: &[SessionInfo]) {
    if !asked.out.is_json() && !first.is_empty() {
        rows::header(&asked.out);
        first.iter().for_each(|session| rows::session(&asked.out, session));
    }
}

pub(crate) async fn kick(mut asked: Asked) -> Result<(), Failure> {
    let is_dry = asked.take_dry_run();
    #[cfg(feature = "cluster")]
    if asked.is_over_nodes() {
        let goodbye = line(asked.text.take());
        return nodes::kick(asked, is_dry, goodbye).await;
    }
    let filter = asked.written_filter().await?;
    let page = asked.server.sessions(SessionQuery::from(filter.clone()).limit(FIRST)).await?;
    if is_dry {
        let ids: Vec<_> = page.sessions.iter().map(|session| session.id).collect();
        let object = json!({ "dry_run": true, "sessions": page.total, "first": ids });
        asked.out.record(&object, format_args!("would end {}", Counted(page.total, "session")));
        would_end(&asked, &page.sessions);
        return Ok(());
    }
    asked.log_ended(format_args!("{}", asked.typed()), page.total, &page.sessions);
    let ended = asked.server.kick(filter, line(asked.text.take())).await?;
    asked.out.record(&json!({ "sessions": ended }), format_args!("{}", Counted(ended, "session")));
    Ok(())
}

pub(crate) async fn push(mut asked: Asked) -> Result<(), Failure> {
    if asked.text.as_ref().is_none_or(Bytes::is_empty) && !asked.words.is_empty() {
        return Err(WrongWord::new(asked.name, "has no text: write it behind --, as push all -- hello").into());
    }
    #[cfg(feature = "cluster")]
    if asked.is_over_nodes() {
        let text = line(asked.text.take());
        return nodes::push(asked, text).await;
    }
    let filter = asked.written_filter().await?;
    let text = line(asked.text.take());
    asked.log(format_args!("{}: {}", asked.typed(), Counted(text.len(), "byte")));
    write_to(&asked, filter, text).await
}

pub(crate) async fn wall(mut asked: Asked) -> Result<(), Failure> {
    let text = line(asked.text.take());
    if text.is_empty() {
        return Err(WrongWord::alone("wall", "a text").into());
    }
    asked.log(format_args!("{}", Escaped::new(text.trim_ascii_end())));
    write_to(&asked, SessionFilter::default(), text).await
}

async fn write_to(asked: &Asked, filter: SessionFilter, text: Bytes) -> Result<(), Failure> {
    let pushed = asked.server.push(filter, text).await?;
    asked.out.record(&pushed, format_args!("{}, {} dropped", Counted(pushed.sessions, "session"), pushed.dropped));
    Ok(())
}

pub(crate) async fn pause(asked: Asked) -> Result<(), Failure> {
    set_paused(asked, true).await
}

pub(crate) async fn resume(asked: Asked) -> Result<(), Failure> {
    set_paused(asked, false).await
}

async fn set_paused(asked: Asked, is_paused: bool) -> Result<(), Failure> {
    let word = match &asked.words[..] {
        [] => return Err(WrongWord::alone(asked.name, "the name or number of a listener").into()),
        [word] => word,
        [_, second, ..] => return Err(WrongWord::new(second, "is too much: write one listener").into()),
    };
    let listener = words::known_listener(word, &asked.server.listeners())?;
    asked.log(format_args!("{}", Escaped::new(word)));
    let is_there = match is_paused {
        true => asked.server.pause(listener).await?,
        false => asked.server.resume(listener).await?,
    };
    if !is_there {
        return Err(WrongWord::new(word, "is no listener any more: listeners has those that are").into());
    }
    let text = if is_paused { "paused: the backlog holds new connections" } else { "accepts" };
    let object = json!({ "listener": rows::listener(Some(listener)), "paused": is_paused });
    asked.out.record(&object, format_args!("{} {text}", rows::listener(Some(listener))));
    Ok(())
}

pub(crate) async fn set(mut asked: Asked) -> Result<(), Failure> {
    let is_dry = asked.take_dry_run();
    let Some(word) = asked.words.first() else {
        return Err(WrongWord::alone("set", "a key and a value, as set idle-timeout 5m,").into());
    };
    if word == "drain-timeout" {
        let problem =
            "is no limit: drain takes its time behind it, as drain 30s; without one it is that of the settings";
        return Err(WrongWord::new(word, problem).into());
    }
    if word.starts_with("cluster-") {
        let problem = "is a limit over nodes: set it by the file and SIGHUP, on every node";
        return Err(WrongWord::new(word, problem).into());
    }
    let known = || LimitKey::all().map(LimitKey::name);
    let key = LimitKey::find(word).ok_or_else(|| WrongWord::listed(word, "limit", known(), "limits"))?;
    if asked.text.is_some()
        && let Some(second) = asked.words.get(1)
    {
        return Err(WrongWord::new(second, "is too much: the value is behind -- already").into());
    }
    let value = match &asked.text {
        Some(text) => String::from_utf8_lossy(text).into_owned(),
        None if asked.words.len() < 2 => return Err(WrongWord::alone(key.name(), "its value").into()),
        None => asked.words[1..].join(" "),
    };
    let setup = std::sync::Arc::clone(&asked.setup);
    let changing = setup.changing.lock().await;
    let limits = asked.server.limits().await?;
    let new = key.set(&limits, &value).map_err(|error| match error {
        crate::limits::keys::LimitError::Value { advice } => {
            let at_start = match &*value {
                "auto" => "; what it was at the start comes back by a restart or reload",
                _ => "",
            };
            WrongWord::new(&value, format_args!("is no value of {}: {advice}{at_start}", key.name()))
        }
        // A builder says that in words of Rust.
        error => {
            let error = error.to_string().replace(", or none", ", or off");
            WrongWord::new(&value, format_args!("is no value of {}: {error}", key.name()))
        }
    })?;
    let (from, to) = (key.value(&limits), key.value(&new));
    let change = match is_dry {
        true => asked.server.preview_limits(new).await?,
        false => {
            asked.log(format_args!("{} {to}: was {from}", key.name()));
            let change = asked.server.set_limits(new).await?;
            if !change.ends.is_empty() {
                let first = &change.ends[..change.ends.len().min(FIRST)];
                asked.log_ended(format_args!("{} {to} has ended", key.name()), change.ends.len() as u64, first);
            }
            change
        }
    };
    drop(changing);
    let first = &change.ends[..change.ends.len().min(FIRST)];
    let ids: Vec<_> = first.iter().map(|session| session.id).collect();
    let object = json!({ "key": key.name(), "from": from, "to": to, "dry_run": is_dry, "ends": change.ends.len(), "first": ids });
    let ends = Counted(change.ends.len(), "session");
    match is_dry {
        true => asked.out.record(&object, format_args!("{} {from} -> {to} would end {ends}", key.name())),
        false if key.name() == "max-sessions" => {
            let live = asked.server.stats().await?.live;
            let most = asked.server.limits().await?.admission.max_sessions as u64;
            let full = match live >= most {
                true => format!("; {live} live: no new one gets in until there are fewer than {most}"),
                false => String::new(),
            };
            asked.out.record(&object, format_args!("{} {from} -> {to} ends {ends}{full}", key.name()));
        }
        false => asked.out.record(&object, format_args!("{} {from} -> {to} ends {ends}", key.name())),
    }
    if is_dry {
        would_end(&asked, first);
    }
    Ok(())
}

pub(crate) async fn drain(mut asked: Asked) -> Result<(), Failure> {
    let is_dry = asked.take_dry_run();
    let deadline = match &asked.words[..] {
        [] => None,
        [word] => Some(words::time(word)?),
        [_, second, ..] => return Err(WrongWord::new(second, "is too much: drain has one time").into()),
    };
    if is_dry {
        let live = asked.server.stats().await?.live;
        let object = json!({ "dry_run": true, "sessions": live });
        asked.out.record(&object, format_args!("would end the server, and tell {} to end", Counted(live, "session")));
        return Ok(());
    }
    let goodbye = asked.text.take().map(|text| line(Some(text)));
    let drain = asked.setup.before_drain.ask(deadline, goodbye);
    match drain.delay {
        Duration::ZERO => asked.log(format_args!("within {:?}", drain.deadline)),
        delay => asked.log(format_args!("in {delay:?}, then within {:?}", drain.deadline)),
    }
    let mut drained = std::pin::pin!(asked.server.drain(drain));
    let report = loop {
        if let Ok(report) = tokio::time::timeout(PROGRESS, &mut drained).await {
            break report?;
        }
        if let Some(progress) = asked.server.draining() {
            let DrainProgress { ended, cut, left, begins_in, .. } = progress;
            if progress.has_begun() {
                asked.out.record(&progress, format_args!("draining: {ended} ended, {cut} cut, {left} left"));
            } else {
                let sessions = Counted(left, "session");
                asked.out.record(&progress, format_args!("drains in {}: {sessions}", took(begins_in)));
            }
            asked.out.sent().await;
        }
    };
    log::info!(
        who:% = asked.who, command = asked.name, ended = report.ended, cut = report.cut;
        "console: drained: {} ended, {} cut", Counted(report.ended, "session"), report.cut
    );
    let text = format_args!(
        "drained: {} ended, {} cut, in {}",
        Counted(report.ended, "session"),
        report.cut,
        took(report.duration)
    );
    asked.out.record(&report, text);
    Ok(())
}
