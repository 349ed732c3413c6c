//! Before a drain: what a drain that an operator asks for means to the program.
//!
//! Not here: who asks (`console`, `http`), signals (`signals`).

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::control::messages::Drain;

type Make = dyn Fn(Option<Duration>, Option<Bytes>) -> Drain + Send + Sync;

/// Makes a drain of what an operator has asked for: a time, and a goodbye with its newline.
#[derive(Clone, Default)]
pub(crate) struct BeforeDrain(Option<Arc<Make>>);

impl BeforeDrain {
    pub(crate) fn new(make: impl Fn(Option<Duration>, Option<Bytes>) -> Drain + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(make)))
    }

    /// Returns the drain to carry out.
    pub(crate) fn ask(&self, deadline: Option<Duration>, goodbye: Option<Bytes>) -> Drain {
        match &self.0 {
            Some(make) => make(deadline, goodbye),
            None => Drain::within(deadline.unwrap_or(Drain::DEFAULT_DEADLINE)).goodbye(goodbye.unwrap_or_default()),
        }
    }
}

impl fmt::Debug for BeforeDrain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BeforeDrain").field(&self.0.is_some()).finish()
    }
}
