//! Tests of the metrics of rebalances.

use serde_json::json;

use crate::backend::files_only;
use crate::folders;
use crate::harness::{Router, eventually};
use crate::moves::OPERATE;
use crate::rebalances::{WHY, begin, join, until, weigh};

#[test]
fn the_metrics_show_a_rebalance_its_progress_and_its_effect_also_after_a_restart() {
    files_only!(WHY);
    let data = folders::temporary();
    let mut router = Router::start_in(data.path(), OPERATE);
    for user in ["ada", "bob", "eve", "kay"] {
        assert_eq!(router.write_user(user, "a name").status, 201);
    }
    let metrics = router.get("/api/analytics/metrics").json();
    assert_eq!(metrics["metrics"]["cluster"]["rebalance"], json!(null));
    join(&router, "east");
    // The new shard gets a small share, in six moves.
    for shard in ["shard1", "shard2", "shard3"] {
        assert_eq!(weigh(&router, shard, 20).status, 200);
    }
    let begun = begin(&router, "/api/rebalance", &json!({"by": "slots", "keep": 0}));
    let ended = until(&router, &begun, "done");
    for _ in 0..2 {
        let text = eventually("the metrics know the end", || {
            let text = router.get("/metrics").text();
            text.contains("tessera_rebalance_state{state=\"done\"} 1").then_some(text)
        });
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
            let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            value.unwrap_or_else(|| panic!("{name}: {text}"))
        };
        let is = |name: &str, wanted: &serde_json::Value| {
            let difference = value(name) - wanted.as_f64().unwrap();
            assert!(difference.abs() < 1e-9, "{name} is not {wanted}: {text}");
        };
        is("tessera_rebalance_state{state=\"running\"}", &json!(0));
        is("tessera_rebalance_stalled", &json!(0));
        is("tessera_rebalance_moves{count=\"planned\"}", &ended["move_count"]);
        is("tessera_rebalance_moves{count=\"done\"}", &ended["move_count"]);
        is("tessera_rebalance_moves{count=\"failed\"}", &json!(0));
        is("tessera_rebalance_rows{count=\"moved\"}", &ended["rows"]);
        is("tessera_rebalance_skew{time=\"before\"}", &ended["skew_before"]);
        is("tessera_rebalance_skew{time=\"planned\"}", &ended["skew_planned"]);
        is("tessera_rebalance_skew{time=\"measured\"}", &ended["skew_measured"]);
        assert!(value("tessera_rebalance_seconds") > 0.0);
        let metrics = router.get("/api/analytics/metrics").json();
        let shown = &metrics["metrics"]["cluster"]["rebalance"];
        assert_eq!((&shown["id"], &shown["state"]), (&begun["id"], &json!("done")), "{shown}");
        router.end();
        router = Router::start_in(data.path(), OPERATE);
    }
}
