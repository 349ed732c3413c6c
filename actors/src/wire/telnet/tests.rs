//! A telnet filter against what the RFCs say, however the wire is cut.

use proptest::prelude::*;

use super::{
    event::TelnetEvent,
    filter::TelnetFilter,
    negotiation::Negotiation::{self, No, WantNo, WantNoOpposite, WantYes, WantYesOpposite, Yes},
    settings::Telnet,
};
use crate::wire::filter::{Eof, Filter, Flow, Inflow};

const ALL: Telnet = Telnet { asks_window_size: true, suppresses_go_ahead: true };

/// What a filter makes of a wire.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    plain: Vec<u8>,
    reply: Vec<u8>,
    /// Each behind how many bytes of `plain`.
    told: Vec<(usize, TelnetEvent)>,
}

/// Has it read `wire` in chunks.
fn read<'a>(filter: &mut TelnetFilter, wire: impl IntoIterator<Item = &'a [u8]>) -> Heard {
    let mut heard = Heard::default();
    for chunk in wire {
        let mut bytes = chunk.to_vec();
        let mut inflow = Inflow::new(&mut bytes);
        loop {
            assert_eq!(filter.read(&mut inflow, &mut heard.plain, &mut heard.reply).unwrap(), Flow::Open);
            let Some(notice) = filter.notice() else { break };
            heard.told.push((heard.plain.len(), *notice.get().unwrap()));
        }
        assert!(inflow.is_empty(), "it tells nothing and leaves something");
    }
    heard
}

fn read_all(settings: Telnet, wire: &[u8]) -> Heard {
    read(&mut TelnetFilter::new(settings), [wire])
}

fn written(filter: &mut TelnetFilter, plain: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    filter.write(plain, &mut wire).unwrap();
    wire
}

#[test]
fn data_is_what_is_left_without_commands() {
    for (wire, plain) in [
        (b"a\r\nb\n".as_slice(), b"a\r\nb\n".as_slice()),
        (b"a\r\0b\r\0\0\0", b"a\rb\r\0\0"),
        (b"a\rb\r", b"a\rb\r"),
        (b"\xff\xff\xff\xff\r\xff\xff\0", b"\xff\xff\r\xff\0"),
        (b"one\xff\xf1 line\n", b"one line\n"),
        (b"a\r\xff\xf1\0b\r\xff\xfd\x01\nc", b"a\rb\r\nc"),
        (b"a\xff\xfa\x1f\0\x50\0\x18\xff\xf0b", b"ab"),
        (b"a\xff\xfa\x18x\xff\xffy\r\0\n\xff\xf0b", b"ab"),
        (b"a\xff\xfa\x18unfinished\xff\xf1b\n", b"ab\n"),
        (b"a\xff\xf2\xff\xf0\xff\x07b", b"ab"),
        (b"a\xff", b"a"),
        (b"a\xff\xfa\x1f\0", b"a"),
    ] {
        assert_eq!(read_all(Telnet::new(), wire).plain, plain, "{}", wire.escape_ascii());
    }
}

#[test]
fn who_is_typed_to_character_by_character_gets_a_line_for_the_enter_key() {
    let wire = b"a\r\0\xff\xfd\x03b\r\0\xff\xfe\x03c\r\0";
    assert_eq!(read_all(ALL, wire).plain, b"a\rb\r\nc\r");
    assert_eq!(read_all(Telnet::new(), wire).plain, b"a\rb\rc\r");
}

#[test]
fn a_command_is_answered_once_and_an_option_that_is_off_is_not_refused() {
    for (wire, reply) in [
        // WILL, DO of what nobody knows.
        (b"\xff\xfb\x18\xff\xfd\x05".as_slice(), b"\xff\xfe\x18\xff\xfc\x05".as_slice()),
        // WONT, DONT of what is off.
        (b"\xff\xfc\x18\xff\xfe\x05\xff\xfc\x03\xff\xfe\x01", b""),
        // SGA, both sides, again and again; then off.
        (b"\xff\xfb\x03\xff\xfb\x03\xff\xfb\x03", b"\xff\xfd\x03"),
        (b"\xff\xfb\x03\xff\xfc\x03\xff\xfc\x03\xff\xfb\x03", b"\xff\xfd\x03\xff\xfe\x03\xff\xfd\x03"),
        (b"\xff\xfd\x03\xff\xfe\x03", b"\xff\xfc\x03"),
        (b"\xff\xfd\x01", b"\xff\xfc\x01"),
        (b"\xff\xfb\x1f", b"\xff\xfe\x1f"),
    ] {
        assert_eq!(read_all(Telnet::new(), wire).reply, reply, "{wire:x?}");
    }
    assert_eq!(read_all(ALL, b"\xff\xfd\x03\xff\xfd\x03\xff\xfe\x03").reply, b"\xff\xfd\x1f\xff\xfb\x03\xff\xfc\x03");
    assert_eq!(read_all(ALL, b"\xff\xfb\x1f\xff\xfb\x1f").reply, b"\xff\xfd\x1f", "that was the answer");
}

