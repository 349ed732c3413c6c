//! Logged: the fields that log messages have in common.
//!
//! A field has the same name and form in every message: `session` and numbers of things are numbers, `duration` is in
//! seconds, `listener` is a name, or a number as a text, as in lists and reports.
//! Not here: how often a message comes (`log_limit`), a peer's bytes (`escape`).

use std::fmt;

use log::kv::{ToValue, Value};

use crate::{
    address::{Address, Origin},
    connection::ListenerId,
};

/// A listener as the field of a message; none of a session without one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site(pub(crate) Option<ListenerId>);

impl From<ListenerId> for Site {
    fn from(id: ListenerId) -> Self {
        Self(Some(id))
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.map(|id| (id.name(), id.get())) {
            Some((Some(name), _)) => f.write_str(name),
            Some((None, number)) => write!(f, "{number}"),
            None => Ok(()),
        }
    }
}

impl ToValue for Site {
    fn to_value(&self) -> Value<'_> {
        if self.0.is_some() { Value::from_display(self) } else { Value::null() }
    }
}

/// The peer; none of a session without an address.
impl ToValue for Origin<'_> {
    fn to_value(&self) -> Value<'_> {
        match self.0 {
            Address::Memory => Value::null(),
            address => Value::from_display(address),
        }
    }
}
