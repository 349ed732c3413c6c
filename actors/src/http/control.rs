//! Control: what changes something. Off unless [`Admin::control`] allows it.
//!
//! Rule: only whoever has the token, by a request that no page of another origin can make a browser send; each change
//! is logged with who asked, before it happens.
//! Not here: what a kick or a drain does (`control/supervisor`).

use std::{fmt::Display, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{self, HeaderValue},
    },
    web::{Bytes, Payload},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{
    connection::SessionId,
    control::{
        query::SessionQuery,
        stats::{DrainProgress, DrainReport},
    },
    escape::Escaped,
    http::{
        admin::{Admin, PATIENCE},
        api,
        guard::{check_origin, who},
        reply::{self, Problem},
    },
    log_limit::Kind,
    plural::Counted,
    seconds,
    words::{self, Ended, WrongWord},
};

/// Longest body of a request. Unit: bytes.
const LONGEST_BODY: usize = 4096;

/// Sessions that a dry run and the log name.
const FIRST: usize = 10;

const INSTEAD: &str = "for a dry run write \"dry_run\": true";

const WRONG_TOKEN: Kind = Kind("wrong token", "wrong tokens");

/// Time that a wrong token costs.
const PENALTY: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KickBody {
    q: String,
    #[serde(default)]
    goodbye: String,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PauseBody {
    listener: String,
    paused: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainBody {
    /// Unit: seconds.
    timeout: Option<f64>,
    goodbye: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Kicked {
    kicked: u64,
}

/// A change that was not made.
#[derive(Serialize)]
struct Dry {
    dry_run: bool,
    /// Number of sessions that it would end.
    sessions: u64,
    /// Numbers of the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<Vec<SessionId>>,
}

#[derive(Serialize)]
struct Paused {
    listener: String,
    paused: bool,
}

#[derive(Serialize)]
struct Draining {
    draining: Option<DrainProgress>,
}

/// Checks that a request may change something, before its body is read.
pub(super) async fn authorize(admin: &Admin, request: &HttpRequest) -> Result<(), Problem> {
    let Some(token) = &admin.settings.token else {
        return Err(Problem::new(StatusCode::FORBIDDEN, "control is off: the page only shows"));
    };
    check_origin(request)?;
    let is_json =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
            value.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
        });
    if !is_json {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "use Content-Type: application/json"));
    }
    let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    if given.and_then(bearer).is_some_and(|given| token.is(given)) {
        return Ok(());
    }
    if given.is_some() {
        if let Some(events) = admin.shared.failures.pass(&WRONG_TOKEN, "http: ") {
            let who = who(request);
            log::warn!(who = who.as_str(), count = events; "http: {who}: wrong token{events}");
        }
        // As long a token is not guessed; this keeps the attempts few in the log of a proxy, too.
        tokio::time::sleep(PENALTY).await;
    }
    let error = if given.is_some() { "wrong token" } else { "use Authorization: Bearer TOKEN" };
    Err(Problem::new(StatusCode::UNAUTHORIZED, error))
}

/// The token of `Bearer TOKEN`; the scheme in whatever case.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

async fn body<T: DeserializeOwned>(payload: Payload) -> Result<T, Problem> {
    let read = timeout(PATIENCE, payload.to_bytes_limited(LONGEST_BODY)).await;
    let bytes: Bytes = match read {
        Ok(Ok(Ok(bytes))) => bytes,
        Ok(Ok(Err(_))) => return Err(Problem::new(StatusCode::BAD_REQUEST, "the body has not come whole")),
        Ok(Err(_)) => {
            let error = format_args!("the body is longer than {LONGEST_BODY} bytes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, error));
        }
        Err(_) => return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body has not come in time")),
    };
    serde_json::from_slice(&bytes).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error))
}

/// A text for peers as a line of theirs; nothing stays nothing.
fn line(text: &str) -> Result<String, Problem> {
    if text.chars().any(char::is_control) {
        return Err(Problem::bad("the goodbye is one line: leave its control characters out", "goodbye"));
    }
    words::check_text(text.as_bytes(), INSTEAD)?;
    Ok(if text.is_empty() { String::new() } else { format!("{text}\r\n") })
}

