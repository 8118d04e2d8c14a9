//! Alerts: what is watched, what fires, and what has fired lately.
//!
//! **Invariant:** no clock is read and nothing is asked here: values and their time are told, once a second.
//! **Not here:** where values come from (`rule_evaluator`), who is told (`webhook`).

mod alert_state;
mod rule;

pub use alert_state::{AlertState, Change, Phase};
pub use rule::{Kind, Limits, Rule};

use std::collections::{BTreeMap, VecDeque};

/// Alerts that are over and still told of.
pub const RECENT_MAX: usize = 100;
/// Most things that one rule watches: more shards or routers than there can be.
pub const SUBJECTS_MAX: usize = 512;

/// What a value is of: a shard, a router, or all that a rule looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// The shard, if it is of one.
    pub shard: Option<String>,
    /// The router, if it is of one.
    pub router: Option<String>,
}

/// What was measured for a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The place of the rule in the list.
    pub rule: usize,
    /// Of what.
    pub subject: Subject,
    /// The value; `None`: it could not be measured.
    pub value: Option<f64>,
}

/// An alert that has begun to fire, or is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The place of the rule in the list.
    pub rule: usize,
    /// Of what.
    pub subject: Subject,
    /// The value at that moment.
    pub value: Option<f64>,
    /// Since when it was bad, in s.
    pub since: u64,
    /// When it began to fire.
    pub fired_at: u64,
    /// When it was over; `None`: it fires.
    pub resolved_at: Option<u64>,
}

/// All rules, over time.
pub struct Alerts {
    rules: Vec<Rule>,
    alert_states: BTreeMap<(usize, Subject), AlertState>,
    recent: VecDeque<Notice>,
}

impl Alerts {
    /// Nothing is wrong yet.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules, alert_states: BTreeMap::new(), recent: VecDeque::new() }
    }

    /// The rules, in their order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Takes in all that is measured at a time, in s; what somebody is to know comes back. What is not among the readings
    /// any more is well: nobody can look after a shard that is gone.
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
        // What is quiet need not be remembered: it may be of something that is gone.
        self.alert_states.retain(|_, alert_state| alert_state.phase != Phase::Quiet);
        for notice in notices.iter().filter(|notice| notice.resolved_at.is_some()) {
            self.recent.push_front(notice.clone());
            self.recent.truncate(RECENT_MAX);
        }
        notices
    }

    /// What is pending or fires: the place of its rule, of what, and how it is.
    pub fn active(&self) -> impl Iterator<Item = (usize, &Subject, &AlertState)> {
        self.alert_states.iter().map(|((rule, subject), alert_state)| (*rule, subject, alert_state))
    }

    /// What is over, the newest first.
    pub fn recent(&self) -> impl Iterator<Item = &Notice> {
        self.recent.iter()
    }
}
