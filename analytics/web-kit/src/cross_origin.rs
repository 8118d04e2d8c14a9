//! Cross origin: detects requests that a web page of another origin makes a browser send.
//!
//! A web page of another origin must not get access through the browser to a service that listens
//! on loopback only: neither by sending requests to the loopback address, nor by a host name that
//! was made to resolve to this machine (DNS rebinding).
//!
//! **Invariant:** a request that does not come from a browser is accepted, unless the program
//! listens on loopback only and the header `Host` names another machine.
//! **Not here:** the response to a refused request.

use actix_web::http::header::{HOST, HeaderMap, HeaderName, ORIGIN};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Reason why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossOriginRefusal {
    /// Only this machine is served, and the request names another host.
    Host,
    /// The request comes from a web page of another origin.
    Page,
}

impl CrossOriginRefusal {
    /// Describes the reason; `server` names the program: `this router`.
    pub fn detail(self, server: &str) -> String {
        match self {
            Self::Host => format!("{server} serves its own machine, and Host is another's"),
            Self::Page => "the request comes from a web page of another origin".to_owned(),
        }
    }

    /// Returns a remedy.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Host => {
                "ask for 127.0.0.1 or localhost; a proxy in front must send such a Host, or, if TLS ends there, be declared \
                 by --behind-tls"
            }
            Self::Page => "requests from other programs, and from pages served here, are welcome",
        }
    }
}

/// Ways in which clients reach a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// True if only this machine is served.
    pub loopback_only: bool,
    /// Port of the program itself.
    pub port: u16,
    /// Transport that clients use.
    pub by: Transport,
}

/// Transport that clients use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Plain HTTP.
    Plain,
    /// TLS, which ends at the program.
    Tls,
    /// TLS, which ends at a proxy in front of the program.
    ProxyTls,
}

impl Transport {
    /// Returns the transport of a program that has a certificate, or was configured for a proxy.
    pub fn of(has_certificate: bool, behind_tls: bool) -> Self {
        match (has_certificate, behind_tls) {
            (_, true) => Self::ProxyTls,
            (true, false) => Self::Tls,
            (false, false) => Self::Plain,
        }
    }
}

/// Refuses requests of other origins.
///
/// # Errors
/// Fails with [`CrossOriginRefusal`], which holds the reason.
pub fn refuse(headers: &HeaderMap, exposure: Exposure) -> Result<(), CrossOriginRefusal> {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    // A request without a Host does not come from a browser.
    let host = text(&HOST).unwrap_or("localhost");
    if exposure.loopback_only && !is_local_host(host) && !may_come_from_proxy(host, exposure) {
        // With plain HTTP browsers may send no other telling header, so the `Host` alone must
        // reveal a page that uses DNS rebinding.
        return Err(CrossOriginRefusal::Host);
    }
    let (fetch_site, origin) = (text(&SEC_FETCH_SITE), text(&ORIGIN));
    let foreign_origin = origin.is_some_and(|origin| !is_own(origin, host, exposure.by));
    let foreign_site = fetch_site.is_some_and(|site| !matches!(site, "same-origin" | "none"));
    if foreign_origin || foreign_site { Err(CrossOriginRefusal::Page) } else { Ok(()) }
}

/// Returns true if a proxy may have sent this `Host`: the program is behind a proxy, and the port
/// is not the program's own. After DNS rebinding the `Host` has the program's own port, which
/// browsers leave out only if it is 80.
fn may_come_from_proxy(host: &str, exposure: Exposure) -> bool {
    let port = split_port(host).1.map_or(Some(80), |port| port.parse().ok());
    exposure.by == Transport::ProxyTls && port.is_some_and(|port: u16| port != exposure.port)
}

/// Returns true if pages of this origin are served by this host.
fn is_own(origin: &str, host: &str, by: Transport) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let is = |name: &str| scheme.eq_ignore_ascii_case(name);
    let default_port = match by {
        // A client on this machine may use plain HTTP and bypass the proxy.
        Transport::Plain if is("http") => "80",
        Transport::ProxyTls if is("http") && is_local_host(host) => "80",
        Transport::Tls | Transport::ProxyTls if is("https") => "443",
        Transport::Plain | Transport::Tls | Transport::ProxyTls => return false,
    };
    let whole = |authority| {
        let (name, port) = split_port(authority);
        (name, port.unwrap_or(default_port))
    };
    let ((own, own_port), (name, port)) = (whole(host), whole(authority));
    !name.is_empty() && own.eq_ignore_ascii_case(name) && own_port == port
}

/// Returns the name and the port of an authority; brackets enclose the colons of an IPv6 address.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some(port)),
        Some(_) | None => (authority, None),
    }
}

fn is_local_host(host: &str) -> bool {
    let name = split_port(host).0;
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
