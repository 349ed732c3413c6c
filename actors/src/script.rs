//! Scripted sessions: a test of a line service is a text that reads as the transcript of a telnet session.
//!
//! ```text
//! # A line comes back as its ROT13, and a half-close is answered.
//! > Hello, world
//! < Uryyb, jbeyq
//! : fin
//! : eof
//! ```
//!
//! A [`Script`] runs against a [`Target`]: a server on TCP or a unix socket, or sessions in memory, where an hour passes at
//! once. A folder of scripts is a test of `cargo test` by [`harness`]. `docs/sessions.md` of the repository has the format.
//! Needs the feature `script`, for peers that speak TLS `script-tls`. The command of the same scripts is `linescript`.

mod address;
mod align;
mod amend;
mod ast;
mod bless;
mod connect;
mod driver;
mod expect;
mod failure;
mod fuzz;
mod harness;
mod idle;
mod kind;
mod listen;
mod literal;
mod manner;
mod matching;
mod memory;
mod needs;
mod notes;
mod parse;
mod peer;
mod peer_line;
mod process;
mod report;
mod run;
mod scope;
mod search;
mod server_lines;
mod servers;
mod shorten;
mod shrink;
mod spell;
mod target;
mod text;
#[cfg(feature = "script-tls")]
mod tls;

#[cfg(test)]
mod mutated;
#[cfg(test)]
mod round_trip;

#[cfg(feature = "script-tls")]
pub use crate::script::tls::{TlsOptions, TlsOptionsError};
pub use crate::script::{
    bless::{BlessError, Blessed},
    fuzz::{Fuzz, FuzzCase, FuzzCaseError, FuzzFailure, FuzzReport},
    harness::{Harness, harness},
    kind::{FailureKind, Mismatch},
    memory::ServiceStream,
    report::{ScriptError, ScriptFailure},
    search::Shrink,
    shrink::{ShrinkError, Shrunk},
    target::{AddressError, Target},
    text::{Script, ScriptOptions, ScriptRun, Transcript},
};
