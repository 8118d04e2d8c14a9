//! Tests of accessibility: the rules of axe on screens of every kind, and the page with the
//! keyboard alone.

use std::path::Path;

use serde_json::{Value, json};

use crate::load::Load;
use crate::page::{DESK, NIGHT, PHONE, Page, Screen};
use crate::router::Router;

/// Returns the script that `./setup.sh tools` installs in the folder of build results.
fn axe() -> String {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let file = target.join("axe-core/package/axe.min.js");
    std::fs::read_to_string(&file).unwrap_or_else(|_| {
        panic!(
            "there is no {}, which judges the dashboard: ./setup.sh tools fetches it",
            file.display()
        )
    })
}

/// Returns the barriers that axe finds: each rule with the elements that break it.
pub(crate) fn barriers(page: &mut Page) -> Vec<String> {
    page.value(&format!("{}; true", axe()));
    let found = page.value("axe.run(document, {resultTypes: ['violations']}).then((result) => [result.passes.length, result.violations])");
    assert!(found[0].as_u64().unwrap() > 20, "axe has looked");
    let grave = |rule: &&Value| rule["impact"] == "serious" || rule["impact"] == "critical";
    let reported = found[1].as_array().unwrap().iter().filter(grave).map(|rule| {
        let nodes: Vec<&str> = rule["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .take(3)
            .filter_map(|node| node["html"].as_str())
            .collect();
        format!("{}: {} {nodes:?}", rule["id"], rule["help"])
    });
    reported.collect()
}

/// Everything is shown: traffic, errors, hot keys, a pin, a shard that is chosen.
fn busy_page(router: &Router, screen: Screen) -> Page {
    let _load = Load::begin(router);
    let mut page = Page::open(router, screen);
    page.until("there are errors", "document.querySelectorAll('#errors tbody tr').length > 1");
    page.until("there are hot keys", "document.querySelectorAll('#keys tbody tr').length > 2");
    page.value("document.getElementById('key-text').value = 'user_1'; document.querySelector('#key button').click()");
    page.until("the pin is dropped", "!document.getElementById('pin').hidden");
    page
}

#[test]
fn pages_are_accessible_in_light_and_dark_and_on_a_phone() {
    let router = Router::start(&[]);
    for screen in [DESK, NIGHT, PHONE, Screen { scheme: "dark", ..PHONE }] {
        let mut page = busy_page(&router, screen);
        assert_eq!(
            barriers(&mut page),
            Vec::<String>::new(),
            "{} wide, {}",
            screen.width,
            screen.scheme
        );
        let wide = page.value("document.documentElement.scrollWidth - innerWidth");
        assert!(wide.as_i64().unwrap() <= 0, "{} wide: {wide} too much", screen.width);
        assert_eq!(page.faults(), Vec::<String>::new());
    }
}

#[test]
fn problems_are_shown_accessibly() {
    let router = Router::start(&["--lab"]);
    router.set_node("shard2-primary", "cut");
    let mut page = Page::open(&router, NIGHT);
    page.until(
        "shard2 is down",
        "document.querySelector('[data-shard=shard2]')?.dataset.state === 'down'",
    );
    assert_eq!(barriers(&mut page), Vec::<String>::new());
}

/// All that can be used: what of it the keyboard has not met yet is left.
const MARK: &str = "(() => { const all = [...document.querySelectorAll('a[href], button, input, select, [tabindex=\"0\"]')]
    .filter((node) => node.checkVisibility() && !(node.type === 'radio' && !node.checked));
    all.forEach((node, place) => { node.dataset.unmet = place; });
    return all.length; })()";

#[test]
fn the_keyboard_reaches_everything_and_shows_where_it_is() {
    let router = Router::start(&[]);
    let mut page = busy_page(&router, DESK);
    page.click("#pause"); // So that nothing comes or goes while it is counted.
    page.value("document.activeElement.blur(), window.scrollTo(0, 0)");
    let all = page.value(MARK).as_u64().unwrap();
    assert!(all > 20, "{all}");
    for _ in 0..all * 2 {
        page.press("Tab");
        let seen = page.value(
            "(() => { const node = document.activeElement; delete node.dataset.unmet;
                const of = [node, node.nextElementSibling].filter(Boolean).map((one) => getComputedStyle(one));
                of.push(getComputedStyle(node, '::after'));
                return node === document.body || of.some((style) => style.outlineStyle !== 'none') ? '' : node.outerHTML; })()",
        );
        assert_eq!(seen, "", "no outline");
    }
    let left = page.value("[...document.querySelectorAll('[data-unmet]')].map((node) => node.outerHTML.slice(0, 120))");
    assert_eq!(left, json!([]));
}

