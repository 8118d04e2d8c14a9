//! Tests on a real Citus cluster: location of rows, moves of rows between workers, and the refusal
//! of a database that does not fit the settings. They need the variable `TESSERA_CITUS_URL`; if it
//! is set, all other tests use that cluster as well.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::backend::{self, CITUS, ask_primary};
use crate::citus_databases::CitusServer;
use crate::harness::{Router, bare_command, refused_start};
use crate::prerequisites::{Prerequisite, skip};

/// Returns the cluster, and skips the calling test if there is none.
fn cluster() -> Option<&'static CitusServer> {
    let cluster = CITUS.as_ref();
    if cluster.is_none() {
        skip(Prerequisite::Citus, "TESSERA_CITUS_URL names no coordinator");
    }
    cluster
}

/// Returns true if there is a cluster, and skips the calling test otherwise.
pub(crate) fn is_there() -> bool {
    cluster().is_some()
}

fn users(count: usize, name: &str) -> Value {
    let user = |n| json!({"user_id": format!("u{n:03}"), "name": name, "email": "u@example.com"});
    json!({"table": "users", "records": (0..count).map(user).collect::<Vec<_>>()})
}

/// Query for the number of shards of the table `users` on each node.
const PLACES: &str = "SELECT 'worker' || groupid || ' ' || count(*) FROM pg_dist_shard JOIN pg_dist_placement USING (shardid)
    WHERE logicalrelid = 'public.users'::regclass GROUP BY groupid ORDER BY 1";

#[test]
fn rows_lie_where_citus_puts_them_and_are_found_by_key_and_all_together() {
    if !is_there() {
        return;
    }
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, &[]);
    assert_eq!(router.post("/api/bulk-write", &[], &users(100, "first")).status, 201);
    assert_eq!(router.write_user("u007", "second").status, 200);
    assert_eq!(router.read("u007", "table=users").json()["data"][0]["name"], "second");
    let all = router.get("/api/read?table=users&order=user_id&limit=3&offset=6").json();
    let names: Vec<&Value> =
        all["data"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["first", "second", "first"]);

    let shard = router.get("/api/shards/shard1").json();
    let reported: BTreeMap<&str, i64> = shard["citus"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["node"].as_str().unwrap(), node["shards"].as_i64().unwrap()))
        .collect();
    let places = ask_primary(&data, 0, PLACES);
    assert!(!places.is_empty());
    for place in places {
        let (node, shards) = place.split_once(' ').unwrap();
        // Tessera creates six tables, all distributed in the same way.
        assert_eq!(reported[node], 6 * shards.parse::<i64>().unwrap(), "{reported:?}");
    }
    assert!(shard["citus"]["moves"].as_str().unwrap().contains("citus_rebalance_start()"));
    assert_eq!(shard["tables"][4]["rows"], 100);
}

#[test]
fn a_table_that_a_client_makes_is_distributed_like_all_others() {
    if !is_there() {
        return;
    }
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, &[]);
    let columns =
        json!([{"name": "id", "type": "text"}, {"name": "grade", "type": "json", "null": true}]);
    let table = json!({"name": "students", "columns": columns, "id": ["id"], "routing": "id"});
    assert_eq!(router.post("/api/tables", &[], &table).status, 201);
    let alike = "SELECT count(DISTINCT colocationid) || ' ' || count(*) FROM pg_dist_partition
        WHERE column_to_column_name(logicalrelid, partkey) = 'shard_key'";
    assert_eq!(ask_primary(&data, 0, alike), ["1 7"]);
    let row = json!({"table": "students", "data": {"id": "ada", "grade": {"best": [1, 2]}}});
    assert_eq!(router.write("ada", &row).status, 201);
    assert_eq!(router.read("ada", "table=students").json()["data"][0]["grade"]["best"][1], 2);
}

#[test]
fn a_row_that_a_worker_refuses_hurts_none_of_its_neighbours() {
    if !is_there() {
        return;
    }
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, &[]);
    ask_primary(&data, 0, "ALTER TABLE public.users ADD CONSTRAINT no_bad CHECK (name <> 'bad')");
    let mut body = users(60, "good");
    body["records"][17]["name"] = "bad".into();
    let reply = router.post("/api/bulk-write", &[], &body).json();
    let whole = router.post("/api/bulk-write", &[("prefer", "tx=per-shard")], &{
        let mut body = users(60, "better");
        body["records"][17]["name"] = "bad".into();
        body
    });
    let better = router.get("/api/read?table=users&name=eq.better&limit=1").json();
    ask_primary(&data, 0, "ALTER TABLE public.users DROP CONSTRAINT no_bad");
    assert_eq!(
        (reply["stored"].as_u64(), reply["failed_total"].as_u64()),
        (Some(59), Some(1)),
        "{reply}"
    );
    assert_eq!(reply["failed"][0]["index"], 17, "{reply}");
    assert_eq!(whole.json()["stored"], 0, "{}", whole.text());
    assert_eq!(better["count"], 0, "all or nothing, over all workers");
}

