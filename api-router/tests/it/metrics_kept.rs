//! Tests of stored metrics: they survive a restart, are in the configured store, and no output
//! contains the store's password.

use std::time::Instant;

use serde_json::{Value, json};

use crate::config::{folder, refusal, said, shown, write};
use crate::earlier_metrics::served;
use crate::harness::{PATIENCE, Router, bare_command};
use crate::metrics::{metrics, some_requests};

#[test]
fn figures_survive_the_end_of_their_router() {
    crate::backend::files_only!("routers on servers leave it to a service to keep their figures");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &[]);
    some_requests(&router);
    assert_eq!(metrics(&router, "?window=1h")["total"], 12);
    router.end();
    drop(router);
    assert!(data.join("analytics.db").exists());
    // The harness sends one read to learn which rows are stored.
    let router = Router::start_in(&data, &[]);
    let began = Instant::now();
    let reported = loop {
        let reported = metrics(&router, "?window=1h");
        if reported["total"] == 13 {
            break reported;
        }
        assert!(began.elapsed() < PATIENCE, "they are not given back: {reported}");
    };
    assert_eq!((&reported["writes"], &reported["errors"]), (&json!(6), &json!(5)), "{reported}");
    assert_eq!(router.get("/api/read?table=users").status, 200);
    assert_eq!(metrics(&router, "?window=1h")["total"], 14, "counting goes on from there");
}

#[test]
fn a_router_that_keeps_nothing_makes_no_file() {
    crate::backend::files_only!("routers on servers keep nothing by themselves");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    for flags in [["--analytics-store", "none"], ["--analytics", "off"]] {
        let mut router = Router::start_in(&data, &flags);
        assert!(router.write_user("ada", "Ada").status < 300);
        router.end();
        assert!(!data.join("analytics.db").exists(), "{flags:?}");
    }
}

/// The router tries to open the store again later; no request waits for it.
#[test]
fn a_store_that_cannot_be_used_keeps_no_router_from_serving() {
    let folder = crate::folders::temporary();
    let place = folder.path().join("no/such/folder/figures.db");
    let router = Router::start_with(&["--analytics-store", place.to_str().unwrap()]);
    some_requests(&router);
    assert_eq!(metrics(&router, "")["total"], 12);
}

#[test]
fn an_address_of_a_store_is_shown_without_its_secret() {
    let folder = folder();
    let mut command = bare_command(folder.path());
    let url = "postgres://figures:canary-7291@127.0.0.1:5432/history";
    command.env("TESSERA_ANALYTICS_STORE", url);
    let shown = shown(command);
    assert_eq!(shown["analytics_store"], said("postgres://127.0.0.1:5432/history", "environment"));
    for bad in [
        "postgres://figures:canary-7291@127.0.0.1:x/history",
        "postgres://figures:canary-7291@127.0.0.1",
        "mysql://figures:canary-7291@127.0.0.1/history",
        "",
    ] {
        let mut command = bare_command(folder.path());
        command.env("TESSERA_ANALYTICS_STORE", bad);
        let reported = refusal(command);
        assert!(reported.contains("analytics_store (from environment) "), "{reported}");
        assert!(reported.contains("postgres://user") && !reported.contains("canary"), "{reported}");
    }
}

#[test]
fn the_configuration_file_has_a_section_for_the_store() {
    let folder = folder();
    write(folder.path(), "tessera.toml", "[analytics]\nrecord = \"on\"\nstore = \"figures.db\"\n");
    let shown = shown(bare_command(folder.path()));
    assert_eq!(shown["analytics"], said("on", "tessera.toml"));
    assert_eq!(shown["analytics_store"], said("figures.db", "tessera.toml"));
    for (text, named) in [
        ("[analytics]\nstroe = \"x\"\n", "analytics.stroe"),
        ("[analytics]\nstore = 5\n", "analytics.store"),
        ("[analytics]\nrecord = \"maybe\"\n", "analytics (from tessera.toml)"),
    ] {
        write(folder.path(), "tessera.toml", text);
        let reported = refusal(bare_command(folder.path()));
        assert!(reported.contains(named), "{named}: {reported}");
    }
}

/// Traces can be sent only if the router is built with that feature.
#[test]
fn where_traces_go_is_a_url_of_a_router_that_sends_them() {
    let folder = folder();
    let with = |url: &str| {
        let mut command = bare_command(folder.path());
        command.env("TESSERA_OTLP_ENDPOINT", url);
        command
    };
    for bad in
        ["127.0.0.1:4318", "http://", "grpc://127.0.0.1:4317", "http://a b", "http://u:canary@"]
    {
        let reported = refusal(with(bad));
        assert!(
            reported.contains("otlp_endpoint (from environment) must be a URL"),
            "{bad}: {reported}"
        );
        assert!(!reported.contains("canary"), "{reported}");
    }
    let secret = "http://user:canary-7291@127.0.0.1:4318/v1/traces";
    if cfg!(feature = "otlp") {
        let masked = "http://***@127.0.0.1:4318/v1/traces";
        assert_eq!(shown(with(secret))["otlp_endpoint"], said(masked, "environment"));
    } else {
        let reported = refusal(with(secret));
        assert!(reported.contains("--features otlp") && !reported.contains("canary"), "{reported}");
    }
}

/// Returns the requests per second of the point that contains a second since 1970, if there is one.
fn rate(series: &Value, second: u64) -> Option<f64> {
    let step = series["step_s"].as_u64().unwrap();
    let holds = |t: &Value| (t.as_u64().unwrap()..t.as_u64().unwrap() + step).contains(&second);
    let place = series["t"].as_array().unwrap().iter().position(holds);
    place.and_then(|place| series["rps"][place].as_f64())
}

#[test]
fn curves_show_requests_before_and_after_a_restart_and_a_gap_between() {
    let folder = crate::folders::temporary();
    let store = folder.path().join("figures.db");
    let began = served(&store);
    let flags = ["--analytics-store", store.to_str().unwrap()];
    let mut router = Router::start_with(&flags);
    let started = Instant::now();
    // The loaded metrics are the same after another restart.
    for _ in 0..2 {
        let reported = loop {
            let reported = metrics(&router, "?window=5m");
            let times = reported["series"]["t"].as_array().unwrap();
            // Slots of minutes are loaded before those of seconds, so a part may be available
            // before the rest.
            let is_back = rate(&reported["series"], began + 390) == Some(1.0);
            if is_back && times.last().is_some_and(|t| t.as_u64() > Some(began + 590)) {
                break reported;
            }
            assert!(started.elapsed() < PATIENCE, "they are not given back: {reported}");
        };
        let series = &reported["series"];
        let rate = |second: u64| rate(series, began + second);
        for idle in [420, 440] {
            assert_eq!(rate(idle), Some(0.0), "it had nothing to do: {series}");
        }
        for down in [470, 520, 580] {
            assert_eq!(rate(down), None, "it was down: {series}");
        }
        let times = series["t"].as_array().unwrap().len();
        assert_eq!(series["heatmap"]["counts"].as_array().unwrap().len(), times);
        router.end();
        router = Router::start_with(&flags);
    }
}
