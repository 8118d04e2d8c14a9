//! Certificate: the settings of a client that a certificate identifies.
//!
//! **Not here:** the section of the configuration file (`config/file`), verification of
//! certificates (`tls`).

use std::fmt;
use std::net::IpAddr;

use shard_manager::access::tenant::Tenants;

/// Kind of a subject alternative name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// `dns`: name of a host.
    Dns,
    /// `uri`, such as a SPIFFE ID.
    Uri,
    /// `email`.
    Email,
    /// `ip`.
    Ip,
}

impl NameKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Dns, Self::Uri, Self::Email, Self::Ip];

    /// Returns the name of the member that holds such a name in the configuration file.
    pub fn member(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Uri => "uri",
            Self::Email => "email",
            Self::Ip => "ip",
        }
    }
}

/// Subject alternative name of a certificate. Names are compared exactly, by their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectName {
    /// Kind of the name.
    pub kind: NameKind,
    /// The name.
    pub text: String,
}

impl SubjectName {
    /// Parses a name from the configuration file.
    ///
    /// # Errors
    /// Description of the allowed values, which completes an error message that begins with the
    /// member.
    pub(super) fn parse(kind: NameKind, text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a name of visible ASCII characters, as it stands in the certificate");
        }
        if text.contains('*') {
            return Err("a whole name: names are compared exactly, and * is not a pattern");
        }
        let text = match kind {
            NameKind::Dns | NameKind::Uri | NameKind::Email => text.to_owned(),
            NameKind::Ip => {
                text.parse::<IpAddr>().map_err(|_| "an address")?.to_canonical().to_string()
            }
        };
        Ok(Self { kind, text })
    }
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.member(), self.text)
    }
}

/// Client that a certificate identifies.
#[derive(Clone, Debug)]
pub struct CertificateConfig {
    /// Subject alternative name in the client's certificate.
    pub name: SubjectName,
    /// Role of the client.
    pub role: String,
    /// Tenants of the client.
    pub tenants: Tenants,
}

impl CertificateConfig {
    /// Returns the names and values of the members, as the operator sees them.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines =
            vec![(self.name.kind.member(), self.name.text.clone()), ("role", self.role.clone())];
        let tenants: Vec<&str> = self.tenants.as_slice().iter().map(|tenant| &**tenant).collect();
        if !tenants.is_empty() {
            lines.push(("tenant", tenants.join(",")));
        }
        lines
    }
}
