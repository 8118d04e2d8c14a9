//! Tests of connections: bodies that are too large, bytes that are not HTTP, and clients that
//! disconnect.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;

use serde_json::json;

use crate::harness::Router;

const LIMIT: usize = 16 << 20;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Checks that the router still responds, and still stores a row.
fn assert_alive(router: &Router) {
    assert_eq!(router.get("/live").status, 200);
    let written = router.write_user("alive", "Ada");
    assert!(written.status < 300, "{}", written.text());
}

#[test]
fn a_body_of_sixteen_mebibytes_and_one_byte_is_refused() {
    let router = Router::shared();
    let body = vec![b' '; LIMIT + 1];
    for path in ["/api/bulk-write", "/api/write"] {
        let headers = [("content-type", "application/json"), ("x-shard-key", "a")];
        let reply = router.send("POST", path, &headers, Some(&body));
        assert_eq!((reply.status, &*reply.code()), (413, "TSR108"), "{}", reply.text());
        assert_eq!(reply.json()["outcome"], "rejected");
    }
    // One byte less is read, and is not JSON.
    let headers = [("x-deadline-ms", "60000")];
    let reply = router.send("POST", "/api/bulk-write", &headers, Some(&body[1..]));
    assert_eq!((reply.status, &*reply.code()), (400, "TSR101"), "{}", reply.text());
    assert_alive(&router);
}

#[test]
fn a_body_whose_declared_length_is_too_large_is_refused_unread() {
    let router = Router::shared();
    for length in [LIMIT + 1, usize::MAX / 2] {
        let head = format!(
            "POST /api/bulk-write HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n"
        );
        let answer = text(&router.raw(head.as_bytes()));
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("TSR108"), "{answer}");
    }
    assert_alive(&router);
}

#[test]
fn a_chunked_body_that_grows_too_large_is_refused() {
    let router = Router::shared();
    let mut request =
        b"POST /api/bulk-write HTTP/1.1\r\nhost: localhost\r\nx-deadline-ms: 60000\r\n\
        connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec();
    let chunk = vec![b' '; 1 << 16];
    for _ in 0..(LIMIT >> 16) {
        request.extend_from_slice(b"10000\r\n");
        request.extend_from_slice(&chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"1\r\n \r\n0\r\n\r\n");
    let answer = text(&router.raw(&request));
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("TSR108"), "{answer}");
    assert_alive(&router);
}

#[test]
fn a_single_row_of_more_than_two_mebibytes_is_refused() {
    let router = Router::shared();
    let body = |size: usize| json!({"table": "users", "data": {"user_id": "u", "email": "e", "name": "n".repeat(size)}});
    let refused = router.write("u", &body(2 << 20));
    assert_eq!((refused.status, &*refused.code()), (413, "TSR108"), "{}", refused.text());
    assert_eq!(router.write("u", &body((2 << 20) - 200)).status, 201);
    let rows = json!({"table": "users", "records": [body(2 << 20)["data"], {"user_id": "v", "name": "N", "email": "e"}]});
    let answer = router.post("/api/bulk-write", &[("x-deadline-ms", "60000")], &rows).json();
    assert_eq!(
        (&answer["stored"], &answer["failed"][0]["error"]["code"]),
        (&json!(1), &json!("TSR108"))
    );
}

