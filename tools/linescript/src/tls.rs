//! Arguments of TLS: whom peers trust at addresses that begin with `tls:`, and who they are.
//!
//! Not here: handshakes, and whom a peer trusts by default (`actix_lines::script::TlsOptions`).

use std::{error::Error, path::PathBuf};

use actix_lines::script::{ScriptOptions, TlsOptions, TlsOptionsError};

use crate::output;

/// How peers speak TLS.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Tls {
    /// Trust servers whose certificate is in this file, or is signed by one in it; PEM; repeatable.
    #[arg(help_heading = "TLS", long = "tls-ca", value_name = "FILE")]
    ca: Vec<PathBuf>,
    /// Ask for this name, and expect it in the certificate. Default: the host of the address.
    #[arg(help_heading = "TLS", long = "tls-name", value_name = "NAME")]
    name: Option<String>,
    /// Trust any server.
    #[arg(help_heading = "TLS", long = "tls-insecure")]
    insecure: bool,
    /// Show this certificate to servers that ask; PEM.
    #[arg(help_heading = "TLS", long = "tls-cert", value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// The key of that certificate; PEM.
    #[arg(help_heading = "TLS", long = "tls-key", value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

impl Tls {
    /// Adds them to the options of a run. `None` if a file or a name is of no use, which is said.
    pub(crate) fn add(&self, options: ScriptOptions) -> Option<ScriptOptions> {
        match self.read() {
            Ok(tls) => Some(options.tls(tls)),
            Err(error) => {
                let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
                output::complain(&format!("{error}{source}"));
                None
            }
        }
    }

    fn read(&self) -> Result<TlsOptions, TlsOptionsError> {
        let mut tls = TlsOptions::default();
        for file in &self.ca {
            tls = tls.ca_file(file)?;
        }
        if let Some(name) = &self.name {
            tls = tls.server_name(name)?;
        }
        if self.insecure {
            tls = tls.insecure();
        }
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            tls = tls.certificate(certificate, key)?;
        }
        Ok(tls)
    }
}
