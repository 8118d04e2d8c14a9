//! HTTP agent: the HTTP client of the commands, with TLS for `https` addresses.
//!
//! The client trusts the certificate authorities of this machine, or the certificates in the file
//! that the environment variable `SSL_CERT_FILE` names, as other programs do. With such a file,
//! routers may have certificates of private authorities or self-signed certificates.
//!
//! **Invariant:** a credential is sent only over https or to this machine, and only to the router
//! that the command names: a request with a credential follows no redirect.
//! **Not here:** the requests (`command/router`, `command/upload`).

use std::path::PathBuf;
use std::sync::Arc;

use credential::Credential;
use rustls::crypto::ring;
use ureq::config::ConfigBuilder;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::typestate::{AgentScope, WithBody, WithoutBody};
use ureq::{Agent, RequestBuilder};

/// Message for a server certificate that is marked as the certificate of an authority.
const AUTHORITY: &str = "the certificate is one of an authority (CA:TRUE), as openssl makes them \
     by default, and must not prove a server: make one with openssl req -x509 -newkey \
     rsa:2048 -nodes -days 365 -keyout key.pem -out cert.pem -subj /CN=HOST -addext \
     subjectAltName=DNS:HOST,IP:ADDRESS -addext basicConstraints=critical,CA:FALSE (the names and \
     addresses that clients connect to)";

/// Router that a command sends requests to.
#[derive(Clone, Debug)]
pub(crate) struct RouterAddress {
    /// URL, such as `http://127.0.0.1:3000`.
    pub(crate) url: String,
    /// File with the credential, if `--key-file` is given.
    pub(crate) key_file: Option<PathBuf>,
}

/// Client of a router, with the credential for it.
pub(super) struct Client {
    agent: Agent,
    url: String,
    credential: Option<Credential>,
}

impl Client {
    /// Creates a client, without sending a request.
    ///
    /// # Errors
    /// Fails if the address is invalid, no certificates are trusted, the credential cannot be read,
    /// or there is a credential and the address is neither https nor on this machine.
    pub(super) fn new(
        address: &RouterAddress,
        options: ConfigBuilder<AgentScope>,
    ) -> Result<Self, String> {
        let url = address.url.trim_end_matches('/').to_owned();
        let credential = Credential::find(address.key_file.as_deref());
        let credential = credential.map_err(|error| error.to_string())?;
        let options = match &credential {
            None => options,
            Some(_) => {
                Credential::check_url(&url).map_err(|error| error.to_string())?;
                let options = options.max_redirects(0);
                // Without TLS, a proxy that an environment variable names could read the
                // credential.
                if url.starts_with("https://") { options } else { options.proxy(None) }
            }
        };
        Ok(Self { agent: agent(&url, options)?, url, credential })
    }

    /// Returns the URL of the router.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Begins a GET request.
    pub(super) fn get(&self, path: &str) -> RequestBuilder<WithoutBody> {
        self.with_credential(self.agent.get(format!("{}{path}", self.url)))
    }

    /// Begins a POST request.
    pub(super) fn post(&self, path: &str) -> RequestBuilder<WithBody> {
        self.with_credential(self.agent.post(format!("{}{path}", self.url)))
    }

    /// Begins a PATCH request.
    pub(super) fn patch(&self, path: &str) -> RequestBuilder<WithBody> {
        self.with_credential(self.agent.patch(format!("{}{path}", self.url)))
    }

    /// Begins a DELETE request.
    pub(super) fn delete(&self, path: &str) -> RequestBuilder<WithoutBody> {
        self.with_credential(self.agent.delete(format!("{}{path}", self.url)))
    }

    fn with_credential<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.credential {
            None => request,
            Some(credential) => request.header("authorization", credential.bearer()),
        }
    }

    /// Returns the remedy for a response with this status, to be appended to the message; empty if
    /// there is none.
    pub(super) fn remedy(&self, status: u16) -> &'static str {
        match (status, &self.credential) {
            (401, None) => "; name a file with an API key by --key-file, or set TESSERA_KEY",
            (300..=399, Some(_)) => {
                "; with a key no redirect is followed: name its target by --url"
            }
            _ => "",
        }
    }
}

fn agent(url: &str, options: ConfigBuilder<AgentScope>) -> Result<Agent, String> {
    let options = options.http_status_as_error(false);
    if let Some(port) = port(url).filter(|port| !matches!(port.parse::<u16>(), Ok(1..))) {
        return Err(format!("`{port}` is not a port: ports go from 1 to 65535"));
    }
    match url.split_once("://") {
        Some(("http", _)) => Ok(options.build().new_agent()),
        Some(("https", _)) => Ok(options.tls_config(trusting()?).build().new_agent()),
        Some(_) | None => Err(format!(
            "`{url}` is not the address of a router: it begins with http:// or https://"
        )),
    }
}

/// Returns the message for an error of the HTTP client. For one kind of bad certificate, the TLS
/// library reports only the name `CaUsedAsEndEntity`, so this function explains it.
pub(super) fn description(error: &ureq::Error) -> String {
    let said = error.to_string();
    if said.contains("CaUsedAsEndEntity") {
        return AUTHORITY.to_owned();
    }
    // The HTTP client puts this prefix before errors of the operating system.
    said.strip_prefix("io: ").map_or(said.clone(), str::to_owned)
}

/// Returns the port of a URL, if it contains one.
fn port(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    // Colons in brackets are skipped: they are part of an IPv6 address.
    let behind = authority.rsplit(']').next()?;
    behind.rsplit_once(':').map(|(_, port)| port)
}

fn trusting() -> Result<TlsConfig, String> {
    let found = rustls_native_certs::load_native_certs();
    let trusted: Vec<Certificate<'static>> =
        found.certs.iter().map(|one| Certificate::from_der(one).to_owned()).collect();
    if trusted.is_empty() {
        let causes: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let cause = if causes.is_empty() { "none was found".to_owned() } else { causes.join("; ") };
        return Err(format!(
            "this machine trusts no certificates ({cause}): name a file of them by SSL_CERT_FILE"
        ));
    }
    // The provider is passed explicitly, because another crate may install another default for the
    // process.
    let provider = Arc::new(ring::default_provider());
    let trusting = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&trusted));
    Ok(trusting.unversioned_rustls_crypto_provider(provider).build())
}
