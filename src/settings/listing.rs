//! Listing: the settings in the order of their documentation.
//!
//! Rule: manual, example file and man page go through the same groups and tables.
//! Not here: the documents themselves (`tables`, `generate`).

use super::{ListenerSettings, PairSettings, Setting, Settings, TlsSettings};

/// The settings by their groups, in the order of help.
pub(crate) fn groups() -> impl Iterator<Item = &'static [Setting]> {
    Settings::ALL.chunk_by(|one, next| one.about.group == next.about.group)
}

/// The tables of a listener.
pub(crate) const TABLES: [&[Setting]; 3] = [ListenerSettings::ALL, TlsSettings::ALL, PairSettings::ALL];
