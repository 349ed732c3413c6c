//! Caught panics: the text of a panic's payload, and its safe drop.
//!
//! Not here: catching them (`session/user_code` and all other callers of user code).

use std::{
    any::Any,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::escape::Escaped;

/// Returns the message of a panic.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> Escaped<'_> {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    // It may hold what a peer has sent.
    Escaped::new(text.unwrap_or("a value that is no text"))
}

/// Drops a value of the user's. A panic of its destructor goes no further.
pub(crate) fn drop_caught<T>(value: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        dispose(payload);
    }
}

/// Drops a panic's payload. If its destructor panics too, that panic's payload is leaked.
pub(crate) fn dispose(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(second);
    }
}
