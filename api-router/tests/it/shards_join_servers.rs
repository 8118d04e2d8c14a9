//! Tests of databases of PostgreSQL that join a cluster with two routers.

use std::path::Path;

use serde_json::{Value, json};

use crate::backend::{self, ask_primary, not_on_citus, servers_only, url_of};
use crate::client::refusal;
use crate::folders;
use crate::harness::{Reply, Router, eventually};
use crate::new_databases::{NewDatabase, host};
use crate::{fences, moves};

const FLAGS: &[&str] = &["--replicas", "0", "--operate"];
const HEADERS: [(&str, &str); 2] =
    [("x-deadline-ms", "60000"), ("content-type", "application/json")];
const WHY: &str = "its shards are databases";

fn join(router: &Router, name: &str, url: &str) -> Reply {
    let body = json!({"name": name, "url": url}).to_string();
    router.send("POST", "/api/shards", &HEADERS, Some(body.as_bytes()))
}

/// Starts a router of a new cluster, which a database joins as `east`, and returns both.
fn with_east(data: &Path) -> (Router, NewDatabase) {
    let router = Router::start_in(data, FLAGS);
    let database = NewDatabase::create();
    let joined = join(&router, "east", &database.url());
    assert_eq!((joined.status, &joined.json()["number"]), (201, &json!(3)), "{}", joined.text());
    (router, database)
}

fn listed(router: &Router, name: &str) -> Option<Value> {
    let shards = router.get("/api/shards").json()["shards"].clone();
    shards.as_array().unwrap().iter().find(|shard| shard["shard"] == name).cloned()
}

#[test]
fn a_database_joins_through_one_router_and_the_other_follows() {
    not_on_citus!("Citus distributes rows itself");
    servers_only!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let routers = [Router::start_in(&data, FLAGS), Router::start_in(&data, FLAGS)];
    assert_eq!(routers[0].write_user("ada", "Ada").status, 201);
    let before = routers[1].get("/api/shards").json()["epoch"].clone();
    let database = NewDatabase::create();
    for status in [201, 200] {
        let joined = join(&routers[0], "east", &database.url());
        assert_eq!(joined.status, status, "{}", joined.text());
        assert_eq!(joined.json()["state"], "serving");
    }
    eventually("the other router lists the shard", || {
        let shown = routers[1].get("/api/shards").json();
        let shards = shown["shards"].as_array().unwrap();
        let is_listed = shards.iter().any(|shard| shard["shard"] == "east");
        assert!(is_listed || shown["epoch"] == before, "the epoch is that of the list: {shown}");
        is_listed.then_some(())
    });
    for (router, status) in routers.iter().zip([201, 200]) {
        eventually("the shard is known", || {
            listed(router, "east").filter(|shard| shard["state"] == "serving")
        });
        assert_eq!(router.write_user("bob", "Bob").status, status);
        let rows = router.send("GET", "/api/read?table=users", &[("x-consistency", "all")], None);
        assert_eq!(rows.json()["count"], 2, "{}", rows.text());
    }
    let third = Router::start_in(&data, FLAGS);
    assert_eq!(listed(&third, "east").unwrap()["number"], 3);
    let removed = third.send("DELETE", "/api/shards/east", &HEADERS, None);
    assert_eq!(removed.json()["state"], "retired", "{}", removed.text());
    for router in &routers {
        eventually("the shard has retired", || {
            listed(router, "east").is_none_or(|shard| shard["state"] == "retired").then_some(())
        });
        assert_eq!(router.get("/api/read?table=users").json()["count"], 2);
    }
}

#[test]
fn a_request_for_a_shard_that_serves_is_a_repetition_only_with_the_url_of_its_database() {
    not_on_citus!("Citus distributes rows itself");
    servers_only!(WHY);
    let folder = folders::temporary();
    let (router, database) = with_east(&folder.path().join("data"));
    let before = router.get("/api/shards").json()["epoch"].clone();
    let repeated = join(&router, "east", &database.url());
    assert_eq!((repeated.status, &repeated.json()["epoch"]), (200, &before));
    let nowhere = format!("postgres://{}/nowhere", host());
    for (url, status, code) in [
        (json!(nowhere), 409, "TSR326"),
        (json!("postgres://127.0.0.1:9/zzz"), 409, "TSR326"),
        (json!("garbage"), 400, "TSR321"),
        (Value::Null, 400, "TSR321"),
    ] {
        let body = json!({"name": "east", "url": url}).to_string();
        let reply = router.send("POST", "/api/shards", &HEADERS, Some(body.as_bytes()));
        let (found, said, _) = refusal(&reply);
        assert_eq!((found, &*said), (status, code), "{url}: {}", reply.text());
    }
    assert_eq!(router.get("/api/shards").json()["epoch"], before);
}

