//! Listen: the path from a bound socket to an admitted connection.

pub(crate) mod acceptor;
#[cfg(all(feature = "systemd", target_os = "linux"))]
pub(crate) mod inherited;
pub(crate) mod listener;
pub(crate) mod refusal;
pub(crate) mod shortage;
pub(crate) mod socket;
pub(crate) mod unix;
