//! Tests of placement: the shard of a key, and the rows on each shard. Also tests of the documents
//! about the API.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Router, eventually};

/// Slots computed with another implementation (Python's xxhash 3.x): `xxh3_64(key) & 16383`.
const GOLDEN: [(&str, u64); 9] = [
    ("a", 3615),
    ("7", 1530),
    ("007", 3458),
    ("user_0", 1758),
    ("user_123", 3421),
    ("user_9999", 11290),
    ("café", 13951),
    ("😀", 142),
    ("O'Brien; --", 12636),
];

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Returns the owner of a slot according to `/api/shard-map`.
fn owner(map: &Value, slot: u64) -> Value {
    let holds =
        |range: &&Value| (range[0].as_u64().unwrap()..=range[1].as_u64().unwrap()).contains(&slot);
    map["ranges"].as_array().unwrap().iter().find(holds).unwrap()[2].clone()
}

#[test]
fn a_key_has_the_same_slot_for_ever() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    for shards in ["1", "3", "8"] {
        let router = Router::start_with(&["--shards", shards]);
        let map = router.get("/api/shard-map").json();
        for (key, slot) in GOLDEN {
            let route = router.get(&format!("/api/route?key={}", encoded(key))).json();
            let shard = owner(&map, slot);
            let hash = route["hash"].as_str().unwrap().strip_prefix("0x").unwrap();
            assert_eq!(u64::from_str_radix(hash, 16).unwrap() % 16_384, slot);
            let expected = json!({
                "key": key, "keyspace": "hash", "hash": route["hash"], "slot": slot, "shard": shard,
                "primary": format!("{}-primary", shard.as_str().unwrap()),
                "replicas": [format!("{}-replica1", shard.as_str().unwrap())],
                "epoch": 1, "moving": false,
            });
            assert_eq!(route, expected);
        }
        let long = "x".repeat(256);
        assert_eq!(router.get(&format!("/api/route?key={long}")).json()["slot"], 11977);
        assert_eq!(router.get("/api/route?key=key+with%20space").json()["slot"], 10337);
    }
}

#[test]
fn a_key_that_is_none_is_refused() {
    let router = Router::shared();
    let too_long = format!("key={}", "x".repeat(257));
    for query in [
        "",
        "key=",
        "key",
        "key=%00",
        "key=a%0Ab",
        "key=%C2%85",
        "key=%ff",
        "kye=a",
        "key=a&key=a",
        "key=a&tables=users",
        &too_long,
    ] {
        let reply = router.get(&format!("/api/route?{query}"));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{query}: {}", reply.text());
    }
}

#[test]
fn the_shard_map_covers_every_slot_once() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    for (shards, expected) in [
        ("1", json!([[0, 16383, "shard1"]])),
        ("3", json!([[0, 5461, "shard1"], [5462, 10922, "shard2"], [10923, 16383, "shard3"]])),
        ("2", json!([[0, 8191, "shard1"], [8192, 16383, "shard2"]])),
    ] {
        let router = Router::start_with(&["--shards", shards]);
        let map = router.get("/api/shard-map").json();
        assert_eq!(map["ranges"], expected);
        assert_eq!(
            (&map["epoch"], &map["slots"], &map["hash"]),
            (&json!(1), &json!(16384), &json!("xxh3_64"))
        );
        assert_eq!((&map["keyspace"], &map["parameters"]), (&json!("hash"), &json!({"seed": 0})));
        let placement = (&map["placement"], &map["placement_parameters"]);
        assert_eq!(placement, (&json!("even"), &json!({})));
    }
}

#[test]
fn a_shard_map_that_is_known_is_not_sent_again() {
    let router = Router::start();
    let first = router.get("/api/shard-map");
    let etag = first.header("etag").unwrap().to_owned();
    assert_eq!((first.status, &*etag), (200, "\"1\""));
    let ask = |tag: &str| router.send("GET", "/api/shard-map", &[("if-none-match", tag)], None);
    for known in [&*etag, "W/\"1\"", "\"0\", \"1\"", "*"] {
        let reply = ask(known);
        assert_eq!((reply.status, reply.body.len()), (304, 0), "{known}");
        assert_eq!(reply.header("etag"), Some(&*etag));
        assert!(reply.header("x-request-id").is_some());
    }
    for other in ["\"2\"", "1", "\"11\"", ""] {
        assert_eq!(ask(other).status, 200, "{other}");
    }
}

