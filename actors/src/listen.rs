//! Listen: from a bound socket to an admitted connection.

pub(crate) mod acceptor;
