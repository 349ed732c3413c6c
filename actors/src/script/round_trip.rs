//! A tree that is written down parses to the same tree, and no text whatever is more than an error.
//!
//! Not here: changed scripts (`mutated`).

use std::time::Duration;

use proptest::prelude::*;

use crate::script::{
    ast::{
        Action, Data, Ending, Expectation, Kind, Matcher, Newline, Part, Pattern, SIGNALS, ServerAction, Span,
        Statement, Text,
    },
    text::Script,
};

fn parsed(text: &str) -> Result<Vec<Statement>, String> {
    Script::parse("test.session", text).map(|script| script.statements().to_vec()).map_err(|error| error.to_string())
}

fn span() -> Span {
    Span::default()
}

/// Neighbouring bytes are one part, as the parser has it.
fn text(parts: Vec<Part>) -> Text {
    let mut joined: Vec<Part> = Vec::new();
    for part in parts {
        match (joined.last_mut(), part) {
            (_, Part::Bytes(bytes)) if bytes.is_empty() => {}
            (Some(Part::Bytes(last)), Part::Bytes(bytes)) => last.extend(bytes),
            (_, part) => joined.push(part),
        }
    }
    Text { parts: joined, span: span() }
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z_][a-zA-Z0-9_]{0,8}"
}

fn peer() -> impl Strategy<Value = String> {
    "([a-zA-Z_][a-zA-Z0-9_-]{0,8})?"
}

fn any_text() -> impl Strategy<Value = Text> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..12),
        any::<String>().prop_map(String::into_bytes),
        // What telnet says, whole and not.
        prop::collection::vec(prop::sample::select(&[255, 254, 253, 250, 249, 240, 31, 99, b'x', 0xc3][..]), 0..9),
        r#"[ a-z$"/\\#{}.]{0,12}"#.prop_map(String::into_bytes),
    ];
    let part = prop_oneof![3 => bytes.prop_map(Part::Bytes), 1 => name().prop_map(Part::Variable)];
    prop::collection::vec(part, 0..4).prop_map(text)
}

/// What may stand in a line as it is.
fn plain_text() -> impl Strategy<Value = Text> {
    let bytes = r"[!#-.0-~é$][ -~éß$]{0,12}[!-~]".prop_map(|text| Part::Bytes(text.into_bytes()));
    let part = prop_oneof![3 => bytes, 1 => name().prop_map(Part::Variable)];
    prop::collection::vec(part, 0..4).prop_map(text)
}

fn not_empty(text: impl Strategy<Value = Text>) -> impl Strategy<Value = Text> {
    text.prop_filter("not empty", |text| !text.parts.is_empty())
}

fn repeated() -> impl Strategy<Value = Text> {
    let count = prop_oneof![
        (1_u32..10_000).prop_map(|count| Part::Bytes(count.to_string().into_bytes())),
        name().prop_map(Part::Variable),
    ];
    (not_empty(any_text()), count).prop_map(|(once, count)| {
        let parts = vec![Part::Times { parts: once.parts, count: Box::new(count) }];
        Text { parts, span: span() }
    })
}

fn time() -> impl Strategy<Value = Duration> {
    (1_u64..100_000_000).prop_map(Duration::from_millis)
}

fn pattern() -> impl Strategy<Value = Matcher> {
    (r"[a-z ]{1,5}(\\/|\\\\|\.\*|\\d\+)?", prop::option::of(name())).prop_map(|(source, capture)| {
        let (source, captures) = match capture {
            Some(name) => (format!("{source}(?<{name}>x|y)"), vec![name]),
            None => (source, Vec::new()),
        };
        Matcher::Pattern(Pattern { source, captures, span: span() })
    })
}

fn expectation() -> impl Strategy<Value = Expectation> {
    let matcher = prop_oneof![
        plain_text().prop_map(Matcher::Line),
        not_empty(any_text()).prop_map(Matcher::Prefix),
        not_empty(any_text()).prop_map(Matcher::Bytes),
        repeated().prop_map(Matcher::Bytes),
        repeated().prop_map(Matcher::Prefix),
        pattern(),
    ];
    (peer(), matcher).prop_map(|(peer, matcher)| Expectation { peer, matcher, span: span() })
}

/// A line that begins with `^` is a prefix there, and an empty one none.
fn awaited() -> impl Strategy<Value = Expectation> {
    expectation().prop_filter("a line, not a prefix", |expectation| match &expectation.matcher {
        Matcher::Line(text) => match text.parts.first() {
            Some(Part::Bytes(bytes)) => bytes.first() != Some(&b'^'),
            first => first.is_some(),
        },
        _ => true,
    })
}

fn required() -> impl Strategy<Value = Expectation> {
    let end = prop_oneof![Just(Matcher::Eof), Just(Matcher::Reset), Just(Matcher::Truncated)];
    let end = (peer(), end).prop_map(|(peer, matcher)| Expectation { peer, matcher, span: span() });
    prop_oneof![3 => expectation(), 1 => end]
}

fn address() -> impl Strategy<Value = Text> {
    let host = prop_oneof![
        "[a-z]{1,9}(\\.[a-z]{1,9}){0,2}:[1-9][0-9]{0,3}".prop_map(|text| vec![Part::Bytes(text.into_bytes())]),
        "(unix:(/[a-z]{1,9}){1,3}|tls:\\[::1\\]:6697)".prop_map(|text| vec![Part::Bytes(text.into_bytes())]),
        name().prop_map(|name| vec![Part::Bytes(b"127.0.0.1:".to_vec()), Part::Variable(name)]),
    ];
    host.prop_map(text)
}

