//! Shared bytes: `Bytes` from user code, safe to drop anywhere.
//!
//! Their owner is user code ([`Bytes::from_owner`]), and its destructor runs on whatever thread and in whatever task
//! drops the last clone. So they are wrapped in this type, whose own destructor lets no panic through.
//! Not here: the rule that no lock or borrow is held while they are dropped, which binds every caller.

use std::{
    mem,
    ops::{Deref, Range},
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::{Buf, Bytes};

use crate::{
    caught::{dispose, panic_text},
    log_limit::{Kind, LogLimit},
};

const PANIC: Kind = Kind("panic of a destructor of written bytes", "panics of destructors of written bytes");
static PANICS: LogLimit = LogLimit::new();

/// Bytes whose destructor does not panic. A clone shares them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SharedBytes(Bytes);

impl SharedBytes {
    pub(crate) fn copy_from_slice(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }

    /// Returns them as plain bytes, at the price of an allocation: for messages that are cloned and dropped elsewhere.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// Returns a part of them, without a copy.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        Self(self.0.slice(range))
    }

    /// Forgets the first `count` bytes.
    pub(crate) fn advance(&mut self, count: usize) {
        self.0.advance(count);
    }
}

impl From<Bytes> for SharedBytes {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for SharedBytes {
    fn drop(&mut self) {
        let bytes = mem::take(&mut self.0);
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(bytes))) {
            if let Some(events) = PANICS.pass(&PANIC, "") {
                let text = panic_text(&*payload);
                log::error!(count = events; "the destructor of bytes that were written to a session panicked: {text}{events}");
            }
            dispose(payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Grenade(Vec<u8>);

    impl AsRef<[u8]> for Grenade {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Grenade {
        fn drop(&mut self) {
            panic!("a fault on purpose, in the owner of bytes");
        }
    }

    fn grenade() -> SharedBytes {
        Bytes::from_owner(Grenade(b"pin".to_vec())).into()
    }

    #[test]
    fn a_destructor_of_their_owner_that_panics_goes_no_further() {
        let (first, mut second) = (grenade(), grenade());
        second.advance(1);
        assert_eq!((&*first.clone(), &*second), (&b"pin"[..], &b"in"[..]));
        drop(vec![first, second]);
        drop(grenade().into_bytes());
        // So it is while another panic unwinds.
        let unwound = catch_unwind(|| {
            let _two = [grenade(), grenade()];
            panic!("a fault on purpose");
        });
        assert_eq!(panic_text(&*unwound.unwrap_err()).to_string(), "a fault on purpose");
    }
}
