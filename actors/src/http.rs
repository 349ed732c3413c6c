//! Administration over HTTP: metrics, health, a live page, and control for whoever has the token. Feature `http`.
//!
//! [`Admin`] is mounted in an [`actix_web::App`] of yours, or served by itself:
//!
//! ```no_run
//! use actix_lines::{LineServer, Rot13, http::{Admin, HttpListener}};
//!
//! # #[actix::main]
//! # async fn main() -> std::io::Result<()> {
//! let server = LineServer::new(|_| Rot13).bind("127.0.0.1:40713")?.start()?;
//! let admin = Admin::new(&server).serve(HttpListener::bind("127.0.0.1:9713")?).await?;
//! server.wait().await?;
//! admin.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! | route | answer |
//! |---|---|
//! | `GET /metrics` | [`Metrics`](crate::metrics::Metrics) as OpenMetrics or Prometheus text, by `Accept` |
//! | `GET /healthz` | 200 while the supervisor answers, else 503 |
//! | `GET /readyz` | 200 while a listener accepts and the server does not drain, else 503 with the reason |
//! | `GET /` | the live page |
//! | `GET /api/server` | JSON: name, version, [`Stats`](crate::control::Stats), [listeners](crate::ListenerInfo), progress of a drain |
//! | `GET /api/sessions` | JSON: a [`SessionPage`](crate::control::SessionPage); parameters `q`, `sort`, `offset`, `limit` |
//! | `GET /api/ends` | JSON: the last 100 [`CloseReport`](crate::CloseReport)s, newest first |
//! | `GET /events` | server-sent events: `server` once a second, with `/api/server` and the ends since the one before |
//! | `POST /api/kick` | ends sessions: `{"q": "#7", "goodbye": "see you"}` |
//! | `POST /api/pause` | pauses or resumes a listener: `{"listener": "public", "paused": true}` |
//! | `POST /api/drain` | ends the server: `{"timeout": 10}`, in seconds; as for a kick, `"dry_run": true` only says how many sessions would end |
//!
//! The last three need [`Admin::control`]. Paths are relative to wherever the routes are mounted.

pub(crate) mod admin;
pub(crate) mod api;
pub(crate) mod control;
pub(crate) mod ends;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod guard;
pub(crate) mod hub;
pub(crate) mod listener;
pub(crate) mod reply;
pub(crate) mod routes;

pub use crate::http::{
    admin::Admin,
    listener::{HttpListener, Serving},
};
