//! Request: what one node asks another, and how that answers: one JSON object each, on the control channel of a life.
//!
//! ```text
//! {"v":1,"ask":7,"from":"a.1f3a5c7d","whom":{"name":"alice"},"order":{"kick":{"text":"bye\n"}}}
//! {"v":1,"answer":7,"from":"b.5d7c1f3a","said":{"done":{"sessions":1,"dropped":0}}}
//! ```
//!
//! Not here: sending them (`ask`).

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{answers::Outcome, id::NodeId, query::ClusterFilter},
    connection::{ListenerId, SessionId},
    control::query::{SessionFilter, SessionState},
};

/// The version of both. Nodes of another one refuse.
const VERSION: u32 = 1;

const STATES: [SessionState; 4] =
    [SessionState::Open, SessionState::Held, SessionState::Draining, SessionState::Closing];

/// What a node is asked to do to sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Write bytes to them.
    Push(Bytes),
    /// End them, with a goodbye.
    Kick(Bytes),
}

/// What has come on a control channel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Letter {
    /// A node asks. An order that is not understood is told its asker.
    Ask { number: u64, from: NodeId, request: Result<(Whom, Order), String> },
    /// A node answers.
    Answer { number: u64, from: NodeId, outcome: Outcome },
    /// Something else: of a later version, or of another program.
    Unknown,
}

/// The part that all versions have.
#[derive(Deserialize)]
struct Head {
    v: u32,
    ask: Option<u64>,
    answer: Option<u64>,
    from: String,
}

#[derive(Serialize, Deserialize)]
struct Ask {
    v: u32,
    ask: u64,
    from: String,
    whom: Whom,
    order: Body,
}

#[derive(Serialize, Deserialize)]
struct Reply {
    v: u32,
    answer: u64,
    from: String,
    said: Said,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Body {
    Push(Payload),
    Kick(Payload),
}

/// Bytes: as text where they are UTF-8.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Payload {
    Text(String),
    Hex(String),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Done { sessions: u64, dropped: u64 },
    NotFound,
    NodeGone,
    Refused { reason: String },
}

/// A filter as a node tells another. What it does not know it must not overlook: that would select more sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Whom {
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    age_ms: u64,
    #[serde(skip_serializing_if = "is_zero")]
    idle_ms: u64,
    #[serde(skip_serializing_if = "is_zero")]
    outbox: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl From<&ClusterFilter> for Whom {
    /// Without the node, which is the one that is told.
    fn from(filter: &ClusterFilter) -> Self {
        let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().map(str::to_owned);
        Self {
            session: filter.id.as_ref().map(|id| id.session.get()),
            name: text(&filter.name),
            tag: text(&filter.tag),
            peer: filter.source.map(|peers| peers.to_string()),
            listener: text(&filter.listener),
            state: filter.state.map(|state| state.name().to_owned()),
            age_ms: millis(filter.age_at_least),
            idle_ms: millis(filter.idle_at_least),
            outbox: filter.outbox_at_least as u64,
        }
    }
}

impl Whom {
    /// Returns the filter of a server, which has some listeners. `None` if it has none of this name.
    ///
    /// # Errors
    /// A condition that means nothing here.
    pub(crate) fn filter(&self, listeners: &[ListenerId]) -> Result<Option<SessionFilter>, String> {
        let mut filter = SessionFilter {
            id: self.session.map(SessionId::of),
            name: self.name.as_deref().map(Into::into),
            tag: self.tag.as_deref().map(Into::into),
            age_at_least: Duration::from_millis(self.age_ms),
            idle_at_least: Duration::from_millis(self.idle_ms),
            outbox_at_least: usize::try_from(self.outbox).unwrap_or(usize::MAX),
            ..SessionFilter::default()
        };
        if let Some(peer) = &self.peer {
            filter.source = Some(peer.parse().map_err(|error| format!("peer={peer}: {error}"))?);
        }
        if let Some(state) = &self.state {
            let known = STATES.into_iter().find(|known| known.name() == state);
            filter.state = Some(known.ok_or_else(|| format!("no session is ever {state}"))?);
        }
        if let Some(wanted) = &self.listener {
            let is_it = |id: &&ListenerId| match id.name() {
                Some(name) => name == wanted,
                None => id.get().to_string() == *wanted,
            };
            match listeners.iter().find(is_it) {
                Some(id) => filter.listener = Some(*id),
                None => return Ok(None),
            }
        }
        Ok(Some(filter))
    }
}

