//! Target: the address of a router or webhook.
//!
//! **Invariant:** a target comes from the configuration, never from a request. Its displayed form
//! contains no secret.
//! **Not here:** connecting (`http_client`).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hyper::Uri;
use hyper::header::HeaderValue;

/// Scheme, host and port of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host name or IP address, without the brackets of an IPv6 address.
    pub host: String,
    /// Port of the server.
    pub port: u16,
    /// True if connections use TLS.
    pub is_secure: bool,
    /// Value of the header `Host`.
    pub host_header: HeaderValue,
    /// IP address to connect to, if one of the addresses of the host was chosen; otherwise the host
    /// is resolved.
    pub address: Option<IpAddr>,
}

impl Target {
    /// Returns the same target with `address` as the address to connect to.
    pub fn at(&self, address: IpAddr) -> Self {
        Self { address: Some(address), ..self.clone() }
    }

    /// Returns a name for a server that has none in the configuration: host and port, or address
    /// and port if an address was chosen.
    pub fn label(&self) -> String {
        match self.address {
            Some(address) => SocketAddr::new(address, self.port).to_string(),
            None if self.host.contains(':') => format!("[{}]:{}", self.host, self.port),
            None => format!("{}:{}", self.host, self.port),
        }
    }
}

/// Parses a URL into the server and the path.
pub fn parse_url(text: &str) -> Result<(Target, String), String> {
    // Errors do not repeat the URL, because its path may contain a secret.
    let wanted = "must be a URL such as http://127.0.0.1:3000";
    let uri = Uri::from_str(text).map_err(|_| wanted.to_owned())?;
    let is_secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(wanted.to_owned()),
    };
    let authority = uri.authority().ok_or_else(|| wanted.to_owned())?;
    if authority.as_str().contains('@') || text.contains('#') {
        return Err(format!("{wanted}, without user name and fragment"));
    }
    let host_header = HeaderValue::from_str(authority.as_str()).map_err(|_| wanted.to_owned())?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    // An invalid port must not fall back to the scheme's default port.
    let given = authority.as_str().get(authority.host().len()..).unwrap_or_default();
    let port = match given.strip_prefix(':') {
        None => Some(if is_secure { 443 } else { 80 }),
        Some(port) => port.parse().ok().filter(|port| *port != 0),
    };
    let port = port.ok_or("has an invalid port: a port is a number from 1 to 65535")?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    if host.is_empty() {
        return Err(wanted.to_owned());
    }
    Ok((Target { host, port, is_secure, host_header, address: None }, path.to_owned()))
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (target, path) = parse_url(text)?;
        if path != "/" || text.contains('?') {
            return Err(
                "must be scheme, host and port only, such as http://127.0.0.1:3000".to_owned()
            );
        }
        Ok(target)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.host_header.to_str().unwrap_or_default())
    }
}
