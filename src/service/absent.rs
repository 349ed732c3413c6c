//! Service: nobody to tell, built without the feature `systemd` or for another system.

use actix_lines::{ListenAddress, Listener, ServerHandle};

pub(crate) fn keep(listener: Listener, _: &ListenAddress, _: Option<&str>) -> Listener {
    listener
}

pub(crate) fn close_unused_sockets() -> Vec<String> {
    Vec::new()
}

pub(crate) fn warn_of_unused_sockets(_: &[String]) {}

pub(crate) fn ready(_: &ServerHandle) {}

#[derive(Debug)]
pub(crate) struct Reload;

pub(crate) fn reloading() -> Reload {
    Reload
}

pub(crate) fn stopping() {}

pub(crate) fn reload_failed(_: &str) {}

pub(crate) fn reload_succeeded() {}
