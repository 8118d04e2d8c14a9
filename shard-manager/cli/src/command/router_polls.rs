//! Router polls: how a command follows the work of a router, which may be restarted meanwhile.
//!
//! **Not here:** the work and its views (`moves`, `rebalance`, `backup`).

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{CommandError, interrupt};

/// Interval between two polls.
const LOOK: Duration = Duration::from_millis(500);
/// Interval at which an interrupt is noticed.
const NAP: Duration = Duration::from_millis(50);
/// Time for which the router may be unreachable: it may be restarted, or another one takes over.
const UNREACHABLE_MAX: Duration = Duration::from_secs(30);

/// Polls of a router.
pub(super) struct RouterPolls {
    /// Time of the last answer.
    seen: Instant,
}

impl RouterPolls {
    /// Begins after an answer of the router.
    pub(super) fn begin() -> Self {
        Self { seen: Instant::now() }
    }

    /// Waits until the next poll; returns false if the command is interrupted meanwhile.
    pub(super) fn pause() -> bool {
        let next = Instant::now() + LOOK;
        while Instant::now() < next {
            if interrupt::is_interrupted() {
                return false;
            }
            sleep(NAP);
        }
        true
    }

    /// Returns the answer to a poll; `None` if there is none, which the next poll may bring.
    ///
    /// # Errors
    /// The error of the poll if the router has not answered for some time.
    pub(super) fn answer<T>(
        &mut self,
        polled: Result<T, CommandError>,
    ) -> Result<Option<T>, CommandError> {
        match polled {
            Ok(answer) => {
                self.seen = Instant::now();
                Ok(Some(answer))
            }
            Err(error) if self.seen.elapsed() > UNREACHABLE_MAX => Err(error),
            Err(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail() -> Result<u8, CommandError> {
        Err(CommandError::Refused("unreachable".to_owned()))
    }

    #[test]
    fn an_unreachable_router_is_an_error_only_after_some_time_without_an_answer() {
        let mut polls = RouterPolls::begin();
        assert!(matches!(polls.answer(fail()), Ok(None)));
        assert!(matches!(polls.answer(Ok(7)), Ok(Some(7))));
        let long_ago = Instant::now().checked_sub(UNREACHABLE_MAX * 2);
        polls.seen = long_ago.expect("a time before");
        assert!(matches!(polls.answer(fail()), Err(CommandError::Refused(_))));
        assert!(matches!(polls.answer(Ok(7)), Ok(Some(7))));
        assert!(matches!(polls.answer(fail()), Ok(None)), "it has answered since");
    }
}
