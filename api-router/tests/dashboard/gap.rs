//! Stories of time in which nobody counted: it is no zero, and nothing is drawn there.

use serde_json::Value;

use crate::earlier::served;
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
fn time_in_which_a_router_was_down_is_a_gap_in_what_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("figures.db");
    served(&store);
    let router = Router::start(&["--analytics-store", store.to_str().unwrap()]);
    let mut page = Page::open(&router, DESK);
    assert_eq!(router.write_user("user_1"), 201);
    page.value(WATCH);
    page.until("there is a gap", &format!("{RUNS} === 2"));
    page.until("the chart is drawn", "window.areas?.length > 0");
    let areas = page.value("window.areas");
    let areas = areas.as_array().unwrap();
    let of_first: Vec<&Value> = areas.iter().filter(|area| area[0] == areas[0][0]).collect();
    let [before, after] = &*of_first else { panic!("{areas:?}") };
    let width = page.value("document.querySelector('#throughput canvas').clientWidth");
    let gap = after[1].as_f64().unwrap() - before[2].as_f64().unwrap();
    // It was down for half of what is shown.
    assert!((0.3..0.6).contains(&(gap / width.as_f64().unwrap())), "{areas:?} of {width}");
    assert_eq!(page.faults(), Vec::<String>::new());
}
