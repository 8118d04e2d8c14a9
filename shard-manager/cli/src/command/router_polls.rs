//! Router polls: polls by which a command follows the work of a router, even if the router restarts
//! meanwhile.
//!
//! **Not here:** sending the requests, and showing the work (`moves`, `rebalance`).

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{CommandError, interrupt};

/// Interval between two polls.
const LOOK: Duration = Duration::from_millis(500);
/// Interval between two checks for an interrupt.
const NAP: Duration = Duration::from_millis(50);
/// Time for which the router may be unreachable before the command fails: it may restart, or
/// another one may take over.
const UNREACHABLE_MAX: Duration = Duration::from_secs(30);

/// Polls of a router.
pub(super) struct RouterPolls {
    /// Time of the last response.
    seen: Instant,
}

impl RouterPolls {
    /// Begins polling, just after a response of the router.
    pub(super) fn begin() -> Self {
        Self { seen: Instant::now() }
    }

    /// Waits until the next poll is due; returns false if the command is interrupted meanwhile.
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

    /// Returns the response to a poll; `None` if the poll failed and the next one may succeed.
    ///
    /// # Errors
    /// The error of the poll, if no poll has succeeded for `UNREACHABLE_MAX`.
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
    fn polls_of_an_unreachable_router_fail_only_after_a_grace_period() {
        let mut polls = RouterPolls::begin();
        assert!(matches!(polls.answer(fail()), Ok(None)));
        assert!(matches!(polls.answer(Ok(7)), Ok(Some(7))));
        let long_ago = Instant::now().checked_sub(UNREACHABLE_MAX * 2);
        polls.seen = long_ago.expect("an earlier time");
        assert!(matches!(polls.answer(fail()), Err(CommandError::Refused(_))));
        assert!(matches!(polls.answer(Ok(7)), Ok(Some(7))));
        assert!(matches!(polls.answer(fail()), Ok(None)), "it has answered since");
    }
}
