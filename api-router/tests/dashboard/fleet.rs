//! Tests of the dashboard of the analytics service, which shows several routers on one page.

use serde_json::{Value, json};

use crate::access::barriers;
use crate::page::{DESK, Page};
use crate::router::Router;
use crate::service::Service;

/// Text of the tile of errors: the number of failed requests, and of all.
const COUNTED: &str = "document.querySelector('[data-figure=errors] .tile-note').textContent";

/// Rings a second after a router is away, and ends a second after it is back.
const RULE: &str = "[[alert]]\nname = \"a-router-is-down\"\nkind = \"router_down\"\nfor = \"1s\"\nclear_for = \"1s\"\n";

fn write(router: &Router, users: std::ops::Range<u32>) {
    for user in users {
        assert_eq!(router.write_user(&format!("user_{user}")), 201);
    }
}

/// Waits until the chooser offers just these.
fn await_choice(page: &mut Page, options: &[&str]) {
    let shown = "JSON.stringify([...document.querySelectorAll('#router-choice option')].map((node) => node.textContent))";
    let wanted = json!(json!(options).to_string());
    page.until(&format!("{options:?} can be chosen"), &format!("{shown} === {wanted}"));
}

/// Returns the parameter of a request about one router; empty for all.
fn of_router(router: &str) -> String {
    if router.is_empty() { String::new() } else { format!("&router={router}") }
}

fn choose(page: &mut Page, router: &str) {
    page.value(&format!(
        "(() => {{ const node = document.getElementById('router-choice'); node.value = {};
            node.dispatchEvent(new Event('change')); }})()",
        json!(router)
    ));
}

#[test]
fn a_router_is_chosen_and_its_figures_are_those_that_programs_get() {
    let (north, south) = (Router::start(&[]), Router::start(&[]));
    let service = Service::start(&[("north", &north), ("south", &south)], "");
    write(&north, 0..20);
    write(&south, 20..32);
    let mut page = Page::open_at(&service.url(), DESK);
    await_choice(&mut page, &["all 2", "north", "south"]);
    assert_eq!(page.value("document.getElementById('router').hidden"), false);
    page.until("both are counted", &format!("{COUNTED} === '0 of 32'"));
    for (router, requests) in [("north", 20), ("south", 12), ("", 32)] {
        choose(&mut page, router);
        page.until(&format!("only {router:?}"), &format!("{COUNTED} === '0 of {requests}'"));
        let asked = format!("?window=5m{}", of_router(router));
        let url = service.url() + "/api/analytics/metrics" + &asked;
        let reported: Value =
            north.agent().get(url).call().unwrap().body_mut().read_json().unwrap();
        let m = &reported["metrics"];
        assert_eq!(m["total"], requests, "{router}");
        let rates = "[...document.querySelectorAll('#cards [data-value=share]')].map((node) => Number.parseFloat(node.textContent))";
        let shares: Vec<f64> =
            page.value(rates).as_array().unwrap().iter().filter_map(Value::as_f64).collect();
        for (shown, shard) in shares.iter().zip(m["shards"].as_array().unwrap()) {
            let real = shard["share"].as_f64().unwrap() * 100.0;
            assert!((shown - real).abs() <= 0.5, "{router}: {shown} is {shard}");
        }
        assert_eq!(shares.len(), 3);
    }
    assert!(
        page.asked()
            .iter()
            .any(|path| path.starts_with("/api/analytics/stream") && path.contains("router=north")),
        "{:?}",
        page.asked()
    );
    assert_eq!(barriers(&mut page), Vec::<String>::new());
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn a_router_that_is_killed_is_away_and_rings_until_it_is_back() {
    let (mut north, south) = (Router::start(&[]), Router::start(&[]));
    let service = Service::start(&[("north", &north), ("south", &south)], RULE);
    write(&north, 0..5);
    let mut page = Page::open_at(&service.url(), DESK);
    await_choice(&mut page, &["all 2", "north", "south"]);
    page.until("they are counted", &format!("{COUNTED} === '0 of 5'"));
    // A first answer may take longer than the rule is patient: that is over soon.
    page.until("nothing rings", "document.getElementById('alerts').hidden");

    north.kill();
    await_choice(&mut page, &["all 2", "north (lost)", "south"]);
    page.until(
        "it rings",
        "!document.getElementById('alerts').hidden
            && document.querySelector('#alerts-list li')?.dataset.state === 'firing'",
    );
    let reported = page.texts("#alerts-list li");
    assert_eq!(reported.len(), 1);
    assert!(
        reported[0].contains("a-router-is-down") && reported[0].contains("north"),
        "{reported:?}"
    );
    // The page is well, though a router is not; and what was counted is not forgotten.
    assert_eq!(page.value("document.documentElement.dataset.connection"), "live");
    assert_eq!(page.value(COUNTED), "0 of 5");
    assert_eq!(barriers(&mut page), Vec::<String>::new());

    north.come_back();
    await_choice(&mut page, &["all 2", "north", "south"]);
    page.until("it is over", "document.getElementById('alerts').hidden");
    assert_eq!(page.faults(), Vec::<String>::new());
}
