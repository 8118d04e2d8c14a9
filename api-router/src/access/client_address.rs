//! Client address: the address of the program that sent a request, also behind proxies.
//!
//! A proxy adds the address from which it received a request to the right end of `X-Forwarded-For`
//! (or `Forwarded`, RFC 7239), behind what the client may have written there itself. So the list is
//! read from the right: entries that are addresses of trusted proxies are skipped, and the first
//! other one is the client.
//!
//! **Invariant:** the headers of a connection that does not come from a trusted proxy are not read,
//! and no entry to the left of an address that is not trusted is believed. A client that sends the
//! header that its proxy does not write gains nothing: two headers that disagree lead to the
//! address of the connection.
//! **Not here:** the trusted addresses (`config/trusted_proxies`), limits by address (`gate`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use actix_web::http::header::{FORWARDED, HeaderMap, HeaderName, X_FORWARDED_FOR};

use crate::config::TrustedProxies;

/// Maximum number of entries that are read, from the right.
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

/// Returns the first address that is not trusted. An entry that is not an address ends the search
/// at the proxy that wrote it.
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

/// Returns the entries of all lines of a header, the last one first. A comma inside of quotes
/// separates entries too: then both parts are malformed, and neither is believed.
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

/// Parses the parameter `for` of an entry of `Forwarded`.
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
