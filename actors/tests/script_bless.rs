//! A script that is blessed expects what came: only the lines that differ change, and it holds when it is run again.
//!
//! Not here: files and differences (`tools/linescript`).

use actix_lines::script::{BlessError, Script, ScriptOptions, Target};
use proptest::prelude::*;

#[path = "script/service.rs"]
mod service;

#[track_caller]
fn bless(text: &str) -> Result<String, BlessError> {
    let script = Script::parse("test.session", text).unwrap_or_else(|error| panic!("\n{error}"));
    script.bless(&service::obedient(), &ScriptOptions::default()).map(|blessed| {
        assert_eq!(blessed.is_changed, blessed.text != text);
        blessed.text
    })
}

#[track_caller]
fn assert_blessed(before: &str, after: &str) {
    match bless(before) {
        Ok(text) => assert_eq!(text, after, "\n{before}\nbecame\n{text}"),
        Err(error) => panic!("{before}\n{error}"),
    }
}

#[track_caller]
fn assert_refused(before: &str, reason: &str) {
    match bless(before) {
        Ok(text) => panic!("{before}\nbecame\n{text}"),
        Err(error) => assert!(error.to_string().contains(reason), "{error}"),
    }
}

#[test]
fn a_script_that_holds_stays() {
    let text = "# A comment.\n\n>  say   a\n<  \"  a\\n\"   # exact\n< /x/\n".replace("< /x/\n", "");
    assert_blessed(&text, &text);
}

#[test]
fn only_what_differs_is_written_anew() {
    assert_blessed(
        "# A comment.\n\nbob>   say Hello\nbob<   Hallo\n\n  \nbob>   say x\nbob<   x   y\n# End.\n",
        "# A comment.\n\nbob>   say Hello\nbob<   Hello\n\n  \nbob>   say x\nbob<   x\n# End.\n",
    );
    // What stands without a space gets one where it could be misread.
    assert_blessed("> say ?x\n<x\n", "> say ?x\n< ?x\n");
    assert_blessed("> say\n< x\n", "> say\n<\n");
    assert_blessed("> say x\n<\n", "> say x\n< x\n");
    assert_blessed("> say x", "> say x\n< x\n");
    assert_blessed("> say x\r\n< y\r\n", "> say x\r\n< x\r\n");
}

#[test]
fn what_came_is_quoted_where_it_has_to_be() {
    assert_blessed("> say  two\n< two\n", "> say  two\n< \" two\\n\"\n");
    assert_blessed("> say /path/\n< path\n", "> say /path/\n< \"/path/\\n\"\n");
    assert_blessed("> say costs $5 or $$name\n< x\n", "> say costs $5 or $$name\n< costs $$5 or $$name\n");
    assert_blessed("> \"say \\x01\\t.\\n\"\n< x\n", "> \"say \\x01\\t.\\n\"\n< \"\\u{1}\\t.\\n\"\n");
    assert_blessed("> raw login:\n< login\n: close\n", "> raw login:\n< \"login:\"\n: close\n");
    // Exact bytes stay exact bytes, and a comment behind them stays one.
    assert_blessed("> say abc\n< \"abd\\n\" # exact\n", "> say abc\n< \"abc\\n\" # exact\n");
    assert_blessed("> say abc\n< /abd/ # a pattern\n", "> say abc\n< \"abc\\n\" # a pattern\n");
}

#[test]
fn patterns_beginnings_and_variables_that_hold_stay() {
    assert_blessed(
        "> lines 17 b c\n< /^(?<n>\\d+)$/\n<^ x\n< c\n> say it was $n!\n< it is ${n}!\n",
        "> lines 17 b c\n< /^(?<n>\\d+)$/\n< b\n< c\n> say it was $n!\n< it was $n!\n",
    );
    assert_blessed("> say abc\n<^ ab\n> say d\n< e\n", "> say abc\n<^ ab\n> say d\n< d\n");
    assert_blessed("let who = alice\n> say $who\n< bob\n", "let who = alice\n> say $who\n< alice\n");
    assert_blessed(
        "let who = alice\n> say hello $who, hello\n< hi $who\n",
        "let who = alice\n> say hello $who, hello\n< hello $who, hello\n",
    );
    assert_refused(
        "> say many\n< /^(?<n>\\d+)$/\n> say $n\n< $n\n",
        "a pattern that sets `$n` does not match any more",
    );
}

