//! Alert state: the state of one subject of a rule over time.
//!
//! ```text
//!           bad               bad for `for`             good for `clear_for`
//!  quiet ────────▶ pending ─────────────────▶ firing ───────────────────────▶ quiet
//!    ▲               │ not bad, or unknown      │ ▲ in between, or unknown: it stays firing
//!    └───────────────┘                          └─┘
//! ```
//!
//! **Invariant:** no clock is read here. The time is an argument; if it is earlier than in the call
//! before, the earlier call's time is used.
//! **Not here:** sending notices (`webhook`).

use super::rule::Limits;

/// Phase of an alert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// The value is good.
    #[default]
    Quiet,
    /// The value is bad, but not for long enough.
    Pending {
        /// Start of the bad values, in s.
        since: u64,
    },
    /// The value was bad for long enough, and the alert is not resolved.
    Firing {
        /// Start of the bad values, in s.
        since: u64,
        /// Time at which the alert started to fire.
        fired_at: u64,
        /// Start of the good values, if the value is good.
        well_since: Option<u64>,
    },
}

/// Change of an alert, about which webhooks are notified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The alert fires now.
    Fired,
    /// The alert is resolved.
    Resolved {
        /// Start of the bad values, in s.
        since: u64,
        /// Time at which the alert started to fire.
        fired_at: u64,
    },
}

/// State of one subject of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AlertState {
    /// Phase of the alert.
    pub phase: Phase,
    /// Last value; `None` if it could not be measured.
    pub value: Option<f64>,
    now: u64,
}

impl AlertState {
    /// Updates the state with the value that was measured at the time `at` (in s), or with `None`
    /// if it could not be measured. Returns a change of which webhooks must be notified.
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

    /// Returns the time of the first bad value, in s. If the value is good, returns the time of the
    /// last value.
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
