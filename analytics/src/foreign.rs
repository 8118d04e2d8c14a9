//! Foreign: requests that a web page of another origin makes a browser send.
//!
//! A browser must not be a way into a loopback service: neither by a page of another origin, nor by a host name that was
//! made to point here (DNS rebinding).
//!
//! **Invariant:** what is no browser is never foreign, but for a host that is another machine's.
//! **Not here:** how a program refuses.

use actix_web::http::header::{HOST, HeaderMap, HeaderName, ORIGIN};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request is foreign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Only this machine is served, and the request names another's host.
    Host,
    /// It comes from a web page of another origin.
    Page,
}

impl Foreign {
    /// What is wrong, told by `server`: `this router`.
    pub fn detail(self, server: &str) -> String {
        match self {
            Self::Host => format!("{server} serves its own machine, and Host is another's"),
            Self::Page => "the request comes from a web page of another origin".to_owned(),
        }
    }

    /// What to do.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Host => "ask for 127.0.0.1 or localhost; a proxy in front must send such a Host",
            Self::Page => "requests from other programs, and from pages served here, are welcome",
        }
    }
}

/// Refuses what is foreign; `loopback_only`: only this machine is served.
///
/// # Errors
/// [`Foreign`] says why.
pub fn refuse(headers: &HeaderMap, loopback_only: bool) -> Result<(), Foreign> {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    // Without a Host it is no browser.
    let host = text(&HOST).unwrap_or("localhost");
    if loopback_only && !is_local_host(host) {
        // Browsers say little about plain HTTP: of a rebound page the name of the host is all there is.
        return Err(Foreign::Host);
    }
    let (fetch_site, origin) = (text(&SEC_FETCH_SITE), text(&ORIGIN));
    if origin.is_none() && fetch_site.is_none() {
        return Ok(()); // Not a browser.
    }
    let own = [format!("http://{host}"), format!("https://{host}")];
    let foreign_origin = origin.is_some_and(|origin| !own.iter().any(|own| own == origin));
    let foreign_site = fetch_site.is_some_and(|site| !matches!(site, "same-origin" | "none"));
    if foreign_origin || foreign_site { Err(Foreign::Page) } else { Ok(()) }
}

fn is_local_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
