//! TLS: the certificate of the router, which is reloaded when its files change.
//!
//! Certificates are valid for weeks, and routers run for months: a renewal of the files (by
//! certbot, cert-manager or a person) must not need a restart. The files are checked every
//! [`CHECK_EVERY`], and at once on SIGHUP. Open connections keep their certificate; new ones get
//! the new certificate. If the new key and certificate cannot be used, the old certificate stays in
//! use, and the log states the reason, once for each reason.
//!
//! **Invariant:** key and certificate are replaced together or not at all: while only one of the
//! two files is renewed they do not match, and such a pair is never used.
//! **Not here:** TLS to PostgreSQL (the shard manager), access control (`access`).

pub mod client_authority;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, InconsistentKeys, ServerConfig,
    SignatureScheme, StreamOwned,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use client_authority::ClientAuthority;

/// Interval between two checks of the files.
pub const CHECK_EVERY: Duration = Duration::from_secs(10);
/// Maximum size of a file that is read, in bytes. A chain of certificates has a few KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Paths of certificate and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// File with the certificate of the router, followed by the intermediate certificates, as PEM.
    pub certificate: PathBuf,
    /// File with the private key of the certificate, as PEM.
    pub key: PathBuf,
    /// Files for verifying certificates of clients; `None` if clients present no certificates.
    pub clients: Option<ClientFiles>,
}

/// Paths of the files about the certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// File with the certificates of the authorities, as PEM.
    pub authority: PathBuf,
    /// File with the lists of revoked certificates, as PEM.
    pub revoked: Option<PathBuf>,
    /// True if connections of clients without a certificate are refused.
    pub is_required: bool,
}

/// Error of files that cannot be used. It repeats nothing of their content.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or used, or is too large.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Description of the error.
        cause: String,
    },
    /// The key and the certificate do not match, though each file is valid by itself.
    #[error("the key in {} is not that of the certificate in {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// TLS cannot be set up, or SIGHUP cannot be received.
    #[error("{0}")]
    Setup(String),
}

/// The certificate that the router presents now, with its files.
#[derive(Debug)]
pub struct Identity {
    files: TlsFiles,
    shown: ArcSwap<CertifiedKey>,
    /// Verifier of the certificates of clients, if clients may present certificates.
    pub clients: Option<Arc<ClientAuthority>>,
}

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn read(files: TlsFiles) -> Result<Self, TlsError> {
        let shown = ArcSwap::from_pointee(pair(&files)?);
        let clients = files.clients.clone().map(ClientAuthority::read).transpose()?.map(Arc::new);
        Ok(Self { files, shown, clients })
    }

    /// Reads the files again and presents the certificate in them; returns true if it has changed.
    ///
    /// # Errors
    /// [`TlsError`]; the router then presents the same certificate as before.
    pub fn renew(&self) -> Result<bool, TlsError> {
        let found = pair(&self.files)?;
        let is_new = found.cert != self.shown.load().cert;
        if is_new {
            self.shown.store(Arc::new(found));
        }
        Ok(is_new)
    }
}

/// Period in which clients accept a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment of the period (`notBefore`).
    pub begins: SystemTime,
    /// Last moment of the period (`notAfter`).
    pub ends: SystemTime,
}

impl Identity {
    /// Returns the period in which clients accept the certificate that the router presents, because
    /// every certificate of its chain is valid; `None` if one of them cannot be read.
    pub fn validity(&self) -> Option<Validity> {
        let shown = self.shown.load();
        let mut chain = shown.cert.iter().map(|certificate| validity(certificate));
        let first = chain.next()??;
        chain.try_fold(first, |all, one| {
            let one = one?;
            Some(Validity { begins: all.begins.max(one.begins), ends: all.ends.min(one.ends) })
        })
    }
}

fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let read = Certificate::from_der(certificate).ok()?.tbs_certificate.validity;
    Some(Validity {
        begins: read.not_before.to_system_time(),
        ends: read.not_after.to_system_time(),
    })
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown.load_full())
    }
}

/// Returns the configuration of the server: TLS 1.2 and 1.3, the current certificate of the
/// identity, and certificates of clients if the identity has an authority for them.
///
/// # Errors
/// [`TlsError::Setup`].
pub fn acceptor(identity: Arc<Identity>) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    let Some(clients) = identity.clients.clone() else {
        return Ok(builder.with_no_client_auth().with_cert_resolver(identity));
    };
    let builder = builder.with_client_cert_verifier(clients);
    let mut config = builder.with_cert_resolver(identity);
    ClientAuthority::configure(&mut config);
    Ok(config)
}

/// Checks the files for a new certificate, at intervals and on SIGHUP.
#[derive(Debug)]
pub struct CertificateWatcher {
    identity: Arc<Identity>,
    hangup_signal: Signal,
}

