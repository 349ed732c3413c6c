//! Arguments: as typed → as meant.
//!
//! Whatever is wrong with one is said here, before anything runs, with exit code 2.
//! Not here: what the settings do (`actix-lines`), descriptors (`descriptors`).

use std::time::Duration;

use actix_lines::{DEFAULT_BACKLOG, DEFAULT_MAX_LINE, Framing, MAX_LINE_LIMIT, MAX_WORKERS, Overlong};
use clap::{ArgAction, Parser, ValueEnum};
use log::LevelFilter;

/// Answers every line with its ROT13.
///
/// Each connection is an actor of its own. What a peer sends comes back as `tr 'A-Za-z' 'N-ZA-Mn-za-m'` would print it,
/// byte for byte and in order, however long a line is; a peer that half-closes gets every answer it is owed, then EOF.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Try it:\n  rot13d &\n  printf 'Hello\\n' | nc -N 127.0.0.1 40713\n\n\
                  SIGINT or SIGTERM drains: no new connection, every line that was read is answered. A second one aborts.\n\
                  Exit codes: 0 ended as asked, 1 could not run, 2 bad usage.\n\
                  The log goes to standard error; RUST_LOG chooses what of it, -v and -q overrule that."
)]
pub(crate) struct Args {
    /// Address to listen on; again for more. A port of 0 asks for a free one, which the log then names.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:40713", value_parser = listen_address)]
    pub(crate) listen: Vec<String>,

    /// Threads that run sessions [default: one for each core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_WORKERS as u64))]
    pub(crate) workers: Option<u64>,

    /// Longest line, in bytes without its newline. An incomplete line may need that much memory.
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_MAX_LINE, value_parser = max_line)]
    pub(crate) max_line: usize,

    /// What to do with a longer line.
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = OverlongArg::Pieces)]
    pub(crate) overlong: OverlongArg,

    /// Connections that the kernel holds before they are accepted; it caps this at net.core.somaxconn.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BACKLOG,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub(crate) backlog: u32,

    /// Most sessions at once; further connections wait in the backlog [default: what the descriptor limit allows].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_sessions: Option<u64>,

    /// How long sessions have to end by themselves after SIGINT or SIGTERM, as in 500ms, 10s, 2m.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) drain_timeout: Duration,

    /// Log more: once for a line for each closed session, twice for everything.
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,

    /// Log less: once for warnings and errors only, twice for errors only.
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "verbose")]
    quiet: u8,
}

/// [`Overlong`], as it is typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum OverlongArg {
    /// Answer it in pieces: not a byte is lost or added.
    Pieces,
    /// Put a newline after every max-line bytes without one.
    Split,
    /// Answer its first max-line bytes and the newline, drop the rest.
    Truncate,
    /// Answer the lines before it, then close.
    Close,
}

impl Args {
    pub(crate) fn framing(&self) -> Result<Framing, actix_lines::ConfigError> {
        let policy = match self.overlong {
            OverlongArg::Pieces => Overlong::Pieces,
            OverlongArg::Split => Overlong::Split,
            OverlongArg::Truncate => Overlong::Truncate,
            OverlongArg::Close => Overlong::Close,
        };
        Ok(Framing::lf().max_line(self.max_line)?.overlong(policy))
    }

    /// What `-v` and `-q` ask for; `None` leaves it to `RUST_LOG`.
    pub(crate) fn level(&self) -> Option<LevelFilter> {
        match (self.verbose, self.quiet) {
            (0, 0) => None,
            (1, _) => Some(LevelFilter::Debug),
            (2.., _) => Some(LevelFilter::Trace),
            (0, 1) => Some(LevelFilter::Warn),
            (0, 2..) => Some(LevelFilter::Error),
        }
    }
}

fn listen_address(text: &str) -> Result<String, String> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("the port is missing: write ADDR:PORT, as 127.0.0.1:40713 or [::1]:40713".to_owned());
    };
    if host.is_empty() {
        return Err(format!(
            "the address is missing: write 0.0.0.0:{port} for all of IPv4, [::]:{port} for all of IPv6"
        ));
    }
    if host.contains(':') && !host.starts_with('[') {
        return Err(format!("an IPv6 address goes in brackets: write [{host}]:{port}"));
    }
    port.parse::<u16>().map_err(|_| format!("{port:?} is no port: use 0 to 65535"))?;
    Ok(text.to_owned())
}

fn max_line(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|bytes| (1..=MAX_LINE_LIMIT).contains(bytes))
        .ok_or_else(|| format!("use 1 to {MAX_LINE_LIMIT} bytes"))
}
