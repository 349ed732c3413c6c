//! `--junit FILE`: results as continuous integration reads them.
//!
//! A folder is a suite, a run of a script a case. Not here: what is printed (`output`).

use std::{collections::BTreeMap, fs::File, io::Write, path::Path, time::Duration};

use actix_lines::script::ScriptFailure;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

/// A report that is written once all is done.
pub(crate) struct Junit {
    path: String,
    file: File,
    suites: BTreeMap<String, TestSuite>,
}

/// How a case ended.
pub(crate) enum Verdict<'a> {
    Holds,
    Skipped(&'a str),
    Fails(&'a ScriptFailure),
    /// Nothing is known of the script: the kind of reason, and the reason.
    Error(&'static str, &'a str),
}

impl Junit {
    /// Makes the file, empty: what cannot be written is known before anything runs, and no report of an earlier run is
    /// taken for one of this.
    pub(crate) fn create(path: &str) -> Result<Self, String> {
        let file = File::create(path).map_err(|error| format!("cannot write {path}: {error}"))?;
        Ok(Self { path: path.to_owned(), file, suites: BTreeMap::new() })
    }

    /// Adds a run of a script. `repetition` is its number where there are several.
    pub(crate) fn case(&mut self, script: &str, repetition: Option<usize>, time: Duration, verdict: &Verdict<'_>) {
        let path = Path::new(script);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let suite = folder.map_or_else(|| ".".to_owned(), |folder| folder.display().to_string());
        let stem = path.file_stem().map_or_else(|| script.to_owned(), |stem| stem.to_string_lossy().into_owned());
        let name = repetition.map_or_else(|| stem.clone(), |number| format!("{stem} #{number}"));
        let mut line = None;
        let status = match verdict {
            Verdict::Holds => TestCaseStatus::success(),
            Verdict::Skipped(reason) => {
                let mut status = TestCaseStatus::skipped();
                status.set_message(*reason);
                status
            }
            Verdict::Fails(failure) => {
                let report = failure.to_string();
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_type(failure.kind().name());
                status.set_message(title(&report));
                status.set_description(report);
                line = failure.place().filter(|(file, _)| *file == script).map(|(_, line)| line.to_string());
                status
            }
            Verdict::Error(kind, reason) => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
                status.set_type(*kind);
                status.set_message(title(reason));
                status.set_description(*reason);
                status
            }
        };
        let mut case = TestCase::new(name, status);
        case.set_classname(&*suite).set_time(time);
        case.extra.insert("file".into(), script.into());
        if let Some(line) = line {
            case.extra.insert("line".into(), line.into());
        }
        self.suites.entry(suite.clone()).or_insert_with(|| TestSuite::new(suite)).add_test_case(case);
    }

    /// Writes it. `time` is that of everything, which is less than the sum where several ran at once.
    pub(crate) fn write(mut self, time: Duration) -> Result<(), String> {
        let mut report = Report::new("linescript");
        report.set_time(time);
        for mut suite in self.suites.into_values() {
            let all = suite.test_cases.iter().filter_map(|case| case.time).sum();
            suite.set_time(all);
            // They come as they end: of several at once the order is chance.
            suite.test_cases.sort_by(|a, b| natural(a.name.as_str()).cmp(&natural(b.name.as_str())));
            report.add_test_suite(suite);
        }
        let text = report.to_string().map_err(|error| format!("cannot write {}: {error}", self.path))?;
        self.file.write_all(text.as_bytes()).map_err(|error| format!("cannot write {}: {error}", self.path))
    }
}

fn title(report: &str) -> &str {
    let first = report.lines().next().unwrap_or_default();
    first.strip_prefix("error: ").unwrap_or(first)
}

/// A name, and the number behind it as a number.
fn natural(name: &str) -> (&str, usize) {
    let numbered = name.rsplit_once(" #").and_then(|(name, number)| Some((name, number.parse().ok()?)));
    numbered.unwrap_or((name, 0))
}