impl Payload {
    fn new(bytes: &Bytes) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()),
        }
    }

    fn bytes(self) -> Option<Bytes> {
        match self {
            Self::Text(text) => Some(text.into()),
            Self::Hex(text) => {
                let digits = text.bytes().map(|digit| char::from(digit).to_digit(16).map(|digit| digit as u8));
                let digits: Vec<u8> = digits.collect::<Option<_>>()?;
                let (pairs, []) = digits.as_chunks::<2>() else { return None };
                Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
            }
        }
    }
}

fn digit(of: u8) -> char {
    char::from_digit(of.into(), 16).unwrap_or('0')
}

/// Returns a question as bytes.
pub(crate) fn ask(number: u64, from: &NodeId, whom: &Whom, order: &Order) -> Bytes {
    let order = match order {
        Order::Push(bytes) => Body::Push(Payload::new(bytes)),
        Order::Kick(goodbye) => Body::Kick(Payload::new(goodbye)),
    };
    json(&Ask { v: VERSION, ask: number, from: from.to_string(), whom: whom.clone(), order })
}

/// Returns an answer as bytes.
pub(crate) fn answer(number: u64, from: &NodeId, outcome: Outcome) -> Bytes {
    let said = match outcome {
        Outcome::Done { sessions, dropped } => Said::Done { sessions, dropped },
        Outcome::NotFound => Said::NotFound,
        Outcome::NodeGone => Said::NodeGone,
        Outcome::Refused { reason } => Said::Refused { reason },
        other @ (Outcome::TimedOut | Outcome::StoreLost { .. }) => Said::Refused { reason: other.to_string() },
    };
    json(&Reply { v: VERSION, answer: number, from: from.to_string(), said })
}

/// Texts and numbers are always JSON.
fn json(letter: &impl Serialize) -> Bytes {
    serde_json::to_vec(letter).unwrap_or_default().into()
}

/// Reads what has come.
pub(crate) fn read(bytes: &[u8]) -> Letter {
    let Ok(head) = serde_json::from_slice::<Head>(bytes) else { return Letter::Unknown };
    let Ok(from) = head.from.parse::<NodeId>() else { return Letter::Unknown };
    match head {
        Head { v, ask: Some(number), answer: None, .. } => {
            let request = if v == VERSION {
                request(bytes)
            } else {
                Err(format!("it is asked in version {v} and knows {VERSION}: let all nodes run the same version"))
            };
            Letter::Ask { number, from, request }
        }
        Head { v: VERSION, ask: None, answer: Some(number), .. } => match serde_json::from_slice(bytes) {
            Ok(Reply { said, .. }) => {
                let outcome = match said {
                    Said::Done { sessions, dropped } => Outcome::Done { sessions, dropped },
                    Said::NotFound => Outcome::NotFound,
                    Said::NodeGone => Outcome::NodeGone,
                    Said::Refused { reason } => Outcome::Refused { reason },
                };
                Letter::Answer { number, from, outcome }
            }
            Err(_) => Letter::Unknown,
        },
        _ => Letter::Unknown,
    }
}

