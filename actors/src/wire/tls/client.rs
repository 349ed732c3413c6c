//! Client: the authorities and settings of TLS for a connector.
//!
//! Not here: reading files (`pem`), a connection (`filter`), connecting (`connect`).

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig,
    client::{Resumption, UnbufferedClientConnection},
    pki_types::ServerName,
};

use crate::wire::{
    filter::{Broken, Filter},
    tls::{
        error::TlsError,
        filter::TlsFilter,
        info::TlsVersion,
        pem::{Pair, Pem},
        server::{protocol_versions, protocols, provider},
    },
    transport::{Layer, Transport},
};

/// TLS for a connector: whom to trust, and the settings, whole and valid. Cheap to clone.
///
/// ```no_run
/// use actix_lines::{Rot13, connect::Connector, tls::TlsClient};
///
/// # #[actix::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Whom this machine trusts, by Debian's bundle.
/// let tls = TlsClient::builder("/etc/ssl/certs/ca-certificates.crt").build()?;
/// let connector = Connector::builder("example.org:40714", |_connection, _nth| Rot13).tls(&tls).start()?;
/// # let _ = connector;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    /// As the server has to be called, whatever the target.
    server_name: Option<ServerName<'static>>,
}

impl TlsClient {
    /// Begins with the certificates of the authorities that may have signed the server's: one file, such as the bundle
    /// of this machine.
    pub fn builder(authorities: impl Into<Pem>) -> TlsClientBuilder {
        TlsClientBuilder {
            authorities: authorities.into(),
            own: None,
            server_name: None,
            alpn: Vec::new(),
            versions: vec![TlsVersion::Tls12, TlsVersion::Tls13],
        }
    }

    /// Returns the name that the server's certificate has to have, for this target.
    pub(crate) fn name_for(&self, target: &str) -> Result<ServerName<'static>, TlsError> {
        let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        self.name_for_host(host)
    }

    /// The same for a host without brackets and port.
    pub(crate) fn name_for_host(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        if let Some(name) = &self.server_name {
            return Ok(name.clone());
        }
        ServerName::try_from(host)
            .map(|name| name.to_owned())
            .map_err(|_| TlsError::ServerName { name: host.to_owned() })
    }

    /// Returns the settings, for a connection that is no session.
    #[cfg(feature = "redis")]
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Makes the filter of one connection.
    pub(crate) fn layer(&self, name: ServerName<'static>) -> Layer {
        match self.filter(name) {
            Ok(filter) => Layer::new(filter),
            Err(broken) => Layer::new(broken),
        }
    }

    /// Fails only for a configuration that came from rustls.
    pub(super) fn filter(&self, name: ServerName<'static>) -> Result<impl Filter + use<>, Broken> {
        let text = name.to_str().into();
        UnbufferedClientConnection::new(Arc::clone(&self.config), name)
            .map(|connection| TlsFilter::new(connection, Some(text)))
            .map_err(Broken::new)
    }
}

impl Transport {
    /// Adds TLS as a client has it, to a server of this name or address. For a connector use
    /// [`ConnectorBuilder::tls`](crate::connect::ConnectorBuilder::tls). Needs the feature `tls`.
    ///
    /// # Errors
    /// Returns [`TlsError::ServerName`] if `server` is neither a name nor an address.
    pub fn with_tls_client(self, tls: &TlsClient, server: &str) -> Result<Self, TlsError> {
        Ok(self.with_layer(tls.layer(tls.name_for(server)?)))
    }
}

/// Takes a configuration of rustls as it is, for whoever needs more than [`TlsClientBuilder`] has. Early data has to
/// be off.
impl From<Arc<ClientConfig>> for TlsClient {
    fn from(config: Arc<ClientConfig>) -> Self {
        Self { config, server_name: None }
    }
}

impl From<&TlsClient> for TlsClient {
    fn from(tls: &TlsClient) -> Self {
        tls.clone()
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Builds a [`TlsClient`].
#[derive(Clone, Debug)]
#[must_use = "nothing is read before build()"]
pub struct TlsClientBuilder {
    authorities: Pem,
    own: Option<Pair>,
    server_name: Option<String>,
    alpn: Vec<Vec<u8>>,
    versions: Vec<TlsVersion>,
}

impl TlsClientBuilder {
    /// Sets the certificate and key that a server gets which asks for them. Default: none.
    pub fn certificate(mut self, certificate: impl Into<Pem>, key: impl Into<Pem>) -> Self {
        self.own = Some(Pair { certificate: certificate.into(), key: key.into() });
        self
    }

    /// Sets the name that is asked for, and that the server's certificate has to have. Default: the host of the
    /// connector's target.
    ///
    /// # Errors
    /// [`build`](Self::build) returns [`TlsError::ServerName`] if it is none.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets the application protocols, the most wanted first (ALPN). Default: none.
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

    /// Reads the files and checks everything.
    ///
    /// # Errors
    /// Returns a [`TlsError`] that names the file or setting.
    pub fn build(self) -> Result<TlsClient, TlsError> {
        let rustls = |error: rustls::Error| TlsError::Rustls { reason: error.to_string() };
        let provider = provider();
        let versions = protocol_versions(&self.versions)?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(rustls)?
            .with_root_certificates(self.authorities.authorities()?);
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let own = pair.load(&provider, &mut Vec::new())?;
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(own)))
            }
        };
        config.alpn_protocols = protocols(&self.alpn)?;
        // One target: a few sessions are plenty.
        config.resumption = Resumption::in_memory_sessions(8);
        let server_name = match self.server_name {
            None => None,
            Some(name) => match ServerName::try_from(name.clone()) {
                Ok(known) => Some(known),
                Err(_) => return Err(TlsError::ServerName { name }),
            },
        };
        Ok(TlsClient { config: Arc::new(config), server_name })
    }
}
