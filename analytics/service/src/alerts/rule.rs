//! Rule: names a measured value, and the limits at which an alert about the value fires and is
//! resolved.
//!
//! **Invariant:** `clear` is not above `raise`. A value between the two limits changes nothing, so
//! that a value that varies around one limit does not fire again and again.
//! **Not here:** the syntax of rules (`config`), the state of a rule over time
//! (`alerts/alert_state`).

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

use recorder::Window;

/// Kind of a measured value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 99th percentile of the latency of requests, in ms.
    P99,
    /// Share of requests that failed with status 5xx, from 0 to 1.
    ErrorRate,
    /// Largest replication lag of a replica of each shard, in ms.
    Lag,
    /// Imbalance of the requests of shards: the largest share divided by the mean share. 1 is
    /// perfectly even.
    Skew,
    /// State of each shard: 1 if it accepts no writes, otherwise 0.
    ShardDown,
    /// State of each router: 1 if it does not answer, otherwise 0.
    RouterDown,
    /// State of the moves of slots: 1 if one makes no progress, otherwise 0.
    MoveStalled,
    /// State of the latest rebalance: 1 if it has failed in the last 24 hours, otherwise 0.
    RebalanceFailed,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::P99,
        Self::ErrorRate,
        Self::Lag,
        Self::Skew,
        Self::ShardDown,
        Self::RouterDown,
        Self::MoveStalled,
        Self::RebalanceFailed,
    ];

    /// Returns the name in rules and responses.
    pub fn name(self) -> &'static str {
        match self {
            Self::P99 => "p99",
            Self::ErrorRate => "error_rate",
            Self::Lag => "lag",
            Self::Skew => "skew",
            Self::ShardDown => "shard_down",
            Self::RouterDown => "router_down",
            Self::MoveStalled => "move_stalled",
            Self::RebalanceFailed => "rebalance_failed",
        }
    }

    /// Returns the unit of the values.
    pub fn unit(self) -> &'static str {
        match self {
            Self::P99 | Self::Lag => "ms",
            Self::ErrorRate => "share",
            Self::Skew => "ratio",
            Self::ShardDown | Self::RouterDown => "down",
            Self::MoveStalled => "stalled",
            Self::RebalanceFailed => "failed",
        }
    }

    /// Returns true if the value is measured over a window.
    pub fn has_window(self) -> bool {
        match self {
            Self::P99 | Self::ErrorRate | Self::Skew => true,
            Self::Lag
            | Self::ShardDown
            | Self::RouterDown
            | Self::MoveStalled
            | Self::RebalanceFailed => false,
        }
    }

    /// Returns true if the value is either 0 (good) or 1 (bad), so that rules of this kind need no
    /// thresholds.
    pub fn is_binary(self) -> bool {
        match self {
            Self::ShardDown | Self::RouterDown | Self::MoveStalled | Self::RebalanceFailed => true,
            Self::P99 | Self::ErrorRate | Self::Lag | Self::Skew => false,
        }
    }

    /// Returns the range of permitted thresholds.
    pub fn range(self) -> std::ops::RangeInclusive<f64> {
        match self {
            Self::P99 => 0.001..=60_000.0,
            Self::ErrorRate => 0.000_001..=1.0,
            Self::Lag => 1.0..=604_800_000.0,
            Self::Skew => 1.0..=256.0,
            Self::ShardDown | Self::RouterDown | Self::MoveStalled | Self::RebalanceFailed => {
                1.0..=1.0
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Limits of values and times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Threshold from which on values are bad.
    pub raise: f64,
    /// Threshold up to which values are good.
    pub clear: f64,
    /// Seconds for which the value must be bad without a break before the alert fires.
    pub for_s: u64,
    /// Seconds for which the value must be good without a break before the alert is resolved.
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

/// A rule for alerts.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Name of the rule, which is unique.
    pub name: String,
    /// Kind of the measured value.
    pub kind: Kind,
    /// Limits at which the alert fires and is resolved.
    pub limits: Limits,
    /// Window of the measured value, for kinds that have one.
    pub window: Window,
    /// Shard to which the rule is restricted, if any.
    pub shard: Option<String>,
    /// Router to whose values the rule is restricted, if any.
    pub router: Option<String>,
}
