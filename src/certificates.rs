//! Certificates: those of one listener, loaded and checked, and what there is to say about them.
//!
//! Rule: whoever loads may wait for a disk. Nothing changes by it; a later `replace` cannot fail.
//! Not here: TLS (`actix-lines`), the keys of the file (`settings/listener`), a build without TLS
//! (`certificates/absent`).

use std::time::SystemTime;

use actix_lines::{
    Listener,
    tls::{ClientAuth, Pem, Tls, TlsError, TlsVersion, TlsWarning},
};
use log::Level;

use crate::settings;

/// Certificates, keys and settings of a listener's TLS. All clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Certificates(Tls);

/// The reason why certificates cannot be used, and the key that is to blame.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Unloadable {
    error: TlsError,
    /// The `[[listener.tls.sni]]`, by its number; `None` for `[listener.tls]` itself.
    pub(crate) pair: Option<usize>,
    pub(crate) key: &'static str,
}

impl Certificates {
    /// Loads the files of a listener.
    ///
    /// # Errors
    /// For files that cannot be used; see [`TlsError`].
    pub(crate) fn load(tls: &settings::Tls) -> Result<Self, Unloadable> {
        let settings::TlsSettings { certificate, key, client_ca, client_auth, alpn, versions, tickets } = &tls.settings;
        let file = |file: &settings::FilePath| Pem::file(&file.0);
        let mut builder = Tls::builder(file(certificate), file(key))
            .alpn(alpn.iter().flatten().map(|name| &name.0))
            .versions(versions.iter().map(|version| match version {
                settings::TlsVersion::Tls12 => TlsVersion::Tls12,
                settings::TlsVersion::Tls13 => TlsVersion::Tls13,
            }))
            .tickets(*tickets);
        if let Some(authorities) = client_ca {
            let auth = match client_auth {
                settings::Requirement::Required => ClientAuth::Required,
                settings::Requirement::Optional => ClientAuth::Optional,
            };
            builder = builder.client_certificates(auth, file(authorities));
        }
        for pair in &tls.pairs {
            for name in &pair.name {
                builder = builder.server_name(&name.0, file(&pair.certificate), file(&pair.key));
            }
        }
        builder.build().map(Self).map_err(|error| Unloadable::new(error, tls))
    }

    /// Returns true if these certificates, as far as their files, subjects and times tell, are the others.
    pub(crate) fn are(&self, others: &Self) -> bool {
        self.0.certificates() == others.0.certificates()
    }

    /// Takes over what others are, for connections from now on.
    pub(crate) fn replace(&self, others: &Self) {
        self.0.replace(&others.0);
    }

    /// Has a listener speak TLS with them.
    pub(crate) fn serve(&self, listener: Listener) -> Listener {
        listener.tls(&self.0)
    }

