//! Listeners: those that run, by name, and what differs from them in a file that is read again.
//!
//! Rule: a listener is its name; one of `--listen` is its address. What differs is found without touching anything.
//! Not here: the tables of the file (`settings/listener`), files of certificates (`certificates`).

use std::{
    fmt::Write,
    io,
    net::{SocketAddr, ToSocketAddrs},
    time::SystemTime,
};

use actix_lines::{BindError, ListenAddress, Listener, ListenerId, ServerHandle, proxy::Proxy, telnet::Telnet};

use crate::{
    certificates::Certificates,
    service,
    settings::{self, places},
};

/// A listener that is wanted, with its certificates.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) listener: settings::Listener,
    pub(crate) certificates: Option<Certificates>,
    /// The addresses of its name, if that was looked up before.
    looked_up: Vec<SocketAddr>,
}

impl Wanted {
    pub(crate) fn unnamed(address: ListenAddress) -> Self {
        Self::new(settings::Listener::unnamed(address), None)
    }

    pub(crate) fn new(listener: settings::Listener, certificates: Option<Certificates>) -> Self {
        Self { listener, certificates, looked_up: Vec::new() }
    }

    /// Names it in the log, by its address if it has no name.
    pub(crate) fn described(&self) -> String {
        match self.listener.name() {
            Some(name) => format!("listener {name}"),
            None => format!("listener {}", self.listener.settings.address),
        }
    }

    /// Makes the library's listener.
    pub(crate) fn listener(&self) -> Listener {
        let settings::Listener { settings, limits, tls: _ } = &self.listener;
        let mut listener = match &*self.looked_up {
            [] => Listener::at(settings.address.clone()),
            addresses => Listener::tcp(addresses),
        };
        listener = service::keep(listener, &settings.address, self.listener.name());
        if let Some(name) = self.listener.name() {
            listener = listener.name(name);
        }
        if let Some(framing) = limits.framing {
            listener = listener.framing(framing);
        }
        if let Some(limits) = limits.session {
            listener = listener.limits(limits);
        }
        if let Some(sessions) = limits.max_sessions {
            listener = listener.max_sessions(sessions);
        }
        listener = listener.allow(limits.allow.iter().copied()).deny(limits.deny.iter().copied());
        if let Some(mode) = settings.mode {
            listener = listener.unix_mode(mode.0);
        }
        if let Some(owner) = settings.owner {
            listener = listener.unix_owner(owner.0);
        }
        if let Some(group) = settings.group {
            listener = listener.unix_group(group.0);
        }
        if let Some(only) = settings.v6only {
            listener = listener.only_v6(only);
        }
        // From the wire inwards.
        if let Some(requirement) = settings.proxy {
            let proxy = match requirement {
                settings::Requirement::Required => Proxy::required(),
                settings::Requirement::Optional => Proxy::optional(),
            };
            let proxies = settings.proxy_from.iter().flatten().copied();
            listener = listener.proxy(proxy.trust(proxies).timeout(settings.proxy_timeout.0));
        }
        if let Some(certificates) = &self.certificates {
            listener = certificates.serve(listener);
        }
        if settings.telnet {
            listener = listener.telnet(Telnet::new());
        }
        listener
    }

    /// Looks up its address if that is a name, which may take a while.
    ///
    /// # Errors
    /// For a name that has no address.
    pub(crate) fn look_up(&mut self) -> io::Result<()> {
        if let ListenAddress::Name { host, port } = &self.listener.settings.address {
            let addresses = (host.as_str(), *port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            self.looked_up = addresses.map_err(|error| self.refused(error))?;
        }
        Ok(())
    }

    /// Says which listener cannot be bound.
    pub(crate) fn refused(&self, error: impl Into<io::Error>) -> io::Error {
        let error = error.into();
        match self.listener.name() {
            Some(_) => io::Error::new(error.kind(), format!("{}: {error}", self.described())),
            None => error,
        }
    }
}

/// A difference between listeners that run and those that are wanted. Numbers are places in the two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is not there yet.
    Add { wanted: usize },
    /// Something else than the contents of its files differs.
    Replace { running: usize, wanted: usize },
    /// Nothing differs but the contents of its files, perhaps.
    Keep { running: usize, wanted: usize },
    /// It is wanted no longer.
    Close { running: usize },
}

