//! Tests of indexes while the cluster changes: shards that join, slots that move, and copies that
//! are restored.

use serde_json::{Value, json};
use shard_manager::backup::ProgressObserver;
use shard_manager::backup::restore::restore;
use shard_manager::control::Request;
use shard_manager::control::client::request_backup;

use crate::backend::{files_only, is_servers, not_on_citus};
use crate::client::{refusal, refused};
use crate::folders;
use crate::harness::{Reply, Router, eventually};
use crate::indexes::{by_status, make, on_shard, order, send, until};
use crate::moves;
use crate::moves::{OPERATE, other, place};
use crate::new_databases::NewDatabase;

const CITUS: &str = "Tessera does not build indexes on Citus";
/// Runs without an observer and is never cancelled.
const ALONE: ProgressObserver<'_> = ProgressObserver { step: &|_| {}, cancelled: &|| false };

fn one_note() -> Value {
    json!({"name": "one_note", "columns": ["note"], "unique": true})
}

fn changed(router: &Router, path: &str, body: &Value) -> Reply {
    let headers = [("x-deadline-ms", "60000"), ("content-type", "application/json")];
    router.send("POST", path, &headers, Some(body.to_string().as_bytes()))
}

#[test]
fn a_shard_that_joins_has_every_index_when_it_serves() {
    not_on_citus!(CITUS);
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let flags = if is_servers() { &["--replicas", "0", "--operate"][..] } else { OPERATE };
    let mut router = Router::start_in(&data, flags);
    for index in [by_status(), one_note()] {
        assert_eq!(make(&router, &index).status, 202);
        until(&router, index["name"].as_str().unwrap(), "ready");
    }
    let database = is_servers().then(NewDatabase::create);
    let mut shard = json!({"name": "shard4"});
    if let Some(database) = &database {
        shard["url"] = json!(database.url());
    }
    let joined = changed(&router, "/api/shards", &shard);
    assert_eq!(joined.status, 201, "{}", joined.text());
    // Duplicates are still refused on the target of a move.
    assert_eq!(order(&router, "ada", "o1", "a").status, 201);
    let moved = changed(&router, "/api/moves", &json!({"key": "ada", "to": "shard4", "keep": 0}));
    assert_eq!(moved.status, 202, "{}", moved.text());
    moves::until(&router, &moved.json(), "done");
    assert_eq!(place(&router, "ada").1, "shard4");
    assert_eq!(refusal(&order(&router, "ada", "o2", "a")), refused(409, "TSR304"));
    removed_everywhere(&router);
    router.end();
    if !is_servers() {
        assert!(on_shard(&data, 3).is_empty());
    }
}

fn removed_everywhere(router: &Router) {
    for name in ["by_status", "one_note"] {
        let reply = send(router, "DELETE", &format!("/api/tables/orders/indexes/{name}"), None);
        assert_eq!(reply.status, 202, "{}", reply.text());
    }
    eventually("the indexes are gone", || {
        let left = router.get("/api/tables/orders/indexes").json()["indexes"].clone();
        (left == json!([])).then_some(())
    });
}

#[test]
fn rows_whose_unique_values_are_exchanged_while_they_move_arrive_as_they_are() {
    not_on_citus!(CITUS);
    let router = Router::start_with(OPERATE);
    assert_eq!(make(&router, &one_note()).status, 202);
    until(&router, "one_note", "ready");
    for n in 0..20 {
        assert_eq!(order(&router, "ada", &format!("o{n:02}"), &format!("n{n:02}")).status, 201);
    }
    let (_, from) = place(&router, "ada");
    let to = other(&from);
    let begun = changed(&router, "/api/moves", &json!({"key": "ada", "to": to}));
    assert_eq!(begun.status, 202, "{}", begun.text());
    let begun = begun.json();
    // The rows exchange their values repeatedly, even after the target owns them and the source
    // follows it.
    let pass_on = || {
        assert_eq!(order(&router, "ada", "o00", "spare").status, 200);
        for n in 1..20 {
            let reply = order(&router, "ada", &format!("o{n:02}"), &format!("n{:02}", n - 1));
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        assert_eq!(order(&router, "ada", "o00", "n19").status, 200);
        for n in 1..20 {
            let reply = order(&router, "ada", &format!("o{n:02}"), &format!("t{n:02}"));
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        for n in 0..20 {
            let reply = order(&router, "ada", &format!("o{n:02}"), &format!("n{n:02}"));
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
    };
    eventually("the target owns the slot", || {
        pass_on();
        (place(&router, "ada").1 == to).then_some(())
    });
    pass_on();
    assert_eq!(refusal(&order(&router, "ada", "o99", "n07")), refused(409, "TSR304"));
    let back = moves::order(&router, &begun, "rollback");
    assert!(back.status < 300, "{}", back.text());
    eventually("the source owns the slot again", || {
        (place(&router, "ada").1 == from).then_some(())
    });
    assert_eq!(refusal(&order(&router, "ada", "o99", "n07")), refused(409, "TSR304"));
    let rows = router.read("ada", "table=orders&select=order_id,note&order=order_id&limit=50");
    let expected: Vec<Value> = (0..20)
        .map(|n| json!({"order_id": format!("o{n:02}"), "note": format!("n{n:02}")}))
        .collect();
    assert_eq!(rows.json()["data"], json!(expected), "{}", rows.text());
}

#[test]
fn a_restored_copy_has_the_indexes_of_its_moment() {
    files_only!("the copy of servers is tested with their commands");
    let folder = folders::temporary();
    let (data, copy, back) =
        (folder.path().join("data"), folder.path().join("copy"), folder.path().join("back"));
    let mut router = Router::start_in(&data, &[]);
    assert_eq!(make(&router, &one_note()).status, 202);
    until(&router, "one_note", "ready");
    assert_eq!(order(&router, "ada", "o1", "a").status, 201);
    request_backup(&data, &Request::Backup { to: copy.clone() }, &ALONE).unwrap();
    let reply = send(&router, "DELETE", "/api/tables/orders/indexes/one_note", None);
    assert_eq!(reply.status, 202);
    router.end();
    restore(&copy, &back, &ALONE).unwrap();
    let mut router = Router::start_in(&back, &[]);
    until(&router, "one_note", "ready");
    assert_eq!(refusal(&order(&router, "ada", "o2", "a")), refused(409, "TSR304"));
    router.end();
    assert!((0..3).all(|shard| on_shard(&back, shard).len() == 1));
}
