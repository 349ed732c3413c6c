//! Folders of scripts as a test of `cargo test`: a trial for each file.
//!
//! Not here: how one runs (`text`).

use std::{
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::script::{
    fuzz::Fuzz,
    target::Target,
    text::{Script, ScriptOptions},
};

/// Runs each `.session` file of a folder, and of the folders below, as a test of its own. It is the `main` of a test with
/// `harness = false`, and takes the arguments of any other: names, `--list`, `--exact`, `--test-threads`.
///
/// A file that others include should end otherwise, such as in `.lines`. A folder without scripts is a failure; a script that is
/// skipped is an ignored test, with the reason. [`Harness`] has more.
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
    Harness::new().folder(folder, target).run()
}

/// Folders of scripts as one test of `cargo test`: several with a service each, or fuzzed as well.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use actix_lines::{LineSession, Rot13, script::{Fuzz, Harness, Target}};
///
/// fn main() -> ExitCode {
///     let target = Target::memory(|transport| { LineSession::new(transport).start(Rot13); });
///     Harness::new().folder("tests/sessions", &target).fuzz(Fuzz::default()).run()
/// }
/// ```
#[derive(Debug, Default)]
pub struct Harness {
    folders: Vec<Folder>,
    fuzz: Option<Fuzz>,
}

#[derive(Debug)]
struct Folder {
    name: Option<String>,
    path: PathBuf,
    target: Target,
}

impl Harness {
    /// Begins with no folder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the scripts of a folder, and of those below it, as tests of a service.
    #[must_use]
    pub fn folder(mut self, folder: impl AsRef<Path>, target: &Target) -> Self {
        self.folders.push(Folder { name: None, path: folder.as_ref().to_owned(), target: target.clone() });
        self
    }

    /// As [`folder`](Self::folder), with the name of the service in front of each test's: `name/file`.
    #[must_use]
    pub fn service(mut self, name: impl Into<String>, folder: impl AsRef<Path>, target: &Target) -> Self {
        let path = folder.as_ref().to_owned();
        self.folders.push(Folder { name: Some(name.into()), path, target: target.clone() });
        self
    }

    /// Has each script be [fuzzed](Script::fuzz) too, as a test of its own: `name::fuzz`. What such a test leaves out is printed.
    /// Default: none is.
    #[must_use]
    pub fn fuzz(mut self, how: Fuzz) -> Self {
        self.fuzz = Some(how);
        self
    }

    /// Runs all of it, as the arguments of the process say, and returns its exit code.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let mut trials = Vec::new();
        for Folder { name: service, path: folder, target } in &self.folders {
            let named = |name: String| service.as_ref().map_or(name.clone(), |service| format!("{service}/{name}"));
            let mut files = Vec::new();
            let found =
                scripts(folder, &mut files).map_err(|error| format!("cannot read {}: {error}", folder.display()));
            if let Some(reason) =
                found.err().or_else(|| files.is_empty().then(|| format!("no .session file in {}", folder.display())))
            {
                trials.push(Trial::test(named("folder".to_owned()), move || Err(Failed::from(reason))));
            }
            files.sort();
            for file in files {
                let name = named(file.strip_prefix(folder).unwrap_or(&file).with_extension("").display().to_string());
                if let Some(how) = &self.fuzz {
                    trials.push(fuzzed(format!("{name}::fuzz"), file.clone(), target.clone(), how.clone()));
                }
                trials.push(plain(name, file, target.clone()));
            }
        }
        libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
    }
}

/// A report on lines of its own: its columns count.
fn failed(report: impl Display) -> Failed {
    Failed::from(format!("\n{report}"))
}

fn completed(skipped: Option<String>) -> Completion {
    skipped.map_or(Completion::Completed, Completion::ignored_with)
}

fn plain(name: String, file: PathBuf, target: Target) -> Trial {
    Trial::ignorable_test(name, move || {
        let run = Script::load(&file).map_err(failed)?.run(&target, &ScriptOptions::default()).map_err(failed)?;
        Ok(completed(run.skipped))
    })
}

fn fuzzed(name: String, file: PathBuf, target: Target, how: Fuzz) -> Trial {
    Trial::ignorable_test(name.clone(), move || {
        let script = Script::load(&file).map_err(failed)?;
        let report = script.fuzz(&target, &ScriptOptions::default(), &how).map_err(failed)?;
        if report.cases == 0 && report.skipped.is_none() {
            return Err(failed(format!("no case was tried: {report}")));
        }
        if !report.left_out.is_empty() {
            eprintln!("{name}: {report}");
        }
        Ok(completed(report.skipped))
    })
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
