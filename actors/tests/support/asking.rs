//! Asking: a peer of a console, and the answers that it gets.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use crate::support::{at_once, within};

/// The peer of a console.
pub struct Asking<S>(pub BufReader<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Asking<S> {
    pub fn new(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        at_once("the console to read", self.0.get_mut().write_all(bytes)).await.unwrap();
    }

    /// The lines of one answer; `None` if the console closes instead.
    pub async fn answer(&mut self) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if within("an answer", self.0.read_line(&mut line)).await.unwrap() == 0 {
                assert_eq!(lines, [""; 0], "half an answer");
                return None;
            }
            match line.strip_suffix('\n').expect("a whole line") {
                "" => return Some(lines),
                line => lines.push(line.to_owned()),
            }
        }
    }

    pub async fn ask(&mut self, command: &str) -> Vec<String> {
        self.send(format!("{command}\n").as_bytes()).await;
        self.answer().await.unwrap_or_else(|| panic!("closed at {command}"))
    }

    /// The only line of an answer.
    pub async fn line(&mut self, command: &str) -> String {
        let mut lines = self.ask(command).await;
        assert_eq!(lines.len(), 1, "{command}: {lines:?}");
        lines.remove(0)
    }

    pub async fn json(&mut self, command: &str) -> Vec<Value> {
        let lines = self.ask(&format!("json {command}")).await;
        lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    pub async fn rest(&mut self) -> String {
        let mut rest = String::new();
        within("the close", self.0.read_to_string(&mut rest)).await.unwrap();
        rest
    }
}