fn request(bytes: &[u8]) -> Result<(Whom, Order), String> {
    let ask: Ask = serde_json::from_slice(bytes).map_err(|error| format!("the request means nothing: {error}"))?;
    let (payload, order): (_, fn(Bytes) -> Order) = match ask.order {
        Body::Push(payload) => (payload, Order::Push),
        Body::Kick(payload) => (payload, Order::Kick),
    };
    Ok((ask.whom, order(payload.bytes().ok_or("its bytes are no hexadecimal digits")?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId { name: name.parse().unwrap(), incarnation: 0x1f }
    }

    fn any_whom() -> impl Strategy<Value = Whom> {
        let text = || prop::option::of(any::<String>());
        (
            (prop::option::of(any::<u64>()), text(), text(), text(), text(), text()),
            (any::<u64>(), 0_u64..3, any::<u64>()),
        )
            .prop_map(|((session, name, tag, peer, listener, state), (age_ms, idle_ms, outbox))| Whom {
                session,
                name,
                tag,
                peer,
                listener,
                state,
                age_ms,
                idle_ms,
                outbox,
            })
    }

    proptest! {
        #[test]
        fn a_question_is_read_as_it_was_asked(
            number in any::<u64>(),
            whom in any_whom(),
            bytes in prop_oneof![any::<Vec<u8>>(), any::<String>().prop_map(String::into_bytes)],
            is_kick in any::<bool>(),
        ) {
            let order = if is_kick { Order::Kick(bytes.into()) } else { Order::Push(bytes.into()) };
            let letter = read(&ask(number, &node("a"), &whom, &order));
            prop_assert_eq!(letter, Letter::Ask { number, from: node("a"), request: Ok((whom, order)) });
        }

        #[test]
        fn an_answer_is_read_as_it_was_given(number in any::<u64>(), sessions: u64, dropped: u64, reason: String, nth in 0..4) {
            let outcome = match nth {
                0 => Outcome::Done { sessions, dropped },
                1 => Outcome::NotFound,
                2 => Outcome::NodeGone,
                _ => Outcome::Refused { reason },
            };
            let letter = read(&answer(number, &node("b"), outcome.clone()));
            prop_assert_eq!(letter, Letter::Answer { number, from: node("b"), outcome });
        }

        #[test]
        fn no_bytes_are_a_fault(bytes: Vec<u8>) {
            prop_assert_eq!(read(&bytes), Letter::Unknown);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_where_it_can_be_answered() {
        let refusal = |text: &str| match read(text.as_bytes()) {
            Letter::Ask { number: 7, request: Err(reason), .. } => reason,
            other => panic!("{text}: {other:?}"),
        };
        // A condition that is overlooked would select more sessions.
        let reason =
            refusal(r#"{"v":1,"ask":7,"from":"a.0000001f","whom":{"colour":"red"},"order":{"kick":{"text":""}}}"#);
        assert!(reason.contains("colour"), "{reason}");
        let reason = refusal(r#"{"v":2,"ask":7,"from":"a.0000001f","whom":[],"command":"kick"}"#);
        assert!(reason.contains("version"), "{reason}");
        refusal(r#"{"v":1,"ask":7,"from":"a.0000001f","whom":{},"order":{"burn":{"text":""}}}"#);
        refusal(r#"{"v":1,"ask":7,"from":"a.0000001f","whom":{},"order":{"kick":{"hex":"0"}}}"#);
        refusal(r#"{"v":1,"ask":7,"from":"a.0000001f","whom":{},"order":{"kick":{"hex":"0g"}}}"#);
        refusal(r#"{"v":1,"ask":7,"from":"a.0000001f","whom":{},"order":{"kick":{"hex":"€"}}}"#);
        for unknown in [
            "",
            "{}",
            r#"{"v":1,"probe":7}"#,
            r#"{"v":1,"ask":7,"from":"nobody"}"#,
            r#"{"v":1,"ask":7,"answer":7,"from":"a.0000001f"}"#,
            r#"{"v":2,"answer":7,"from":"a.0000001f","said":"not_found"}"#,
            r#"{"v":1,"answer":7,"from":"a.0000001f","said":"forgotten"}"#,
        ] {
            assert_eq!(read(unknown.as_bytes()), Letter::Unknown, "{unknown}");
        }
    }

    #[test]
    fn a_condition_that_means_nothing_here_selects_nobody() {
        let listeners = [ListenerId::new(0, Some("public")), ListenerId::new(1, None)];
        let of = |listener: &str| Whom { listener: Some(listener.to_owned()), ..Whom::default() }.filter(&listeners);
        assert_eq!(of("public").unwrap().unwrap().listener, Some(listeners[0]));
        assert_eq!(of("1").unwrap().unwrap().listener, Some(listeners[1]));
        assert_eq!(of("0"), Ok(None), "it has a name");
        assert_eq!(of("private"), Ok(None));
        Whom { peer: Some("moon".to_owned()), ..Whom::default() }.filter(&listeners).unwrap_err();
        Whom { state: Some("asleep".to_owned()), ..Whom::default() }.filter(&listeners).unwrap_err();
    }
}
