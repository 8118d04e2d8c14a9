//! Tests of the advice: the moves that a router proposes after known requests.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::{Value, json};
use shard_manager::keyspace::{Keyspace, ShardKey};

use crate::harness::Router;

/// Requests that are sent at once over one connection.
const AT_ONCE: usize = 50;

/// The shard map of a router: the shard of each slot.
pub(crate) struct Owners(pub(crate) Vec<String>);

impl Owners {
    pub(crate) fn of(router: &Router) -> Self {
        Self::of_ranges(&router.get("/api/shard-map").json()["ranges"])
    }

    /// Returns the owners of ranges of slots, from the first slot on.
    pub(crate) fn of_ranges(ranges: &Value) -> Self {
        let ranges = ranges.as_array().unwrap().iter();
        let owners = ranges.flat_map(|range| {
            let [first, last] = [0, 1].map(|at| range[at].as_u64().unwrap());
            (first..=last).map(|_| range[2].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        });
        Self(owners.collect())
    }

    /// Returns keys of a shard, each in a different slot.
    pub(crate) fn keys(&self, shard: &str, count: usize) -> Vec<String> {
        let mut taken = std::collections::HashSet::new();
        let keys = (0..).map(|number| format!("key{number}"));
        keys.filter(|key| self.0[slot(key)] == shard && taken.insert(slot(key)))
            .take(count)
            .collect()
    }

    /// Returns the share of each shard in these requests.
    fn shares(&self, requests: &HashMap<usize, u64>) -> HashMap<String, f64> {
        let total: u64 = requests.values().sum();
        let mut shares = HashMap::new();
        for (slot, count) in requests {
            *shares.entry(self.0[*slot].clone()).or_default() += *count as f64 / total as f64;
        }
        shares
    }

    /// Changes the owners as the advice proposes.
    pub(crate) fn follow(&mut self, advice: &Value) {
        for step in advice["moves"].as_array().unwrap() {
            let mut count = 0;
            for range in step["ranges"].as_array().unwrap() {
                let [first, last] = [0, 1].map(|at| range[at].as_u64().unwrap() as usize);
                for owner in &mut self.0[first..=last] {
                    assert_eq!(*owner, step["from"], "it has these slots: {step}");
                    *owner = step["to"].as_str().unwrap().to_owned();
                    count += 1;
                }
            }
            assert_eq!(step["slots"], count);
        }
    }
}

fn slot(key: &str) -> usize {
    Keyspace::Hash.slot_of(ShardKey::parse(key).unwrap()).unwrap().index()
}

/// Reads each key this many times, and returns the number of reads of each slot.
pub(crate) fn read(router: &Router, keys: &[(Vec<String>, usize)]) -> HashMap<usize, u64> {
    read_from(router, "users", keys)
}

/// Reads each key of a table this many times, and returns the number of reads of each slot of its
/// group.
pub(crate) fn read_from(
    router: &Router,
    table: &str,
    keys: &[(Vec<String>, usize)],
) -> HashMap<usize, u64> {
    let all: Vec<&String> =
        keys.iter().flat_map(|(keys, times)| std::iter::repeat_n(keys, *times).flatten()).collect();
    for some in all.chunks(AT_ONCE) {
        let mut text = String::new();
        for (number, key) in some.iter().enumerate() {
            let end = if number + 1 == some.len() { "connection: close\r\n" } else { "" };
            let path = format!("/api/read?table={table}&shardKey={key}");
            let _ = write!(text, "GET {path} HTTP/1.1\r\nhost: localhost\r\n{end}\r\n");
        }
        let answers = String::from_utf8_lossy(&router.raw(text.as_bytes())).into_owned();
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), some.len(), "{answers}");
    }
    let mut counts = HashMap::new();
    all.iter().for_each(|key| *counts.entry(slot(key)).or_default() += 1);
    counts
}

