//! Connection: a session's number, addresses and listener.
//!
//! Not here: the report of its end (`report`).

use std::{
    any::Any,
    fmt,
    num::{NonZeroU16, ParseIntError},
    str::FromStr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::address::Address;

/// A session's number: unique in the process, counted from 1 in the order of admission.
///
/// Displayed as `#7`; parsed with or without the `#`, as an operator types it.
///
/// ```
/// use actix_lines::SessionId;
///
/// let id: SessionId = "#7".parse()?;
/// assert_eq!(id, "7".parse()?);
/// assert_eq!(id.to_string(), "#7");
/// assert!("seven".parse::<SessionId>().is_err());
/// # Ok::<(), std::num::ParseIntError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u64);

/// The last number that was given to a session.
static LAST: AtomicU64 = AtomicU64::new(0);

impl SessionId {
    pub(crate) fn next() -> Self {
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Returns the id with this number, as another node tells it.
    #[cfg(feature = "cluster")]
    pub(crate) fn of(number: u64) -> Self {
        Self(number)
    }

    /// Returns the last number that was given.
    pub(crate) fn last() -> Self {
        Self(LAST.load(Ordering::Relaxed))
    }

    /// Returns the number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Serialized as its number.
#[cfg(feature = "serde")]
impl serde::Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl FromStr for SessionId {
    type Err = ParseIntError;
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.strip_prefix('#').unwrap_or(text).parse().map(Self)
    }
}

/// Identifies a listener: its number, counted from 0 in the order in which listeners were added, and its name, if it
/// has one.
///
/// Small and `Copy`: the process keeps the names of all listeners it ever had, at most 65,535. Two ids with the same
/// number and name are equal, even if they are of different servers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId {
    /// One more than the number, so that `Option` costs nothing: each session has one.
    place: NonZeroU16,
    /// Its place among the names, from 1; 0 is none.
    name: u16,
}

/// Names of listeners. Not read on any path of a connection.
static NAMES: RwLock<Vec<&'static str>> = RwLock::new(Vec::new());

impl ListenerId {
    pub(crate) fn new(number: u16, name: Option<&str>) -> Self {
        let name = name.map_or(0, |name| {
            let mut names = NAMES.write().unwrap_or_else(PoisonError::into_inner);
            let known = names.iter().position(|known| *known == name).unwrap_or(names.len());
            let nth = u16::try_from(known + 1).unwrap_or(0);
            if nth > 0 && known == names.len() {
                names.push(Box::leak(name.into()));
            }
            nth
        });
        Self { place: NonZeroU16::MIN.saturating_add(number), name }
    }

    /// Returns the number.
    #[must_use]
    pub fn get(self) -> usize {
        usize::from(self.place.get()) - 1
    }

    /// Returns the name set by [`Listener::name`](crate::Listener::name), if there is one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        let names = NAMES.read().unwrap_or_else(PoisonError::into_inner);
        names.get(usize::from(self.name).checked_sub(1)?).copied()
    }
}

/// Writes the name; without one the number, as `listener 0`.
impl fmt::Display for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "listener {}", self.get()),
        }
    }
}

impl fmt::Debug for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ListenerId").field(&self.get()).field(&self.name()).finish()
    }
}

/// Serialized as a text: its name; without one its number, as `0`.
#[cfg(feature = "serde")]
impl serde::Serialize for ListenerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.name() {
            Some(name) => serializer.serialize_str(name),
            None => serializer.collect_str(&self.get()),
        }
    }
}

/// The address of the real peer, as a filter has set it.
struct Peer(Address);

/// The address of our end, as a filter has set it.
struct Local(Address);

/// The address of the socket's peer, where the real one is another.
struct Via(Address);

/// The connection is no client's.
struct Probe;

/// Facts that filters have found out about a connection, each in a type of its own: a handshake, a header.
#[derive(Clone, Default)]
pub struct ConnectionInfo(Vec<Arc<dyn Any + Send + Sync>>);

impl ConnectionInfo {
    /// Adds a value. Of two with the same type the later is found.
    pub fn insert<T: Any + Send + Sync>(&mut self, value: T) {
        self.0.push(Arc::new(value));
    }

