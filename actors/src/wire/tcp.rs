//! TCP: socket options of a listener's connections, and the kernel's send queue of a session.
//!
//! Options are set on the listening socket: on Linux every connection inherits them, so that they cost no system call
//! for each connection.
//! Not here: a session's reaction to a full queue (`session`).

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};

use crate::error::ConfigError;

/// Default silence after which the kernel probes whether a peer is still there.
pub(crate) const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(300);

/// Default size of the kernel's buffers of a session, each way. Unit: bytes.
pub(crate) const DEFAULT_SOCKET_BUFFER: usize = 256 * 1024;

/// Default number of probes without an answer after which a connection is lost. With the default interval, a sixth of
/// the time, a peer that is gone is found after twice that time.
pub(crate) const DEFAULT_KEEPALIVE_COUNT: u32 = 6;

/// The most probes that Linux takes.
const MOST_PROBES: u32 = 127;

/// The longest keepalive time that Linux takes: 32,767 s.
pub(crate) const LONGEST_KEEPALIVE: Duration = Duration::from_secs(9 * 3600);

/// Bounds of the user timeout: the kernel counts milliseconds in an `int`.
const SHORTEST_USER_TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST_USER_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 3600);

/// The smallest and the largest socket buffer that may be asked for.
pub(crate) const SMALLEST_BUFFER: usize = 4 * 1024;
pub(crate) const LARGEST_BUFFER: usize = 1 << 30;

/// Most unsent output of a session that the kernel takes. Unit: bytes.
///
/// Bytes in the peer's receive window come on top; they are in the peer's memory. Twice the default high watermark: a
/// turn's answers fit at once, so that the loads of the benchmarks never meet it
/// (`benches/results/2026-11-26-loads.md`).
const UNSENT_BYTES: u32 = 128 * 1024;

/// Socket options that every connection of a listener inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketOptions {
    pub(crate) keepalive: Option<Duration>,
    /// `None` is a sixth of the time.
    pub(crate) keepalive_interval: Option<Duration>,
    pub(crate) keepalive_count: u32,
    pub(crate) user_timeout: UserTimeout,
    /// `None` leaves the size to the kernel, which lets it grow to megabytes.
    pub(crate) send_buffer: Option<usize>,
    pub(crate) receive_buffer: Option<usize>,
}

/// The time after which a connection whose output is not acknowledged is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UserTimeout {
    /// As long as keepalive takes; without it, the kernel's own.
    Auto,
    Kernel,
    After(Duration),
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            keepalive: Some(DEFAULT_KEEPALIVE),
            keepalive_interval: None,
            keepalive_count: DEFAULT_KEEPALIVE_COUNT,
            user_timeout: UserTimeout::Auto,
            send_buffer: Some(DEFAULT_SOCKET_BUFFER),
            receive_buffer: Some(DEFAULT_SOCKET_BUFFER),
        }
    }
}

impl SocketOptions {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if let Some(after) = self.keepalive {
            check_keepalive(after)?;
        }
        if let Some(interval) = self.keepalive_interval
            && !(Duration::from_secs(1)..=LONGEST_KEEPALIVE).contains(&interval)
        {
            return Err(ConfigError::KeepaliveInterval { interval });
        }
        if !(1..=MOST_PROBES).contains(&self.keepalive_count) {
            return Err(ConfigError::KeepaliveCount { probes: self.keepalive_count });
        }
        if let UserTimeout::After(timeout) = self.user_timeout
            && !(SHORTEST_USER_TIMEOUT..=LONGEST_USER_TIMEOUT).contains(&timeout)
        {
            return Err(ConfigError::UserTimeout { timeout });
        }
        for (buffer, bytes) in [("send buffer", self.send_buffer), ("receive buffer", self.receive_buffer)] {
            if let Some(bytes) = bytes
                && !(SMALLEST_BUFFER..=LARGEST_BUFFER).contains(&bytes)
            {
                return Err(ConfigError::SocketBuffer { buffer, bytes });
            }
        }
        Ok(())
    }

    /// Sets them on a listening socket, or on a connection of our own.
    pub(crate) fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        // A byte sent as urgent would otherwise be missing from the stream.
        socket.set_out_of_band_inline(true)?;
        self.apply_keepalive(socket)?;
        // Not every system that calls itself Linux has it; without, the send buffer alone is the bound.
        let _ = sys::limit_unsent(&**socket, UNSENT_BYTES);
        self.apply_buffers(socket)
    }

    fn interval(&self, after: Duration) -> Duration {
        self.keepalive_interval.unwrap_or((after / 6).max(Duration::from_secs(1)))
    }

    fn apply_keepalive(&self, socket: &SockRef<'_>) -> io::Result<()> {
        let found = match self.keepalive {
            None => {
                socket.set_keepalive(false)?;
                None
            }
            Some(after) => {
                let (interval, count) = (self.interval(after), self.keepalive_count);
                let keepalive = TcpKeepalive::new().with_time(after).with_interval(interval).with_retries(count);
                socket.set_tcp_keepalive(&keepalive)?;
                Some(after + interval * count)
            }
        };
        // A shorter one would also cut probes short: the kernel then counts none of them.
        let timeout = match self.user_timeout {
            UserTimeout::Auto => found.map(|found| found.min(LONGEST_USER_TIMEOUT)),
            UserTimeout::Kernel => None,
            UserTimeout::After(timeout) => Some(timeout),
        };
        sys::set_user_timeout(socket, timeout)
    }

    /// Sets what holds for any kind of socket.
    pub(crate) fn apply_buffers(&self, socket: &SockRef<'_>) -> io::Result<()> {
        // The kernel books twice as much, for its own structures.
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes / 2)?;
        }
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes / 2)?;
        }
        Ok(())
    }
}

