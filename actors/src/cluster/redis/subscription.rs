//! Subscription: a connection of its own on which the server pushes what is published.
//!
//! It ends with its connection, and when calls go to another server: what is published there would not arrive here.
//! Not here: the connection (`connection`), who opens it anew (`hub`).

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use redis::{PushInfo, PushKind, Value, aio::SendError};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::AbortHandle,
    time::timeout,
};

use crate::cluster::{
    redis::{answer, connection::Connection, link::Link},
    store::{Message, StoreAnswer, StoreError, Subscription},
};

/// An open subscription.
pub(super) struct Subscribed {
    link: Arc<Link>,
    connection: Arc<Connection>,
    channels: Arc<Channels>,
    /// Ends the connection when the master is another.
    follower: AbortHandle,
}

/// The names of channels, which messages share, and what was lost of them.
struct Channels {
    prefix: String,
    names: Mutex<HashSet<Arc<str>>>,
    /// Messages that there was no room for.
    dropped: AtomicU64,
}

impl Channels {
    fn lock(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full<'a>(&'a self, channels: &'a [String]) -> impl Iterator<Item = String> + 'a {
        channels.iter().map(|channel| format!("{}{channel}", self.prefix))
    }

    /// Returns a message of a channel that is still one of these.
    fn message(&self, data: Vec<Value>) -> Option<Message> {
        let Ok([Value::BulkString(channel), Value::BulkString(bytes)]) = <[Value; 2]>::try_from(data) else {
            return None;
        };
        let name = std::str::from_utf8(&channel).ok()?.strip_prefix(&self.prefix)?;
        let channel = self.lock().get(name)?.clone();
        Some(Message { channel, bytes: Bytes::from(bytes) })
    }
}

impl Subscribed {
    /// Opens a subscription without channels. Bounded in time.
    pub(super) async fn open(link: Arc<Link>, prefix: String, to: mpsc::Sender<Message>) -> Result<Self, StoreError> {
        let channels = Arc::new(Channels { prefix, names: Mutex::default(), dropped: AtomicU64::new(0) });
        let names = channels.clone();
        let driver = Arc::new(OnceLock::<AbortHandle>::new());
        let own = driver.clone();
        // The connection's task drops it when the connection ends.
        let push = move |info: PushInfo| -> Result<(), SendError> {
            if info.kind == PushKind::Message
                && let Some(message) = names.message(info.data)
            {
                match to.try_send(message) {
                    Ok(()) => {}
                    // It is lost: nobody waits here.
                    Err(TrySendError::Full(_)) => {
                        names.dropped.fetch_add(1, Relaxed);
                    }
                    Err(TrySendError::Closed(_)) => {
                        if let Some(driver) = own.get() {
                            driver.abort();
                        }
                    }
                }
            }
            Ok(())
        };
        let mut master = link.master();
        let connection = Arc::new(link.dialer.connect(Some(Arc::new(push))).await?);
        let _ = driver.set(connection.driver.clone());
        let followed = connection.clone();
        let follower = tokio::spawn(async move {
            let is_other = |master: &Option<_>| master.is_some() && *master != followed.server;
            if master.wait_for(is_other).await.is_ok() {
                followed.close();
            }
        })
        .abort_handle();
        Ok(Self { link, connection, channels, follower })
    }

    async fn bounded(&self, call: impl Future<Output = redis::RedisResult<()>>) -> Result<(), StoreError> {
        let after: Duration = self.link.within;
        match timeout(after, call).await {
            Err(_) => Err(StoreError::Slow { after }),
            Ok(result) => result.map_err(|error| {
                let (error, _) = answer::connection_error(&error);
                answer::cleaned(error, &self.link.dialer.secrets())
            }),
        }
    }
}

impl Subscription for Subscribed {
    fn add<'a>(&'a mut self, channels: &'a [String]) -> StoreAnswer<'a, ()> {
        Box::pin(async move {
            if channels.is_empty() {
                return Ok(());
            }
            // Before the server knows them: no message is to come too early.
            self.channels.lock().extend(channels.iter().map(|channel| Arc::from(channel.as_str())));
            let mut redis = self.connection.redis.clone();
            let names: Vec<_> = self.channels.full(channels).collect();
            self.bounded(redis.subscribe(names)).await
        })
    }

    fn remove<'a>(&'a mut self, channels: &'a [String]) -> StoreAnswer<'a, ()> {
        Box::pin(async move {
            if channels.is_empty() {
                return Ok(());
            }
            let mut redis = self.connection.redis.clone();
            let names: Vec<_> = self.channels.full(channels).collect();
            self.bounded(redis.unsubscribe(names)).await?;
            let mut known = self.channels.lock();
            channels.iter().for_each(|channel| {
                known.remove(channel.as_str());
            });
            Ok(())
        })
    }

    fn dropped(&self) -> u64 {
        self.channels.dropped.load(Relaxed)
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.follower.abort();
        self.connection.close();
    }
}

impl fmt::Debug for Subscribed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.channels.lock().len();
        f.debug_struct("Subscribed").field("channels", &count).finish_non_exhaustive()
    }
}
