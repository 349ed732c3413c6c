//! Words: what an operator types to select, order and page sessions, as `peer=10.0.0.0/8 idle>5m sort outbox limit 20`.
//!
//! Rule: an error names the word that is wrong, says what to write instead, and suggests the word that was probably meant.
//! Not here: the filters themselves (`control/query`), commands (`console`), pages by HTTP (`http`).

use std::{fmt, net::SocketAddr};

use crate::{
    connection::{ListenerId, SessionId},
    control::{
        listeners::ListenerInfo,
        query::{SessionFilter, SessionInfo, SessionOrder, SessionQuery, SessionState},
    },
    escape::Escaped,
    plural::Counted,
    source::Peers,
    units,
};

/// The conditions of a filter, with a word for each value: for help, completion and errors.
const CONDITIONS: [(&str, &str); 10] = [
    ("ID", "one session, as 7 or #7"),
    ("all", "every session"),
    ("peer=", "a network as 192.0.2.0/24, or unix, uid:N, gid:N"),
    ("listener=", "a listener's name or number"),
    ("name=", "a session's name, in quotes if it has blanks: name=\"Alice B\""),
    ("tag=", "a tag of sessions, as tag=vip"),
    ("state=", "open, held, draining or closing"),
    ("age>", "a time, as age>1h: sessions at least so old"),
    ("idle>", "a time, as idle>5m: sessions without a line for at least so long"),
    ("outbox>", "a size, as outbox>64KiB: sessions with at least so much to be sent"),
];

/// Begins what an error names of them.
#[cfg(all(feature = "console", feature = "cluster"))]
const SOME_FILTERS: &str = "use ID, all";

/// The commands that take `node=` too.
#[cfg(all(feature = "console", feature = "cluster"))]
pub(crate) const TAKE_NODE: [&str; 4] = ["list", "count", "kick", "push"];

const STATES: [SessionState; 4] =
    [SessionState::Open, SessionState::Held, SessionState::Draining, SessionState::Closing];

const ORDERS: [(&str, SessionOrder); 6] = [
    ("id", SessionOrder::Id),
    ("idle", SessionOrder::Idle),
    ("outbox", SessionOrder::Outbox),
    ("bytes-in", SessionOrder::BytesIn),
    ("bytes-out", SessionOrder::BytesOut),
    ("lines", SessionOrder::Lines),
];

/// A word that is wrong. Its message names the word and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct WrongWord {
    pub(crate) word: String,
    pub(crate) message: String,
}

impl WrongWord {
    /// `"WORD" PROBLEM`, in which `problem` says what to do as well.
    pub(crate) fn new(word: &str, problem: impl std::fmt::Display) -> Self {
        let shown = Escaped::new(word).to_string();
        Self { message: format!("\"{shown}\" {problem}"), word: shown }
    }

    /// A word that should be one of `known`; `what` says of what kind.
    pub(crate) fn unknown<'a>(word: &str, what: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Self {
        let advice = match nearest(word, known.clone()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("use {}", one_of(known)),
        };
        Self::new(word, format_args!("is no {what}: {advice}"))
    }

    /// The same, of too many to be named: `lists` is the command that lists them.
    pub(crate) fn listed<'a>(word: &str, what: &str, known: impl IntoIterator<Item = &'a str>, lists: &str) -> Self {
        match nearest(word, known) {
            Some(near) => Self::new(word, format_args!("is no {what}: did you mean {near}?")),
            None => Self::new(word, format_args!("is no {what}: {lists} lists them")),
        }
    }

    /// A word that ends where a value has to follow.
    pub(crate) fn alone(word: &str, value: &str) -> Self {
        Self::new(word, format_args!("stands alone: write {value} behind it"))
    }

    /// A word that is there a second time.
    pub(crate) fn twice(word: &str) -> Self {
        Self::new(word, "is the second of its kind: write one")
    }
}

