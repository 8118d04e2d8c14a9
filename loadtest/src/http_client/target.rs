//! Target: the address of a router.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use hyper::Uri;
use hyper::header::HeaderValue;

/// Scheme, host and port of a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    host: String,
    port: u16,
    is_secure: bool,
    /// Value of the header `Host`.
    pub(super) name: HeaderValue,
}

impl Target {
    /// Returns true if the host is this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Returns the host's name or address, without the port.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Returns true if requests are sent over TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Returns host and port to connect to.
    pub(super) fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        let wanted = "write it like http://127.0.0.1:3000";
        let uri = Uri::from_str(raw).map_err(|error| format!("{error}; {wanted}"))?;
        let is_secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("scheme, host and port only; {wanted}")),
        };
        let plain = matches!(uri.path(), "" | "/") && uri.query().is_none() && !raw.contains('#');
        let authority = uri.authority().filter(|name| plain && !name.as_str().contains('@'));
        let authority = authority.ok_or_else(|| format!("scheme, host and port only; {wanted}"))?;
        let name = HeaderValue::from_str(authority.as_str())
            .map_err(|error| format!("{error}; {wanted}"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        // An invalid port must not be replaced by the default port of the scheme.
        let given = authority.as_str().get(authority.host().len()..).unwrap_or_default();
        let port = match given.strip_prefix(':') {
            None => Some(if is_secure { 443 } else { 80 }),
            Some(port) => port.parse().ok().filter(|port| *port != 0),
        };
        let port = port.ok_or_else(|| format!("ports go from 1 to 65535; {wanted}"))?;
        Ok(Self { host, port, is_secure, name })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(out, "{scheme}://{}", self.name.to_str().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn a_target_is_scheme_host_and_port_and_nothing_else() {
        for (good, reported) in [
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("http://[::1]:3000/", "http://[::1]:3000"),
            ("http://localhost", "http://localhost"),
            ("https://localhost", "https://localhost"),
        ] {
            let target: Target = good.parse().unwrap();
            assert_eq!(target.to_string(), reported);
            assert!(target.is_loopback(), "{good}");
        }
        for bad in [
            "localhost:3000",
            "ftp://localhost",
            "http://localhost/api",
            "http://me@localhost",
            "http://localhost?a=b",
            "http://localhost#a",
            "http://",
            "http://localhost:99999",
            "http://localhost:0",
            "http://[::1]:65536",
            "https://localhost:",
            "",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
        for remote in ["http://example.com", "http://10.0.0.1:3000", "http://127.0.0.1.example.com"]
        {
            assert!(!remote.parse::<Target>().unwrap().is_loopback(), "{remote}");
        }
    }
}
