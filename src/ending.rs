//! Ending: the drain that operators ask for otherwise than by a signal.
//!
//! Rule: it is the drain of SIGTERM, by the settings in force, but for what was asked for.
//! Not here: signals (`signals`), consoles (`console`).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actix_lines::control::Drain;

use crate::service;

/// The drain of the settings in force.
#[derive(Debug)]
pub(crate) struct Ending(Mutex<Drain>);

impl Ending {
    pub(crate) fn new(drain: Drain) -> Arc<Self> {
        Arc::new(Self(Mutex::new(drain)))
    }

    fn settings(&self) -> MutexGuard<'_, Drain> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over other settings.
    pub(crate) fn set(&self, drain: Drain) {
        *self.settings() = drain;
    }

    /// Returns the drain that was asked for, which begins now. A goodbye has its newline.
    #[cfg_attr(not(any(feature = "console", feature = "http")), allow(dead_code))]
    pub(crate) fn ask<B: Into<Vec<u8>>>(&self, deadline: Option<Duration>, goodbye: Option<B>) -> Drain {
        service::stopping();
        let mut drain = self.settings().clone();
        drain.deadline = deadline.unwrap_or(drain.deadline);
        match goodbye {
            Some(goodbye) => drain.goodbye(goodbye.into()),
            None => drain,
        }
    }
}
