//! Http: the live page, metrics and probes, where `--http` asks for them.
//!
//! Rule: who does not ask for it has none of its threads. A server that cannot have its address does not start.
//! Not here: the routes (`actix-lines`), the settings (`settings`).

use std::{io, sync::Arc};

use actix_lines::{
    Address, Listener, ServerHandle,
    http::{Admin, HttpListener, Serving},
};

use crate::{
    cluster::Node,
    ending::Ending,
    settings::{self, Invalid, Settings},
    token::{self, Token},
};

/// Descriptors beside those of sessions: its connections, its socket, and those of its two threads.
pub(crate) const DESCRIPTORS: u64 = Admin::MAX_CONNECTIONS as u64 + 16;

/// What was bound, to be served when the server has started.
pub(crate) struct Bound {
    listener: HttpListener,
    token: Option<Token>,
    hosts: Vec<String>,
}

/// Reads the token, if there is one.
///
/// # Errors
/// Returns the setting that is wrong, and what to do.
pub(crate) fn token(wanted: &settings::Http<'_>) -> Result<Option<Token>, Invalid> {
    let token = wanted.token_file.map(token::load).transpose();
    token.map_err(|advice| Invalid { name: "http-control", advice })
}

/// Binds its address, if it has one.
pub(crate) fn bind(settings: &Settings, token: Option<Token>) -> io::Result<Option<Bound>> {
    let Some(wanted) = settings.served_by_http() else { return Ok(None) };
    let listener = HttpListener::bind(Listener::at(wanted.address.clone())).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("http: {error}"))
    })?;
    if token.is_some() && is_open(listener.local_addr()) {
        // The name of a host, or a socket that was handed over.
        let what = format!("invalid http-control at {}: {}", listener.local_addr(), settings::Http::IN_CLEAR);
        return Err(io::Error::other(what));
    }
    Ok(Some(Bound { listener, token, hosts: wanted.hosts.into_iter().map(str::to_owned).collect() }))
}

/// Returns true for an address that other machines may reach.
fn is_open(address: &Address) -> bool {
    address.ip().is_some_and(|ip| !ip.to_canonical().is_loopback())
}

pub(crate) async fn serve(
    bound: Option<Bound>,
    server: &ServerHandle,
    node: &Node,
    ending: &Arc<Ending>,
) -> io::Result<Option<Serving>> {
    let Some(Bound { listener, token, hosts }) = bound else { return Ok(None) };
    let may_control = token.is_some();
    let mut admin = Admin::new(server).program(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    if let Some(token) = token {
        admin = admin.control(token);
    }
    admin = node.tell_admin(admin);
    let ending = Arc::clone(ending);
    admin = admin.before_drain(move |deadline, goodbye| ending.ask(deadline, goodbye));
    admin = hosts.into_iter().fold(admin, Admin::host);
    let serving = admin.serve(listener).await?;
    let address = serving.local_addr();
    match address.ip() {
        Some(_) => log::info!("http: served at http://{address}/"),
        None => log::info!("http: served at {address}"),
    }
    if may_control {
        log::info!("http: whoever has the token may end sessions, pause listeners and drain");
    }
    if is_open(address) {
        log::warn!(
            "http: whoever reaches {address} sees all counters and the addresses of all peers: use a loopback address and a proxy \
             that asks for a password, unless everybody may"
        );
    }
    Ok(Some(serving))
}

pub(crate) async fn stop(serving: Option<Serving>) {
    if let Some(serving) = serving {
        serving.stop().await;
    }
}
