//! Copy forecast: the estimated time until all rows of a move are copied. It is derived from the
//! number of rows that were copied between two reports of the mover.
//!
//! **Invariant:** the measured rate includes neither the time in which the copy was paused nor the
//! time of an earlier mover.
//! **Not here:** the number of rows to copy (`move_resources`), the pace of rounds (`copy_pace`).

use std::time::{Duration, Instant};

use engine::move_record::MoveProgressReport;

/// Shortest period over which the rate is measured.
const MEASURED_MIN: Duration = Duration::from_millis(500);
/// Weight of the latest measurement in the rate, which is a moving average.
const LATEST: f64 = 0.3;
/// Longest time that is reported, in seconds. The rate of a copy that makes no progress falls
/// towards 0, so its estimate grows beyond this limit and is no longer reported.
const LEFT_MAX: f64 = 30.0 * 24.0 * 3_600.0;

/// Forecast of one copy.
#[derive(Debug, Default)]
pub(super) struct CopyForecast {
    /// Time of the last measurement, and the number of rows that were copied by then.
    measured: Option<(Instant, u64)>,
    /// Rows per second; `None` before the first measurement.
    rate: Option<f64>,
}

impl CopyForecast {
    /// Returns the estimated number of seconds until all rows are copied; `None` if there is no
    /// estimate, or no rows are being copied.
    pub(super) fn seconds_left(
        &mut self,
        is_copying: bool,
        progress: &MoveProgressReport,
        now: Instant,
    ) -> Option<u64> {
        if !is_copying {
            *self = Self::default();
            return None;
        }
        self.measure(progress.rows, now);
        let rate = self.rate.filter(|rate| *rate > 0.0)?;
        let left = progress.rows_expected?.checked_sub(progress.rows).filter(|left| *left > 0)?;
        let seconds = Some(left as f64 / rate).filter(|seconds| *seconds <= LEFT_MAX)?;
        Some(seconds.ceil() as u64)
    }

    fn measure(&mut self, rows: u64, now: Instant) {
        let Some((at, before)) = self.measured else {
            self.measured = Some((now, rows));
            return;
        };
        let time = now.saturating_duration_since(at);
        if time < MEASURED_MIN {
            return;
        }
        let latest = rows.saturating_sub(before) as f64 / time.as_secs_f64();
        self.rate = Some(self.rate.map_or(latest, |rate| rate + (latest - rate) * LATEST));
        self.measured = Some((now, rows));
    }
}

/// Returns the number of rows that a copy which begins now is expected to have. It is `None` if the
/// move has copied rows before: the copy begins again, and the total number of copied rows is then
/// unknown.
pub(super) fn rows_of_copy(progress: &MoveProgressReport) -> Option<u64> {
    progress.rows_expected.filter(|_| progress.rows == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(rows: u64, rows_expected: Option<u64>) -> MoveProgressReport {
        MoveProgressReport { rows, rows_expected, ..MoveProgressReport::default() }
    }

    #[test]
    fn the_time_that_is_left_follows_from_the_rows_of_the_last_seconds() {
        let (mut forecast, begun) = (CopyForecast::default(), Instant::now());
        let mut left = |rows, seconds| {
            let now = begun + Duration::from_secs(seconds);
            forecast.seconds_left(true, &progress(rows, Some(1_000)), now)
        };
        assert_eq!(left(0, 0), None, "no rate is known");
        assert_eq!(left(100, 1), Some(9));
        assert_eq!(left(300, 3), Some(7));
        assert_eq!(left(300, 3), Some(7), "a second report in the same moment measures nothing");
        assert_eq!(left(500, 4), Some(4), "130 rows a second");
        assert_eq!(left(1_000, 5), None, "all of the expected rows are copied");
        assert_eq!(left(1_100, 6), None, "there were more rows than expected");
    }

    #[test]
    fn without_an_expected_number_of_rows_no_time_is_estimated() {
        let (mut forecast, begun) = (CopyForecast::default(), Instant::now());
        for second in 0..4 {
            let now = begun + Duration::from_secs(second);
            assert_eq!(forecast.seconds_left(true, &progress(second * 10, None), now), None);
        }
    }

    #[test]
    fn a_pause_of_the_copy_does_not_count() {
        let (mut forecast, begun) = (CopyForecast::default(), Instant::now());
        let mut left = |is_copying, rows, seconds| {
            let now = begun + Duration::from_secs(seconds);
            forecast.seconds_left(is_copying, &progress(rows, Some(1_000)), now)
        };
        assert_eq!(left(true, 0, 0), None);
        assert_eq!(left(true, 100, 1), Some(9));
        assert_eq!(left(false, 100, 2), None);
        assert_eq!(left(true, 100, 3_600), None);
        assert_eq!(left(true, 200, 3_601), Some(8));
    }

    #[test]
    fn a_copy_that_stands_still_has_no_estimated_time_after_a_while() {
        let (mut forecast, begun) = (CopyForecast::default(), Instant::now());
        let mut left = |rows, seconds| {
            let now = begun + Duration::from_secs(seconds);
            forecast.seconds_left(true, &progress(rows, Some(1_000)), now)
        };
        assert_eq!((left(0, 0), left(100, 1)), (None, Some(9)));
        for second in 2..60 {
            left(100, second);
        }
        assert_eq!(left(100, 60), None);
        assert_eq!(left(400, 61), Some(7), "it goes on");
    }

    #[test]
    fn a_copy_that_begins_again_has_no_expected_number_of_rows() {
        assert_eq!(rows_of_copy(&progress(0, Some(9))), Some(9));
        assert_eq!(rows_of_copy(&progress(4, Some(9))), None);
        assert_eq!(rows_of_copy(&progress(0, None)), None);
    }
}
