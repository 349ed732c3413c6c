//! Responsive: whether the workers' threads still run what they are given. A watchdog asks this.
//!
//! Not here: turns that were slow, and are over (`worker/slow`).

use std::time::Duration;

use futures::future::join_all;
use tokio::{sync::oneshot, time::timeout};

use crate::server::handle::ServerHandle;

impl ServerHandle {
    /// Asks every worker for a sign of life. Returns the numbers of those that have given none `within` that time: a handler
    /// of one of their sessions blocks, or the worker has stopped. Empty means that all of them run.
    ///
    /// It passes no supervisor and no lock: a worker answers as soon as the turn that it is in has ended. Meant for the
    /// watchdog of a service manager, which is fed only while this is empty.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use actix_lines::{LineServer, Rot13};
    /// # #[actix::main]
    /// # async fn main() -> std::io::Result<()> {
    /// let server = LineServer::new(|_| Rot13).workers(2).bind("127.0.0.1:0")?.start()?;
    /// assert!(server.unresponsive(Duration::from_secs(20)).await.is_empty());
    /// # server.abort().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn unresponsive(&self, within: Duration) -> Vec<usize> {
        let signs = self.arbiters.iter().map(|arbiter| {
            let (alive, sign) = oneshot::channel();
            let is_asked = arbiter.spawn_fn(move || {
                // Nobody may wait for it any more.
                let _ = alive.send(());
            });
            timeout(within, async move { is_asked && sign.await.is_ok() })
        });
        let answers = join_all(signs).await;
        (answers.into_iter().enumerate()).filter(|(_, answer)| *answer != Ok(true)).map(|(worker, _)| worker).collect()
    }
}
