//! Listener: the tables of the file that a listener is made of.
//!
//! Rule: as in `settings`. A limit that a listener may have of its own is the server's setting, under the same name and
//! in the same form.
//! Not here: the library's listeners (`listeners`), certificates (`certificates`), reading the file (`config`).

use std::{path::Path, time::Duration};

use actix_lines::{Framing, ListenAddress, Peers, limits::SessionLimits};

use super::{
    Auto, Count, Given, Invalid, Setting, Settings, Unusable,
    setting::{About, Reload, settings},
    value::{Alpn, FileMode, FilePath, Members, Name, Owner, Requirement, ServerName, Time, Timeout, TlsVersion},
};

const LISTENER: &str = "[[listener]]";
const TLS: &str = "[listener.tls]";
const PAIR: &str = "[[listener.tls.sni]]";

settings! {
    /// A listener, without the limits of its own and without TLS.
    pub(crate) struct ListenerSettings {
        name: Name = About {
            name: "name",
            value: "NAME",
            unit: "",
            default: &[],
            group: LISTENER,
            reload: Reload::NewConnections,
            help: "Name in the log and in the counters",
            advice: "At SIGHUP a listener of the same name is the same listener",
        },
        address: ListenAddress = About {
            name: "address",
            value: "ADDRESS",
            unit: "",
            default: &[],
            group: LISTENER,
            reload: Reload::NewConnections,
            help: "Address to listen on, as for `--listen`",
            advice: "A changed one is bound before the former socket is closed",
        },
        mode: Option<FileMode> = About {
            name: "mode",
            value: "MODE",
            unit: "",
            default: &["off"],
            group: LISTENER,
            reload: Reload::NewConnections,
            help: "Permissions of a unix socket's path; `off` is those of `--listen`, `0600`",
            advice: "Who may write to it may connect: `0660` lets the members of `group`",
        },
        owner: Option<Owner> = About {
            name: "owner",
            value: "USER",
            unit: "",
            default: &["off"],
            group: LISTENER,
            reload: Reload::NewConnections,
            help: "User that the path belongs to; `off` is the server's",
            advice: "Another one takes the rights of root",
        },
        group: Option<Members> = About {
            name: "group",
            value: "GROUP",
            unit: "",
            default: &["off"],
            group: LISTENER,
            reload: Reload::NewConnections,
            help: "Group of the path; `off` is the server's, or that of the folder",
            advice: "The server's user has to be in it, or be root",
        },
        v6only: Option<bool> = About {
            name: "v6only",
            value: "SWITCH",
            unit: "",
            default: &["off"],
            group: LISTENER,
            reload: Reload::NewConnections,
            help: "An IPv6 address takes IPv6 connections only; `off` decides by the other listeners",
            advice: "`off` has `[::]` take IPv4 connections, too, unless an IPv4 listener has the same port",
        },
        proxy: Option<Requirement> = About {
            name: "proxy",
            value: "POLICY",
            unit: "",
            default: &["off"],
            group: LISTENER,
            reload: Reload::NewConnections,
            help: "Connections begin with a PROXY header, of version 1 or 2, from those of `proxy-from`; `off` expects none",
            advice: "The peer that the header names is the peer in limits, lists and logs. `optional` also serves \
                     connections without one, and those of others, whatever they send; `required` closes them",
        },
        proxy_from: Option<Vec<Peers>> = About {
            name: "proxy-from",
            value: "PEERS",
            unit: "",
            default: &["off"],
            group: LISTENER,
            reload: Reload::NewConnections,
            help: "Proxies whose headers are believed, as for `--allow`",
            advice: "Name the proxies alone: whoever is one may pose as any peer",
        },
        proxy_timeout: Timeout = About {
            name: "proxy-timeout",
            value: "TIME",
            unit: "",
            default: &["3s"],
            group: LISTENER,
            reload: Reload::NewConnections,
            help: "Longest time from the accept to the end of the header",
            advice: "`preface-timeout` ends it, too. With `optional` a peer of `proxy-from` that waits for the first word \
                     waits as long",
        },
        telnet: bool = About {
            name: "telnet",
            value: "SWITCH",
            unit: "",
            default: &["false"],
            group: LISTENER,
            reload: Reload::NewConnections,
            help: "Peers speak the telnet protocol: its commands are answered, and are no part of lines",
            advice: "Leave it off for peers that send bytes as they are, also for `telnet` to a port other than 23",
        },
    }
}

