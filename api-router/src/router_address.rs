//! Router address: the address at which a client reaches this router, for responses that contain
//! it.
//!
//! **Invariant:** an address has only characters of hosts and ports, whatever a client sends.

use actix_web::HttpRequest;
use actix_web::http::header::HOST;
use analytics::cross_origin::Transport;

use crate::app::App;

/// Returns the address at which a request has reached the router.
pub fn router_address(app: &App, request: &HttpRequest) -> String {
    let scheme = match app.exposure.by {
        Transport::Plain => "http",
        Transport::Tls | Transport::ProxyTls => "https",
    };
    let named = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    // HTTP/2 has it in the target of the request.
    let named = named.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    let is_address = |host: &&str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".:-_[]".contains(&byte);
        !host.is_empty() && host.bytes().all(is_part)
    };
    match named.filter(is_address) {
        Some(host) => format!("{scheme}://{host}"),
        None => format!("{scheme}://127.0.0.1:{}", app.port),
    }
}
