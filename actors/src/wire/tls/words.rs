//! Words: a fault of TLS as a sentence for operators.
//!
//! Rule: rustls names what is wrong for those who write TLS; whoever runs a server is told what the peer has done.
//! Not here: the names of faults, by which they are counted (`filter`).

use std::fmt::{Debug, Write};

use rustls::{CertificateError, Error};

/// Says what is wrong.
pub(super) fn words(error: &Error) -> String {
    match error {
        Error::NoCertificatesPresented => "the peer has shown no certificate".to_owned(),
        Error::InvalidCertificate(error) => format!("invalid peer certificate: {}", certificate(error)),
        Error::AlertReceived(alert) => format!("the peer has ended it by the alert \"{}\"", spaced(alert)),
        Error::PeerIncompatible(what) => format!("the peer has nothing in common: {}", spaced(what)),
        Error::PeerMisbehaved(what) => format!("the peer breaks the rules of TLS: {}", spaced(what)),
        Error::InvalidMessage(what) => format!("the peer has sent a message that is damaged: {}", spaced(what)),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "the peer has sent a message out of turn".to_owned()
        }
        Error::DecryptError => "what the peer has sent cannot be decrypted".to_owned(),
        Error::PeerSentOversizedRecord => "the peer has sent a record that is too long".to_owned(),
        Error::NoApplicationProtocol => "the peer asks for none of the application protocols (ALPN)".to_owned(),
        other => format!("TLS has failed: {other}"),
    }
}

fn certificate(error: &CertificateError) -> String {
    use CertificateError::{
        BadEncoding, BadSignature, Expired, ExpiredContext, InvalidPurpose, InvalidPurposeContext, NotValidForName,
        NotValidForNameContext, NotValidYet, NotValidYetContext, Revoked, UnknownIssuer,
    };
    match error {
        UnknownIssuer => "no authority that is trusted has signed it".to_owned(),
        Expired | ExpiredContext { .. } => "it has expired".to_owned(),
        NotValidYet | NotValidYetContext { .. } => "it is not valid yet: compare the clocks".to_owned(),
        NotValidForName => "it is not valid for the name that was asked for".to_owned(),
        NotValidForNameContext { expected, presented } => {
            format!("it is not valid for name {:?}, only for {}", expected.to_str(), presented.join(", "))
        }
        InvalidPurpose | InvalidPurposeContext { .. } => "it is not meant for this end of a connection".to_owned(),
        BadEncoding => "it is damaged".to_owned(),
        BadSignature => "its signature is not right".to_owned(),
        Revoked => "it has been revoked".to_owned(),
        other => spaced(other),
    }
}

/// A name of rustls as words: `NoCipherSuitesInCommon` is `no cipher suites in common`.
fn spaced(name: &impl Debug) -> String {
    let mut words = String::new();
    let name = format!("{name:?}");
    let mut before = ' ';
    for letter in name.chars() {
        let begins = letter.is_uppercase() && (before.is_lowercase() || before.is_ascii_digit());
        // Into a string: there is no error.
        let _ = write!(words, "{}{}", if begins { " " } else { "" }, letter.to_lowercase());
        before = letter;
    }
    words
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, InvalidMessage, PeerIncompatible};

    use super::*;

    #[test]
    fn a_fault_is_said_in_words_that_need_no_source_code() {
        let said = [
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), "no authority that is trusted has signed it"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "by the alert \"unknown ca\""),
            (Error::AlertReceived(AlertDescription::CertificateExpired), "by the alert \"certificate expired\""),
            (Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon), ": no cipher suites in common"),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), "damaged: invalid content type"),
        ];
        for (error, words_of_it) in said {
            let text = words(&error);
            assert!(text.ends_with(words_of_it), "{text}");
        }
    }
}
