//! Reply: answers, with the headers that all of them have.
//!
//! Rule: nothing of ours is sniffed, framed, or kept by a cache; a browser loads nothing from elsewhere for it.
//! Not here: what is answered (`api`, `control`, `files`).

use std::fmt::Display;

use actix_web::{
    HttpResponse, HttpResponseBuilder,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
};
use serde::Serialize;

/// Headers of each answer.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// A request that is not answered as it wants, and what to do.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) error: String,
    /// The word that was wrong.
    pub(super) word: Option<String>,
}

#[derive(Serialize)]
struct ProblemBody<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    word: Option<&'a str>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, error: impl Display) -> Self {
        Self { status, error: error.to_string(), word: None }
    }

    /// A request that makes no sense.
    pub(super) fn bad(error: impl Display, word: &str) -> Self {
        Self { word: Some(word.to_owned()), ..Self::new(StatusCode::BAD_REQUEST, error) }
    }

    /// The answer as JSON, for routes of the API.
    pub(super) fn json(&self) -> HttpResponse {
        json(self.status, &ProblemBody { error: &self.error, word: self.word.as_deref() })
    }

    /// The answer as a line of text, for others.
    pub(super) fn text(&self) -> HttpResponse {
        text(self.status, &self.error)
    }
}

pub(super) fn builder(status: StatusCode) -> HttpResponseBuilder {
    let mut builder = HttpResponse::build(status);
    for (name, value) in HEADERS {
        builder.insert_header((name, HeaderValue::from_static(value)));
    }
    builder
}

fn fresh(status: StatusCode) -> HttpResponseBuilder {
    let mut builder = builder(status);
    builder.insert_header((header::CACHE_CONTROL, "no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        builder.insert_header((header::RETRY_AFTER, "1"));
    }
    builder
}

pub(super) fn text(status: StatusCode, text: impl Display) -> HttpResponse {
    fresh(status).content_type("text/plain; charset=utf-8").body(format!("{text}\n"))
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> HttpResponse {
    match serde_json::to_vec(value) {
        Ok(body) => fresh(status).content_type("application/json").body(body),
        // Nothing here has keys that are no texts; a peer has no part in it.
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format_args!("no JSON: {error}")),
    }
}

/// Text of a media type that says which format it has.
pub(super) fn metrics(content_type: &'static str, text: String) -> HttpResponse {
    let mut builder = fresh(StatusCode::OK);
    builder.content_type(content_type).insert_header((header::VARY, "accept")).body(text)
}

/// An answer that goes on: its parts are sent as they come.
pub(super) fn events() -> HttpResponseBuilder {
    let mut builder = fresh(StatusCode::OK);
    // For a proxy in front, which would gather them.
    builder.content_type("text/event-stream").insert_header(("x-accel-buffering", "no"));
    builder
}