#[test]
fn a_card_is_chosen_by_enter_and_let_go_by_escape() {
    let router = Router::start(&[]);
    let mut page = Page::open(&router, DESK);
    page.value("document.querySelector('[data-shard=shard2] button').focus()");
    page.press("Enter");
    let pressed =
        "document.querySelector('[data-shard=shard2] button').getAttribute('aria-pressed')";
    page.until("it is chosen", &format!("{pressed} === 'true'"));
    page.until(
        "only shard2",
        "document.getElementById('traffic-note').textContent.startsWith('Only shard2')",
    );
    assert_eq!(page.value("document.activeElement.textContent"), "shard2", "the focus stays");
    page.press("Escape");
    page.until("it is let go", &format!("{pressed} === 'false'"));
}

#[test]
fn a_table_shows_its_sort_order() {
    let router = Router::start(&[]);
    let mut page = busy_page(&router, DESK);
    let share = "#keys thead th:nth-child(3)";
    for order in ["descending", "ascending", "none"] {
        page.value(&format!("document.querySelector('{share} button').focus()"));
        page.press("Enter");
        assert_eq!(
            page.value(&format!("document.querySelector('{share}').getAttribute('aria-sort')")),
            order
        );
    }
}

#[test]
fn a_chart_is_read_by_arrow_keys_and_has_a_text_description() {
    let router = Router::start(&[]);
    let mut page = busy_page(&router, DESK);
    let label =
        page.value("document.querySelector('#throughput canvas').getAttribute('aria-label')");
    assert!(label.as_str().unwrap().contains("requests/s"), "{label}");
    page.value("document.querySelector('#throughput canvas').focus()");
    page.press("ArrowLeft");
    page.until(
        "it is read aloud",
        "document.querySelector('#throughput [role=status]').textContent.includes('shard1')",
    );
    page.press("Escape");
    page.until("the crosshair is gone", "document.querySelector('#throughput .readout').hidden");
}

/// A chart of a minute of which two points were measured, and then a pause; none is shown yet.
const PAUSED_CHART: &str = "import('/dashboard/chart.js').then(({ Chart }) => {
    const place = document.createElement('div'); place.id = 'paused'; document.body.prepend(place);
    window.paused = new Chart(place, { title: 'Paused', format: String, axis: String });
    const lines = [{ name: 'shard1', colour: 'var(--part-1)', values: [3, 4] }];
    window.measured = { from: 0, to: 60, step: 2, stacked: false, lines, times: [10, 12] };
    window.paused.show({ ...window.measured, lines: [], times: [] }); })";

#[test]
fn arrow_keys_begin_at_the_last_measured_point_even_of_a_chart_that_was_empty() {
    let router = Router::start(&[]);
    let mut page = Page::open(&router, DESK);
    page.value(PAUSED_CHART);
    page.value("document.querySelector('#paused canvas').focus()");
    page.press("ArrowLeft");
    let spoken = "document.querySelector('#paused [role=status]').textContent";
    page.until("nothing was measured", &format!("{spoken}.endsWith('not measured')"));
    page.value("window.paused.show(window.measured)");
    page.until("the last point is read", &format!("/shard1\\D*4$/.test({spoken})"));
    page.value("window.paused.show(window.measured)");
    let hidden = "document.querySelector('#paused .readout').hidden";
    assert_eq!(page.value(hidden), false, "a repaint keeps the crosshair");
    page.press("ArrowLeft");
    page.until("the point before is read", &format!("/shard1\\D*3$/.test({spoken})"));
    page.press("Escape");
    page.press("ArrowLeft");
    page.until("it begins at the last point again", &format!("/shard1\\D*4$/.test({spoken})"));
}

#[test]
fn a_theme_that_was_chosen_stays() {
    let router = Router::start(&[]);
    let mut page = Page::open(&router, DESK);
    let ground = "getComputedStyle(document.body).backgroundColor";
    let light = page.value(ground);
    page.click("#theme"); // From auto to light,
    page.click("#theme"); // to dark.
    assert_eq!(page.text("#theme"), "Theme: dark");
    assert_ne!(page.value(ground), light);
    page.command("Page.reload", &json!({}));
    page.until(
        "it is still dark",
        "document.getElementById('theme')?.textContent === 'Theme: dark'",
    );
    assert_ne!(page.value(ground), light);
}
