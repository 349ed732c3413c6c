//! Error: what is wrong with the certificates, keys and settings of TLS, and what to do about it.
//!
//! Not here: what goes wrong with one peer, which is the fault of a filter and goes to the log.

use std::{io, sync::Arc, time::SystemTime};

use crate::{error::reason, wire::tls::certificate::show_time};

/// The reason why a TLS setting cannot work. Nothing has been changed when it is returned.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read {file}: {}; check the path, and that this process may read it", reason(source))]
    Read {
        /// The file.
        file: String,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// There is no certificate in the file.
    #[error("{file} has no certificate: it needs one between BEGIN CERTIFICATE and END CERTIFICATE (PEM)")]
    NoCertificate {
        /// The file.
        file: String,
    },
    /// There is no key in the file.
    #[error("{file} has no private key: it needs one between BEGIN PRIVATE KEY and END PRIVATE KEY (PEM)")]
    NoKey {
        /// The file.
        file: String,
    },
    /// The key is under a passphrase.
    #[error("the key in {file} is encrypted: `openssl pkey -in {file} -out plain.pem` writes one without a passphrase")]
    EncryptedKey {
        /// The file.
        file: String,
    },
    /// The key is of a kind, or of a length, that cannot be used.
    #[error(
        "the key in {file} is of no supported kind: use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits"
    )]
    UnsupportedKey {
        /// The file.
        file: String,
    },
    /// The contents are damaged.
    #[error("{file} is damaged: {reason}; write it anew")]
    Malformed {
        /// The file.
        file: String,
        /// The kind of damage.
        reason: String,
    },
    /// The key is not that of the first certificate.
    #[error(
        "the key in {key} does not fit the certificate in {certificate}: use the key that it was made with; in the \
         file the server's own certificate comes first"
    )]
    Mismatch {
        /// The file of the certificate.
        certificate: String,
        /// The file of the key.
        key: String,
    },
    /// The time of the server's own certificate is over.
    #[error("the certificate of {subject:?} in {file} has expired on {}: renew it", show_time(*not_after))]
    Expired {
        /// The file.
        file: String,
        /// The certificate's subject.
        subject: String,
        /// The end of its time.
        not_after: SystemTime,
    },
    /// The certificate is not valid for the name that it should be used for.
    #[error("the certificate in {file} is not valid for {name}: name it in its subject alternative names")]
    WrongName {
        /// The file.
        file: String,
        /// The server's name.
        name: String,
    },
    /// The text is no name of a server.
    #[error("{name:?} is no name of a server: write it as example.org or *.example.org")]
    ServerName {
        /// The text that was given.
        name: String,
    },
    /// A name has two pairs.
    #[error("there are two certificates for {name}: leave one")]
    DuplicateName {
        /// The server's name.
        name: String,
    },
    /// The certificate is of a version before 3, which has no place for names and uses.
    #[error(
        "the certificate of {subject:?} in {file} is of X.509 version {version}, and TLS needs version 3: have it issued \
         with extensions, such as the subject alternative names"
    )]
    CertificateVersion {
        /// The file.
        file: String,
        /// The certificate's subject.
        subject: String,
        /// Its version: 1 or 2.
        version: u8,
    },
    /// A name of an application protocol is empty or too long.
    #[error("a name of an application protocol has {bytes} bytes: use 1 to 255")]
    Alpn {
        /// Its length in bytes.
        bytes: usize,
    },
    /// No version of TLS is left.
    #[error("no version of TLS: use Tls12, Tls13 or both")]
    NoVersion,
    /// It was made of a configuration of rustls, so that there is nothing to read again.
    #[error("this TLS configuration has no files to read again: use replace()")]
    NoFiles,
    /// rustls takes the settings for invalid.
    #[error("rustls refuses the configuration: {reason}; change it there")]
    Rustls {
        /// rustls' text.
        reason: String,
    },
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        let kind = match &error {
            TlsError::Read { source, .. } => source.kind(),
            TlsError::NoCertificate { .. } | TlsError::NoKey { .. } | TlsError::Malformed { .. } => {
                io::ErrorKind::InvalidData
            }
            _ => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}

/// Something about certificates and keys that works, and should be changed all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsWarning {
    /// Everybody on this machine may read or write the key.
    #[error("everybody on this machine may use the key in {file} (mode {mode:o}): `chmod 600 {file}`")]
    KeyReadable {
        /// The file.
        file: String,
        /// Its mode.
        mode: u32,
    },
    /// A certificate's time is over. Another one than the server's own may be one that clients do not need; an own one
    /// has expired since it was read.
    #[error(
        "the certificate of {subject:?} in {file} has expired on {}: renew it, or leave it out of the chain if no client needs it",
        show_time(*not_after)
    )]
    Expired {
        /// The file.
        file: String,
        /// The certificate's subject.
        subject: String,
        /// The end of its time.
        not_after: SystemTime,
    },
    /// A certificate's time is over within [`Tls::WARN_BEFORE`](crate::tls::Tls::WARN_BEFORE).
    #[error("the certificate of {subject:?} in {file} expires on {}: renew it", show_time(*not_after))]
    ExpiresSoon {
        /// The file.
        file: String,
        /// The certificate's subject.
        subject: String,
        /// The end of its time.
        not_after: SystemTime,
    },
    /// A certificate's time has not begun.
    #[error("the certificate of {subject:?} in {file} is not valid before {}: check this machine's clock", show_time(*not_before))]
    NotYetValid {
        /// The file.
        file: String,
        /// The certificate's subject.
        subject: String,
        /// The beginning of its time.
        not_before: SystemTime,
    },
}
