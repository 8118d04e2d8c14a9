//! Trust: whom the tester believes that it is the router, where an address says https.
//!
//! Trusted is whom this machine trusts, or the certificates of the file that the variable `SSL_CERT_FILE` names, as with
//! other programs.

use std::sync::Arc;

use anyhow::Context;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Remedy for a certificate that was made for an authority.
const AUTHORITY: &str = "the certificate is one of an authority (CA:TRUE), as openssl makes them \
     unless told otherwise, and must not prove a server: make one with openssl req -x509 -newkey \
     rsa:2048 -nodes -days 365 -keyout key.pem -out cert.pem -subj /CN=HOST -addext \
     subjectAltName=DNS:HOST,IP:ADDRESS -addext basicConstraints=critical,CA:FALSE (the names and \
     addresses that clients connect to)";

/// A certificate is asked for in this name, and must be for it.
pub(super) struct Trust {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Trust {
    /// Trust in the router of this host.
    pub(super) fn in_host(host: &str) -> anyhow::Result<Self> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        let causes: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        anyhow::ensure!(
            !roots.is_empty(),
            "this machine trusts no certificates ({}): name a file of them by SSL_CERT_FILE",
            if causes.is_empty() { "none was found".to_owned() } else { causes.join("; ") }
        );
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned())
            .with_context(|| format!("no certificate can be for `{host}`"))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// The stream, encrypted, once the other side has proven who it is.
    pub(super) async fn secure(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

/// Explains for people why a server was not trusted. TLS gives only the name of a variant.
pub(super) fn explained(error: &str) -> Option<&'static str> {
    error.contains("CaUsedAsEndEntity").then_some(AUTHORITY)
}
