//! Tests of the browser policy: the limits on a browser's use of responses, and the origins from
//! which a page may send requests through a proxy.

use crate::harness::{Reply, Router};

const NOTHING: &str =
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn policy(reply: &Reply) -> &str {
    reply.header("content-security-policy").unwrap_or("none")
}

#[test]
fn every_response_forbids_frames_and_content_sniffing() {
    let router = Router::shared();
    for path in [
        "/",
        "/live",
        "/api/health",
        "/api/read?table=users",
        "/api/read?table=nope",
        "/api/kv/nothing",
        "/nowhere",
        "/dashboard",
        "/dashboard/page.js",
        "/dashboard/nothing",
        "/swagger-ui/",
        "/swagger-ui/nothing",
        "/swagger-ui/swagger-ui-bundle.js",
        "/api-docs/openapi.json",
        "/errors",
        "/errors/TSR101",
        "/metrics",
    ] {
        let reply = router.get(path);
        assert_eq!(reply.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
}

#[test]
fn a_page_may_load_and_run_its_own_files_alone() {
    let router = Router::shared();
    for path in ["/", "/live", "/api/health", "/nowhere", "/api-docs/openapi.json", "/metrics"] {
        assert_eq!(policy(&router.get(path)), NOTHING, "{path}");
    }
    for path in ["/dashboard", "/swagger-ui/", "/errors", "/errors/TSR101"] {
        let reply = router.get(path);
        let policy = policy(&reply);
        for part in [
            "default-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.split("; ").any(|own| own == part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
    }
}

/// Returns status and code of the response of a router with plain HTTP to these headers.
fn asked(router: &Router, headers: &[(&str, &str)]) -> (u16, String) {
    let reply = router.send("GET", "/api/read?table=users", headers, None);
    let code = if reply.status == 200 { String::new() } else { reply.code() };
    (reply.status, code)
}

fn foreign() -> (u16, String) {
    (403, "TSR403".to_owned())
}

#[test]
fn a_page_of_https_is_not_one_of_a_router_that_serves_plain_http() {
    let router = Router::shared();
    let port = router.address().port();
    let own = format!("127.0.0.1:{port}");
    assert_eq!(asked(&router, &[("origin", &format!("http://{own}"))]).0, 200);
    assert_eq!(asked(&router, &[("origin", &format!("HTTP://{own}"))]).0, 200);
    assert_eq!(asked(&router, &[("origin", &format!("https://{own}"))]), foreign());
    for (origin, host, is_own) in [
        ("http://localhost", "localhost:80", true),
        ("http://LocalHost:80", "localhost", true),
        ("http://localhost:443", "localhost", false),
        ("https://localhost", "localhost", false),
        ("http://", "localhost", false),
        ("localhost", "localhost", false),
    ] {
        let (status, _) = asked(&router, &[("origin", origin), ("host", host)]);
        assert_eq!(status, if is_own { 200 } else { 403 }, "{origin} {host}");
    }
    assert_eq!(asked(&router, &[("host", "tessera.example.com")]), foreign());
}

#[test]
fn behind_a_proxy_that_ends_tls_its_pages_are_our_own() {
    let router = Router::start_with(&["--behind-tls"]);
    for (origin, host) in [
        ("https://tessera.example.com", "tessera.example.com"),
        ("https://tessera.example.com:443", "tessera.example.com"),
        ("https://tessera.example.com", "tessera.example.com:443"),
        ("https://tessera.example.com", "Tessera.Example.COM"),
        ("https://Tessera.example.com", "tessera.example.com:443"),
        ("https://tessera.example.com:8443", "tessera.example.com:8443"),
    ] {
        let headers = [("origin", origin), ("host", host), ("sec-fetch-site", "same-origin")];
        assert_eq!(asked(&router, &headers), (200, String::new()), "{origin} {host}");
    }
    for (origin, host) in [
        ("http://tessera.example.com", "tessera.example.com"),
        ("http://tessera.example.com:443", "tessera.example.com:443"),
        ("https://other.example.com", "tessera.example.com"),
        ("https://tessera.example.com:8443", "tessera.example.com"),
        ("https://", "tessera.example.com"),
        ("null", "tessera.example.com"),
    ] {
        assert_eq!(asked(&router, &[("origin", origin), ("host", host)]), foreign(), "{origin}");
    }
    // This machine may still bypass the proxy, and a name that was pointed here (DNS rebinding) is
    // still refused.
    let port = router.address().port();
    let own = format!("http://127.0.0.1:{port}");
    assert_eq!(asked(&router, &[("origin", &own)]).0, 200);
    assert_eq!(asked(&router, &[("host", &format!("evil.example:{port}"))]), foreign());
}