pub(crate) fn check_keepalive(after: Duration) -> Result<(), ConfigError> {
    match (Duration::from_secs(1)..=LONGEST_KEEPALIVE).contains(&after) {
        true => Ok(()),
        false => Err(ConfigError::Keepalive { after }),
    }
}

/// The kernel's send queue of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendQueue {
    /// Bytes that the peer's kernel has acknowledged since the connection began.
    pub(crate) acknowledged: u64,
    /// True if the peer's kernel has acknowledged everything.
    pub(crate) is_empty: bool,
}

pub(crate) use sys::send_queue;

#[cfg(target_os = "linux")]
mod sys {
    use std::{io, os::fd::AsFd, time::Duration};

    use nix::{
        getsockopt_impl, setsockopt_impl, sockopt_impl,
        sys::socket::{GetSockOpt, SetSockOpt},
    };

    use super::SendQueue;

    /// Linux's `struct tcp_info` as far as it is needed here. Each kernel since 4.6 has these fields; it fills the room
    /// that it is given.
    #[derive(Clone, Copy, Debug)]
    #[repr(C)]
    #[expect(unreachable_pub, reason = "the macro makes a public trait speak of it")]
    pub struct TcpInfo {
        state: u8,
        /// From `ca_state` to `delivery_rate_app_limited`.
        _flags: [u8; 7],
        /// `rto`, `ato`, `snd_mss`, `rcv_mss`.
        _sizes: [u32; 4],
        /// Segments sent and not acknowledged, the FIN's included.
        unacked: u32,
        /// From `sacked` to `total_retrans`.
        _history: [u32; 19],
        /// `pacing_rate`, `max_pacing_rate`.
        _rates: [u64; 2],
        bytes_acked: u64,
        _bytes_received: u64,
        /// `segs_out`, `segs_in`.
        _segments: [u32; 2],
        notsent_bytes: u32,
        /// Fills the struct to its alignment, as `min_rtt` does in the kernel's.
        _min_rtt: u32,
    }

    /// The state of a socket that both sides have closed, or that was reset.
    const TCP_CLOSE: u8 = 7;

    sockopt_impl!(
        /// What the kernel knows of a connection.
        GetTcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, TcpInfo
    );
    sockopt_impl!(
        /// How many unsent bytes make a connection not writable.
        NotsentLowat, SetOnly, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, u32
    );

    /// `None` is the kernel's own number of retransmissions.
    pub(super) fn set_user_timeout(socket: &socket2::SockRef<'_>, timeout: Option<Duration>) -> io::Result<()> {
        socket.set_tcp_user_timeout(timeout)
    }

    pub(super) fn limit_unsent(socket: &impl AsFd, bytes: u32) -> io::Result<()> {
        NotsentLowat.set(&socket.as_fd(), &bytes).map_err(Into::into)
    }

    /// Asks the kernel. `None` where it does not say.
    pub(crate) fn send_queue(socket: &impl AsFd) -> Option<SendQueue> {
        let info = GetTcpInfo.get(&socket.as_fd()).ok()?;
        let is_empty = info.state == TCP_CLOSE || (info.unacked == 0 && info.notsent_bytes == 0);
        Some(SendQueue { acknowledged: info.bytes_acked, is_empty })
    }
}

