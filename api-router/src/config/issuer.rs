//! Issuer: the settings of a system whose tokens are accepted.
//!
//! **Not here:** the section of the configuration file (`config/file`), reading the keys
//! (`access`).

use std::path::PathBuf;

use shard_manager::access::jwt::issuer::IssuerSettings;

/// A system whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// Its settings.
    pub settings: IssuerSettings,
    /// File with its keys.
    pub keys: IssuerKeys,
}

/// File with the keys of an issuer.
#[derive(Clone, Debug)]
pub enum IssuerKeys {
    /// Public keys, as a JWKS document.
    Jwks(PathBuf),
    /// Secret of HS256.
    Secret(PathBuf),
}

impl IssuerConfig {
    /// Returns the members as they are shown; a path of a secret is none itself.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let settings = &self.settings;
        let algorithms: Vec<_> = settings.algorithms.iter().map(|one| one.name()).collect();
        let (source, path) = match &self.keys {
            IssuerKeys::Jwks(path) => ("jwks_file", path),
            IssuerKeys::Secret(path) => ("secret_file", path),
        };
        let mut lines = vec![
            ("issuer", settings.issuer.clone()),
            ("audience", settings.audiences.join(",")),
            ("algorithms", algorithms.join(",")),
            (source, path.display().to_string()),
            ("role_claim", settings.role_claim.clone()),
        ];
        lines.extend(settings.tenant_claim.clone().map(|claim| ("tenant_claim", claim)));
        lines.extend(settings.roles.as_ref().map(|roles| ("roles", roles.join(","))));
        lines.push(("lifetime_max_s", settings.lifetime_max.to_string()));
        lines
    }
}
