//! Config: the configuration file. TOML, a key for each setting.
//!
//! Rule: an error in it is reported with its line, even one that only the library finds.
//! Not here: the settings (`settings`), the tables as they are written (`config/file`), reading the file again
//! (`signals`).

mod file;

use std::{
    fmt::Display,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use actix_lines::{ConfigError, limits::Limits};

use self::file::{Fault, File, ListenerTable, TlsTable};
use crate::{
    args::Args,
    certificates::Certificates,
    cluster::{self, Store},
    console, descriptors, http,
    listeners::Wanted,
    reason::reason,
    settings::{
        Auto, ConsoleAddress, Given, Invalid, Listener, ListenerSettings, OwnLimits, Settings, Tls, Unusable, places,
    },
    token::{self, Token},
};

/// The largest file that is read: far more than settings and long lists of networks need.
const LARGEST_FILE: u64 = 1 << 20;

/// Why there are no settings to start with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("cannot read {}: {reason}: check --config", file.display())]
    Read { file: PathBuf, reason: String },
    #[error("{}:{line}: {message}", file.display())]
    File { file: PathBuf, line: usize, message: String },
    #[error(transparent)]
    Settings(#[from] Unusable),
    #[error("{0}")]
    Name(io::Error),
}

impl From<ConfigError> for Problem {
    fn from(error: ConfigError) -> Self {
        Self::Settings(error.into())
    }
}

/// All that a server is started with.
pub(crate) struct Config {
    pub(crate) settings: Settings,
    pub(crate) listeners: Vec<Wanted>,
    pub(crate) secrets: Secrets,
}

/// The secrets of those who may steer the server, and of its store.
pub(crate) struct Secrets {
    /// That of `--console-token`.
    pub(crate) console: Option<Token>,
    /// That of `--http-control`.
    pub(crate) http: Option<Token>,
    /// The store of `--cluster`, with its password.
    pub(crate) store: Option<Store>,
}

impl Secrets {
    /// Returns true if a file keeps one of them.
    pub(crate) fn are_any(&self) -> bool {
        self.console.is_some() || self.http.is_some() || self.store.as_ref().is_some_and(Store::has_passwords)
    }

    /// Takes over what files have now, for connections from then on, but not those of these settings, whose files are others. Returns the
    /// settings whose secrets were others.
    pub(crate) fn take_over(&self, read: &Self, but: &[&str]) -> Vec<&'static str> {
        let mut changed = Vec::new();
        for (name, running, read) in
            [("console-token", &self.console, &read.console), ("http-control", &self.http, &read.http)]
        {
            if !but.contains(&name) && token::replace(running.as_ref(), read.as_ref()) {
                changed.push(name);
            }
        }
        if let (Some(running), Some(read)) = (&self.store, &read.store) {
            changed.extend(running.take_passwords(read, but));
        }
        changed
    }
}

impl Config {
    /// Looks up the names among its addresses, which may take a while.
    ///
    /// # Errors
    /// For a name that has no address.
    pub(crate) fn looked_up(mut self) -> Result<Self, Problem> {
        self.listeners.iter_mut().try_for_each(Wanted::look_up).map_err(Problem::Name)?;
        Ok(self)
    }
}

/// Loads the settings: a flag overrules the file, the file the default; and the certificates of all listeners.
///
/// # Errors
/// For settings that no server can be started with.
pub(crate) fn load(args: &Args) -> Result<Config, Problem> {
    let typed = &args.settings;
    let Some(path) = &args.config else {
        let settings = Settings::new(typed)?;
        let listeners: Vec<_> = settings.addresses().iter().cloned().map(Wanted::unnamed).collect();
        let secrets = secrets(&settings, &listeners).map_err(Unusable::from)?;
        return Ok(Config { settings, listeners, secrets });
    };
    let text = read(path).map_err(|reason| Problem::Read { file: path.clone(), reason })?;
    let at = |fault: Fault| {
        let before = text.as_bytes().iter().take(fault.offset);
        let line = before.filter(|byte| **byte == b'\n').count() + 1;
        Problem::File { file: path.clone(), line, message: fault.message }
    };
    let file = File::parse(&text).map_err(at)?;
    let server = typed.clone().or(&file.server.given);
    let settings = Settings::new(&server).map_err(|error| {
        let is_the_same = |others: &Given| Settings::new(others).as_ref() == Err(&error);
        match file.server.to_blame(|name| is_the_same(&typed.clone().or(&file.server.given.without(name)))) {
            Some(offset) => at(Fault { offset, message: error.to_string() }),
            None => error.clone().into(),
        }
    })?;
    // The default is for whoever asks for no listener at all.
    let is_default = !server.has("listen");
    let unnamed = if is_default && !file.listeners.is_empty() { &[] } else { settings.addresses() };
    let mut listeners: Vec<_> = unnamed.iter().cloned().map(Wanted::unnamed).collect();
    // A file without a folder is in the current one.
    let folder = path.parent().unwrap_or(Path::new(""));
    for table in &file.listeners {
        let listener = wanted(table, &server, folder).map_err(at)?;
        let address = &listener.listener.settings.address;
        if let Some(other) = listeners.iter().find(|other| places::collide(address, &other.listener.settings.address)) {
            let whose = other.listener.name().map_or("listen".to_owned(), |name| format!("listener {name:?}"));
            let advice = places::advice(&other.listener.settings.address, &whose);
            let message = format!("{}invalid address: {advice}", table.label);
            return Err(at(Fault { offset: table.table.offset_of("address"), message }));
        }
        listeners.push(listener);
    }
    let secrets = secrets(&settings, &listeners).map_err(|error| match typed.has(error.name) {
        true => Unusable::from(error).into(),
        false => at(Fault { offset: file.server.offset_of(error.name), message: error.to_string() }),
    })?;
    Ok(Config { settings, listeners, secrets })
}

