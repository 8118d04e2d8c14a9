//! Tests of the conditions under which slots may move and shards may retire, and of the metrics of
//! moves.

use serde_json::{Value, json};

use crate::backend::files_only;
use crate::client::{lab, set};
use crate::harness::{Reply, Router, eventually};
use crate::moves::{OPERATE, begin_slow, names, order, other, place, show, until};

const WHY: &str = "moves on servers are tested with their engine";

fn post(router: &Router, path: &str, body: &Value) -> Reply {
    let json = [("content-type", "application/json")];
    router.send("POST", path, &json, Some(body.to_string().as_bytes()))
}

#[test]
fn a_move_does_not_begin_while_too_few_replicas_of_a_shard_follow() {
    files_only!(WHY);
    let router = lab(&["--operate", "--replicas", "1"]);
    let (_, from) = place(&router, "ada");
    let to = other(&from);
    let body = json!({"key": "ada", "to": to});
    for shard in [&from, to] {
        let node = format!("{shard}-replica1");
        set(&router, &node, "cut");
        // The replica of the other shard may need a while to follow again.
        eventually("the replica is missed", || {
            let refused = post(&router, "/api/moves", &body);
            assert_eq!((refused.status, &*refused.code()), (409, "TSR326"), "{}", refused.text());
            refused.text().contains(&format!("replicas of {shard}")).then_some(())
        });
        set(&router, &node, "running");
    }
    assert_eq!(router.get("/api/moves").json()["moves"], json!([]));
}

#[test]
fn a_shard_does_not_retire_while_slots_move_to_it() {
    files_only!(WHY);
    let router = Router::start_with(OPERATE);
    assert_eq!(router.write_user("ada", "Ada").status, 201);
    let joined = post(&router, "/api/shards", &json!({"name": "east"}));
    assert_eq!(joined.status, 201, "{}", joined.text());
    let begun = begin_slow(&router, "ada", "east", 1);
    let retire = || router.send("DELETE", "/api/shards/east", &[], None);
    let refused = retire();
    assert_eq!((refused.status, &*refused.code()), (409, "TSR326"), "{}", refused.text());
    assert!(refused.text().contains(begun["id"].as_str().unwrap()), "{}", refused.text());
    assert_eq!(order(&router, &begun, "cancel").status, 200);
    until(&router, &begun, "cancelled");
    let retired = retire();
    assert_eq!(retired.status, 200, "{}", retired.text());
    assert_eq!(names(&router, "ada"), ["Ada"]);
}

#[test]
fn the_metrics_show_a_move_and_count_its_rows_and_its_end() {
    files_only!(WHY);
    let router = Router::start_with(OPERATE);
    assert_eq!(router.write_user("ada", "Ada").status, 201);
    let to = other(&place(&router, "ada").1);
    let body = json!({"key": "ada", "to": to, "keep": 600});
    let begun = eventually("the move begins", || {
        let begun = post(&router, "/api/moves", &body);
        (begun.status == 202).then(|| begun.json())
    });
    until(&router, &begun, "keeping");
    let open = eventually("the metrics know the move", || {
        let metrics = router.get("/api/analytics/metrics").json();
        metrics["metrics"]["cluster"]["moves"].get(0).cloned()
    });
    assert_eq!((&open["id"], &open["to"]), (&begun["id"], &json!(to)), "{open}");
    assert_eq!((&open["stalled"], &open["slot_count"]), (&json!(false), &json!(1)), "{open}");
    assert_eq!(order(&router, &begun, "settle").status, 200);
    let done = until(&router, &begun, "done");
    for phase in ["planned", "copying", "verifying", "fencing", "keeping", "cleaning"] {
        let ms = done["phase_ms"][phase].as_f64();
        assert!(ms.is_some_and(|ms| ms > 0.0), "{phase}: {done}");
    }
    let metrics = eventually("the metrics know the end", || {
        let metrics = router.get("/metrics").text();
        // The move is counted a moment after the catalog has its end.
        let known = ["tessera_move_open 0", "tessera_move_ends_total{result=\"done\"} 1"];
        known.iter().all(|line| metrics.contains(line)).then_some(metrics)
    });
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        value.unwrap_or_else(|| panic!("{name}: {metrics}"))
    };
    assert!(value("tessera_move_stalled").abs() < 0.5);
    assert!(value("tessera_move_rows_total") >= 1.0 && value("tessera_move_bytes_total") >= 1.0);
    assert!((value("tessera_move_ends_total{result=\"done\"}") - 1.0).abs() < 0.5);
    assert!(value("tessera_move_ends_total{result=\"failed\"}").abs() < 0.5);
    assert!(value("tessera_move_longest_hold_seconds") > 0.0);
}

#[test]
fn a_move_and_the_metrics_report_the_lag_of_its_copy() {
    files_only!(WHY);
    let router = Router::start_with(OPERATE);
    assert_eq!(router.write_user("ada", "Ada").status, 201);
    let to = other(&place(&router, "ada").1);
    let body = json!({"key": "ada", "to": to, "keep": 600});
    let begun = eventually("the move begins", || {
        let begun = post(&router, "/api/moves", &body);
        (begun.status == 202).then(|| begun.json())
    });
    until(&router, &begun, "keeping");
    let lag = |is_wanted: &dyn Fn(u64, f64) -> bool| {
        eventually("the lag", || {
            let shown = show(&router, &begun);
            let (changes, lag) = (shown["changes_behind"].as_u64()?, shown["lag_ms"].as_f64()?);
            is_wanted(changes, lag).then_some(shown)
        })
    };
    // The source follows the target, until the move is paused.
    lag(&|changes, lag| changes == 0 && lag == 0.0);
    assert_eq!(order(&router, &begun, "pause").status, 200);
    // Until its next report the mover lets changes flow back.
    eventually("the mover rests", || {
        (show(&router, &begun)["reason"] == "it is paused").then_some(())
    });
    assert_eq!(router.write_user("ada", "Lovelace").status, 200);
    let behind = lag(&|changes, lag| changes >= 1 && lag > 0.0)["lag_ms"].as_f64().unwrap();
    lag(&|_, lag| lag > behind);
    let metrics = eventually("the metrics know the lag", || {
        let metrics = router.get("/metrics").text();
        metrics.contains("tessera_move_changes_behind 1").then_some(metrics)
    });
    let seconds = metrics.lines().find_map(|line| line.strip_prefix("tessera_move_lag_seconds "));
    assert!(seconds.unwrap().parse::<f64>().unwrap() > 0.0, "{metrics}");
    assert_eq!(order(&router, &begun, "resume").status, 200);
    lag(&|changes, lag| changes == 0 && lag == 0.0);
    assert_eq!(order(&router, &begun, "settle").status, 200);
    let ended = until(&router, &begun, "done");
    assert_eq!((&ended["changes_behind"], &ended["lag_ms"]), (&Value::Null, &Value::Null));
}
