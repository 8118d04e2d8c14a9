//! Tests of gaps: curves leave out the time in which nothing was recorded, instead of showing zero.

use serde_json::Value;

use crate::earlier_metrics::served;
use crate::page::{DESK, Page};
use crate::router::Router;
use crate::service::Service;

/// More than the points of a chart.
const POINTS: usize = 160;

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
    let folder = crate::folders::temporary();
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
    // The label says it to readers who do not see the curve.
    let label = "document.querySelector('#throughput canvas').getAttribute('aria-label')";
    page.until(
        "it is in the summary",
        &format!("/ Not measured: [0-9:]+ to [0-9:]+[.]$/.test({label})"),
    );
    page.value("document.querySelector('#throughput canvas').focus()");
    let spoken = "document.querySelector('#throughput [role=status]').textContent";
    let is_spoken = format!("{spoken}.endsWith(', not measured')");
    let presses = (0..POINTS).take_while(|_| {
        page.press("ArrowLeft");
        page.value(&is_spoken) == false
    });
    assert!(presses.count() < POINTS, "{}", page.value(spoken));
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn a_window_without_measurements_is_not_shown_as_idle() {
    let mut router = Router::start(&[]);
    router.kill();
    // The service has never collected from it.
    let service = Service::start(&[("north", &router)], "");
    let mut page = Page::open_at(&service.url(), DESK);
    for place in ["throughput", "latency", "heatmap"] {
        let said = format!("document.querySelector('#{place} .summary').textContent");
        page.until(place, &format!("{said} === 'Not measured in this window.'"));
    }
    let notes = page.texts("#parts .summary, #parts .calm");
    assert_eq!(notes, ["Not measured in this window."; 2]);
    page.value("document.querySelector('#throughput canvas').focus()");
    page.press("ArrowLeft");
    let spoken = page.value("document.querySelector('#throughput [role=status]').textContent");
    assert!(spoken.as_str().unwrap().ends_with(", not measured"), "{spoken}");
    // The service cannot forward requests for advice and moves, and nothing else is wrong.
    let is_forwarded =
        |fault: &String| ["/api/advice", "/api/moves"].iter().any(|path| fault.contains(path));
    let others = page.faults().into_iter().filter(|fault| !is_forwarded(fault));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<String>::new());
}
