//! Companion: what serves the operators of a server, and ends after it.
//!
//! Not here: consoles (`console`), pages (`http`).

use tokio::sync::watch;

use crate::control::ways::Finished;

/// Delays [`ServerHandle::wait`](crate::ServerHandle::wait) until it is dropped: for an interface of operators that still has to
/// send its last answers when the server has ended, such as a console. [`ServerHandle::companion`](crate::ServerHandle::companion) makes one.
#[derive(Debug)]
#[must_use = "it delays nothing once it is dropped"]
pub struct Companion {
    count: watch::Sender<usize>,
    finished: watch::Receiver<Option<Finished>>,
}

impl Companion {
    pub(super) fn new(count: watch::Sender<usize>, finished: watch::Receiver<Option<Finished>>) -> Self {
        count.send_modify(|count| *count += 1);
        Self { count, finished }
    }

    /// Waits until the server has ended. It does not wait for companions, or they would wait for each other.
    pub async fn server_ended(&mut self) {
        // Without an order its system has ended.
        let _ = self.finished.wait_for(Option::is_some).await;
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
    }
}
