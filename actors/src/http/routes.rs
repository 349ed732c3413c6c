//! Routes: which path and method is answered by what.
//!
//! Rule: whatever comes, the host is checked first, and every answer has the headers of `reply`.
//! Not here: the answers (`api`, `control`, `files`).

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method, StatusCode,
        header::{self, HeaderValue},
    },
    web::{self, Payload, ServiceConfig},
};

use crate::http::{admin::Admin, api, control, events, files, guard, reply};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Metrics,
    Health,
    Ready,
    Index,
    Style,
    Script,
    Icon,
    Server,
    Sessions,
    Ends,
    Events,
    Kick,
    Pause,
    Drain,
}

impl Route {
    const ALL: [(&str, Self); 14] = [
        ("/metrics", Self::Metrics),
        ("/healthz", Self::Health),
        ("/readyz", Self::Ready),
        ("/", Self::Index),
        ("/page.css", Self::Style),
        ("/page.js", Self::Script),
        ("/icon.svg", Self::Icon),
        ("/api/server", Self::Server),
        ("/api/sessions", Self::Sessions),
        ("/api/ends", Self::Ends),
        ("/events", Self::Events),
        ("/api/kick", Self::Kick),
        ("/api/pause", Self::Pause),
        ("/api/drain", Self::Drain),
    ];

    /// Changes something.
    fn is_control(self) -> bool {
        matches!(self, Self::Kick | Self::Pause | Self::Drain)
    }

    /// Answers programs, errors included.
    fn is_json(self) -> bool {
        self.is_control() || matches!(self, Self::Server | Self::Sessions | Self::Ends | Self::Events)
    }
}

impl Admin {
    /// Returns what [`App::configure`](actix_web::App::configure) and [`Scope::configure`](actix_web::Scope::configure)
    /// take, in the factory of an [`HttpServer`](actix_web::HttpServer): see [`Admin`].
    ///
    /// `/events` ends when the server of the sessions has. An HTTP server that is stopped earlier waits for the viewers of
    /// a page as for every client, up to its `shutdown_timeout`.
    pub fn routes(&self) -> impl FnOnce(&mut ServiceConfig) + use<> {
        let admin = self.clone();
        move |config| mount(&Arc::new(admin), config)
    }
}

/// Adds the routes to an application or a scope.
fn mount(admin: &Arc<Admin>, config: &mut ServiceConfig) {
    admin.shared.hub.ends.subscribe(&admin.settings.server);
    for (path, route) in Route::ALL {
        let admin = Arc::clone(admin);
        config.service(web::resource(path).to(move |request: HttpRequest, payload: Payload| {
            let admin = Arc::clone(&admin);
            async move { answer(&admin, route, &request, payload).await }
        }));
    }
    // The path of a scope without its last slash: paths of the page are relative to it. An application has none such.
    config.service(web::resource("").to(|request: HttpRequest| async move {
        let last = request.path().rsplit('/').next().unwrap_or_default();
        reply::builder(StatusCode::PERMANENT_REDIRECT).insert_header((header::LOCATION, format!("{last}/"))).finish()
    }));
}

/// The answer where there is no route.
pub(super) async fn not_found() -> HttpResponse {
    reply::text(
        StatusCode::NOT_FOUND,
        "there is nothing here: / is the page, /metrics and /api/server have the counters, /healthz and /readyz are for probes",
    )
}

async fn answer(admin: &Arc<Admin>, route: Route, request: &HttpRequest, payload: Payload) -> HttpResponse {
    let is_head = *request.method() == Method::HEAD;
    let is_allowed = match route.is_control() {
        true => *request.method() == Method::POST,
        false => is_head || *request.method() == Method::GET,
    };
    if let Err(problem) = guard::check_host(request, &admin.settings.hosts) {
        return problem.text();
    }
    if !is_allowed {
        let allowed = if route.is_control() { "POST" } else { "GET, HEAD" };
        let mut response = reply::text(StatusCode::METHOD_NOT_ALLOWED, format_args!("use {allowed}"));
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
        return response;
    }
    let answer = match route {
        Route::Metrics => api::metrics(admin, request).await,
        Route::Health => Ok(api::health(admin).await),
        Route::Ready => Ok(api::ready(admin)),
        Route::Index => Ok(files::INDEX.answer(request)),
        Route::Style => Ok(files::STYLE.answer(request)),
        Route::Script => Ok(files::SCRIPT.answer(request)),
        Route::Icon => Ok(files::ICON.answer(request)),
        Route::Server => api::server(admin).await,
        Route::Sessions => api::sessions(admin, request).await,
        Route::Ends => Ok(api::ends(admin)),
        Route::Events => events::answer(admin, request),
        Route::Kick | Route::Pause | Route::Drain => change(admin, route, request, payload).await,
    };
    answer.unwrap_or_else(|problem| {
        let mut response = if route.is_json() { problem.json() } else { problem.text() };
        if problem.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    })
}

async fn change(
    admin: &Admin,
    route: Route,
    request: &HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, reply::Problem> {
    control::authorize(admin, request).await?;
    match route {
        Route::Kick => control::kick(admin, request, payload).await,
        Route::Pause => control::pause(admin, request, payload).await,
        // There is no other.
        _ => control::drain(admin, request, payload).await,
    }
}
