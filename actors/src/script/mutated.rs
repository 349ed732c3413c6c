//! The parser, fed with what is nearly a script: all scripts of the repository, changed by bytes, words and lines.
//!
//! A heavy run: `PROPTEST_CASES=1000000 cargo test --release -p actix-lines --features script --lib script::mutated`.
//! Not here: texts made of nothing, and what is written down again (`round_trip`).

use std::{collections::BTreeSet, fs, path::Path, sync::LazyLock};

use proptest::prelude::*;

use crate::script::{
    ast::Statement,
    report::ScriptError,
    text::{Script, ScriptOptions},
};

/// There is no such folder: nothing is found beside the script.
const NAME: &str = "nowhere/mutated.session";

/// What scripts are made of.
const WORDS: &[&str] = &[
    ">",
    "<",
    ":",
    ">>",
    "<?",
    "<!",
    "<^",
    "\"",
    "/",
    "\\",
    "$",
    "${",
    "}",
    " #",
    " * ",
    "\\{do echo}",
    "\\{",
    "\\x",
    "\\u{",
    "(?<n>",
    "repeat ",
    "one-of",
    "unordered",
    "include ",
    "let ",
    "newline ",
    "timeout ",
    "needs ",
    "server ",
    "server: ",
    "server a = ",
    ": log /",
    ": exit ",
    ": signal ",
    ": connect ",
    ": refused ",
    ": until ",
    ": split at ",
    ": hex ",
    ": after ",
    ": quiet ",
    "tls:",
    "unix:",
    "bob",
    "\n",
    "\n  ",
    "\r\n",
    "\t",
    "\0",
    "é",
    "\u{1b}",
    "18446744073709551616",
];

#[derive(Clone, Debug)]
enum Mutation {
    /// A byte becomes another.
    Byte(prop::sample::Index, u8),
    Insert(prop::sample::Index, &'static str),
    Remove(prop::sample::Index, usize),
    SwapLines(prop::sample::Index, prop::sample::Index),
    RepeatLine(prop::sample::Index),
    Indent(prop::sample::Index, usize),
    Truncate(prop::sample::Index),
    /// Another script goes on where this one ends.
    Join(prop::sample::Index),
}

fn collect(folder: &Path, scripts: &mut Vec<Vec<u8>>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_other = path.file_name().is_some_and(|name| name == "target" || name == ".git");
        if path.is_dir() && !is_other {
            collect(&path, scripts);
        } else if path.extension().is_some_and(|extension| extension == "session" || extension == "lines") {
            // A mutation of megabytes takes its time and shows nothing more.
            scripts.extend(fs::read(&path).ok().filter(|text| text.len() < 16 << 10));
        }
    }
}

/// All scripts that there are.
static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut scripts = Vec::new();
    collect(&crate_folder.join("tests"), &mut scripts);
    collect(&crate_folder.join("../tests"), &mut scripts);
    collect(&crate_folder.join("../tools"), &mut scripts);
    scripts.sort();
    assert!(!scripts.is_empty(), "there are no scripts");
    scripts
});

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        (at(), prop::sample::select(WORDS)).prop_map(|(at, word)| Mutation::Insert(at, word)),
        (at(), 1_usize..20).prop_map(|(at, len)| Mutation::Remove(at, len)),
        (at(), at()).prop_map(|(one, other)| Mutation::SwapLines(one, other)),
        at().prop_map(Mutation::RepeatLine),
        (at(), 0_usize..6).prop_map(|(at, indent)| Mutation::Indent(at, indent)),
        at().prop_map(Mutation::Truncate),
        at().prop_map(Mutation::Join),
    ]
}

fn lines(text: &[u8]) -> Vec<Vec<u8>> {
    text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

fn mutate(mut text: Vec<u8>, mutation: &Mutation, corpus: &[Vec<u8>]) -> Vec<u8> {
    if text.is_empty() {
        return text;
    }
    let mut lines = lines(&text);
    let len = text.len();
    match mutation {
        Mutation::Byte(at, byte) => text[at.index(len)] = *byte,
        Mutation::Insert(at, word) => drop(text.splice(at.index(len)..at.index(len), word.bytes())),
        Mutation::Remove(at, count) => drop(text.drain(at.index(len)..len.min(at.index(len) + count))),
        Mutation::Truncate(at) => text.truncate(at.index(len)),
        Mutation::Join(at) => text.extend_from_slice(&corpus[at.index(corpus.len())]),
        Mutation::SwapLines(one, other) => {
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            lines.swap(one, other);
            text = lines.concat();
        }
        Mutation::RepeatLine(at) => {
            let line = at.get(&lines).clone();
            lines.insert(at.index(lines.len()), line);
            text = lines.concat();
        }
        Mutation::Indent(at, indent) => {
            let at = at.index(lines.len());
            lines[at].splice(..0, b" ".repeat(*indent));
            text = lines.concat();
        }
    }
    text
}

fn statements(text: &str) -> Result<Vec<Statement>, String> {
    Script::parse(NAME, text).map(|script| script.statements().to_vec()).map_err(|error| error.to_string())
}

/// Each of its errors stands in the text, and says something.
fn holds(error: &ScriptError) -> Result<(), TestCaseError> {
    let report = error.to_string();
    prop_assert!(!error.0.diagnostics.is_empty(), "an error without a reason");
    for diagnostic in &error.0.diagnostics {
        let span = diagnostic.span;
        prop_assert!(!diagnostic.title.trim().is_empty() && !diagnostic.label.trim().is_empty(), "{report}");
        let Some(source) = error.0.sources.get(span.file) else {
            return Err(TestCaseError::fail(format!("in no file: {}", diagnostic.title)));
        };
        prop_assert!(span.start <= span.end && span.end <= source.text.len(), "{span:?} is not in the text: {report}");
        let before = &source.text.as_bytes()[..span.start];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        prop_assert!(report.contains(&format!("{NAME}:{line}:")), "line {line} is not in the report: {report}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_mutation_of_a_script_is_more_than_an_error_that_says_where(
        first in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 1..6),
    ) {
        let text = CORPUS[first.index(CORPUS.len())].clone();
        let text = mutations.iter().fold(text, |text, mutation| mutate(text, mutation, &CORPUS));
        match Script::read(NAME.to_owned(), text) {
            Err(error) => holds(&error)?,
            Ok(script) => {
                let written = script.to_string();
                prop_assert_eq!(statements(&written), Ok(script.statements().to_vec()), "{}", written);
                if let Err(error) = script.check(&ScriptOptions::default()) {
                    holds(&error)?;
                }
            }
        }
    }
}

/// Else what is changed would be nothing that matters.
#[test]
fn the_scripts_that_are_mutated_have_most_words() {
    let corpus = CORPUS.concat();
    let text = String::from_utf8_lossy(&corpus);
    let missing: BTreeSet<_> =
        ["server", "needs", "repeat", "unordered", "one-of", "until", "<!", ">>", "split at", "refused"]
            .into_iter()
            .filter(|word| !text.contains(word))
            .collect();
    assert!(missing.is_empty(), "no script has {missing:?}");
}
