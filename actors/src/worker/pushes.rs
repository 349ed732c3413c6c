//! Pushes: bytes that others have a session write.
//!
//! Not here: how much of it a session may have waiting (`slot`).

use crate::shared::SharedBytes;

/// Bytes that others push, and how many messages before them were dropped.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) missed: u64,
    pub(crate) bytes: SharedBytes,
}

/// In the order in which they came. Most often there is one: it takes no memory of its own.
#[derive(Debug, Default)]
pub(crate) struct Pushes {
    pub(super) first: Option<Push>,
    pub(super) others: Vec<Push>,
}

impl Pushes {
    pub(super) fn add(&mut self, push: Push) {
        if self.first.is_none() {
            self.first = Some(push);
        } else {
            self.others.push(push);
        }
    }
}

impl IntoIterator for Pushes {
    type Item = Push;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Push>, std::vec::IntoIter<Push>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.others)
    }
}