/// Sessions that end, for a log: how many, and the first of them.
pub(crate) struct Ended<'a>(pub(crate) u64, pub(crate) &'a [SessionInfo]);

impl fmt::Display for Ended<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, first) = self;
        write!(f, "{}", Counted(*count, "session"))?;
        for (at, session) in first.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { ": " } else { " " }, session.id)?;
        }
        if first.len() as u64 >= *count { Ok(()) } else { f.write_str(" ...") }
    }
}

/// Joins words as `a, b or c`.
pub(crate) fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.into_iter().collect();
    match &words[..] {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        words => words.concat(),
    }
}

/// Returns the known word that `word` was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = word.to_lowercase();
    if typed.is_empty() || typed.len() > 64 {
        return None;
    }
    let near = known.into_iter().map(|known| (strsim::damerau_levenshtein(&typed, &known.to_lowercase()), known));
    let (distance, near) = near.min_by_key(|(distance, _)| *distance)?;
    // A third of it may be wrong; in a word of two or three letters one of them.
    (distance <= (near.chars().count() / 3).max(1) && distance < near.chars().count()).then_some(near)
}

/// Describes what a filter may be made of: `(words, meaning)`.
pub(crate) fn conditions() -> impl Iterator<Item = (&'static str, &'static str)> {
    CONDITIONS.into_iter()
}

/// Returns the names of orders.
pub(crate) fn orders() -> impl Iterator<Item = &'static str> + Clone {
    ORDERS.iter().map(|(name, _)| *name)
}

/// Reads the name of an order.
pub(crate) fn order(word: &str) -> Result<SessionOrder, WrongWord> {
    let order = ORDERS.iter().find(|(name, _)| *name == word).map(|(_, order)| *order);
    order.ok_or_else(|| WrongWord::unknown(word, "order", orders()))
}

/// Reads the number of a session, with or without its `#`.
pub(crate) fn id(word: &str) -> Result<SessionId, WrongWord> {
    parse_id(word).ok_or_else(|| WrongWord::new(word, "is no session: use its number, as 7 or #7"))
}

fn parse_id(word: &str) -> Option<SessionId> {
    let digits = word.strip_prefix('#').unwrap_or(word);
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Finds a listener by its name or its number.
pub(crate) fn listener(word: &str, listeners: &[ListenerId]) -> Result<ListenerId, WrongWord> {
    named_listener(word, word, listeners)
}

/// Finds a listener by its name, its number, or the address that it listens on.
pub(crate) fn known_listener(word: &str, listeners: &[ListenerInfo]) -> Result<ListenerId, WrongWord> {
    let ids: Vec<_> = listeners.iter().map(|listener| listener.id).collect();
    listener(word, &ids).or_else(|error| {
        let mut at = listeners.iter().filter(|listener| listener.local_addr.to_string() == word);
        at.next().map(|listener| listener.id).ok_or(error)
    })
}

/// `whole` is the word that an error names.
fn named_listener(name: &str, whole: &str, listeners: &[ListenerId]) -> Result<ListenerId, WrongWord> {
    let by_name = listeners.iter().find(|listener| listener.name() == Some(name));
    let by_number = || listeners.iter().find(|listener| name.parse() == Ok(listener.get()));
    by_name.or_else(by_number).copied().ok_or_else(|| {
        let names: Vec<_> =
            listeners.iter().map(|known| known.name().map_or(known.get().to_string(), str::to_owned)).collect();
        let advice = match nearest(name, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("use {}", one_of(names.iter().map(String::as_str))),
        };
        WrongWord::new(whole, format_args!("is no listener: {advice}"))
    })
}

/// Reads a filter: words that all have to hold. Without words it selects every session.
pub(crate) fn filter<'a>(
    words: impl IntoIterator<Item = &'a str>,
    listeners: &[ListenerId],
) -> Result<SessionFilter, WrongWord> {
    let mut filter = SessionFilter::default();
    let mut seen = Vec::new();
    words.into_iter().try_for_each(|word| condition(word, &mut filter, &mut seen, listeners))?;
    Ok(filter)
}

