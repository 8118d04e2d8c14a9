//! Negotiation: finds the form of a response that a client prefers (RFC 9110, 12.4 and 12.5).
//!
//! **Invariant:** a weight that cannot be read is zero.
//! **Not here:** the responses that have several forms (`compression`, `routes`).

use actix_web::http::header::{HeaderMap, HeaderName};

/// Joins all lines of a header whose value is a comma-separated list (RFC 9110, 5.3).
pub fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let lines: Vec<&str> = headers.get_all(name).filter_map(|line| line.to_str().ok()).collect();
    lines.join(",")
}

/// Iterates over the items of a header such as `gzip;q=0.5, *;q=0`, each with its weight. An
/// unreadable weight is zero, so that the item is not chosen.
fn weights(list: &str) -> impl Iterator<Item = (&str, f32)> {
    list.split(',').filter_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let mut weights = parts.filter_map(|part| {
            let (name, weight) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| weight.trim().parse().unwrap_or(0.0))
        });
        Some((name, weights.next().unwrap_or(1.0)))
    })
}

/// Returns the weight of the item with this name, if the list contains it.
fn weight_of(list: &str, name: &str) -> Option<f32> {
    weights(list).find(|(item, _)| item.eq_ignore_ascii_case(name)).map(|(_, weight)| weight)
}

/// Returns true if a value of `Accept-Encoding` prefers gzip to no encoding.
pub fn prefers_gzip(accept_encoding: &str) -> bool {
    let gzip =
        ["gzip", "x-gzip", "*"].into_iter().find_map(|name| weight_of(accept_encoding, name));
    let plain = weight_of(accept_encoding, "identity").unwrap_or(0.0);
    gzip.is_some_and(|gzip| gzip > 0.0 && gzip >= plain)
}

/// Returns true if a value of `Accept` prefers JSON to an HTML page.
pub fn prefers_json(accept: &str) -> bool {
    let weight = |names: [&str; 3]| names.into_iter().find_map(|name| weight_of(accept, name));
    let json = weight(["application/json", "application/*", "*/*"]).unwrap_or(0.0);
    let page = weight(["text/html", "text/*", "*/*"]).unwrap_or(0.0);
    json > page
}
