//! Stories of time in which nobody counted: it is no zero, and nothing is drawn there.

use serde_json::Value;

use crate::page::{DESK, Page};
use crate::router::Router;

/// Notes from now on which areas are filled on the chart of throughput: each from where to where.
const WATCH: &str = "(() => { const pen = document.querySelector('#throughput canvas').getContext('2d');
    const { beginPath, lineTo, fill, clearRect } = pen; let path = [];
    pen.clearRect = (...box) => { window.areas = []; clearRect.apply(pen, box); };
    pen.beginPath = () => { path = []; beginPath.call(pen); };
    pen.lineTo = (x, y) => { path.push(x); lineTo.call(pen, x, y); };
    pen.fill = () => { window.areas.push([pen.fillStyle, Math.min(...path), Math.max(...path)]); fill.call(pen); }; })()";

/// The runs of one line of small charts: each begins with an M.
const RUNS: &str =
    "document.querySelector('[data-shard] .spark-line').getAttribute('d').split('M').length - 1";

#[test]
fn a_router_that_was_down_leaves_a_gap_between_what_it_counted_before_and_after() {
    let mut router = Router::start(&[]);
    let mut page = Page::open(&router, DESK);
    page.click("#window input[value='1m']");
    for n in 0..9 {
        assert_eq!(router.write_user(&format!("user_{n}")), 201);
    }
    let counted = "document.querySelector('[data-figure=errors] .tile-note').textContent";
    page.until("they are counted", &format!("{counted} === '0 of 9'"));
    page.until("time goes by", &format!("{RUNS} === 1"));
    router.end();
    let ended = page.value("Date.now()");
    // A gap is as long as a point of the curves at least: here a second, which it must span.
    page.until("time goes by", &format!("Date.now() > {ended} + 3000"));
    router.come_back();
    for n in 9..12 {
        assert_eq!(router.write_user(&format!("user_{n}")), 201);
    }
    page.until("all are counted", &format!("{counted} === '0 of 12'"));
    page.value(WATCH);
    page.until("there is a gap", &format!("{RUNS} === 2"));
    page.until("the chart is drawn again", "window.areas?.length > 0");
    let areas = page.value("window.areas");
    let areas = areas.as_array().unwrap();
    let of_first = areas.iter().filter(|area| area[0] == areas[0][0]);
    let of_first: Vec<&Value> = of_first.collect();
    let [before, after] = &*of_first else { panic!("{areas:?}") };
    assert!(before[2].as_f64().unwrap() + 10.0 < after[1].as_f64().unwrap(), "{areas:?}");
}
