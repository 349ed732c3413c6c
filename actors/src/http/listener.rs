//! Listener: serves the routes without an application of one's own.
//!
//! Rule: two threads of its own, accepting and answering, and bounds for all that a client can do.
//! Not here: the routes (`routes`).

use std::{
    any::Any, fmt, future::poll_fn, io, net::TcpListener, os::unix::net::UnixListener, pin::Pin, sync::Arc, task::Poll,
    time::Duration,
};

use actix_web::{
    App, HttpServer,
    dev::{Extensions, ServerHandle as HttpHandle},
    http::KeepAlive,
    rt::net::{TcpStream, UnixStream},
    web,
};

use crate::{
    address::Address,
    error::BindError,
    http::{
        admin::{Admin, Shared},
        routes,
    },
    limits::ListenerLimits,
    listen::{
        listener::{BoundListener, Listener},
        unix::BoundPath,
    },
    wire::{
        socket::unix_peer,
        tcp::{SocketOptions, UserTimeout},
    },
};

const BACKLOG: u32 = 128;

/// Time that a request's head may take.
const HEAD: Duration = Duration::from_secs(5);

/// Time after which a client is lost that takes or acknowledges nothing of what it asked for.
const UNREAD: Duration = Duration::from_secs(30);

/// The longest wait for viewers to be told of an end.
const GOODBYE: Duration = Duration::from_millis(500);

/// A socket for [`Admin::serve`], bound before the server of the sessions starts, or after it.
#[derive(Debug)]
pub struct HttpListener(BoundListener);

impl HttpListener {
    /// Binds a listener: TCP, a unix socket with its mode, owner and group, or a socket that was handed over.
    ///
    /// # Errors
    /// Returns a [`BindError`] if it cannot be bound, and [`BindError::Unsuited`] if it has settings of line sessions:
    /// framing, limits, lists, filters.
    pub fn bind(listener: impl Into<Listener>) -> Result<Self, BindError> {
        let options = SocketOptions { user_timeout: UserTimeout::After(UNREAD), ..SocketOptions::default() };
        let bound = listener.into().bind(&mut [], BACKLOG, &options)?;
        let own = &bound.own;
        let settings = [
            ("framing", own.framing.is_some()),
            ("limits", own.limits.is_some()),
            ("a limit or list of its own", own.admission != ListenerLimits::default()),
            ("a filter", !own.filters.is_empty()),
        ];
        match settings.into_iter().find(|(_, is_set)| *is_set) {
            Some((setting, _)) => Err(BindError::Unsuited { setting, address: format!("{} for HTTP", bound.address) }),
            None => Ok(Self(bound)),
        }
    }

    /// Returns the address that it is bound to, with its real port.
    #[must_use]
    pub fn local_addr(&self) -> &Address {
        &self.0.address
    }
}

/// Routes that are being served. Dropping it does not end that.
#[must_use = "it serves until it is stopped, or the system is"]
pub struct Serving {
    handle: HttpHandle,
    shared: Arc<Shared>,
    address: Address,
    /// Removed when it is dropped.
    path: Option<BoundPath>,
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Serving {
    /// Returns the address that it listens on, with its real port.
    #[must_use]
    pub fn local_addr(&self) -> &Address {
        &self.address
    }

    /// Ends it. Viewers of a server that has ended have half a second to hear of that; no client is waited for otherwise.
    pub async fn stop(self) {
        let told = async {
            while self.shared.hub.watching() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(GOODBYE, told).await;
        self.handle.stop(false).await;
        drop(self.path);
    }
}

impl Admin {
    /// Serves the routes at the root of a server of their own: with one thread to accept and one to answer, at most
    /// [`MAX_CONNECTIONS`](Self::MAX_CONNECTIONS), one request each, 5 s for the head of a request. It handles no signals.
    ///
    /// It goes on until [`Serving::stop`], also when the server of the sessions has ended.
    ///
    /// # Errors
    /// Returns an error if its threads cannot be started.
    ///
    /// # Panics
    /// Panics outside of an actix system.
    pub async fn serve(self, listener: HttpListener) -> io::Result<Serving> {
        let BoundListener { socket, address, path, .. } = listener.0;
        let shared = Arc::clone(&self.shared);
        let app = move || App::new().configure(self.routes()).default_service(web::to(routes::not_found));
        let http = HttpServer::new(app)
            .workers(1)
            .worker_max_blocking_threads(1)
            .max_connections(Self::MAX_CONNECTIONS)
            // A request for each connection: there is no client that comes often, and none that is idle.
            .keep_alive(KeepAlive::Disabled)
            .client_request_timeout(HEAD)
            .client_disconnect_timeout(Duration::from_secs(1))
            .shutdown_timeout(1)
            .disable_signals()
            .on_connect(note_peer);
        let http = match address.unix() {
            Some(_) => http.listen_uds(UnixListener::from(socket))?,
            None => http.listen(TcpListener::from(socket))?,
        };
        let mut running = http.run();
        let handle = running.handle();
        // Its threads start now, or never.
        if let Poll::Ready(ended) = poll_fn(|cx| Poll::Ready(Pin::new(&mut running).poll(cx))).await {
            ended?;
        }
        let shown = address.to_string();
        actix_rt::spawn(async move {
            if let Err(error) = running.await {
                log::error!("http at {shown} has ended: {error}");
            }
        });
        Ok(Serving { handle, shared, address, path })
    }
}

/// Keeps who a peer is, which a request over a unix socket does not know.
fn note_peer(connection: &dyn Any, data: &mut Extensions) {
    if let Some(stream) = connection.downcast_ref::<UnixStream>() {
        data.insert(unix_peer(stream));
    } else if let Some(peer) = connection.downcast_ref::<TcpStream>().and_then(|stream| stream.peer_addr().ok()) {
        data.insert(Address::from(peer));
    }
}
