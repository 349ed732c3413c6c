//! Recording: live sessions, and connections of any kind, as [scripts](https://github.com/actix-lines/actix-lines/blob/main/docs/sessions.md)
//! that run again.
//!
//! A [`Recorder`] records the sessions of a server, each in a file of its own:
//!
//! ```
//! use actix_lines::{LineServer, Rot13, record::{Recorder, RecordLimits}};
//!
//! # fn main() -> std::io::Result<()> {
//! # let folder = std::env::temp_dir().join(format!("recordings-{}", std::process::id()));
//! let recorder = Recorder::open(&folder, RecordLimits::default().files(100))?;
//! let server = LineServer::new(|_connection| Rot13).record(&recorder);
//! # drop(server);
//! # std::fs::remove_dir_all(folder)
//! # }
//! ```
//!
//! A [`Writer`] makes a script of events, whatever they are of. Needs the feature `record`.

mod files;
mod queue;
pub(crate) mod recorder;
mod session;
mod writer;

pub use crate::record::{
    queue::RecordStats,
    recorder::{RecordLimits, Recorder},
    writer::{Event, Writer},
};
