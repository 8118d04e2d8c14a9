//! JWKS client: fetches the document with the public keys of an issuer.
//!
//! A redirect is an error, because the operator has approved only the address in the settings, and
//! the target of a redirect may belong to another party. A document that is too long, or that takes
//! longer than [`FETCH_MAX`], is an error too, because it must not block the fetching thread.
//!
//! **Invariant:** no address but the one of the settings is contacted, and no error contains bytes
//! of the response.
//! **Not here:** the meaning of the document (`access`), the time at which it is
//! fetched (`key_fetcher`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use access::jwt::key_set::KeySet;
use actix_web::http::header::HttpDate;
use rustls::crypto::ring;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Longest time for fetching a document, including the connection.
pub const FETCH_MAX: Duration = Duration::from_secs(5);

const ACCEPT: &str = "application/json, application/jwk-set+json";
const USER_AGENT: &str = "tessera";

/// JWKS document of an issuer.
#[derive(Debug)]
pub struct FetchedDocument {
    /// The document, unparsed.
    pub bytes: Vec<u8>,
    /// Time of the response by the issuer's clock, to the second, if the response has one.
    pub date: Option<SystemTime>,
}

/// Fetches a document. Blocks for at most [`FETCH_MAX`]. Each call opens a connection and loads the
/// trusted certificates of the system, so that changes to these certificates take effect.
///
/// # Errors
/// Fails with a sentence for the log.
pub fn fetch(url: &str) -> Result<FetchedDocument, String> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(FETCH_MAX))
        .user_agent(USER_AGENT)
        .accept(ACCEPT);
    let agent: Agent = if url.starts_with("https:") {
        config.tls_config(trusted()?).build().into()
    } else {
        // The URL is one of this machine, which a proxy could not reach.
        config.proxy(None).build().into()
    };
    let mut response = agent.get(url).call().map_err(|error| error.to_string())?;
    match response.status().as_u16() {
        200 => {}
        status @ 300..=399 => {
            return Err(format!("the answer is a redirect ({status}): name the final address"));
        }
        status => return Err(format!("the answer has the status {status}")),
    }
    let date = response.headers().get("date").and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| date.parse::<HttpDate>().ok()).map(SystemTime::from);
    let longest = KeySet::DOCUMENT_LEN_MAX as u64;
    // The limit is one byte more than the longest document, so that a document of exactly that
    // length is not refused.
    let body = response.body_mut().with_config().limit(longest + 1).read_to_vec();
    let is_longer = match &body {
        Ok(body) => body.len() as u64 > longest,
        Err(error) => matches!(error, ureq::Error::BodyExceedsLimit(_)),
    };
    if is_longer {
        return Err(format!("the document is longer than {} KiB", longest >> 10));
    }
    let bytes = body.map_err(|error| error.to_string())?;
    Ok(FetchedDocument { bytes, date })
}

/// Returns the certificates that this machine trusts.
fn trusted() -> Result<TlsConfig, String> {
    let found = rustls_native_certs::load_native_certs();
    let roots: Vec<Certificate<'static>> =
        found.certs.iter().map(|one| Certificate::from_der(one).to_owned()).collect();
    if roots.is_empty() {
        return Err(
            "this machine trusts no certificates: name a file of them by SSL_CERT_FILE".to_owned()
        );
    }
    // The provider is set explicitly, because another crate may install a different default for
    // the process.
    let provider = Arc::new(ring::default_provider());
    let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&roots));
    Ok(tls.unversioned_rustls_crypto_provider(provider).build())
}