#[test]
fn what_is_acknowledged_while_citus_moves_shards_is_there_afterwards() {
    if !is_there() {
        return;
    }
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, &[]);
    assert_eq!(router.post("/api/bulk-write", &[], &users(40, "0")).status, 201);
    // Moves of some shards, each from its worker to another one.
    let moves = "SELECT format('SELECT citus_move_shard_placement(%s, %L, %s, %L, %s, ''block_writes'')', min(s.shardid),
            s.nodename, s.nodeport, other.nodename, other.nodeport)
        FROM citus_shards AS s CROSS JOIN LATERAL (SELECT nodename, nodeport FROM pg_dist_node
            WHERE shouldhaveshards AND (nodename, nodeport) <> (s.nodename, s.nodeport) ORDER BY 1, 2 LIMIT 1) AS other
        WHERE table_name = 'public.users'::regclass GROUP BY s.shardid, s.nodename, s.nodeport, other.nodename, other.nodeport
        ORDER BY s.shardid LIMIT 2";
    let moves = ask_primary(&data, 0, moves);
    assert!(!moves.is_empty(), "the cluster needs two workers");
    let moving = AtomicBool::new(true);
    let written = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut last: BTreeMap<String, String> = BTreeMap::new();
            for round in 1.. {
                if !moving.load(Ordering::SeqCst) {
                    break;
                }
                let (key, name) = (format!("u{:03}", round % 40), round.to_string());
                let reply = router.write_user(&key, &name);
                assert_eq!(reply.status, 200, "{}", reply.text());
                last.insert(key, name);
            }
            last
        });
        for sql in &moves {
            ask_primary(&data, 0, sql);
        }
        moving.store(false, Ordering::SeqCst);
        writing.join().unwrap()
    });
    assert!(!written.is_empty());
    for (key, name) in written {
        assert_eq!(router.read(&key, "table=users").json()["data"][0]["name"], *name, "{key}");
    }
}

/// Returns the error of a router that does not start.
fn refusal(folder: &Path, url: &str, settings: &[(&str, &str)]) -> String {
    let mut command = bare_command(folder);
    command.args(["--bind", "127.0.0.1:0"]).env("SHARD_URLS", url);
    command.envs(settings.iter().copied());
    let (code, said) = refused_start(command);
    assert_eq!(code, Some(2), "{said}");
    said
}

#[test]
fn a_server_of_another_engine_is_refused_with_a_remedy() {
    let Some(cluster) = cluster() else { return };
    let folder = crate::folders::temporary();
    let citus = [("TESSERA_ENGINE", "citus")];
    let name = cluster.make_plain();
    let plain = refusal(folder.path(), &cluster.url(&name), &citus);
    cluster.drop_plain(&name);
    assert!(plain.contains("no extension citus: CREATE EXTENSION citus"), "{plain}");
    let data = folder.path().join("data");
    drop(Router::start_in(&data, &[]));
    let name = ask_primary(&data, 0, "SELECT current_database()").remove(0);
    let other = refusal(folder.path(), &cluster.url(&name), &[]);
    assert!(
        other.contains("distributed by Citus") && other.contains("engine = \"citus\""),
        "{other}"
    );
}

#[test]
fn the_doctor_looks_at_workers_through_their_coordinator() {
    if !is_there() {
        return;
    }
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    drop(Router::start_in(&data, &[]));
    ask_primary(&data, 0, "SELECT citus_add_inactive_node('127.0.0.1', 1)");
    let output = backend::command(&data, &["--doctor"]).output().unwrap();
    ask_primary(&data, 0, "SELECT citus_remove_node('127.0.0.1', 1)");
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().find(|line| line.contains("127.0.0.1:1 ")).unwrap_or(&said);
    assert!(line.starts_with("warning") && line.contains("citus_activate_node()"), "{said}");
    assert_eq!(output.status.code(), Some(0), "{said}");
}

#[test]
fn a_coordinator_is_named_alone() {
    if !backend::is_citus() && backend::is_servers() {
        return;
    }
    let folder = crate::folders::temporary();
    let citus = ("TESSERA_ENGINE", "citus");
    let two = "postgres://a@127.0.0.1:1/x,postgres://a@127.0.0.1:2/x";
    let said = refusal(folder.path(), two, &[citus]);
    assert!(said.contains("2 shards are named: name the coordinator alone"), "{said}");
    let said = refusal(folder.path(), "postgres://a@127.0.0.1:1,127.0.0.1:2/x", &[citus]);
    assert!(said.contains("2 hosts are named: name the coordinator alone"), "{said}");
    let replica = ("REPLICA_URLS", "postgres://a@127.0.0.1:2/x");
    let said = refusal(folder.path(), "postgres://a@127.0.0.1:1/x", &[citus, replica]);
    assert!(said.contains("replicas are named: leave them out"), "{said}");
}
