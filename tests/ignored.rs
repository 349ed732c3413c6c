//! Tests that `cargo test` leaves out are run by `tests/run`, which installs what they need.
//!
//! Each says why it is left out: `needs A, B and C`, programs or packages of `tests/run`'s list, or `takes` something else.

#[path = "support/files.rs"]
mod files;

use std::{collections::BTreeSet, fs, path::Path};

/// The reasons of a source, each with the number of its line.
fn reasons(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let attributes = source.lines().enumerate().filter_map(|(number, line)| {
        let line = line.trim_start();
        line.starts_with("#[").then(|| line.split_once("ignore").map(|(_, rest)| (number + 1, rest))).flatten()
    });
    attributes.map(|(number, rest)| (number, rest.split('"').nth(1).unwrap_or_default()))
}

/// The programs and packages of a reason. Root is none: without it tests/run says so.
fn needs(reason: &str) -> impl Iterator<Item = &str> {
    let reason = reason.split([';', ':']).next().unwrap_or_default();
    let list = reason.split_once("needs ").map_or("", |(_, list)| list);
    let list = list.strip_prefix("the Debian package").map_or(list, |list| list.trim_start_matches('s'));
    let names = list.split([',', ' ']).map(str::trim);
    names.filter(|name| !["", "and", "or", "root"].contains(name))
}

#[test]
fn what_an_ignored_test_needs_is_installed_by_the_command_that_its_reason_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = fs::read_to_string(root.join("tests/run")).unwrap();
    assert!(script.contains("tests/side_by_side --include-ignored"), "tests/run leaves them out");
    let is_of_a_name = |letter: char| letter.is_alphanumeric() || "-.+_".contains(letter);
    let installed: BTreeSet<_> = script.split(|letter| !is_of_a_name(letter)).collect();
    let (mut wrong, mut looked_at) = (Vec::new(), 0);
    for path in files::below(root, "rs") {
        let source = fs::read_to_string(&path).unwrap();
        for (line, reason) in reasons(&source) {
            looked_at += 1;
            let place = format!("{}:{line}", path.strip_prefix(root).unwrap().display());
            if !["needs ", "takes "].iter().any(|word| reason.starts_with(word)) || !reason.contains("tests/run") {
                wrong.push(format!("{place}: {reason:?} has another form"));
            }
            let missing = needs(reason).filter(|name| !installed.contains(name));
            wrong.extend(missing.map(|name| format!("{place}: {name} is not in tests/run")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(looked_at > 100, "only {looked_at} ignored tests were found: are they written in another way?");
}
