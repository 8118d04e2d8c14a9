//! Rule: what is watched, from which value on somebody is to know, and from which value on it is over.
//!
//! **Invariant:** `clear` is not above `raise`: between them nothing changes, so that a value that sways around one of
//! them does not ring all night.
//! **Not here:** how rules are written (`config`), what happens over time (`alerts/alert_state`).

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

use recorder::Window;

/// What a rule watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The latency that one of a hundred requests passes, in ms.
    P99,
    /// The share of requests that failed by our fault (status 5xx), 0 to 1.
    ErrorRate,
    /// How far the worst replica of each shard is behind, in ms.
    Lag,
    /// How uneven the shards' shares of the requests are: the largest to the mean, 1 is even.
    Skew,
    /// Each shard that cannot be written to.
    ShardDown,
    /// Each router that does not answer.
    RouterDown,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::P99, Self::ErrorRate, Self::Lag, Self::Skew, Self::ShardDown, Self::RouterDown];

    /// As rules and answers name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::P99 => "p99",
            Self::ErrorRate => "error_rate",
            Self::Lag => "lag",
            Self::Skew => "skew",
            Self::ShardDown => "shard_down",
            Self::RouterDown => "router_down",
        }
    }

    /// Of which its values are.
    pub fn unit(self) -> &'static str {
        match self {
            Self::P99 | Self::Lag => "ms",
            Self::ErrorRate => "share",
            Self::Skew => "ratio",
            Self::ShardDown | Self::RouterDown => "down",
        }
    }

    /// Whether it is measured over a window.
    pub fn has_window(self) -> bool {
        match self {
            Self::P99 | Self::ErrorRate | Self::Skew => true,
            Self::Lag | Self::ShardDown | Self::RouterDown => false,
        }
    }

    /// Whether there is nothing between well and not: it has no thresholds.
    pub fn is_binary(self) -> bool {
        match self {
            Self::ShardDown | Self::RouterDown => true,
            Self::P99 | Self::ErrorRate | Self::Lag | Self::Skew => false,
        }
    }

    /// The values that a threshold can have.
    pub fn range(self) -> std::ops::RangeInclusive<f64> {
        match self {
            Self::P99 => 0.001..=60_000.0,
            Self::ErrorRate => 0.000_001..=1.0,
            Self::Lag => 1.0..=604_800_000.0,
            Self::Skew => 1.0..=256.0,
            Self::ShardDown | Self::RouterDown => 1.0..=1.0,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The values and times that decide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// It is bad from this value on.
    pub raise: f64,
    /// It is well again at this value and below.
    pub clear: f64,
    /// So many seconds it must be bad without a break before anybody is told.
    pub for_s: u64,
    /// So many seconds it must be well without a break before it is over.
    pub clear_for_s: u64,
}

impl Limits {
    pub(super) fn is_bad(&self, value: f64) -> bool {
        value >= self.raise
    }

    pub(super) fn is_well(&self, value: f64) -> bool {
        value <= self.clear && !self.is_bad(value)
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What it is called; no two rules are called alike.
    pub name: String,
    /// What it watches.
    pub kind: Kind,
    /// When it rings and when it is over.
    pub limits: Limits,
    /// Over which time values are measured, if they are.
    pub window: Window,
    /// Only this shard.
    pub shard: Option<String>,
    /// Only what this router sees.
    pub router: Option<String>,
}
