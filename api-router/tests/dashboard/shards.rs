//! Tests of shards on the page: the shard of a key, shards and nodes that are down, and the metrics
//! of a single shard.

use serde_json::{Value, json};

use crate::load::Load;
use crate::moves::check_screens;
use crate::page::{DESK, PHONE, Page, Screen};
use crate::router::Router;
use crate::service::Service;

/// Returns the bar and the pin on the screen: left edge and width of the bar, middle of the pin.
fn places(page: &mut Page) -> (f64, f64, f64) {
    let boxes = page.value(
        "(() => { const bar = document.getElementById('bar-canvas').getBoundingClientRect();
            const pin = document.getElementById('pin').getBoundingClientRect();
            return [bar.x, bar.width, pin.x + pin.width / 2]; })()",
    );
    let at = |place: usize| boxes[place].as_f64().unwrap();
    (at(0), at(1), at(2))
}

/// Returns true if the pin is within a range of slots of this shard.
fn stands_in(page: &mut Page, map: &Value, shard: &str) -> bool {
    let (left, width, pin) = places(page);
    let slot = (pin - left) / width * map["slots"].as_f64().unwrap();
    map["ranges"].as_array().unwrap().iter().any(|range| {
        let (first, last) = (range[0].as_f64().unwrap(), range[1].as_f64().unwrap());
        range[2] == shard && slot >= first && slot <= last + 1.0
    })
}

/// Types a key into the box, as a reader does.
fn try_key(page: &mut Page, key: &str) {
    page.value("document.getElementById('key-text').select()");
    page.type_text(key);
    page.press("Enter");
}