#[test]
fn lines_come_and_go() {
    assert_blessed(
        "> lines a b c\nalice> say x\n< b\nalice< x\n",
        "> lines a b c\nalice> say x\n< a\n< b\n< c\nalice< x\n",
    );
    assert_blessed("> lines a c\n< a\n< b\n< c\n", "> lines a c\n< a\n< c\n");
    // Before somebody acts again, where it came before that.
    assert_blessed(
        "> lines a b\n<  a\n\n# Next.\n> say x\n<  x\n",
        "> lines a b\n<  a\n<  b\n\n# Next.\n> say x\n<  x\n",
    );
    assert_blessed("> lines a b\n< a\n", "> lines a b\n< a\n< b\n");
    assert_blessed("> lines a b\n< a\n: close\n", "> lines a b\n< a\n< b\n: close\n");
    assert_blessed("> later\n: quiet 5s\n", "> later\n< later\n: quiet 5s\n");
    assert_blessed("> say a\n< a\n< b\n> say c\n< c\n", "> say a\n< a\n> say c\n< c\n");
    // Late is not never.
    assert_blessed("> say a\n> later\n< b\n< later\n", "> say a\n> later\n< a\n< later\n");
}

#[test]
fn ends_are_told() {
    assert_blessed("> close\n< bye\n< bye\n", "> close\n: eof\n");
    assert_blessed("bob> abort\nbob: eof\n", "bob> abort\nbob: reset by peer\n");
    assert_blessed("bob> abort\n", "bob> abort\nbob: reset by peer\n");
    assert_blessed("> say bye\n> close\n: eof\n", "> say bye\n> close\n< bye\n: eof\n");
    assert_blessed("> close\n: quiet 1s\n", "> close\n: eof\n: quiet 1s\n");
    assert_refused("> close\n: eof\n> hello\n< hello\n", "could not send");
}

#[test]
fn blocks_are_amended_within() {
    assert_blessed(
        "> say edge\none-of\n  < heads\n  < tails\n> say x\n< x\n",
        "> say edge\none-of\n  < heads\n  < tails\n  < edge\n> say x\n< x\n",
    );
    assert_blessed(
        "alice> lines a c\nbob> say x\nunordered\n  alice< a\n  bob<   y # why\n  alice< b\n",
        "alice> lines a c\nbob> say x\nunordered\n  alice< a\n  bob<   \"x\\n\" # why\n  alice< c\n"
            .replace("\"x\\n\" # why", "x")
            .as_str(),
    );
    assert_blessed("> lines a b c\nunordered\n  < c\n  < a\n", "> lines a b c\nunordered\n  < c\n  < a\n  < b\n");
    assert_blessed("> lines a\nunordered\n  < a\n  < b\n> say x\n< x\n", "> lines a\nunordered\n  < a\n> say x\n< x\n");
    assert_blessed("> say a\n< a\none-of\n  < b\n  < c\n> say x\n< x\n", "> say a\n< a\n> say x\n< x\n");
}

#[test]
fn rounds_change_together_or_not_at_all() {
    assert_blessed("repeat 3\n  > say a\n  < b\n", "repeat 3\n  > say a\n  < a\n");
    assert_blessed(
        "repeat 3\n  > lines a b\n  < a\n> say x\n< x\n",
        "repeat 3\n  > lines a b\n  < a\n  < b\n> say x\n< x\n",
    );
    assert_refused("> lines a a b\nrepeat 3\n  < a\n", "not the same came in each round");
}

#[test]
fn what_is_no_matter_of_lines_is_refused() {
    assert_refused(": connect\n: connect\n", "connected already");
    assert_refused("> \"raw\\n\"\n< x\n", "nothing came");
    assert_refused("> later\n: pause\n< later\n", "is paused");
    let nobody =
        Script::parse("test.session", "> x\n").unwrap().bless(&Target::tcp("127.0.0.1:1"), &ScriptOptions::default());
    assert!(matches!(nobody, Err(BlessError::Refused(_))), "{nobody:?}");
}

/// What is done to what a script expects.
#[derive(Clone, Debug)]
enum Corruption {
    Change(String),
    Remove,
    Double,
    Precede(String),
}

