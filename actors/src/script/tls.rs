//! TLS of peers: whom they trust, and who they are.
//!
//! Not here: addresses (`address`), what a truncation is to a script (`matching`).

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{
            CertificateDer, PrivateKeyDer, ServerName, UnixTime,
            pem::{self, PemObject},
        },
    },
};

use crate::{script::driver::Wire, wire::socket};

/// The TLS of peers, at addresses that begin with `tls:`. Default: no certificate is trusted.
#[derive(Clone, Default)]
pub struct TlsOptions {
    roots: RootCerts,
    name: Option<ServerName<'static>>,
    is_insecure: bool,
    client: Option<Arc<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>>,
}

type RootCerts = Option<Arc<RootCertStore>>;

/// A file, or a name, that is of no use for TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsOptionsError {
    /// There is no certificate, or no key, in the file.
    #[error("no certificate or key in PEM in {}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why it cannot be read, or what is in it instead.
        #[source]
        source: pem::Error,
    },
    /// The certificate can vouch for nobody.
    #[error("no certificate in {} can vouch for a server", .0.display())]
    Root(PathBuf),
    /// The name is none that a certificate can have.
    #[error("\"{0}\" is no name of a server: write a host name or an IP address")]
    Name(String),
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TlsOptions");
        debug.field("roots", &self.roots.as_ref().map_or(0, |roots| roots.len()));
        // Of the key nothing is shown.
        debug.field("name", &self.name).field("is_insecure", &self.is_insecure).finish_non_exhaustive()
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsOptionsError> {
    let failed = |source| TlsOptionsError::File { file: file.to_owned(), source };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(failed)?.collect();
    let certificates = certificates.map_err(failed)?;
    if certificates.is_empty() { Err(failed(pem::Error::NoItemsFound)) } else { Ok(certificates) }
}

impl TlsOptions {
    /// Trusts servers whose certificate is in this file, or is signed by one in it. Format: PEM. May be called again.
    ///
    /// # Errors
    /// [`TlsOptionsError`] if there is none in it.
    pub fn ca_file(mut self, file: impl AsRef<Path>) -> Result<Self, TlsOptionsError> {
        let file = file.as_ref();
        let mut roots = self.roots.as_deref().cloned().unwrap_or_else(RootCertStore::empty);
        let (good, _) = roots.add_parsable_certificates(certificates(file)?);
        if good == 0 {
            return Err(TlsOptionsError::Root(file.to_owned()));
        }
        self.roots = Some(Arc::new(roots));
        Ok(self)
    }

    /// Sets the name that is asked for, and has to be in the certificate. Default: the host of the address.
    ///
    /// # Errors
    /// [`TlsOptionsError`] if no server can have it.
    pub fn server_name(mut self, name: &str) -> Result<Self, TlsOptionsError> {
        self.name = Some(ServerName::try_from(name.to_owned()).map_err(|_| TlsOptionsError::Name(name.to_owned()))?);
        Ok(self)
    }

    /// Trusts any server. For tests of a server whose certificate nobody signed.
    #[must_use]
    pub fn insecure(mut self) -> Self {
        self.is_insecure = true;
        self
    }

    /// Shows a certificate, and those that signed it, to servers that ask. Format: PEM.
    ///
    /// # Errors
    /// [`TlsOptionsError`] if there is none, or no key, in the files.
    pub fn certificate(mut self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, TlsOptionsError> {
        let file = key.as_ref();
        let key = PrivateKeyDer::from_pem_file(file)
            .map_err(|source| TlsOptionsError::File { file: file.to_owned(), source })?;
        self.client = Some(Arc::new((certificates(chain.as_ref())?, key)));
        Ok(self)
    }

    fn connector(&self) -> io::Result<TlsConnector> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let config = config.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        let config = if self.is_insecure {
            config.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        } else {
            config.with_root_certificates(self.roots.clone().unwrap_or_else(|| Arc::new(RootCertStore::empty())))
        };
        let config = match self.client.as_deref() {
            Some((chain, key)) => {
                config.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(io::Error::other)?
            }
            None => config.with_no_client_auth(),
        };
        Ok(TlsConnector::from(Arc::new(config)))
    }

    /// The handshake with the server at `host:port`.
    pub(crate) async fn connect(&self, address: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = match &self.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
        };
        self.connector()?.connect(name, stream).await
    }
}

impl Wire for TlsStream<TcpStream> {
    fn reset(self: Box<Self>) {
        socket::reset_at_close(self.get_ref().0);
    }
}

/// Trusts anybody, but not a signature that is none.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

type Verified<T> = Result<T, tokio_rustls::rustls::Error>;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Verified<ServerCertVerified> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
