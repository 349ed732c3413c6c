//! The console: a listener of line sessions by which an operator sees and steers a running server. Feature `console`.
//!
//! ```
//! use actix_lines::{LineServer, Rot13, console::Console};
//!
//! # #[actix::main]
//! # async fn main() -> std::io::Result<()> {
//! # let folder = std::env::temp_dir().join(format!("console-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! # let path = format!("unix:{}", folder.join("console.sock").display());
//! let server = LineServer::new(|_connection| Rot13).bind("127.0.0.1:0")?.console(Console::at(path))?.start()?;
//! # server.abort().await?;
//! # server.wait().await?;
//! # std::fs::remove_dir_all(folder)
//! # }
//! ```
//!
//! `help` lists its commands. One command is one line. Its answer is any number of lines that are not empty, then an empty
//! line; a failed command's is the line `error: …`. With `json` before a command each record of the answer is one JSON
//! object on a line of its own. An empty line is no command and has no answer. Nothing is sent before the first command.
//!
//! A console is a server of its own on the arbiter of the one that it steers: its sessions are in none of that server's
//! limits, counters and lists. Each command is one call of the [`ServerHandle`](crate::ServerHandle).

pub(crate) mod asked;
pub(crate) mod builder;
pub(crate) mod changes;
pub(crate) mod commands;
pub(crate) mod entry;
#[cfg(feature = "cluster")]
pub(crate) mod fault;
pub(crate) mod hub;
#[cfg(feature = "cluster")]
pub(crate) mod nodes;
pub(crate) mod out;
pub(crate) mod reports;
pub(crate) mod request;
pub(crate) mod rows;
pub(crate) mod session;
pub(crate) mod setup;
pub(crate) mod snapshots;
pub(crate) mod strangers;
pub(crate) mod top;
pub(crate) mod trace;
pub(crate) mod watch;
#[cfg(test)]
mod whatever_comes;

pub use self::{
    builder::{BoundConsole, Console, ConsoleError},
    commands::{commands, help},
};
