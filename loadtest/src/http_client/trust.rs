//! Trust: decides which certificates are accepted from a router with an https URL.
//!
//! The certificate authorities of this machine are trusted, or instead the certificates in the file
//! that the variable `SSL_CERT_FILE` names, as in other programs.

use std::io;
use std::sync::Arc;

use anyhow::Context;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::response_check::printable;

/// Explanation and remedy if a router presents a certificate of a certificate authority as its own.
const AUTHORITY: &str = "the certificate is one of an authority (CA:TRUE), as openssl makes them \
     by default, and must not prove a server: make one with openssl req -x509 -newkey \
     rsa:2048 -nodes -days 365 -keyout key.pem -out cert.pem -subj /CN=HOST -addext \
     subjectAltName=DNS:HOST,IP:ADDRESS -addext basicConstraints=critical,CA:FALSE (the names and \
     addresses that clients connect to)";

/// Name of the TLS library's error for a certificate of an authority. The error has no message of
/// its own.
const AUTHORITY_VARIANT: &str = "CaUsedAsEndEntity";
/// Remedy for a certificate of an unknown issuer.
const PIN: &str = "name the file that holds it, or its issuer's, by the variable SSL_CERT_FILE";
/// Remedy for a certificate that is not valid for the host even if its issuer is trusted.
const RENEW: &str = "give the router one that is valid for the host in --host";

/// Opens TLS connections to one host. The host's certificate must be valid for its name, which is
/// also sent to it.
pub(super) struct Trust {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Trust {
    /// Creates the TLS settings for connections to a router on this host.
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

    /// Encrypts a stream, once the other side has proven its identity.
    pub(super) async fn secure(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

/// Explains why a router's certificate was refused and how to solve this; `None` for any other
/// error.
pub(super) fn refusal(error: &io::Error) -> Option<String> {
    let cause = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(problem) = cause else { return None };
    let reported = problem.to_string();
    if reported.contains(AUTHORITY_VARIANT) {
        return Some(AUTHORITY.to_owned());
    }
    if matches!(problem, CertificateError::UnknownIssuer | CertificateError::BadSignature) {
        return Some(format!(
            "no certificate that this machine trusts has signed it: {PIN}, for example \
             SSL_CERT_FILE=cert.pem"
        ));
    }
    if let CertificateError::NotValidForNameContext { expected, presented } = problem {
        let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
        let (host, names) = (expected.to_str(), printable(&names.join(", ")));
        return Some(format!("it is made for {names} and not for {host}: {RENEW}"));
    }
    let expired = CertificateError::Expired;
    if *problem == expired || matches!(problem, CertificateError::ExpiredContext { .. }) {
        return Some(format!("it has expired: {RENEW}"));
    }
    let early = CertificateError::NotValidYet;
    if *problem == early || matches!(problem, CertificateError::NotValidYetContext { .. }) {
        return Some(format!("it is not valid yet: check the clocks of both machines, or {RENEW}"));
    }
    Some(format!("{}: {RENEW}", printable(&reported)))
}

/// Returns the name in `DnsName("name")` or `IpAddress(name)`, as TLS spells it.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}
