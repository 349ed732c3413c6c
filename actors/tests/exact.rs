//! D1: every byte, for every input, every chunking, every line length; and lines that do not depend on the chunking.

mod support;

use std::rc::Rc;

use actix::{Actor, AsyncContext, Handler, Message, fut::wrap_future};
use actix_lines::{
    CloseReport, Delimiter, Framing, Line, LineContext, LineHandler, Lines, Overlong, Payload, Rot13, rot13,
};
use proptest::prelude::*;
use support::{Log, converse, cut, eventually, is_direct};

/// ROT13 as `tr 'A-Za-z' 'N-ZA-Mn-za-m'` has it, written as a table is.
fn model_rot13(byte: u8) -> u8 {
    let from = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let to = b"NOPQRSTUVWXYZABCDEFGHIJKLMnopqrstuvwxyzabcdefghijklm";
    from.iter().position(|known| *known == byte).map_or(byte, |at| to[at])
}

/// What comes back of `input`, byte for byte, under a policy; LF only.
fn model(policy: Overlong, max: usize, input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut run = 0;
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        // A CR at the end is the LF's, also when the LF never came.
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let is_overlong = text.len() > max;
        let terminator = if line.ends_with(b"\n") { &line[text.len()..] } else { b"" };
        match policy {
            Overlong::Pieces => out.extend_from_slice(line),
            // A buffer of `max` bytes that is emptied with a newline when it is full: CR is a byte like any other.
            Overlong::Split => {
                for &byte in line {
                    out.push(byte);
                    run = if byte == b'\n' { 0 } else { run + 1 };
                    if run == max {
                        out.push(b'\n');
                        run = 0;
                    }
                }
            }
            Overlong::Truncate if is_overlong => {
                out.extend_from_slice(&line[..max]);
                out.extend_from_slice(terminator);
            }
            Overlong::Discard if is_overlong => {}
            Overlong::Close if is_overlong => break,
            Overlong::Truncate | Overlong::Discard | Overlong::Close => out.extend_from_slice(line),
            other => unreachable!("no model of {other:?}"),
        }
    }
    out.iter().map(|byte| model_rot13(*byte)).collect()
}

/// ROT13 line by line, through `line` and the outbox instead of in place.
#[derive(Clone, Copy)]
struct ByLine;

impl Actor for ByLine {
    type Context = LineContext<Self>;
}

impl LineHandler for ByLine {
    fn line(&mut self, mut line: Line<'_>, ctx: &mut Self::Context) {
        rot13(&mut line);
        ctx.write(&line);
    }
}

/// ROT13 of one line by hand and of the rest in place, so that both ways of writing meet.
#[derive(Clone, Copy)]
struct Mixed;

impl Actor for Mixed {
    type Context = LineContext<Self>;
}

impl LineHandler for Mixed {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        ByLine::answer(line, ctx);
    }

    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        if lines.rest().len().is_multiple_of(3)
            && let Some(line) = lines.next(ctx)
        {
            ByLine::answer(line, ctx);
        }
        lines.answer_in_place(ctx, rot13);
    }
}

impl ByLine {
    fn answer<A: LineHandler>(mut line: Line<'_>, ctx: &mut LineContext<A>) {
        rot13(&mut line);
        ctx.write(&line);
    }
}

/// How lines are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taking {
    AsTheyCome,
    /// One of each batch: the rest is offered again.
    One,
    /// With a wait after each.
    Waiting,
    /// With a pause after each, until a message comes.
    Pausing,
}

const TAKINGS: [Taking; 4] = [Taking::AsTheyCome, Taking::One, Taking::Waiting, Taking::Pausing];

/// Records each line, and the report.
struct Recorder {
    seen: Log<(Vec<u8>, bool)>,
    /// The terminators, one after the other.
    terminators: Log<u8>,
    reports: Log<CloseReport>,
    taking: Taking,
}

impl Actor for Recorder {
    type Context = LineContext<Self>;
}