settings! {
    /// The TLS of a listener, without further pairs.
    pub(crate) struct TlsSettings {
        certificate: FilePath = About {
            name: "certificate",
            value: "FILE",
            unit: "",
            default: &[],
            group: TLS,
            reload: Reload::NewConnections,
            help: "Chain of certificates in PEM, the server's own first",
            advice: "Clients that ask for no name, or for one that no pair of `[[listener.tls.sni]]` has, get this one. A \
                     relative path begins in the folder of the file of settings",
        },
        key: FilePath = About {
            name: "key",
            value: "FILE",
            unit: "",
            default: &[],
            group: TLS,
            reload: Reload::NewConnections,
            help: "Key of the first certificate, in PEM, without a passphrase",
            advice: "Only the user of the server should be able to read it; the log warns if everybody is",
        },
        client_ca: Option<FilePath> = About {
            name: "client-ca",
            value: "FILE",
            unit: "",
            default: &["off"],
            group: TLS,
            reload: Reload::NewConnections,
            help: "Authorities whose certificates clients show, in PEM; `off` asks clients for none",
            advice: "Use an authority of your own: whoever has a certificate of it gets in",
        },
        client_auth: Requirement = About {
            name: "client-auth",
            value: "POLICY",
            unit: "",
            default: &["required"],
            group: TLS,
            reload: Reload::NewConnections,
            help: "Treatment of clients without a certificate, beside `client-ca`",
            advice: "One that shows a certificate of another authority is refused in either case",
        },
        alpn: Option<Vec<Alpn>> = About {
            name: "alpn",
            value: "NAME",
            unit: "",
            default: &["off"],
            group: TLS,
            reload: Reload::NewConnections,
            help: "Application protocols, the most wanted first; `off` ignores what clients offer",
            advice: "A client that offers only others is refused; one that offers none is served",
        },
        versions: Vec<TlsVersion> = About {
            name: "versions",
            value: "VERSION",
            unit: "",
            default: &["1.2", "1.3"],
            group: TLS,
            reload: Reload::NewConnections,
            help: "Versions of TLS",
            advice: "1.3 alone keeps out clients from before 2018",
        },
        tickets: bool = About {
            name: "tickets",
            value: "SWITCH",
            unit: "",
            default: &["true"],
            group: TLS,
            reload: Reload::NewConnections,
            help: "Clients that come again have a shorter handshake",
            advice: "Their keys are in this process's memory only, and change every six hours",
        },
    }
}

settings! {
    /// A further pair of certificate and key, for some names.
    pub(crate) struct PairSettings {
        name: Vec<ServerName> = About {
            name: "name",
            value: "NAME",
            unit: "",
            default: &[],
            group: PAIR,
            reload: Reload::NewConnections,
            help: "Names that clients ask for (SNI), as `example.org`",
            advice: "`*.example.org` is every name with one part more that has no pair of its own",
        },
        certificate: FilePath = About {
            name: "certificate",
            value: "FILE",
            unit: "",
            default: &[],
            group: PAIR,
            reload: Reload::NewConnections,
            help: "Chain of certificates, valid for these names",
            advice: "As in `[listener.tls]`",
        },
        key: FilePath = About {
            name: "key",
            value: "FILE",
            unit: "",
            default: &[],
            group: PAIR,
            reload: Reload::NewConnections,
            help: "Key of the first certificate",
            advice: "As in `[listener.tls]`",
        },
    }
}

const OF_LINES: [&str; 2] = ["max-line", "overlong"];
const OF_SESSIONS: [&str; 11] = [
    "idle-timeout",
    "line-timeout",
    "write-timeout",
    "max-age",
    "linger-timeout",
    "preface-timeout",
    "max-prefaces",
    "session-rate",
    "outbox-high",
    "outbox-low",
    "linger-bytes",
];

/// These hold beside those of the server, and have no default of its.
const OF_ADMISSION: [&str; 3] = ["max-sessions", "allow", "deny"];

#[cfg(test)]
pub(super) const LIMITS: [&[&str]; 3] = [&OF_LINES, &OF_SESSIONS, &OF_ADMISSION];

/// Returns true for a setting of the server that a listener may have of its own.
pub(crate) fn is_of_listeners(setting: &Setting) -> bool {
    let name = &setting.about.name;
    OF_LINES.contains(name) || OF_SESSIONS.contains(name) || OF_ADMISSION.contains(name)
}

/// Limits of one listener, where they are not the server's.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct OwnLimits {
    pub(crate) framing: Option<Framing>,
    pub(crate) session: Option<SessionLimits>,
    pub(crate) max_sessions: Option<usize>,
    pub(crate) allow: Vec<Peers>,
    pub(crate) deny: Vec<Peers>,
}

impl OwnLimits {
    /// The limits that `own` says, in a server whose settings are `server`.
    ///
    /// # Errors
    /// As [`Settings::new`].
    pub(crate) fn new(own: &Given, server: &Given) -> Result<Self, Unusable> {
        let all = Settings::new(&own.clone().or(server))?;
        let says = |names: &[&str]| names.iter().any(|name| own.has(name));
        let peers = |setting| own.value::<Option<Vec<Peers>>>(setting).map(Option::unwrap_or_default);
        let max_sessions = match own.value::<Auto<Count>>(&Settings::max_sessions)? {
            Auto::Auto => None,
            Auto::Set(sessions) => Some(sessions.0),
        };
        Ok(Self {
            framing: if says(&OF_LINES) { Some(all.framing()?) } else { None },
            session: if says(&OF_SESSIONS) { Some(all.limits(None)?.into()) } else { None },
            max_sessions,
            allow: peers(&Settings::allow)?,
            deny: peers(&Settings::deny)?,
        })
    }
}