/// Elsewhere the kernel does not say what a peer has acknowledged: what it takes from us counts as progress.
#[cfg(not(target_os = "linux"))]
mod sys {
    use std::{io, os::fd::AsFd, time::Duration};

    use super::SendQueue;

    pub(super) fn set_user_timeout(_: &socket2::SockRef<'_>, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn limit_unsent(_: &impl AsFd, _: u32) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn send_queue(_: &impl AsFd) -> Option<SendQueue> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// What a connection has inherited: time, interval, number of probes, user timeout.
    fn inherited(options: SocketOptions) -> Option<(Duration, Duration, u32, Option<Duration>)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        options.check().unwrap();
        options.apply(&SockRef::from(&listener)).unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let ours = SockRef::from(&ours);
        let timeout = ours.tcp_user_timeout().unwrap();
        if !ours.keepalive().unwrap() {
            assert_eq!(timeout, None);
            return None;
        }
        let time = ours.tcp_keepalive_time().unwrap();
        Some((time, ours.tcp_keepalive_interval().unwrap(), ours.tcp_keepalive_retries().unwrap(), timeout))
    }

    #[test]
    fn connections_inherit_how_dead_peers_are_found() {
        let seconds = Duration::from_secs;
        let default = SocketOptions::default();
        assert_eq!(inherited(default), Some((seconds(300), seconds(50), 6, Some(seconds(600)))));
        let hasty = SocketOptions { keepalive: Some(seconds(2)), ..default };
        assert_eq!(inherited(hasty), Some((seconds(2), seconds(1), 6, Some(seconds(8)))));
        let own = SocketOptions { keepalive_interval: Some(seconds(7)), keepalive_count: 9, ..default };
        assert_eq!(inherited(own), Some((seconds(300), seconds(7), 9, Some(seconds(363)))));
        let timeout = SocketOptions { user_timeout: UserTimeout::After(seconds(90)), ..default };
        assert_eq!(inherited(timeout), Some((seconds(300), seconds(50), 6, Some(seconds(90)))));
        let kernel = SocketOptions { user_timeout: UserTimeout::Kernel, ..default };
        assert_eq!(inherited(kernel), Some((seconds(300), seconds(50), 6, None)));
        assert_eq!(inherited(SocketOptions { keepalive: None, ..default }), None);
        let longest = SocketOptions {
            keepalive: Some(LONGEST_KEEPALIVE),
            keepalive_interval: Some(LONGEST_KEEPALIVE),
            keepalive_count: MOST_PROBES,
            ..default
        };
        assert!(longest.check().is_ok());
    }

    #[test]
    fn what_the_kernel_would_not_take_is_an_error_with_its_bounds() {
        let default = SocketOptions::default();
        let long = LONGEST_KEEPALIVE + Duration::from_secs(1);
        for interval in [Duration::from_millis(999), long] {
            let options = SocketOptions { keepalive_interval: Some(interval), ..default };
            assert_eq!(options.check(), Err(ConfigError::KeepaliveInterval { interval }));
        }
        for probes in [0, 128] {
            let options = SocketOptions { keepalive_count: probes, ..default };
            assert_eq!(options.check(), Err(ConfigError::KeepaliveCount { probes }));
        }
        for timeout in [Duration::from_millis(999), LONGEST_USER_TIMEOUT + Duration::from_secs(1)] {
            let options = SocketOptions { user_timeout: UserTimeout::After(timeout), ..default };
            assert_eq!(options.check(), Err(ConfigError::UserTimeout { timeout }));
        }
    }

    #[test]
    fn the_send_queue_is_what_the_peer_has_not_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        SocketOptions::default().apply(&SockRef::from(&listener)).unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut ours, _) = listener.accept().unwrap();
        ours.write_all(b"hello").unwrap();
        peer.read_exact(&mut [0; 5]).unwrap();
        // The acknowledgement is on its way, perhaps.
        while !send_queue(&ours).unwrap().is_empty {
            std::thread::yield_now();
        }
        assert_eq!(send_queue(&ours).unwrap().acknowledged, 5);
        ours.set_nonblocking(true).unwrap();
        let mut taken = 5;
        while let Ok(count) = ours.write(&[b'x'; 10_000]) {
            taken += count as u64;
        }
        let full = send_queue(&ours).unwrap();
        assert!(!full.is_empty && full.acknowledged < taken, "{full:?} of {taken}");
        drop(peer);
    }
}
