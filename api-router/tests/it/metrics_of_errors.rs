//! Tests of `GET /api/analytics/errors`: errors are listed newest first, filtered, and counted in
//! groups.

use serde_json::{Value, json};

use crate::harness::Router;
use crate::metrics::some_requests;

fn errors(router: &Router, query: &str) -> Vec<Value> {
    let reply = router.get(&format!("/api/analytics/errors{query}"));
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    reply.json()["errors"].as_array().unwrap().clone()
}

#[test]
fn errors_are_listed_newest_first_under_the_id_of_their_answer() {
    let router = Router::start();
    let refused = some_requests(&router);
    let listed = errors(&router, "");
    let reported: Vec<(String, String)> = listed
        .iter()
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            assert!(text("time").ends_with('Z') && !text("message").is_empty(), "{event}");
            assert!(event.get("trace_id").is_some() && event.get("shard").is_some(), "{event}");
            (text("code"), text("request_id"))
        })
        .collect();
    assert_eq!(reported, refused);
    let routes: Vec<&str> = listed.iter().map(|event| event["route"].as_str().unwrap()).collect();
    assert_eq!(routes, ["/api/read", "/api/read", "/api/read", "/api/write", "/api/write"]);
    // Only the insert reached a shard.
    let shard = router.get("/api/route?key=ada").json()["shard"].clone();
    assert_eq!(listed[4]["shard"], shard);

    let own = [("x-request-id", "my-own-id")];
    let reply = router.send("GET", "/api/read?table=usres", &own, None);
    assert_eq!(reply.header("x-request-id"), Some("my-own-id"));
    assert_eq!(errors(&router, "?limit=1")[0]["request_id"], "my-own-id");
}

#[test]
fn errors_can_be_chosen_and_counted_in_groups() {
    let router = Router::start();
    some_requests(&router);
    let shard = router.get("/api/route?key=ada").json()["shard"].as_str().unwrap().to_owned();
    assert_eq!(errors(&router, "?limit=2").len(), 2);
    assert_eq!(errors(&router, "?count=3").len(), 3);
    assert_eq!(errors(&router, "?code=TSR310").len(), 2);
    assert_eq!(errors(&router, "?code=TSR201").len(), 0);
    assert_eq!(errors(&router, &format!("?shard={shard}&code=TSR301")).len(), 1);
    assert_eq!(errors(&router, "?since=2000-01-01T00:00:00Z").len(), 5);
    assert_eq!(errors(&router, "?since=2999-01-01T00:00:00Z").len(), 0);
    let grouped = errors(&router, "?grouped=true");
    let counts: Vec<(&str, &str, u64)> = grouped
        .iter()
        .map(|group| {
            let text = |name: &str| group[name].as_str().unwrap();
            (text("code"), text("route"), group["count"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(
        counts,
        [
            ("TSR100", "/api/read", 2),
            ("TSR310", "/api/read", 1),
            ("TSR310", "/api/write", 1),
            ("TSR301", "/api/write", 1),
        ]
    );
    for bad in ["limit=0", "limit=1001", "limit=x", "since=yesterday", "grouped=maybe", "nope=1"] {
        let reply = router.get(&format!("/api/analytics/errors?{bad}"));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{bad}: {}", reply.text());
    }
}

/// A misspelt filter would otherwise report that there were no errors.
#[test]
fn errors_of_an_unknown_shard_or_code_are_refused() {
    let router = Router::shared();
    for (query, detail) in [
        ("shard=shard99", "shard: there is no shard of this name"),
        ("shard=", "shard: there is no shard of this name"),
        ("code=XYZ", "code: there is no such error code"),
        ("code=TSR999", "code: there is no such error code"),
        ("code=tsr100&grouped=true", "code: there is no such error code"),
    ] {
        let reply = router.get(&format!("/api/analytics/errors?{query}"));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{query}: {}", reply.text());
        assert_eq!(reply.json()["detail"], detail, "{query}");
    }
    let known = router.get("/api/analytics/errors?shard=shard1&code=TSR100");
    assert_eq!(known.status, 200, "{}", known.text());
}

/// `count` is another name for `limit`: two different values are a contradiction.
#[test]
fn two_spellings_of_one_limit_are_refused() {
    let router = Router::start();
    let reply = router.get("/api/analytics/errors?limit=1&count=2");
    assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{}", reply.text());
}

/// More errors are stored than one response contains.
#[test]
fn a_question_gets_the_newest_thousand_and_the_total_counts_all() {
    let router = Router::start();
    let agent = |n: usize| {
        let id = format!("number-{n}");
        router.send("GET", "/api/read?table=nope", &[("x-request-id", &id)], None)
    };
    (0..1_050).for_each(|n| assert_eq!(agent(n).status, 404));
    let reply = router.get("/api/analytics/errors?limit=1000").json();
    let listed = reply["errors"].as_array().unwrap();
    assert_eq!((&reply["total"], listed.len()), (&json!(1_050), 1_000));
    assert_eq!(listed[0]["request_id"], "number-1049");
    assert_eq!(listed[999]["request_id"], "number-50");
    let groups = router.get("/api/analytics/errors?grouped=true").json();
    assert_eq!(groups["errors"][0]["count"], 1_050, "groups count all that are kept: {groups}");
}
