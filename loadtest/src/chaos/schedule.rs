//! Schedule: which fault comes next, and when.

use std::fmt;
use std::time::Duration;

use crate::random::Random;

/// Between faults, in milliseconds.
const PAUSE_MS: (u32, u32) = (500, 2_500);
/// Between a kill and the next start: at once, or late enough for clients to give up.
const DOWN_MS: (u32, u32) = (0, 1_500);
/// Longer than clients wait for an answer, sometimes.
const FROZEN_MS: (u32, u32) = (50, 4_500);

/// What is done to the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL, and a new start after a while.
    Kill { down: Duration },
    /// SIGSTOP, and SIGCONT after a while.
    Freeze { lasts: Duration },
    /// SIGTERM, and a new start once it has ended.
    Restart,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { down } => write!(out, "kill -9, down for {} ms", down.as_millis()),
            Self::Freeze { lasts } => write!(out, "SIGSTOP for {} ms", lasts.as_millis()),
            Self::Restart => write!(out, "SIGTERM and restart"),
        }
    }
}

/// The faults of a seed, without end.
#[derive(Debug)]
pub(super) struct Schedule(Random);

impl Schedule {
    pub(super) fn new(seed: u64) -> Self {
        Self(Random::of_user(seed, usize::MAX / 2))
    }

    fn between(&mut self, (least, most): (u32, u32)) -> Duration {
        Duration::from_millis(u64::from(least + self.0.below(most - least + 1)))
    }
}

impl Iterator for Schedule {
    type Item = (Duration, Fault);

    fn next(&mut self) -> Option<Self::Item> {
        let pause = self.between(PAUSE_MS);
        let fault = match self.0.below(10) {
            0..6 => Fault::Kill { down: self.between(DOWN_MS) },
            6..9 => Fault::Freeze { lasts: self.between(FROZEN_MS) },
            _ => Fault::Restart,
        };
        Some((pause, fault))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_schedule_with_faults_of_every_kind() {
        let of = |seed| Schedule::new(seed).take(100).collect::<Vec<_>>();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        let faults = of(1);
        assert!(faults.iter().any(|(_, fault)| matches!(fault, Fault::Kill { .. })));
        assert!(faults.iter().any(|(_, fault)| matches!(fault, Fault::Freeze { .. })));
        assert!(faults.iter().any(|(_, fault)| *fault == Fault::Restart));
    }
}