pub(crate) fn advice(router: &Router, query: &str) -> Value {
    let reply = router.get(&format!("/api/advice{query}"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn is_near(reported: &Value, expected: f64) -> bool {
    reported.as_f64().is_some_and(|reported| (reported - expected).abs() < 1e-9)
}

#[test]
fn a_cluster_with_an_overloaded_shard_gets_the_slots_that_would_relieve_it() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &[]);
    let mut owners = Owners::of(&router);
    let counts = read(
        &router,
        &[
            (owners.keys("shard1", 300), 4),
            (owners.keys("shard2", 100), 2),
            (owners.keys("shard3", 100), 2),
        ],
    );
    let reported = advice(&router, "");
    assert_eq!(
        (&reported["verdict"], &reported["by"]),
        (&json!("skewed"), &json!("load")),
        "{reported}"
    );
    assert_eq!(
        (&reported["total"], &reported["unit"]),
        (&json!(1_600), &json!("requests")),
        "{reported}"
    );
    assert_eq!((&reported["hot"], &reported["success"]), (&json!([]), &json!(true)), "{reported}");
    // One shard has 1200 of 1600 requests instead of a third.
    assert!(
        is_near(&reported["skew"], 2.25) && reported["window_s"].as_f64() > Some(0.0),
        "{reported}"
    );
    assert!(reported["because"].as_str().unwrap().starts_with("shard1 carries 2.25"), "{reported}");
    assert!(reported["how"].as_str().unwrap().contains("nothing moves by itself"), "{reported}");

    let before = owners.shares(&counts);
    owners.follow(&reported);
    let after = owners.shares(&counts);
    for shard in reported["shards"].as_array().unwrap() {
        let name = shard["shard"].as_str().unwrap();
        assert!(is_near(&shard["share"], before[name]), "{shard}");
        assert!(is_near(&shard["share_after"], after[name]), "{shard} {after:?}");
        assert!(is_near(&shard["fair_share"], 1.0 / 3.0) && after[name] < 0.35, "{shard}");
        let slots = owners.0.iter().filter(|owner| *owner == name).count();
        assert_eq!(shard["slots_after"], slots);
        assert!(shard["bytes"].as_u64() > Some(0) && shard["rows"] == 0, "{shard}");
    }
    let moves = reported["moves"].as_array().unwrap();
    assert!((2..=4).contains(&moves.len()), "{reported}");
    for step in moves {
        assert_eq!((&step["from"], &step["estimated"]), (&json!("shard1"), &json!(true)));
    }
    let skew = after.values().fold(0.0_f64, |most, share| most.max(share * 3.0));
    assert!(is_near(&reported["skew_after"], skew) && skew < 1.05, "{reported}");

    // Recorded requests are lost when the process ends.
    router.end();
    let reported = advice(&Router::start_in(&data, &[]), "?by=load");
    assert_eq!(
        (&reported["verdict"], &reported["moves"]),
        (&json!("too_little_to_say"), &json!([]))
    );
}

#[test]
fn a_key_that_outweighs_a_shard_is_named_and_nothing_is_planned_for_it() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start();
    let owners = Owners::of(&router);
    let others = ["shard1", "shard2", "shard3"].map(|shard| (owners.keys(shard, 100), 2));
    let counts = [read(&router, &others), read(&router, &[(vec!["celebrity".to_owned()], 1_400)])];
    let reported = advice(&router, "");
    assert_eq!(reported["verdict"], "hot", "{reported}");
    let hot = &reported["hot"][0];
    let place = router.get("/api/route?key=celebrity").json();
    assert_eq!((&hot["key"], &hot["slot"]), (&json!("celebrity"), &place["slot"]), "{reported}");
    assert_eq!((&hot["shard"], reported["hot"].as_array().unwrap().len()), (&place["shard"], 1));
    let of_slot: u64 = counts.iter().filter_map(|counts| counts.get(&slot("celebrity"))).sum();
    assert!(is_near(&hot["share"], of_slot as f64 / 2_000.0), "{reported}");
    assert!(
        is_near(&hot["key_share"], 0.7) && is_near(&hot["fair_share"], 1.0 / 3.0),
        "{reported}"
    );
    assert!(reported["because"].as_str().unwrap().contains("no move can change"), "{reported}");
    let mut after = Owners::of(&router);
    after.follow(&reported);
    assert_eq!(after.0[slot("celebrity")], place["shard"], "it stays: {reported}");
    assert!(reported["skew_after"].as_f64() <= reported["skew"].as_f64(), "{reported}");
}

