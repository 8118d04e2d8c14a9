//! Client authority: verifies the certificates that clients present, with authorities and lists of
//! revoked certificates that are read again when their files change.
//!
//! Clients get no tickets to resume a TLS session: a resumed session would not verify the
//! certificate again, so that a client with a revoked certificate could open connections until its
//! ticket expires.
//!
//! **Invariant:** authorities and revoked certificates are replaced together, and each replacement
//! begins a new generation, by which the certificates of open connections can be verified again.
//! **Not here:** the rights that a certificate gives (`access`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};

use super::{ClientFiles, TlsError, content, provider};

/// Authorities whose certificates clients may present.
#[derive(Debug)]
pub struct ClientAuthority {
    files: ClientFiles,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Content>,
    /// Number of the current content, which increases with each replacement.
    generation: AtomicU64,
}

/// Content of the files.
#[derive(Debug)]
struct Content {
    authorities: Vec<u8>,
    revoked: Option<Vec<u8>>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl ClientAuthority {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn read(files: ClientFiles) -> Result<Self, TlsError> {
        let provider = provider();
        let current = ArcSwap::from_pointee(Content::read(&files, &provider)?);
        Ok(Self { files, provider, current, generation: AtomicU64::new(1) })
    }

    /// Reads the files again; returns true if their content has changed and is now in force.
    ///
    /// # Errors
    /// [`TlsError`]; the previous content then stays in force.
    pub fn renew(&self) -> Result<bool, TlsError> {
        let found = Content::read(&self.files, &self.provider)?;
        let known = self.current.load();
        if found.authorities == known.authorities && found.revoked == known.revoked {
            return Ok(false);
        }
        self.current.store(Arc::new(found));
        self.generation.fetch_add(1, Ordering::Release);
        Ok(true)
    }

    /// Returns the number of the content that is in force.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Returns true if the certificates of a client are valid at the time `now`. `chain` begins
    /// with the client's own certificate, followed by the intermediate certificates.
    pub fn is_valid(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> bool {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(since);
        chain.split_first().is_some_and(|(own, between)| {
            self.current.load().verifier.verify_client_cert(own, between, now).is_ok()
        })
    }

    /// Disables resumption of sessions in the configuration of a server that has this verifier.
    pub fn configure(config: &mut ServerConfig) {
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
}

impl Content {
    fn read(files: &ClientFiles, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let bad = |path: &std::path::Path, cause: &str| TlsError::File {
            path: path.to_owned(),
            cause: cause.to_owned(),
        };
        let authorities = content(&files.authority)?;
        let mut roots = RootCertStore::empty();
        for one in CertificateDer::pem_slice_iter(&authorities) {
            let one = one.map_err(|_| bad(&files.authority, "its PEM is broken"))?;
            roots.add(one).map_err(|error| bad(&files.authority, &error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(bad(&files.authority, "there is no certificate in it, as PEM"));
        }
        let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let builder = if files.is_required { builder } else { builder.allow_unauthenticated() };
        let (revoked, builder) = match &files.revoked {
            None => (None, builder),
            Some(path) => {
                let bytes = content(path)?;
                let lists = CertificateRevocationListDer::pem_slice_iter(&bytes);
                let lists: Vec<_> =
                    lists.collect::<Result<_, _>>().map_err(|_| bad(path, "its PEM is broken"))?;
                if lists.is_empty() {
                    return Err(bad(
                        path,
                        "there is no list of revoked certificates in it, as PEM",
                    ));
                }
                (Some(bytes), builder.with_crls(lists))
            }
        };
        let verifier = builder.build().map_err(|error| match (error, &files.revoked) {
            (VerifierBuilderError::InvalidCrl(error), Some(path)) => {
                bad(path, &format!("its list cannot be used: {error:?}"))
            }
            (error, _) => TlsError::Setup(error.to_string()),
        })?;
        Ok(Self { authorities, revoked, verifier })
    }
}

impl ClientCertVerifier for ClientAuthority {
    fn client_auth_mandatory(&self) -> bool {
        self.files.is_required
    }

    /// Returns no names of authorities: rustls would keep those of the start, even after the
    /// authorities are replaced.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.current.load().verifier.verify_client_cert(own, between, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current.load().verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current.load().verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current.load().verifier.supported_verify_schemes()
    }
}
