//! How a link to a server is secured: certificates, user name and password, and what a refused one is refused for.
//!
//! The files are named in the configuration and read whenever a connection's settings are made, so that a changed one is
//! followed ([`Stamp`]). Invariant: a password leaves this crate as a setting of librdkafka only, never in a message.

mod diagnosis;
mod handshake;

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

pub use diagnosis::{Diagnosis, PATIENCE, ask};
pub use handshake::{Refusal, handshake, reach};

/// How a link is secured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Security {
    /// `None`: plain text.
    pub tls: Option<Tls>,
    /// `None`: no user name and password.
    pub sasl: Option<Sasl>,
}

/// TLS; names are always verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The authority that signed the server's certificate, PEM.
    pub ca_file: PathBuf,
    /// What the program shows of itself.
    pub identity: Option<Identity>,
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, with those between it and the authority.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

/// A user name and a password by SCRAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sasl {
    /// `SCRAM-SHA-512` or `SCRAM-SHA-256`.
    pub mechanism: &'static str,
    /// Whose password it is.
    pub username: String,
    /// The file whose first line is the password.
    pub password_file: PathBuf,
}

/// Mechanisms that send no password over the link; the first one is the default.
pub const MECHANISMS: [&str; 2] = ["SCRAM-SHA-512", "SCRAM-SHA-256"];

/// The password's file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("[kafka] sasl: {} cannot be read", .file.display())]
pub struct PasswordError {
    /// Which.
    pub file: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Security {
    /// Gives librdkafka's settings; it verifies names by itself.
    ///
    /// *Errors*: [`PasswordError`].
    pub fn settings(&self) -> Result<Vec<(&'static str, String)>, PasswordError> {
        let Some(tls) = &self.tls else { return Ok(Vec::new()) };
        let protocol = if self.sasl.is_some() { "sasl_ssl" } else { "ssl" };
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let mut settings =
            vec![("security.protocol", protocol.to_owned()), ("ssl.ca.location", path(&tls.ca_file))];
        if let Some(identity) = &tls.identity {
            settings.push(("ssl.certificate.location", path(&identity.cert_file)));
            settings.push(("ssl.key.location", path(&identity.key_file)));
        }
        if let Some(sasl) = &self.sasl {
            let file = &sasl.password_file;
            let text = std::fs::read_to_string(file)
                .map_err(|source| PasswordError { file: file.clone(), source })?;
            settings.push(("sasl.mechanism", sasl.mechanism.to_owned()));
            settings.push(("sasl.username", sasl.username.clone()));
            settings.push(("sasl.password", text.lines().next().unwrap_or_default().to_owned()));
        }
        Ok(settings)
    }
}

/// How the files of a link looked: time of change and length, of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(Vec<Option<(SystemTime, u64)>>);

impl Stamp {
    /// Looks at the files.
    #[must_use]
    pub fn of(security: &Security) -> Self {
        let tls = security.tls.iter().flat_map(|tls| {
            let identity = tls.identity.iter().flat_map(|identity| [&identity.cert_file, &identity.key_file]);
            std::iter::once(&tls.ca_file).chain(identity)
        });
        let look = |file: &PathBuf| {
            let found = std::fs::metadata(file).ok()?;
            Some((found.modified().ok()?, found.len()))
        };
        Self(tls.chain(security.sasl.iter().map(|sasl| &sasl.password_file)).map(look).collect())
    }
}
