//! Config: the configuration file. TOML, a key for each setting.
//!
//! Rule: an error in it is reported with its line, even one that only the library finds.
//! Not here: the settings (`settings`), reading the file again (`signals`).

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use actix_lines::{ConfigError, limits::Limits};
use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use crate::{
    args::Args,
    descriptors,
    reason::reason,
    settings::{Auto, Given, Setting, Settings, Unusable},
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
}

impl From<ConfigError> for Problem {
    fn from(error: ConfigError) -> Self {
        Self::Settings(error.into())
    }
}

/// Loads the settings: a flag overrules the file, the file the default.
///
/// # Errors
/// For settings that no server can be started with.
pub(crate) fn load(args: &Args) -> Result<Settings, Problem> {
    let typed = &args.settings;
    let Some(path) = &args.config else { return Ok(Settings::new(typed)?) };
    let text = read(path).map_err(|reason| Problem::Read { file: path.clone(), reason })?;
    let at = |fault: Fault| {
        let before = text.as_bytes().iter().take(fault.offset);
        let line = before.filter(|byte| **byte == b'\n').count() + 1;
        Problem::File { file: path.clone(), line, message: fault.message }
    };
    let file = File::parse(&text).map_err(at)?;
    Settings::new(&typed.clone().or(&file.given)).map_err(|error| match file.to_blame(typed, &error) {
        Some(offset) => at(Fault { offset, message: error.to_string() }),
        None => error.into(),
    })
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

/// An error at a place of the file, in bytes from its beginning.
#[derive(Debug)]
pub(crate) struct Fault {
    offset: usize,
    message: String,
}

/// The settings of a file, and where each key stands.
#[derive(Debug, Default)]
struct File {
    given: Given,
    keys: Vec<(&'static str, usize)>,
}

impl File {
    fn parse(text: &str) -> Result<Self, Fault> {
        let table = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            Fault { offset, message: error.message().replace('\n', " ") }
        })?;
        let mut keys: Vec<_> = table.get_ref().iter().collect();
        keys.sort_by_key(|(key, _)| key.span().start);
        let mut file = Self::default();
        for (key, value) in keys {
            let (offset, key) = (key.span().start, key.get_ref());
            let Some(setting) = Settings::ALL.iter().find(|setting| setting.about.name == key) else {
                return Err(Fault { offset, message: unknown(key) });
            };
            file.given.insert(setting.about.name, texts(setting, value)?);
            file.keys.push((setting.about.name, offset));
        }
        Ok(file)
    }

    /// Finds the first key without which there would not be `error`.
    fn to_blame(&self, typed: &Given, error: &Unusable) -> Option<usize> {
        let is_to_blame = |name: &str| {
            let others = typed.clone().or(&self.given.without(name));
            Settings::new(&others).as_ref() != Err(error)
        };
        self.keys.iter().find(|(name, _)| is_to_blame(name)).map(|(_, offset)| *offset)
    }
}

/// Reads the value of `setting`, for a list its items.
fn texts(setting: &Setting, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, Fault> {
    match value.get_ref().as_array() {
        Some(values) if setting.is_list => values.iter().map(|value| text(setting, value)).collect(),
        _ => Ok(vec![text(setting, value)?]),
    }
}

/// Reads a value as the text that a flag would have.
fn text(setting: &Setting, value: &Spanned<DeValue<'_>>) -> Result<String, Fault> {
    let number = |integer: &DeInteger<'_>| i64::from_str_radix(integer.as_str(), integer.radix()).ok();
    let text = match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(integer) => number(integer).map(|number| number.to_string()),
        _ => None,
    };
    let name = setting.about.name;
    let wrong = |message| Fault { offset: value.span().start, message };
    let text = text.ok_or_else(|| {
        let several = if setting.is_list { ", or a list of these" } else { "" };
        wrong(format!("invalid value for {name}: use a text or a number, as for --{name}{several}"))
    })?;
    match setting.check(&text) {
        Ok(()) => Ok(text),
        Err(advice) => Err(wrong(format!("invalid value {text:?} for {name}: {advice}"))),
    }
}

/// Tells of a key that does not exist which one it resembles, if any.
fn unknown(key: &str) -> String {
    let alike = |name: &str| strsim::jaro(&key.replace('_', "-"), name);
    let names = Settings::ALL.iter().map(|setting| setting.about.name);
    match names.max_by(|one, other| alike(one).total_cmp(&alike(other))).filter(|name| alike(name) > 0.8) {
        Some(name) => format!("unknown key {key:?}: use {name}"),
        None => format!("unknown key {key:?}: use a flag of --help that takes a value, without its dashes"),
    }
}

/// The settings of a file, for tests that have none.
#[cfg(test)]
pub(crate) fn given(text: &str) -> Result<Given, Fault> {
    File::parse(text).map(|file| file.given)
}

/// The limits that the settings mean on this machine.
pub(crate) fn limits(settings: &Settings) -> Result<Limits, ConfigError> {
    let room = descriptors::limit().map(|limit| {
        let others = (settings.worker_threads() as u64, settings.addresses().len() as u64);
        usize::try_from(descriptors::room_for_sessions(limit, others.0, others.1)).unwrap_or(usize::MAX)
    });
    if let (Auto::Set(asked), Some(room)) = (settings.max_sessions, room)
        && asked.0 > room
    {
        log::warn!("max-sessions {} is more than the descriptor limit has room for ({room}): raise ulimit -n", asked.0);
    }
    settings.limits(room)
}
