//! Issuer: the settings of a system whose tokens are accepted.
//!
//! **Not here:** the section of the configuration file (`config/file`), reading the keys
//! (`access`).

use std::net::IpAddr;
use std::path::PathBuf;

use actix_web::http::Uri;
use shard_manager::access::jwt::issuer::IssuerSettings;

/// A system whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// Its settings.
    pub settings: IssuerSettings,
    /// Source of its keys.
    pub keys: IssuerKeys,
}

/// Source of the keys of an issuer.
#[derive(Clone, Debug)]
pub enum IssuerKeys {
    /// File with public keys, as a JWKS document.
    Jwks(PathBuf),
    /// Address of such a document.
    Url(String),
    /// File with the secret of HS256.
    Secret(PathBuf),
}

impl IssuerKeys {
    /// Returns the member that names the source, and its value.
    pub fn member(&self) -> (&'static str, String) {
        match self {
            Self::Jwks(path) => ("jwks_file", path.display().to_string()),
            Self::Url(url) => ("jwks_url", url.clone()),
            Self::Secret(path) => ("secret_file", path.display().to_string()),
        }
    }
}

/// Permitted addresses of documents, for errors.
pub(super) const URL_FORM: &str =
    "an https address without user, password and fragment (http only to this machine)";

/// Returns true for an address from which keys may be fetched. Without TLS anyone on the way could
/// replace the keys, so `http` is for this machine only.
pub(super) fn is_permitted_url(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let (Some(host), Some(authority)) = (uri.host(), uri.authority()) else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_own = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    let has_scheme = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => is_own,
        Some(_) | None => false,
    };
    has_scheme && !host.is_empty() && !authority.as_str().contains('@') && !text.contains('#')
}

impl IssuerConfig {
    /// Returns the members as they are shown; a path of a secret is none itself.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let settings = &self.settings;
        let algorithms: Vec<_> = settings.algorithms.iter().map(|one| one.name()).collect();
        let (source, place) = self.keys.member();
        let mut lines = vec![
            ("issuer", settings.issuer.clone()),
            ("audience", settings.audiences.join(",")),
            ("algorithms", algorithms.join(",")),
            (source, place),
            ("role_claim", settings.role_claim.clone()),
        ];
        lines.extend(settings.tenant_claim.clone().map(|claim| ("tenant_claim", claim)));
        lines.extend(settings.roles.as_ref().map(|roles| ("roles", roles.join(","))));
        lines.push(("lifetime_max_s", settings.lifetime_max.to_string()));
        lines
    }
}
