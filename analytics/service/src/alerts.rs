//! Alerts: decides from measured values which alerts fire, and keeps the state of all rules, the
//! alerts that fire, and the alerts that were resolved recently.
//!
//! **Invariant:** this module reads no clock and sends no requests. Once a second, the calling
//! function passes the measured values and their time as arguments.
//! **Not here:** measuring values (`rule_readings`), sending notices (`webhook`).

mod alert_state;
mod rule;

pub use alert_state::{AlertState, Change, Phase};
pub use rule::{Kind, Limits, Rule};

use std::collections::{BTreeMap, VecDeque};

/// Maximum number of resolved alerts that are kept.
pub const RECENT_MAX: usize = 100;
/// Maximum number of subjects of one rule, which is more than the possible number of shards or
/// routers.
pub const SUBJECTS_MAX: usize = 512;

/// Subject of a measured value: a shard, a router, or (if both fields are `None`) everything that
/// the rule covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// The shard, if the subject is one.
    pub shard: Option<String>,
    /// The router, if the subject is one.
    pub router: Option<String>,
}

/// A measured value of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Index of the rule.
    pub rule: usize,
    /// Subject of the value.
    pub subject: Subject,
    /// The value; `None` if it could not be measured.
    pub value: Option<f64>,
}

/// An alert that has started to fire, or is resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Index of the rule.
    pub rule: usize,
    /// Subject of the alert.
    pub subject: Subject,
    /// Value when the alert started to fire or was resolved.
    pub value: Option<f64>,
    /// Time of the first bad value, in s.
    pub since: u64,
    /// Time at which the alert started to fire.
    pub fired_at: u64,
    /// Time at which the alert was resolved; `None` while it fires.
    pub resolved_at: Option<u64>,
}

/// States of all rules over time.
pub struct Alerts {
    rules: Vec<Rule>,
    alert_states: BTreeMap<(usize, Subject), AlertState>,
    recent: VecDeque<Notice>,
}

impl Alerts {
    /// Creates the states of rules; no alert is pending.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules, alert_states: BTreeMap::new(), recent: VecDeque::new() }
    }

    /// Returns the rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Evaluates all readings of the time `at` (in s), and returns the resulting notices. A subject
    /// without a reading counts as good; otherwise the alert of a removed shard would fire forever.
    pub fn step(&mut self, at: u64, readings: &[Reading]) -> Vec<Notice> {
        let mut values: BTreeMap<(usize, Subject), Option<f64>> =
            self.alert_states.keys().map(|key| (key.clone(), Some(0.0))).collect();
        let mut counts = vec![0; self.rules.len()];
        for Reading { rule, subject, value } in readings {
            let Some(count) = counts.get_mut(*rule).filter(|count| **count < SUBJECTS_MAX) else {
                continue;
            };
            *count += 1;
            values.insert((*rule, subject.clone()), *value);
        }
        let mut notices = Vec::new();
        for ((rule, subject), value) in values {
            let Some(Rule { limits, .. }) = self.rules.get(rule) else { continue };
            let alert_state = self.alert_states.entry((rule, subject.clone())).or_default();
            let notice = match alert_state.step(at, value, limits) {
                None => continue,
                Some(Change::Fired) => Notice {
                    rule,
                    subject,
                    value,
                    since: alert_state.since(),
                    fired_at: at,
                    resolved_at: None,
                },
                Some(Change::Resolved { since, fired_at }) => {
                    Notice { rule, subject, value, since, fired_at, resolved_at: Some(at) }
                }
            };
            notices.push(notice);
        }
        // Quiet states are removed, because their subjects may no longer exist.
        self.alert_states.retain(|_, alert_state| alert_state.phase != Phase::Quiet);
        for notice in notices.iter().filter(|notice| notice.resolved_at.is_some()) {
            self.recent.push_front(notice.clone());
            self.recent.truncate(RECENT_MAX);
        }
        notices
    }

    /// Returns the pending and firing alerts: the index of the rule, the subject, and the state.
    pub fn active(&self) -> impl Iterator<Item = (usize, &Subject, &AlertState)> {
        self.alert_states.iter().map(|((rule, subject), alert_state)| (*rule, subject, alert_state))
    }

    /// Returns the resolved alerts, the newest first.
    pub fn recent(&self) -> impl Iterator<Item = &Notice> {
        self.recent.iter()
    }
}