fn log_change(request: &HttpRequest, change: impl Display) {
    let (who, change) = (who(request), change.to_string());
    let command = change.split(' ').next();
    log::info!(who = who.as_str(), command = command; "http: {who}: {change}");
}

pub(super) async fn kick(admin: &Admin, request: &HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let KickBody { q, goodbye, dry_run } = body(payload).await?;
    let server = &admin.settings.server;
    if let Some(word) = q.split_ascii_whitespace().find(|word| words::is_dry_run(word)) {
        return Err(WrongWord::new(word, format_args!("is no filter: {INSTEAD}")).into());
    }
    let (whom, has_words) = api::filter(&q, server)?;
    if !has_words {
        return Err(Problem::bad("no session is named: use all, or a filter as #7 or peer=192.0.2.0/24", "q"));
    }
    let goodbye = line(&goodbye)?;
    let page = api::ask(admin, server.sessions(SessionQuery::from(whom.clone()).limit(FIRST))).await?;
    if dry_run {
        let first = page.sessions.iter().map(|session| session.id).collect();
        return Ok(reply::json(StatusCode::OK, &Dry { dry_run, sessions: page.total, first: Some(first) }));
    }
    let (who, total, command) = (who(request), page.total, "kick");
    log::info!(
        who = who.as_str(), command = command, sessions = total;
        "http: {who}: {command} {}: {}", Escaped::new(&q), Ended(total, &page.sessions)
    );
    let kicked = api::ask(admin, server.kick(whom, goodbye)).await?;
    Ok(reply::json(StatusCode::OK, &Kicked { kicked }))
}

pub(super) async fn pause(admin: &Admin, request: &HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let PauseBody { listener, paused } = body(payload).await?;
    let server = &admin.settings.server;
    let id = words::known_listener(&listener, &server.listeners())?;
    log_change(request, format_args!("{} {id}", if paused { "pause" } else { "resume" }));
    let known = match paused {
        true => api::ask(admin, server.pause(id)).await?,
        false => api::ask(admin, server.resume(id)).await?,
    };
    if !known {
        return Err(Problem::new(StatusCode::CONFLICT, format_args!("{id} was closed meanwhile")));
    }
    Ok(reply::json(StatusCode::OK, &Paused { listener, paused }))
}

pub(super) async fn drain(admin: &Admin, request: &HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let DrainBody { timeout, goodbye, dry_run } = body(payload).await?;
    let deadline = timeout.map(Duration::try_from_secs_f64).transpose();
    let deadline =
        deadline.map_err(|_| Problem::bad("the timeout is no time: use seconds, as 10 or 0.5", "timeout"))?;
    let goodbye = goodbye.as_deref().map(line).transpose()?.map(Bytes::from);
    let server = admin.settings.server.clone();
    if dry_run {
        let sessions = api::ask(admin, server.stats()).await?.live;
        return Ok(reply::json(StatusCode::OK, &Dry { dry_run, sessions, first: None }));
    }
    let drain = admin.settings.before_drain.ask(deadline, goodbye);
    match drain.delay {
        Duration::ZERO => log_change(request, format_args!("drain within {:?}", drain.deadline)),
        delay => log_change(request, format_args!("drain in {delay:?}, then within {:?}", drain.deadline)),
    }
    actix_rt::spawn(async move {
        if let Ok(DrainReport { ended, cut, duration, .. }) = server.drain(drain).await {
            log::info!(
                ended = ended, cut = cut, duration = seconds::of(duration);
                "drained: {} ended, {cut} cut, in {duration:?}", Counted(ended, "session")
            );
        }
    });
    // Asked for, but perhaps not begun: the next event tells.
    Ok(reply::json(StatusCode::ACCEPTED, &Draining { draining: admin.settings.server.draining() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_what_follows_the_scheme() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc "), Some(&b"abc"[..]));
        for other in [&b"Basic abc"[..], b"Bearer", b"", b"Bearerabc", b"\xff\xff\xff\xff\xff\xff\xff\xff"] {
            assert_eq!(bearer(other), None, "{other:?}");
        }
    }
}
