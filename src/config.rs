//! The configuration file: TOML, a key for each setting.
//!
//! Not here: what the settings are (`settings`), when the file is read again (`signals`).

use std::{fs, io, path::PathBuf};

use actix_lines::{ConfigError, Limits};

use crate::{args::Args, descriptors, settings::Settings};

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

/// What is typed, and the file where that says more.
pub(crate) fn load(args: &Args) -> Result<Settings, Problem> {
    let Some(file) = &args.config else { return Ok(args.settings.clone()) };
    let text = fs::read_to_string(file).map_err(|source| Problem::Read { file: file.clone(), source })?;
    let in_file: Settings = toml::from_str(&text).map_err(|error| {
        let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Problem::File { file: file.clone(), line, message: error.message().replace('\n', " ") }
    })?;
    Ok(args.settings.clone().or(in_file))
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
        log::warn!(
            "--max-sessions {} is more than the descriptor limit has room for ({room}): raise ulimit -n",
            asked.0
        );
    }
    settings.limits(room)
}
