//! Server: the certificates and settings of a TLS listener, and their replacement while it listens.
//!
//! A new configuration is whole and valid before anybody sees it; connections keep the one that they began with.
//! Not here: reading files (`pem`), a connection (`filter`).

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    client::verify_server_name,
    crypto::{CryptoProvider, ring},
    pki_types::ServerName,
    server::{
        ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert,
        UnbufferedServerConnection, WebPkiClientVerifier,
    },
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use crate::wire::{
    filter::{Broken, Filter},
    tls::{
        certificate::CertificateInfo,
        error::{TlsError, TlsWarning},
        filter::{TlsFilter, note_server_name},
        info::TlsVersion,
        pem::{Pair, Pem},
    },
    transport::{Layer, Transport},
};

/// The versions of rustls.
pub(super) fn protocol_versions(versions: &[TlsVersion]) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
    if versions.is_empty() {
        return Err(TlsError::NoVersion);
    }
    let version = |version: &TlsVersion| match version {
        TlsVersion::Tls12 => &TLS12,
        TlsVersion::Tls13 => &TLS13,
    };
    Ok(versions.iter().map(version).collect())
}

/// The names of application protocols, as rustls takes them.
pub(super) fn protocols(names: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, TlsError> {
    match names.iter().find(|name| !(1..=255).contains(&name.len())) {
        Some(name) => Err(TlsError::Alpn { bytes: name.len() }),
        None => Ok(names.to_vec()),
    }
}

/// Cryptography by ring, whatever else the process uses.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificate that is asked of clients: one that they have to show, or may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientAuth {
    /// A client without one is refused.
    Required,
    /// A client without one is served; one that shows another's certificate is refused.
    Optional,
}

/// TLS for listeners: certificates, keys and settings, whole and valid.
///
/// Cheap to clone; all clones are one, so that a clone kept aside [reloads](Self::reload) the certificates of every
/// listener that was given it.
///
/// ```no_run
/// use actix_lines::{LineServer, Listener, Rot13, tls::Tls};
///
/// # #[actix::main]
/// # async fn main() -> std::io::Result<()> {
/// let tls = Tls::builder("cert.pem", "key.pem").alpn(["rot13"]).build()?;
/// let server = LineServer::new(|_connection| Rot13).listen(Listener::tcp("[::]:40714").tls(&tls))?.start()?;
/// // Later, when the files are new:
/// tls.reload()?;
/// # server.wait().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tls(Arc<ArcSwap<Loaded>>);

/// A configuration, and what it was made of.
struct Loaded {
    config: Arc<ServerConfig>,
    certificates: Vec<LoadedCertificate>,
    warnings: Vec<TlsWarning>,
    /// `None` if it came from rustls.
    source: Option<TlsBuilder>,
}

/// A certificate in use, its file, and the name that it is used for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadedCertificate {
    /// The file.
    pub file: String,
    /// The server name of its pair; `None` for the default pair.
    pub server_name: Option<String>,
    /// The first of its chain: the server's own.
    pub is_own: bool,
    /// Its subject and its times.
    pub info: CertificateInfo,
}

impl Tls {
    /// The time before a certificate's end from which on [`warnings`](Self::warnings) has it: 14 days.
    pub const WARN_BEFORE: Duration = Duration::from_secs(14 * 24 * 3600);

    /// Begins with a chain of certificates, the server's own first, and its key. A client that asks for no name, or for
    /// one that no [`server_name`](TlsBuilder::server_name) has, gets this pair.
    pub fn builder(certificate: impl Into<Pem>, key: impl Into<Pem>) -> TlsBuilder {
        TlsBuilder {
            default: Pair { certificate: certificate.into(), key: key.into() },
            by_name: Vec::new(),
            clients: None,
            alpn: Vec::new(),
            versions: vec![TlsVersion::Tls12, TlsVersion::Tls13],
            has_tickets: true,
        }
    }

