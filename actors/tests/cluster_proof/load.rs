//! Peers of nodes, on a thread of their own: sessions that stay, and typists, who want each line back as it was.
//!
//! A typist never stops: whatever is wrong with the store, its lines are answered. That is what it counts.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Handle,
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::support::PATIENCE;

/// What typists have done and seen.
#[derive(Debug, Default)]
pub(crate) struct Typed {
    pub(crate) lines: AtomicU64,
    longest: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl Typed {
    /// The longest wait for an answer.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_micros(self.longest.load(SeqCst))
    }

    fn fault(&self, what: String) {
        self.faults.lock().unwrap().push(what);
    }

    /// Panics with what was wrong.
    #[track_caller]
    pub(crate) fn assert_exact(&self) {
        let faults = self.faults.lock().unwrap();
        assert!(faults.is_empty(), "{} of the typists' lines were not answered as they are: {faults:#?}", faults.len());
    }
}

/// Peers of one node.
pub(crate) struct Peers {
    runtime: Handle,
    node: SocketAddr,
    /// Sessions that stay, each with its address as the node sees it.
    pub(crate) held: Vec<(SocketAddr, TcpStream)>,
    pub(crate) typed: Arc<Typed>,
    typists: Vec<(SocketAddr, JoinHandle<()>)>,
    stop: watch::Sender<bool>,
    /// Lines of each typist.
    progress: Vec<Arc<AtomicU64>>,
}

/// A thread for all peers, so that nothing that a test does makes them late.
pub(crate) struct Load {
    runtime: Handle,
    _end: oneshot::Sender<()>,
}

impl Load {
    pub(crate) fn start() -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (end, has_ended) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            sender.send(runtime.handle().clone()).unwrap();
            let _ = runtime.block_on(has_ended);
        });
        Self { runtime: receiver.recv().unwrap(), _end: end }
    }

    /// Connects peers, of whom some type.
    pub(crate) async fn peers(&self, node: SocketAddr, sessions: usize, typists: usize) -> Peers {
        let mut peers = Peers {
            runtime: self.runtime.clone(),
            node,
            held: Vec::new(),
            typed: Arc::default(),
            typists: Vec::new(),
            stop: watch::Sender::new(false),
            progress: Vec::new(),
        };
        peers.add(sessions.saturating_sub(typists)).await;
        for _ in 0..typists {
            peers.add_typist().await;
        }
        peers
    }
}

impl Peers {
    /// Addresses of all peers.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let held = self.held.iter().map(|(address, _)| *address);
        held.chain(self.typists.iter().map(|(address, _)| *address))
    }

    /// Connects more peers, who say nothing.
    pub(crate) async fn add(&mut self, count: usize) {
        let node = self.node;
        let task = self.runtime.spawn(async move {
            let mut held = Vec::with_capacity(count);
            for _ in 0..count {
                let stream = TcpStream::connect(node).await.expect("a connection");
                held.push((stream.local_addr().expect("an address"), stream));
            }
            held
        });
        self.held.extend(task.await.unwrap());
    }

    /// Ends some of the sessions that stay.
    pub(crate) fn remove(&mut self, count: usize) {
        self.held.truncate(self.held.len().saturating_sub(count));
    }

    async fn add_typist(&mut self) {
        let (node, typed, mut stop) = (self.node, self.typed.clone(), self.stop.subscribe());
        let progress = Arc::new(AtomicU64::new(0));
        let (own, number) = (progress.clone(), self.typists.len());
        let (sender, address) = oneshot::channel();
        let task = self.runtime.spawn(async move {
            let mut stream = TcpStream::connect(node).await.expect("a connection");
            sender.send(stream.local_addr().expect("an address")).expect("it waits");
            let mut answer = Vec::new();
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            for count in 0_u64.. {
                let line = format!("typist {number} line {count} {}\r\n", "x".repeat((count % 97) as usize));
                let begin = Instant::now();
                answer.resize(line.len(), 0);
                let exchange = async {
                    stream.write_all(line.as_bytes()).await?;
                    stream.read_exact(&mut answer).await
                };
                let result = tokio::select! {
                    result = tokio::time::timeout(PATIENCE, exchange) => result,
                    _ = stop.wait_for(|stop| *stop) => return,
                };
                match result {
                    Ok(Ok(_)) if answer == line.as_bytes() => {}
                    other => {
                        typed.fault(format!(
                            "{line:?} of a typist of {node}: {other:?} {:?}",
                            String::from_utf8_lossy(&answer)
                        ));
                        return;
                    }
                }
                typed.longest.fetch_max(begin.elapsed().as_micros() as u64, SeqCst);
                typed.lines.fetch_add(1, SeqCst);
                own.fetch_add(1, SeqCst);
                tokio::select! {
                    _ = pace.tick() => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            }
        });
        self.typists.push((address.await.expect("it connects"), task));
        self.progress.push(progress);
    }

    /// Lines that typists have to have been answered when each has been answered so many more.
    pub(crate) fn goals(&self, lines: u64) -> Vec<(Arc<AtomicU64>, u64)> {
        self.progress.iter().map(|progress| (progress.clone(), progress.load(SeqCst) + lines)).collect()
    }

    /// Waits until each typist has been answered so many lines more.
    pub(crate) async fn type_on(&self, lines: u64) {
        self.reach(self.goals(lines)).await;
    }

    /// Waits until typists have been answered as many lines.
    pub(crate) async fn reach(&self, goals: Vec<(Arc<AtomicU64>, u64)>) {
        for (progress, goal) in goals {
            crate::support::eventually("typists to be answered", async || {
                self.typed.assert_exact();
                progress.load(SeqCst) >= goal
            })
            .await;
        }
    }

    /// Has the typists stop, before their node does something to them.
    pub(crate) async fn stop_typing(&mut self) {
        self.stop.send_replace(true);
        for (_, typist) in self.typists.drain(..) {
            typist.await.unwrap();
        }
        self.progress.clear();
        self.typed.assert_exact();
    }
}

/// Connects as another peer. Returns the connection if it becomes a session.
pub(crate) async fn try_session(node: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(node).await.ok()?;
    let line = b"is there a place?\n";
    stream.write_all(line).await.ok()?;
    let mut answer = [0; 18];
    stream.read_exact(&mut answer).await.ok()?;
    (answer == *line).then_some(stream)
}
