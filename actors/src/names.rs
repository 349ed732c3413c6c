//! Names: what an application calls a session: a name, and tags.
//!
//! Rule: both are bounded and have no control characters, so that they can be kept, listed and sent elsewhere as they are.
//! Not here: where a session keeps them (`worker/slot`), who is told of a change (`control/event`).

use std::sync::Arc;

/// Longest name. Unit: bytes.
pub(crate) const MAX_NAME: usize = 128;
/// Longest tag. Unit: bytes.
pub(crate) const MAX_TAG: usize = 32;
/// Most tags of a session.
pub(crate) const MAX_TAGS: usize = 8;

/// A name or a tag of a session is invalid. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// It is longer than allowed.
    #[error("a {what} has {bytes} bytes: use at most {most}")]
    TooLong {
        /// `name` or `tag`.
        what: &'static str,
        /// Its length. Unit: bytes.
        bytes: usize,
        /// The greatest length. Unit: bytes.
        most: usize,
    },
    /// It has a control character, such as a line end.
    #[error("a {what} has a control character: use text without line ends, tabs and escapes")]
    Control {
        /// `name` or `tag`.
        what: &'static str,
    },
    /// It is empty.
    #[error("a {what} is empty: use 1 to {most} bytes")]
    Empty {
        /// `name` or `tag`.
        what: &'static str,
        /// The greatest length. Unit: bytes.
        most: usize,
    },
    /// The session has as many tags as it may have.
    #[error("a session has {MAX_TAGS} tags at most: remove one first")]
    TooManyTags,
}

/// The name and the tags of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) name: Option<Arc<str>>,
    /// In the order in which they were added; none twice.
    pub(crate) tags: Vec<Arc<str>>,
}

fn check(what: &'static str, text: &str, most: usize) -> Result<(), NameError> {
    if text.len() > most {
        return Err(NameError::TooLong { what, bytes: text.len(), most });
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::Control { what });
    }
    Ok(())
}

fn check_some(what: &'static str, text: &str, most: usize) -> Result<(), NameError> {
    check(what, text, most)?;
    if text.is_empty() { Err(NameError::Empty { what, most }) } else { Ok(()) }
}

/// Returns an error for a text that is no name of a session.
#[cfg(feature = "cluster")]
pub(crate) fn check_name(name: &str) -> Result<(), NameError> {
    check_some("name", name, MAX_NAME)
}

impl Names {
    pub(crate) fn is_empty(&self) -> bool {
        self.name.is_none() && self.tags.is_empty()
    }

    /// Sets the name; an empty one removes it. Returns whether that changed anything.
    pub(crate) fn set_name(&mut self, name: &str) -> Result<bool, NameError> {
        check("name", name, MAX_NAME)?;
        if self.name.as_deref().unwrap_or_default() == name {
            return Ok(false);
        }
        self.name = Some(name).filter(|name| !name.is_empty()).map(Arc::from);
        Ok(true)
    }

    /// Adds a tag. Returns whether that changed anything.
    pub(crate) fn add_tag(&mut self, tag: &str) -> Result<bool, NameError> {
        check_some("tag", tag, MAX_TAG)?;
        if self.has_tag(tag) {
            return Ok(false);
        }
        if self.tags.len() >= MAX_TAGS {
            return Err(NameError::TooManyTags);
        }
        self.tags.push(tag.into());
        Ok(true)
    }

    /// Removes a tag. Returns whether it was there.
    pub(crate) fn remove_tag(&mut self, tag: &str) -> bool {
        let before = self.tags.len();
        self.tags.retain(|known| &**known != tag);
        self.tags.len() < before
    }

    pub(crate) fn has_tag(&self, tag: &str) -> bool {
        has_tag(&self.tags, tag)
    }
}

/// Returns true if a tag is among these.
pub(crate) fn has_tag(tags: &[Arc<str>], tag: &str) -> bool {
    tags.iter().any(|known| &**known == tag)
}

/// Serializes a name as text.
#[cfg(feature = "serde")]
pub(crate) fn serialize_name<S: serde::Serializer>(name: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&name.as_deref(), serializer)
}

/// Serializes tags as texts.
#[cfg(feature = "serde")]
pub(crate) fn serialize_tags<S: serde::Serializer>(tags: &[Arc<str>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(tags.iter().map(|tag| &**tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_nothing_says_so() {
        let mut names = Names::default();
        assert_eq!(names.set_name(""), Ok(false));
        assert_eq!((names.set_name("alice"), names.set_name("alice")), (Ok(true), Ok(false)));
        assert_eq!((names.set_name(""), names.set_name("")), (Ok(true), Ok(false)));
        assert_eq!((names.add_tag("staff"), names.add_tag("staff")), (Ok(true), Ok(false)));
        assert!(!names.remove_tag("guest"));
        assert!(names.remove_tag("staff"));
        assert!(!names.remove_tag("staff"));
        assert!(names.is_empty());
    }
}
