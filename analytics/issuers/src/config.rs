//! Config: the settings of a token issuer (a system whose tokens are accepted), and its section in
//! a configuration file.
//!
//! **Invariant:** no error repeats content of the file.
//! **Not here:** reading the keys (`files`, `key_fetcher`).

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use access::jwt::TokenAlgorithm;
use access::jwt::issuer::IssuerSettings;
use actix_web::http::Uri;
use toml::{Table, Value};
use web_kit::settings::{ConfigError, ConfigFile};

/// Names of the members of an issuer's section.
pub const MEMBERS: [&str; 10] = [
    "issuer",
    "audience",
    "algorithms",
    "jwks_file",
    "jwks_url",
    "secret_file",
    "role_claim",
    "tenant_claim",
    "roles",
    "lifetime_max_s",
];
/// Permitted range of the setting for a token's longest lifetime, in seconds; its end is a year.
const LIFETIME_MAX_S: RangeInclusive<i64> = 1..=31_536_000;

/// Settings and source of keys of one issuer.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// Settings of the issuer.
    pub settings: IssuerSettings,
    /// Source of its keys.
    pub keys: IssuerKeys,
}

/// Source of the keys of an issuer.
#[derive(Clone, Debug)]
pub enum IssuerKeys {
    /// File with public keys, as a JWKS document.
    Jwks(PathBuf),
    /// URL from which a JWKS document is fetched.
    Url(String),
    /// File with the shared secret with which tokens are signed (HS256).
    Secret(PathBuf),
}

impl IssuerKeys {
    /// Returns the name of the member that names the source of the keys, and its value in a form
    /// that may be shown.
    pub fn member(&self) -> (&'static str, String) {
        match self {
            Self::Jwks(path) => ("jwks_file", path.display().to_string()),
            Self::Url(url) => ("jwks_url", shown_url(url).to_owned()),
            Self::Secret(path) => ("secret_file", path.display().to_string()),
        }
    }
}

/// Returns a URL in the form that may be shown: without its query, which may contain a secret.
pub fn shown_url(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

/// Description of the permitted URLs of JWKS documents, for error messages.
const URL_FORM: &str =
    "an https address without user, password and fragment (http only to this machine)";

/// Returns true for a URL from which keys may be fetched. Without TLS an attacker on the network
/// could replace the keys, so `http` is permitted for this machine only.
fn is_permitted_url(text: &str) -> bool {
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
    /// Reads a section of a configuration file. `at` is the section's name in error messages.
    ///
    /// # Errors
    /// Returns a [`ConfigError`], which names the member and what is allowed.
    pub fn read(file: &ConfigFile, at: &str, table: &Table) -> Result<Self, ConfigError> {
        let section = Section { file, at, table };
        let missing = |member: &str| ConfigError(format!("{} names no {member}", file.named(at)));
        let required = |member: &str| section.text(member)?.ok_or_else(|| missing(member));
        // A single audience may be written as a string instead of a list.
        let audiences = match table.get("audience").and_then(Value::as_str) {
            Some(audience) => vec![audience.to_owned()],
            None => section.list("audience")?,
        };
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            return Err(missing(
                "audience: give the value of `aud` that is meant for this cluster",
            ));
        }
        let mut algorithms = Vec::new();
        for (index, name) in (1..).zip(section.list("algorithms")?) {
            let member = format!("{at}.algorithms[{index}]");
            let known = "RS256, ES256, EdDSA or HS256";
            let found = TokenAlgorithm::find(&name).ok_or_else(|| file.wrong(&member, known))?;
            algorithms.push(found);
        }
        let settings = IssuerSettings {
            issuer: required("issuer")?,
            audiences,
            algorithms,
            role_claim: required("role_claim")?,
            tenant_claim: section.text("tenant_claim")?,
            roles: table.get("roles").map(|_| section.list("roles")).transpose()?,
            lifetime_max: section.lifetime_max()?,
        };
        Ok(Self { settings, keys: section.keys()? })
    }

    /// Returns the members and their values in a form that may be shown. The path of a file with a
    /// secret is shown, because it is not a secret itself.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
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

/// Section of an issuer while it is being read.
struct Section<'s> {
    file: &'s ConfigFile,
    at: &'s str,
    table: &'s Table,
}

impl Section<'_> {
    fn wrong(&self, member: &str, allowed: &str) -> ConfigError {
        self.file.wrong(&format!("{}.{member}", self.at), allowed)
    }

    fn text(&self, member: &str) -> Result<Option<String>, ConfigError> {
        let wrong = || self.wrong(member, "a text");
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(wrong);
        self.table.get(member).map(text).transpose()
    }

    fn list(&self, member: &str) -> Result<Vec<String>, ConfigError> {
        let Some(value) = self.table.get(member) else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or_else(|| self.wrong(member, "a list of texts"))?;
        let text = |(number, value): (usize, &Value)| {
            let wrong = || self.wrong(&format!("{member}[{number}]"), "a text");
            value.as_str().map(str::to_owned).ok_or_else(wrong)
        };
        (1..).zip(list).map(text).collect()
    }

    fn lifetime_max(&self) -> Result<u64, ConfigError> {
        const MEMBER: &str = "lifetime_max_s";
        let Some(value) = self.table.get(MEMBER) else {
            return Ok(IssuerSettings::LIFETIME_MAX_DEFAULT);
        };
        let number = value.as_integer().filter(|number| LIFETIME_MAX_S.contains(number));
        let allowed =
            format!("a number from {} to {}", LIFETIME_MAX_S.start(), LIFETIME_MAX_S.end());
        number.map(i64::cast_unsigned).ok_or_else(|| self.wrong(MEMBER, &allowed))
    }

    fn keys(&self) -> Result<IssuerKeys, ConfigError> {
        let jwks = self.text("jwks_file")?.map(|path| IssuerKeys::Jwks(path.into()));
        let url = self.text("jwks_url")?;
        if url.as_deref().is_some_and(|url| !is_permitted_url(url)) {
            return Err(self.wrong("jwks_url", URL_FORM));
        }
        let secret = self.text("secret_file")?;
        let secret = secret.map(|path| IssuerKeys::Secret(path.into()));
        let mut sources = [jwks, url.map(IssuerKeys::Url), secret].into_iter().flatten();
        match (sources.next(), sources.next()) {
            (Some(keys), None) => Ok(keys),
            (None, _) | (Some(_), Some(_)) => {
                let one = "one of jwks_file, jwks_url (public keys) and secret_file (the secret of HS256)";
                Err(ConfigError(format!("{} needs {one}", self.file.named(self.at))))
            }
        }
    }
}