/// Reads the secrets, and checks that there is a place for whatever else listens.
fn secrets(settings: &Settings, listeners: &[Wanted]) -> Result<Secrets, Invalid> {
    check_places(settings, listeners)?;
    let console = console::token(&settings.console_settings())?;
    let store = settings.cluster_settings().as_ref().map(cluster::store).transpose()?;
    let http = settings.served_by_http().as_ref().map(http::token).transpose()?.flatten();
    Ok(Secrets { console, http, store })
}

/// Checks that console, HTTP and agent checks can have their addresses, beside the listeners and each other.
fn check_places(settings: &Settings, listeners: &[Wanted]) -> Result<(), Invalid> {
    let console = match settings.console_settings().address {
        ConsoleAddress::At(address) => Some(address),
        ConsoleAddress::Auto | ConsoleAddress::Off => None,
    };
    let http = settings.served_by_http();
    let others = [
        ("console", console.as_ref()),
        ("http", http.as_ref().map(|http| http.address)),
        ("agent-check", settings.agent_address()),
    ];
    let listeners = listeners.iter().map(|Wanted { listener, .. }| {
        let whose = listener.name().map_or("listen".to_owned(), |name| format!("listener {name:?}"));
        (whose, &listener.settings.address)
    });
    let mut taken: Vec<_> = listeners.collect();
    for (name, address) in others {
        let Some(address) = address else { continue };
        if let Some((whose, other)) = taken.iter().find(|(_, other)| places::collide(address, other)) {
            return Err(Invalid { name, advice: places::advice(other, whose) });
        }
        taken.push((name.to_owned(), address));
    }
    Ok(())
}

/// Makes a listener of its table, and loads its certificates.
fn wanted(written: &ListenerTable, server: &Given, folder: &Path) -> Result<Wanted, Fault> {
    let ListenerTable { label, table, tls } = written;
    let fault = |offset, message: &dyn Display| Fault { offset, message: format!("{label}{message}") };
    let settings = ListenerSettings::new(&table.given);
    let settings = settings.map_err(|error| fault(table.offset_of(error.name), &error))?;
    let limits = OwnLimits::new(&table.given, server).map_err(|error| {
        let is_the_same = |name: &str| OwnLimits::new(&table.given.without(name), server).as_ref() == Err(&error);
        // Another's setting is wrong together with one of these, or there would be an error without any of them.
        fault(table.to_blame(is_the_same).unwrap_or(table.offset_of("")), &error)
    })?;
    let Some(TlsTable { table, pairs }) = tls else {
        return Ok(Wanted::new(Listener { settings, limits, tls: None }, None));
    };
    let place = |pair: Option<usize>, key: &str| pair.and_then(|pair| pairs.get(pair)).unwrap_or(table).offset_of(key);
    let given: Vec<_> = pairs.iter().map(|pair| pair.given.clone()).collect();
    let tls = Tls::new(&table.given, &given, folder).map_err(|(pair, Invalid { name, advice })| {
        let path = if pair.is_some() { "tls.sni." } else { "tls." };
        fault(place(pair, name), &format!("invalid {path}{name}: {advice}"))
    })?;
    let certificates = Certificates::load(&tls).map_err(|error| fault(place(error.pair, error.key), &error))?;
    Ok(Wanted::new(Listener { settings, limits, tls: Some(tls) }, Some(certificates)))
}

/// Reads the file, at most [`LARGEST_FILE`] of it: a device may have no end.
fn read(file: &Path) -> Result<String, String> {
    let mut text = Vec::new();
    let opened = fs::File::open(file).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut text));
    opened.map_err(|error| reason(&error))?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(format!("it is larger than {LARGEST_FILE} bytes"));
    }
    String::from_utf8(text).map_err(|_| "it is no UTF-8".to_owned())
}

/// The settings of a file, for tests that have none.
#[cfg(test)]
pub(crate) fn given(text: &str) -> Result<Given, Fault> {
    File::parse(text).map(|file| file.server.given)
}

/// The limits that the settings mean on this machine, beside so many listeners.
pub(crate) fn limits(settings: &Settings, listeners: usize) -> Result<Limits, ConfigError> {
    let room = descriptors::limit().map(|limit| {
        let workers = settings.worker_threads() as u64;
        let listeners = listeners + settings.other_listeners();
        let http = if settings.served_by_http().is_some() { http::DESCRIPTORS } else { 0 };
        usize::try_from(descriptors::room_for_sessions(limit, workers, listeners as u64, http)).unwrap_or(usize::MAX)
    });
    if let (Auto::Set(asked), Some(room)) = (settings.max_sessions, room)
        && asked.0 > room
    {
        log::warn!("max-sessions {} is more than the descriptor limit has room for ({room}): raise ulimit -n", asked.0);
    }
    let drain = settings.drain();
    if drain.spread > drain.deadline / 2 {
        let half = humantime::format_duration(drain.deadline / 2);
        log::warn!("drain-spread is more than half of drain-timeout: {half} of it count; raise drain-timeout");
    }
    settings.limits(room)
}
