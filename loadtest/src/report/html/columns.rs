//! Columns: merges the seconds of a run into as many columns as a graph has room for.
//!
//! **Invariant:** there are at most [`COLUMNS_MAX`] columns. Together they contain every request of
//! the series and cover the whole run.
//! **Not here:** drawing the columns (`graphs`, `heatmap`).

use crate::counters::class_end_ms;
use crate::report::{Report, Second};

/// Maximum number of columns, each of which is then about five pixels wide. In a run of an hour a
/// column is 20 s.
pub(super) const COLUMNS_MAX: usize = 180;
/// Minimum length of the last second, in seconds. If it is shorter, it is merged with the second
/// before, because its rate would be a matter of chance.
const PART_LEAST_S: f64 = 0.5;
/// Minimum length of the time axis, in seconds.
const RUN_LEAST_S: f64 = 0.1;

/// Consecutive seconds of a run.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) from_s: f64,
    pub(super) width_s: f64,
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// Number of requests in each class of response times.
    pub(super) classes: Vec<u64>,
    /// Rate of the slowest second in the column.
    pub(super) least_per_s: f64,
    /// Rate of the fastest second in the column.
    pub(super) most_per_s: f64,
}

/// Returns the length of the time axis, in seconds.
pub(super) fn seconds(report: &Report) -> f64 {
    report.elapsed_s.max(RUN_LEAST_S)
}

/// Returns all columns in order of time; none without requests.
pub(super) fn of(report: &Report) -> Vec<Column> {
    let end = seconds(report);
    let last = report.series.len().saturating_sub(1);
    // The last second ends with the run. It is shorter than a second, or, in a run of more than a
    // day, longer, because it contains all later requests.
    let width = |second: usize| if second < last { 1.0 } else { (end - last as f64).max(0.0) };
    let per_column = report.series.len().div_ceil(COLUMNS_MAX).max(1);
    let mut columns: Vec<Column> = Vec::new();
    for (index, second) in report.series.iter().enumerate() {
        let width_s = width(index);
        let is_part = width_s < PART_LEAST_S;
        match columns.last_mut() {
            Some(column) if is_part || index % per_column > 0 => column.add(second, width_s),
            Some(_) | None => {
                let width_s = if is_part { end } else { width_s };
                columns.push(Column::new(index as f64, second, width_s));
            }
        }
    }
    columns
}

impl Column {
    fn new(from_s: f64, second: &Second, width_s: f64) -> Self {
        let rate = second.requests as f64 / width_s;
        Self {
            from_s,
            width_s,
            requests: second.requests,
            failed: second.failed,
            classes: second.classes.iter().map(|&count| count.into()).collect(),
            least_per_s: rate,
            most_per_s: rate,
        }
    }

    fn add(&mut self, second: &Second, width_s: f64) {
        if width_s >= PART_LEAST_S {
            let rate = second.requests as f64 / width_s;
            self.least_per_s = self.least_per_s.min(rate);
            self.most_per_s = self.most_per_s.max(rate);
        }
        self.width_s += width_s;
        self.requests += second.requests;
        self.failed += second.failed;
        self.classes.iter_mut().zip(&second.classes).for_each(|(a, &b)| *a += u64::from(b));
    }

    pub(super) fn rate(&self) -> f64 {
        self.requests as f64 / self.width_s
    }

    pub(super) fn failed_per_s(&self) -> f64 {
        self.failed as f64 / self.width_s
    }

    /// Returns the quantile `share` of the response times, in milliseconds and at most `max_ms`;
    /// `None` if there were no requests.
    ///
    /// Within a class, times are assumed to be evenly distributed on a logarithmic scale.
    pub(super) fn quantile_ms(&self, share: f64, max_ms: f64) -> Option<f64> {
        let wanted = (self.requests as f64 * share).max(1.0);
        let mut counted = 0.0;
        for (class, &count) in self.classes.iter().enumerate() {
            let count = count as f64;
            if count > 0.0 && counted + count >= wanted {
                let (begin, end) = (class_begin_ms(class), class_end_ms(class));
                let time = begin * (end / begin).powf((wanted - counted) / count);
                return Some(time.min(max_ms));
            }
            counted += count;
        }
        None
    }
}

/// Returns the lower bound of a class of times, in milliseconds. The first class begins at zero,
/// but half of its upper bound is returned instead, because a logarithmic scale needs a positive
/// number.
fn class_begin_ms(class: usize) -> f64 {
    match class.checked_sub(1) {
        Some(before) => class_end_ms(before),
        None => class_end_ms(0) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report_of;

    #[test]
    fn every_request_is_in_a_column_and_every_moment_too() {
        for (seconds, elapsed_s) in
            [(1, 0.3), (15, 15.0), (16, 15.02), (16, 15.9), (3_601, 3_600.01), (86_400, 90_000.0)]
        {
            let report = report_of(seconds, elapsed_s);
            let columns = of(&report);
            assert!((1..=COLUMNS_MAX + 1).contains(&columns.len()), "{seconds}: {}", columns.len());
            let requests: u64 = columns.iter().map(|column| column.requests).sum();
            assert_eq!(requests, report.requests, "{seconds}");
            let mut end = 0.0;
            for column in &columns {
                assert!((column.from_s - end).abs() < 1e-6, "{seconds}: {column:?}");
                end += column.width_s;
                assert!(column.least_per_s <= column.most_per_s, "{seconds}: {column:?}");
            }
            assert!(
                (end - elapsed_s).abs() < 1e-6 || (end - elapsed_s).abs() < 0.21,
                "{seconds}: {end}"
            );
        }
        assert!(of(&report_of(0, 0.0)).is_empty());
    }

    #[test]
    fn a_quantile_lies_in_its_class() {
        let mut column = of(&report_of(1, 1.0)).remove(0);
        column.requests = 100;
        column.classes = vec![0; 40];
        column.classes[10] = 99;
        column.classes[20] = 1;
        let p50 = column.quantile_ms(0.5, 1e6).unwrap();
        assert!((class_end_ms(9)..class_end_ms(10)).contains(&p50), "{p50}");
        let max = column.quantile_ms(1.0, 1e6).unwrap();
        assert!((max - class_end_ms(20)).abs() < 1e-6, "{max}");
        assert_eq!(column.quantile_ms(1.0, 50.0), Some(50.0));
        column.requests = 0;
        column.classes = vec![0; 40];
        assert_eq!(column.quantile_ms(0.5, 1e6), None);
    }
}