/// Reads a query: a filter, and in any order `sort KEY`, `limit N` and `offset N`.
pub(crate) fn query<'a>(
    words: impl IntoIterator<Item = &'a str>,
    listeners: &[ListenerId],
) -> Result<SessionQuery, WrongWord> {
    let mut query = SessionQuery::default();
    let mut seen = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = |of: &str| words.next().ok_or_else(|| WrongWord::alone(word, of));
        match word {
            "sort" | "limit" | "offset" if seen.contains(&word) => return Err(WrongWord::twice(word)),
            "sort" => query.order = order(value(&one_of(orders()))?)?,
            "limit" => query.limit = number(value("a number of sessions")?)?,
            "offset" => query.offset = number(value("a number of sessions")?)?,
            _ => {
                condition(word, &mut query.filter, &mut seen, listeners)?;
                continue;
            }
        }
        seen.push(word);
    }
    Ok(query)
}

/// Returns true for a word that asks for a dry run, however it is spelled: `dry-run`, `--dry-run`, `dryrun`.
pub(crate) fn is_dry_run(word: &str) -> bool {
    let word = word.trim_start_matches('-');
    word.eq_ignore_ascii_case("dry-run") || word.eq_ignore_ascii_case("dry_run") || word.eq_ignore_ascii_case("dryrun")
}

/// Checks a text for peers: one that ends in `dry-run` was not meant for them. `instead` says where to write that.
pub(crate) fn check_text(text: &[u8], instead: &str) -> Result<(), WrongWord> {
    let last = text.rsplit(u8::is_ascii_whitespace).find(|word| !word.is_empty()).unwrap_or_default();
    match std::str::from_utf8(last) {
        Ok(word) if is_dry_run(word) => Err(WrongWord::new(
            word,
            format_args!("would be the end of the text, and nothing is done: {instead}, or end the text otherwise"),
        )),
        _ => Ok(()),
    }
}

/// Reads a number.
pub(crate) fn number(word: &str) -> Result<usize, WrongWord> {
    let number = word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok()).flatten();
    number.ok_or_else(|| WrongWord::new(word, "is no number: use digits, as 20"))
}

/// Reads a time.
pub(crate) fn time(word: &str) -> Result<std::time::Duration, WrongWord> {
    units::time(word).ok_or_else(|| WrongWord::new(word, format_args!("is no time: {}", units::TIME)))
}

/// Takes the first word off a text: up to a blank, or in `key="…"` up to the second quote.
pub(crate) fn split_first(text: &[u8]) -> (&[u8], &[u8]) {
    let text = text.trim_ascii_start();
    let blank = |from: usize| text[from..].iter().position(u8::is_ascii_whitespace).map(|at| from + at);
    let mut end = blank(0).unwrap_or(text.len());
    if let Some(open) = text[..end].windows(2).position(|two| two == b"=\"") {
        let first = open + 2;
        let close = text[first..].iter().position(|byte| *byte == b'"').map(|at| first + at + 1);
        // Without the second one it is a word like any other.
        end = close.map_or(end, |close| blank(close).unwrap_or(text.len()));
    }
    text.split_at(end)
}

/// Parts a text into its words.
pub(crate) fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (word, behind) = split_first(rest.as_bytes());
        let (end, len) = (rest.len() - behind.len(), word.len());
        // Both begin and end at ASCII characters or ends.
        let word = rest.get(end - len..end).filter(|word| !word.is_empty());
        rest = rest.get(end..).unwrap_or_default();
        word
    })
}

/// Takes the quotes off a value.
fn quoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).filter(|value| !value.is_empty()).unwrap_or(value)
}

