//! PEM: certificates and keys as they come from files or from memory, and what is wrong with them.
//!
//! Not here: whether a chain is trusted (rustls), what a certificate says (`certificate`).

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use memchr::memmem;
use rustls::{
    Error, InconsistentKeys, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};

use crate::wire::tls::{
    certificate::CertificateInfo,
    error::{TlsError, TlsWarning},
};

/// The largest file that is read; the bundle of a system has a fiftieth of it.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Certificates or a key in PEM: a regular file of at most 16 MiB, which a reload reads again, or bytes.
///
/// A path becomes one by itself wherever one is asked for.
#[derive(Clone)]
pub struct Pem(Source);

#[derive(Clone)]
enum Source {
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

impl Pem {
    /// Names a file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }

    /// Takes bytes, such as a secret that came from elsewhere.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Source::Bytes(bytes.into().into()))
    }

    /// Returns the bytes, and the mode of the file.
    fn read(&self) -> Result<(Arc<[u8]>, Option<u32>), TlsError> {
        let path = match &self.0 {
            Source::Bytes(bytes) => return Ok((Arc::clone(bytes), None)),
            Source::File(path) => path,
        };
        match read_file(path) {
            Ok((bytes, mode)) => Ok((bytes.into(), Some(mode))),
            Err(source) => Err(TlsError::Read { file: self.to_string(), source: source.into() }),
        }
    }

    /// Reads all certificates, of which there is at least one.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let (bytes, _) = self.read()?;
        let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|error| self.malformed(&error))?;
        if certificates.is_empty() {
            return Err(TlsError::NoCertificate { file: self.to_string() });
        }
        Ok(certificates)
    }

    fn malformed(&self, error: &pem::Error) -> TlsError {
        // Nothing of the contents: a part of it may be a key.
        let reason = match error {
            pem::Error::MissingSectionEnd { .. } => "a section has no end",
            pem::Error::IllegalSectionStart { .. } => "a section has no proper beginning",
            pem::Error::Base64Decode(_) => "a section is not in base64",
            pem::Error::SectionTooLarge => "a section is too large",
            _ => "it cannot be read",
        };
        TlsError::Malformed { file: self.to_string(), reason: reason.to_owned() }
    }

    fn key(&self, warnings: &mut Vec<TlsWarning>) -> Result<PrivateKeyDer<'static>, TlsError> {
        let (bytes, mode) = self.read()?;
        if let Some(mode) = mode.filter(|mode| mode & 0o007 != 0) {
            warnings.push(TlsWarning::KeyReadable { file: self.to_string(), mode: mode & 0o777 });
        }
        let has = |text: &[u8]| memmem::find(&bytes, text).is_some();
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            pem::Error::NoItemsFound if has(b"ENCRYPTED PRIVATE KEY") => {
                TlsError::EncryptedKey { file: self.to_string() }
            }
            // The form before PKCS #8: a header within the section.
            pem::Error::Base64Decode(_) if has(b"Proc-Type: 4,ENCRYPTED") => {
                TlsError::EncryptedKey { file: self.to_string() }
            }
            pem::Error::NoItemsFound => TlsError::NoKey { file: self.to_string() },
            error => self.malformed(&error),
        })
    }

    /// Reads the certificates of authorities.
    pub(super) fn authorities(&self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore::empty();
        // A system's bundle may hold some that are too old to be read.
        let (added, _) = store.add_parsable_certificates(self.certificates()?);
        if added == 0 {
            return Err(TlsError::Malformed {
                file: self.to_string(),
                reason: "none of its certificates is one of an authority".to_owned(),
            });
        }
        Ok(store)
    }
}

/// Reads a regular file, and its mode. A pipe would have a reload wait for whoever writes, and others have no end.
fn read_file(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let file = File::open(path)?;
    let mode = file.metadata()?.mode();
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 16 MiB"));
    }
    // Some editors begin with a byte order mark, behind which the first section would not be seen.
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        bytes.drain(..3);
    }
    Ok((bytes, mode))
}

impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::File(path) => path.display().fmt(f),
            Source::Bytes(_) => f.write_str("the PEM given as bytes"),
        }
    }
}

/// Writes the file, never bytes: they may be a key.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({self})")
    }
}

impl From<&str> for Pem {
    fn from(path: &str) -> Self {
        Self::file(path)
    }
}

impl From<String> for Pem {
    fn from(path: String) -> Self {
        Self::file(path)
    }
}

impl From<&Path> for Pem {
    fn from(path: &Path) -> Self {
        Self::file(path)
    }
}

impl From<PathBuf> for Pem {
    fn from(path: PathBuf) -> Self {
        Self::file(path)
    }
}

/// A chain of certificates and the key of its first.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) certificate: Pem,
    pub(super) key: Pem,
}

impl Pair {
    /// Reads both, and checks that they fit each other and today.
    pub(super) fn load(
        &self,
        provider: &CryptoProvider,
        warnings: &mut Vec<TlsWarning>,
    ) -> Result<CertifiedKey, TlsError> {
        let Self { certificate, key } = self;
        let chain = certificate.certificates()?;
        let unreadable = |reason: String| TlsError::Malformed { file: certificate.to_string(), reason };
        for (place, der) in chain.iter().enumerate() {
            let info = CertificateInfo::parse(der)
                .ok_or_else(|| unreadable("one of its certificates is no X.509 certificate".to_owned()))?;
            let now = SystemTime::now();
            let is_own = place == 0;
            if is_own && info.version() < 3 {
                return Err(TlsError::CertificateVersion {
                    file: certificate.to_string(),
                    subject: info.subject().to_owned(),
                    version: info.version(),
                });
            }
            // Others of the chain may be there for old clients only, which do not look at this.
            if is_own && info.not_after() < now {
                return Err(TlsError::Expired {
                    file: certificate.to_string(),
                    subject: info.subject().to_owned(),
                    not_after: info.not_after(),
                });
            }
            if info.not_before() > now {
                warnings.push(TlsWarning::NotYetValid {
                    file: certificate.to_string(),
                    subject: info.subject().to_owned(),
                    not_before: info.not_before(),
                });
            }
        }
        let der = key.key(warnings)?;
        let unsupported = |_| TlsError::UnsupportedKey { file: key.to_string() };
        let pair = CertifiedKey::new(chain, provider.key_provider.load_private_key(der).map_err(unsupported)?);
        match pair.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(pair),
            Err(Error::InconsistentKeys(_)) => {
                Err(TlsError::Mismatch { certificate: certificate.to_string(), key: key.to_string() })
            }
            Err(error) => Err(unreadable(error.to_string())),
        }
    }
}
