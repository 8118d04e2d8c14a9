//! Scenario: the rules in force and the frequency of each event of a simulated world.

use crate::rules::{MoveRule, MoveRules};

use super::reader_rules::{ReaderRule, ReaderRules};

/// Frequencies: weights of events among all, or thousandths where an event has variants.
#[derive(Clone, Copy)]
pub(super) struct Scenario {
    pub(super) rules: MoveRules,
    pub(super) reader_rules: ReaderRules,
    /// Events before the faults stop.
    pub(super) events: usize,
    pub(super) replication: u32,
    pub(super) failover: u32,
    pub(super) catalog_failover: u32,
    pub(super) clock: u32,
    pub(super) new_mover: u32,
    pub(super) goal: u32,
    pub(super) copy_again: u32,
    pub(super) router_activation: u32,
    pub(super) write: u32,
    pub(super) read: u32,
    pub(super) scatter: u32,
    pub(super) poll: u32,
    pub(super) delivery: u32,
    /// Thousandths of the messages to a deposed primary, while there is one.
    pub(super) deposed: u32,
    /// Thousandths of the requests that are late.
    pub(super) late: u32,
    /// Thousandths of the answers that are lost.
    pub(super) lost_answers: u32,
    /// Thousandths of the writes that delete their row.
    pub(super) deletes: u32,
}

impl Scenario {
    /// Everything happens.
    pub(super) const ALL: Self = Self {
        rules: MoveRules::ALL,
        reader_rules: ReaderRules::ALL,
        events: 260,
        replication: 60,
        failover: 3,
        catalog_failover: 1,
        clock: 4,
        new_mover: 2,
        goal: 4,
        copy_again: 1,
        router_activation: 3,
        write: 20,
        read: 20,
        scatter: 10,
        poll: 4,
        delivery: 5,
        deposed: 150,
        late: 60,
        lost_answers: 60,
        deletes: 300,
    };

    /// Shards fail over often, and replicate slowly.
    pub(super) const FAILOVERS: Self =
        Self { failover: 7, replication: 30, deposed: 300, read: 2, scatter: 1, ..Self::ALL };

    /// Copies begin again, and requests are often late.
    pub(super) const COPIES: Self = Self {
        copy_again: 2,
        late: 350,
        delivery: 12,
        goal: 2,
        write: 12,
        read: 2,
        scatter: 1,
        ..Self::ALL
    };

    /// One mover, whose requests are often late for a long time. No shard fails over.
    pub(super) const LATE: Self = Self {
        events: 400,
        failover: 0,
        catalog_failover: 0,
        clock: 1,
        new_mover: 0,
        deposed: 0,
        delivery: 2,
        late: 250,
        lost_answers: 0,
        write: 30,
        ..Self::COPIES
    };

    /// The operator often wishes for the other direction, and requests are late.
    pub(super) const CHANGES_OF_MIND: Self = Self { goal: 15, copy_again: 0, ..Self::LATE };

    /// Most events are reads of a session, and replicas lag behind.
    pub(super) const READS: Self = Self {
        events: 400,
        read: 80,
        write: 12,
        replication: 25,
        deposed: 300,
        poll: 8,
        scatter: 1,
        catalog_failover: 0,
        ..Self::ALL
    };

    /// Many scatter reads, and most writes delete.
    pub(super) const SCANS: Self = Self { scatter: 80, deletes: 800, read: 2, ..Self::ALL };

    /// Returns the scenario without a rule of the machine.
    pub(super) fn without(self, rule: MoveRule) -> Self {
        Self { rules: self.rules.without(rule), ..self }
    }

    /// Returns the scenario without a rule of readers.
    pub(super) fn without_reader(self, rule: ReaderRule) -> Self {
        Self { reader_rules: self.reader_rules.without(rule), ..self }
    }
}