impl CertificateWatcher {
    /// Takes over SIGHUP: it no longer ends the process, but causes the files to be read.
    ///
    /// # Errors
    /// [`TlsError::Setup`] if signals cannot be received.
    pub fn new(identity: Arc<Identity>) -> Result<Self, TlsError> {
        let hangup_signal = signal(SignalKind::hangup());
        let hangup_signal = hangup_signal.map_err(|e| TlsError::Setup(e.to_string()))?;
        Ok(Self { identity, hangup_signal })
    }

    /// Checks the files for ever.
    pub async fn run(mut self) {
        let mut certificate = ReportedState::new(
            "the certificate is renewed: new connections get it",
            "the certificate was checked: it is the same",
            "the certificate is not renewed, the old one stays",
        );
        let mut clients = ReportedState::new(
            "authorities and revoked certificates of clients were read again and are in force",
            "authorities and revoked certificates of clients were checked: they are the same",
            "authorities and revoked certificates of clients were not read again, the old ones stay",
        );
        loop {
            let was_requested = tokio::select! {
                () = tokio::time::sleep(CHECK_EVERY) => false,
                _ = self.hangup_signal.recv() => true,
            };
            let identity = self.identity.clone();
            let renewed = tokio::task::spawn_blocking(move || {
                (identity.renew(), identity.clients.as_ref().map(|clients| clients.renew()))
            });
            match renewed.await {
                Ok((own, of_clients)) => {
                    certificate.report(own, was_requested);
                    if let Some(renewed) = of_clients {
                        clients.report(renewed, was_requested);
                    }
                }
                Err(error) => {
                    certificate.report(Err(TlsError::Setup(error.to_string())), was_requested);
                }
            }
        }
    }
}

/// Last fault that was logged, and the messages to log.
struct ReportedState {
    fault: String,
    renewed: &'static str,
    same: &'static str,
    failed: &'static str,
}

impl ReportedState {
    fn new(renewed: &'static str, same: &'static str, failed: &'static str) -> Self {
        Self { fault: String::new(), renewed, same, failed }
    }

    /// Logs the outcome of a check, each fault once. The outcome of a check that SIGHUP requested
    /// is always logged.
    fn report(&mut self, renewed: Result<bool, TlsError>, was_requested: bool) {
        match renewed {
            Ok(is_new) => {
                self.fault.clear();
                if is_new {
                    tracing::info!("{}", self.renewed);
                } else if was_requested {
                    tracing::info!("{}", self.same);
                }
            }
            Err(error) => {
                let cause = error.to_string();
                if was_requested || cause != self.fault {
                    tracing::warn!("{}: {cause}", self.failed);
                }
                self.fault = cause;
            }
        }
    }
}

/// Starts TLS on a connection from this machine to its own router. The certificate contains the
/// names that clients use, not the loopback address, so it is not verified.
///
/// # Errors
/// Errors of the connection.
pub fn connect_to_self(address: IpAddr, stream: TcpStream) -> std::io::Result<impl Read + Write> {
    let provider = provider();
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), address.into());
    Ok(StreamOwned::new(connection.map_err(std::io::Error::other)?, stream))
}

/// Verifier that accepts any certificate whose private key the server has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns the cryptography provider. It is named here, because another crate may install a
/// different default for the process.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn pair(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let TlsFiles { certificate, key, clients: _ } = files;
    let bad = |path: &Path, cause: &str| TlsError::File {
        path: path.to_owned(),
        cause: cause.to_owned(),
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content(certificate)?).collect();
    let chain = chain.map_err(|_| bad(certificate, "its PEM is broken"))?;
    if chain.is_empty() {
        return Err(bad(certificate, "there is no certificate in it, as PEM"));
    }
    let private = PrivateKeyDer::from_pem_slice(&content(key)?).map_err(|error| {
        if matches!(error, pem::Error::NoItemsFound) {
            bad(key, "there is no private key in it that has no passphrase, as PEM")
        } else {
            bad(key, "its PEM is broken")
        }
    })?;
    CertifiedKey::from_der(chain, private, &provider()).map_err(|error| {
        if let Error::InconsistentKeys(InconsistentKeys::KeyMismatch) = error {
            TlsError::KeyMismatch { certificate: certificate.clone(), key: key.clone() }
        } else if let Error::InvalidCertificate(error) = error {
            bad(certificate, &error.to_string())
        } else {
            let kinds = "RSA, ECDSA (P-256, P-384) or Ed25519";
            bad(key, &format!("a key of this kind cannot be used: take {kinds}"))
        }
    })
}

fn content(path: &Path) -> Result<Vec<u8>, TlsError> {
    let bad = |cause: String| TlsError::File { path: path.to_owned(), cause };
    let length = std::fs::metadata(path).map_err(|error| bad(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(bad(format!("it has {length} bytes; at most {FILE_BYTES_MAX} are read")));
    }
    std::fs::read(path).map_err(|error| bad(error.to_string()))
}
