//! Tests of streamed bodies while they arrive: rows are stored before the body ends, a stage waits
//! for a slower one, and the number of held bytes is bounded.

use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::thread;

use serde_json::json;

use crate::client::{keys_on, lab, set};
use crate::harness::{PATIENCE, Router, eventually};
use crate::streams::{NDJSON, USERS, codes, count, line, lines, owned, stream};

/// Sends the head of a streamed request, and bytes of its body.
pub(crate) fn begin(router: &Router, head: &str, body: &[u8]) -> TcpStream {
    let mut stream = router.connect();
    let text = format!(
        "POST {USERS} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/x-ndjson\r\n{head}\r\n"
    );
    stream.write_all(text.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    stream
}

#[test]
fn a_client_that_breaks_off_in_the_middle_of_a_line_leaves_the_lines_before() {
    let router = Router::start();
    let text = lines(0..300);
    let cut = text.len() - 20;
    let stream = begin(&router, "content-length: 1000000\r\n", &text.as_bytes()[..cut]);
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    // The client may receive a response or not.
    let _ = (&stream).read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.contains("\"next_index\":299"), "{answer}");
    let began = std::time::Instant::now();
    while count(&router, "users") < 299 {
        assert!(began.elapsed() < PATIENCE, "the whole lines are not stored");
    }
    assert_eq!(stream_rest(&router, &text, 299), 201);
    assert_eq!(count(&router, "users"), 300);
}

#[test]
fn a_stream_that_the_end_of_the_router_cuts_off_gets_the_next_index() {
    let mut router = Router::start();
    let text = line("early");
    let first = format!("{:x}\r\n{text}\r\n", text.len());
    let head = "transfer-encoding: chunked\r\nx-deadline-ms: 60000\r\n";
    let mut stream = begin(&router, head, first.as_bytes());
    eventually("the first line", || (count(&router, "users") == 1).then_some(()));
    router.signal("INT");
    let address = router.address();
    eventually("no listener", || TcpStream::connect(address).is_err().then_some(()));
    router.signal("INT");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"TSR005\""), "{answer}");
    for part in ["\"outcome\":\"partial\"", "\"next_index\":1", "\"stored\":1"] {
        assert!(answer.contains(part), "{part} is not in {answer}");
    }
    assert_eq!(router.wait().code(), Some(0));
}

fn stream_rest(router: &Router, text: &str, from: usize) -> u16 {
    let rest: String = text.lines().skip(from).map(|line| format!("{line}\n")).collect();
    stream(router, &[NDJSON], rest.as_bytes()).status
}

#[test]
fn rows_are_stored_while_the_body_still_comes() {
    let router = Router::start();
    let text = line("early");
    let mut stream = begin(&router, "transfer-encoding: chunked\r\n", b"");
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    stream.write_all(chunk(&text).as_bytes()).unwrap();
    let began = std::time::Instant::now();
    while count(&router, "users") < 1 {
        assert!(began.elapsed() < PATIENCE, "the first line waits for the second");
    }
    stream.write_all(format!("{}0\r\n\r\n", chunk(line("late").trim_end())).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201") && answer.contains("\"stored\":2"), "{answer}");
}

#[test]
fn a_body_that_stalls_gets_the_next_index() {
    use actix_web::FromRequest as _;
    use actix_web::web::{Bytes, Payload};
    use api_router::routes::bulk::stream::{Received, intake};
    use futures_util::{FutureExt as _, StreamExt as _};
    let reported = actix_web::rt::System::new().block_on(async {
        let first = futures_util::stream::iter([Ok(Bytes::from_static(b"line\n"))]);
        let silence = futures_util::stream::pending();
        let body = first.chain(silence).boxed_local();
        let mut body = actix_web::dev::Payload::Stream { payload: body };
        let request = actix_web::test::TestRequest::default().to_http_request();
        let payload = Payload::from_request(&request, &mut body).await.unwrap();
        let mut taken =
            intake(payload, std::time::Duration::from_millis(20), Rc::new(Cell::new(1 << 10)));
        let first = taken.recv().await;
        assert!(matches!(first, Some(Received::Bytes(_))), "{first:?}");
        let second = taken.recv().map(|taken| match taken {
            Some(Received::Failed(problem)) => {
                Some((problem.status().as_u16(), problem.code().name()))
            }
            Some(Received::Bytes(_) | Received::End) | None => None,
        });
        second.await
    });
    assert_eq!(reported, Some((504, "TSR004")));
}

