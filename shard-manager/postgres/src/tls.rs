//! TLS: the checks of a certificate for each mode of an address.
//!
//! **Invariant:** in every mode the server proves that it has the key of its certificate; with
//! `verify-ca` and `verify-full`, a trusted authority must have signed the certificate.
//! **Not here:** the mode of an address (`node_address`), the connection
//! (`session`).

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::node_address::{NodeAddress, TlsMode};

/// Reason why there are no root certificates.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootsError {
    #[error("the file of sslrootcert, {}, contains no usable certificate: {cause}", path.display())]
    File { path: PathBuf, cause: String },
    #[error("the system trusts no certificates ({cause}): name a file by sslrootcert")]
    System { cause: String },
    #[error("{0}")]
    Setup(#[from] Error),
}

/// Checks of a certificate.
#[derive(Clone, Copy)]
enum Proof {
    Nothing,
    Authority,
    AuthorityAndName,
}

/// Returns the TLS connector of an address; `None` if the connection must not be encrypted.
pub(super) fn connector(address: &NodeAddress) -> Result<Option<MakeRustlsConnect>, RootsError> {
    let proof = match (address.tls, &address.root_certificates) {
        (TlsMode::Disable, _) => return Ok(None),
        (TlsMode::Prefer, _) | (TlsMode::Require, None) => Proof::Nothing,
        (TlsMode::Require, Some(_)) | (TlsMode::VerifyCa, _) => Proof::Authority,
        (TlsMode::VerifyFull, _) => Proof::AuthorityAndName,
    };
    // The provider is named here, because another crate may install another one for the process.
    let provider = Arc::new(ring::default_provider());
    let roots = || match &address.root_certificates {
        Some(path) => roots_of_file(path).map(Arc::new),
        None => roots_of_system(),
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let config = match proof {
        Proof::AuthorityAndName => builder.with_root_certificates(roots()?).with_no_client_auth(),
        Proof::Nothing => lenient(builder, None, provider),
        Proof::Authority => lenient(builder, Some(roots()?), provider),
    };
    Ok(Some(MakeRustlsConnect::new(config)))
}

fn lenient(
    builder: rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>,
    roots: Option<Arc<RootCertStore>>,
    provider: Arc<CryptoProvider>,
) -> ClientConfig {
    let verifier = Arc::new(AnyName { roots, provider });
    builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, RootsError> {
    let bad = |cause: String| RootsError::File { path: path.to_owned(), cause };
    let mut roots = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() { Err(bad("there is none in it".to_owned())) } else { Ok(roots) }
}

/// Returns the root certificates of the system. They are hundreds, so they are read once.
fn roots_of_system() -> Result<Arc<RootCertStore>, RootsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots.clone());
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let causes: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let cause = if causes.is_empty() { "none was found".to_owned() } else { causes.join("; ") };
        return Err(RootsError::System { cause });
    }
    Ok(ROOTS.get_or_init(|| Arc::new(roots)).clone())
}

/// Verifier that does not check the host name: it accepts certificates of these authorities, or,
/// without authorities, any certificate.
#[derive(Debug)]
struct AnyName {
    roots: Option<Arc<RootCertStore>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            let algorithms = self.provider.signature_verification_algorithms.all;
            let certificate = ParsedCertificate::try_from(certificate)?;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                roots,
                intermediates,
                now,
                algorithms,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