/// Adds one condition. `seen` has the keys of those before.
fn condition<'a>(
    word: &'a str,
    filter: &mut SessionFilter,
    seen: &mut Vec<&'a str>,
    listeners: &[ListenerId],
) -> Result<(), WrongWord> {
    let (key, sign, value) = match word.find(['=', '>']) {
        Some(at) => {
            let (key, rest) = word.split_at(at);
            let (sign, value) = rest.split_at(1);
            // Each of them means "at least".
            (key, sign, if sign == ">" { value.strip_prefix('=').unwrap_or(value) } else { value })
        }
        None => (word, "", ""),
    };
    if value.is_empty()
        && let Some((_, meaning)) = CONDITIONS.iter().find(|(known, _)| !sign.is_empty() && *known == word)
    {
        return Err(WrongWord::new(word, format_args!("has no value: use {meaning}")));
    }
    let time = || units::time(value).ok_or_else(|| WrongWord::new(word, format_args!("has no time: {}", units::TIME)));
    match (key, sign) {
        ("all", "") => {}
        ("peer", "=") => {
            if let Ok(address) = value.parse() {
                return Err(has_port(word, address));
            }
            let peers: Result<Peers, _> = value.parse();
            filter.source = Some(peers.map_err(|_| {
                WrongWord::new(word, "is no peer: use an address or a network, as peer=192.0.2.0/24, or peer=unix, peer=uid:1000, peer=gid:100")
            })?);
        }
        ("listener", "=") => filter.listener = Some(named_listener(value, word, listeners)?),
        ("name", "=") => filter.name = Some(quoted(value).into()),
        ("tag", "=") => filter.tag = Some(quoted(value).into()),
        ("state", "=") => {
            let state = STATES.into_iter().find(|state| state.name() == value);
            filter.state = Some(state.ok_or_else(|| {
                let names = STATES.into_iter().map(SessionState::name);
                let advice = nearest(value, names.clone())
                    .map_or_else(|| format!("use {}", one_of(names)), |near| format!("did you mean state={near}?"));
                WrongWord::new(word, format_args!("is no state: {advice}"))
            })?);
        }
        ("age", ">") => filter.age_at_least = time()?,
        ("idle", ">") => filter.idle_at_least = time()?,
        ("outbox", ">") => {
            let bytes = units::size(value);
            filter.outbox_at_least =
                bytes.ok_or_else(|| WrongWord::new(word, format_args!("has no size: {}", units::SIZE)))?;
        }
        ("node", "=") => {
            return Err(WrongWord::new(word, "is of no use here: this is not over nodes, ask each node"));
        }
        _ if sign.is_empty() && parse_id(word).is_some() => filter.id = parse_id(word),
        _ => return Err(unknown(word, key, sign, value)),
    }
    let key = if filter.id.is_some() && parse_id(word).is_some() { "ID" } else { key };
    if seen.contains(&key) {
        return Err(match key {
            "ID" => WrongWord::new(word, "is a second session: write one, and the command again for each other"),
            _ => WrongWord::twice(word),
        });
    }
    seen.push(key);
    Ok(())
}

/// A network has no port; a peer of a list has one.
fn has_port(word: &str, address: SocketAddr) -> WrongWord {
    let peer = address.ip();
    WrongWord::new(word, format_args!("has a port: did you mean peer={peer}? list has its sessions' numbers"))
}

fn unknown(word: &str, key: &str, sign: &str, value: &str) -> WrongWord {
    if let Ok(address) = word.parse() {
        return has_port(word, address);
    }
    if word.parse::<Peers>().is_ok() {
        return WrongWord::new(word, format_args!("is no filter: did you mean peer={word}?"));
    }
    // The right key with the wrong sign, or a key that is nearly right.
    let bare = |known: &'static str| known.trim_end_matches(['=', '>']);
    let keys = || conditions().filter(|(known, _)| *known != "ID");
    let near = nearest(key, keys().map(|(known, _)| bare(known)));
    let advice = match near.and_then(|near| keys().find(|(known, _)| bare(known) == near)) {
        Some(("all", _)) => "did you mean all?".to_owned(),
        Some((known, _)) if !value.is_empty() => format!("did you mean {known}{}?", Escaped::new(value)),
        Some((known, meaning)) => format!("use {known} and {meaning}"),
        None if is_dry_run(word) => {
            "only kick, set and drain have a dry run; count says how many a filter has".to_owned()
        }
        None if sign.is_empty() && word.starts_with('#') => "use a session's number, as #7".to_owned(),
        None => "use ID, all, peer=NETWORK, listener=NAME, name=TEXT, tag=TEXT, state=STATE, age>TIME, idle>TIME or outbox>SIZE".to_owned(),
    };
    WrongWord::new(word, format_args!("is no filter: {advice}"))
}

