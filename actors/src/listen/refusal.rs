//! Refusal: closes a connection that is not admitted so that its peer can read the refuse line.
//!
//! Not here: the decision to refuse, and the number at a time (`admission`).

use std::{cell::RefCell, future::poll_fn, io, time::Duration};

use tokio::io::ReadBuf;

use crate::{
    limits::SCRATCH_BYTES,
    wire::{socket::Socket, transport::Transport},
};

/// Time that a refused connection has to take its line and close.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// Bytes of a refused connection that are read and discarded before it is reset: enough for what a peer sends before it
/// reads, and no more work than a single read of a session.
const REFUSAL_BYTES: usize = 64 * 1024;

/// Sends a FIN after the refuse line, and reads until the peer closes too: closing at once could destroy the line on
/// its way. A peer that keeps sending, or stays, is reset.
pub(crate) async fn close_refused(socket: Socket, scratch: &RefCell<Vec<u8>>) -> io::Result<()> {
    socket.shutdown_write()?;
    let mut transport = Transport::try_from(socket)?;
    let read = tokio::time::timeout(REFUSAL_TIME, read_refused(&mut transport, scratch));
    if !matches!(read.await, Ok(Ok(true))) {
        transport.reset_at_close();
    }
    Ok(())
}

/// Reads and discards a refused peer's bytes. Returns false if they are too many.
async fn read_refused(transport: &mut Transport, scratch: &RefCell<Vec<u8>>) -> io::Result<bool> {
    let mut left = REFUSAL_BYTES;
    while left > 0 {
        let read = poll_fn(|cx| {
            let mut scratch = scratch.borrow_mut();
            scratch.resize(SCRATCH_BYTES, 0);
            let mut buffer = ReadBuf::new(&mut scratch[..left.min(SCRATCH_BYTES)]);
            transport.poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
        });
        match read.await? {
            0 => return Ok(true),
            count => left -= count,
        }
    }
    Ok(false)
}