#[test]
fn shards_list_their_nodes_slots_and_rows() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start();
    let records: Vec<Value> = (0..50)
        .map(|n| json!({"user_id": format!("user_{n}"), "name": "N", "email": "e"}))
        .collect();
    let stored =
        router.post("/api/bulk-write", &[], &json!({"table": "users", "records": records})).json();
    // A node that answers late is reported as down.
    let answer = eventually("every node answers in time", || {
        let answer = router.get("/api/shards").json();
        let shards = answer["shards"].as_array().unwrap();
        let mut nodes = shards.iter().flat_map(|shard| shard["nodes"].as_array().unwrap());
        let is_up = nodes.all(|node| node["up"] == true);
        is_up.then_some(answer)
    });
    assert_eq!((&answer["success"], &answer["epoch"]), (&json!(true), &json!(1)));
    let shards = answer["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 3);
    let slots: u64 = shards.iter().map(|shard| shard["slots"].as_u64().unwrap()).sum();
    assert_eq!(slots, 16_384);
    for (index, shard) in shards.iter().enumerate() {
        let name = format!("shard{}", index + 1);
        assert_eq!((&shard["shard"], &shard["weight"]), (&json!(name), &json!(1)));
        let node = &shard["nodes"][0];
        assert_eq!(
            (&node["node"], &node["role"], &node["up"]),
            (&json!(format!("{name}-primary")), &json!("primary"), &json!(true))
        );
        let node = &shard["nodes"][1];
        assert_eq!(
            (&node["node"], &node["role"], &node["up"]),
            (&json!(format!("{name}-replica1")), &json!("replica"), &json!(true))
        );
        let tables = shard["tables"].as_array().unwrap();
        let names: BTreeSet<&str> =
            tables.iter().map(|table| table["table"].as_str().unwrap()).collect();
        assert_eq!(names, BTreeSet::from(["kv", "orders", "products", "transactions", "users"]));
        let users = tables.iter().find(|table| table["table"] == "users").unwrap();
        let reported =
            stored["shards"].as_array().unwrap().iter().find(|part| part["shard"] == *name);
        assert_eq!(users["rows"], reported.unwrap()["rows"]);
        assert!(users["bytes"].as_u64().unwrap() > 0);
        let alone = router.get(&format!("/api/shards/{name}")).json();
        for member in ["shard", "weight", "slots", "ranges", "tables"] {
            assert_eq!(alone[member], shard[member], "{member}");
        }
    }
    router
        .write("user_0", &json!({"table": "users", "op": "delete", "data": {"user_id": "user_0"}}));
    let home = router.get("/api/route?key=user_0").json()["shard"].as_str().unwrap().to_owned();
    let rows = |answer: &Value| {
        let tables = answer["tables"].as_array().unwrap();
        tables.iter().find(|table| table["table"] == "users").unwrap()["rows"].as_u64().unwrap()
    };
    let before = shards.iter().find(|shard| shard["shard"] == *home).unwrap();
    assert_eq!(rows(&router.get(&format!("/api/shards/{home}")).json()) + 1, rows(before));
}

#[test]
fn a_shard_that_does_not_exist_is_not_found() {
    let router = Router::shared();
    for name in
        ["shard4", "SHARD1", "1", "shard1%27%20OR%201%3D1", "%00", "%ff", "..", "shard1%2F.."]
    {
        let reply = router.get(&format!("/api/shards/{name}"));
        assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{name}: {}", reply.text());
    }
}

#[test]
fn the_document_is_openapi_3_1_and_names_every_path() {
    let router = Router::shared();
    let reply = router.get("/api-docs/openapi.json");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    let api = reply.json();
    assert!(api["openapi"].as_str().unwrap().starts_with("3.1."), "{}", api["openapi"]);
    let paths: BTreeSet<&str> =
        api["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        paths,
        BTreeSet::from([
            "/",
            "/api/advice",
            "/api/analytics/errors",
            "/api/analytics/frames",
            "/api/analytics/metrics",
            "/api/analytics/stream",
            "/api/backup",
            "/api/backup/{id}",
            "/api/bulk-write",
            "/api/distribution",
            "/api/groups",
            "/api/health",
            "/api/kv/{key}",
            "/api/lab/placements",
            "/api/lab/writes",
            "/api/moves",
            "/api/moves/{id}",
            "/api/read",
            "/api/rebalance",
            "/api/rebalance/{id}",
            "/api/route",
            "/api/shard-map",
            "/api/shards",
            "/api/shards/{name}",
            "/api/tables",
            "/api/tables/{name}",
            "/api/tables/{name}/indexes",
            "/api/tables/{name}/indexes/{index}",
            "/api/write",
            "/dashboard",
            "/dashboard/{file}",
            "/docs",
            "/errors",
            "/errors/{code}",
            "/health",
            "/healthz",
            "/lab",
            "/live",
            "/metrics",
            "/openapi.json",
            "/read",
            "/ready",
            "/stats",
            "/version",
            "/write",
        ])
    );
    insta::with_settings!({sort_maps => true, prepend_module_to_snapshot => false}, {
        insta::assert_json_snapshot!("openapi", api);
    });
}