    /// Returns what is about to end or has ended, at a moment.
    pub(crate) fn expiring(&self, now: SystemTime) -> Vec<(Level, String)> {
        let soon = now + Tls::WARN_BEFORE;
        let mut notes = Vec::new();
        for certificate in self.0.certificates() {
            let (file, subject) = (certificate.file, certificate.info.subject().to_owned());
            let not_after = certificate.info.not_after();
            let note = match not_after {
                end if end < now && certificate.is_own => {
                    (Level::Error, TlsError::Expired { file, subject, not_after }.to_string())
                }
                end if end < now => (Level::Warn, TlsWarning::Expired { file, subject, not_after }.to_string()),
                end if end < soon => (Level::Warn, TlsWarning::ExpiresSoon { file, subject, not_after }.to_string()),
                _ => continue,
            };
            // A pair may be there for several names.
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        notes
    }

    /// Returns what else works and should be changed all the same: the files as they were loaded.
    pub(crate) fn unsafe_files(&self) -> Vec<String> {
        let mut notes: Vec<_> = (self.0.warnings().into_iter())
            .filter(|warning| !matches!(warning, TlsWarning::ExpiresSoon { .. } | TlsWarning::Expired { .. }))
            .map(|warning| warning.to_string())
            .collect();
        notes.dedup();
        notes
    }

    /// Returns the seconds until the first of them expires, at a moment; negative afterwards.
    pub(crate) fn seconds_left(&self, now: SystemTime) -> Option<i64> {
        let end = self.0.expires()?;
        let seconds = |time: std::time::Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Some(match end.duration_since(now) {
            Ok(left) => seconds(left),
            Err(over) => -seconds(over.duration()),
        })
    }
}

/// A file as errors name it.
fn shown(file: &settings::FilePath) -> String {
    file.0.display().to_string()
}

impl Unloadable {
    fn new(error: TlsError, tls: &settings::Tls) -> Self {
        // A file may be that of several pairs: only one of them has this key, or this name.
        let pair_is = |is_it: &dyn Fn(&settings::PairSettings) -> bool| tls.pairs.iter().position(is_it);
        match &error {
            TlsError::Mismatch { certificate, key } => {
                let is_own = shown(&tls.settings.certificate) == *certificate && shown(&tls.settings.key) == *key;
                let pair = pair_is(&|pair| shown(&pair.certificate) == *certificate && shown(&pair.key) == *key);
                return Self { pair: pair.filter(|_| !is_own), error, key: "key" };
            }
            TlsError::WrongName { file, name } => {
                let pair =
                    pair_is(&|pair| shown(&pair.certificate) == *file && pair.name.iter().any(|own| own.0 == *name));
                return Self { error, pair, key: "certificate" };
            }
            _ => {}
        }
        let (file, keys): (&str, &[&str]) = match &error {
            TlsError::NoKey { file } | TlsError::EncryptedKey { file } | TlsError::UnsupportedKey { file } => {
                (file, &["key"])
            }
            TlsError::NoCertificate { file }
            | TlsError::CertificateVersion { file, .. }
            | TlsError::Expired { file, .. } => (file, &["certificate", "client-ca"]),
            TlsError::Read { file, .. } | TlsError::Malformed { file, .. } => {
                (file, &["certificate", "key", "client-ca"])
            }
            TlsError::Alpn { .. } => return Self { error, pair: None, key: "alpn" },
            TlsError::NoVersion => return Self { error, pair: None, key: "versions" },
            TlsError::ServerName { name } | TlsError::DuplicateName { name } => {
                let pair = tls.pairs.iter().position(|pair| pair.name.iter().any(|own| own.0 == *name));
                return Self { error, pair, key: "name" };
            }
            _ => return Self { error, pair: None, key: "" },
        };
        let is_it = |key: &str, path: &settings::FilePath| keys.contains(&key) && shown(path) == file;
        let own = &tls.settings;
        let client_ca = own.client_ca.as_ref().map(|file| (None, "client-ca", file));
        let own = [(None, "certificate", &own.certificate), (None, "key", &own.key)].into_iter().chain(client_ca);
        let of_pairs = tls.pairs.iter().enumerate().flat_map(|(number, pair)| {
            [(Some(number), "certificate", &pair.certificate), (Some(number), "key", &pair.key)]
        });
        let found = own.chain(of_pairs).find(|(_, key, path)| is_it(key, path)).map(|(pair, key, _)| (pair, key));
        let (pair, key) = found.unwrap_or((None, ""));
        Self { error, pair, key }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_certificate_is_a_warning_14_days_before_its_end_and_an_error_behind_it() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2120, 1, 1);
        let pem = params.self_signed(&key).unwrap().pem();
        let pair = || (Pem::bytes(pem.as_bytes()), Pem::bytes(key.serialize_pem().into_bytes()));
        let (certificate, its_key) = pair();
        let (again, again_key) = pair();
        let tls = Tls::builder(certificate, its_key).server_name("localhost", again, again_key).build().unwrap();
        let end = tls.expires().unwrap();
        assert!(end > UNIX_EPOCH);
        let certificates = Certificates(tls);
        let levels = |now| certificates.expiring(now).into_iter().map(|(level, _)| level).collect::<Vec<_>>();
        assert!(levels(end - 15 * DAY).is_empty());
        // Once, though it is there for two names.
        assert_eq!(levels(end - 13 * DAY), [Level::Warn]);
        assert_eq!(levels(end + DAY), [Level::Error]);
        assert_eq!(certificates.seconds_left(end - DAY), Some(24 * 3600));
        assert_eq!(certificates.seconds_left(end + DAY), Some(-24 * 3600));
    }
}
