//! A proxy between a node and its store, that does what networks and stores do wrong.
//!
//! It knows where a command and an answer of Redis end, and no more of it.
#![allow(dead_code, unreachable_pub)]

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::sleep,
};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Whatever comes is handed on so much later, in both directions.
    Late(Duration),
    /// Connections are reset, and new ones at once.
    Cut,
    /// Connections stay, and are made, but nothing comes through. What was sent meanwhile comes when it is over.
    Silent,
    /// As [`Silent`](Self::Silent), but from the store alone: it does what it is asked to do.
    Unanswered,
    /// Each command waits to be [let through](Proxy::let_one_through), and so does whatever comes behind it on its connection.
    Held,
    /// Each command is answered with this error, and does not come through. Not inside TLS.
    Error(&'static str),
    /// What the store pushes to subscribers is dropped. Not inside TLS.
    Deaf,
}

/// A proxy on a free port. Dropped it ends, with its connections.
pub struct Proxy {
    pub address: SocketAddr,
    fault: watch::Sender<Fault>,
    gate: Gate,
    acceptor: JoinHandle<()>,
}

/// Where commands are held.
#[derive(Clone)]
struct Gate {
    /// One that waits now.
    holds: watch::Sender<bool>,
    let_through: Arc<Semaphore>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.fault.send_replace(Fault::Cut);
    }
}

impl Proxy {
    /// Starts a proxy to a store.
    pub async fn to(store: SocketAddr) -> Self {
        Self::on("127.0.0.1:0", store).await
    }

    /// Starts a proxy to a store on an address of its own.
    pub async fn on(address: &str, store: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (fault, faults) = watch::channel(Fault::None);
        let gate = Gate { holds: watch::Sender::new(false), let_through: Arc::new(Semaphore::new(0)) };
        let of_each = gate.clone();
        let acceptor = tokio::spawn(async move {
            while let Ok((node, _)) = listener.accept().await {
                tokio::spawn(connection(node, store, faults.clone(), of_each.clone()));
            }
        });
        Self { address, fault, gate, acceptor }
    }

    /// Waits until a command is [held](Fault::Held).
    pub async fn holds_one(&self) {
        self.gate.holds.subscribe().wait_for(|holds| *holds).await.unwrap();
    }

    /// Lets one command through of those that are held.
    pub fn let_one_through(&self) {
        self.gate.holds.send_replace(false);
        self.gate.let_through.add_permits(1);
    }

    /// From now on this is wrong.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

/// Serves a connection until one of its ends has gone or it is cut, which is a reset for both.
async fn connection(mut node: TcpStream, store: SocketAddr, faults: watch::Receiver<Fault>, gate: Gate) {
    let mut is_cut = faults.clone();
    let Ok(mut store) = TcpStream::connect(store).await else { return };
    tokio::select! {
        // An error means that the proxy has ended.
        _ = is_cut.wait_for(|fault| *fault == Fault::Cut) => {
            let _ = node.set_zero_linger();
            let _ = store.set_zero_linger();
        }
        _ = hand_on(&mut node, &mut store, faults, gate) => {}
    }
}

async fn hand_on(
    node: &mut TcpStream,
    store: &mut TcpStream,
    mut faults: watch::Receiver<Fault>,
    gate: Gate,
) -> io::Result<()> {
    let (mut from_node, mut to_node) = node.split();
    let (mut from_store, mut to_store) = store.split();
    let (mut commands, mut answers) = (Vec::new(), Vec::new());
    // Commands that came through and are not yet answered: an error must not overtake an answer.
    let mut open = 0_u64;
    'turn: loop {
        let fault = *faults.borrow_and_update();
        if fault == Fault::Silent {
            if faults.changed().await.is_err() {
                return Ok(());
            }
            continue;
        }
        while fault != Fault::Unanswered
            && let Some(len) = whole(&answers)
        {
            let answer: Vec<u8> = answers.drain(..len).collect();
            let is_push = answer[0] == b'>';
            if is_push && fault == Fault::Deaf && answer.windows(9).any(|word| word == b"message\r\n") {
                continue;
            }
            open = open.saturating_sub(u64::from(!is_push));
            to_node.write_all(&answer).await?;
        }
        while let Some(len) = whole(&commands) {
            if let Fault::Error(text) = fault {
                if open > 0 {
                    break;
                }
                commands.drain(..len);
                to_node.write_all(format!("-{text}\r\n").as_bytes()).await?;
                continue;
            }
            if fault == Fault::Held {
                gate.holds.send_replace(true);
                tokio::select! {
                    permit = gate.let_through.acquire() => permit.map_err(io::Error::other)?.forget(),
                    _ = faults.changed() => {
                        gate.holds.send_replace(false);
                        continue 'turn;
                    }
                }
            }
            let command: Vec<u8> = commands.drain(..len).collect();
            // It is answered by a push.
            let subscribes = command.windows(11).take(24).any(|word| word.eq_ignore_ascii_case(b"subscribe\r\n"));
            open += u64::from(!subscribes);
            to_store.write_all(&command).await?;
        }
        let read = tokio::select! {
            changed = faults.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
            read = from_node.read_buf(&mut commands) => read?,
            read = from_store.read_buf(&mut answers), if fault != Fault::Unanswered => read?,
        };
        if read == 0 {
            return Ok(());
        }
        if let Fault::Late(time) = fault {
            sleep(time).await;
        }
    }
}

/// Length of the whole command or answer that `bytes` begin with, if it is there. What is none counts as one.
fn whole(bytes: &[u8]) -> Option<usize> {
    let kind = *bytes.first()?;
    if !b"+-:_,#($!=*~>%|".contains(&kind) {
        return Some(bytes.len());
    }
    let end = bytes.windows(2).position(|end| end == b"\r\n")?;
    let number = || str::from_utf8(&bytes[1..end]).ok()?.parse::<i64>().ok();
    let mut len = end + 2;
    match kind {
        // A text, unless there is none.
        b'$' | b'!' | b'=' => {
            if let Some(count) = number().and_then(|count| usize::try_from(count).ok()) {
                len += count + 2;
            }
        }
        b'*' | b'~' | b'>' | b'%' | b'|' => {
            let pairs = if matches!(kind, b'%' | b'|') { 2 } else { 1 };
            // Behind attributes comes what they are of.
            let items = number().unwrap_or(0).max(0) * pairs + i64::from(kind == b'|');
            for _ in 0..items {
                len += whole(bytes.get(len..)?)?;
            }
        }
        _ => {}
    }
    (len <= bytes.len()).then_some(len)
}

#[test]
fn the_proxy_knows_where_an_answer_ends() {
    for answer in [
        "+OK\r\n",
        "$-1\r\n",
        "$5\r\nhello\r\n",
        "*2\r\n$1\r\na\r\n:1\r\n",
        "*0\r\n",
        "%1\r\n+a\r\n*1\r\n_\r\n",
        "|1\r\n+ttl\r\n:9\r\n$1\r\na\r\n",
        ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\n\r\n\r\n",
    ] {
        for cut in 1..answer.len() {
            assert_eq!(whole(&answer.as_bytes()[..cut]), None, "{answer:?} before {cut}");
        }
        assert_eq!(whole(format!("{answer}+more\r\n").as_bytes()), Some(answer.len()), "{answer:?}");
    }
}
