//! Read task: waits, until a deadline, for a read that runs in a task of its own.
//!
//! **Not here:** the reads (the engines).

use std::time::Instant;

use model::error::Error;
use tokio::task::JoinHandle;

/// Waits for the result of a read. If the deadline passes, the task continues, and its result is
/// dropped.
///
/// # Errors
/// The error of the read; [`Error::DeadlinePassed`]; [`Error::Internal`] if the read panicked.
pub async fn result_of<T>(
    task: JoinHandle<Result<T, Error>>,
    deadline: Instant,
) -> Result<T, Error> {
    match tokio::time::timeout_at(deadline.into(), task).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => {
            tracing::error!(%panic, "a read did not finish");
            Err(Error::Internal)
        }
        Err(_elapsed) => Err(Error::DeadlinePassed),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use super::*;

    fn much_later() -> Instant {
        Instant::now() + Duration::from_secs(600)
    }

    #[tokio::test]
    async fn a_read_ends_with_its_result_or_at_its_deadline_and_a_panic_is_an_internal_error() {
        let done = tokio::spawn(async { Ok(7) });
        assert_eq!(result_of(done, much_later()).await, Ok(7));
        let refused = tokio::spawn(async { Err::<u8, _>(Error::NoSuchRow) });
        assert_eq!(result_of(refused, much_later()).await, Err(Error::NoSuchRow));
        let endless = tokio::spawn(pending::<Result<u8, Error>>());
        assert_eq!(result_of(endless, Instant::now()).await, Err(Error::DeadlinePassed));
        let read = || -> Result<u8, Error> { panic!("a read panics") };
        let panicked = tokio::spawn(async move { read() });
        assert_eq!(result_of(panicked, much_later()).await, Err(Error::Internal));
    }
}