    /// Returns the value of this type, if there is one.
    #[must_use]
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.0.iter().rev().find_map(|value| value.downcast_ref())
    }

    /// Sets the address of the real peer, where the socket's peer is only on the way to it, as a proxy is. From then on it is
    /// the connection's [`peer_addr`](Connection::peer_addr), in limits, lists, logs and reports, too: limits of its source
    /// are checked anew, and may [refuse](crate::CloseReason::Refused) the connection. The socket's peer is
    /// [`via`](Connection::via).
    pub fn set_peer(&mut self, peer: impl Into<Address>) {
        self.insert(Peer(peer.into()));
    }

    /// Sets the address that the real peer has connected to: the connection's [`local_addr`](Connection::local_addr).
    pub fn set_local(&mut self, local: impl Into<Address>) {
        self.insert(Local(local.into()));
    }

    /// Says that the connection is a probe of a proxy or a monitor, or of a peer that is not known: limits of sources do not
    /// hold for it, and if its peer closes it before a line came it is reported as [`Probe`](crate::CloseReason::Probe).
    pub fn set_probe(&mut self) {
        self.insert(Probe);
    }

    pub(crate) fn peer(&self) -> Option<&Address> {
        self.get().map(|Peer(address)| address)
    }

    pub(crate) fn local(&self) -> Option<&Address> {
        self.get().map(|Local(address)| address)
    }

    pub(crate) fn set_via(&mut self, via: Address) {
        self.insert(Via(via));
    }

    pub(crate) fn is_probe(&self) -> bool {
        self.get::<Probe>().is_some()
    }

    /// The rest of it, for whoever has the addresses elsewhere, in no more memory than it needs.
    pub(crate) fn without_addresses(mut self) -> Self {
        self.0.retain(|value| !value.is::<Peer>() && !value.is::<Local>());
        self.0.shrink_to_fit();
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        self.0.extend(other.0.iter().cloned());
    }
}

impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values", self.0.len())
    }
}

/// A session's connection as the server knows it: number, addresses, listener, and what its filters have found out.
///
/// Two are equal if they have the same number, addresses and listener.
#[derive(Clone, Debug)]
pub struct Connection {
    pub(crate) id: SessionId,
    pub(crate) peer: Address,
    pub(crate) local: Address,
    pub(crate) listener: Option<ListenerId>,
    pub(crate) info: ConnectionInfo,
}

impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        let Self { id, peer, local, listener, info: _ } = self;
        (id, peer, local, listener) == (&other.id, &other.peer, &other.local, &other.listener)
    }
}

impl Eq for Connection {}

/// Serialized as `id`, `peer`, `local` and `listener`.
#[cfg(feature = "serde")]
impl serde::Serialize for Connection {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let mut fields = serializer.serialize_struct("Connection", 4)?;
        fields.serialize_field("id", &self.id)?;
        fields.serialize_field("peer", &self.peer)?;
        fields.serialize_field("local", &self.local)?;
        fields.serialize_field("listener", &self.listener)?;
        fields.end()
    }
}

impl Connection {
    pub(crate) fn new(id: SessionId, peer: Address, local: Address, listener: Option<ListenerId>) -> Self {
        Self { id, peer, local, listener, info: ConnectionInfo::default() }
    }

    /// Makes a connection between two addresses, with a new number and without a listener: for tests of code that takes
    /// a `Connection`.
    ///
    /// ```
    /// use actix_lines::{Address, Connection};
    ///
    /// let greeting = |connection: &Connection| format!("welcome, {}\n", connection.peer_addr());
    /// let peer = std::net::SocketAddr::from(([192, 0, 2, 7], 1024));
    /// assert_eq!(greeting(&Connection::between(peer, Address::Memory)), "welcome, 192.0.2.7:1024\n");
    /// ```
    pub fn between(peer: impl Into<Address>, local: impl Into<Address>) -> Self {
        Self::new(SessionId::next(), peer.into(), local.into(), None)
    }

    /// Returns the session's number.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Returns the peer's address.
    #[must_use]
    pub fn peer_addr(&self) -> &Address {
        &self.peer
    }

    /// Returns the address of our end.
    #[must_use]
    pub fn local_addr(&self) -> &Address {
        &self.local
    }

    /// Returns the address of the socket's peer, where [`peer_addr`](Self::peer_addr) is another one, behind it: that of a
    /// proxy. `None` for a peer that has connected by itself.
    #[must_use]
    pub fn via(&self) -> Option<&Address> {
        self.info.get().map(|Via(address)| address)
    }

    /// Has the addresses that filters have set.
    pub(crate) fn adopt_addresses(&mut self) {
        if let Some(local) = self.info.local().cloned() {
            self.local = local;
        }
        if let Some(peer) = self.info.peer().filter(|peer| **peer != self.peer).cloned() {
            let via = std::mem::replace(&mut self.peer, peer);
            if self.via().is_none() {
                self.info.set_via(via);
            }
        }
    }

    /// Returns the listener that accepted it; `None` for a session started without one.
    #[must_use]
    pub fn listener(&self) -> Option<ListenerId> {
        self.listener
    }

    /// Returns what one of its [filters](crate::filter::Filter::learned) has found out, by its type. Complete when the
    /// session's actor is made.
    #[must_use]
    pub fn info<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.info.get()
    }

    /// Adds a value of a filter, for tests of code that asks for it.
    #[must_use]
    pub fn with_info<T: Any + Send + Sync>(mut self, value: T) -> Self {
        self.info.insert(value);
        self
    }
}
