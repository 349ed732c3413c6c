//! Event: what a peer says by commands of telnet that are the handler's business.
//!
//! Not here: reading them (`filter`), bringing them to the handler in order (`transport`, `session/input`).

/// The size of a peer's window, as it has said last. 0 is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WindowSize {
    /// Unit: characters.
    pub columns: u16,
    /// Unit: lines.
    pub rows: u16,
}

/// A command of a telnet peer, for [`LineHandler::notice`](crate::LineHandler::notice).
///
/// None of them changes the lines: what was typed before an erase is still delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TelnetEvent {
    /// AYT: the peer asks for a sign of life. It has an answer, which the default hook writes.
    AreYouThere,
    /// IP: end what you are doing.
    Interrupt,
    /// BRK: the break key.
    Break,
    /// ABORT of RFC 1184: end it at once.
    Abort,
    /// SUSP of RFC 1184: suspend it.
    Suspend,
    /// EOF of RFC 1184: the input ends here, although the connection does not.
    EndOfFile,
    /// AO: go on, but send no more of this output.
    AbortOutput,
    /// EC: the last character is wrong.
    EraseCharacter,
    /// EL: the line so far is wrong.
    EraseLine,
    /// The window has this size, at first and whenever it changes.
    WindowSize(WindowSize),
}

/// A word for [`LineContext::tell_filter`](crate::LineContext::tell_filter): with true the peer's telnet is told that we echo
/// what it sends, so that it does not show what is typed, as for a password; with false, that it is to show it again.
///
/// Nothing is echoed by that. A peer may refuse, or not know what is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Echo(pub bool);
