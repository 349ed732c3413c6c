//! Api: what is read: health, counters, sessions, ends.
//!
//! Rule: each is one question to the typed handle, bounded in time and in number.
//! Not here: changes (`control`), the stream of events (`events`).

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web::Query,
};
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    connection::ListenerId,
    control::{
        listeners::ListenerInfo,
        query::{SessionFilter, SessionQuery},
        stats::{DrainProgress, Stats},
    },
    error::ServerEnded,
    http::{
        admin::{Admin, PATIENCE},
        ends::{End, KEPT},
        reply::{self, Problem},
    },
    metrics::TextFormat,
    server::handle::ServerHandle,
    words::{self, WrongWord},
};

/// Sessions on a page if no limit is given.
const PAGE: usize = 100;

/// Most sessions on a page.
const MAX_PAGE: usize = 1000;

/// A server as `/api/server` and each event say it.
#[derive(Serialize)]
pub(super) struct View {
    server: About,
    stats: Stats,
    listeners: Vec<ListenerInfo>,
    draining: Option<DrainProgress>,
    control: bool,
    /// Only where there is one.
    #[cfg(feature = "cluster")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Node>,
    /// Since the last event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ends: Option<Vec<End>>,
    /// Ends since the last event that are not among these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ends_left_out: Option<u64>,
}

/// The server's place in a cluster.
#[cfg(feature = "cluster")]
#[derive(Serialize)]
struct Node {
    name: crate::cluster::id::NodeName,
    #[serde(flatten)]
    stats: crate::cluster::stats::ClusterStats,
}

#[derive(Serialize)]
struct About {
    name: String,
    version: String,
    /// Seconds of Unix.
    started: u64,
    /// Unit: seconds.
    uptime: f64,
}

pub(super) async fn view(admin: &Admin) -> Result<View, ServerEnded> {
    let settings = &admin.settings;
    let server = &settings.server;
    let stats = server.stats().await?;
    let (started, uptime) = admin.shared.times();
    Ok(View {
        server: About { name: settings.name.clone(), version: settings.version.clone(), started, uptime },
        stats,
        listeners: server.listeners(),
        draining: server.draining(),
        control: settings.token.is_some(),
        #[cfg(feature = "cluster")]
        cluster: settings.cluster.as_ref().map(|cluster| Node { name: cluster.name().clone(), stats: cluster.stats() }),
        ends: None,
        ends_left_out: None,
    })
}

/// Asks the supervisor, but not for ever, and not with all others at once.
pub(super) async fn ask<T>(
    admin: &Admin,
    question: impl Future<Output = Result<T, ServerEnded>>,
) -> Result<T, Problem> {
    let unavailable = |error: &str| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error);
    let asked = async {
        // It is never closed.
        let _place = admin.shared.questions.acquire().await;
        question.await
    };
    match timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|error| unavailable(&error.to_string())),
        Err(_) => {
            Err(unavailable("the server has not answered in time: it is overloaded, or a handler holds its thread"))
        }
    }
}

pub(super) async fn health(admin: &Admin) -> HttpResponse {
    // Not among the other questions: whoever floods those does not make the server look dead.
    match timeout(PATIENCE, admin.settings.server.limits()).await {
        Ok(Ok(_)) => reply::text(StatusCode::OK, "ok"),
        Ok(Err(error)) => reply::text(StatusCode::SERVICE_UNAVAILABLE, error),
        Err(_) => reply::text(StatusCode::SERVICE_UNAVAILABLE, "the supervisor does not answer"),
    }
}

pub(super) fn ready(admin: &Admin) -> HttpResponse {
    let server = &admin.settings.server;
    let not = |reason: &str| reply::text(StatusCode::SERVICE_UNAVAILABLE, reason);
    let listeners = server.listeners();
    if let Some(progress) = server.draining() {
        not(if progress.has_begun() { "the server drains" } else { "the server is about to drain" })
    } else if listeners.is_empty() {
        not("there is no listener")
    } else if listeners.iter().all(|listener| listener.is_paused) {
        not(if listeners.len() == 1 { "the listener is paused" } else { "all listeners are paused" })
    } else {
        ready_in_cluster(admin)
    }
}