#[test]
fn slots_of_a_shard_that_joined_are_fenced_by_a_command_whose_settings_lack_the_shard() {
    not_on_citus!("Citus distributes rows itself");
    servers_only!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let (router, _database) = with_east(&data);
    let begun = moves::begin(&router, &json!({"key": "ada", "to": "east", "keep": 0}));
    moves::until(&router, &begun, "done");
    let (slot, owner) = moves::place(&router, "ada");
    assert_eq!(owner, "east");
    fences::fence(&data, &slot.to_string(), "60");
    let user = json!({"table": "users", "data": {"user_id": "ada"}}).to_string();
    let hurried = [("x-deadline-ms", "200"), ("content-type", "application/json")];
    let fenced = router.send("POST", "/api/write", &hurried, Some(user.as_bytes()));
    assert_eq!(fenced.status, 503, "{}", fenced.text());
    fences::release(&data, &slot.to_string());
    assert_eq!(router.write_user("ada", "Ada").status, 201);
}

#[test]
fn a_shard_that_the_catalog_has_lost_joins_again_after_a_start_of_the_router() {
    not_on_citus!("Citus distributes rows itself");
    servers_only!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let (router, database) = with_east(&data);
    // A failover to a replica that lacks the join has the same effect.
    let loss = "BEGIN; DELETE FROM tessera.tessera_shards WHERE name = 'east';
        UPDATE tessera.tessera_cluster SET epoch = 1; COMMIT";
    assert!(ask_primary(&data, 0, loss).is_empty());
    eventually("the shard is lost", || listed(&router, "east").is_none().then_some(()));
    let refused = join(&router, "east", &database.url());
    assert_eq!((refused.status, &*refused.code()), (409, "TSR324"), "{}", refused.text());
    assert!(refused.text().contains("start all routers again"), "{}", refused.text());
    drop(router);
    let router = Router::start_in(&data, FLAGS);
    let joined = join(&router, "east", &database.url());
    assert_eq!((joined.status, &joined.json()["number"]), (201, &json!(3)), "{}", joined.text());
}

#[test]
fn databases_that_cannot_join_are_refused_and_stay_as_they_are() {
    not_on_citus!("Citus distributes rows itself");
    servers_only!(WHY);
    let folder = folders::temporary();
    let (data, other) = (folder.path().join("data"), folder.path().join("other"));
    let router = Router::start_in(&data, FLAGS);
    drop(Router::start_in(&other, FLAGS));
    let database = NewDatabase::create();
    let plain = database.url();
    let (_, place) = plain.split_once("://").unwrap();
    let named = |cluster: &Path, shard| {
        let url = url_of(cluster, shard);
        let name = url.split('?').next().unwrap().rsplit('/').next().unwrap().to_owned();
        format!("postgres://{}/{name}", host())
    };
    for (url, status, code) in [
        (format!("postgres://canary:secret@{place}"), 400, "TSR321"),
        (format!("postgres://canary@{place}"), 400, "TSR321"),
        ("mysql://db/app".to_owned(), 400, "TSR321"),
        (String::new(), 400, "TSR321"),
        (named(&data, 1), 409, "TSR322"),
        (named(&other, 0), 409, "TSR322"),
        ("postgres://127.0.0.1:1/app".to_owned(), 409, "TSR325"),
        (format!("postgres://{}/nowhere", host()), 409, "TSR324"),
    ] {
        let reply = join(&router, "east", &url);
        let (found, said, _) = refusal(&reply);
        assert_eq!((found, &*said), (status, code), "{url}: {}", reply.text());
        assert!(!reply.text().contains("secret"), "{}", reply.text());
    }
    assert!(listed(&router, "east").is_none());
    let schemas = "SELECT count(*)::text FROM pg_namespace WHERE nspname = 'tessera'";
    let url = url_of(&data, 0);
    let base = url.split('?').next().unwrap().rsplit_once('/').unwrap().0;
    let at = format!("{base}/{}", database.name);
    assert_eq!(crate::databases::query(&at, schemas), ["0"], "nothing was made there");
}

#[test]
fn a_database_on_a_silent_server_that_the_settings_name_is_reported_as_unreachable() {
    not_on_citus!("Citus distributes rows itself");
    servers_only!(WHY);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    drop(Router::start_in(&data, FLAGS));
    // The settings have a user and a password for a second host of the first shard, which is down.
    let first = url_of(&data, 0);
    let end_of_path = first.find('?').unwrap_or(first.len());
    let (server, _) = first[..end_of_path].rsplit_once('/').unwrap();
    let mut urls = vec![format!("{server},127.0.0.1:1{}", &first[server.len()..])];
    urls.extend([1, 2].map(|shard| url_of(&data, shard)));
    let mut command = backend::command(&data, FLAGS);
    command.env("SHARD_URLS", urls.join(","));
    let router = Router::start_command(command);
    let reply = join(&router, "east", "postgres://127.0.0.1:1/app");
    let (status, code, _) = refusal(&reply);
    assert_eq!((status, &*code), (409, "TSR323"), "{}", reply.text());
    assert!(reply.text().contains("127.0.0.1:1"), "{}", reply.text());
    assert!(listed(&router, "east").is_none());
}
