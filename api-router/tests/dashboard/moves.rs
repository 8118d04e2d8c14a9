//! Tests of the parts of the dashboard about moves and rebalances: slots that move, orders,
//! progress and effect, and servers that do not report moves.

use serde_json::{Value, json};

use crate::access::barriers;
use crate::page::{DESK, NIGHT, PHONE, Page, Screen};
use crate::router::{PATIENCE, Router};
use crate::service::Service;

const MOVES_NOTE: &str = "document.querySelector('#moves > .note').textContent";
const REBALANCE_NOTE: &str = "document.querySelector('#rebalance > .note').textContent";
/// Number of different colours on the part of the bar from one slot to another.
const COLOURS: &str = "(first, last) => { const bar = document.getElementById('bar-canvas');
    const [left, right] = [first, last + 1].map((slot) => Math.round(slot / 16384 * bar.width));
    const pen = new OffscreenCanvas(bar.width, bar.height).getContext('2d', { willReadFrequently: true });
    pen.drawImage(bar, 0, 0);
    const { data } = pen.getImageData(left, 0, Math.max(2, right - left), bar.height);
    return new Set(new Uint32Array(data.buffer)).size; }";

/// Sends JSON; status and answer.
pub(crate) fn send(router: &Router, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let (agent, url) = (router.agent(), router.url(path));
    let request = if method == "PATCH" { agent.patch(url) } else { agent.post(url) };
    let mut response = request.send_json(body).unwrap();
    (response.status().as_u16(), response.body_mut().read_json().unwrap())
}

/// Begins a move or a rebalance, once the replicas of all shards follow.
#[track_caller]
fn begin(router: &Router, path: &str, body: &Value) -> String {
    let began = std::time::Instant::now();
    loop {
        let (status, answer) = send(router, "POST", path, body);
        if status == 202 {
            return answer["id"].as_str().unwrap().to_owned();
        }
        let is_early = answer.to_string().contains("must follow its primary");
        assert!(is_early && began.elapsed() < PATIENCE, "{answer}");
    }
}

/// Gives an order that needs no body.
#[track_caller]
fn order(router: &Router, path: &str) {
    let mut response = router.agent().post(router.url(path)).send_empty().unwrap();
    let answer = response.body_mut().read_to_string().unwrap();
    assert_eq!(response.status(), 200, "{answer}");
}

/// Begins a move of a key whose large rows are copied slowly, and lets it rest.
fn begin_move_that_rests(router: &Router, key: &str) -> (String, u64) {
    let note = "v".repeat(1 << 20);
    for row in 0..6 {
        let data =
            json!({"order_id": format!("{key}{row}"), "user_id": key, "amount": 1, "note": note});
        let body = json!({"table": "orders", "data": data, "shardKey": key});
        let (status, answer) = send(router, "POST", "/api/write", &body);
        assert_eq!(status, 201, "{answer}");
    }
    let place = router.get(&format!("/api/route?key={key}"));
    let to = if place["shard"] == "shard1" { "shard3" } else { "shard1" };
    let id = begin(router, "/api/moves", &json!({"key": key, "to": to, "rate": 1}));
    order(router, &format!("/api/moves/{id}/pause"));
    (id, place["slot"].as_u64().unwrap())
}

/// Checks what everybody must be able to use, on screens of each kind.
pub(crate) fn check_screens(page: &mut Page) {
    for screen in [DESK, NIGHT, PHONE, Screen { scheme: "dark", ..PHONE }] {
        page.look_on(screen);
        assert_eq!(barriers(page), Vec::<String>::new(), "{} {}", screen.width, screen.scheme);
        let wide = page.value("document.documentElement.scrollWidth - innerWidth");
        assert!(wide.as_i64().unwrap() <= 0, "{} wide: {wide} too much", screen.width);
    }
    page.look_on(DESK);
}

#[test]
fn slots_that_move_are_hatched_and_their_move_has_progress_and_orders_to_copy() {
    let router = Router::start(&["--operate"]);
    let service = Service::start(&[("north", &router)], "");
    let mut pages = [Page::open(&router, DESK), Page::open_at(&service.url(), DESK)];
    for page in &mut pages {
        page.until("there are no moves", &format!("{MOVES_NOTE} === 'No slots have moved.'"));
        page.until("there is no rebalance", &format!("{REBALANCE_NOTE} === 'There was none.'"));
        assert_eq!(page.value("document.querySelector('.arrows').checkVisibility()"), false);
    }
    let (id, slot) = begin_move_that_rests(&router, "ada");
    for page in &mut pages {
        let state = "document.querySelector('.move .move-state').textContent";
        page.until("it rests", &format!("{state}.endsWith(', paused')"));
        let hatched = page.value(&format!("({COLOURS})({slot}, {slot})"));
        assert!(hatched.as_u64() > Some(1), "{hatched} colours at slot {slot}");
        let label = page.value("document.getElementById('bar-canvas').getAttribute('aria-label')");
        assert!(label.as_str().unwrap().ends_with("1 of them move, and are hatched."), "{label}");
        let arrows = page.value("document.querySelectorAll('.arrows .flow').length");
        assert_eq!(arrows, 1);
        let figures = page.text(".move > .note");
        assert!(
            figures.contains("rows copied") && figures.contains("no write has waited"),
            "{figures}"
        );
        let commands = page.texts(".move .command code");
        let command = |verb| format!("shard-manager move {verb} {id} --url {}", router.url(""));
        let wanted = ["resume", "cancel"].map(command);
        assert_eq!(commands, wanted);
        page.click(".move summary");
        page.click(".move .command button");
        page.until(
            "it is copied, or selected for it",
            "/Copied|Selected/.test(document.querySelector('.move .command button').textContent)",
        );
        check_screens(page);
    }
    order(&router, &format!("/api/moves/{id}/cancel"));
    order(&router, &format!("/api/moves/{id}/resume"));
    for page in &mut pages {
        page.until("it has ended", "document.querySelector('.move').dataset.phase === 'cancelled'");
        page.until("nothing is hatched", "!document.querySelector('.arrows').checkVisibility()");
        assert_eq!(page.value(&format!("({COLOURS})({slot}, {slot})")), 1);
        let retry = format!("shard-manager move retry {id} --url {}", router.url(""));
        assert_eq!(page.texts(".move .command code"), [retry]);
        assert_eq!(page.faults(), Vec::<String>::new());
    }
}

