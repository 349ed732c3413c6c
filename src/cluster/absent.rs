//! Cluster in a build without it: there is none.
//!
//! Not here: a build with the feature `cluster` (`cluster`).

use std::{convert::Infallible, io};

#[cfg(feature = "console")]
use actix_lines::console::Console;
#[cfg(feature = "http")]
use actix_lines::http::Admin;
use actix_lines::{ConfigError, Connection, LineHandler, LineServer, agent_check::AgentCheck};

use crate::settings::{ClusterSettings, Invalid, Settings};

/// None at all.
pub(crate) enum Store {}

impl Store {
    pub(crate) fn has_passwords(&self) -> bool {
        match *self {}
    }

    pub(crate) fn take_passwords(&self, _: &Self, _: &[&str]) -> Vec<&'static str> {
        match *self {}
    }
}

/// None over nodes.
pub(crate) type FleetLimits = Infallible;

/// None.
#[derive(Clone, Debug)]
pub(crate) struct Node;

pub(crate) fn store(_: &ClusterSettings<'_>) -> Result<Store, Invalid> {
    let advice = "this rot13d was built without clusters: build it with --features cluster, or take it away";
    Err(Invalid { name: "cluster", advice: advice.to_owned() })
}

pub(crate) fn join<A, F>(
    server: LineServer<A, F>,
    _: Option<&Store>,
    _: &Settings,
) -> io::Result<(LineServer<A, F>, Node)>
where
    A: LineHandler,
    F: Fn(&Connection) -> A + Clone + Send + 'static,
{
    Ok((server, Node))
}

pub(crate) fn limits(_: &Settings) -> Result<Option<FleetLimits>, ConfigError> {
    Ok(None)
}

impl Node {
    pub(crate) fn knows_limit(_: &str) -> bool {
        false
    }

    pub(crate) fn changes(&self, _: &Settings, _: &Settings) -> Vec<String> {
        Vec::new()
    }

    pub(crate) fn set_limits(&self, _: Option<FleetLimits>) {}

    pub(crate) fn tell_agent(&self, agent: AgentCheck) -> AgentCheck {
        agent
    }

    #[cfg(feature = "console")]
    pub(crate) fn tell_console(&self, console: Console) -> Console {
        console
    }

    #[cfg(feature = "http")]
    pub(crate) fn tell_admin(&self, admin: Admin) -> Admin {
        admin
    }
}
