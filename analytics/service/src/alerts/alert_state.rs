//! AlertState: one thing that a rule watches, over time.
//!
//! ```text
//!           bad               bad for `for`             well for `clear_for`
//!  quiet ────────▶ pending ─────────────────▶ firing ───────────────────────▶ quiet
//!    ▲               │ not bad, or unknown      │ ▲ in between, or unknown: it goes on firing
//!    └───────────────┘                          └─┘
//! ```
//!
//! **Invariant:** no clock is read here: the time is told, and one that goes back is taken for one that stands.
//! **Not here:** who is told of a change (`webhook`).

use super::rule::Limits;

/// How it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is wrong.
    #[default]
    Quiet,
    /// It is bad, and not for long enough.
    Pending {
        /// Since when, in s.
        since: u64,
    },
    /// It was bad for long enough, and is not over.
    Firing {
        /// Since when it was bad, in s.
        since: u64,
        /// When it began to fire.
        fired_at: u64,
        /// Since when it is well, if it is.
        well_since: Option<u64>,
    },
}

/// What somebody is to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It fires now.
    Fired,
    /// It is over.
    Resolved {
        /// Since when it was bad, in s.
        since: u64,
        /// When it had begun to fire.
        fired_at: u64,
    },
}

/// One thing that a rule watches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AlertState {
    /// How it is.
    pub phase: Phase,
    /// What was measured last; `None` if that could not be done.
    pub value: Option<f64>,
    now: u64,
}

impl AlertState {
    /// Takes in what is measured at a time, in s; `None`: it could not be.
    pub fn step(&mut self, at: u64, value: Option<f64>, limits: &Limits) -> Option<Change> {
        self.now = self.now.max(at);
        self.value = value;
        let now = self.now;
        let is_bad = value.is_some_and(|value| limits.is_bad(value));
        let is_well = value.is_some_and(|value| limits.is_well(value));
        match self.phase {
            Phase::Quiet if is_bad => self.bad_since(now, limits),
            Phase::Pending { since } if is_bad => self.bad_since(since, limits),
            Phase::Quiet | Phase::Pending { .. } => {
                self.phase = Phase::Quiet;
                None
            }
            Phase::Firing { since, fired_at, well_since } => {
                let well_since = is_well.then(|| well_since.unwrap_or(now));
                let over = well_since.is_some_and(|since| now - since >= limits.clear_for_s);
                self.phase = match over {
                    true => Phase::Quiet,
                    false => Phase::Firing { since, fired_at, well_since },
                };
                over.then_some(Change::Resolved { since, fired_at })
            }
        }
    }

    /// Since when it is bad, in s; the time it was told last if it is not.
    pub fn since(&self) -> u64 {
        match self.phase {
            Phase::Quiet => self.now,
            Phase::Pending { since } | Phase::Firing { since, .. } => since,
        }
    }

    fn bad_since(&mut self, since: u64, limits: &Limits) -> Option<Change> {
        let fires = self.now - since >= limits.for_s;
        self.phase = match fires {
            true => Phase::Firing { since, fired_at: self.now, well_since: None },
            false => Phase::Pending { since },
        };
        fires.then_some(Change::Fired)
    }
}