#[test]
fn the_changes_that_a_copy_lacks_are_shown_with_their_age() {
    let router = Router::start(&["--operate"]);
    assert_eq!(router.write_user("ada"), 201);
    let place = router.get("/api/route?key=ada");
    let to = if place["shard"] == "shard1" { "shard3" } else { "shard1" };
    let id = begin(&router, "/api/moves", &json!({"key": "ada", "to": to, "keep": 600}));
    let mut page = Page::open(&router, DESK);
    let phase = "document.querySelector('.move')?.dataset.phase";
    page.until("the source is kept", &format!("{phase} === 'keeping'"));
    let figures = "document.querySelector('.move > .note').textContent";
    page.until("nothing is missing", &format!("{figures}.includes('no change behind')"));
    order(&router, &format!("/api/moves/{id}/pause"));
    assert_eq!(router.write_user("ada"), 200);
    let shown = format!("/ 1 change behind, for [0-9.,]+ m?s at most/.test({figures})");
    page.until("a change is missing", &shown);
    let longest = format!("{MOVES_NOTE}.includes('The longest lag of a copy is ')");
    page.until("it is in the summary", &longest);
    assert_eq!(page.faults(), Vec::<String>::new());
}

/// Checks that a page shows a rebalance that has ended: its plan, its progress and its effect.
fn check_ended(page: &mut Page, ended: &Value) {
    for skew in ["before", "planned", "measured"] {
        let shown = page.text(&format!("[data-skew={skew}]"));
        let real = ended[format!("skew_{skew}")].as_f64().unwrap();
        assert_eq!(shown, format!("{real:.2} ×"), "{skew}");
    }
    let note = page.value(REBALANCE_NOTE);
    let moves = format!("{0} of {0} moves done", ended["move_count"]);
    assert!(note.as_str().unwrap().contains(&moves), "{note}");
    assert!(page.texts("#rebalance .command").is_empty(), "it takes no orders any more");
    page.value(
        "document.querySelectorAll('#rebalance details').forEach((node) => { node.open = true; })",
    );
    page.until(
        "the plan is shown",
        &format!(
            "document.querySelectorAll('#rebalance tbody tr').length === {}",
            ended["move_count"]
        ),
    );
    check_screens(page);
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn a_rebalance_is_shown_with_its_commands_its_plan_its_progress_and_its_effect() {
    let router = Router::start(&["--operate"]);
    let service = Service::start(&[("north", &router)], "");
    let (status, answer) = send(&router, "POST", "/api/shards", &json!({"name": "east"}));
    assert_eq!(status, 201, "{answer}");
    // It takes few slots then, but in more than one move of each shard: the rebalance is paused
    // before it ends.
    for shard in ["shard1", "shard2", "shard3"] {
        let path = format!("/api/shards/{shard}");
        assert_eq!(send(&router, "PATCH", &path, &json!({"weight": 20})).0, 200);
    }
    let mut pages = [Page::open(&router, DESK), Page::open_at(&service.url(), DESK)];
    let state = "document.querySelector('#rebalance .move-state').textContent";
    let id = begin(&router, "/api/rebalance", &json!({"by": "slots", "keep": 0}));
    order(&router, &format!("/api/rebalance/{id}/pause"));
    for page in &mut pages {
        page.until("it is paused", &format!("{state} === 'paused'"));
        let url = router.url("");
        let command = |verb| format!("shard-manager rebalance {verb} {id} --url {url}");
        assert_eq!(page.texts("#rebalance .command code"), ["resume", "cancel"].map(command));
    }
    order(&router, &format!("/api/rebalance/{id}/resume"));
    for page in &mut pages {
        page.until("it is done", &format!("{state} === 'done'"));
        check_ended(page, &router.get(&format!("/api/rebalance/{id}")));
    }
}

#[test]
fn an_engine_that_places_rows_itself_is_named_in_a_sentence() {
    let router = Router::start(&[]);
    let mut page = Page::visit(&router.url(""), "/live", DESK);
    let refused = "{ const real = window.fetch; window.fetch = async (path, ...more) =>
        path === 'api/moves'
            ? new Response(JSON.stringify({detail: 'this cluster distributes its rows itself'}), {status: 409})
            : real(path, ...more); }";
    page.command("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": refused }));
    page.command("Page.navigate", &json!({"url": router.url("/dashboard")}));
    for note in [MOVES_NOTE, REBALANCE_NOTE] {
        page.until(
            "the sentence",
            &format!("{note} === 'Moves and rebalances are not shown: this cluster distributes its rows itself.'"),
        );
    }
    assert_eq!(barriers(&mut page), Vec::<String>::new());
    assert_eq!(page.faults(), Vec::<String>::new());
}
