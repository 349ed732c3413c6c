//! A folder of scripts is a test of `cargo test`, each file a trial: here those that show the format.

use std::process::ExitCode;

use actix_lines::script::{Fuzz, Harness};

#[path = "script/service.rs"]
mod service;

fn main() -> ExitCode {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/script/holds");
    Harness::new().folder(folder, &service::obedient()).fuzz(Fuzz::default()).run()
}
