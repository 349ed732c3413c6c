//! Id: nodes and the sessions of nodes, by names that no two share.
//!
//! Not here: leases (`store`), sessions of one process (`connection`).

use std::{fmt, str::FromStr, sync::Arc};

use crate::connection::SessionId;

/// The name of a node: 1 to 64 letters, digits, `-`, `_` and `.`. A clone shares the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(Arc<str>);

/// A text is not a valid name of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a node: use 1 to 64 letters, digits, `-`, `_` and `.`")]
pub struct NodeNameError(String);

impl NodeName {
    /// Longest name. Unit: bytes.
    pub const MAX_LEN: usize = 64;

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = NodeNameError;

    fn from_str(text: &str) -> Result<Self, NodeNameError> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if text.is_empty() || text.len() > Self::MAX_LEN || !text.bytes().all(is_fit) {
            return Err(NodeNameError(text.chars().take(80).collect()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A life of a node: its name and an incarnation, a random number for each start and each lost lease. Its text is
/// `NAME.INCARNATION`, with eight hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId {
    /// The node's name.
    pub name: NodeName,
    /// The random number of this life.
    pub incarnation: u32,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08x}", self.name, self.incarnation)
    }
}

/// A text is not a valid [`NodeId`] or [`GlobalId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no {1}")]
pub struct IdError(String, &'static str);

impl FromStr for NodeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError(text.chars().take(120).collect(), "id of a node: write NAME.INCARNATION, as a.1f3a5c7d");
        let (name, incarnation) = text.rsplit_once('.').ok_or_else(error)?;
        let is_number = incarnation.len() == 8 && incarnation.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_number {
            return Err(error());
        }
        let incarnation = u32::from_str_radix(incarnation, 16).map_err(|_| error())?;
        Ok(Self { name: name.parse().map_err(|_| error())?, incarnation })
    }
}

/// A session of a cluster: the life of its node, and its number there. Its text is `NAME.INCARNATION.SESSION`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GlobalId {
    /// The life of the node that has the session.
    pub node: NodeId,
    /// The session's number there.
    pub session: SessionId,
}

impl fmt::Display for GlobalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.session.get())
    }
}

impl FromStr for GlobalId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let what = "id of a session: write NAME.INCARNATION.NUMBER, as a.1f3a5c7d.17";
        let error = || IdError(text.chars().take(120).collect(), what);
        let (node, session) = text.rsplit_once('.').ok_or_else(error)?;
        if !session.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        Ok(Self { node: node.parse().map_err(|_| error())?, session: session.parse().map_err(|_| error())? })
    }
}

/// Serialized as text.
macro_rules! serialize_as_text {
    ($($name:ty),*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

serialize_as_text!(NodeName, NodeId, GlobalId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        for text in ["a.0000001f.17", "web-1.example.org.1f3a5c7d.1"] {
            assert_eq!(text.parse::<GlobalId>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "a",
            "a.1",
            "a.0000001f",
            "a.0000001f.",
            "a.0000001f.#1",
            "a.+000001f.1",
            "a b.0000001f.1",
            ".0000001f.1",
        ] {
            text.parse::<GlobalId>().unwrap_err();
        }
    }
}
