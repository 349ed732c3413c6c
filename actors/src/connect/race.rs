//! Race: connects to one of several addresses, by RFC 8305 ("Happy Eyeballs", version 2).
//!
//! Addresses are tried in the resolver's order with the two families taking turns; each gets a head start of
//! [`HEAD_START`] before the next joins in, and a failure lets the next start at once. The first connection wins, and
//! the others are closed. So a dead address family costs a quarter of a second, not a timeout.
//! Not here: look-ups, deadlines, the session of the connection (`target`, `connector`).

use std::{future::Future, io, net::SocketAddr, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::net::TcpStream;

use crate::wire::tcp::SocketOptions;

/// Time that an address is tried alone. RFC 8305, section 5, recommends 250 ms.
pub(crate) const HEAD_START: Duration = Duration::from_millis(250);

/// Addresses that failed with their errors, in the order of their failures.
pub(crate) type Failures = Vec<(SocketAddr, io::Error)>;

/// Sorts addresses into the order in which they are tried: the families take turns, the first address's family begins.
pub(crate) fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else { return addresses };
    let count = addresses.len();
    let (mut ours, mut others) = addresses.into_iter().partition::<Vec<_>, _>(|address| address.is_ipv6() == first);
    let turns = ours.len().min(others.len());
    let rest = if ours.len() > turns { ours.split_off(turns) } else { others.split_off(turns) };
    let mut order = Vec::with_capacity(count);
    for (one, other) in ours.into_iter().zip(others) {
        order.extend([one, other]);
    }
    order.extend(rest);
    order
}

/// Tries the addresses in this order until one of them connects.
pub(crate) async fn race<T, C>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> C,
) -> Result<(SocketAddr, T), Failures>
where
    C: Future<Output = io::Result<T>>,
{
    let mut failures = Failures::new();
    let mut running = FuturesUnordered::new();
    let mut waiting = addresses.into_iter();
    loop {
        if let Some(address) = waiting.next() {
            let attempt = connect(address);
            running.push(async move { (address, attempt.await) });
        }
        tokio::select! {
            () = tokio::time::sleep(HEAD_START), if waiting.len() > 0 => {}
            ended = running.next() => match ended {
                Some((address, Ok(connected))) => return Ok((address, connected)),
                Some((address, Err(error))) => failures.push((address, error)),
                None => return Err(failures),
            },
        }
    }
}

/// Connects to one address.
pub(crate) async fn connect(address: SocketAddr, keepalive: Option<Duration>) -> io::Result<TcpStream> {
    settle(TcpStream::connect(address).await?, keepalive)
}

/// Rejects a connection to itself, and sets options.
fn settle(stream: TcpStream, keepalive: Option<Duration>) -> io::Result<TcpStream> {
    let local = stream.local_addr()?;
    if stream.peer_addr().is_ok_and(|peer| peer == local) {
        // Nobody listens there, and of its ephemeral ports the kernel gave us the very one that we called: TCP then
        // connects a socket to itself. Who keeps that keeps the server from ever getting its port back.
        stream.set_zero_linger()?;
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    SocketOptions { keepalive, ..SocketOptions::default() }.apply(&socket2::SockRef::from(&stream))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        future::pending,
        net::Ipv4Addr,
    };

    use tokio::{net::TcpSocket, time::Instant};

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_and_keep_their_order() {
        let mixed = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1", "10.0.0.2:1"]);
        let turns = addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"]);
        assert_eq!(interleave(mixed), turns);
        let v4_first = addresses(&["10.0.0.1:1", "[::1]:1", "[::2]:1", "[::3]:1"]);
        assert_eq!(interleave(v4_first.clone()), v4_first);
        let one_family = addresses(&["10.0.0.2:1", "10.0.0.1:1"]);
        assert_eq!(interleave(one_family.clone()), one_family);
        assert_eq!(interleave(Vec::new()), []);
    }

    /// Says when each address was tried, in milliseconds since the start, and that its attempt is over.
    struct Attempts {
        start: Instant,
        started: RefCell<Vec<(u16, u128)>>,
        running: Cell<usize>,
    }

    struct Running<'a>(&'a Cell<usize>);

    impl Drop for Running<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    impl Attempts {
        fn new() -> Self {
            Self { start: Instant::now(), started: RefCell::default(), running: Cell::new(0) }
        }

        /// By its port, an address hangs (0), fails at once (1), or connects after so many milliseconds.
        async fn connect(&self, address: SocketAddr) -> io::Result<u16> {
            self.running.set(self.running.get() + 1);
            let _running = Running(&self.running);
            self.started.borrow_mut().push((address.port(), self.start.elapsed().as_millis()));
            match address.port() {
                0 => pending().await,
                1 => Err(io::ErrorKind::ConnectionRefused.into()),
                after => {
                    tokio::time::sleep(Duration::from_millis(after.into())).await;
                    Ok(after)
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_hangs_delays_the_next_by_250_ms_and_is_dropped_when_that_wins() {
        let attempts = Attempts::new();
        let (winner, _) =
            race(addresses(&["[::1]:0", "10.0.0.1:30", "[::2]:2"]), |address| attempts.connect(address)).await.unwrap();
        assert_eq!(winner, "10.0.0.1:30".parse().unwrap());
        assert_eq!(*attempts.started.borrow(), [(0, 0), (30, 250)], "the third was never needed");
        assert_eq!(attempts.start.elapsed().as_millis(), 280);
        assert_eq!(attempts.running.get(), 0, "the loser is dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_lets_the_next_start_at_once() {
        let attempts = Attempts::new();
        let (winner, _) =
            race(addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:40"]), |address| attempts.connect(address)).await.unwrap();
        assert_eq!(winner.port(), 40);
        assert_eq!(*attempts.started.borrow(), [(1, 0), (1, 0), (40, 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_address_may_still_win() {
        let attempts = Attempts::new();
        let race = race(addresses(&["[::1]:300", "10.0.0.1:100"]), |address| attempts.connect(address));
        assert_eq!(race.await.unwrap().0.port(), 300, "at 300 ms, before the other's 250 + 100");
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_each_failure_is_told() {
        let attempts = Attempts::new();
        let failures =
            race(addresses(&["[::1]:1", "10.0.0.1:1"]), |address| attempts.connect(address)).await.unwrap_err();
        let told: Vec<_> = failures.iter().map(|(address, error)| (address.is_ipv6(), error.kind())).collect();
        assert_eq!(told, [(true, io::ErrorKind::ConnectionRefused), (false, io::ErrorKind::ConnectionRefused)]);
    }

    /// Bound to the port that it calls, a socket connects to itself for certain instead of once in 28,000 times.
    #[tokio::test]
    async fn a_socket_that_is_connected_to_itself_is_no_connection() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let stream = socket.connect(address).await.unwrap();
        assert_eq!(settle(stream, None).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        std::net::TcpListener::bind(address).expect("the port is free again");
    }
}