    /// Reads the same files again, for connections from now on. Those that are there keep what they began with.
    ///
    /// Tickets of earlier connections stay valid, unless clients show certificates: then whoever would come by a ticket
    /// was verified under the old settings.
    ///
    /// # Errors
    /// Returns a [`TlsError`] that names the file; then nothing has changed.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.reload_and(|| {})
    }

    /// Calls `meanwhile` each time that the files have been read: what others put in place by then is newer, and stays.
    pub(super) fn reload_and(&self, mut meanwhile: impl FnMut()) -> Result<(), TlsError> {
        loop {
            let current = self.0.load_full();
            let source = current.source.as_ref().ok_or(TlsError::NoFiles)?;
            let ticketer = source.clients.is_none().then(|| Arc::clone(&current.config.ticketer));
            let loaded = Arc::new(source.load(ticketer)?);
            meanwhile();
            if Arc::ptr_eq(&self.0.compare_and_swap(&current, loaded), &current) {
                return Ok(());
            }
        }
    }

    /// Takes over the certificates and settings of another, for connections from now on.
    pub fn replace(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }

    /// Returns each certificate of each chain. Empty for a configuration of rustls.
    #[must_use]
    pub fn certificates(&self) -> Vec<LoadedCertificate> {
        self.0.load().certificates.clone()
    }

    /// Returns the time at which the first of the server's own certificates expires. `None` for a configuration of rustls.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        let loaded = self.0.load();
        loaded.certificates.iter().filter(|certificate| certificate.is_own).map(|own| own.info.not_after()).min()
    }

    /// Returns what works and should be changed all the same, by the clock of this moment.
    #[must_use]
    pub fn warnings(&self) -> Vec<TlsWarning> {
        let loaded = self.0.load();
        let now = SystemTime::now();
        let soon = now + Self::WARN_BEFORE;
        let expires_soon = loaded.certificates.iter().filter(|certificate| certificate.info.not_after() < soon);
        let expires_soon = expires_soon.map(|LoadedCertificate { file, info, .. }| {
            let (file, subject, not_after) = (file.clone(), info.subject().to_owned(), info.not_after());
            if not_after < now {
                TlsWarning::Expired { file, subject, not_after }
            } else {
                TlsWarning::ExpiresSoon { file, subject, not_after }
            }
        });
        loaded.warnings.iter().cloned().chain(expires_soon).collect()
    }

    /// Makes the filter of one connection.
    pub(crate) fn layer(&self) -> Layer {
        match self.filter() {
            Ok(filter) => Layer::new(filter),
            Err(broken) => Layer::new(broken),
        }
    }

    /// Fails only for a configuration that came from rustls.
    pub(super) fn filter(&self) -> Result<impl Filter + use<>, Broken> {
        UnbufferedServerConnection::new(Arc::clone(&self.0.load().config))
            .map(|connection| TlsFilter::new(connection, None))
            .map_err(Broken::new)
    }
}

impl Transport {
    /// Adds TLS as a server has it, between the transport and its session. For the connections of a listener use
    /// [`Listener::tls`](crate::Listener::tls). Needs the feature `tls`.
    pub fn with_tls(self, tls: &Tls) -> Self {
        self.with_layer(tls.layer())
    }
}

/// Takes a configuration of rustls as it is, for whoever needs more than [`TlsBuilder`] has. Early data has to be off.
impl From<Arc<ServerConfig>> for Tls {
    fn from(config: Arc<ServerConfig>) -> Self {
        let mut noting = ServerConfig::clone(&config);
        noting.cert_resolver = Arc::new(Noting(Arc::clone(&config.cert_resolver)));
        let loaded = Loaded { config: Arc::new(noting), certificates: Vec::new(), warnings: Vec::new(), source: None };
        Self(Arc::new(ArcSwap::from_pointee(loaded)))
    }
}

impl From<&Tls> for Tls {
    fn from(tls: &Tls) -> Self {
        tls.clone()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificates", &self.certificates()).finish_non_exhaustive()
    }
}

/// Builds a [`Tls`].
#[derive(Clone, Debug)]
#[must_use = "nothing is read before build()"]
pub struct TlsBuilder {
    default: Pair,
    by_name: Vec<(String, Pair)>,
    clients: Option<(ClientAuth, Pem)>,
    alpn: Vec<Vec<u8>>,
    versions: Vec<TlsVersion>,
    has_tickets: bool,
}

impl TlsBuilder {
    /// Adds a pair for clients that ask for this name (SNI): `example.org`, or `*.example.org` for all names with one
    /// part more that have no pair of their own.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`TlsError::ServerName`] if it is none, [`TlsError::DuplicateName`] if it has a pair
    /// already, and [`TlsError::WrongName`] if the certificate is not valid for it.
    pub fn server_name(mut self, name: impl Into<String>, certificate: impl Into<Pem>, key: impl Into<Pem>) -> Self {
        self.by_name.push((name.into(), Pair { certificate: certificate.into(), key: key.into() }));
        self
    }

    /// Asks clients for a certificate signed by one of the authorities in `authorities`. Default: they are not asked.
    pub fn client_certificates(mut self, auth: ClientAuth, authorities: impl Into<Pem>) -> Self {
        self.clients = Some((auth, authorities.into()));
        self
    }

