//! Heatmap: the distribution of response times over the run.
//!
//! **Invariant:** a class of response times with a single request is visible.

use std::fmt::Write;

use maud::{Markup, html};
use report_page::px;

use super::columns::Column;
use super::frame::{Frame, LEFT, Run, TOP, WIDTH};
use super::graphs::tick;
use crate::counters::class_end_ms;

/// Shades of the cells, each with the highest percentage of a column's requests for which the shade
/// is used.
const SHADES: [(f64, &str); 6] = [
    (0.1, "up to 0.1 %"),
    (1.0, "1 %"),
    (3.0, "3 %"),
    (10.0, "10 %"),
    (30.0, "30 %"),
    (100.0, "100 % of the requests of that time"),
];
/// Maximum height of the row of cells of one class.
const ROW: f64 = 14.0;
const HEIGHT: f64 = 240.0;
/// Minimum distance between the labels on the left.
const LABEL_LEAST: f64 = 15.0;

/// Returns the heatmap; nothing without requests.
pub(super) fn figure(run: &Run<'_>) -> Markup {
    let used = |class: usize| run.columns.iter().any(|column| count(column, class) > 0);
    let classes = run.columns.iter().map(|column| column.classes.len()).max().unwrap_or(0);
    let Some(lowest) = (0..classes).find(|&class| used(class)) else { return Markup::default() };
    let highest = (0..classes).rev().find(|&class| used(class)).unwrap_or(lowest);
    let rows = highest - lowest + 1;
    let row = (HEIGHT / rows as f64).min(ROW);
    let frame = Frame {
        id: "heatmap",
        title: "All response times",
        about: format!(
            "How the response times of each moment were spread, from {} to {}; the darker, the more.",
            class_begin(lowest),
            tick(class_end_ms(highest)),
        ),
        height: row * rows as f64,
    };
    let legend = html! {
        @for (shade, (_, legend)) in SHADES.iter().enumerate() {
            span class="key" {
                svg viewBox="0 0 14 10" aria-hidden="true" {
                    path class={ "h" (shade) } d="M0 0h14v10H0z" {}
                }
                (legend)
            }
        }
    };
    let scale = format!("translate({LEFT} {TOP}) scale({} {row})", WIDTH / run.seconds);
    let paths = shades(run.columns, lowest, highest);
    let drawing = html! {
        g transform=(scale) class="cells" {
            @for (shade, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
                path class={ "h" (shade) } d=(path) {}
            }
        }
        (labels(&frame, row, lowest, highest))
    };
    frame.figure(run, &legend, &drawing)
}

/// Returns labels with the bounds of the classes, as many as there is room for.
fn labels(frame: &Frame, row: f64, lowest: usize, highest: usize) -> Markup {
    let every = (LABEL_LEAST / row).ceil().max(1.0) as usize;
    html! {
        @for class in (lowest..=highest).step_by(every) {
            @let y = frame.bottom() - row * (class - lowest + 1) as f64;
            (frame.label_left(y, &tick(class_end_ms(class))))
        }
    }
}

/// Returns a path for each shade, in units of seconds and rows; adjacent cells of the same shade
/// are merged.
fn shades(columns: &[Column], lowest: usize, highest: usize) -> [String; SHADES.len()] {
    let mut paths: [String; SHADES.len()] = Default::default();
    for class in lowest..=highest {
        let top = highest - class;
        let mut start = 0;
        while let Some(column) = columns.get(start) {
            let shade = shade(column, class);
            let same = |column: &&Column| self::shade(column, class) == shade;
            let end = start + columns[start..].iter().take_while(same).count();
            if let Some(path) = shade.and_then(|shade| paths.get_mut(shade)) {
                let width: f64 = columns[start..end].iter().map(|column| column.width_s).sum();
                let (from, width) = (px(column.from_s), px(width.max(0.1)));
                // Writing to a String cannot fail.
                let _ = write!(path, "M{from} {top}h{width}v1h-{width}z");
            }
            start = end;
        }
    }
    paths
}

/// Returns the shade of the cell of a class in a column; `None` if the cell has no requests.
fn shade(column: &Column, class: usize) -> Option<usize> {
    let count = count(column, class);
    let percent = count as f64 * 100.0 / column.requests.max(1) as f64;
    let darkest = SHADES.len() - 1;
    let shade = SHADES.iter().position(|(most, _)| percent <= *most).unwrap_or(darkest);
    (count > 0).then_some(shade)
}

fn count(column: &Column, class: usize) -> u64 {
    column.classes.get(class).copied().unwrap_or(0)
}

fn class_begin(class: usize) -> String {
    class.checked_sub(1).map_or_else(|| "0 ms".to_owned(), |before| tick(class_end_ms(before)))
}
