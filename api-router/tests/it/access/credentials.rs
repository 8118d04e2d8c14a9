//! Tests of credentials: the places where they are sent; bad ones are refused, and not treated as
//! anonymous.

use serde_json::{Value, json};

use super::guarded::{Guarded, admin, expired, key, reader};
use crate::harness::Reply;

const READ: &str = "/api/read?table=users";
const CHALLENGE: &str = "Bearer realm=\"tessera\"";
const INVALID: &str = "Bearer realm=\"tessera\", error=\"invalid_token\"";

/// Returns the body without the request id, the only member that differs each time.
fn body(reply: &Reply) -> Value {
    let mut body = reply.json();
    body["request_id"] = json!(null);
    body
}

fn refused(reply: &Reply, challenge: &str) {
    assert_eq!((reply.status, &*reply.code()), (401, "TSR401"), "{}", reply.text());
    assert_eq!(reply.header("www-authenticate"), Some(challenge), "{}", reply.text());
}

#[test]
fn a_request_without_credentials_learns_how_to_send_some() {
    let guarded = Guarded::start("on", &[]);
    for path in [READ, "/api/kv/a", "/metrics", "/api/shards", "/api/tables"] {
        refused(&guarded.send("GET", path, None), CHALLENGE);
    }
    for path in ["/live", "/ready", "/api/health", "/errors", "/", "/api-docs/openapi.json"] {
        assert_eq!(guarded.send("GET", path, None).status, 200, "{path}");
    }
    assert_eq!(guarded.send("GET", READ, Some(admin().reveal())).status, 200);
    let lower = [("authorization", &*format!("bearer  {}", admin().reveal()))];
    assert_eq!(guarded.router.send("GET", READ, &lower, None).status, 200);
}

#[test]
fn bad_credentials_are_refused_on_every_path_and_never_anonymous() {
    let guarded = Guarded::start("on", &[]);
    let good = admin();
    let good = good.reveal();
    let long = "x".repeat(9_000);
    let (cut, swapped) = (&good[..good.len() - 1], good.replacen("tsr_", "tsr-", 1));
    for text in [cut, &swapped, "x", "a.b.c", "tsr_", key(99).reveal(), &long, "a b"] {
        for path in [READ, "/live"] {
            let reply = guarded.send("GET", path, Some(text));
            refused(&reply, INVALID);
            assert!(!reply.text().contains(text), "{}", reply.text());
        }
    }
    for value in ["", "Bearer", "Bearer ", "Basic YTpi", good, "Digest x"] {
        let reply = guarded.send_with("GET", "/live", None, &[("authorization", value)], None);
        refused(&reply, INVALID);
    }
}

#[test]
fn credentials_have_one_place() {
    let guarded = Guarded::start("on", &[]);
    let key = admin();
    let line = format!("authorization: Bearer {}\r\n", key.reveal());
    let request =
        format!("GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{line}{line}\r\n");
    let answer = String::from_utf8(guarded.router.raw(request.as_bytes())).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"TSR113\""), "{answer}");
    for name in ["apikey", "access_token", "%61pikey", "access%5Ftoken"] {
        for path in ["/live", "/api/read"] {
            let path = format!("{path}?table=users&{name}={}", key.reveal());
            let reply = guarded.send("GET", &path, Some(key.reveal()));
            assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{}", reply.text());
            assert!(!reply.text().contains(key.reveal()), "{}", reply.text());
        }
    }
}

#[test]
fn expiry_is_reported_only_for_a_key_with_the_right_secret() {
    let guarded = Guarded::start("on", &[]);
    let reply = guarded.send("GET", READ, Some(expired().reveal()));
    refused(
        &reply,
        "Bearer realm=\"tessera\", error=\"invalid_token\", error_description=\"the credentials have expired\"",
    );
    // The id of one key, with the secret and the checksum of another one.
    let (id, other) = (expired().id().to_string(), reader());
    let body_of = format!("tsr_{id}_{}", &other.reveal()[17..60]);
    let forged = with_checksum(&body_of);
    let wrong = guarded.send("GET", READ, Some(&forged));
    refused(&wrong, INVALID);
    let unknown = guarded.send("GET", READ, Some(key(98).reveal()));
    refused(&unknown, INVALID);
    assert_eq!(body(&wrong), body(&unknown), "wrong and unknown look alike");
}

/// Adds the checksum that every key ends with: six digits of base 62.
fn with_checksum(body: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut crc = !0_u32;
    for byte in body.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    let mut rest = !crc;
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    format!("{body}{}", String::from_utf8_lossy(&digits))
}

#[test]
fn a_refused_write_was_rejected() {
    let guarded = Guarded::start("on", &[]);
    let row = json!({"table": "users", "data": {"user_id": "u", "name": "N", "email": "e"}});
    let admin = admin();
    let cases = [
        ("/api/write", None, 401),
        ("/api/write", Some("x"), 401),
        ("/api/write", Some(super::guarded::powerless().reveal()), 403),
        ("/api/write?apikey=x", Some(admin.reveal()), 400),
    ]
    .map(|(path, text, status)| (path, text.map(str::to_owned), status));
    for (path, text, status) in cases {
        for path in [path.to_owned(), path.replace("/api/write", "/api/bulk-write")] {
            let reply = guarded.send_with("POST", &path, text.as_deref(), &[], Some(&row));
            assert_eq!(reply.status, status, "{path}: {}", reply.text());
            assert_eq!(reply.json()["outcome"], "rejected", "{path}: {}", reply.text());
        }
    }
    let read = guarded.send("GET", READ, Some(admin.reveal()));
    assert_eq!(read.json()["count"], 0, "nothing was stored");
}

/// Ten failures in a second are permitted; more are refused until time has passed. The key of
/// another client behind the same address continues to work.
#[test]
fn failed_credentials_of_an_address_are_limited_and_good_keys_are_not() {
    let guarded = Guarded::start("on", &[]);
    let admin = admin();
    let bad = [("authorization", "Bearer tsr_wrong")];
    let limited = (0..10_000)
        .map(|_| guarded.router.send("POST", "/api/write", &bad, Some(b"{}")))
        .find(|reply| reply.status != 401)
        .expect("the limit is reached");
    assert_eq!((limited.status, &*limited.code()), (429, "TSR429"), "{}", limited.text());
    assert_eq!(limited.json()["outcome"], "rejected");
    assert_eq!(limited.header("retry-after"), Some("1"));
    assert_eq!(guarded.send("GET", READ, Some(admin.reveal())).status, 200);
    let metrics = guarded.send("GET", "/metrics", Some(admin.reveal())).text();
    assert!(metrics.contains("tessera_access_limited_total{limit=\"failures\"}"), "{metrics}");
    assert!(
        metrics.contains("tessera_access_total{kind=\"key\",outcome=\"limited\"}"),
        "{metrics}"
    );
    assert!(metrics.contains("tessera_access_age_seconds "), "{metrics}");
    assert!(!metrics.contains(&admin.id().to_string()), "{metrics}");
}