impl LineHandler for Recorder {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        // Of unterminated lines all but a tail are pieces, and a tail is the last.
        let continues = self.seen.borrow().last().is_some_and(|(_, terminated)| !terminated);
        assert_eq!(line.is_continuation(), continues, "a line of {} bytes", line.len());
        self.seen.borrow_mut().push((line.text().to_vec(), line.is_terminated()));
        assert_eq!([line.text(), line.terminator()].concat(), line.to_vec());
        self.terminators.borrow_mut().extend(line.terminator());
        match self.taking {
            Taking::AsTheyCome | Taking::One => {}
            Taking::Waiting => ctx.wait(wrap_future::<_, Self>(tokio::task::yield_now())),
            Taking::Pausing => {
                ctx.pause();
                ctx.notify(Resume);
            }
        }
    }

    fn batch(&mut self, lines: &mut Lines<'_>, ctx: &mut Self::Context) {
        while let Some(line) = lines.next(ctx) {
            self.line(line, ctx);
            if self.taking == Taking::One {
                break;
            }
        }
    }

    fn closed(&mut self, report: &CloseReport) {
        self.reports.borrow_mut().push(report.clone());
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Resume;

impl Handler<Resume> for Recorder {
    type Result = ();
    fn handle(&mut self, _: Resume, ctx: &mut Self::Context) {
        ctx.resume();
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    actix_rt::System::new().block_on(test)
}

/// Texts, and whether each has a terminator.
type Texts = Vec<(Vec<u8>, bool)>;

fn lines_of(framing: Framing, taking: Taking, chunks: &[&[u8]]) -> Texts {
    record(framing, taking, chunks).0
}

/// The lines, their terminators one after the other, and the report.
fn record(framing: Framing, taking: Taking, chunks: &[&[u8]]) -> (Texts, Vec<u8>, CloseReport) {
    let (seen, terminators, reports) = (Log::default(), Log::default(), Log::default());
    let recorder =
        Recorder { seen: Rc::clone(&seen), terminators: Rc::clone(&terminators), reports: Rc::clone(&reports), taking };
    run(async {
        converse(framing, recorder, chunks).await;
        eventually("the report", async || !reports.borrow().is_empty()).await;
    });
    let report = reports.borrow_mut().remove(0);
    (seen.take(), terminators.take(), report)
}

const POLICIES: [Overlong; 5] =
    [Overlong::Pieces, Overlong::Split, Overlong::Truncate, Overlong::Discard, Overlong::Close];

/// Bytes in which delimiters, and halves of them, are frequent.
fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        3 => Just(b'\n'),
        2 => Just(b'\r'),
        1 => Just(0),
        6 => any::<u8>(),
        4 => prop::sample::select(b"azAZmnMN".to_vec()),
    ];
    prop::collection::vec(byte, 0..most)
}

/// What a delimiter may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// LF, and a CR before it.
    Lf,
    LfKeepingCr,
    CrLf,
    Nul,
    A,
}

const ENDINGS: [Ending; 5] = [Ending::Lf, Ending::LfKeepingCr, Ending::CrLf, Ending::Nul, Ending::A];

impl Ending {
    fn framing(self, max: usize, policy: Overlong) -> Framing {
        let framing = match self {
            Self::Lf => Framing::lf(),
            Self::LfKeepingCr => Framing::lf().keep_cr(),
            Self::CrLf => Framing::crlf(),
            Self::Nul => Framing::nul(),
            Self::A => Framing::new(Delimiter::Byte(b'a')),
        };
        framing.max_line(max).unwrap().overlong(policy)
    }

    /// The text of `line`, if it ends with the delimiter.
    fn text(self, line: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Lf => line.strip_suffix(b"\n").map(|text| text.strip_suffix(b"\r").unwrap_or(text)),
            Self::LfKeepingCr => line.strip_suffix(b"\n"),
            Self::CrLf => line.strip_suffix(b"\r\n"),
            Self::Nul => line.strip_suffix(b"\0"),
            Self::A => line.strip_suffix(b"a"),
        }
    }

    /// `bytes` without a CR that may be the first half of a delimiter.
    fn without_half(self, bytes: &[u8]) -> &[u8] {
        let without = if matches!(self, Self::Lf | Self::CrLf) { bytes.strip_suffix(b"\r") } else { None };
        without.unwrap_or(bytes)
    }
}