/// Returns the change for each listener that runs or is wanted.
pub(crate) fn changes(running: &[settings::Listener], wanted: &[settings::Listener]) -> Vec<Change> {
    let mut left: Vec<_> = (0..running.len()).collect();
    let mut changes = Vec::new();
    for (number, listener) in wanted.iter().enumerate() {
        let is_it = |other: &settings::Listener| match (listener.name(), other.name()) {
            (None, None) => listener.settings.address == other.settings.address,
            (name, other) => name == other,
        };
        let change = match left.iter().position(|other| is_it(&running[*other])) {
            None => Change::Add { wanted: number },
            Some(place) => match left.remove(place) {
                other if running[other] == *listener => Change::Keep { running: other, wanted: number },
                other => Change::Replace { running: other, wanted: number },
            },
        };
        changes.push(change);
    }
    changes.extend(left.into_iter().map(|running| Change::Close { running }));
    changes
}

/// The listeners that run.
#[derive(Clone, Debug)]
pub(crate) struct Listeners(Vec<Running>);

#[derive(Clone, Debug)]
struct Running {
    is: Wanted,
    id: ListenerId,
}

/// A part of a change that is done, and is undone if a later one fails. Numbers are places among those that run.
enum Done {
    Closed(usize),
    Added(ListenerId),
    Replaced(usize),
}

impl Listeners {
    /// Those that a server was started with.
    pub(crate) fn new(wanted: Vec<Wanted>, server: &ServerHandle) -> Self {
        let ids = server.listeners().into_iter().map(|listener| listener.id);
        Self(wanted.into_iter().zip(ids).map(|(is, id)| Running { is, id }).collect())
    }

    /// Makes the listeners of a server those that are wanted, and takes over their certificates. Sessions go on as they
    /// began. Returns what has changed, a text for each listener.
    ///
    /// # Errors
    /// For the first that cannot be bound. Then everything is as it was.
    pub(crate) async fn change(&mut self, wanted: Vec<Wanted>, server: &ServerHandle) -> io::Result<Vec<String>> {
        let settings = |listener: &Wanted| listener.listener.clone();
        let running: Vec<_> = self.0.iter().map(|running| settings(&running.is)).collect();
        let changes = changes(&running, &wanted.iter().map(settings).collect::<Vec<_>>());
        let mut done = Vec::new();
        match self.bind(&changes, &wanted, server, &mut done).await {
            // Nothing fails from here on.
            Ok(ids) => Ok(self.commit(&changes, wanted, ids, server).await),
            Err(error) => {
                self.undo(done, server).await;
                Err(error)
            }
        }
    }