#[test]
fn what_is_written_is_escaped_across_pieces() {
    let plain = b"a\r\nb\rc\r\xff\xff\r\r\n\n\r\0\r";
    let wire = b"a\r\nb\r\0c\r\0\xff\xff\xff\xff\r\0\r\n\n\r\0\0\r";
    for size in 1..=plain.len() {
        let mut filter = TelnetFilter::new(Telnet::new());
        let mut got: Vec<u8> = plain.chunks(size).flat_map(|piece| written(&mut filter, piece)).collect();
        assert_eq!(got, wire, "in pieces of {size}");
        filter.finish(&mut got);
        assert_eq!(got, [wire.as_slice(), b"\0"].concat());
        assert_eq!(read_all(Telnet::new(), &got).plain, plain, "in pieces of {size}");
    }
}

#[test]
fn it_is_small_holds_nothing_and_its_end_is_clean() {
    assert!(size_of::<TelnetFilter>() <= 32, "{}", size_of::<TelnetFilter>());
    let mut filter = TelnetFilter::new(Telnet::new());
    for (chunk, held) in [(b"a".as_slice(), 0), (b"b\xff", 1), (b"\xfa", 2), (&[31; 4000], 4002), (b"\xff\xf0", 0)] {
        read(&mut filter, [chunk]);
        assert_eq!((filter.held(), filter.memory()), (held, 0));
    }
    read(&mut filter, [b"\xff\xfa".as_slice()]);
    assert_eq!(filter.eof(), Eof::Clean);
}

/// RFC 1143, section 7: the state of an option and what the peer says of it; the state after that and our word.
#[test]
fn each_transition_is_that_of_rfc_1143() {
    type Row = (Negotiation, (Negotiation, Option<bool>));
    let check = |word: &str, step: &dyn Fn(&mut Negotiation) -> Option<bool>, rows: [Row; 6]| {
        for (before, after) in rows {
            let mut state = before;
            let says = step(&mut state);
            assert_eq!((state, says), after, "{before:?}, {word}");
        }
    };
    let (on, off) = (Some(true), Some(false));
    check(
        "on, agreed",
        &|state| state.receive(true, true),
        [
            (No, (Yes, on)),
            (Yes, (Yes, None)),
            (WantNo, (No, None)),
            (WantNoOpposite, (Yes, None)),
            (WantYes, (Yes, None)),
            (WantYesOpposite, (WantNo, off)),
        ],
    );
    check(
        "on, not agreed",
        &|state| state.receive(true, false),
        [
            (No, (No, off)),
            (Yes, (Yes, None)),
            (WantNo, (No, None)),
            (WantNoOpposite, (Yes, None)),
            (WantYes, (Yes, None)),
            (WantYesOpposite, (WantNo, off)),
        ],
    );
    for agrees in [false, true] {
        check(
            "off",
            &|state| state.receive(false, agrees),
            [
                (No, (No, None)),
                (Yes, (No, off)),
                (WantNo, (No, None)),
                (WantNoOpposite, (WantYes, on)),
                (WantYes, (No, None)),
                (WantYesOpposite, (No, None)),
            ],
        );
    }
    check(
        "we want it on",
        &|state| state.request(true),
        [
            (No, (WantYes, on)),
            (Yes, (Yes, None)),
            (WantNo, (WantNoOpposite, None)),
            (WantNoOpposite, (WantNoOpposite, None)),
            (WantYes, (WantYes, None)),
            (WantYesOpposite, (WantYes, None)),
        ],
    );
    check(
        "we want it off",
        &|state| state.request(false),
        [
            (No, (No, None)),
            (Yes, (WantNo, off)),
            (WantNo, (WantNo, None)),
            (WantNoOpposite, (WantNo, None)),
            (WantYes, (WantYesOpposite, None)),
            (WantYesOpposite, (WantYesOpposite, None)),
        ],
    );
}

#[test]
fn two_that_speak_to_each_other_fall_silent_whatever_they_want() {
    let settings = [false, true].into_iter().flat_map(|asks_window_size| {
        [false, true].map(|suppresses_go_ahead| Telnet { asks_window_size, suppresses_go_ahead })
    });
    let settings: Vec<_> = settings.collect();
    for left in &settings {
        for right in &settings {
            for verb in 251..=254 {
                for option in [0, 1, 3, 6, 24, 31, 34, 255] {
                    let (mut left_filter, mut right_filter) = (TelnetFilter::new(*left), TelnetFilter::new(*right));
                    let mut from_left = read(&mut left_filter, [b"".as_slice()]).reply;
                    let mut from_right = read(&mut right_filter, [b"".as_slice()]).reply;
                    // One of them is asked by somebody else, too.
                    from_left.extend([255, verb, option]);
                    let mut rounds = 0;
                    while !from_left.is_empty() || !from_right.is_empty() {
                        let answer = read(&mut right_filter, [from_left.as_slice()]).reply;
                        from_left = read(&mut left_filter, [from_right.as_slice()]).reply;
                        from_right = answer;
                        rounds += 1;
                        assert!(rounds < 5, "{left:?}, {right:?}: {verb} {option} goes on and on");
                    }
                }
            }
        }
    }
}