#[test]
fn every_operation_has_a_summary_a_tag_answers_and_no_dangling_reference() {
    let router = Router::shared();
    let api = router.get("/api-docs/openapi.json").json();
    let mut names = BTreeSet::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let at = format!("{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|text| text.len() > 10), "{at}");
            assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{at}");
            let answers = operation["responses"].as_object().unwrap();
            // An operation that only redirects succeeds with 303.
            assert!(answers.keys().any(|status| status.starts_with(['2', '3'])), "{at}");
            for (status, answer) in answers {
                assert!(
                    answer["description"].as_str().is_some_and(|text| !text.is_empty()),
                    "{at} {status}"
                );
                // The HTTP server refuses this before routing, so the path has no body.
                if status.starts_with('4') && method != "head" && status != "431" {
                    assert!(
                        answer["content"]["application/problem+json"].is_object(),
                        "{at} {status}"
                    );
                }
            }
        }
    }
    let text = api.to_string();
    for part in text.split("\"$ref\":\"#").skip(1) {
        let pointer = part.split('"').next().unwrap();
        assert!(api.pointer(pointer).is_some(), "{pointer} leads nowhere");
    }
}

/// A page of another origin is refused with 403, and an invalid `x-request-id` with 400, at every
/// path.
#[test]
fn every_operation_declares_the_refusals_that_it_may_answer_with() {
    let router = Router::shared();
    let api = router.get("/api-docs/openapi.json").json();
    let mut silent = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            for status in ["400", "403", "431"] {
                if !operation["responses"][status].is_object() {
                    silent.push(format!("{method} {path} {status}"));
                }
            }
        }
    }
    assert_eq!(silent, Vec::<String>::new());
    let health = router.get("/api/health?nonsense=1");
    assert_eq!((health.status, &*health.code()), (400, "TSR100"));
    let names: Vec<String> = (0..200).map(|number| format!("x-{number}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    assert_eq!(router.send("GET", "/api/health", &many, None).status, 431);
}

#[test]
fn calls_about_rows_come_first_and_a_read_begins_without_conditions() {
    let router = Router::shared();
    let api = router.get("/api-docs/openapi.json").json();
    let groups: Vec<&str> =
        api["tags"].as_array().unwrap().iter().filter_map(|tag| tag["name"].as_str()).collect();
    assert_eq!(groups[..3], ["data", "keys and values", "tables"]);
    let used = api["paths"].as_object().unwrap().values().flat_map(|item| {
        let operations = item.as_object().unwrap().values();
        operations.flat_map(|operation| operation["tags"].as_array().unwrap())
    });
    for tag in used {
        assert!(groups.contains(&tag.as_str().unwrap()), "{tag} is in no order");
    }
    let parameters = api["paths"]["/api/read"]["get"]["parameters"].as_array().unwrap();
    let example = |name: &str| {
        let found = parameters.iter().find(|parameter| parameter["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not there"))["example"].clone()
    };
    assert_eq!((example("or"), example("and")), (json!(null), json!(null)));
    assert_eq!(example("filters"), json!({}));
}

#[test]
fn the_example_of_the_document_works() {
    let router = Router::start();
    let api = router.get("/api-docs/openapi.json").json();
    for (path, schema, key) in [
        ("/api/write", "WriteRequest", "user_123"),
        ("/api/bulk-write", "BulkRequest", ""),
        ("/api/tables", "TableRequest", ""),
    ] {
        let example = &api["components"]["schemas"][schema]["example"];
        assert!(example.is_object(), "{schema} has no example");
        let headers = [("x-shard-key", key)];
        let reply = router.post(path, if key.is_empty() { &[] } else { &headers }, example);
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
}

#[test]
fn swagger_ui_is_served_from_here_and_names_no_other_host() {
    let router = Router::shared();
    let page = router.get("/swagger-ui/");
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    let html = page.text();
    assert!(html.contains("swagger-ui-bundle.js"), "{html}");
    let mut files = 0;
    let references = ["src=\"", "href=\""].into_iter().flat_map(|mark| html.split(mark).skip(1));
    for reference in references {
        let name = reference.split('"').next().unwrap().trim_start_matches("./");
        assert!(!name.contains("//") && !name.starts_with('/'), "{name} is elsewhere");
        assert_eq!(router.get(&format!("/swagger-ui/{name}")).status, 200, "{name}");
        files += 1;
    }
    assert!(files >= 4, "{html}");
    let config = router.get("/swagger-ui/swagger-initializer.js").text();
    assert!(
        config.contains("/api-docs/openapi.json") && config.contains("\"tryItOutEnabled\": true"),
        "{config}"
    );
    assert!(config.contains("\"validatorUrl\": \"none\""), "{config}");
    for text in [&html, &config] {
        assert!(
            !text.contains("http:") && !text.contains("https:") && !text.contains("petstore"),
            "{text}"
        );
    }
    let browser = router.send("GET", "/", &[("accept", "text/html,*/*;q=0.8")], None);
    assert_eq!((browser.status, browser.header("location")), (303, Some("/dashboard")));
    let curl = router.send("GET", "/", &[("accept", "*/*")], None);
    assert!(curl.status == 200 && curl.text().contains("/api/write"), "{}", curl.text());
}
