//! Asked: a command with all that it may use.
//!
//! Not here: the commands (`reports`, `changes`).

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::{
    address::Address,
    connection::ListenerId,
    console::{
        out::{Failure, Out},
        setup::Setup,
    },
    control::query::{SessionFilter, SessionInfo, SessionQuery},
    server::handle::ServerHandle,
    words::{self, Ended, WrongWord},
};

pub(crate) struct Asked {
    /// The command's name.
    pub(crate) name: &'static str,
    /// The words behind it.
    pub(crate) words: Vec<String>,
    /// The text behind them, where there is one.
    pub(crate) text: Option<Bytes>,
    pub(crate) server: ServerHandle,
    pub(crate) setup: Arc<Setup>,
    /// The console's peer.
    pub(crate) who: Address,
    pub(crate) out: Out,
}

impl Asked {
    /// Logs a change before it is made.
    pub(crate) fn log(&self, what: fmt::Arguments<'_>) {
        log::info!(who:% = self.who, command = self.name; "console: {}: {} {what}", self.who, self.name);
    }

    /// Logs which sessions a change ends: how many, and the first of them.
    pub(crate) fn log_ended(&self, what: fmt::Arguments<'_>, count: u64, first: &[SessionInfo]) {
        log::info!(
            who:% = self.who, command = self.name, sessions = count;
            "console: {}: {}: {what}: {}", self.who, self.name, Ended(count, first)
        );
    }

    /// Returns the listeners that a word may mean.
    pub(crate) async fn listeners(&self) -> Result<Vec<ListenerId>, Failure> {
        let mut listeners: Vec<_> = self.server.listeners().into_iter().map(|listener| listener.id).collect();
        let names = self.words.iter().filter_map(|word| word.strip_prefix("listener="));
        let is_known = |name: &str| words::listener(name, &listeners).is_ok();
        if !names.into_iter().all(is_known) {
            // It may be a former one that still has sessions.
            let former: Vec<_> = self.server.stats().await?.listeners.into_keys().collect();
            listeners.extend(former.into_iter().rev().filter(|former| !listeners.contains(former)).collect::<Vec<_>>());
        }
        Ok(listeners)
    }

    /// Reads all words as a filter.
    pub(crate) async fn filter(&self) -> Result<SessionFilter, Failure> {
        words::filter(self.words.iter().map(String::as_str), &self.listeners().await?)
            .map_err(|error| self.wrong(error))
    }

    /// Has the error about a filter name those over nodes, if the command takes them.
    fn wrong(&self, error: WrongWord) -> Failure {
        #[cfg(feature = "cluster")]
        if words::TAKE_NODE.contains(&self.name) && self.setup.cluster.is_some() {
            return words::with_node(error).into();
        }
        error.into()
    }

    /// Reads all words as a filter that has to be written: who means everybody says so.
    pub(crate) async fn written_filter(&self) -> Result<SessionFilter, Failure> {
        if self.words.is_empty() {
            return Err(WrongWord::alone(self.name, "a filter, or all for every session,").into());
        }
        self.filter().await
    }

    /// Reads all words as a query.
    pub(crate) async fn query(&self) -> Result<SessionQuery, Failure> {
        words::query(self.words.iter().map(String::as_str), &self.listeners().await?).map_err(|error| self.wrong(error))
    }

    /// Takes the word that asks for a dry run. Returns true if it was there.
    pub(crate) fn take_dry_run(&mut self) -> bool {
        self.take_if(words::is_dry_run)
    }

    /// Takes the word that stands alone for a switch, as `once`. Returns true if it was there.
    pub(crate) fn take(&mut self, switch: &str) -> bool {
        self.take_if(|word| word == switch)
    }

    fn take_if(&mut self, is_it: impl Fn(&str) -> bool) -> bool {
        let before = self.words.len();
        self.words.retain(|word| !is_it(word));
        self.words.len() < before
    }

    /// Returns the words, for a log.
    pub(crate) fn typed(&self) -> String {
        crate::escape::Escaped::new(&self.words.join(" ")).to_string()
    }
}