fn the_box_finds(screen: Screen) {
    let router = Router::start(&[]);
    let map = router.get("/api/shard-map");
    let mut page = Page::open(&router, screen);
    let mut met = std::collections::BTreeSet::new();
    for key in ["user_123", "user_1", "user_2", "tenant:acme", "Ærøskøbing", "a b&c=d#e"] {
        let asked: String = key.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let real = router.get(&format!("/api/route?key={asked}"));
        let shard = real["shard"].as_str().unwrap();
        try_key(&mut page, key);
        let slot = real["slot"].to_string();
        page.until(
            "the pin is dropped",
            &format!("document.getElementById('pin').dataset.slot === '{slot}'"),
        );
        let answer = page.text("#key-answer");
        for part in
            [key, shard, real["primary"].as_str().unwrap(), real["replicas"][0].as_str().unwrap()]
        {
            assert!(answer.contains(part), "{part} in {answer}");
        }
        // It glides there.
        page.until(
            "the pin is at rest",
            "document.getElementById('pin').getAnimations().length === 0",
        );
        assert!(stands_in(&mut page, &map, shard), "{key}: {:?}", places(&mut page));
        met.insert(shard.to_owned());
    }
    assert!(met.len() > 1, "keys of several shards: {met:?}");
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn the_box_for_keys_finds_the_shard_and_drops_the_pin_there() {
    the_box_finds(DESK);
}

#[test]
fn the_box_for_keys_works_on_a_phone() {
    the_box_finds(PHONE);
}

#[test]
fn a_key_that_is_none_is_refused_with_the_reason() {
    let router = Router::start(&[]);
    let mut page = Page::open(&router, DESK);
    try_key(&mut page, "user_1");
    page.until("the pin is dropped", "!document.getElementById('pin').hidden");
    // 200 characters that are 400 bytes.
    try_key(&mut page, &"é".repeat(200));
    page.until(
        "it is refused",
        "document.getElementById('key-answer').dataset.state === 'refused'",
    );
    assert!(page.text("#key-answer").contains("256"), "{}", page.text("#key-answer"));
    assert_eq!(page.value("document.getElementById('pin').hidden"), true);
}

#[test]
fn a_key_that_looks_like_markup_is_shown_as_it_is() {
    let router = Router::start(&[]);
    let key = "<img/src=x/onerror=alert(1)>";
    for _ in 0..3 {
        assert!(matches!(router.write_user(key), 200 | 201));
    }
    let mut page = Page::open(&router, DESK);
    page.until("it is a hot key", "document.querySelectorAll('#keys tbody tr').length === 1");
    assert_eq!(page.text("#keys tbody th"), key);
    page.click("#keys tbody button");
    page.until(
        "it is found",
        "document.getElementById('key-answer').textContent.includes('onerror')",
    );
    assert_eq!(page.value("document.querySelectorAll('#keys img, #slots img').length"), 0);
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn a_shard_that_is_cut_off_is_shown_down_and_comes_back() {
    let router = Router::start(&["--lab"]);
    let load = Load::begin(&router);
    let mut page = Page::open(&router, DESK);
    let card = |state: &str| {
        format!("document.querySelector('[data-shard=shard2]')?.dataset.state === '{state}'")
    };
    page.until("all is up", &card("up"));
    drop(load); // What it writes would fail from here on.
    router.set_node("shard2-primary", "cut");
    page.until("shard2 is down", &card("down"));
    page.until(
        "it is said",
        "document.getElementById('announcement').textContent.includes('shard2 is down')",
    );
    assert!(page.text("#cards-note").contains("1 down"), "{}", page.text("#cards-note"));
    assert_eq!(page.text("[data-shard=shard2] .card-state"), "down");
    assert_eq!(page.texts("[data-shard=shard1] .chip-state"), ["up", "up"]);
    router.set_node("shard2-primary", "running");
    page.until("shard2 is back", &card("up"));
    page.until(
        "it is said",
        "document.getElementById('announcement').textContent.includes('shard2 is up')",
    );
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn a_card_that_is_chosen_shows_the_figures_of_its_shard_alone() {
    let router = Router::start(&[]);
    let on_one: Vec<String> = (0..200)
        .map(|n| format!("user_{n}"))
        .filter(|key| router.get(&format!("/api/route?key={key}"))["shard"] == "shard1")
        .take(9)
        .collect();
    for key in &on_one {
        assert_eq!(router.write_user(key), 201);
    }
    let note = |said: &str| {
        format!(
            "document.querySelector('[data-figure=errors] .tile-note').textContent === '{said}'"
        )
    };
    let mut page = Page::open(&router, DESK);
    page.until("all are shown", &note("0 of 9"));
    page.click("[data-shard=shard1] button");
    page.until(
        "only shard1",
        "document.getElementById('traffic-note').textContent.startsWith('Only shard1')",
    );
    page.until("all are of shard1", &note("0 of 9"));
    page.click("[data-shard=shard2] button");
    page.until("none is of shard2", &note("0 of 0"));
    assert_eq!(page.value("location.hash"), "#shard=shard2", "the choice can be kept and sent");
    page.click("#all-shards");
    page.until("all again", &note("0 of 9"));
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn one_shard_and_very_many_fit_on_the_page() {
    for (shards, replicas) in [(1, 1), (256, 0)] {
        let router =
            Router::start(&["--shards", &shards.to_string(), "--replicas", &replicas.to_string()]);
        assert_eq!(router.write_user("user_1"), 201);
        let mut page = Page::open(&router, DESK);
        let cards = format!("document.querySelectorAll('.card').length === {shards}");
        page.until("every shard has its card", &cards);
        try_key(&mut page, "user_1");
        page.until("the pin is dropped", "!document.getElementById('pin').hidden");
        for screen in [DESK, PHONE] {
            page.look_on(screen);
            page.until("it has its width", &format!("innerWidth === {}", screen.width));
            let wide = page.value("document.documentElement.scrollWidth - innerWidth");
            assert!(wide.as_i64().unwrap() <= 0, "{shards} shards: {wide} too wide");
        }
        assert_eq!(page.faults(), Vec::<String>::new(), "{shards} shards");
    }
}

/// Table group beside `main`, whose shards both are not those of `main`.
const GROUPS: &str = r#"
[groups.main]
shards = ["shard1"]

[groups.ledger]
tables = ["transactions"]
shards = ["shard2", "shard3"]
"#;

/// Left edge and width of each element, and its text.
const SPANS: &str = "(() => { const bar = document.getElementById('bar-canvas').getBoundingClientRect();
    return [...document.querySelectorAll('#bar-groups span')].map((span) => {
        const { x, width } = span.getBoundingClientRect();
        return [span.textContent, Math.round(4 * (x - bar.x) / bar.width), Math.round(4 * width / bar.width)];
    }); })()";

#[test]
fn the_bar_names_each_table_group_under_its_slots_and_omits_an_only_group() {
    let router = Router::start_with_settings(GROUPS, &[]);
    let service = Service::start(&[("north", &router)], "");
    let summary = "document.getElementById('bar-note').textContent";
    for mut page in [Page::open(&router, DESK), Page::open_at(&service.url(), DESK)] {
        let named = format!("{summary}.includes('in the table groups main, ledger')");
        page.until("the groups are named", &named);
        for screen in [DESK, PHONE] {
            page.look_on(screen);
            page.until("it has its width", &format!("innerWidth === {}", screen.width));
            let spans = page.value(SPANS);
            assert_eq!(spans, json!([["main", 0, 2], ["ledger", 2, 2]]), "in quarters of the bar");
        }
        page.look_on(DESK);
        page.value(
            "(() => { const bar = document.getElementById('bar-canvas');
                const { x, width } = bar.getBoundingClientRect();
                bar.dispatchEvent(new PointerEvent('pointermove', { clientX: x + 0.6 * width })); })()",
        );
        let run = "Slots 16,384 to 24,575 of ledger: shard2";
        page.until("the group of a slot is named", &format!("{summary} === '{run}'"));
        check_screens(&mut page);
        assert_eq!(page.faults(), Vec::<String>::new());
    }
    let router = Router::start(&[]);
    assert_eq!(router.get("/api/analytics/metrics")["metrics"]["cluster"].get("groups"), None);
    let mut page = Page::open(&router, DESK);
    page.until("the slots are shown", &format!("{summary}.startsWith('16,384 slots: shard1')"));
    assert_eq!(page.value("document.getElementById('bar-groups').checkVisibility()"), false);
}

