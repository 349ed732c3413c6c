//! Refusal: how a connection that is not admitted is closed, so that its peer can read why.
//!
//! Not here: who is refused (`admission`), how many at a time (`admission`).

use std::{
    cell::RefCell,
    io,
    net::{Shutdown, TcpStream},
    time::Duration,
};

use crate::limits::SCRATCH_BYTES;

/// How long a refused connection has to take its line and close.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// How many bytes of a refused connection are read and discarded before it is reset: what a peer sends before it reads
/// fits, and one that sends on costs a single read of a session's.
const REFUSAL_BYTES: usize = 64 * 1024;

/// Sends a FIN behind the refuse line and reads until the peer closes too: closing at once could destroy the line on its
/// way. A peer that sends on, or stays, is reset.
pub(crate) async fn close_refused(stream: TcpStream, scratch: &RefCell<Vec<u8>>) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let stream = tokio::net::TcpStream::from_std(stream)?;
    let read = tokio::time::timeout(REFUSAL_TIME, read_refused(&stream, scratch));
    if !matches!(read.await, Ok(Ok(true))) {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

/// Reads what a refused peer sends and discards it; false if that is too much.
async fn read_refused(stream: &tokio::net::TcpStream, scratch: &RefCell<Vec<u8>>) -> io::Result<bool> {
    let mut left = REFUSAL_BYTES;
    while left > 0 {
        stream.readable().await?;
        let read = {
            let mut scratch = scratch.borrow_mut();
            scratch.resize(SCRATCH_BYTES, 0);
            stream.try_read(&mut scratch[..left.min(SCRATCH_BYTES)])
        };
        match read {
            Ok(0) => return Ok(true),
            Ok(count) => left -= count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