/// Adds `node=` to the filters that an error names, where it is one of them.
#[cfg(all(feature = "console", feature = "cluster"))]
pub(crate) fn with_node(mut error: WrongWord) -> WrongWord {
    if error.word.starts_with("node") {
        return WrongWord::new(&error.word, "is no filter: use node=NAME, or node=* for all nodes");
    }
    error.message = error.message.replace(SOME_FILTERS, &format!("{}, node=NAME", SOME_FILTERS));
    error
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn listeners() -> [ListenerId; 3] {
        [ListenerId::new(0, Some("public")), ListenerId::new(1, None), ListenerId::new(2, Some("1"))]
    }

    fn read(text: &str) -> Result<SessionQuery, String> {
        query(split(text), &listeners()).map_err(|error| error.to_string())
    }

    #[test]
    fn each_condition_is_one_of_the_typed_filter() {
        let [public, second, named_one] = listeners();
        let all = SessionFilter::default;
        let seconds = Duration::from_secs;
        for (text, filter) in [
            ("", all()),
            ("all", all()),
            ("7", SessionFilter::id("7".parse().unwrap())),
            ("#7", SessionFilter::id("7".parse().unwrap())),
            ("peer=192.0.2.0/24", SessionFilter::source("192.0.2.0/24".parse().unwrap())),
            ("peer=::1", SessionFilter::source("::1".parse().unwrap())),
            ("peer=unix", SessionFilter::source(Peers::Unix)),
            ("peer=uid:1000", SessionFilter::source(Peers::Uid(1000))),
            ("peer=gid:100", SessionFilter::source(Peers::Gid(100))),
            ("listener=public", all().listener(public)),
            ("listener=0", all().listener(public)),
            // A name comes before a number.
            ("listener=1", all().listener(named_one)),
            ("name=alice", all().name("alice")),
            ("tag=\"a b\"", all().tag("a b")),
            ("name=\"", all().name("\"")),
            ("state=open", all().state(SessionState::Open)),
            ("state=held", all().state(SessionState::Held)),
            ("state=draining", all().state(SessionState::Draining)),
            ("state=closing", all().state(SessionState::Closing)),
            ("age>1h", all().age_at_least(seconds(3600))),
            ("idle>90s", all().idle_at_least(seconds(90))),
            ("idle>=90s", all().idle_at_least(seconds(90))),
            ("outbox>64KiB", all().outbox_at_least(65_536)),
            (
                "outbox>1 state=held listener=public peer=10.0.0.0/8 idle>1s age>2s 9",
                SessionFilter {
                    id: Some("9".parse().unwrap()),
                    ..SessionFilter::source("10.0.0.0/8".parse().unwrap())
                }
                .outbox_at_least(1)
                .state(SessionState::Held)
                .listener(public)
                .idle_at_least(seconds(1))
                .age_at_least(seconds(2)),
            ),
        ] {
            assert_eq!(read(text), Ok(filter.into()), "{text}");
        }
        assert_ne!(second, named_one);
    }

    #[test]
    fn a_query_has_its_order_and_page_among_the_words() {
        for (name, order) in ORDERS {
            assert_eq!(read(&format!("sort {name}")), Ok(SessionQuery::default().order(order)));
        }
        let query = SessionQuery::from(SessionFilter::default().state(SessionState::Held)).order(SessionOrder::Outbox);
        assert_eq!(read("limit 20 state=held offset 40 sort outbox"), Ok(query.limit(20).offset(40)));
    }

    #[test]
    fn an_error_names_the_word_and_says_what_to_write() {
        for (text, error) in [
            ("idel>5m", r#""idel>5m" is no filter: did you mean idle>5m?"#),
            ("idle=5m", r#""idle=5m" is no filter: did you mean idle>5m?"#),
            ("Peer=unix", r#""Peer=unix" is no filter: did you mean peer=unix?"#),
            ("al", r#""al" is no filter: did you mean all?"#),
            ("peer", r#""peer" is no filter: use peer= and a network as 192.0.2.0/24, or unix, uid:N, gid:N"#),
            ("peer=", r#""peer=" has no value: use a network as 192.0.2.0/24, or unix, uid:N, gid:N"#),
            ("state=opne", r#""state=opne" is no state: did you mean state=open?"#),
            ("state=7", r#""state=7" is no state: use open, held, draining or closing"#),
            ("listener=pulbic", r#""listener=pulbic" is no listener: did you mean public?"#),
            ("listener=zzzzz", r#""listener=zzzzz" is no listener: use public, 1 or 1"#),
            ("idle>soon", r#""idle>soon" has no time: use a time, as 10s, 5m or 2h"#),
            ("outbox>much", r#""outbox>much" has no size: use a size, as 65536, 64KiB or 1MiB"#),
            ("sort idel", r#""idel" is no order: did you mean idle?"#),
            ("sort noise", r#""noise" is no order: use id, idle, outbox, bytes-in, bytes-out or lines"#),
            ("sort", r#""sort" stands alone: write id, idle, outbox, bytes-in, bytes-out or lines behind it"#),
            ("limit ten", r#""ten" is no number: use digits, as 20"#),
            ("limit -1", r#""-1" is no number: use digits, as 20"#),
            ("limit", r#""limit" stands alone: write a number of sessions behind it"#),
            ("limit 1 limit 2", r#""limit" is the second of its kind: write one"#),
            ("state=open state=held", r#""state=held" is the second of its kind: write one"#),
            ("7 8", r#""8" is a second session: write one, and the command again for each other"#),
            ("127.0.0.99", r#""127.0.0.99" is no filter: did you mean peer=127.0.0.99?"#),
            ("10.0.0.0/8", r#""10.0.0.0/8" is no filter: did you mean peer=10.0.0.0/8?"#),
            ("unix", r#""unix" is no filter: did you mean peer=unix?"#),
            ("::1", r#""::1" is no filter: did you mean peer=::1?"#),
            (
                "127.0.0.13:5923",
                r#""127.0.0.13:5923" has a port: did you mean peer=127.0.0.13? list has its sessions' numbers"#,
            ),
            (
                "peer=[::1]:5923",
                r#""peer=[::1]:5923" has a port: did you mean peer=::1? list has its sessions' numbers"#,
            ),
            (
                "peer=127.0.0.13:5923",
                r#""peer=127.0.0.13:5923" has a port: did you mean peer=127.0.0.13? list has its sessions' numbers"#,
            ),
            ("#x", r##""#x" is no filter: use a session's number, as #7"##),
            ("#99999999999999999999999", r##""#99999999999999999999999" is no filter: use a session's number, as #7"##),
        ] {
            assert_eq!(read(text), Err(error.to_owned()), "{text}");
        }
        let peer = read("peer=nobody").unwrap_err();
        assert!(peer.starts_with(r#""peer=nobody" is no peer: use an address or a network"#), "{peer}");
        let other = read("noisiest").unwrap_err();
        assert!(other.starts_with(r#""noisiest" is no filter: use ID, all, peer=NETWORK"#), "{other}");
        assert_eq!(WrongWord::new("a\x1b[2Jb", "is wrong").to_string(), r#""a\u{1b}[2Jb" is wrong"#);
    }
}
