//! Trust: which authorities a certificate may come from, for whoever this crate connects to.
//!
//! **Invariant:** nothing is connected to by TLS without its certificate and its name having been proved.
//! **Not here:** the connections (`store/postgres`, `wire`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Remedy for a certificate that was made for an authority.
const AUTHORITY: &str = "the certificate is one of an authority (CA:TRUE), as openssl makes them \
     unless told otherwise, and must not prove a server: make one with openssl req -x509 -newkey \
     rsa:2048 -nodes -days 365 -keyout key.pem -out cert.pem -subj /CN=HOST -addext \
     subjectAltName=DNS:HOST,IP:ADDRESS -addext basicConstraints=critical,CA:FALSE (the names and \
     addresses that clients connect to)";

/// Why there is nothing to prove certificates with.
#[derive(Debug, thiserror::Error)]
pub enum TlsRootsError {
    /// The file that was named.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Those of the system.
    #[error("the system trusts no certificates ({0}): name a file of them by SSL_CERT_FILE")]
    System(String),
    /// This process cannot speak TLS.
    #[error(transparent)]
    Setup(#[from] rustls::Error),
}

/// TLS to servers whose certificates come from the authorities of this file, or from those of the system and of
/// `SSL_CERT_FILE`.
///
/// # Errors
/// [`TlsRootsError`] if there are none.
pub fn client(authorities: Option<&Path>) -> Result<ClientConfig, TlsRootsError> {
    let roots = match authorities {
        Some(path) => of_file(path)?,
        None => of_system()?,
    };
    // Named, not taken from the process: another crate may bring another provider.
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Explains for people why a server was not trusted. TLS gives only the name of a variant.
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
