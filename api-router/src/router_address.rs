//! Router address: the address at which a client reaches this router, for responses that contain
//! it.
//!
//! **Invariant:** an address contains only characters that hosts and ports may contain, whatever a
//! client sends.

use actix_web::HttpRequest;
use actix_web::http::header::HOST;
use analytics::cross_origin::Transport;

use crate::app::App;

/// Returns the URL of the router, without a path, with the host that the request names.
pub fn router_address(app: &App, request: &HttpRequest) -> String {
    let scheme = match app.exposure.by {
        Transport::Plain => "http",
        Transport::Tls | Transport::ProxyTls => "https",
    };
    let named = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    // An HTTP/2 request has the host in its target instead.
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
