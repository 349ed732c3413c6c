//! What the tests of TLS share: an authority, certificates of it in files, and clients that nobody here wrote.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use actix_lines::tls::rustls::{self, ClientConfig, RootCertStore, pki_types::ServerName};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::within;

/// Certificates of one authority, in a directory of their own.
pub struct Authority {
    directory: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Authority {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("actix-lines-tls-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of tests");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(directory.join("ca.pem"), issuer.pem()).unwrap();
        Self { directory, issuer }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The file of its own certificate.
    pub fn file(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A certificate for these names, in files of this name.
    pub fn issue(&self, file: &str, names: &[&str]) -> Files {
        self.issue_with(file, names, |_| {})
    }

    pub fn issue_with(&self, file: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Files {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2120, 1, 1);
        params.distinguished_name.push(DnType::CommonName, file);
        params.distinguished_name.push(DnType::OrganizationName, "Tests");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files =
            Files { certificate: self.path(&format!("{file}.pem")), key: self.path(&format!("{file}.key.pem")) };
        fs::write(&files.certificate, certificate.pem()).unwrap();
        write_key(&files.key, &key.serialize_pem());
        files
    }

    /// A client's settings, which trust the authority.
    pub fn client(&self) -> Client {
        Client {
            ca: self.file(),
            versions: vec![&rustls::version::TLS12, &rustls::version::TLS13],
            own: None,
            alpn: Vec::new(),
        }
    }
}

/// Writes a key that nobody else may read.
pub fn write_key(path: &Path, pem: &str) {
    fs::write(path, pem).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The settings of a client, by tokio-rustls.
#[derive(Clone)]
pub struct Client {
    ca: PathBuf,
    pub versions: Vec<&'static rustls::SupportedProtocolVersion>,
    pub own: Option<Files>,
    pub alpn: Vec<Vec<u8>>,
}

impl Client {
    pub fn config(&self) -> Arc<ClientConfig> {
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.ca).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some(Files { certificate, key }) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_file(certificate).unwrap()],
                    PrivateKeyDer::from_pem_file(key).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = self.alpn.clone();
        Arc::new(config)
    }

    pub async fn connect(&self, to: SocketAddr, name: &str) -> TlsStream<TcpStream> {
        self.try_connect(to, name).await.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub async fn try_connect(&self, to: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        connect_with(&self.config(), to, name).await
    }
}

/// Connects with a configuration of its own, which may have tickets.
pub async fn connect_with(
    config: &Arc<ClientConfig>,
    to: SocketAddr,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    within("a handshake", async {
        let stream = TcpStream::connect(to).await?;
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await
    })
    .await
}
