//! Listeners: those that run, by name, and what differs from them in a file that is read again.
//!
//! Rule: a listener is its name; one of `--listen` is its address. What differs is found without touching anything.
//! Not here: the tables of the file (`settings/listener`), files of certificates (`certificates`).

use std::{fmt::Write, io, time::SystemTime};

use actix_lines::{ListenAddress, Listener, telnet::Telnet};

use crate::{certificates::Certificates, service, settings};

/// A listener that is wanted, with its certificates.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) listener: settings::Listener,
    pub(crate) certificates: Option<Certificates>,
}

impl Wanted {
    pub(crate) fn unnamed(address: ListenAddress) -> Self {
        Self { listener: settings::Listener::unnamed(address), certificates: None }
    }

    /// The name in the log: that of the file, or the address.
    pub(crate) fn name(&self) -> String {
        let name = self.listener.name().map(str::to_owned);
        name.unwrap_or_else(|| self.listener.settings.address.to_string())
    }

    /// Makes the library's listener.
    pub(crate) fn listener(&self) -> Listener {
        let settings::Listener { settings, limits, tls: _ } = &self.listener;
        let mut listener = Listener::at(settings.address.clone());
        listener = service::keep(listener, &settings.address, self.listener.name());
        if let Some(name) = self.listener.name() {
            listener = listener.name(name);
        }
        if let Some(framing) = limits.framing {
            listener = listener.framing(framing);
        }
        if let Some(limits) = limits.session {
            listener = listener.limits(limits);
        }
        if let Some(mode) = settings.mode {
            listener = listener.unix_mode(mode.0);
        }
        if let Some(owner) = settings.owner {
            listener = listener.unix_owner(owner.0);
        }
        if let Some(group) = settings.group {
            listener = listener.unix_group(group.0);
        }
        if let Some(only) = settings.v6only {
            listener = listener.only_v6(only);
        }
        // From the wire inwards.
        if let Some(certificates) = &self.certificates {
            listener = certificates.serve(listener);
        }
        if settings.telnet {
            listener = listener.telnet(Telnet::new());
        }
        listener
    }

    /// Says which listener cannot be bound.
    pub(crate) fn refused(&self, error: impl Into<io::Error>) -> io::Error {
        let error = error.into();
        match self.listener.name() {
            Some(name) => io::Error::new(error.kind(), format!("listener {name}: {error}")),
            None => error,
        }
    }
}

/// A difference between listeners that run and those that are wanted. Numbers are places in the two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is not there yet.
    Add { wanted: usize },
    /// Something else than the contents of its files differs.
    Replace { running: usize, wanted: usize },
    /// Nothing differs but the contents of its files, perhaps.
    Keep { running: usize, wanted: usize },
    /// It is wanted no longer.
    Close { running: usize },
}

/// Returns the change for each listener that runs or is wanted.
pub(crate) fn changes(running: &[settings::Listener], wanted: &[settings::Listener]) -> Vec<Change> {
    let mut left: Vec<_> = (0..running.len()).collect();
    let mut changes = Vec::new();
    for (number, listener) in wanted.iter().enumerate() {
        let is_it = |other: &settings::Listener| match (listener.name(), other.name()) {
            (None, None) => listener.settings.address == other.settings.address,
            (name, other) => name == other,
        };
        let change = match left.iter().position(|other| is_it(&running[*other])) {
            None => Change::Add { wanted: number },
            Some(place) => match left.remove(place) {
                other if running[other] == *listener => Change::Keep { running: other, wanted: number },
                other => Change::Replace { running: other, wanted: number },
            },
        };
        changes.push(change);
    }
    changes.extend(left.into_iter().map(|running| Change::Close { running }));
    changes
}

/// The listeners that run.
#[derive(Clone, Debug)]
pub(crate) struct Listeners(Vec<Wanted>);

impl Listeners {
    pub(crate) fn new(running: Vec<Wanted>) -> Self {
        Self(running)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Takes over certificates, and logs what differs else.
    pub(crate) fn take_over(&mut self, wanted: &[Wanted]) {
        let settings = |listeners: &[Wanted]| listeners.iter().map(|other| other.listener.clone()).collect::<Vec<_>>();
        for change in changes(&settings(&self.0), &settings(wanted)) {
            match change {
                Change::Keep { running, wanted: number } => {
                    if let (Some(old), Some(new)) = (&self.0[running].certificates, &wanted[number].certificates) {
                        old.replace(new);
                    }
                }
                Change::Add { wanted: number } => {
                    log::warn!("SIGHUP: listener {} is new; only a restart adds it", wanted[number].name());
                }
                Change::Replace { running, .. } => {
                    log::warn!("SIGHUP: listener {} differs; only a restart changes it", self.0[running].name());
                }
                Change::Close { running } => {
                    log::warn!("SIGHUP: listener {} is gone; only a restart closes it", self.0[running].name());
                }
            }
        }
        self.log_certificates();
    }

    /// Returns true if one of them has certificates, so that they may expire.
    pub(crate) fn have_certificates(&self) -> bool {
        self.0.iter().any(|listener| listener.certificates.is_some())
    }

    /// Logs what should be changed about certificates and keys that were just loaded.
    pub(crate) fn log_certificates(&self) {
        for (listener, certificates) in self.certificates() {
            for note in certificates.unsafe_files() {
                log::warn!("listener {}: {note}", listener.name());
            }
        }
        self.log_expiring(SystemTime::now());
    }

    /// Logs which certificates are about to expire, and louder which have expired.
    pub(crate) fn log_expiring(&self, now: SystemTime) {
        for (listener, certificates) in self.certificates() {
            for (level, note) in certificates.expiring(now) {
                log::log!(level, "listener {}: {note}", listener.name());
            }
        }
    }

    /// The counters, as the end of a line.
    pub(crate) fn counters(&self, now: SystemTime) -> String {
        let mut text = String::new();
        for (listener, certificates) in self.certificates() {
            if let Some(seconds) = certificates.seconds_left(now) {
                // Into a string: there is no error.
                let _ = write!(text, "; certificate of {} expires in {seconds} s", listener.name());
            }
        }
        text
    }

    fn certificates(&self) -> impl Iterator<Item = (&Wanted, &Certificates)> {
        self.0.iter().filter_map(|listener| Some((listener, listener.certificates.as_ref()?)))
    }
}
