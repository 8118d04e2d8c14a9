//! Virtual user: the state of one simulated user.

use std::collections::HashSet;
use std::sync::Arc;

use super::operation::Known;
use super::plan::{Plan, Step};
use crate::counters::Operation;
use crate::random::Random;
use crate::requests::SessionToken;

#[derive(Clone)]
pub(super) struct VirtualUser {
    pub(super) plan: Arc<Plan>,
    pub(super) number: usize,
    random: Random,
    token: Option<SessionToken>,
    /// Keys that this user has written successfully, except those that were written before the run.
    /// A mix deletes no rows, so reads must find these keys.
    written: HashSet<u32>,
}

impl VirtualUser {
    pub(super) fn new(plan: Arc<Plan>, number: usize) -> Self {
        let random = Random::of_user(plan.seed, number);
        let token = plan.client(number).token();
        Self { plan, number, random, token, written: HashSet::new() }
    }

    pub(super) fn next_step(&mut self) -> (Step, Known) {
        let step = self.plan.next_step(&mut self.random, self.number);
        let filled = self.plan.filled && step.key < self.plan.keys_filled;
        let acknowledged = filled || self.written.contains(&step.key);
        let client = Arc::clone(self.plan.client(self.number));
        let (token, patience) = (self.token.clone(), self.plan.patience);
        (step, Known { client, token, acknowledged, patience })
    }

    /// Records the outcome of a step, and keeps the session token of its response.
    pub(super) fn learn(&mut self, step: &Step, good: bool, token: Option<SessionToken>) {
        self.token = token.or_else(|| self.token.take());
        let written = match step.operation {
            Operation::Write | Operation::Insert | Operation::KvPut | Operation::Bulk => good,
            Operation::Read
            | Operation::Scan
            | Operation::Modify
            | Operation::KvGet
            | Operation::Scatter
            | Operation::Delete
            | Operation::Replay
            | Operation::Transfer
            | Operation::Probe => false,
        };
        if written && !(self.plan.filled && step.key < self.plan.keys_filled) {
            self.written.insert(step.key);
            self.written.extend(&step.more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Clients;
    use crate::counters::Counters;
    use crate::keyspace::Names;
    use crate::options::Options;

    fn steps(args: &[&str]) -> Vec<Step> {
        let args = ["loadtest"].iter().chain(args).map(std::ffi::OsString::from);
        let options = Options::read(args).unwrap();
        let names = Names::of_new_run(br#"{"keyspace":"hash","parameters":{}}"#).unwrap();
        let names = Arc::new(names);
        let clients = Clients::of_run(Vec::new(), names);
        let plan = Plan::new(&options, &clients, Arc::<Counters>::default()).unwrap();
        let mut virtual_user = VirtualUser::new(Arc::new(plan), 0);
        (0..10_000).map(|_| virtual_user.next_step().0).collect()
    }

    fn writes_in(steps: &[Step]) -> usize {
        steps.iter().filter(|step| step.operation == Operation::Write).count()
    }

    #[test]
    fn the_mix_has_the_requested_shares() {
        assert_eq!(writes_in(&steps(&["--writes", "0"])), 0);
        assert_eq!(writes_in(&steps(&["--writes", "100"])), 10_000);
        assert!((6_800..7_200).contains(&writes_in(&steps(&["--writes", "70"]))));
    }

    #[test]
    fn keys_stay_in_range_and_spread() {
        let steps = steps(&["--keys", "10000"]);
        assert!(steps.iter().all(|step| step.key < 10_000));
        assert!(steps.iter().map(|step| step.key).collect::<HashSet<_>>().len() > 5_000);
    }

    #[test]
    fn inserts_make_new_keys_and_a_bulk_write_names_none_twice() {
        let steps_of_d = steps(&["--mix", "d", "--keys", "100"]);
        let inserted = steps_of_d.iter().filter(|step| step.operation == Operation::Insert);
        let inserted: Vec<_> = inserted.map(|step| step.key).collect();
        assert!(inserted.iter().copied().eq(100..100 + inserted.len() as u32), "{inserted:?}");
        for step in steps(&["--mix", "bulk", "--keys", "100", "--dist", "hot:1%"]).iter().take(100)
        {
            let mut keys: Vec<_> = step.more.iter().chain([&step.key]).collect();
            assert_eq!(keys.len(), 100);
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), 100);
        }
    }

    #[test]
    fn values_have_the_requested_size() {
        let sizes: HashSet<_> =
            steps(&["--value-size", "10..90"]).iter().map(|step| step.value.len()).collect();
        assert_eq!(sizes, (10..=90).collect());
    }
}