#[cfg(not(feature = "cluster"))]
fn ready_in_cluster(_: &Admin) -> HttpResponse {
    reply::text(StatusCode::OK, "ok")
}

/// A node on its own is as ready as a server without a cluster, unless it lets nobody in while it is on its own.
#[cfg(feature = "cluster")]
fn ready_in_cluster(admin: &Admin) -> HttpResponse {
    use crate::cluster::health::Health;

    let Some(cluster) = &admin.settings.cluster else { return reply::text(StatusCode::OK, "ok") };
    let status = if cluster.limits().refuse_alone() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    match cluster.health() {
        Health::Lost { .. } => reply::text(status, "cluster: store lost"),
        Health::Starting => reply::text(status, "cluster: the store has not answered yet"),
        Health::Deaf { .. } => reply::text(StatusCode::OK, "cluster: deaf"),
        Health::Connected | Health::Ended => reply::text(StatusCode::OK, "ok"),
    }
}

/// The metrics, in the format that the scraper asks for.
pub(super) async fn metrics(admin: &Admin, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    let accept: Vec<_> = request.headers().get_all(header::ACCEPT).filter_map(|value| value.to_str().ok()).collect();
    let format = TextFormat::accepted(Some(accept.join(",").as_str()).filter(|accept| !accept.is_empty()));
    let text = ask(admin, admin.settings.metrics.encode_as(format)).await?;
    Ok(reply::metrics(format.content_type(), text))
}

pub(super) async fn server(admin: &Admin) -> Result<HttpResponse, Problem> {
    Ok(reply::json(StatusCode::OK, &ask(admin, view(admin)).await?))
}

pub(super) fn ends(admin: &Admin) -> HttpResponse {
    #[derive(Serialize)]
    struct Ends {
        ends: Vec<End>,
    }
    let count = admin.shared.hub.ends.count();
    let (ends, ..) = admin.shared.hub.ends.since(count.saturating_sub(KEPT as u64));
    reply::json(StatusCode::OK, &Ends { ends })
}

pub(super) async fn sessions(admin: &Admin, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    let server = &admin.settings.server;
    let query = query(request.query_string(), server)?;
    Ok(reply::json(StatusCode::OK, &ask(admin, server.sessions(query)).await?))
}

/// Reads the parameters of a list of sessions.
fn query(text: &str, server: &ServerHandle) -> Result<SessionQuery, Problem> {
    let parameters = Query::<Vec<(String, String)>>::from_query(text);
    let parameters = parameters.map_err(|_| Problem::bad("the parameters cannot be read: encode them as ?q=…", "?"))?;
    let mut query = SessionQuery::default().limit(PAGE);
    for (name, value) in parameters.into_inner() {
        match name.as_str() {
            "q" => query.filter = filter(&value, server)?.0,
            "sort" if value.is_empty() => {}
            "sort" => query.order = words::order(&value)?,
            "offset" => query.offset = words::number(&value)?,
            "limit" => {
                query.limit = words::number(&value)?;
                if query.limit > MAX_PAGE {
                    return Err(Problem::bad(
                        format_args!("{value} sessions are too many for a page: use {MAX_PAGE} and an offset"),
                        &value,
                    ));
                }
            }
            name => return Err(WrongWord::unknown(name, "parameter", ["q", "sort", "offset", "limit"]).into()),
        }
    }
    Ok(query)
}

/// Reads the words of a filter. Returns also whether there are any.
pub(super) fn filter(text: &str, server: &ServerHandle) -> Result<(SessionFilter, bool), Problem> {
    let mut words = words::split(text).peekable();
    let has_words = words.peek().is_some();
    Ok((words::filter(words, &listeners(server))?, has_words))
}

pub(super) fn listeners(server: &ServerHandle) -> Vec<ListenerId> {
    server.listeners().iter().map(|listener| listener.id).collect()
}

impl From<WrongWord> for Problem {
    fn from(error: WrongWord) -> Self {
        Self::bad(&error, &error.word)
    }
}