#[test]
fn a_shard_that_stands_still_fails_its_rows_alone() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = lab(&[]);
    let dead = keys_on(&router, "shard2", 5);
    let alive = [keys_on(&router, "shard1", 5), keys_on(&router, "shard3", 5)].concat();
    let body: String = dead.iter().chain(&alive).map(|key| line(key)).collect();
    set(&router, "shard2-primary", "paused");
    // On a busy machine the other shards may miss a short deadline too.
    let mut replies = ["300", "3000", "20000"]
        .into_iter()
        .map(|deadline| stream(&router, &[NDJSON, ("x-deadline-ms", deadline)], body.as_bytes()));
    let reply = replies.find(|reply| reply.json()["stored"].as_u64() >= Some(10));
    set(&router, "shard2-primary", "running");
    let reply = reply.expect("the rows of the other shards are stored");
    assert_eq!(reply.status, 207, "{}", reply.text());
    let answer = reply.json();
    assert_eq!((&answer["stored"], &answer["failed_total"]), (&json!(10), &json!(5)));
    let expected: Vec<(u64, &str)> = (0..5).map(|index| (index, "TSR004")).collect();
    assert_eq!(codes(&answer), owned(&expected));
    let shards = answer["failed"].as_array().unwrap().iter().map(|row| &row["shard"]);
    assert!(shards.into_iter().all(|shard| shard == "shard2"));
    assert_eq!(stream(&router, &[NDJSON], body.as_bytes()).json()["stored"], 15);
}

#[test]
fn a_shard_that_stands_still_holds_up_the_client_and_nothing_is_lost() {
    let router = lab(&["--shards", "1"]);
    set(&router, "shard1-primary", "paused");
    let mut stream = begin(&router, "transfer-encoding: chunked\r\nx-deadline-ms: 60000\r\n", b"");
    stream.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let text = large_lines(256);
    let chunk = format!("{:x}\r\n{text}\r\n", text.len()).into_bytes();
    // More than all buffers can hold: the router must stop reading.
    let (mut sent, mut chunks) = (0, 0);
    let most = 200 << 20;
    'sending: while sent < most {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(bytes) => {
                    sent += bytes;
                    rest = &rest[bytes..];
                }
                Err(_) => {
                    set(&router, "shard1-primary", "running");
                    stream.set_write_timeout(None).unwrap();
                    stream.write_all(rest).unwrap();
                    chunks += 1;
                    break 'sending;
                }
            }
        }
        chunks += 1;
    }
    assert!(sent < most / 2, "{sent} bytes were taken of a client whose rows went nowhere");
    stream.write_all(b"0\r\n\r\n").unwrap();
    stream.set_read_timeout(None).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let stored = format!("\"stored\":{}", chunks * 256);
    assert!(answer.starts_with("HTTP/1.1 201") && answer.contains(&stored), "{answer}");
    assert_eq!(count(&router, "users"), 256);
}

/// Returns lines of 4 KiB, which need much memory and few writes.
fn large_lines(count: usize) -> String {
    let name = "n".repeat(4 << 10);
    let line = |n| format!("{{\"user_id\":\"u{n}\",\"name\":\"{name}\",\"email\":\"e\"}}\n");
    (0..count).map(line).collect()
}

/// Returns the peak of the router's memory without the pages of files. The pages of the program
/// itself grow as more of it is run, and with read-ahead.
pub(crate) fn peak_kib(router: &Router) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", router.pid())).unwrap();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    kib("VmHWM:") - kib("RssFile:") - kib("RssShmem:")
}

#[test]
fn memory_does_not_grow_with_the_body() {
    let long = std::env::var("LONG_TESTS").is_ok();
    let total = if long { 1 << 30 } else { 32 << 20 };
    let router = Router::start();
    let mut stream = begin(&router, "transfer-encoding: chunked\r\nx-deadline-ms: 60000\r\n", b"");
    let (mut sent, mut rows) = (0, 0);
    while sent < total {
        let text = if long { lines(rows..rows + 10_000) } else { large_lines(256) };
        rows += text.lines().count();
        sent += text.len();
        stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    stream.set_read_timeout(None).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(&format!("\"stored\":{rows}")), "{answer}");
    let peak = peak_kib(&router);
    assert!(peak < 140 << 10, "{peak} KiB for a body of {} MiB", total >> 20);
}

#[test]
fn many_streams_at_once_are_all_stored() {
    let router = Router::start();
    thread::scope(|scope| {
        for part in 0..4 {
            let router = &router;
            scope.spawn(move || {
                let body = lines(part * 5_000..(part + 1) * 5_000);
                let reply = stream(router, &[NDJSON], body.as_bytes());
                assert_eq!(reply.status, 201, "{}", reply.text());
            });
        }
    });
    assert_eq!(count(&router, "users"), 20_000);
}
