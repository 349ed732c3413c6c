//! Tunnel: takes the connections of plain peers, and says to the server what its filters expect.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use actix_lines::tls::rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::behind::Filters;

/// The words of a telnet peer that says nothing by commands, or none at all.
#[derive(Default)]
pub(crate) struct Words {
    /// The last byte was CR, and nothing was said yet about what follows.
    has_written_cr: bool,
    has_read_cr: bool,
    has_read_iac: bool,
}

const IAC: u8 = 255;

impl Words {
    pub(crate) fn encode(&mut self, plain: &[u8]) -> Vec<u8> {
        if !Filters::get().telnet {
            return plain.to_vec();
        }
        let mut wire = Vec::with_capacity(plain.len());
        for &byte in plain {
            if std::mem::replace(&mut self.has_written_cr, byte == b'\r') && byte != b'\n' {
                wire.push(0);
            }
            wire.push(byte);
            if byte == IAC {
                wire.push(IAC);
            }
        }
        wire
    }

    /// What is missing behind the last byte.
    pub(crate) fn last(&self) -> &'static [u8] {
        if self.has_written_cr { b"\0" } else { b"" }
    }

    pub(crate) fn decode(&mut self, wire: &[u8]) -> Vec<u8> {
        if !Filters::get().telnet {
            return wire.to_vec();
        }
        let mut plain = Vec::with_capacity(wire.len());
        for &byte in wire {
            let is_behind_cr = std::mem::replace(&mut self.has_read_cr, byte == b'\r');
            if std::mem::take(&mut self.has_read_iac) {
                assert_eq!(byte, IAC, "nothing was asked for");
                plain.push(IAC);
            } else if byte == IAC {
                self.has_read_iac = true;
            } else if is_behind_cr && byte != b'\n' {
                assert_eq!(byte, 0, "CR is followed by LF or NUL");
            } else {
                plain.push(byte);
            }
        }
        plain
    }
}

/// A wire with TLS, or without.
pub(crate) enum Wire<S> {
    Plain(S),
    Tls(Box<TlsStream<S>>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Begins on the server's end of a tunnel: the header, which names `ends`, and the handshake.
pub(crate) async fn begin<S>(mut wire: S, ends: Option<(SocketAddr, SocketAddr)>) -> io::Result<Wire<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let filters = Filters::get();
    if filters.proxy {
        let header = match ends {
            None => "PROXY UNKNOWN\r\n".to_owned(),
            Some((peer, local)) => {
                format!("PROXY TCP4 {} {} {} {}\r\n", peer.ip(), local.ip(), peer.port(), local.port())
            }
        };
        wire.write_all(header.as_bytes()).await?;
    }
    Ok(match &filters.tls {
        None => Wire::Plain(wire),
        Some((_, client)) => {
            let name = ServerName::try_from("localhost").unwrap();
            Wire::Tls(Box::new(TlsConnector::from(client.clone()).connect(name, wire).await?))
        }
    })
}

/// Opens a tunnel to a server, for as long as the test's arbiter lives. Returns the address for plain peers.
pub(crate) async fn open(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    actix_rt::spawn(async move {
        while let Ok((plain, peer)) = listener.accept().await {
            actix_rt::spawn(carry(plain, server, (peer, address)));
        }
    });
    address
}

/// What the kernel holds at the most on the way back. Unit: bytes.
const BUFFER: usize = 128 << 10;

/// Carries one connection. If one of its ends is reset, so is the other.
async fn carry(plain: TcpStream, server: SocketAddr, ends: (SocketAddr, SocketAddr)) {
    // Another name of the same socket, for its last word.
    let plain_socket = socket2::SockRef::from(&plain).try_clone().unwrap();
    let result = async {
        let wire = TcpStream::connect(server).await?;
        // Left to itself the kernel may take all of a test's bytes here, and its server never has to stop reading.
        SockRef::from(&wire).set_recv_buffer_size(BUFFER)?;
        SockRef::from(&plain).set_send_buffer_size(BUFFER)?;
        let wire_socket = socket2::SockRef::from(&wire).try_clone()?;
        let result = pump(plain, begin(wire, Some(ends)).await?).await;
        if result.is_err() {
            wire_socket.set_linger(Some(std::time::Duration::ZERO))?;
        }
        result
    };
    if result.await.is_err() {
        let _ = plain_socket.set_linger(Some(std::time::Duration::ZERO));
    }
}

/// Carries bytes and both ends of them. An error is one of either stream, but for a server that discards what comes: its own
/// bytes still come to their end.
async fn pump(plain: TcpStream, wire: Wire<TcpStream>) -> io::Result<()> {
    let (mut from_peer, mut to_peer) = plain.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(wire);
    let up = async {
        let mut words = Words::default();
        let mut bytes = vec![0; 16 * 1024];
        let mut is_taken = true;
        loop {
            let count = from_peer.read(&mut bytes).await?;
            if count == 0 {
                break;
            }
            let wire = words.encode(&bytes[..count]);
            is_taken = is_taken && to_server.write_all(&wire).await.is_ok() && to_server.flush().await.is_ok();
        }
        if is_taken {
            let _ = to_server.write_all(words.last()).await;
            let _ = to_server.shutdown().await;
        }
        io::Result::Ok(())
    };
    let down = async {
        let mut words = Words::default();
        let mut bytes = vec![0; 16 * 1024];
        loop {
            // With TLS an end without close_notify is an error.
            let count = from_server.read(&mut bytes).await?;
            if count == 0 {
                return to_peer.shutdown().await;
            }
            to_peer.write_all(&words.decode(&bytes[..count])).await?;
        }
    };
    tokio::try_join!(up, down).map(|_| ())
}
