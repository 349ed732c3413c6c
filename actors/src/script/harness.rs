//! A folder of scripts as a test of `cargo test`: a trial for each file.
//!
//! Not here: how one runs (`text`).

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::script::{
    target::Target,
    text::{Script, ScriptOptions},
};

/// Runs each `.session` file of a folder, and of the folders below, as a test of its own. It is the `main` of a test with
/// `harness = false`, and takes the arguments of any other: names, `--list`, `--exact`, `--test-threads`.
///
/// A file that others include should end otherwise, such as in `.lines`. A folder without scripts is a failure; a script that is
/// skipped is an ignored test, with the reason.
///
/// ```no_run
/// // tests/sessions.rs, and in Cargo.toml: [[test]] name = "sessions", harness = false
/// use std::process::ExitCode;
///
/// use actix_lines::{LineSession, Rot13, script::{Target, harness}};
///
/// fn main() -> ExitCode {
///     harness("tests/sessions", &Target::memory(|transport| { LineSession::new(transport).start(Rot13); }))
/// }
/// ```
#[must_use]
pub fn harness(folder: impl AsRef<Path>, target: &Target) -> ExitCode {
    let folder = folder.as_ref();
    let mut files = Vec::new();
    let mut trials = Vec::new();
    if let Err(error) = scripts(folder, &mut files) {
        let reason = format!("cannot read {}: {error}", folder.display());
        trials.push(Trial::test("folder", move || Err(Failed::from(reason))));
    } else if files.is_empty() {
        let reason = format!("no .session file in {}", folder.display());
        trials.push(Trial::test("folder", move || Err(Failed::from(reason))));
    }
    files.sort();
    trials.extend(files.into_iter().map(|file| {
        let name = file.strip_prefix(folder).unwrap_or(&file).with_extension("").display().to_string();
        let target = target.clone();
        Trial::ignorable_test(name, move || {
            // On a line of its own: its columns count.
            let failed = |report: String| Failed::from(format!("\n{report}"));
            let script = Script::load(&file).map_err(|error| failed(error.to_string()))?;
            let run = script.run(&target, &ScriptOptions::default()).map_err(|failure| failed(failure.to_string()))?;
            Ok(run.skipped.map_or(Completion::Completed, Completion::ignored_with))
        })
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn scripts(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            scripts(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "session") {
            files.push(path);
        }
    }
    Ok(())
}