fn of_server() -> impl Strategy<Value = Kind> {
    let signal = prop::sample::select(SIGNALS);
    let log = pattern().prop_filter_map("a pattern", |matcher| match matcher {
        Matcher::Pattern(pattern) => Some(ServerAction::Log(pattern)),
        _ => None,
    });
    let action = prop_oneof![
        any::<u8>().prop_map(|code| ServerAction::Exit(Ending::Code(code))),
        signal.clone().prop_map(|signal| ServerAction::Exit(Ending::Signal(signal))),
        signal.prop_map(ServerAction::Signal),
        log,
    ];
    let server = prop_oneof![Just(String::new()), name()];
    (server, action).prop_map(|(name, action)| Kind::OfServer { name, action })
}

/// Its command begins as no name of a server does.
fn server() -> impl Strategy<Value = Kind> {
    let command = (r"[./]{1,2}[a-z]{1,9}( [!-~é]{1,9}){0,3}", prop::option::of(name()));
    let command = command.prop_map(|(command, variable)| {
        let parts = [Part::Bytes(command.into_bytes())];
        text(parts.into_iter().chain(variable.map(Part::Variable)).collect())
    });
    (prop_oneof![Just(String::new()), name()], command).prop_map(|(name, command)| Kind::Server { name, command })
}

/// It has a name.
fn listening_peer() -> impl Strategy<Value = String> {
    peer().prop_filter("a name", |peer| !peer.is_empty())
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        prop::option::of(address()).prop_map(Action::Connect),
        prop::option::of(address()).prop_map(Action::Refused),
        Just(Action::Accept),
        Just(Action::Fin),
        Just(Action::Close),
        Just(Action::Reset),
        Just(Action::Pause),
        Just(Action::Resume),
        Just(Action::Split(None)),
        prop::collection::btree_set(1_usize..10_000, 1..4).prop_map(|cuts| Action::SplitAt(cuts.into_iter().collect())),
        (1_usize..10_000).prop_map(|size| Action::Split(Some(size))),
        time().prop_map(Action::Quiet),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    let data = prop_oneof![
        plain_text().prop_map(Data::Line),
        any_text().prop_map(Data::Bytes),
        repeated().prop_map(Data::Bytes),
        // Beside the crate, where tests run.
        Just(Data::File { path: "Cargo.toml".to_owned(), bytes: include_bytes!("../../Cargo.toml").as_slice().into() }),
        prop::collection::vec(any::<u8>(), 1..9).prop_map(Data::Hex),
    ];
    let newline = prop_oneof![Just(Newline::Lf), Just(Newline::CrLf), Just(Newline::None)];
    let leaf = prop_oneof![
        (peer(), data).prop_map(|(peer, data)| Kind::Send { peer, data }),
        required().prop_map(Kind::Expect),
        expectation().prop_map(Kind::Optional),
        expectation().prop_map(Kind::Never),
        awaited().prop_map(Kind::Until),
        prop::collection::vec(required(), 1..4).prop_map(Kind::OneOf),
        prop::collection::vec(required(), 1..4).prop_map(Kind::Unordered),
        (peer(), action()).prop_map(|(peer, action)| Kind::Act { peer, action }),
        listening_peer().prop_map(|peer| Kind::Act { peer, action: Action::Listen }),
        time().prop_map(Kind::After),
        (name(), prop_oneof![any_text(), repeated()]).prop_map(|(name, value)| Kind::Let { name, value }),
        newline.prop_map(Kind::Newline),
        time().prop_map(Kind::Timeout),
        prop::collection::vec("[a-z][a-z0-9-]{0,8}", 1..4).prop_map(Kind::Needs),
        server(),
        of_server(),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        let count = prop_oneof![
            (0_u32..1000).prop_map(|count| Part::Bytes(count.to_string().into_bytes())),
            name().prop_map(Part::Variable),
        ];
        let body = prop::collection::vec(inner.prop_map(|kind| Statement { kind, span: span() }), 1..4);
        (count, body).prop_map(|(count, body)| Kind::Repeat { count: text(vec![count]), body })
    })
}

fn written(statements: &[Statement]) -> String {
    struct Written<'a>(&'a [Statement]);
    impl std::fmt::Display for Written<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.iter().try_for_each(|statement| statement.write(f, 0))
        }
    }
    Written(statements).to_string()
}

proptest! {
    #[test]
    fn a_script_that_is_written_down_parses_to_the_same(kinds in prop::collection::vec(kind(), 0..6)) {
        let statements: Vec<_> = kinds.into_iter().map(|kind| Statement { kind, span: span() }).collect();
        let text = written(&statements);
        let again = parsed(&text).map_err(|error| TestCaseError::fail(format!("{text}\n{error}")))?;
        prop_assert_eq!(&again, &statements, "{}", text);
        prop_assert_eq!(written(&again), text);
    }

    #[test]
    fn no_text_is_more_than_an_error(text in any::<String>()) {
        let _ = parsed(&text);
    }

    #[test]
    fn no_text_that_looks_like_a_script_is_more_than_an_error(
        lines in prop::collection::vec(r#" {0,4}(([a-z]{0,3}(>|<|<\?|<!|<\^|<\?\^|:|: until))|repeat|one-of|unordered|let|newline|timeout|server|needs|: connect|: refused) ?(["/$a-z0-9\\{}(é#=]{0,3} ?){0,4}"#, 0..8)
    ) {
        if let Ok(statements) = parsed(&lines.join("\n")) {
            let again = parsed(&written(&statements));
            prop_assert_eq!(again, Ok(statements));
        }
    }
}
