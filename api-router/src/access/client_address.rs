//! Client address: the address of the program that sent a request, even if it passed through
//! proxies.
//!
//! A proxy appends the address from which it received a request to `X-Forwarded-For` (or
//! `Forwarded`, RFC 7239), after the entries that the client itself may have sent. So the entries
//! are read from right to left: those that are addresses of trusted proxies are skipped, and the
//! first other one is the client.
//!
//! **Invariant:** the headers of a connection that does not come from a trusted proxy are not read,
//! and no entry to the left of an address that is not trusted is believed. If both headers are
//! present and lead to different addresses, the address of the connection is used, so a client
//! gains nothing by sending the header that its proxy does not write.
//! **Not here:** the trusted addresses (`config/trusted_proxies`), limits by address (`gate`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use actix_web::http::header::{FORWARDED, HeaderMap, HeaderName, X_FORWARDED_FOR};

use crate::config::TrustedProxies;

/// Maximum number of entries of a header that are read, from right to left.
const HOPS_MAX: usize = 32;

/// Returns the address of a client. Connections without an address share 0.0.0.0.
pub fn client_address(
    trusted: &TrustedProxies,
    peer: Option<SocketAddr>,
    headers: &HeaderMap,
) -> IpAddr {
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
    if trusted.is_empty() || !trusted.contains(peer) {
        return peer;
    }
    let found = |name: HeaderName, parse: fn(&str) -> Option<IpAddr>| {
        headers.contains_key(&name).then(|| furthest(trusted, peer, entries(headers, &name, parse)))
    };
    match (found(X_FORWARDED_FOR, address), found(FORWARDED, forwarded)) {
        (Some(one), Some(other)) if one != other => peer,
        (Some(address), _) | (None, Some(address)) => address,
        (None, None) => peer,
    }
}

/// Returns the first address that is not a trusted proxy, or the last one read. An entry that is
/// not an address ends the search: then this is the address of the proxy that wrote the entry.
fn furthest(
    trusted: &TrustedProxies,
    peer: IpAddr,
    entries: impl Iterator<Item = Option<IpAddr>>,
) -> IpAddr {
    let mut nearest = peer;
    for entry in entries.take(HOPS_MAX) {
        let Some(address) = entry else { return nearest };
        nearest = address;
        if !trusted.contains(address) {
            return address;
        }
    }
    nearest
}

/// Returns the entries of a header, which may have several lines, from last to first. A comma
/// inside quotes also separates entries: then both parts are malformed, and neither is believed.
fn entries(
    headers: &HeaderMap,
    name: &HeaderName,
    parse: fn(&str) -> Option<IpAddr>,
) -> impl Iterator<Item = Option<IpAddr>> {
    let lines: Vec<_> = headers.get_all(name).collect();
    lines.into_iter().rev().flat_map(move |line| {
        let text = line.to_str().unwrap_or("malformed");
        text.rsplit(',').map(move |entry| parse(entry.trim()))
    })
}

/// Parses an address, which may have a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let plain = bare.unwrap_or(text).parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    plain.or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

/// Parses the parameter `for` of an entry of the header `Forwarded`.
fn forwarded(entry: &str) -> Option<IpAddr> {
    let quotes = entry.bytes().filter(|byte| *byte == b'"').count();
    if quotes % 2 == 1 || entry.contains('\\') {
        return None;
    }
    let pairs = entry.split(';').filter_map(|pair| pair.split_once('='));
    let mut found = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    match (found.next(), found.next()) {
        (Some((_, value)), None) => {
            let value = value.trim();
            let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            address(quoted.unwrap_or(value))
        }
        (Some(_), Some(_)) | (None, _) => None,
    }
}