/// The same once more, byte by byte as the RFCs tell it, with no thought of speed. For [`Telnet::new`].
mod model {
    #[derive(Default)]
    pub(super) struct Model {
        pub(super) plain: Vec<u8>,
        pub(super) reply: Vec<u8>,
        pub(super) told: Vec<(usize, super::TelnetEvent)>,
        command: Vec<u8>,
        was_cr: bool,
        peer_sga: bool,
    }

    impl Model {
        pub(super) fn read(&mut self, wire: &[u8]) {
            wire.iter().for_each(|byte| self.byte(*byte));
        }

        fn byte(&mut self, byte: u8) {
            self.command.push(byte);
            match *self.command.as_slice() {
                [255] | [255, 250..=254] => {}
                [255, 255] => self.data(255),
                [255, verb @ 251..=254, option] => {
                    match (verb, option) {
                        (251, 3) if !self.peer_sga => (self.peer_sga, _) = (true, self.reply.extend([255, 253, 3])),
                        (251, 3) => {}
                        (252, 3) if self.peer_sga => (self.peer_sga, _) = (false, self.reply.extend([255, 254, 3])),
                        (251, _) => self.reply.extend([255, 254, option]),
                        (253, _) => self.reply.extend([255, 252, option]),
                        _ => {}
                    }
                    self.command.clear();
                }
                // A subnegotiation: to IAC SE, or to a command that does not belong there.
                [255, 250, ref parameters @ ..] => {
                    let mut at = 0;
                    while let Some(byte) = parameters.get(at) {
                        match (byte, parameters.get(at + 1)) {
                            (255, Some(255)) if at > 0 => at += 2,
                            (255, Some(240)) if at > 0 => return self.command.clear(),
                            (255, _) if at == 0 => return self.command = vec![255],
                            (255, None) => return,
                            (255, Some(other)) => {
                                let other = *other;
                                self.command = vec![255];
                                return self.byte(other);
                            }
                            _ => at += 1,
                        }
                    }
                }
                [255, command, ..] => {
                    use super::TelnetEvent::*;
                    let known = [EndOfFile, Suspend, Abort].into_iter().zip(236..);
                    let mut known = known.chain(
                        [Break, Interrupt, AbortOutput, AreYouThere, EraseCharacter, EraseLine].into_iter().zip(243..),
                    );
                    let event = known.find(|(_, code)| *code == command);
                    self.told.extend(event.map(|(event, _)| (self.plain.len(), event)));
                    self.command.clear();
                }
                _ => self.data(byte),
            }
        }

        fn data(&mut self, byte: u8) {
            self.command.clear();
            if byte != 0 || !self.was_cr {
                self.plain.push(byte);
            }
            self.was_cr = byte == b'\r';
        }
    }
}

/// Bytes of which most mean something.
fn wire() -> impl Strategy<Value = Vec<u8>> {
    let telling = proptest::sample::select(vec![
        0, 1, 3, 10, 13, 24, 31, 97, 98, 236, 240, 241, 243, 244, 246, 248, 250, 251, 252, 253, 254, 255, 255, 255, 255,
    ]);
    proptest::collection::vec(prop_oneof![4 => telling, 1 => any::<u8>()], 0..200)
}

proptest! {
    #[test]
    fn data_and_replies_are_those_of_the_model_however_the_wire_is_cut(
        wire in wire(), sizes in proptest::collection::vec(1usize..20, 1..8)
    ) {
        let mut model = model::Model::default();
        model.read(&wire);
        let mut rest = wire.as_slice();
        let chunks = sizes.iter().cycle().map_while(|size| {
            let (chunk, later) = rest.split_at_checked(*size).unwrap_or((rest, &[]));
            rest = later;
            (!chunk.is_empty()).then_some(chunk)
        });
        let heard = read(&mut TelnetFilter::new(Telnet::new()), chunks);
        prop_assert_eq!(&heard.plain, &model.plain);
        prop_assert_eq!(&heard.reply, &model.reply);
        prop_assert_eq!(&heard.told, &model.told);
        prop_assert_eq!(heard, read_all(Telnet::new(), &wire));
    }

    #[test]
    fn what_one_writes_the_other_reads(plain in wire(), size in 1usize..50) {
        let mut filter = TelnetFilter::new(Telnet::new());
        let mut sent: Vec<u8> = plain.chunks(size).flat_map(|piece| written(&mut filter, piece)).collect();
        filter.finish(&mut sent);
        let heard = read_all(Telnet::new(), &sent);
        prop_assert_eq!((heard.plain, heard.reply), (plain, Vec::new()));
    }

    #[test]
    fn a_reply_is_no_longer_than_what_it_answers(wire in wire()) {
        let heard = read_all(Telnet::new(), &wire);
        prop_assert!(heard.plain.len() + heard.reply.len() <= wire.len());
    }
}
