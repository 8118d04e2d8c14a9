//! Tests of compression: the clients that get compressed responses, and that nothing else in the
//! response changes. Also tests of the pages about error codes.

use std::io::Read;

use serde_json::{Value, json};

use crate::client::settle;
use crate::harness::{Reply, Router};

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

/// Sends a GET without decompression: the client of the tests would request encodings that it can
/// decompress.
fn ask(router: &Router, path: &str, accept_encoding: Option<&str>) -> Reply {
    let header =
        accept_encoding.map_or_else(String::new, |value| format!("accept-encoding: {value}\r\n"));
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}\r\n");
    reply(&router.raw(request.as_bytes()))
}

fn reply(answer: &[u8]) -> Reply {
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
    let mut lines = std::str::from_utf8(&answer[..end]).unwrap().lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = ureq::http::HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let name: ureq::http::HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    Reply { status, headers, body: answer[end + 4..].to_vec() }
}

/// Starts a router with a small, a medium and a large value, on all nodes.
fn router() -> Router {
    let router = Router::start();
    for (key, length) in [("small", 500), ("middling", 5_000), ("large", 900_000)] {
        let value = json!("tessera ".repeat(length / 8)).to_string();
        router.send("PUT", &format!("/api/kv/{key}"), &[], Some(value.as_bytes()));
    }
    settle(&router);
    router
}

#[test]
fn a_compressed_answer_is_the_plain_one_in_fewer_bytes() {
    let router = router();
    for path in [
        "/api/kv/middling",
        "/api/kv/large",
        "/api/read?table=kv",
        "/api-docs/openapi.json",
        "/swagger-ui/swagger-ui-bundle.js",
        "/swagger-ui/swagger-ui.css",
        "/errors",
        "/errors/TSR101",
    ] {
        let plain = ask(&router, path, None);
        let packed = ask(&router, path, Some("gzip, deflate, br"));
        assert_eq!((plain.status, packed.status), (200, 200), "{path}");
        assert_eq!(plain.header("content-encoding"), None, "{path}");
        assert_eq!(packed.header("content-encoding"), Some("gzip"), "{path}");
        assert!(packed.body.len() < plain.body.len() / 2 + 500, "{path}");
        assert!(gunzip(&packed.body) == plain.body, "{path} differs");
        for reply in [&plain, &packed] {
            let vary: Vec<&str> =
                reply.headers.get_all("vary").iter().map(|value| value.to_str().unwrap()).collect();
            assert!(vary.contains(&"accept-encoding"), "{path}: {vary:?}");
            assert_eq!(reply.header("content-length").unwrap(), reply.body.len().to_string());
        }
        for name in ["content-type", "etag", "x-shard", "x-epoch", "x-content-type-options"] {
            assert_eq!(plain.header(name), packed.header(name), "{path} {name}");
        }
    }
}

#[test]
fn small_answers_are_sent_as_they_are() {
    let router = router();
    for path in ["/api/kv/small", "/live", "/ready", "/api/route?key=a", "/api/kv/none"] {
        let reply = ask(&router, path, Some("gzip"));
        assert_eq!(
            (reply.header("content-encoding"), reply.header("vary")),
            (None, None),
            "{path}"
        );
    }
}

#[test]
fn the_weights_of_the_client_decide() {
    let router = router();
    for (accept, is_packed) in [
        ("gzip", true),
        ("GZIP", true),
        ("x-gzip", true),
        ("*", true),
        ("br, gzip;q=0.001", true),
        ("deflate, br, *;q=0.1", true),
        ("gzip;q=1.0, identity;q=0.5", true),
        ("identity;q=0, gzip", true),
        ("", false),
        ("identity", false),
        ("br", false),
        ("gzip;q=0", false),
        ("gzip; q=0.000", false),
        ("gzip;q=0, *", false),
        ("*;q=0", false),
        ("identity, gzip;q=0.5", false),
        ("gzip;q=much", false),
        ("gzippy", false),
        ("gzip;q=0\r\naccept-encoding: *", false),
        ("br\r\naccept-encoding: gzip", true),
    ] {
        let reply = ask(&router, "/api/kv/middling", Some(accept));
        let is_gzip = reply.header("content-encoding") == Some("gzip");
        assert_eq!((reply.status, is_gzip), (200, is_packed), "{accept}");
    }
}