/// Partitions by a column in the group `main`, beside a group whose keys are hashed.
const PARTITIONS: &str = r#"
keyspace = "list(partition_key):A=2,B=1"
placement = "partitions:A=2>shard1,B=1>shard2"

[groups.main]
shards = ["shard1", "shard2"]

[groups.ledger]
tables = ["transactions"]
shards = ["shard3"]
"#;

#[test]
fn the_box_for_keys_finds_a_key_of_another_table_group_and_of_a_partition() {
    let router = Router::start_with_settings(PARTITIONS, &[]);
    let mut page = Page::open(&router, DESK);
    let is_shown = |box_: &str| format!("document.getElementById('{box_}').checkVisibility()");
    page.until("a table can be entered", &is_shown("key-table-box"));
    assert_eq!(page.value(&is_shown("key-partition-box")), false);
    // The key alone has no slot: the field for a partition is shown, with the reason.
    try_key(&mut page, "user_1");
    page.until("the partition is missing", &is_shown("key-partition-box"));
    let reason = page.text("#key-answer");
    assert!(reason.contains("partition_key is missing"), "{reason}");
    for (table, partition, shard) in
        [("", "A", "shard1"), ("users", "B", "shard2"), ("transactions", "", "shard3")]
    {
        for (field, value) in [("table", table), ("partition", partition)] {
            page.value(&format!("document.getElementById('key-{field}').value = '{value}'"));
        }
        try_key(&mut page, "user_1");
        let found = format!("document.getElementById('pin').dataset.shard === '{shard}'");
        page.until("the pin is dropped", &found);
    }
    check_screens(&mut page);
    // The address of the view names table and partition.
    let path = "/dashboard#key=user_1&table=users&partition=B";
    let mut page = Page::visit(&router.url(""), path, DESK);
    let found = "document.getElementById('pin').dataset.shard === 'shard2'";
    page.until("the pin is dropped", found);
    assert_eq!(page.value(&is_shown("key-partition-box")), true);
    check_screens(&mut page);
    assert_eq!(page.faults(), Vec::<String>::new());
}