impl Corruption {
    fn kind(&self) -> usize {
        match self {
            Self::Change(_) => 0,
            Self::Remove => 1,
            Self::Double => 2,
            Self::Precede(_) => 3,
        }
    }
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[abc]{1,3}", 1 => r#"[a-c$/"\\#?^<>{}é]{1,6}"#]
}

fn corruption() -> impl Strategy<Value = Option<Corruption>> {
    prop_oneof![
        3 => Just(None),
        1 => "[a-c$é]{1,6}".prop_map(|word| Some(Corruption::Change(word))),
        1 => Just(Some(Corruption::Remove)),
        1 => Just(Some(Corruption::Double)),
        1 => "[a-c$é]{1,6}".prop_map(|word| Some(Corruption::Precede(word))),
    ]
}

/// A line that expects a word: plain where that is possible.
fn expects(word: &str) -> String {
    let doubled = word.replace('$', "$$");
    if word.starts_with(['/', '"']) {
        format!("< \"{}\\n\"\n", doubled.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        format!("< {doubled}\n")
    }
}

proptest! {
    #[test]
    fn what_was_corrupted_is_mended(
        kind in 0..4_usize,
        exchanges in prop::collection::vec(prop::collection::vec((word(), corruption()), 1..5), 1..6),
    ) {
        let (mut before, mut corrupted) = (String::new(), String::new());
        let mut all = 0;
        for (number, exchange) in exchanges.into_iter().enumerate() {
            // Each is another: of equal ones nobody could say which is missing.
            let numbered = |(word, corruption): (String, Option<Corruption>)| {
                all += 1;
                // One kind at a time: a line too many may be taken for one of those that are missing.
                (format!("{word}{all}"), corruption.filter(|corruption| corruption.kind() == kind))
            };
            let exchange: Vec<(String, Option<Corruption>)> = exchange.into_iter().map(numbered).collect();
            let words: Vec<_> = exchange.iter().map(|(word, _)| word.replace('$', "$$")).collect();
            let send = format!("# {number}.\n> lines {}\n", words.join(" "));
            before.push_str(&send);
            corrupted.push_str(&send);
            // Of an exchange of which nothing was expected nobody could know where it ends.
            let nothing = exchange.iter().all(|(_, corruption)| matches!(corruption, Some(Corruption::Remove)));
            for (index, (word, corruption)) in exchange.iter().enumerate() {
                let line = expects(word);
                let corruption = corruption.as_ref().filter(|_| !nothing || index > 0);
                before.push_str(&line);
                match corruption {
                    None => corrupted.push_str(&line),
                    Some(Corruption::Change(other)) => corrupted.push_str(&expects(other)),
                    Some(Corruption::Remove) => {}
                    Some(Corruption::Double) => corrupted.push_str(&line.repeat(2)),
                    Some(Corruption::Precede(other)) => corrupted.push_str(&(expects(other) + &line)),
                }
            }
        }
        let blessed = bless(&corrupted).map_err(|error| TestCaseError::fail(format!("{corrupted}\n{error}")))?;
        prop_assert_eq!(blessed, before, "from\n{}", corrupted);
    }

    /// Of several peers the order may be another, but it holds.
    #[test]
    fn what_was_corrupted_of_several_peers_holds(
        lines in prop::collection::vec((0..3_usize, 0..4_u8, "[ab]{1,2}", any::<bool>()), 1..20),
    ) {
        let mut text = String::new();
        for (peer, kind, word, is_sent) in lines {
            let peer = ["alice", "bob", ""][peer];
            if is_sent {
                text.push_str(&match kind {
                    0 => format!("{peer}> all {word}\n"),
                    1 => format!("{peer}> lines {word} x {word}\n"),
                    _ => format!("{peer}> say {word}\n"),
                });
            } else {
                text.push_str(&match kind {
                    0 => format!("{peer}<^ {word}\n"),
                    1 => format!("{peer}< /^{word}/\n"),
                    2 => format!("{peer}< \"{word}\\n\"\n"),
                    _ => format!("{peer}< {word}\n"),
                });
            }
        }
        let text = format!("alice: connect\nbob: connect\n: connect\n{text}");
        let blessed = match bless(&text) {
            Ok(blessed) => blessed,
            Err(error) if error.to_string().contains("nothing came") => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(format!("{text}\n{error}"))),
        };
        let script = Script::parse("blessed.session", blessed.clone()).expect("a script");
        let ran = script.run(&service::obedient(), &ScriptOptions::default());
        prop_assert!(ran.is_ok(), "{}\nbecame\n{}\n{}", text, blessed, ran.unwrap_err());
    }
}
