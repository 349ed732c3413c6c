//! Naming: the names of a worker's sessions, and who is told of a change.
//!
//! Not here: their bounds (`names`), where they are (`slot`).

use crate::{
    control::event::SessionNamed,
    names::{NameError, Names},
    worker::{upstream::Upstream, worker::Worker},
};

impl Worker {
    /// Changes a session's names, and tells subscribers if they are others then.
    pub(crate) fn change_names(
        &self,
        index: u32,
        change: impl FnOnce(&mut Names) -> Result<bool, NameError>,
    ) -> Result<(), NameError> {
        let has_changed = self.slot(index, |slot| slot.change_names(change))?;
        if has_changed && self.upstream.as_ref().is_some_and(Upstream::has_subscribers) {
            let named = self.slot(index, |slot| {
                let Names { name, tags } = slot.names().cloned().unwrap_or_default();
                SessionNamed { id: slot.id, peer: slot.peer().clone(), listener: slot.listener, name, tags }
            });
            self.report_soon(self.reports.push_named(named));
        }
        Ok(())
    }
}
