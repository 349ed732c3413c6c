//! Caught panics: what one says, and how what it carried is dropped.
//!
//! Not here: which calls are caught (whoever calls user code).

use std::{
    any::Any,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::escape::Escaped;

/// What a panic says.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> Escaped<'_> {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    // It may hold what a peer has sent.
    Escaped::new(text.unwrap_or("a value that is no text"))
}

/// Drops what a panic carried; that may panic as well, and then nothing more can be done about it.
pub(crate) fn dispose(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(second);
    }
}
