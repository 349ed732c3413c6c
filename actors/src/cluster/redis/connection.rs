//! Connection: a way to the server, by TCP, TLS or a unix socket, and to the one that Sentinels call the master.
//!
//! One task drives it and ends with it. A host that has vanished is noticed by the kernel within seconds.
//! Not here: when to connect (`link`), who listens (`subscription`).

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use redis::{
    AsyncConnectionConfig, Cmd, ProtocolVersion, RedisConnectionInfo, Value,
    aio::{AsyncPushSender, MultiplexedConnection},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::AbortHandle,
};

use crate::cluster::{
    redis::{
        answer::{self, Then},
        url::{Host, Place, Secret, Target},
    },
    store::StoreError,
};

/// Most calls that wait to be written.
const QUEUE: usize = 1024;
/// A peer that acknowledges nothing for as long is gone.
const VANISHED_AFTER: Duration = Duration::from_secs(6);

/// All that it takes to connect.
pub(super) struct Dialer {
    pub(super) place: Place,
    /// The user that Sentinels know, which is another than the server's.
    pub(super) sentinel_user: Option<String>,
    pub(super) passwords: Mutex<Passwords>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<crate::wire::tls::client::TlsClient>,
    pub(super) within: Duration,
}

/// Most former passwords that are still kept out of texts.
const MOST_FORMER: usize = 8;

/// The passwords that connections are made with from now on.
#[derive(Default)]
pub(super) struct Passwords {
    pub(super) server: Option<Secret>,
    pub(super) sentinel: Option<Secret>,
    /// A server that was told them may yet repeat them.
    former: Vec<Secret>,
}

impl Passwords {
    pub(super) fn new(server: Option<Secret>, sentinel: Option<Secret>) -> Self {
        Self { server, sentinel, former: Vec::new() }
    }

    /// Replaces one of them. Returns true if it was another.
    fn replace(&mut self, which: fn(&mut Self) -> &mut Option<Secret>, by: Secret) -> bool {
        if which(self).as_ref() == Some(&by) {
            return false;
        }
        if let Some(former) = which(self).replace(by) {
            self.former.truncate(MOST_FORMER - 1);
            self.former.insert(0, former);
        }
        true
    }

    /// All that no text may have.
    fn all(&self) -> Vec<Secret> {
        self.server.iter().chain(&self.sentinel).chain(&self.former).cloned().collect()
    }
}

/// An open connection. Dropped it is closed.
pub(super) struct Connection {
    pub(super) redis: MultiplexedConnection,
    /// The server; `None` if it is the only one.
    pub(super) server: Option<Host>,
    /// The task without which nothing comes.
    pub(super) driver: AbortHandle,
    /// A call was answered here.
    pub(super) is_proven: AtomicBool,
}