    /// Sets the application protocols, the most wanted first (ALPN). A client that offers only others is refused; one
    /// that offers none is served. Default: none, and what clients offer is ignored.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`TlsError::Alpn`] for a name that is empty or longer than 255 bytes.
    pub fn alpn<N: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = N>) -> Self {
        self.alpn = protocols.into_iter().map(|name| name.as_ref().to_vec()).collect();
        self
    }

    /// Sets the versions. Default: 1.2 and 1.3.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`TlsError::NoVersion`] for none.
    pub fn versions(mut self, versions: impl IntoIterator<Item = TlsVersion>) -> Self {
        self.versions = versions.into_iter().collect();
        self
    }

    /// Sets whether a client gets a ticket for a shorter handshake next time. The keys of tickets are this process's,
    /// are kept in memory, and change every six hours. Default: one ticket.
    pub fn tickets(mut self, tickets: bool) -> Self {
        self.has_tickets = tickets;
        self
    }

    /// Reads the files and checks everything.
    ///
    /// # Errors
    /// Returns a [`TlsError`] that names the file or setting.
    pub fn build(self) -> Result<Tls, TlsError> {
        let loaded = self.load(None)?;
        Ok(Tls(Arc::new(ArcSwap::from_pointee(loaded))))
    }

    fn load(&self, ticketer: Option<Arc<dyn ProducesTickets>>) -> Result<Loaded, TlsError> {
        let rustls = |error: rustls::Error| TlsError::Rustls { reason: error.to_string() };
        let provider = provider();
        let (mut certificates, mut warnings) = (Vec::new(), Vec::new());
        let mut load = |pair: &Pair, name: Option<&str>| {
            let loaded = Arc::new(pair.load(&provider, &mut warnings)?);
            certificates.extend(loaded.cert.iter().enumerate().filter_map(|(place, der)| {
                let info = CertificateInfo::parse(der)?;
                Some(LoadedCertificate {
                    file: pair.certificate.to_string(),
                    server_name: name.map(str::to_owned),
                    is_own: place == 0,
                    info,
                })
            }));
            Ok(loaded)
        };
        let mut resolver = Resolver { default: load(&self.default, None)?, by_name: HashMap::new() };
        for (name, pair) in &self.by_name {
            let name = name.to_ascii_lowercase();
            if resolver.by_name.contains_key(&name) {
                return Err(TlsError::DuplicateName { name });
            }
            let loaded = load(pair, Some(&name))?;
            check_name(&name, &loaded, &pair.certificate)?;
            resolver.by_name.insert(name, loaded);
        }
        let versions = protocol_versions(&self.versions)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(rustls)?;
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some((auth, authorities)) => {
                let store = Arc::new(authorities.authorities()?);
                let verifier = WebPkiClientVerifier::builder_with_provider(store, provider);
                let verifier = match auth {
                    ClientAuth::Required => verifier,
                    ClientAuth::Optional => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build().map_err(|error| TlsError::Rustls { reason: error.to_string() })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(Noting(Arc::new(resolver))));
        config.alpn_protocols = protocols(&self.alpn)?;
        // A cache is a lock between all workers, and memory for clients that never come back.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = usize::from(self.has_tickets);
        if self.has_tickets {
            config.ticketer = match ticketer {
                Some(ticketer) => ticketer,
                None => ring::Ticketer::new().map_err(rustls)?,
            };
        }
        let config = Arc::new(config);
        UnbufferedServerConnection::new(Arc::clone(&config)).map_err(rustls)?;
        Ok(Loaded { config, certificates, warnings, source: Some(self.clone()) })
    }
}

/// Checks that a certificate may be used for a name.
fn check_name(name: &str, pair: &CertifiedKey, file: &Pem) -> Result<(), TlsError> {
    let no_name = || TlsError::ServerName { name: name.to_owned() };
    // Any name under the wildcard is as good as another.
    let example = name.strip_prefix("*.").map_or(name.to_owned(), |rest| format!("any.{rest}"));
    let example = match ServerName::try_from(example.as_str()).map_err(|_| no_name())? {
        name @ ServerName::DnsName(_) => name,
        _ => return Err(no_name()),
    };
    let leaf = pair.cert.first().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
    match leaf.is_some_and(|leaf| verify_server_name(&leaf, &example).is_ok()) {
        true => Ok(()),
        false => Err(TlsError::WrongName { file: file.to_string(), name: name.to_owned() }),
    }
}

/// Chooses a pair by the name that a client asks for.
#[derive(Debug)]
struct Resolver {
    default: Arc<CertifiedKey>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl Resolver {
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        self.by_name.get(&name).or_else(wildcard)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let by_name = hello.server_name().filter(|_| !self.by_name.is_empty()).and_then(|name| self.find(name));
        Some(Arc::clone(by_name.unwrap_or(&self.default)))
    }
}

/// Notes the name for the filter.
#[derive(Debug)]
struct Noting(Arc<dyn ResolvesServerCert>);

impl ResolvesServerCert for Noting {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        note_server_name(hello.server_name());
        self.0.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }
}
