//! Tests of the address of a client behind proxies: only trusted ones name it.

use std::net::{IpAddr, SocketAddr};

use actix_web::http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue, X_FORWARDED_FOR};
use api_router::access::client_address::client_address;
use api_router::config::TrustedProxies;

use super::guarded::Guarded;

const PROXIES: &str = "10.0.0.0/8,192.168.7.1,2001:db8:1::/48";

/// Returns the address for a connection and lines of headers.
fn address(peer: &str, lines: &[(HeaderName, &str)]) -> String {
    let (trusted, _) = TrustedProxies::parse(PROXIES).unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
    }
    let peer: IpAddr = peer.parse().unwrap();
    client_address(&trusted, Some(SocketAddr::new(peer, 4_711)), &headers).to_string()
}

#[test]
fn only_a_trusted_proxy_names_the_client() {
    let by = |peer: &str, value: &str| address(peer, &[(X_FORWARDED_FOR, value)]);
    for (peer, value, client) in [
        // The connection is not one of a proxy: the header is forged.
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("192.168.7.2", "198.51.100.1", "192.168.7.2"),
        ("2001:db8:2::1", "198.51.100.1", "2001:db8:2::1"),
        // The peer is a proxy, also with its address in the other notation.
        ("10.9.8.7", "198.51.100.1", "198.51.100.1"),
        ("::ffff:10.9.8.7", "198.51.100.1", "198.51.100.1"),
        ("2001:db8:1:ffff::1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("192.168.7.1", "2001:db8::5", "2001:db8::5"),
        // The client wrote the left part, and proxies added the rest.
        ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1,198.51.100.1 , 10.0.0.2,192.168.7.1", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.5, 198.51.100.1", "198.51.100.1"),
        // All entries are addresses of proxies.
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        // Entries with ports and brackets.
        ("10.0.0.1", "198.51.100.1:8080", "198.51.100.1"),
        ("10.0.0.1", "[2001:db8::5]:8080", "2001:db8::5"),
        ("10.0.0.1", "[2001:db8::5]", "2001:db8::5"),
        // An entry that is not an address ends the search at the proxy that wrote it.
        ("10.0.0.1", "198.51.100.1, unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, unknown, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "198.51.100.1,", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1; 198.51.100.2", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.256", "10.0.0.1"),
    ] {
        assert_eq!(by(peer, value), client, "{peer}: {value}");
    }
    let lines = [(X_FORWARDED_FOR, "1.1.1.1"), (X_FORWARDED_FOR, "198.51.100.1, 10.0.0.2")];
    assert_eq!(address("10.0.0.1", &lines), "198.51.100.1", "lines are one list");
    assert_eq!(address("10.0.0.1", &[]), "10.0.0.1");
    let forged = format!("{}198.51.100.1", "10.0.0.2,".repeat(10_000));
    assert_eq!(by("10.0.0.1", &forged), "198.51.100.1");
}

#[test]
fn the_standard_header_counts_like_the_usual_one() {
    for (value, client) in [
        ("for=198.51.100.1", "198.51.100.1"),
        ("For=\"198.51.100.1:80\";proto=https;by=10.0.0.1", "198.51.100.1"),
        ("by=10.0.0.1;for=\"[2001:db8::5]:4711\"", "2001:db8::5"),
        ("for=1.1.1.1, for=198.51.100.1, for=10.0.0.2", "198.51.100.1"),
        ("for=198.51.100.1, for=unknown", "10.0.0.1"),
        ("for=198.51.100.1, for=_hidden", "10.0.0.1"),
        ("for=198.51.100.1, proto=https", "10.0.0.1"),
        ("for=1.1.1.1;for=198.51.100.1", "10.0.0.1"),
        // Quotes that the client left open do not hide what the proxy added.
        ("for=\"1.1.1.1, for=198.51.100.1", "198.51.100.1"),
        // A host that the client chose, and that the proxy repeats.
        ("for=198.51.100.1;host=\"x,for=1.1.1.1;y=z\"", "10.0.0.1"),
        ("for=198.51.100.1;host=\"x\\\",for=1.1.1.1;y=\\\"\"", "10.0.0.1"),
    ] {
        assert_eq!(address("10.0.0.1", &[(FORWARDED, value)]), client, "{value}");
        assert_eq!(address("203.0.113.9", &[(FORWARDED, value)]), "203.0.113.9", "{value}");
    }
    let both = |forwarded: &str| {
        address("10.0.0.1", &[(X_FORWARDED_FOR, "198.51.100.1"), (FORWARDED, forwarded)])
    };
    assert_eq!(both("for=198.51.100.1"), "198.51.100.1");
    assert_eq!(both("for=1.1.1.1"), "10.0.0.1", "one of them is not the proxy's");
}

/// Sends bad credentials until their address is limited; each request has another forged entry.
fn limited(guarded: &Guarded, client: &str) {
    let bad = |forged: usize| {
        let list = format!("203.0.113.{}, {client}", forged % 250);
        let headers = [("authorization", "Bearer tsr_wrong"), ("x-forwarded-for", &*list)];
        guarded.router.send("GET", "/api/access/me", &headers, None).status
    };
    let status = (0..10_000).map(bad).find(|status| *status != 401);
    assert_eq!(status, Some(429), "the limit of {client} is reached");
}

#[test]
fn clients_behind_a_proxy_have_limits_of_their_own() {
    let guarded = Guarded::start("on", &["--trusted-proxies", "127.0.0.0/8"]);
    limited(&guarded, "198.51.100.1");
    let other = [("authorization", "Bearer tsr_wrong"), ("x-forwarded-for", "198.51.100.2")];
    let other = guarded.router.send("GET", "/api/access/me", &other, None);
    assert_eq!(other.status, 401, "another client is not limited");
}

#[test]
fn forged_headers_of_others_are_ignored() {
    let guarded = Guarded::start("on", &["--trusted-proxies", "10.0.0.0/8"]);
    // If an entry counted, each request would be the first of its address.
    let bad = |number: usize| {
        let client = format!("198.51.{}.{}", number / 250, number % 250);
        let forwarded = format!("for={client}");
        let headers = [
            ("authorization", "Bearer tsr_wrong"),
            ("x-forwarded-for", &*client),
            ("forwarded", &*forwarded),
        ];
        guarded.router.send("GET", "/api/access/me", &headers, None).status
    };
    assert_eq!((0..10_000).map(bad).find(|status| *status != 401), Some(429));
}
