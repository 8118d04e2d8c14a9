//! Tests of the lab page: a real browser shows keys as they are written, tries strategies, and runs
//! the experiment about levels.

use crate::access::barriers;
use crate::login::{Files, LIVE, LOCKED, check_faults, enter};
use crate::page::{DESK, NIGHT, PHONE, Page, Screen};
use crate::router::Router;

const COMPUTED: &str =
    "document.querySelectorAll('#strategy-table tbody tr').length > 0 && strategy_outcome() !== ''";

/// Opens the page and waits until it has computed the strategy of the cluster.
fn open(router: &Router, screen: Screen) -> Page {
    let mut page = Page::visit(&router.url(""), "/lab", screen);
    page.until("it is live", LIVE);
    page.value("window.strategy_outcome = () => document.getElementById('strategy-outcome').textContent, 1");
    page.until("a strategy is computed", COMPUTED);
    page
}

/// Sets a field of a form as a user does.
fn fill(page: &mut Page, selector: &str, value: &str) {
    page.value(&format!(
        "(() => {{ const field = document.querySelector(\"{selector}\"); field.value = '{value}';
            field.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()"
    ));
}

/// Returns an expression that is true once a shard's lane has this key.
fn lane_has(shard: &str, key: &str) -> String {
    format!(
        "[...document.querySelectorAll('.lane[data-shard={shard}] .lane-key')].some((it) => it.textContent === '{key}')"
    )
}

