//! TLS roots: the authorities whose certificates are trusted on connections to servers.
//!
//! **Invariant:** no TLS connection is used before the certificate and its name have been checked.
//! **Not here:** the connections (`store/postgres`, `web_kit::http_client`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Explanation and remedy if a server presents a certificate of a certificate authority as its own.
const AUTHORITY: &str = "the certificate is one of an authority (CA:TRUE), as openssl makes them \
     by default, and must not prove a server: make one with openssl req -x509 -newkey \
     rsa:2048 -nodes -days 365 -keyout key.pem -out cert.pem -subj /CN=HOST -addext \
     subjectAltName=DNS:HOST,IP:ADDRESS -addext basicConstraints=critical,CA:FALSE (the names and \
     addresses that clients connect to)";

/// Reason why certificates cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum TlsRootsError {
    /// The file of authorities is not usable.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Cause of the failure.
        cause: String,
    },
    /// The system has no trusted authorities.
    #[error("the system trusts no certificates ({0}): name a file of them by SSL_CERT_FILE")]
    System(String),
    /// TLS cannot be set up in this process.
    #[error(transparent)]
    Setup(#[from] rustls::Error),
}

/// Returns a TLS configuration that trusts the authorities of this file, or those of the system and
/// of `SSL_CERT_FILE`.
///
/// # Errors
/// Fails with [`TlsRootsError`] if there are no authorities.
pub fn client(authorities: Option<&Path>) -> Result<ClientConfig, TlsRootsError> {
    let roots = match authorities {
        Some(path) => of_file(path)?,
        None => of_system()?,
    };
    // The provider is named here because another crate may set another for the process.
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Returns an explanation if a TLS error says that a server presented a certificate of an
/// authority. The error itself contains only the name of an enum variant.
pub fn explained(error: &str) -> Option<&'static str> {
    error.contains("CaUsedAsEndEntity").then_some(AUTHORITY)
}

fn of_file(path: &Path) -> Result<RootCertStore, TlsRootsError> {
    let bad = |cause: String| TlsRootsError::File { path: path.to_owned(), cause };
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("there is no certificate in it, as PEM".to_owned()));
    }
    Ok(roots)
}

fn of_system() -> Result<RootCertStore, TlsRootsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let causes: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let cause = if causes.is_empty() { "none was found".to_owned() } else { causes.join("; ") };
        return Err(TlsRootsError::System(cause));
    }
    Ok(roots)
}