#[test]
fn a_tag_means_the_same_with_and_without_compression() {
    let router = router();
    let tag = ask(&router, "/api/kv/large", Some("gzip")).header("etag").unwrap().to_owned();
    let request = format!(
        "GET /api/kv/large HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         accept-encoding: gzip\r\nif-none-match: {tag}\r\n\r\n"
    );
    let same = reply(&router.raw(request.as_bytes()));
    assert_eq!((same.status, same.body.len()), (304, 0));
    assert_eq!((same.header("etag"), same.header("content-encoding")), (Some(&*tag), None));
    assert_eq!(same.header("vary"), Some("accept-encoding"));
    let change = router.send("PUT", "/api/kv/large", &[("if-match", &tag)], Some(b"1"));
    assert_eq!(change.status, 200, "{}", change.text());
}

#[test]
fn head_has_the_headers_of_the_compressed_response() {
    let router = router();
    let request = "HEAD /api/kv/middling HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                   accept-encoding: gzip\r\n\r\n";
    let head = reply(&router.raw(request.as_bytes()));
    let get = ask(&router, "/api/kv/middling", Some("gzip"));
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["content-encoding", "content-length", "etag", "vary"] {
        assert!(head.header(name).is_some() && head.header(name) == get.header(name), "{name}");
    }
}

#[test]
fn large_problems_and_large_answers_to_writes_are_compressed_too() {
    let router = router();
    let value = json!("tessera ".repeat(2_000)).to_string();
    let request = format!(
        "PUT /api/kv/new HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\naccept-encoding: gzip\r\n\
         prefer: return=representation\r\ncontent-length: {}\r\n\r\n{value}",
        value.len()
    );
    let made = reply(&router.raw(request.as_bytes()));
    assert_eq!((made.status, made.header("content-encoding")), (201, Some("gzip")));
    let body: Value = serde_json::from_slice(&gunzip(&made.body)).unwrap();
    assert_eq!(body["data"]["value"].to_string(), value);
}

#[test]
fn each_code_has_a_page_that_explains_it_with_a_real_example() {
    let router = Router::shared();
    let list = router.get("/errors").text();
    for code in api_router::problem::Code::ALL {
        let name = code.name();
        assert!(list.contains(&format!("<a href=\"/errors/{name}\">{name}</a>")), "{name}");
        let page = router.get(&format!("/errors/{name}"));
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        let html = page.text();
        let example = html.split("<pre>").nth(1).unwrap().split("</pre>").next().unwrap();
        let example = example.replace("&quot;", "\"").replace("&#39;", "'").replace("&lt;", "<");
        let example = example.replace("&gt;", ">").replace("&amp;", "&");
        let example: Value = serde_json::from_str(&example).unwrap();
        assert_eq!(
            (&example["code"], &example["status"]),
            (&json!(name), &json!(code.status().as_u16()))
        );
        assert_eq!(example["retryable"], code.is_retryable(), "{name}");
        assert!(html.contains("href=\"/errors\""), "{name} leads to the others");
        assert!(html.len() < 4_000, "{name} has {} bytes", html.len());
    }
}

#[test]
fn pages_about_codes_run_nothing_and_load_nothing() {
    let router = Router::shared();
    for path in ["/errors", "/errors/TSR100", "/errors/TSR205"] {
        let page = router.get(path);
        let html = page.text();
        for word in ["<script", "http:", "https:", "src=", "@import", "url("] {
            assert!(!html.contains(word), "{path}: {word}");
        }
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
    }
    for path in ["/errors/TSR999", "/errors/tsr101", "/errors/%3Cscript%3E", "/errors/TSR101/"] {
        let reply = router.get(path);
        assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{path}");
    }
}

#[test]
fn programs_get_the_list_of_codes_as_json() {
    let router = Router::shared();
    let ask = |accept: &str| router.send("GET", "/errors", &[("accept", accept)], None);
    for accept in ["application/json", "text/html;q=0.5, application/json", "application/*"] {
        let reply = ask(accept);
        assert_eq!(reply.header("content-type"), Some("application/json"), "{accept}");
        let errors = reply.json()["errors"].as_array().unwrap().clone();
        assert_eq!(errors.len(), api_router::problem::Code::ALL.len());
        for error in errors {
            let page = router.get(error["page"].as_str().unwrap());
            assert_eq!(page.status, 200, "{error}");
        }
    }
    for accept in ["*/*", "text/html", "text/html, application/json;q=0.9", "image/png"] {
        assert_eq!(
            ask(accept).header("content-type"),
            Some("text/html; charset=utf-8"),
            "{accept}"
        );
    }
}
