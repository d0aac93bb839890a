//! One handshake of our own, which tells apart what a client library's words do not: whose certificate is refused, and
//! for what.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, ClientConfig, ClientConnection, Error, RootCertStore};

use crate::{Identity, Tls};

/// After the handshake a server that does not like our certificate says so at once; who is silent so long likes it.
const VERDICT: Duration = Duration::from_millis(500);

/// Why a server cannot be spoken to, as one sentence that says what to look at.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The name has no address.
    #[error("the name of {address} is not known here ({source}); look at DNS, or at the spelling")]
    Name {
        /// `host:port`.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// Nobody takes the connection.
    #[error(
        "{address} does not take a connection ({source}); is the server running, and the port the right one?"
    )]
    Connect {
        /// `host:port`.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The server does not speak TLS.
    #[error("{address} does not speak TLS; is this the port of plain text?")]
    NoTls {
        /// `host:port`.
        address: String,
    },
    /// The server's certificate is of an authority that is not ours.
    #[error("the certificate of {address} is not signed by the authority in {}", .ca_file.display())]
    Authority {
        /// `host:port`.
        address: String,
        /// Whose authority.
        ca_file: PathBuf,
    },
    /// The server's certificate is for another name.
    #[error(
        "the certificate of {address} is for another name; it must have the name that is written in the configuration"
    )]
    OtherName {
        /// `host:port`.
        address: String,
    },
    /// The server's certificate is out of its time.
    #[error(
        "the certificate of {address} has expired or is not valid yet; look at the clock here and at its dates"
    )]
    Time {
        /// `host:port`.
        address: String,
    },
    /// The server wants to know who we are.
    #[error("{address} wants a certificate of ours; write cert_file and key_file")]
    NoIdentity {
        /// `host:port`.
        address: String,
    },
    /// Our certificate is out of its time.
    #[error("our certificate {} has expired or is not valid yet; put a new one in its place", .cert_file.display())]
    OwnTime {
        /// Which.
        cert_file: PathBuf,
    },
    /// The server does not accept our certificate.
    #[error("{address} does not accept our certificate {}: {alert}; is it signed by an authority that the server knows?", .cert_file.display())]
    OwnCertificate {
        /// `host:port`.
        address: String,
        /// Which.
        cert_file: PathBuf,
        /// What the server says.
        alert: String,
    },
    /// A file of ours is not what it should be.
    #[error("{} cannot be used: {what}", .file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Something else.
    #[error("the TLS handshake with {address} fails: {what}")]
    Other {
        /// `host:port`.
        address: String,
        /// What.
        what: String,
    },
}

/// Makes a connection as the configuration says, and ends it. Blocks for at most twice `patience`.
///
/// *Errors*: [`Refusal`].
pub fn handshake(address: &str, tls: &Tls, patience: Duration) -> Result<(), Refusal> {
    let config = config(tls)?;
    if let Some(identity) = &tls.identity {
        check_own_time(identity, &tls.ca_file)?;
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let other = |what: String| Refusal::Other { address: address.to_owned(), what };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| other(error.to_string()))?;
    let mut stream = connect(address, patience)?;
    let mut session =
        ClientConnection::new(Arc::new(config), name).map_err(|error| other(error.to_string()))?;
    let deadline = Instant::now() + patience;
    while session.is_handshaking() {
        if let Err(error) = session.complete_io(&mut stream) {
            return Err(judge(&error, address, tls));
        }
        if Instant::now() > deadline {
            return Err(other("it takes too long".to_owned()));
        }
    }
    verdict(&mut session, &mut stream, address, tls)
}

/// Tries an address: a handshake, or without TLS whether somebody takes the connection. Blocks as [`handshake`] does.
///
/// *Errors*: [`Refusal`].
pub fn reach(address: &str, tls: Option<&Tls>, patience: Duration) -> Result<(), Refusal> {
    match tls {
        Some(tls) => handshake(address, tls, patience),
        None => connect(address, patience).map(drop),
    }
}

