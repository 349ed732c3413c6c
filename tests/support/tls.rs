//! What the tests of TLS share: an authority with certificates in a folder, and a client by rustls that blocks.
// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub)]

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use crate::support::connect;

/// A folder for the files of a test, with an authority that signs certificates.
pub struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Authority {
    /// An authority, whose own certificate is `ca.pem`.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("rot13d-listeners-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of tests");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file into the folder; returns its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path.into_os_string().into_string().unwrap()
    }

    /// A certificate for these names, as `FILE.pem` and `FILE-key.pem`; its subject is `CN=FILE`.
    pub fn issue(&self, file: &str, names: &[&str]) {
        self.issue_with(file, names, |_| {});
    }

    pub fn issue_with(&self, file: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2120, 1, 1);
        params.distinguished_name.push(DnType::CommonName, file);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        // Whoever reads a file that is being replaced gets one or the other.
        replace(&self.path(&format!("{file}-key.pem")), &key.serialize_pem());
        replace(&self.path(&format!("{file}.pem")), &certificate.pem());
    }

    /// A client that trusts the authority.
    pub fn client(&self) -> ClientConfig {
        self.client_builder().with_no_client_auth()
    }

    /// A client that shows a certificate.
    pub fn client_with(&self, file: &str) -> ClientConfig {
        let chain = vec![CertificateDer::from_pem_file(self.path(&format!("{file}.pem"))).unwrap()];
        let key = PrivateKeyDer::from_pem_file(self.path(&format!("{file}-key.pem"))).unwrap();
        self.client_builder().with_client_auth_cert(chain, key).unwrap()
    }

    fn client_builder(&self) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
    }
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, path).unwrap();
}

/// A connection by TLS whose reads and writes are bounded.
pub struct TlsPeer(StreamOwned<ClientConnection, TcpStream>);

impl TlsPeer {
    /// Connects, and asks for the server `name`.
    ///
    /// # Errors
    /// For a handshake that fails.
    pub fn try_connect(config: &ClientConfig, address: SocketAddr, name: &str) -> io::Result<Self> {
        Self::over(config, connect(address), name)
    }

    /// Goes on by TLS on a connection.
    ///
    /// # Errors
    /// For a handshake that fails.
    pub fn over(config: &ClientConfig, mut stream: TcpStream, name: &str) -> io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config.clone()), name).map_err(io::Error::other)?;
        while client.is_handshaking() {
            client.complete_io(&mut stream)?;
        }
        Ok(Self(StreamOwned::new(client, stream)))
    }

    #[track_caller]
    pub fn connect(config: &ClientConfig, address: SocketAddr, name: &str) -> Self {
        Self::try_connect(config, address, name).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Sends a line and compares its answer. In TLS 1.3 a certificate of ours is refused no earlier than here.
    ///
    /// # Errors
    /// For a connection that has ended.
    pub fn try_greet(&mut self) -> io::Result<()> {
        let mut answer = [0; 6];
        self.0.write_all(b"Hello\n")?;
        self.0.read_exact(&mut answer)?;
        assert_eq!(answer, *b"Uryyb\n");
        Ok(())
    }

    #[track_caller]
    pub fn greet(&mut self) {
        self.try_greet().expect("the server answers");
    }

    /// Sends bytes and reads a line.
    #[track_caller]
    pub fn line(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.0.write_all(bytes).expect("the server reads");
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            self.0.read_exact(&mut byte).expect("the server answers");
            line.extend(byte);
        }
        line
    }

    /// True if the server showed the certificate in this file.
    pub fn was_shown(&self, file: &Path) -> bool {
        let shown = self.0.conn.peer_certificates().expect("a server shows one");
        shown[0] == CertificateDer::from_pem_file(file).unwrap()
    }

    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.conn.alpn_protocol()
    }
}
