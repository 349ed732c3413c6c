//! Naming: the words of a context that give its session a name and tags.
//!
//! Not here: their bounds (`names`), telling subscribers (`worker/naming`).

use std::sync::Arc;

use actix::Actor;

use crate::{
    names::{NameError, Names},
    session::{context::LineContext, state::Flags},
};

impl<A> LineContext<A>
where
    A: Actor<Context = LineContext<A>>,
{
    /// Sets the session's name, in place of an earlier one; an empty text removes it. Lists show it,
    /// [`SessionFilter::name`](crate::control::SessionFilter::name) selects by it, and
    /// [`SessionEvent::Named`](crate::control::SessionEvent::Named) tells of each change. Whether several sessions may have the same
    /// name is for the application to decide.
    ///
    /// # Errors
    /// Returns a [`NameError`], and changes nothing, for more than 128 bytes and for control characters.
    ///
    /// ```
    /// use actix::Actor;
    /// use actix_lines::{Line, LineContext, LineHandler};
    ///
    /// struct Guest;
    ///
    /// impl Actor for Guest {
    ///     type Context = LineContext<Self>;
    /// }
    ///
    /// impl LineHandler for Guest {
    ///     fn line(&mut self, line: Line<'_>, ctx: &mut Self::Context) {
    ///         match ctx.set_name(&String::from_utf8_lossy(line.text())) {
    ///             Ok(()) => ctx.write("hello\n"),
    ///             Err(error) => writeln!(ctx, "{error}"),
    ///         }
    ///     }
    /// }
    /// ```
    pub fn set_name(&mut self, name: &str) -> Result<(), NameError> {
        self.change_names(|names| names.set_name(name))
    }

    /// Returns the session's name.
    #[must_use]
    pub fn name(&self) -> Option<Arc<str>> {
        if self.has(Flags::DONE) {
            return None;
        }
        self.worker.slot(self.slot, |slot| slot.names()?.name.clone())
    }

    /// Adds a tag to the session. Lists, filters and events have it as they have the name; a session may have several. Adding one
    /// twice changes nothing.
    ///
    /// # Errors
    /// Returns a [`NameError`], and changes nothing, for an empty tag, for more than 32 bytes, for control characters, and for a
    /// ninth tag.
    pub fn add_tag(&mut self, tag: &str) -> Result<(), NameError> {
        self.change_names(|names| names.add_tag(tag))
    }

    /// Removes a tag from the session, if it has it.
    pub fn remove_tag(&mut self, tag: &str) {
        // It cannot fail.
        let _ = self.change_names(|names| Ok(names.remove_tag(tag)));
    }

    /// Returns the session's tags, in the order in which they were added.
    #[must_use]
    pub fn tags(&self) -> Vec<Arc<str>> {
        if self.has(Flags::DONE) {
            return Vec::new();
        }
        self.worker.slot(self.slot, |slot| slot.names().map(|names| names.tags.clone()).unwrap_or_default())
    }

    fn change_names(&mut self, change: impl FnOnce(&mut Names) -> Result<bool, NameError>) -> Result<(), NameError> {
        if self.has(Flags::DONE) {
            return change(&mut Names::default()).map(drop);
        }
        self.worker.change_names(self.slot, change)
    }
}
