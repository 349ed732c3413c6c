//! Inherited: sockets that the process was started with, by `fd:3` or `systemd:NAME`.
//!
//! Not here: sockets that the program itself holds ([`Listener::inherited`](crate::Listener::inherited)).

use std::os::fd::OwnedFd;

use crate::{address::listen::ListenAddress, error::BindError};

/// Takes the socket of `address`, which is a descriptor or a name of the service manager's.
///
/// # Errors
/// [`BindError::NotHandedOver`] for an address that no socket was handed over for.
pub(crate) fn take(address: &ListenAddress) -> Result<OwnedFd, BindError> {
    Err(BindError::NotHandedOver { address: address.clone() })
}
