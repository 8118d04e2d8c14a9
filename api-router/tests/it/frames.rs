//! Tests of `GET /api/analytics/frames`, by which services collect the metrics of a router.

use std::time::Instant;

use serde_json::Value;

use crate::harness::{PATIENCE, Router};
use crate::metrics::some_requests;

fn frames(router: &Router, query: &str) -> Value {
    let reply = router.get(&format!("/api/analytics/frames{query}"));
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    reply.json()
}

/// Returns the number of requests in the frames of one second.
fn total(frames: &Value) -> u64 {
    let of_a_second =
        frames["frames"].as_array().unwrap().iter().filter(|frame| frame["step"] == 1);
    let cells = of_a_second.flat_map(|frame| frame["cells"].as_array().unwrap());
    cells.map(|cell| cell["total"].as_u64().unwrap()).sum()
}

#[test]
fn a_service_that_polls_gets_each_request_once() {
    let router = Router::start();
    some_requests(&router);
    let (mut after, mut counted) = (0, 0);
    let began = Instant::now();
    while counted < 12 {
        assert!(began.elapsed() < PATIENCE, "{counted} requests were handed on");
        let answer =
            frames(&router, &format!("?after_1={after}&after_10=9999999999&after_60=9999999999"));
        counted += total(&answer);
        for frame in answer["frames"].as_array().unwrap() {
            assert!(frame["start"].as_u64().unwrap() > after, "{frame}");
            after = frame["start"].as_u64().unwrap();
        }
    }
    assert_eq!(counted, 12);
    assert_eq!(total(&frames(&router, &format!("?after_1={after}"))), 0);
}

#[test]
fn errors_are_numbered_so_that_none_is_sent_twice() {
    let router = Router::start();
    let first = frames(&router, "");
    assert_eq!((&first["errors_seq"], first["errors"].as_array().unwrap().len()), (&0.into(), 0));
    some_requests(&router);
    let answer = frames(&router, "?errors_after=0");
    assert_eq!((&answer["errors_seq"], answer["errors"].as_array().unwrap().len()), (&5.into(), 5));
    let newer = frames(&router, "?errors_after=3");
    assert_eq!(newer["errors"].as_array().unwrap().len(), 2);
    assert_eq!(newer["errors"][1], answer["errors"][4]);
    for _ in 0..1_200 {
        router.get("/api/read?table=nope");
    }
    let full = frames(&router, "?errors_after=5");
    assert_eq!((&full["errors_seq"], &full["more"]), (&1_005.into(), &true.into()));
    let rest = frames(&router, "?errors_after=1005");
    assert_eq!((&rest["errors_seq"], &rest["more"]), (&1_205.into(), &false.into()));
}

#[test]
fn a_service_gets_the_name_of_the_router_and_the_state_of_the_cluster() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start();
    let answer = frames(&router, "");
    let port = router.address().port();
    assert_eq!(answer["router"], format!("router-{port}"));
    assert!(answer["started"].as_str().unwrap().ends_with('Z'), "{answer}");
    let now = &answer["now"];
    assert_eq!((&now["slots"], &now["epoch"]), (&16_384.into(), &1.into()));
    assert_eq!(now["version"], env!("CARGO_PKG_VERSION"));
    let shards = now["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 3);
    let slots: u64 = shards.iter().map(|shard| shard["slots"].as_u64().unwrap()).sum();
    assert_eq!(slots, 16_384);
    assert!(shards.iter().all(|shard| shard["up"] == true), "{now}");
    let nodes = |shard: &Value| shard["nodes"].as_array().unwrap().len();
    assert!(shards.iter().all(|shard| nodes(shard) == 2), "{now}");
}

#[test]
fn a_question_for_frames_that_means_nothing_is_refused() {
    let router = Router::start();
    for bad in [
        "after_1=x",
        "after_10=-1",
        "after_60=1.5",
        "errors_after=",
        "after_1=1&after_1=2",
        "after_5=1",
    ] {
        let reply = router.get(&format!("/api/analytics/frames?{bad}"));
        let name = bad.split('=').next().unwrap();
        assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{bad}: {}", reply.text());
        assert!(reply.json()["detail"].as_str().unwrap().contains(name), "{}", reply.text());
    }
}
