//! Tests of the numbers on the page: they change with the load, and equal the numbers in the JSON
//! responses.

use serde_json::Value;

use crate::load::Load;
use crate::page::{DESK, Page};
use crate::router::Router;

/// Returns the texts of one tile of the row of numbers.
fn tile(page: &mut Page, figure: &str) -> (String, String) {
    let part =
        |page: &mut Page, class: &str| page.text(&format!("[data-figure={figure}] .{class}"));
    (part(page, "value"), part(page, "unit"))
}

/// Returns true if a number as it is written for people is this one, up to the digits that are not
/// written.
fn shows(text: &str, real: f64) -> bool {
    let plain: String = text.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
    let shown: f64 = plain.parse().unwrap_or_else(|_| panic!("no number: {text:?}"));
    let decimals = plain.split_once('.').map_or(0, |(_, digits)| digits.len());
    (shown - real).abs() <= 0.5 * 10_f64.powi(-i32::try_from(decimals).unwrap()) + 1e-9
}

/// Returns true if a time, which may be written in another unit, is this one in ms.
fn shows_time(text: &str, unit: &str, ms: f64) -> bool {
    match unit {
        "ms" => shows(text, ms),
        "µs" => shows(text, ms * 1e3),
        "s" => shows(text, ms / 1e3),
        other => panic!("unknown unit {other:?}"),
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn a_total_that_has_settled_is_the_number_of_requests_that_were_made() {
    let router = Router::start(&[]);
    let mut page = Page::open(&router, DESK);
    for n in 0..37 {
        assert_eq!(router.write_user(&format!("user_{n}")), 201);
    }
    page.until(
        "37 requests are shown",
        "document.querySelector('[data-figure=errors] .tile-note').textContent === '0 of 37'",
    );
    let refused = router.agent().get(router.url("/api/read?table=nothing&limit=1")).call().unwrap();
    assert_eq!(refused.status(), 404);
    page.until("the last seconds are shown beside the window", "document.querySelector('[data-figure=rate] .tile-note').textContent.includes('/s in the last 10 s')");
    page.until("one of them failed", "document.querySelector('[data-figure=errors] .tile-note').textContent.startsWith('1 of 38')");
    page.until("its code leads to what it means", "document.querySelector('#errors td, #errors th a') && document.querySelector('#errors a[href=\"errors/TSR310\"]')");
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn numbers_move_with_the_load_and_are_those_that_programs_get() {
    let router = Router::start(&[]);
    let mut page = Page::open(&router, DESK);
    let before = tile(&mut page, "errors");
    let load = Load::begin(&router);
    page.until("there is traffic", "Number(document.querySelector('[data-figure=rate] .value').textContent.replaceAll(',', '')) > 5");
    page.until("there are hot keys", "document.querySelectorAll('#keys tbody tr').length > 2");
    page.until(
        "replicas answer",
        "document.querySelector('#replicas .legend').textContent.includes('replicas')",
    );
    page.click("#pause");
    page.until("it is paused", "document.documentElement.dataset.connection === 'paused'");
    drop(load);
    let at = page.value("document.getElementById('foot-note').dataset.at");
    let m = page.figures_of(at.as_str().unwrap());

    assert_ne!(tile(&mut page, "errors"), before);
    for (figure, real) in [
        ("rate", &m["throughput"]),
        ("in-flight", &m["in_flight"]),
        ("skew", &m["skew"]["requests"]),
    ] {
        let (value, _) = tile(&mut page, figure);
        if figure == "skew" && value == "–" {
            let note = page.text("[data-figure=skew] .tile-note");
            assert!(note.starts_with("too few requests"), "{note}");
            continue;
        }
        assert!(shows(&value, number(real)), "{figure}: {value} is {real}");
    }
    let (errors, _) = tile(&mut page, "errors");
    assert!(shows(&errors, number(&m["error_rate"]) * 100.0), "{errors} is {}", m["error_rate"]);
    for figure in ["p50", "p99"] {
        let (value, unit) = tile(&mut page, figure);
        let real = &m["latency_ms"][figure];
        assert!(shows_time(&value, &unit, number(real)), "{figure}: {value} {unit} is {real}");
    }
    cards_agree(&mut page, &m);
    tables_agree(&mut page, &m);
    assert_eq!(page.faults(), Vec::<String>::new());
}

fn cards_agree(page: &mut Page, m: &Value) {
    for shard in m["shards"].as_array().unwrap() {
        let name = shard["shard"].as_str().unwrap();
        let mut shown =
            |value: &str| page.text(&format!("[data-shard={name}] [data-value={value}]"));
        let (rate, share) = (shown("rate"), shown("share"));
        assert!(
            shows(&rate, number(&shard["ops_per_s"])),
            "{name}: {rate} is {}",
            shard["ops_per_s"]
        );
        assert!(
            shows(&share, number(&shard["share"]) * 100.0),
            "{name}: {share} is {}",
            shard["share"]
        );
        let (slots, p99) = (shown("slots"), shown("p99"));
        assert!(shows(&slots, number(&shard["slots"])), "{name}: {slots} is {}", shard["slots"]);
        let (value, unit) = p99.split_once(' ').unwrap();
        assert!(
            shows_time(value, unit, number(&shard["p99"])),
            "{name}: {p99} is {}",
            shard["p99"]
        );
        match shard["rows"].as_f64() {
            Some(rows) => {
                assert!(shows(&shown("rows"), rows), "{name}: {} is {rows}", shown("rows"))
            }
            None => assert_eq!(shown("rows"), "–", "{name}"),
        }
    }
}

fn tables_agree(page: &mut Page, m: &Value) {
    let hottest = &m["hot_keys"][0];
    let row = page.texts("#keys tbody tr:first-child > *");
    assert_eq!(
        (&*row[0], &*row[4]),
        (hottest["key"].as_str().unwrap(), hottest["shard"].as_str().unwrap())
    );
    assert!(shows(&row[1], number(&hottest["requests"])), "{row:?} is {hottest}");
    let routes = page.texts("#parts tbody tr th");
    let real: Vec<&str> = m["routes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|route| route["route"].as_str().unwrap())
        .collect();
    assert_eq!(routes, real);
}