    /// Does all that may fail. Returns the ids of those that are wanted.
    async fn bind(
        &self,
        changes: &[Change],
        wanted: &[Wanted],
        server: &ServerHandle,
        done: &mut Vec<Done>,
    ) -> io::Result<Vec<ListenerId>> {
        // An address that goes from one listener to another, as for one that gets another name, has to be free.
        let left_to = |address: &ListenAddress| {
            let is_any_port = match address {
                ListenAddress::Ip(address) => address.port() == 0,
                ListenAddress::Name { port, .. } => *port == 0,
                _ => false,
            };
            let mut others = changes.iter().filter_map(|change| match *change {
                Change::Add { wanted: number } | Change::Replace { wanted: number, .. } => Some(&wanted[number]),
                Change::Keep { .. } | Change::Close { .. } => None,
            });
            others.find(|other| !is_any_port && other.listener.settings.address == *address)
        };
        let closed = changes.iter().filter_map(|change| match *change {
            Change::Close { running: number } => {
                let other = left_to(&self.0[number].is.listener.settings.address)?;
                Some((number, other))
            }
            _ => None,
        });
        let closed: Vec<_> = closed.collect();
        // One that was handed over would be gone: it can be taken once, and not even be given back.
        for (number, other) in &closed {
            let Running { is, .. } = &self.0[*number];
            if let address @ (ListenAddress::Fd(_) | ListenAddress::Systemd(_)) = &is.listener.settings.address {
                let advice = format!("{address} is the socket of {}: keep that name, or restart", is.described());
                return Err(other.refused(io::Error::new(io::ErrorKind::AddrInUse, advice)));
            }
        }
        for (number, _) in closed {
            server.close_listener(self.0[number].id).await;
            done.push(Done::Closed(number));
        }
        let mut ids = Vec::with_capacity(wanted.len());
        for change in changes {
            ids.push(match *change {
                Change::Add { wanted: number } => {
                    let listener = &wanted[number];
                    let added = server.listen(listener.listener()).await;
                    let added = added.map_err(|error| self.in_the_way(listener, changes, listener.refused(error)))?;
                    done.push(Done::Added(added.id));
                    added.id
                }
                Change::Replace { running: number, wanted: by } => {
                    let (id, listener) = (self.0[number].id, &wanted[by]);
                    let replaced = server.replace_listener(id, listener.listener()).await;
                    replaced.map_err(|error| self.in_the_way(listener, changes, listener.refused(error)))?;
                    done.push(Done::Replaced(number));
                    id
                }
                Change::Keep { running: number, .. } => self.0[number].id,
                Change::Close { .. } => continue,
            });
        }
        Ok(ids)
    }

    /// Says what to do where a listener that ends, or moves, by the same change has the port.
    fn in_the_way(&self, wanted: &Wanted, changes: &[Change], error: io::Error) -> io::Error {
        if error.kind() != io::ErrorKind::AddrInUse {
            return error;
        }
        let address = &wanted.listener.settings.address;
        let others = changes.iter().filter_map(|change| match *change {
            Change::Replace { running, .. } | Change::Close { running } => Some(&self.0[running].is),
            Change::Add { .. } | Change::Keep { .. } => None,
        });
        let mut in_the_way = others.filter(|other| places::collide(address, &other.listener.settings.address));
        let Some(other) = in_the_way.next() else { return error };
        let advice = format!(
            "{} is in its way until this change is done: take that out of the file and SIGHUP, then write {address} into it \
             and SIGHUP again, or restart",
            other.described()
        );
        io::Error::new(error.kind(), format!("{error}; {advice}"))
    }

    async fn undo(&mut self, done: Vec<Done>, server: &ServerHandle) {
        for done in done.into_iter().rev() {
            let (number, result) = match done {
                Done::Added(id) => {
                    server.close_listener(id).await;
                    continue;
                }
                Done::Replaced(number) => {
                    let Running { is, id } = &self.0[number];
                    (number, server.replace_listener(*id, is.listener()).await)
                }
                Done::Closed(number) => (number, server.listen(self.0[number].is.listener()).await),
            };
            match result {
                Ok(listener) => self.0[number].id = listener.id,
                Err(BindError::ServerEnding) => {}
                // Somebody else has taken its address meanwhile.
                Err(error) => log::error!("SIGHUP: {}", self.0[number].is.refused(error)),
            }
        }
    }

    /// Does the rest. `ids` are those of all that are wanted.
    async fn commit(
        &mut self,
        changes: &[Change],
        wanted: Vec<Wanted>,
        ids: Vec<ListenerId>,
        server: &ServerHandle,
    ) -> Vec<String> {
        let mut said = Vec::new();
        let before = std::mem::take(&mut self.0);
        self.0 = wanted.into_iter().zip(ids).map(|(is, id)| Running { is, id }).collect();
        for change in changes {
            match *change {
                Change::Add { wanted: number } => said.push(format!("{} is new", self.0[number].is.described())),
                Change::Replace { wanted: number, .. } => {
                    said.push(format!("{} is changed", self.0[number].is.described()));
                }
                Change::Keep { running: number, wanted: by } => {
                    let listener = &mut self.0[by].is;
                    if let (Some(old), Some(new)) = (&before[number].is.certificates, &listener.certificates) {
                        if !old.are(new) {
                            said.push(format!("{} has other certificates", listener.described()));
                        }
                        old.replace(new);
                        // The listener goes on with the former ones, whose contents are new.
                        listener.certificates = Some(old.clone());
                    }
                }
                Change::Close { running: number } => {
                    let Running { is, id } = &before[number];
                    // It may be closed already.
                    server.close_listener(*id).await;
                    said.push(format!("{} is closed; its sessions go on", is.described()));
                }
            }
        }
        said
    }

