//! D1: every byte, for every input, every chunking, every line length; and lines that do not depend on the chunking.

mod support;

use std::rc::Rc;

use actix::{Actor, AsyncContext, fut::wrap_future};
use actix_lines::{Delimiter, Framing, Line, LineContext, LineHandler, Lines, Overlong, Rot13, rot13};
use proptest::prelude::*;
use support::{Log, converse, cut};

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
        let is_overlong = text.strip_suffix(b"\r").unwrap_or(text).len() > max;
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
                out.extend_from_slice(&line[text.len()..]);
            }
            Overlong::Close if is_overlong => break,
            Overlong::Truncate | Overlong::Close => out.extend_from_slice(line),
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

/// Records each line, and waits for a moment after it if asked to.
struct Recorder {
    seen: Log<(Vec<u8>, bool)>,
    wait: bool,
}

impl Actor for Recorder {
    type Context = LineContext<Self>;
}

impl LineHandler for Recorder {
    fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
        self.seen.borrow_mut().push((line.text().to_vec(), line.is_terminated()));
        assert_eq!([line.text(), line.terminator()].concat(), line.to_vec());
        if self.wait {
            ctx.wait(wrap_future::<_, Self>(tokio::task::yield_now()));
        }
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    actix_rt::System::new().block_on(test)
}

fn lines_of(framing: Framing, wait: bool, chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
    let seen = Log::default();
    run(converse(framing, Recorder { seen: Rc::clone(&seen), wait }, chunks));
    seen.take()
}

const POLICIES: [Overlong; 4] = [Overlong::Pieces, Overlong::Split, Overlong::Truncate, Overlong::Close];

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

fn framing() -> impl Strategy<Value = Framing> {
    (0..5, 1_usize..9, prop::sample::select(POLICIES.to_vec())).prop_map(|(kind, max, policy)| {
        let framing = match kind {
            0 => Framing::lf(),
            1 => Framing::lf().keep_cr(),
            2 => Framing::crlf(),
            3 => Framing::nul(),
            _ => Framing::new(Delimiter::Byte(b'a')),
        };
        framing.max_line(max).unwrap().overlong(policy)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

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
    fn lines_do_not_depend_on_the_chunking_nor_on_waiting(
        input in bytes(120),
        sizes in prop::collection::vec(1_usize..12, 1..6),
        framing in framing(),
    ) {
        let whole = lines_of(framing, false, &[&input]);
        let bytewise: Vec<&[u8]> = input.chunks(1).collect();
        prop_assert_eq!(&lines_of(framing, false, &bytewise), &whole);
        prop_assert_eq!(&lines_of(framing, false, &cut(&input, &sizes)), &whole);
        prop_assert_eq!(&lines_of(framing, true, &cut(&input, &sizes)), &whole);
        prop_assert_eq!(&lines_of(framing, true, &[&input]), &whole);
    }

    #[test]
    fn lines_are_what_splitting_at_the_delimiter_gives(input in bytes(200), sizes in prop::collection::vec(1_usize..40, 1..6)) {
        let chunks = cut(&input, &sizes);
        let mut expected: Vec<(Vec<u8>, bool)> = input.split(|byte| *byte == 0).map(|line| (line.to_vec(), true)).collect();
        // What follows the last delimiter is the tail, if there is anything.
        let tail = expected.pop().unwrap().0;
        if !tail.is_empty() {
            expected.push((tail, false));
        }
        prop_assert_eq!(lines_of(Framing::nul(), false, &chunks), expected);
    }

    #[test]
    fn crlf_lines_are_what_splitting_at_both_gives(input in bytes(200), sizes in prop::collection::vec(1_usize..40, 1..6)) {
        let chunks = cut(&input, &sizes);
        let mut expected = Vec::new();
        let mut line = Vec::new();
        for &byte in &input {
            line.push(byte);
            if line.ends_with(b"\r\n") {
                line.truncate(line.len() - 2);
                expected.push((std::mem::take(&mut line), true));
            }
        }
        if !line.is_empty() {
            expected.push((line, false));
        }
        prop_assert_eq!(lines_of(Framing::crlf(), false, &chunks), expected);
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
            for sizes in [vec![1 << 20], vec![16_384], vec![4096, 1], vec![1000]] {
                let chunks = cut(&input, &sizes);
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
    for policy in [Overlong::Pieces, Overlong::Truncate, Overlong::Close] {
        let input: &[u8] = b"aaaa\r\nbbbb\ncccc\r\n";
        let expected = [line(b"aaaa", true), line(b"bbbb", true), line(b"cccc", true)];
        for framing in [Framing::lf(), Framing::lf().max_line(4).unwrap().overlong(policy)] {
            for size in [1, 2, 3, 5, 100] {
                assert_eq!(lines_of(framing, false, &cut(input, &[size])), expected, "{framing:?}, chunks of {size}");
            }
        }
    }
    // Not so where the CR is text.
    let framing = Framing::lf().keep_cr().max_line(4).unwrap();
    assert_eq!(lines_of(framing, false, &[b"aaaa\r\n"]), [line(b"aaaa", false), line(b"\r", true)]);
    assert_eq!(
        lines_of(Framing::lf().max_line(4).unwrap(), false, &[b"aaaabbbb\r\ncccc\rd"]),
        [line(b"aaaa", false), line(b"bbbb", true), line(b"cccc", false), line(b"\rd", false)]
    );
}

#[test]
fn a_line_of_10_mib_comes_back_whole_also_where_it_is_allowed_as_one() {
    let mut input = vec![b'q'; 10 << 20];
    input.push(b'\n');
    let expected: Vec<u8> = input.iter().map(|byte| model_rot13(*byte)).collect();
    for framing in [Framing::lf(), Framing::lf().max_line(16 << 20).unwrap()] {
        let answer = run(converse(framing, Rot13, &cut(&input, &[100_000])));
        assert!(answer == expected, "{framing:?}: {} bytes came back", answer.len());
    }
}

#[test]
fn cr_before_lf_is_the_terminators_unless_it_is_kept() {
    let input: &[u8] = b"one\r\ntwo\n\r\nth\rree\r";
    let line = |text: &[u8], terminated| (text.to_vec(), terminated);
    let tail = line(b"th\rree\r", false);
    assert_eq!(
        lines_of(Framing::lf(), false, &[input]),
        [line(b"one", true), line(b"two", true), line(b"", true), tail.clone()]
    );
    assert_eq!(
        lines_of(Framing::lf().keep_cr(), false, &[input]),
        [line(b"one\r", true), line(b"two", true), line(b"\r", true), tail]
    );
}
