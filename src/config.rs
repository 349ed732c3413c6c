//! The configuration file: TOML, a key for each setting.
//!
//! Whatever is wrong with it is said with its line, also what only the library can know to be wrong.
//! Not here: what the settings are (`settings`), when the file is read again (`signals`).

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use actix_lines::{ConfigError, Limits};
use serde::Deserialize;
use toml::{Spanned, de::DeTable};

use crate::{args::Args, descriptors, settings::Settings};

/// The largest file that is read: far more than settings and long lists of networks need.
const LARGEST_FILE: u64 = 1 << 20;

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("cannot read {}: {source}: check --config", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("{}:{line}: {message}", file.display())]
    File { file: PathBuf, line: usize, message: String },
    #[error(transparent)]
    Meaning(#[from] ConfigError),
}

/// What is typed, and the file where that says more. A server can be started with it.
pub(crate) fn load(args: &Args) -> Result<Settings, Problem> {
    let typed = &args.settings;
    let Some(file) = &args.config else {
        typed.check()?;
        return Ok(typed.clone());
    };
    let text = read(file).map_err(|source| Problem::Read { file: file.clone(), source })?;
    let file = File { path: file, text: &text };
    let table = file.parse()?;
    let settings = typed.clone().or(file.settings(&table)?);
    match settings.check() {
        Ok(()) => Ok(settings),
        Err(error) => Err(file.blame(&table, typed, error)),
    }
}

/// A device may have no end, so there is one here.
fn read(file: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    fs::File::open(file)?.take(LARGEST_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other(format!("it is larger than {LARGEST_FILE} bytes")));
    }
    String::from_utf8(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no UTF-8"))
}

/// A file that has been read.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> File<'a> {
    fn parse(&self) -> Result<Spanned<DeTable<'a>>, Problem> {
        let table = DeTable::parse(self.text).map_err(|error| self.misread(&error))?;
        let mut keys: Vec<_> = table.get_ref().keys().collect();
        keys.sort_by_key(|key| key.span().start);
        for key in keys {
            if !Settings::names().iter().any(|name| name == key.get_ref()) {
                return Err(self.problem(key.span().start, unknown(key.get_ref())));
            }
        }
        Ok(table)
    }

    fn settings(&self, table: &Spanned<DeTable<'a>>) -> Result<Settings, Problem> {
        Settings::deserialize(toml::Deserializer::from(table.clone())).map_err(|error| self.misread(&error))
    }

    /// An error with the line of the first key without which it would not be there; without a line if the file is not to
    /// blame.
    fn blame(&self, table: &Spanned<DeTable<'a>>, typed: &Settings, error: ConfigError) -> Problem {
        let is_to_blame = |key: &Spanned<_>| {
            let mut others = table.clone();
            others.get_mut().remove(key);
            self.settings(&others).is_ok_and(|settings| typed.clone().or(settings).check().as_ref() != Err(&error))
        };
        let keys = table.get_ref().keys().filter(|key| is_to_blame(key));
        match keys.map(|key| key.span().start).min() {
            Some(offset) => self.problem(offset, error.to_string()),
            None => error.into(),
        }
    }

    fn misread(&self, error: &toml::de::Error) -> Problem {
        self.problem(error.span().map_or(0, |span| span.start), error.message().replace('\n', " "))
    }

    fn problem(&self, offset: usize, message: String) -> Problem {
        let before = self.text.as_bytes().iter().take(offset);
        let line = before.filter(|byte| **byte == b'\n').count() + 1;
        Problem::File { file: self.path.to_owned(), line, message }
    }
}

/// What to say of a key that there is not: the one that was meant, if any looks like it.
fn unknown(key: &str) -> String {
    let alike = |name: &String| strsim::jaro(&key.replace('_', "-"), name);
    let nearest = Settings::names().into_iter().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    match nearest.filter(|name| alike(name) > 0.8) {
        Some(name) => format!("unknown key {key:?}: write {name}"),
        None => format!("unknown key {key:?}: use the flags of --help that take a value, without their dashes"),
    }
}

/// The limits that the settings mean on this machine.
pub(crate) fn limits(settings: &Settings) -> Result<Limits, ConfigError> {
    let room = descriptors::limit().map(|limit| {
        let others = (settings.workers() as u64, settings.listen().len() as u64);
        usize::try_from(descriptors::room_for_sessions(limit, others.0, others.1)).unwrap_or(usize::MAX)
    });
    if let (Some(asked), Some(room)) = (settings.max_sessions, room)
        && asked.0 > room
    {
        log::warn!("max-sessions {} is more than the descriptor limit has room for ({room}): raise ulimit -n", asked.0);
    }
    settings.limits(room)
}
