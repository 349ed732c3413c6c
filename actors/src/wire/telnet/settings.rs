//! Settings: which options a listener's telnet asks for and agrees to.
//!
//! Not here: negotiating them (`negotiation`, `filter`).

/// Telnet for the connections of a listener: [`Listener::telnet`](crate::Listener::telnet).
///
/// Commands are stripped and answered. A session sees and writes data, and is as exact as without:
///
/// | on the wire | in the session |
/// |---|---|
/// | `IAC IAC` | the byte 255, in both directions |
/// | CR LF | CR LF |
/// | CR NUL | CR; a CR that is written and not followed by LF gets its NUL |
/// | a CR before any other byte | the same |
/// | LF without CR | LF: a session that writes it sends it so |
///
/// By default nothing is asked for, so that a peer which does not speak telnet sees no command. Options that nobody here
/// knows are refused, and no negotiation goes on for ever: the Q method of RFC 1143. A command that is not whole when the
/// peer's bytes end is dropped. Urgent data is read in line, so that the data mark of a Synch means nothing and is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it does nothing until a listener has it"]
pub struct Telnet {
    pub(super) asks_window_size: bool,
    pub(super) suppresses_go_ahead: bool,
}

impl Telnet {
    /// Asks for nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the peer for the size of its window, and agrees if it offers that (NAWS). Default: false.
    pub fn window_size(mut self, asks: bool) -> Self {
        self.asks_window_size = asks;
        self
    }

    /// Agrees if the peer asks us to suppress go-aheads, and then takes CR NUL for CR LF, as RFC 1123 says. Default: false.
    ///
    /// That option is what has a telnet send each character as it is typed, unedited, and CR NUL for the Enter key: most services
    /// of lines do better to refuse it. What the peer suppresses is its own affair, to which we always agree.
    pub fn suppress_go_ahead(mut self, agrees: bool) -> Self {
        self.suppresses_go_ahead = agrees;
        self
    }
}
