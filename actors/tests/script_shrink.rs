//! A script that fails is shrunk to the smallest that fails in the same manner.
//!
//! Not here: files (`tools/linescript`).

use std::time::Duration;

use actix_lines::script::{
    FailureKind, Fuzz, Script, ScriptOptions, ServiceStream, Shrink, ShrinkError, Shrunk, Target,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[path = "script/service.rs"]
mod service;

#[track_caller]
fn shrink(text: &str) -> Shrunk {
    let script = Script::parse("test.session", text).unwrap_or_else(|error| panic!("\n{error}"));
    script
        .shrink(&service::obedient(), &ScriptOptions::default(), &Shrink::default())
        .unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// It is the smallest, and fails when it is read again.
#[track_caller]
fn assert_shrinks(text: &str, small: &str, kind: FailureKind) {
    let shrunk = shrink(text);
    assert_eq!(shrunk.script.to_string(), small, "from\n{text}");
    assert!(shrunk.is_smallest, "after {} runs", shrunk.runs);
    let script = Script::parse("small.session", small).unwrap_or_else(|error| panic!("\n{error}"));
    let failure = script.run(&service::obedient(), &ScriptOptions::default()).expect_err(small);
    assert_eq!((failure.kind(), shrunk.failure.kind()), (kind, kind), "\n{failure}");
}

#[test]
fn what_does_not_matter_is_left_out() {
    let before = "# Nothing.\nnewline crlf\nlet n = 3\nalice> say one\nalice< one\nrepeat $n\n  bob> say two\n  bob< two\nalice> say this is wrong\n";
    let text = format!("{before}alice< this is right\nalice> say three\nalice< three\n");
    // The letters that are the same on both sides go, too; those that differ stay.
    assert_shrinks(&text, "alice> say wrong\nalice< right\n", FailureKind::Differs);
}

#[test]
fn a_failure_of_another_kind_or_place_is_another() {
    // Without `lines` the last line would come late, and without `< a` something else would come.
    let text = "> lines a b\n< a\n> say c\n< c\n> say d\n< d\n";
    assert_shrinks(text, "> lines a b\n< a\n< c\n", FailureKind::Differs);
}

#[test]
fn each_kind_of_failure_shrinks_to_itself() {
    assert_shrinks("> say a\n< a\n> later\n< later\n< sooner\n", "< sooner\n", FailureKind::Late);
    assert_shrinks("let n = 1\n> close\n: eof\n> say b\n", "> close\n: eof\n>\n", FailureKind::Send);
    assert_shrinks("> say a\n< a\n> lines b c\n< b\n: close\n", "> lines b c\n< b\n: close\n", FailureKind::Leftover);
    assert_shrinks(
        "alice> say a\nalice< a\nbob> lines b c\nbob< b\n",
        "bob> lines b c\nbob< b\n",
        FailureKind::Leftover,
    );
}

#[test]
fn blocks_are_opened_and_rounds_are_few() {
    assert_shrinks("repeat 100\n  > say a\n  < b\n", "> say a\n< b\n", FailureKind::Differs);
    let rounds = "let all = x\nrepeat 40\n  > say a\n  < a\n> lines b c\nunordered\n  < c\n  < d\n";
    assert_shrinks(rounds, "> lines b\nunordered\n  < c\n  < d\n", FailureKind::Differs);
}

#[test]
fn a_script_that_holds_or_cannot_be_run_is_not_shrunk() {
    let target = service::obedient();
    let shrink = |text: &str| {
        let script = Script::parse("test.session", text).unwrap();
        script.shrink(&target, &ScriptOptions::default(), &Shrink::default())
    };
    let holds = shrink("> say a\n< a\n").expect_err("it holds");
    assert_eq!(holds.to_string(), "it holds: nothing to shrink");
    assert!(matches!(shrink("needs tcp\n> say a\n< b\n"), Err(ShrinkError::Skipped(_))));
}

#[test]
fn what_was_found_when_the_runs_are_over_is_returned() {
    let mut text: String = (0..200).map(|number| format!("> say {number}\n< {number}\n")).collect();
    text.push_str("> say a\n< b\n");
    let script = Script::parse("test.session", text).unwrap();
    let how = Shrink::default().max_runs(8).max_time(None);
    let shrunk = script.shrink(&service::obedient(), &ScriptOptions::default(), &how).unwrap();
    assert!(!shrunk.is_smallest && shrunk.runs <= 9, "{} runs", shrunk.runs);
    assert!(shrunk.statements.1 < shrunk.statements.0, "{:?}", shrunk.statements);
    // The same failures make the same script.
    let how = Shrink::default().max_time(Some(Duration::from_secs(600)));
    let texts = [(); 2].map(|()| script.shrink(&service::obedient(), &ScriptOptions::default(), &how).unwrap().script);
    assert_eq!(texts[0].to_string(), texts[1].to_string());
}

/// Ten scripts, each with one wrong line.
#[test]
fn a_wrong_line_among_hundreds_is_found() {
    let mut random = fastrand::Rng::with_seed(12);
    let mut table = String::new();
    for number in 0..10 {
        let exchanges = random.usize(50..150);
        let wrong = random.usize(..exchanges);
        let mut text = String::new();
        for exchange in 0..exchanges {
            let peer = ["", "alice", "bob"][random.usize(..3)];
            let word: String = (0..random.usize(3..30)).map(|_| random.lowercase()).collect();
            let expected = if exchange == wrong { format!("{}?{}", &word[..2], &word[3..]) } else { word.clone() };
            match random.u8(..4) {
                0 if exchange != wrong => {
                    text.push_str(&format!("repeat 2\n  {peer}> say {word}\n  {peer}< {word}\n"));
                }
                1 => text.push_str(&format!("{peer}> lines {word} x\n{peer}< {expected}\n{peer}< x\n")),
                _ => text.push_str(&format!("{peer}> say {word}\n{peer}< {expected}\n")),
            }
        }
        let shrunk = shrink(&text);
        let (before, after) = shrunk.statements;
        table.push_str(&format!("{number}: {before} statements, {after} left, {} runs\n", shrunk.runs));
        assert_eq!(after, 2, "{table}\n{}", shrunk.script);
        assert!(shrunk.is_smallest && shrunk.runs < 200, "{table}\n{}", shrunk.script);
    }
    eprint!("{table}");
}

#[test]
fn where_nobody_answers_there_is_nothing_to_shrink() {
    let script = Script::parse("test.session", "alice> x\nbob> y\n").unwrap();
    let shrunk = script.shrink(&Target::tcp("127.0.0.1:1"), &ScriptOptions::default(), &Shrink::default());
    assert!(matches!(shrunk, Err(ShrinkError::NotRun(_))), "{shrunk:?}");
}

/// It holds as it is: the service loses what comes without a newline.
#[test]
fn what_fails_only_when_it_is_fuzzed_is_shrunk_too() {
    let target = Target::streams(|| {
        |mut stream: ServiceStream| {
            actix_rt::spawn(async move {
                let mut chunk = [0; 1024];
                while let Ok(len @ 1..) = stream.read(&mut chunk).await {
                    if chunk[..len].ends_with(b"\n") {
                        let _ = stream.write_all(&chunk[..len]).await;
                    }
                }
                let _ = stream.shutdown().await;
            });
        }
    });
    let text: String = ["one", "two", "three"].iter().map(|word| format!("> {word}\n< {word}\n")).collect();
    let script = Script::parse("test.session", text).unwrap();
    let holds = script.shrink(&target, &ScriptOptions::default(), &Shrink::default()).expect_err("it holds");
    assert!(matches!(holds, ShrinkError::Holds), "{holds}");
    let how = Shrink::default().fuzz(Fuzz::default().seed(1));
    let shrunk = script.shrink(&target, &ScriptOptions::default(), &how).unwrap();
    assert_eq!(shrunk.statements.1, 2, "{}", shrunk.script);
    assert!(shrunk.script.fuzz(&target, &ScriptOptions::default(), &Fuzz::default().seed(1)).is_err());
}

#[test]
fn lines_behind_an_included_file_wait_as_long_as_the_run_says() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("shrink_patience");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("quick.lines"), "timeout 50ms\n> say a\n< a\n> raw y\n").unwrap();
    let file = folder.join("patience.session");
    // Within the included file's 50 ms, or the 5 s of a run that says nothing, this would be another failure.
    std::fs::write(&file, "include quick.lines\n< x\n").unwrap();
    let script = Script::load(&file).unwrap_or_else(|error| panic!("\n{error}"));
    let options = ScriptOptions::default().timeout(Duration::from_secs(7));
    let shrunk = script.shrink(&service::obedient(), &options, &Shrink::default()).unwrap();
    assert_eq!(shrunk.failure.kind(), FailureKind::Late);
    assert!(shrunk.failure.to_string().contains("within 7s"), "{}", shrunk.failure);
    assert!(!shrunk.script.to_string().contains("include"), "{}", shrunk.script);
    assert_eq!(shrunk.statements.1, 2, "{}", shrunk.script);
}
