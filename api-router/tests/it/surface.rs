//! Tests of the HTTP surface: paths, methods, media types, parameters, and requests from pages of
//! other origins.

use serde_json::json;

use crate::harness::{Reply, Router};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn head_answers_as_get_without_a_body() {
    let router = Router::shared();
    for path in [
        "/",
        "/live",
        "/ready",
        "/api/health",
        "/api/shards",
        "/api/shard-map",
        "/api/route?key=a",
        "/api/read?table=users",
        "/api/read?table=nope",
        "/api/kv/nothing",
        "/read?key=nothing",
        "/stats",
        "/errors",
        "/errors/TSR101",
        "/nowhere",
        "/api-docs/openapi.json",
        "/swagger-ui/",
        "/dashboard",
        "/dashboard/page.css",
        "/lab",
        "/api/lab/placements",
        "/api/lab/writes",
        "/metrics",
        "/api/analytics/frames",
    ] {
        let get = router.get(path);
        let head = router.send("HEAD", path, &[], None);
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        assert!(head.header("x-request-id").is_some(), "{path}");
        let request =
            format!("HEAD {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        assert!(router.raw(request.as_bytes()).ends_with(b"\r\n\r\n"), "{path} sends a body");
    }
}

#[test]
fn a_method_that_a_path_does_not_have_is_405_with_those_it_has() {
    let router = Router::shared();
    for (path, allow) in [
        ("/api/write", "POST"),
        ("/api/bulk-write", "POST"),
        ("/api/read", "GET, HEAD"),
        ("/api/route", "GET, HEAD"),
        ("/api/shards/shard1", "GET, HEAD"),
        ("/api/tables/users", "GET, HEAD"),
        ("/api/distribution", "GET, HEAD"),
        ("/api/groups", "GET, HEAD"),
        ("/", "GET, HEAD"),
        ("/api/health", "GET, HEAD"),
        ("/live", "GET, HEAD"),
        ("/errors", "GET, HEAD"),
        ("/errors/TSR101", "GET, HEAD"),
        ("/write", "POST"),
        ("/read", "GET, HEAD"),
        ("/stats", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/dashboard", "GET, HEAD"),
        ("/dashboard/page.js", "GET, HEAD"),
        ("/api/analytics/stream", "GET, HEAD"),
    ] {
        let methods =
            if allow == "POST" { ["GET", "PUT", "OPTIONS"] } else { ["POST", "DELETE", "OPTIONS"] };
        for method in methods {
            let reply = router.send(method, path, &[], (method != "GET").then_some(b"{}"));
            assert_eq!(
                (reply.status, &*reply.code()),
                (405, "TSR112"),
                "{method} {path}: {}",
                reply.text()
            );
            assert_eq!(reply.header("allow"), Some(allow), "{method} {path}");
        }
    }
}

#[test]
fn a_path_that_leads_nowhere_is_404_whatever_the_method() {
    let router = Router::shared();
    let paths = [
        "/nowhere",
        "/api",
        "/api/",
        "/api/write/",
        "/api/read/x",
        "/API/READ",
        "//api/read",
        "/api/kv",
        "/api/tables/users/columns",
        "/api/lab/nodes",
        "/api/lab/nodes/shard1-replica1",
        "/dashboard/",
        "/dashboard/nothing.js",
        "/dashboard/../Cargo.toml",
        "/metrics/",
        "/api/analytics",
        "/api/analytics/alerts",
        "/write/",
        "/stats/",
        "/errors/TSR999",
        "/errors/tsr101",
        "/.env",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/api/shards/a/b",
        "/%00",
        "/%ff",
    ];
    for path in paths {
        let raw = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = text(&router.raw(raw.as_bytes()));
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        assert!(
            answer.contains("\"TSR111\"") && answer.contains("application/problem+json"),
            "{path}: {answer}"
        );
    }
}

#[test]
fn the_documents_about_the_api_know_their_methods_too() {
    let router = Router::shared();
    for path in ["/api-docs/openapi.json", "/swagger-ui/"] {
        let reply = router.send("POST", path, &[], Some(b"{}"));
        assert_eq!((reply.status, &*reply.code()), (405, "TSR112"), "{path}: {}", reply.text());
        assert_eq!(reply.header("allow"), Some("GET, HEAD"), "{path}");
    }
}

#[test]
fn an_empty_name_in_a_path_is_not_found() {
    let router = Router::shared();
    for path in ["/errors/", "/api/shards/"] {
        let reply = router.get(path);
        assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{path}: {}", reply.text());
        let posted = router.send("POST", path, &[], Some(b"{}"));
        assert_eq!((posted.status, &*posted.code()), (404, "TSR111"), "{path}");
    }
}

#[test]
fn a_page_that_swagger_ui_lacks_is_a_problem_like_any_other() {
    let router = Router::shared();
    for path in
        ["/swagger-ui/nothing.js", "/swagger-ui/../../Cargo.toml", "/swagger-ui/%2e%2e/Cargo.toml"]
    {
        let raw = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = text(&router.raw(raw.as_bytes()));
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        assert!(answer.contains("\"TSR111\""), "{path}: {answer}");
    }
}

#[test]
fn media_types_that_are_not_json_are_refused() {
    let router = Router::shared();
    let body = br#"{"table":"users","data":{"user_id":"u","name":"N","email":"e"}}"#;
    let post = |headers: &[(&str, &str)]| {
        let mut all = vec![("x-shard-key", "u")];
        all.extend_from_slice(headers);
        router.send("POST", "/api/write", &all, Some(body))
    };
    for kind in [
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/jsonx",
        "json",
        "",
        ";",
    ] {
        let reply = post(&[("content-type", kind)]);
        assert_eq!((reply.status, &*reply.code()), (415, "TSR107"), "{kind}: {}", reply.text());
    }
    for encoding in ["gzip", "br", "zstd"] {
        let reply = post(&[("content-type", "application/json"), ("content-encoding", encoding)]);
        assert_eq!((reply.status, &*reply.code()), (415, "TSR107"), "{encoding}: {}", reply.text());
    }
    for kind in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
        assert!(post(&[("content-type", kind)]).status < 300, "{kind}");
    }
    let read =
        |accept: &str| router.send("GET", "/api/read?table=users", &[("accept", accept)], None);
    for accept in ["text/html", "text/*", "application/xml, text/csv"] {
        let reply = read(accept);
        assert_eq!((reply.status, &*reply.code()), (406, "TSR107"), "{accept}: {}", reply.text());
    }
    for accept in
        ["*/*", "application/*", "text/html, application/json;q=0.5", "application/problem+json"]
    {
        assert_eq!(read(accept).status, 200, "{accept}");
    }
}

#[test]
fn a_weight_of_zero_rules_a_media_type_out() {
    let router = Router::shared();
    for (accept, status) in [
        ("application/json;q=0", 406),
        ("text/html, application/json; q=0.0", 406),
        ("application/json;q=0.001", 200),
    ] {
        let reply = router.send("GET", "/api/read?table=users", &[("accept", accept)], None);
        assert_eq!(reply.status, status, "{accept}: {}", reply.text());
    }
}

#[test]
fn parameters_that_mean_nothing_are_refused() {
    let router = Router::shared();
    for path in [
        "/live",
        "/ready",
        "/api/health",
        "/api/shards",
        "/api/shards/shard1",
        "/api/shard-map",
        "/api/analytics/metrics",
        "/api/analytics/errors",
        "/api/analytics/stream",
        "/api/analytics/frames",
        "/metrics",
        "/dashboard/page.css",
        "/api/kv/a",
        "/read",
        "/stats",
        "/errors",
    ] {
        let reply = router.get(&format!("{path}?nonsense=1"));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{path}: {}", reply.text());
    }
    for path in
        ["/api/write?table=users", "/api/write?shardKey=a&shardKey=a", "/api/bulk-write?op=upsert"]
    {
        let reply: Reply = router.post(path, &[("x-shard-key", "a")], &json!({}));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{path}: {}", reply.text());
        assert_eq!(reply.json()["outcome"], "rejected");
    }
}

#[test]
fn pages_of_other_origins_are_refused_and_our_own_are_not() {
    let router = Router::shared();
    let own = format!("http://{}", router.address());
    let port = router.address().port();
    let rebound = format!("evil.example:{port}");
    let localhost = format!("localhost:{port}");
    let foreign: [&[(&str, &str)]; 8] = [
        &[("origin", "http://evil.example")],
        &[("origin", "null")],
        &[("origin", "")],
        &[("origin", "http://localhost:1")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", &own), ("sec-fetch-site", "cross-site")],
        &[("host", &rebound), ("sec-fetch-site", "same-origin")],
    ];
    let body = br#"{"table":"users","data":{"user_id":"u","name":"N","email":"e"}}"#;
    for headers in foreign {
        for (method, path) in [
            ("GET", "/api/read?table=users"),
            ("POST", "/api/write"),
            ("GET", "/live"),
            ("GET", "/nowhere"),
            ("GET", "/api-docs/openapi.json"),
        ] {
            let mut all = vec![("x-shard-key", "u")];
            all.extend_from_slice(headers);
            let reply = router.send(method, path, &all, (method == "POST").then_some(&body[..]));
            assert_eq!(
                (reply.status, &*reply.code()),
                (403, "TSR403"),
                "{method} {path} {headers:?}: {}",
                reply.text()
            );
            assert_eq!(reply.header("access-control-allow-origin"), None);
        }
    }
    assert_eq!(router.get("/api/read?table=users").json()["count"], 0);
    let welcome: [&[(&str, &str)]; 6] = [
        &[],
        &[("origin", &own)],
        &[("origin", &own), ("sec-fetch-site", "same-origin")],
        &[("sec-fetch-site", "none")],
        &[("host", &localhost)],
        &[("host", "[::1]:3000"), ("sec-fetch-site", "same-origin")],
    ];
    for headers in welcome {
        let reply = router.send("GET", "/api/read?table=users", headers, None);
        assert_eq!(reply.status, 200, "{headers:?}: {}", reply.text());
    }
}

/// After DNS rebinding, a page sends plain GETs with neither Origin nor Sec-Fetch-Site: its address
/// is not a secure context, and its requests are of the same origin.
#[test]
fn a_host_name_that_is_not_ours_is_refused_even_without_an_origin() {
    let router = Router::shared();
    let rebound = format!("evil.example:{}", router.address().port());
    for path in ["/api/read?table=users", "/api/health", "/api/analytics/errors"] {
        let reply = router.send("GET", path, &[("host", &rebound)], None);
        assert_eq!((reply.status, &*reply.code()), (403, "TSR403"), "{path}: {}", reply.text());
    }
}

/// Routing uses the decoded path, so metrics and refusals must use it as well.
#[test]
fn a_path_that_is_spelled_with_escapes_is_the_same_path() {
    let router = Router::start();
    let reply = router.send("POST", "/api/%77rite", &[("x-shard-key", "u")], Some(b"{}"));
    assert_eq!((reply.status, &*reply.code()), (400, "TSR101"), "{}", reply.text());
    assert_eq!(reply.json()["outcome"], "rejected");
    let errors = router.get("/api/analytics/errors").json();
    assert_eq!(errors["errors"][0]["route"], "/api/write", "{errors}");
}