impl Connection {
    pub(super) fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }

    /// Closes it, also if calls still wait for answers.
    pub(super) fn close(&self) {
        self.driver.abort();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Dialer {
    /// Connects to the server, or to the master. `to` gets what it pushes.
    pub(super) async fn connect(&self, to: Option<Arc<dyn AsyncPushSender>>) -> Result<Connection, StoreError> {
        let connection = tokio::time::timeout(self.within, async {
            match &self.place.target {
                Target::Tcp(host) => self.open(Self::tcp(host), Some(host), None, to).await,
                Target::Unix(path) => self.open(unix(path), None, None, to).await,
                Target::Sentinel { sentinels, master } => self.connect_to_master(sentinels, master, to).await,
            }
        });
        let result = connection.await.unwrap_or_else(|_| Err(self.not_connected(self.within)));
        result.map_err(|error| answer::cleaned(error, &self.secrets()))
    }

    /// Returns the error of a server that lets no connection be made within a time.
    pub(super) fn not_connected(&self, within: Duration) -> StoreError {
        // A server without TLS takes the first bytes for a command that is not complete.
        let advice = if self.place.is_tls { ": check that it speaks TLS at this port" } else { "" };
        answer::lost(format!("no connection to {} within {within:?}{advice}", self.place))
    }

    /// Returns the error of a server that closes a connection before a call.
    pub(super) fn hung_up(&self) -> StoreError {
        answer::lost(format!("{} greets and hangs up: check what is between, such as a proxy", self.place))
    }

    fn passwords(&self) -> MutexGuard<'_, Passwords> {
        self.passwords.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the password of the server for the connections that are made from now on. Returns true if it was another.
    pub(super) fn set_password(&self, password: Secret) -> bool {
        self.passwords().replace(|passwords| &mut passwords.server, password)
    }

    /// The same for that of Sentinels.
    pub(super) fn set_sentinel_password(&self, password: Secret) -> bool {
        self.passwords().replace(|passwords| &mut passwords.sentinel, password)
    }

    pub(super) fn secrets(&self) -> Vec<Secret> {
        self.passwords().all()
    }

    /// Asks all Sentinels at once; the first one wins whose master says that it is one.
    async fn connect_to_master(
        &self,
        sentinels: &[Host],
        master: &str,
        to: Option<Arc<dyn AsyncPushSender>>,
    ) -> Result<Connection, StoreError> {
        let mut answers: FuturesUnordered<_> = sentinels.iter().map(|host| self.ask_sentinel(host, master)).collect();
        let mut tried: Vec<Host> = Vec::new();
        let mut failed = None;
        while let Some(answer) = answers.next().await {
            let result = match answer {
                Ok(host) if tried.contains(&host) => continue,
                Ok(host) => {
                    tried.push(host.clone());
                    self.connect_to_proven_master(host, to.clone()).await
                }
                Err(error) => Err(error),
            };
            match result {
                Ok(connection) => return Ok(connection),
                // What a server says is worth more than that a Sentinel is away.
                Err(error) if failed.is_none() || !matches!(error, StoreError::Lost { .. }) => failed = Some(error),
                Err(_) => {}
            }
        }
        Err(failed.unwrap_or_else(|| answer::lost("there is no Sentinel".to_owned())))
    }

    async fn connect_to_proven_master(
        &self,
        host: Host,
        to: Option<Arc<dyn AsyncPushSender>>,
    ) -> Result<Connection, StoreError> {
        let mut connection = self.open(Self::tcp(&host), Some(&host), Some(host.clone()), to).await?;
        let role = ask(&mut connection.redis, &redis::cmd("ROLE")).await.map_err(|(error, _)| error)?;
        if answer::is_master(role)? {
            return Ok(connection);
        }
        Err(answer::lost(format!("{host} is no master yet")))
    }

    /// Returns true if a Sentinel calls another server the master.
    pub(super) async fn is_superseded(&self, server: &Host) -> bool {
        let Target::Sentinel { sentinels, master } = &self.place.target else { return false };
        let answers: FuturesUnordered<_> = sentinels.iter().map(|host| self.ask_sentinel(host, master)).collect();
        let others = answers.any(|answer| async move { answer.is_ok_and(|host| host != *server) });
        tokio::time::timeout(self.within, others).await.unwrap_or(false)
    }

    async fn ask_sentinel(&self, sentinel: &Host, master: &str) -> Result<Host, StoreError> {
        let mut info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        if let Some(username) = &self.sentinel_user {
            info = info.set_username(username);
        }
        if let Some(password) = &self.passwords().sentinel {
            info = info.set_password(password.as_str());
        }
        let stream = self.wrapped(Self::tcp(sentinel), Some(sentinel));
        let mut connection = driven(&info, stream.await, sentinel, None, None).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let answered = ask(&mut connection.redis, &question).await.map_err(|(error, _)| error)?;
        let (name, port) = answer::master_address(answered)?.ok_or_else(|| {
            answer::refused(format!("Sentinel {sentinel} knows no master {master:?}; check the name in the URL"))
        })?;
        Ok(Host { name, port })
    }

    async fn open(
        &self,
        stream: impl Future<Output = io::Result<Box<dyn Stream>>>,
        host: Option<&Host>,
        server: Option<Host>,
        to: Option<Arc<dyn AsyncPushSender>>,
    ) -> Result<Connection, StoreError> {
        let place = &self.place;
        let mut info = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name()
            .set_db(place.database.into());
        if let Some(username) = &place.username {
            info = info.set_username(username);
        }
        if let Some(password) = &self.passwords().server {
            info = info.set_password(password.as_str());
        }
        let stream = self.wrapped(stream, host).await;
        match (&server, host) {
            (Some(server), _) => driven(&info, stream, server, Some(server.clone()), to).await,
            (None, Some(host)) => driven(&info, stream, host, None, to).await,
            (None, None) => driven(&info, stream, place, None, to).await,
        }
    }

    async fn tcp(host: &Host) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((host.name.as_str(), host.port)).await?;
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        let second = Duration::from_secs(1);
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(3 * second).with_interval(second).with_retries(3))?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(VANISHED_AFTER))?;
        Ok(Box::new(stream))
    }

    #[cfg(feature = "tls")]
    async fn wrapped(
        &self,
        stream: impl Future<Output = io::Result<Box<dyn Stream>>>,
        host: Option<&Host>,
    ) -> io::Result<Box<dyn Stream>> {
        let stream = stream.await?;
        let (Some(tls), Some(host)) = (&self.tls, host) else { return Ok(stream) };
        let name = tls.name_for_host(&host.name)?;
        let connector = tokio_rustls::TlsConnector::from(tls.config());
        Ok(Box::new(connector.connect(name, stream).await?))
    }

    #[cfg(not(feature = "tls"))]
    async fn wrapped(
        &self,
        stream: impl Future<Output = io::Result<Box<dyn Stream>>>,
        _host: Option<&Host>,
    ) -> io::Result<Box<dyn Stream>> {
        stream.await
    }
}

async fn unix(path: &Path) -> io::Result<Box<dyn Stream>> {
    Ok(Box::new(UnixStream::connect(path).await?))
}

/// Greets the server, and has a task drive the connection.
async fn driven(
    info: &RedisConnectionInfo,
    stream: io::Result<Box<dyn Stream>>,
    place: &(impl std::fmt::Display + ?Sized),
    server: Option<Host>,
    to: Option<Arc<dyn AsyncPushSender>>,
) -> Result<Connection, StoreError> {
    let stream = stream.map_err(|error| answer::lost(format!("{place}: {error}")))?;
    let mut config = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(QUEUE);
    if let Some(to) = to {
        config = config.set_push_sender(to);
    }
    let (redis, driver) = MultiplexedConnection::new_with_config(info, stream, config).await.map_err(|error| {
        match answer::connection_error(&error).0 {
            StoreError::Lost { reason } => answer::lost(format!("{place}: {reason}")),
            StoreError::Refused { reason } => answer::refused(format!("{place}: {reason}")),
            error => error,
        }
    })?;
    let driver = tokio::spawn(driver).abort_handle();
    Ok(Connection { redis, server, driver, is_proven: AtomicBool::new(false) })
}

/// Sends a command and returns the answer. Not bounded in time.
pub(super) async fn ask(redis: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, (StoreError, Then)> {
    match redis.send_packed_command(command).await {
        Ok(value) => answer::no_error(value),
        Err(error) => Err(answer::connection_error(&error)),
    }
}
