//! Time limits: waits that end at the deadline of a request.
//!
//! **Invariant:** a catalog read that exceeds its deadline changes nothing, as its error states.
//! **Not here:** the deadlines (the calling functions), the time limits of single calls (the
//! engines).

use std::time::Instant;

use engine::move_catalog::MoveListError;
use model::error::Error;

use super::MovesError;

/// Waits for some work until the deadline. Returns the error `late` if the work has not ended by
/// then.
pub(super) async fn by<T, E>(
    deadline: Instant,
    work: impl Future<Output = Result<T, E>>,
    late: E,
) -> Result<T, E> {
    tokio::time::timeout_at(deadline.into(), work).await.unwrap_or(Err(late))
}

/// Waits for a read of the catalog until the deadline.
///
/// # Errors
/// [`MoveListError::Unread`], or the error of the read.
pub(super) async fn read_by<T, E: From<MovesError>>(
    deadline: Instant,
    read: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let late = MovesError::from(MoveListError::Unread(Error::DeadlinePassed));
    by(deadline, read, late.into()).await
}

/// Returns the moment halfway to a deadline: the time limit of a wait that must leave time for
/// later waits.
pub(super) fn halfway(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_catalog_read_that_exceeds_its_deadline_reports_that_nothing_was_changed() {
        let passed = Instant::now();
        let late: Result<(), MovesError> = read_by(passed, pending()).await;
        assert_eq!(late, Err(MoveListError::Unread(Error::DeadlinePassed).into()));
        let read: Result<u8, MovesError> = read_by(passed, ready(Ok(7))).await;
        assert_eq!(read, Ok(7), "an available result is returned");
    }

    #[test]
    fn half_of_the_time_is_left_for_the_waits_that_follow() {
        let deadline = Instant::now() + Duration::from_secs(3_600);
        let halfway = halfway(deadline);
        assert!(Instant::now() < halfway && halfway < deadline);
        let passed = Instant::now();
        assert!(super::halfway(passed) >= passed, "a deadline that has passed leaves no time");
    }
}