    /// Returns true if one of them has certificates, so that they may expire.
    pub(crate) fn have_certificates(&self) -> bool {
        self.certificates().next().is_some()
    }

    /// Logs what should be changed about certificates and keys that were just loaded.
    pub(crate) fn log_certificates(&self) {
        for (listener, certificates) in self.certificates() {
            for note in certificates.unsafe_files() {
                log::warn!("{}: {note}", listener.described());
            }
        }
        self.log_expiring(SystemTime::now());
    }

    /// Logs which certificates are about to expire, and louder which have expired.
    pub(crate) fn log_expiring(&self, now: SystemTime) {
        for (listener, certificates) in self.certificates() {
            for (level, note) in certificates.expiring(now) {
                log::log!(level, "{}: {note}", listener.described());
            }
        }
    }

    /// The counters, as the end of a line.
    pub(crate) fn counters(&self, now: SystemTime) -> String {
        let mut text = String::new();
        for (listener, certificates) in self.certificates() {
            if let Some(seconds) = certificates.seconds_left(now) {
                // Into a string: there is no error.
                let _ = write!(text, "; certificate of {} expires in {seconds} s", listener.described());
            }
        }
        text
    }

    fn certificates(&self) -> impl Iterator<Item = (&Wanted, &Certificates)> {
        self.0.iter().filter_map(|Running { is, .. }| Some((is, is.certificates.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Given, ListenerSettings, OwnLimits};

    /// A listener of the file; without a name one of `--listen`.
    fn listener(name: &str, address: &str, limit: Option<(&'static str, &str)>) -> settings::Listener {
        if name.is_empty() {
            return settings::Listener::unnamed(address.parse().unwrap());
        }
        let mut given = Given::default();
        given.insert("name", vec![name.to_owned()]);
        given.insert("address", vec![address.to_owned()]);
        if let Some((key, value)) = limit {
            given.insert(key, vec![value.to_owned()]);
        }
        let limits = OwnLimits::new(&given, &Given::default()).unwrap();
        settings::Listener { settings: ListenerSettings::new(&given).unwrap(), limits, tls: None }
    }

    #[test]
    fn a_listener_is_its_name_and_one_without_a_name_its_address() {
        let plain = |name: &str, address: &str| listener(name, address, None);
        let running = [
            plain("", "127.0.0.1:0"),
            plain("", "127.0.0.1:0"),
            plain("", "127.0.0.1:7"),
            plain("stays", "127.0.0.1:1"),
            plain("moves", "127.0.0.1:2"),
            plain("learns", "127.0.0.1:3"),
            plain("goes", "127.0.0.1:4"),
        ];
        let wanted = [
            listener("learns", "127.0.0.1:3", Some(("idle-timeout", "5s"))),
            plain("moves", "[::1]:2"),
            plain("comes", "127.0.0.1:4"),
            plain("stays", "127.0.0.1:1"),
            plain("", "127.0.0.1:0"),
            plain("", "127.0.0.1:8"),
        ];
        let expected = [
            Change::Replace { running: 5, wanted: 0 },
            Change::Replace { running: 4, wanted: 1 },
            Change::Add { wanted: 2 },
            Change::Keep { running: 3, wanted: 3 },
            Change::Keep { running: 0, wanted: 4 },
            Change::Add { wanted: 5 },
            Change::Close { running: 1 },
            Change::Close { running: 2 },
            Change::Close { running: 6 },
        ];
        assert_eq!(changes(&running, &wanted), expected);
        let keeps: Vec<_> = (0..running.len()).map(|number| Change::Keep { running: number, wanted: number }).collect();
        assert_eq!(changes(&running, &running), keeps);
    }
}
