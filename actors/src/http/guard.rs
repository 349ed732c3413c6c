//! Guard: which requests come from where they should.
//!
//! Rule: a web page from elsewhere that a browser of this network shows reads nothing here and changes nothing.
//! Not here: the token (`control`).

use std::net::IpAddr;

use actix_web::{
    HttpRequest,
    http::{
        StatusCode,
        header::{self, AsHeaderName},
    },
};

use crate::{address::Address, escape::Escaped, http::reply::Problem};

/// Checks the `Host` of a request against names that were bent to this machine (DNS rebinding). An IP address is one
/// that somebody typed, so that it passes, as `localhost` does.
pub(super) fn check_host(request: &HttpRequest, hosts: &[String]) -> Result<(), Problem> {
    // No browser speaks to a unix socket.
    let is_unix = request.conn_data::<Address>().is_some_and(|peer| peer.unix().is_some());
    if is_unix || (hosts.is_empty() && !request.app_config().local_addr().ip().is_loopback()) {
        return Ok(());
    }
    // HTTP/1.0 without one is no browser either.
    let Some(host) = request.headers().get(header::HOST) else { return Ok(()) };
    let name = host.to_str().ok().map(name_of);
    let is_ours = |name: &str| {
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        address.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
    };
    if name.is_some_and(is_ours) {
        return Ok(());
    }
    let shown = Escaped::new(host.as_bytes());
    let advice = "use an IP address or localhost, or have the operator add the name to those that are served";
    Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, format_args!("{shown} is no name of this server: {advice}")))
}

/// The host of a host and an optional port.
fn name_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Checks that a browser sends a request for a page of ours. Programs that are no browsers say nothing of it.
pub(super) fn check_origin(request: &HttpRequest) -> Result<(), Problem> {
    let is_ours = match (text(request, "sec-fetch-site"), text(request, header::ORIGIN)) {
        (Some(site), _) if site != "same-origin" => false,
        (_, Some(origin)) => {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            let host = text(request, header::HOST);
            authority.is_some() && authority.map(str::to_ascii_lowercase) == host.map(|host| host.to_ascii_lowercase())
        }
        _ => true,
    };
    let advice = "a page of another origin may not change anything: use the page of this server itself";
    is_ours.then_some(()).ok_or_else(|| Problem::new(StatusCode::FORBIDDEN, advice))
}

/// A header as text; one that is no ASCII is empty, which nothing here equals.
fn text(request: &HttpRequest, name: impl AsHeaderName) -> Option<&str> {
    Some(request.headers().get(name)?.to_str().unwrap_or_default())
}

/// Names who sends a request, for the log.
pub(super) fn who(request: &HttpRequest) -> String {
    match (request.conn_data::<Address>(), request.peer_addr()) {
        (Some(peer), _) => peer.to_string(),
        (None, Some(peer)) => Address::from(peer).to_string(),
        (None, None) => "somebody".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_told_from_its_port() {
        for (authority, host) in [
            ("localhost", "localhost"),
            ("localhost:9713", "localhost"),
            ("[::1]:9713", "[::1]"),
            ("127.0.0.1:", "127.0.0.1"),
            ("::1", ":"),
            ("evil.example:x", "evil.example:x"),
        ] {
            assert_eq!(name_of(authority), host, "{authority}");
        }
    }
}
