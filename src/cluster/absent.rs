//! Cluster in a build without it: there is none.
//!
//! Not here: a build with the feature `cluster` (`cluster`).

use std::{convert::Infallible, io};

#[cfg(feature = "console")]
use actix_lines::console::Console;
#[cfg(feature = "http")]
use actix_lines::http::Admin;
use actix_lines::{Connection, LineHandler, LineServer, agent_check::AgentCheck};

use crate::settings::{ClusterSettings, Invalid, Settings};

/// None at all.
pub(crate) type Store = Infallible;

/// None.
#[derive(Debug)]
pub(crate) struct Node;

pub(crate) fn store(_: &ClusterSettings<'_>) -> Result<Store, Invalid> {
    let advice = "this rot13d was built without clusters: build it with --features cluster, or take it away";
    Err(Invalid { name: "cluster", advice: advice.to_owned() })
}

pub(crate) fn join<A, F>(
    server: LineServer<A, F>,
    _: Option<Store>,
    _: &Settings,
) -> io::Result<(LineServer<A, F>, Node)>
where
    A: LineHandler,
    F: Fn(&Connection) -> A + Clone + Send + 'static,
{
    Ok((server, Node))
}

impl Node {
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
