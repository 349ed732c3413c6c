//! Http: one request and its whole answer, over a connection of its own.
//!
//! For a driver and a server on this machine: no TLS, no redirects, no encodings.
//! Not here: the commands of a browser.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// Longest silence of the other end. A guard and no measure: a browser may take long to start.
const PATIENCE: Duration = Duration::from_secs(120);

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, with its query.
    pub path: &'a str,
    /// Headers besides those of connection and length.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body, which is JSON if there is one.
    pub body: &'a str,
}

/// An answer; its body as bytes or as JSON.
#[derive(Clone, Debug)]
pub struct Answer<B = Vec<u8>> {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: B,
}

impl Request<'_> {
    /// Sends it, and reads the answer.
    ///
    /// # Errors
    /// Returns an error of the connection, and [`ErrorKind::InvalidData`] for an answer without a length.
    pub fn send(self, to: SocketAddr) -> io::Result<Answer> {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let Self { method, path, headers, body } = self;
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        if !body.is_empty() {
            head += "Content-Type: application/json\r\n";
        }
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        stream.write_all(format!("{head}\r\n{body}").as_bytes())?;

        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let invalid = |what: &str| io::Error::new(ErrorKind::InvalidData, format!("{method} {path}: {what}"));
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| invalid("no status line"))?;
        let mut length = None;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let Some((name, value)) = line.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok();
            }
        }
        let mut body = vec![0; length.ok_or_else(|| invalid("no length"))?];
        reader.read_exact(&mut body)?;
        Ok(Answer { status, body })
    }
}

impl Answer {
    /// Reads the body as JSON.
    ///
    /// # Errors
    /// Returns [`ErrorKind::InvalidData`] if it is none.
    pub fn json(self) -> io::Result<Answer<Value>> {
        let body = serde_json::from_slice(&self.body).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        Ok(Answer { status: self.status, body })
    }
}