#[test]
fn an_even_cluster_is_balanced() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start();
    let owners = Owners::of(&router);
    let evenly = ["shard1", "shard2", "shard3"].map(|shard| (owners.keys(shard, 100), 4));
    read(&router, &evenly[..2]);
    let reported = advice(&router, "");
    assert_eq!(
        (&reported["verdict"], &reported["total"]),
        (&json!("too_little_to_say"), &json!(800))
    );
    read(&router, &evenly[2..]);
    let reported = advice(&router, "");
    assert_eq!(
        (&reported["verdict"], &reported["moves"]),
        (&json!("balanced"), &json!([])),
        "{reported}"
    );
    assert_eq!(reported["how"], "nothing has to be done");
    assert!(is_near(&reported["skew"], 1.0) && is_near(&reported["skew_after"], 1.0), "{reported}");
}

/// Returns this many random letters, which cannot be compressed.
fn noise(letters: usize) -> String {
    let mut state = 7_u64;
    let letter = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + (state >> 59) as u8 + if (state >> 59) > 9 { 39 } else { 0 })
    };
    (0..letters).map(letter).collect()
}

#[test]
fn by_size_a_fuller_shard_gives_slots_to_the_others() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start_with(&["--analytics", "off"]);
    let reported = advice(&router, "?by=size");
    assert_eq!(
        (&reported["verdict"], &reported["unit"]),
        (&json!("too_little_to_say"), &json!("bytes"))
    );
    assert_eq!(reported["window_s"], Value::Null);
    // Without analytics nothing is recorded.
    let refused = router.get("/api/advice");
    assert_eq!((refused.status, &*refused.code()), (404, "TSR111"), "{}", refused.text());

    let mut owners = Owners::of(&router);
    let value = json!(noise(800_000)).to_string();
    for key in owners.keys("shard2", 25) {
        let json = [("content-type", "application/json")];
        let put = router.send("PUT", &format!("/api/kv/{key}"), &json, Some(value.as_bytes()));
        assert_eq!(put.status, 201, "{}", put.text());
    }
    let reported = advice(&router, "?by=size");
    assert_eq!(
        (&reported["verdict"], &reported["hot"]),
        (&json!("skewed"), &json!([])),
        "{reported}"
    );
    assert!(
        reported["total"].as_u64() > Some(16 << 20) && reported["skew"].as_f64() > Some(2.0),
        "{reported}"
    );
    assert!(reported["skew_after"].as_f64() < Some(1.1), "{reported}");
    let (mut lost, mut share) = (0, 0.0);
    for step in reported["moves"].as_array().unwrap() {
        assert_eq!(
            (&step["from"], step["ranges"].as_array().unwrap().len()),
            (&json!("shard2"), 1)
        );
        lost += step["bytes"].as_u64().unwrap();
        share += step["share"].as_f64().unwrap();
    }
    let of_shard = &reported["shards"][1];
    let expected = of_shard["share"].as_f64().unwrap() - share;
    assert!(is_near(&of_shard["share_after"], expected), "{reported}");
    let part = lost as f64 / reported["total"].as_f64().unwrap();
    assert!((part - share).abs() < 0.001, "{part} {reported}");
    owners.follow(&reported);
}

#[test]
fn an_unknown_basis_is_refused_with_the_known_ones() {
    let router = Router::start();
    for query in ["?by=rows", "?by=", "?by=load&by=size", "?bye=load", "?by=LOAD"] {
        let refused = router.get(&format!("/api/advice{query}"));
        assert_eq!((refused.status, &*refused.code()), (400, "TSR100"), "{query}");
    }
    let refused = router.get("/api/advice?by=rows").json();
    assert_eq!(refused["detail"], "by must be load or size");
}

#[test]
fn on_citus_the_advice_names_the_way_to_move_rows() {
    if !crate::citus::is_there() {
        return;
    }
    let router = Router::start();
    for query in ["", "?by=size"] {
        let reported = advice(&router, query);
        assert_eq!(
            (&reported["verdict"], &reported["moves"]),
            (&json!("left_to_citus"), &json!([]))
        );
        assert!(reported["how"].as_str().unwrap().contains("citus_rebalance_start"), "{reported}");
    }
}