/// Hears what the server says of our certificate, which in TLS 1.3 comes after the handshake.
fn verdict(
    session: &mut ClientConnection,
    stream: &mut TcpStream,
    address: &str,
    tls: &Tls,
) -> Result<(), Refusal> {
    let silent = |error: &io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    let heard = stream.set_read_timeout(Some(VERDICT)).and_then(|()| {
        rustls::Stream::new(session, stream).flush()?;
        rustls::Stream::new(session, stream).read(&mut [0])
    });
    match heard {
        Err(error) if !silent(&error) => Err(judge(&error, address, tls)),
        _ => Ok(()),
    }
}

fn connect(address: &str, patience: Duration) -> Result<TcpStream, Refusal> {
    let resolved = address.to_socket_addrs();
    let resolved =
        resolved.map_err(|source| Refusal::Name { address: address.to_owned(), source })?.collect::<Vec<_>>();
    let mut last = io::Error::from(ErrorKind::NotFound);
    for found in resolved {
        match TcpStream::connect_timeout(&found, patience) {
            Ok(stream) => {
                let limited = stream
                    .set_read_timeout(Some(patience))
                    .and_then(|()| stream.set_write_timeout(Some(patience)));
                return limited
                    .map(|()| stream)
                    .map_err(|source| Refusal::Connect { address: address.to_owned(), source });
            }
            Err(error) => last = error,
        }
    }
    Err(Refusal::Connect { address: address.to_owned(), source: last })
}

/// Says what an error of the handshake means.
fn judge(error: &io::Error, address: &str, tls: &Tls) -> Refusal {
    let address = address.to_owned();
    let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match error.kind() {
            // Who does not understand the first message hangs up.
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => Refusal::NoTls { address },
            _ => Refusal::Other { address, what: error.to_string() },
        };
    };
    match inner {
        Error::InvalidMessage(_) => Refusal::NoTls { address },
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            Refusal::Authority { address, ca_file: tls.ca_file.clone() }
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => Refusal::OtherName { address },
        Error::InvalidCertificate(error) if is_of_time(error) => Refusal::Time { address },
        Error::AlertReceived(alert) => match &tls.identity {
            None => Refusal::NoIdentity { address },
            Some(identity) => Refusal::OwnCertificate {
                address,
                cert_file: identity.cert_file.clone(),
                alert: format!("{alert:?}"),
            },
        },
        other => Refusal::Other { address, what: other.to_string() },
    }
}

const fn is_of_time(error: &CertificateError) -> bool {
    matches!(
        error,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    )
}

/// Looks at the dates of our own certificate; who signed it is the server's business.
fn check_own_time(identity: &Identity, ca_file: &Path) -> Result<(), Refusal> {
    let chain = certificates(&identity.cert_file)?;
    let Some((own, between)) = chain.split_first() else { return Ok(()) };
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca_file)?), provider)
        .build()
        .map_err(|error| Refusal::File { file: ca_file.to_owned(), what: error.to_string() })?;
    match verifier.verify_client_cert(own, between, UnixTime::now()) {
        Err(Error::InvalidCertificate(error)) if is_of_time(&error) => {
            Err(Refusal::OwnTime { cert_file: identity.cert_file.clone() })
        }
        _ => Ok(()),
    }
}

fn config(tls: &Tls) -> Result<ClientConfig, Refusal> {
    let wrong = |file: &Path, error: &Error| Refusal::File { file: file.to_owned(), what: error.to_string() };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&tls.ca_file, &error))?
        .with_root_certificates(roots(&tls.ca_file)?);
    match &tls.identity {
        None => Ok(builder.with_no_client_auth()),
        Some(identity) => {
            let chain = certificates(&identity.cert_file)?;
            let key_file = &identity.key_file;
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|error| Refusal::File { file: key_file.clone(), what: error.to_string() })?;
            builder.with_client_auth_cert(chain, key).map_err(|error| wrong(key_file, &error))
        }
    }
}

fn roots(file: &Path) -> Result<RootCertStore, Refusal> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| Refusal::File { file: file.to_owned(), what: error.to_string() })?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Refusal> {
    let wrong = |what: String| Refusal::File { file: file.to_owned(), what };
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?.collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("it holds no certificate in PEM".to_owned())) } else { Ok(found) }
}

#[cfg(test)]
mod tests;
