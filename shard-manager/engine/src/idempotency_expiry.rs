//! Idempotency expiry: decides which records of idempotency keys are too old to be kept.
//!
//! A system clock may jump by years at any moment, and a record that is deleted too early allows a
//! write to be applied twice. A process therefore reads the clock only once and then adds elapsed
//! time, so the times of its own records are always consistent. Records of earlier processes may be
//! deleted once this process has run for as long as records are kept, because they are older than
//! that, whatever their times say. Until then, they may be deleted only if some record shows that
//! the clock is about right, and only with a margin as large as the remaining uncertainty.
//!
//! **Invariant:** a jump of the system clock may delay the deletion of records, but never makes it
//! too early.
//! **Not here:** removing the records (the engines).

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use model::idempotency::KEPT;
use model::value::format_timestamp;

/// Clock of this process, which dates new records and decides which records may be deleted.
static STEADY: LazyLock<Steady> = LazyLock::new(|| Steady::new(Utc::now(), Instant::now()));

/// Age beyond which the time of a record was probably taken from a wrong clock.
const CREDIBLE: TimeDelta = TimeDelta::days(30);

/// Clock that is read once, when the process starts.
#[derive(Clone, Copy, Debug)]
struct Steady {
    clock: DateTime<Utc>,
    at: Instant,
}

/// Bounds on the creation times of the records that may be deleted. They are strings whose order is
/// the order of the times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyExpiry {
    /// Lower bound: a record may be deleted only if it was created at this time or later.
    pub from: String,
    /// Upper bound: a record may be deleted only if it was created before this time.
    pub until: String,
    /// If present, records may be deleted only if some record was created between these two times,
    /// which shows that the clock is right.
    pub witness: Option<(String, String)>,
}

impl IdempotencyExpiry {
    /// Returns the bounds of the records that may be deleted now.
    pub fn now() -> Self {
        STEADY.expiry(Instant::now())
    }
}

/// Returns the creation time for a record that is created now.
pub fn recorded_at() -> String {
    format_timestamp(STEADY.time(Instant::now()))
}

impl Steady {
    fn new(clock: DateTime<Utc>, at: Instant) -> Self {
        // Only times with years of four digits sort correctly as strings.
        let (least, most) = (TimeDelta::days(366), TimeDelta::days(8_000 * 365));
        let clock = clock.clamp(DateTime::UNIX_EPOCH + least, DateTime::UNIX_EPOCH + most);
        Self { clock, at }
    }

    fn lived(&self, now: Instant) -> TimeDelta {
        let lived =
            now.saturating_duration_since(self.at).min(Duration::from_secs(100 * 31_557_600));
        TimeDelta::from_std(lived).unwrap_or_default()
    }

    fn time(&self, now: Instant) -> DateTime<Utc> {
        self.clock + self.lived(now)
    }

    fn expiry(&self, now: Instant) -> IdempotencyExpiry {
        let (from, until, witness) = if self.lived(now) >= KEPT {
            (DateTime::UNIX_EPOCH, self.time(now) - KEPT, None)
        } else {
            // The clock may be wrong by as much as the time between the creation of the witness
            // record and the start of this process.
            let witness = [self.clock - KEPT, self.clock].map(format_timestamp);
            (self.clock - CREDIBLE, self.time(now) - KEPT - KEPT, Some(witness.into()))
        };
        IdempotencyExpiry { from: format_timestamp(from), until: format_timestamp(until), witness }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(count: u64) -> Duration {
        Duration::from_secs(count * 3_600)
    }

    fn may_go(expiry: &IdempotencyExpiry, records: &[&str]) -> Vec<String> {
        let between = |from: &str, until: &str| {
            let inside = |record: &&&str| **record >= from && **record < until;
            records.iter().filter(inside).map(|record| (*record).to_owned()).collect::<Vec<_>>()
        };
        let sure = expiry.witness.as_ref();
        if sure.is_some_and(|(from, until)| between(from, until).is_empty()) {
            return Vec::new();
        }
        between(&expiry.from, &expiry.until)
    }

    #[test]
    fn clock_readings_after_the_start_make_no_record_older() {
        let at = Instant::now();
        let steady = Steady::new("2026-03-10T12:00:00Z".parse().unwrap(), at);
        // The clock is read at the start only: an hour later it is an hour later.
        assert_eq!(
            steady.time(at + hours(1)),
            "2026-03-10T13:00:00Z".parse::<DateTime<Utc>>().unwrap()
        );
        let mine = format_timestamp(steady.time(at + hours(1)));
        assert_eq!(may_go(&steady.expiry(at + hours(24)), &[&mine]), [""; 0]);
        assert_eq!(
            may_go(&steady.expiry(at + hours(25) + Duration::from_secs(1)), &[&mine]),
            [mine.as_str()]
        );
    }

    #[test]
    fn a_process_that_starts_far_ahead_forgets_nothing_that_is_younger_than_a_day() {
        let records = ["2026-03-08T12:00:00.000000Z", "2026-03-10T11:59:00.000000Z"];
        for clock in ["2031-03-10T12:00:00Z", "2026-03-12T12:00:00Z", "2026-03-11T11:00:00Z"] {
            let at = Instant::now();
            let steady = Steady::new(clock.parse().unwrap(), at);
            for lived in [0, 1, 23] {
                let gone = may_go(&steady.expiry(at + hours(lived)), &records);
                let young = records[1].to_owned();
                assert!(!gone.contains(&young), "{clock} after {lived} h");
            }
            let gone = may_go(&steady.expiry(at + hours(48)), &records);
            assert_eq!(gone.len(), 2, "{clock}: by then they are old");
        }
    }

    #[test]
    fn a_process_whose_clock_goes_on_where_it_was_forgets_old_records_at_once() {
        let at = Instant::now();
        let steady = Steady::new("2026-03-10T12:00:00Z".parse().unwrap(), at);
        let records = [
            // The clock was years behind until a minute ago.
            "2016-03-10T11:58:00.000000Z",
            "2026-03-08T11:00:00.000000Z",
            "2026-03-09T11:00:00.000000Z",
            "2026-03-10T11:59:00.000000Z",
        ];
        assert_eq!(may_go(&steady.expiry(at), &records), [records[1]]);
        assert_eq!(may_go(&steady.expiry(at), &records[..3]), [""; 0], "there is no other clock");
    }

    #[test]
    fn a_clock_that_cannot_be_right_is_bounded() {
        for clock in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
            let steady = Steady::new(clock, Instant::now());
            let text = format_timestamp(steady.time(Instant::now() + hours(1_000)));
            assert_eq!(text.len(), "2026-03-10T12:00:00.000000Z".len(), "{text}");
            assert!(steady.expiry(Instant::now()).from.as_str() >= "1970");
        }
    }
}