/// The lines that a handler is given, in their order: the text, and whether there is a terminator. Made byte by byte.
fn model_lines(ending: Ending, max: usize, policy: Overlong, input: &[u8]) -> Texts {
    let mut lines = Texts::new();
    let mut line = Vec::new();
    for (at, &byte) in input.iter().enumerate() {
        line.push(byte);
        let is_last = at + 1 == input.len();
        let (text, terminated) = match ending.text(&line) {
            Some(text) => (text, true),
            None if policy == Overlong::Split => {
                // A full buffer is emptied as if a delimiter came.
                loop {
                    let filled = if ending == Ending::Lf { &line } else { ending.without_half(&line) };
                    if filled.len() < max {
                        break;
                    }
                    lines.push((line.drain(..max).collect(), true));
                }
                (&line[..], false)
            }
            None => (&line[..], false),
        };
        if !terminated && !is_last {
            continue;
        }
        if text.is_empty() && !terminated {
            break;
        }
        let mut text = text.to_vec();
        let length = |text: &[u8]| if terminated { text.len() } else { ending.without_half(text).len() };
        let is_overlong = length(&text) > max;
        match policy {
            Overlong::Pieces => {
                while length(&text) > max {
                    lines.push((text.drain(..max).collect(), false));
                }
            }
            Overlong::Truncate if is_overlong => text.truncate(max),
            Overlong::Discard if is_overlong => {
                line.clear();
                continue;
            }
            Overlong::Close if is_overlong => return lines,
            Overlong::Split | Overlong::Truncate | Overlong::Discard | Overlong::Close => {}
            other => unreachable!("no model of {other:?}"),
        }
        lines.push((text, terminated));
        line.clear();
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: support::CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_answer_is_the_models_for_every_chunking_and_policy(
        input in bytes(200),
        sizes in prop::collection::vec(1_usize..40, 1..6),
        max in 1_usize..20,
        policy in prop::sample::select(POLICIES.to_vec()),
    ) {
        let framing = Framing::lf().max_line(max).unwrap().overlong(policy);
        let chunks = cut(&input, &sizes);
        let expected = model(policy, max, &input);
        let in_place = run(converse(framing, Rot13, &chunks));
        prop_assert_eq!(String::from_utf8_lossy(&in_place), String::from_utf8_lossy(&expected));
        let by_line = run(converse(framing, ByLine, &chunks));
        prop_assert_eq!(String::from_utf8_lossy(&by_line), String::from_utf8_lossy(&expected));
        let mixed = run(converse(framing, Mixed, &chunks));
        prop_assert_eq!(String::from_utf8_lossy(&mixed), String::from_utf8_lossy(&expected));
    }

    #[test]
    fn lines_are_the_models_however_they_come_and_however_they_are_taken(
        input in bytes(120),
        sizes in prop::collection::vec(1_usize..12, 1..6),
        ending in prop::sample::select(ENDINGS.to_vec()),
        max in prop_oneof![4 => 1_usize..9, 1 => Just(1000_usize)],
        policy in prop::sample::select(POLICIES.to_vec()),
    ) {
        let framing = ending.framing(max, policy);
        let expected = model_lines(ending, max, policy, &input);
        let bytewise: Vec<&[u8]> = input.chunks(1).collect();
        for chunks in [&[&input[..]][..], &bytewise, &cut(&input, &sizes)] {
            for taking in TAKINGS {
                prop_assert_eq!(&lines_of(framing, taking, chunks), &expected, "{:?}, {} chunks", taking, chunks.len());
            }
        }
    }

    #[test]
    fn a_truncated_line_keeps_its_own_terminator_and_what_it_loses_is_counted(
        texts in prop::collection::vec(("[a-c\r]{0,12}", prop::sample::select(vec!["\n", "\r\n"])), 1..12),
        tail in "[a-c]{0,12}",
        sizes in prop::collection::vec(1_usize..8, 1..6),
        max in 1_usize..8,
    ) {
        let framing = Framing::lf().max_line(max).unwrap().overlong(Overlong::Truncate);
        let (mut input, mut lines, mut terminators, mut dropped) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (text, terminator) in &texts {
            // A CR before the LF is the terminator's, whoever typed it.
            let (text, terminator) = match (text.strip_suffix('\r'), *terminator) {
                (Some(text), "\n") => (text, "\r\n"),
                (_, terminator) => (&text[..], terminator),
            };
            input.extend([text, terminator].concat().bytes());
            lines.push((text.as_bytes()[..text.len().min(max)].to_vec(), true));
            terminators.extend(terminator.bytes());
            dropped += text.len().saturating_sub(max);
        }
        if !tail.is_empty() {
            input.extend(tail.bytes());
            lines.push((tail.as_bytes()[..tail.len().min(max)].to_vec(), false));
            dropped += tail.len().saturating_sub(max);
        }
        let bytewise: Vec<&[u8]> = input.chunks(1).collect();
        for chunks in [&[&input[..]][..], &bytewise, &cut(&input, &sizes)] {
            for taking in TAKINGS {
                let (seen, ends, report) = record(framing, taking, chunks);
                prop_assert_eq!(&seen, &lines, "{:?}, {} chunks", taking, chunks.len());
                prop_assert_eq!(&ends, &terminators, "{:?}, {} chunks", taking, chunks.len());
                prop_assert_eq!(report.undelivered_bytes, dropped as u64);
                prop_assert_eq!((report.bytes_in, report.lines_in), (input.len() as u64, lines.len() as u64));
            }
        }
    }
}

#[test]
fn lines_longer_than_the_buffers_are_the_models_too() {
    if !is_direct() {
        return; // 400 long conversations; those of awkward lengths are as long as the buffers.
    }
    let mut input = Vec::new();
    for len in [3, 4094, 4095, 4096, 4097, 0, 9000, 20_000, 65_534, 65_535, 65_536, 65_537, 1, 140_000] {
        input.extend((0..len).map(|at| b"bcd\r\x00\xff "[at % 7]));
        input.extend_from_slice(b"\r\n");
    }
    input.extend_from_slice(&[b'e'; 6000]);
    for (ending, max) in [(Ending::Lf, 5000), (Ending::CrLf, 65_536), (Ending::CrLf, 16_384), (Ending::Lf, 1 << 20)] {
        for policy in POLICIES {
            let framing = ending.framing(max, policy);
            let expected = model_lines(ending, max, policy, &input);
            for size in [1000, 4096, 4097, 65_536, 1 << 20] {
                for taking in TAKINGS {
                    let same = lines_of(framing, taking, &cut(&input, &[size])) == expected;
                    assert!(same, "{ending:?}, max {max}, {policy:?}, chunks of {size}, {taking:?}");
                }
            }
        }
    }
}

#[test]
fn the_kernel_is_tr_for_each_of_the_256_bytes_at_each_place_of_a_vector() {
    for byte in 0..=255_u8 {
        for len in [1, 15, 16, 17, 63, 64, 65, 200] {
            let mut bytes = vec![byte; len];
            rot13(&mut bytes);
            assert_eq!(bytes, vec![model_rot13(byte); len], "byte {byte}, length {len}");
            rot13(&mut bytes);
            assert_eq!(bytes, vec![byte; len], "twice is not the same, byte {byte}");
        }
    }
}

#[test]
fn lines_of_every_awkward_length_come_back_under_each_policy() {
    for len in [0, 1, 16_383, 16_384, 16_385, 40_000, 65_535, 65_536, 65_537, 200_000] {
        let mut input: Vec<u8> = (0..len).map(|at| b"abcXYZ\x00\xff "[at % 9]).collect();
        input.extend_from_slice(b"\r\nnext\n\ntail\x80");
        for policy in POLICIES {
            let framing = Framing::lf().overlong(policy);
            let expected = model(policy, 16_384, &input);
            let sizes: [&[usize]; 4] = [&[16_384], &[1 << 20], &[4096, 1], &[1000]];
            for sizes in if is_direct() { &sizes[..] } else { &sizes[..1] } {
                let chunks = cut(&input, sizes);
                let same = run(converse(framing, Rot13, &chunks)) == expected;
                assert!(same, "length {len}, {policy:?}, chunks of {sizes:?}, in place");
                let same = run(converse(framing, ByLine, &chunks)) == expected;
                assert!(same, "length {len}, {policy:?}, chunks of {sizes:?}, by line");
            }
        }
    }
}

#[test]
fn a_line_of_the_longest_length_is_not_overlong_whether_it_ends_with_lf_or_cr_lf() {
    let line = |text: &[u8], terminated| (text.to_vec(), terminated);
    for policy in [Overlong::Pieces, Overlong::Truncate, Overlong::Discard, Overlong::Close] {
        let input: &[u8] = b"aaaa\r\nbbbb\ncccc\r\n";
        let expected = [line(b"aaaa", true), line(b"bbbb", true), line(b"cccc", true)];
        for framing in [Framing::lf(), Framing::lf().max_line(4).unwrap().overlong(policy)] {
            for size in [1, 2, 3, 5, 100] {
                assert_eq!(
                    lines_of(framing, Taking::AsTheyCome, &cut(input, &[size])),
                    expected,
                    "{framing:?}, chunks of {size}"
                );
            }
        }
    }
    // Not so where the CR is text.
    let framing = Framing::lf().keep_cr().max_line(4).unwrap();
    assert_eq!(lines_of(framing, Taking::AsTheyCome, &[b"aaaa\r\n"]), [line(b"aaaa", false), line(b"\r", true)]);
    assert_eq!(
        lines_of(Framing::lf().max_line(4).unwrap(), Taking::AsTheyCome, &[b"aaaabbbb\r\ncccc\rd"]),
        [line(b"aaaa", false), line(b"bbbb", true), line(b"cccc", false), line(b"\rd", false)]
    );
}

#[test]
fn a_line_of_10_mib_comes_back_whole_also_where_it_is_allowed_as_one() {
    if !is_direct() {
        return; // Takes long; 8 MB come back in `half_close`.
    }
    let mut input = vec![b'q'; 10 << 20];
    input.push(b'\n');
    let expected: Vec<u8> = input.iter().map(|byte| model_rot13(*byte)).collect();
    for framing in [Framing::lf(), Framing::lf().max_line(16 << 20).unwrap()] {
        let answer = run(converse(framing, Rot13, &cut(&input, &[100_000])));
        assert!(answer == expected, "{framing:?}: {} bytes came back", answer.len());
    }
}

/// Changes how bytes are cut, once, at one of the hooks; records what it is given.
struct Changing {
    at: Hook,
    change: Option<fn(&mut LineContext<Self>)>,
    seen: Log<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Opened,
    Overlong,
    Tail,
    Eof,
}

impl Changing {
    fn note(&mut self, hook: Hook, ctx: &mut LineContext<Self>) {
        if hook == self.at
            && let Some(change) = self.change.take()
        {
            change(ctx);
        }
    }
}

impl Actor for Changing {
    type Context = LineContext<Self>;
}

impl LineHandler for Changing {
    fn line(&mut self, line: Line<'_>, _: &mut Self::Context) {
        self.seen.borrow_mut().push(String::from_utf8_lossy(&line).into_owned());
    }

    fn payload(&mut self, chunk: Payload<'_>, _: &mut Self::Context) {
        let mut seen = self.seen.borrow_mut();
        match seen.last_mut().filter(|last| last.starts_with("payload:")) {
            Some(payload) => payload.push_str(&String::from_utf8_lossy(&chunk)),
            None => seen.push(format!("payload:{}", String::from_utf8_lossy(&chunk))),
        }
    }

    fn opened(&mut self, ctx: &mut Self::Context) {
        self.note(Hook::Opened, ctx);
    }

    fn overlong(&mut self, ctx: &mut Self::Context) {
        self.seen.borrow_mut().push("too long".into());
        self.note(Hook::Overlong, ctx);
    }

    fn tail(&mut self, tail: Line<'_>, ctx: &mut Self::Context) {
        self.seen.borrow_mut().push(format!("tail:{}", String::from_utf8_lossy(&tail)));
        self.note(Hook::Tail, ctx);
    }

    fn eof(&mut self, ctx: &mut Self::Context) {
        self.note(Hook::Eof, ctx);
        self.seen.borrow_mut().push(format!("eof, {} left", ctx.payload_left()));
        ctx.drain();
    }
}

fn longer(ctx: &mut LineContext<Changing>) {
    ctx.set_framing(Framing::lf().max_line(100).unwrap());
}

fn by_nul(ctx: &mut LineContext<Changing>) {
    ctx.set_framing(Framing::nul().max_line(100).unwrap());
}

fn three_bytes(ctx: &mut LineContext<Changing>) {
    ctx.payload(3);
}

#[track_caller]
fn assert_seen(policy: Overlong, at: Hook, change: fn(&mut LineContext<Changing>), input: &[u8], expected: &[&str]) {
    let framing = Framing::lf().max_line(4).unwrap().overlong(policy);
    for size in [1, 2, 3, 5, 7, 100] {
        let seen = Log::default();
        let actor = Changing { at, change: Some(change), seen: Rc::clone(&seen) };
        run(converse(framing, actor, &cut(input, &[size])));
        assert_eq!(seen.take(), expected, "{policy:?}, {at:?}, chunks of {size}");
    }
}

#[test]
fn a_change_of_framing_where_a_line_is_too_long_holds_for_that_line_from_its_first_byte() {
    let input: &[u8] = b"a\nbc\0de\0fgh\nijkl\n";
    for policy in POLICIES {
        let cut_anew = |change, expected: &[&str]| assert_seen(policy, Hook::Overlong, change, input, expected);
        cut_anew(longer, &["a\n", "too long", "bc\0de\0fgh\n", "ijkl\n", "eof, 0 left"]);
        cut_anew(by_nul, &["a\n", "too long", "bc\0", "de\0", "tail:fgh\nijkl\n", "eof, 0 left"]);
    }
    // The bytes of a payload are those of the line, too. What is behind them is cut as ever, and may be too long again.
    let payload = |policy, input, expected: &[&str]| assert_seen(policy, Hook::Overlong, three_bytes, input, expected);
    for policy in [Overlong::Pieces, Overlong::Truncate, Overlong::Discard, Overlong::Close] {
        payload(policy, b"abcdefg\nhi\n", &["too long", "payload:abc", "defg\n", "hi\n", "eof, 0 left"]);
    }
    payload(Overlong::Close, b"abcdefgh\nhi\n", &["too long", "payload:abc", "too long"]);
    payload(Overlong::Discard, b"abcdefgh\nhi\n", &["too long", "payload:abc", "too long", "hi\n", "eof, 0 left"]);
    payload(
        Overlong::Truncate,
        b"abcdefgh\nhi\n",
        &["too long", "payload:abc", "too long", "defg\n", "hi\n", "eof, 0 left"],
    );
}

#[test]
fn a_discarded_line_is_announced_once_and_the_lines_around_it_come_as_ever() {
    let nothing = |_: &mut LineContext<Changing>| {};
    let seen = |input, expected: &[&str]| assert_seen(Overlong::Discard, Hook::Opened, nothing, input, expected);
    let lines: &[u8] = b"a\nmuch too long\nabcd\r\nabcde\r\n\nb\n";
    seen(lines, &["a\n", "too long", "abcd\r\n", "too long", "\n", "b\n", "eof, 0 left"]);
    seen(b"a\nno end of it", &["a\n", "too long", "eof, 0 left"]);
}

#[test]
fn a_change_of_framing_at_the_beginning_holds_from_the_first_byte_and_at_the_end_for_nothing() {
    let input: &[u8] = b"abc\0d\ne";
    for policy in POLICIES {
        assert_seen(policy, Hook::Opened, by_nul, input, &["abc\0", "tail:d\ne", "eof, 0 left"]);
        assert_seen(policy, Hook::Opened, three_bytes, input, &["payload:abc", "\0d\n", "tail:e", "eof, 0 left"]);
        for at in [Hook::Tail, Hook::Eof] {
            let short: &[u8] = b"ab\ncd";
            assert_seen(policy, at, by_nul, short, &["ab\n", "tail:cd", "eof, 0 left"]);
            // What is asked for after the last byte never comes.
            assert_seen(policy, at, three_bytes, short, &["ab\n", "tail:cd", "eof, 3 left"]);
        }
    }
}

#[test]
fn cr_before_lf_is_the_terminators_unless_it_is_kept() {
    let input: &[u8] = b"one\r\ntwo\n\r\nth\rree\r";
    let line = |text: &[u8], terminated| (text.to_vec(), terminated);
    let tail = line(b"th\rree\r", false);
    assert_eq!(
        lines_of(Framing::lf(), Taking::AsTheyCome, &[input]),
        [line(b"one", true), line(b"two", true), line(b"", true), tail.clone()]
    );
    assert_eq!(
        lines_of(Framing::lf().keep_cr(), Taking::AsTheyCome, &[input]),
        [line(b"one\r", true), line(b"two", true), line(b"\r", true), tail]
    );
}

#[actix::test]
async fn a_byte_that_is_sent_as_urgent_is_one_like_the_others() {
    if !is_direct() {
        return; // Urgent is a word of TCP.
    }
    let mut server = support::Server::start(actix_lines::LineServer::new(|_| actix_lines::Rot13)).await;
    let mut peer = server.connect().await;
    peer.send(b"abc").await;
    socket2::SockRef::from(&peer.stream).send_out_of_band(b"d").unwrap();
    peer.send(b"ef\n").await;
    peer.expect(b"nopqrs\n").await;
    drop(peer);
    assert_eq!(server.report().await.bytes_in, 7);
    server.end().await;
}
