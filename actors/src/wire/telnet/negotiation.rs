//! Negotiation: the state of one option on one side, by the Q method of RFC 1143.
//!
//! Only a change is ever answered, and an option that is off is never refused twice; so two sides that negotiate come to an
//! end, whatever each of them wants.
//! Not here: which options there are (`filter`), the words on the wire (`telnet_codes`).

/// The state of an option. A request that is not answered yet may have the opposite queued behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Negotiation {
    #[default]
    No,
    Yes,
    WantNo,
    WantNoOpposite,
    WantYes,
    WantYesOpposite,
}

use Negotiation::{No, WantNo, WantNoOpposite, WantYes, WantYesOpposite, Yes};

impl Negotiation {
    /// Takes the peer's word that the option is to be on, or off. Returns what we say to that, if anything.
    #[must_use]
    pub(super) fn receive(&mut self, is_on: bool, agrees: bool) -> Option<bool> {
        let (next, answer) = match (*self, is_on) {
            (No, true) if agrees => (Yes, Some(true)),
            (No, true) => (No, Some(false)),
            (No, false) => (No, None),
            (Yes, true) => (Yes, None),
            (Yes, false) => (No, Some(false)),
            // Our "off" was answered by "on", which nobody may say: RFC 1143 takes it for an answer all the same.
            (WantNo, true) => (No, None),
            (WantNoOpposite, true) => (Yes, None),
            (WantNo, false) => (No, None),
            (WantNoOpposite, false) => (WantYes, Some(true)),
            (WantYes, true) => (Yes, None),
            (WantYesOpposite, true) => (WantNo, Some(false)),
            (WantYes | WantYesOpposite, false) => (No, None),
        };
        *self = next;
        answer
    }

    /// Asks for the option to be on, or off. Returns what we say, if anything: a request under way is waited for first.
    #[must_use]
    pub(super) fn request(&mut self, is_on: bool) -> Option<bool> {
        let (next, says) = match (*self, is_on) {
            (No, true) => (WantYes, Some(true)),
            (Yes, false) => (WantNo, Some(false)),
            (WantNo, true) => (WantNoOpposite, None),
            (WantNoOpposite, false) => (WantNo, None),
            (WantYes, false) => (WantYesOpposite, None),
            (WantYesOpposite, true) => (WantYes, None),
            (state, _) => (state, None),
        };
        *self = next;
        says
    }
}