#[test]
fn garbage_on_the_socket_is_answered_with_400_or_not_at_all() {
    let router = Router::shared();
    let mut noise = Vec::new();
    let mut state = 0x9E37_79B9_u32;
    for _ in 0..4_096 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise.push((state >> 24) as u8);
    }
    let long_header =
        format!("GET /live HTTP/1.1\r\nhost: localhost\r\nx-long: {}\r\n\r\n", "a".repeat(300_000));
    let long_path = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "a".repeat(70_000));
    let many = format!("GET /live HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x-a: 1\r\n".repeat(500));
    let garbage: [&[u8]; 15] = [
        &noise, &[0; 100], &[0xff; 1_000], b"\r\n\r\n\r\n\r\nx\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
        b"GET /live HTTP/1.1\r\nhost localhost\r\n\r\n", b"GET /live HTTP/1.1\r\nhost: a\r\nhost: b\r\n: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /api/write HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /api/write HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        long_header.as_bytes(), long_path.as_bytes(), many.as_bytes(),
    ];
    for bytes in garbage {
        let mut stream = router.connect();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let start: String = text(bytes).chars().take(60).collect();
        let refused = ["HTTP/1.1 400 ", "HTTP/1.1 431 ", "HTTP/1.1 414 ", "HTTP/1.1 505 "];
        let ok =
            answer.is_empty() || refused.iter().any(|line| answer.starts_with(line.as_bytes()));
        assert!(ok, "{start:?}: {}", text(&answer));
    }
    assert_alive(&router);
}

#[test]
fn one_request_is_never_taken_for_two() {
    let router = Router::shared();
    let hidden = "GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let both = format!(
        "POST /api/write HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
        hidden.len() + 5
    );
    for bytes in
        [both.clone(), both.replace("chunked", "Chunked"), both.replace("chunked", "x, chunked")]
    {
        let answer = text(&router.raw(bytes.as_bytes()));
        assert!(!answer.contains("200 OK"), "{answer}");
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{answer}");
    }
    // A body that a GET does not need is skipped, not read as the next request.
    let with_body = format!(
        "GET /live HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{hidden}",
        hidden.len()
    );
    let mut stream = router.connect();
    stream.write_all(with_body.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1, "{answer}");
    assert_alive(&router);
}

#[test]
fn a_client_that_leaves_half_way_through_its_body_stores_nothing() {
    let router = Router::shared();
    let body = r#"{"table":"users","data":{"user_id":"half","name":"N","email":"e"}}"#;
    for sent in [0, 1, 30, body.len()] {
        let mut stream = router.connect();
        let head = format!(
            "POST /api/write HTTP/1.1\r\nhost: localhost\r\nx-shard-key: half\r\ncontent-length: {}\r\n\r\n{}",
            body.len() + 1,
            &body[..sent]
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "), "{}", text(&answer));
    }
    for chunks in ["5\r\n{\"tab", "5\r\n{\"tab\r\n", "zz\r\n", "-1\r\n", "ffffffffffffffffff\r\n"] {
        let mut stream = router.connect();
        let head = "POST /api/write HTTP/1.1\r\nhost: localhost\r\nx-shard-key: half\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(format!("{head}{chunks}").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "),
            "{chunks:?}: {}",
            text(&answer)
        );
    }
    assert_eq!(router.read("half", "table=users").json()["count"], 0);
    assert_alive(&router);
}

#[test]
fn a_client_that_does_not_wait_for_its_answer_harms_no_other() {
    let router = Router::start();
    for n in 0..50 {
        let body =
            format!(r#"{{"table":"users","data":{{"user_id":"gone","name":"{n}","email":"e"}}}}"#);
        let head = format!(
            "POST /api/write HTTP/1.1\r\nhost: localhost\r\nx-shard-key: gone\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        router.connect().write_all(head.as_bytes()).unwrap();
        router
            .connect()
            .write_all(b"GET /api/read?table=users HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .unwrap();
    }
    assert_alive(&router);
    // A write behind them in the same lane gets a response: they do not block it.
    let written = router.write_user("gone", "last");
    assert!(written.status < 300, "{}", written.text());
    assert_eq!(router.read("gone", "table=users").json()["count"], 1);
}

#[test]
fn several_requests_on_one_connection_are_answered_in_order() {
    let router = Router::shared();
    let mut stream = router.connect();
    for key in ["a", "b", "user_123"] {
        write!(stream, "GET /api/route?key={key} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    }
    let mut lines = BufReader::new(&stream);
    for key in ["a", "b", "user_123"] {
        let mut length = 0;
        let mut line = String::new();
        while lines.read_line(&mut line).unwrap() > 2 {
            let value = line.to_ascii_lowercase();
            if let Some(value) = value.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        lines.read_exact(&mut body).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["key"], key);
    }
}