/// A listener as it is wanted: equal if nothing differs but the contents of files.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Listener {
    pub(crate) settings: ListenerSettings,
    pub(crate) limits: OwnLimits,
    pub(crate) tls: Option<Tls>,
}

/// The TLS of a listener.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tls {
    pub(crate) settings: TlsSettings,
    pub(crate) pairs: Vec<PairSettings>,
}

impl Listener {
    /// A plain listener without a name, as `--listen` asks for.
    pub(crate) fn unnamed(address: ListenAddress) -> Self {
        let settings = ListenerSettings {
            name: Name::default(),
            address,
            mode: None,
            owner: None,
            group: None,
            v6only: None,
            proxy: None,
            proxy_from: None,
            proxy_timeout: Time(Duration::from_secs(3)),
            telnet: false,
        };
        Self { settings, limits: OwnLimits::default(), tls: None }
    }

    /// The name; `None` if it has none.
    pub(crate) fn name(&self) -> Option<&str> {
        Some(&*self.settings.name.0).filter(|name| !name.is_empty())
    }
}

impl ListenerSettings {
    pub(crate) fn new(given: &Given) -> Result<Self, Invalid> {
        let settings = Self::read(given)?;
        let Self { address, mode, owner, group, v6only, .. } = &settings;
        let of_paths = [("mode", mode.is_some()), ("owner", owner.is_some()), ("group", group.is_some())];
        let is_path = matches!(address, ListenAddress::Unix(_));
        if let Some((name, _)) = of_paths.into_iter().find(|(_, is_set)| *is_set && !is_path) {
            let advice = "only the path of a unix socket has one: use an address as unix:/PATH, or take it away";
            return Err(Invalid { name, advice: advice.to_owned() });
        }
        settings.check_proxy(given)?;
        let may_be_v6 = match address {
            ListenAddress::Ip(address) => address.is_ipv6(),
            address => matches!(address, ListenAddress::Name { .. }),
        };
        if v6only.is_some() && !may_be_v6 {
            let advice = "only an IPv6 address may be that: use one as [::]:40714, or take it away".to_owned();
            return Err(Invalid { name: "v6only", advice });
        }
        Ok(settings)
    }

    /// Checks that headers may come, and that there are peers who may send them.
    fn check_proxy(&self, given: &Given) -> Result<(), Invalid> {
        let invalid = |name, advice: &str| Err(Invalid { name, advice: advice.to_owned() });
        let Self { address, proxy, proxy_from, .. } = self;
        let Some(proxies) = proxy_from else {
            return match proxy {
                Some(_) => invalid(
                    "proxy",
                    "it does not say whose headers are believed: add proxy-from with the addresses of the proxies",
                ),
                None if given.has("proxy-timeout") => {
                    invalid("proxy-timeout", "there is no header to wait for: add proxy, or take it away")
                }
                None => Ok(()),
            };
        };
        if proxy.is_none() {
            let advice = "headers are data without proxy: add proxy = \"required\" or \"optional\", or take it away";
            return invalid("proxy-from", advice);
        }
        let are_networks = |proxies: &Peers| matches!(proxies, Peers::Network(_));
        match address {
            address if address.is_unix() && proxies.iter().all(are_networks) => {
                invalid("proxy-from", "a unix socket has no peers of a network: use unix, uid:1000 or gid:100")
            }
            ListenAddress::Ip(_) | ListenAddress::Name { .. } if !proxies.iter().any(are_networks) => {
                invalid("proxy-from", "these are peers of unix sockets: use addresses or networks, as 192.0.2.0/24")
            }
            _ => Ok(()),
        }
    }
}

impl Tls {
    /// What is given of TLS and of its further pairs. Relative paths begin in `folder`.
    ///
    /// # Errors
    /// For what is wrong, and in which of the pairs.
    pub(crate) fn new(given: &Given, pairs: &[Given], folder: &Path) -> Result<Self, (Option<usize>, Invalid)> {
        let mut settings = TlsSettings::read(given).map_err(|error| (None, error))?;
        if given.has("client-auth") && settings.client_ca.is_none() {
            let advice = "it does not say whose certificates clients show: add client-ca".to_owned();
            return Err((None, Invalid { name: "client-auth", advice }));
        }
        let pairs = pairs.iter().enumerate();
        let pairs = pairs.map(|(number, given)| PairSettings::read(given).map_err(|error| (Some(number), error)));
        let mut pairs = pairs.collect::<Result<Vec<_>, _>>()?;
        let files = [&mut settings.certificate, &mut settings.key].into_iter().chain(&mut settings.client_ca);
        let of_pairs = pairs.iter_mut().flat_map(|pair| [&mut pair.certificate, &mut pair.key]);
        files.chain(of_pairs).for_each(|file| file.0 = folder.join(&file.0));
        Ok(Self { settings, pairs })
    }
}