#[test]
fn a_key_that_is_written_appears_at_the_shard_that_has_it() {
    let router = Router::start(&[]);
    let mut page = open(&router, DESK);
    assert!(page.text("#flow-note").starts_with("Nothing was written"));
    for key in ["user_1", "user_2", "user_3"] {
        assert!(router.write_user(key) < 300);
        let route = router.get(&format!("/api/route?key={key}"));
        page.until("the key is shown", &lane_has(route["shard"].as_str().unwrap(), key));
        let cell = format!(
            "[...document.querySelectorAll('#strategy-sample tbody th')].some((it) => it.textContent === '{key}')"
        );
        page.until("it is in the sample", &cell);
    }
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn rows_of_a_bulk_write_appear_at_their_shards_as_keys_that_stand_for_several_rows() {
    let router = Router::start(&[]);
    let mut page = open(&router, DESK);
    let record = |number: usize| {
        let id = format!("user_{number}");
        serde_json::json!({"user_id": id, "name": "Ada", "email": format!("{id}@example.com")})
    };
    let records: Vec<_> = (0..60).map(record).collect();
    let body = serde_json::json!({"table": "users", "records": records});
    let sent = router.agent().post(router.url("/api/bulk-write")).send_json(&body).unwrap();
    assert_eq!(sent.status(), 201);
    let stored: serde_json::Value = sent.into_body().read_json().unwrap();
    for shard in stored["shards"].as_array().unwrap() {
        let (name, rows) = (shard["shard"].as_str().unwrap(), shard["rows"].as_u64().unwrap());
        let lane = format!(".lane[data-shard={name}]");
        let total = format!(
            "document.querySelector('{lane} .lane-head').textContent === '{name}{rows} written'"
        );
        page.until("all rows are counted", &total);
        let keys = format!(
            "[...document.querySelectorAll('{lane} .lane-key')].reduce((rows, it) =>
                rows + 1 + Number(it.textContent.split(' +')[1] ?? 0), 0) === {rows}"
        );
        page.until("the keys stand for all rows", &keys);
    }
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn demo_keys_go_where_the_chosen_strategy_puts_them_and_store_nothing() {
    let router = Router::start(&[]);
    let mut page = open(&router, DESK);
    page.click("#flow-demo");
    fill(&mut page, "[name=keyspace]", "modulo");
    page.until(
        "they are computed",
        "document.getElementById('flow-note').textContent.includes('modulo with')",
    );
    let trial = router.get("/api/lab/placements?keyspace=modulo&sample=user_1%0Auser_12");
    for place in trial["sample"].as_array().unwrap() {
        let (shard, key) = (place["shard"].as_str().unwrap(), place["key"].as_str().unwrap());
        page.until("the key has a lane", &lane_has(shard, key));
    }
    let read = router.get("/api/read?table=users");
    assert_eq!(read["data"].as_array().unwrap().len(), 0, "nothing was stored");
    page.click("#flow-demo");
    page.until("it is back", "document.querySelectorAll('.lane-key').length === 0");
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn a_strategy_shows_its_pictures_and_what_a_change_would_move() {
    let router = Router::start(&[]);
    let mut page = open(&router, DESK);
    page.until("a quarter moves", "strategy_outcome().includes('would move')");
    assert!(page.text("#strategy-outcome").contains("add a shard"));
    fill(&mut page, "[name=placement]", "ring:8");
    page.until("there is a ring", "document.querySelectorAll('.ring-arc').length === 4");
    let drawn = "[...document.querySelectorAll('.paper canvas')].every((it) => it.height > 0 && it.ariaLabel.includes('shard1'))";
    page.until("both bars are drawn", drawn);
    fill(&mut page, "[name=change]", "remove");
    page.until("shard3 is removed", "strategy_outcome().includes('remove shard3')");
    fill(&mut page, "[name=change]", "");
    page.until("nothing moves", "!strategy_outcome().includes('move')");
    fill(&mut page, "[name=placement]", "magic");
    let problem = "document.getElementById('strategy-problem').textContent";
    page.until("the option is named", &format!("{problem}.includes('placement')")).to_string();
    fill(&mut page, "[name=placement]", "jump");
    page.until("the problem is gone", &format!("{problem} === ''"));
    let refused = |fault: &String| fault.contains("status of 400") && fault.contains("/api/lab/");
    let other: Vec<String> = page.faults().into_iter().filter(|fault| !refused(fault)).collect();
    assert_eq!(other, Vec::<String>::new());
}

#[test]
fn the_page_runs_the_experiment_about_levels() {
    let router = Router::start(&["--lab"]);
    let mut page = open(&router, PHONE);
    fill(&mut page, "#levels-form [name=operations]", "5");
    page.click("#levels-run");
    page.until(
        "there are figures",
        "document.querySelectorAll('#levels-table tbody tr').length === 6",
    );
    assert!(page.text("#levels-outcome").contains("While a replica is cut off"));
    page.until("it may run again", "!document.getElementById('levels-run').disabled");
    assert_eq!(barriers(&mut page), Vec::<String>::new());
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn a_router_without_the_flag_shows_how_to_run_the_experiment() {
    let router = Router::start(&[]);
    let mut page = open(&router, DESK);
    page.click("#levels-run");
    let problem = "document.getElementById('levels-problem').textContent";
    page.until("the flag is named", &format!("{problem}.includes('--lab')"));
}

#[test]
fn the_lab_is_accessible_in_light_and_dark_and_on_a_phone() {
    let router = Router::start(&[]);
    assert!(router.write_user("user_1") < 300);
    for screen in [DESK, NIGHT, PHONE, Screen { scheme: "dark", ..PHONE }] {
        let mut page = open(&router, screen);
        fill(&mut page, "[name=placement]", "ring:8");
        page.until("there is a ring", "document.querySelectorAll('.ring-arc').length === 4");
        let found = barriers(&mut page);
        assert_eq!(found, Vec::<String>::new(), "{} wide, {}", screen.width, screen.scheme);
        let wide = page.value("document.documentElement.scrollWidth - innerWidth");
        assert!(wide.as_i64().unwrap() <= 0, "{} wide: {wide} too much", screen.width);
        assert_eq!(page.faults(), Vec::<String>::new());
    }
}

#[test]
fn the_lab_of_a_router_with_access_control_needs_the_scope_lab() {
    let files = Files::write();
    let router = files.router_with(&["--lab"]);
    let mut page = Page::visit(&router.url(""), "/lab", PHONE);
    page.until("a login is needed", LOCKED);
    assert_eq!(page.value("document.getElementById('strategy').checkVisibility()"), false);
    assert_eq!(barriers(&mut page), Vec::<String>::new());
    enter(&mut page, Files::watcher().reveal());
    let notice = "document.getElementById('notice').textContent";
    page.until("the scope is missing", &format!("{notice}.includes('lab')"));
    page.click_and_load("#logout");
    page.until("a login is needed again", LOCKED);
    enter(&mut page, Files::student().reveal());
    page.until("it is live", LIVE);
    page.until(
        "a strategy is computed",
        "document.querySelectorAll('#strategy-table tbody tr').length > 0",
    );
    page.until(
        "a run needs a key",
        "document.getElementById('levels-key-label').checkVisibility()",
    );
    page.value("document.querySelector('#levels-form [name=key]').focus()");
    page.type_text(Files::student().reveal());
    fill(&mut page, "#levels-form [name=operations]", "5");
    page.click("#levels-run");
    page.until(
        "there are figures",
        "document.querySelectorAll('#levels-table tbody tr').length === 6",
    );
    assert_eq!(page.value("document.querySelector('#levels-form [name=key]').value"), "");
    let stored = page.value("JSON.stringify({...localStorage, ...sessionStorage})");
    assert!(!stored.as_str().unwrap().contains("tsr_"), "{stored}");
    check_faults(&page);
}
