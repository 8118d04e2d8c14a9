//! Scenario: the rules in force and the frequency of each event of a simulated world.

use crate::rules::{MoveRule, MoveRules};

use super::reader_rules::{ReaderRule, ReaderRules};

/// Rules in force, and frequencies. A frequency is the weight of an event, or a probability in
/// thousandths if its description says so.
#[derive(Clone, Copy)]
pub(super) struct Scenario {
    pub(super) rules: MoveRules,
    pub(super) reader_rules: ReaderRules,
    /// Number of events before the faults stop.
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
    /// Probability, in thousandths, that a message reaches a deposed primary while there is one.
    pub(super) deposed: u32,
    /// Probability, in thousandths, that a deposed primary that could replicate follows its
    /// successor.
    pub(super) rejoin: u32,
    /// Probability, in thousandths, that the last of several replicas receives nothing.
    pub(super) lag: u32,
    /// Probability, in thousandths, that a request is late.
    pub(super) late: u32,
    /// Probability, in thousandths, that a response is lost.
    pub(super) lost_answers: u32,
    /// Probability, in thousandths, that a write deletes its row.
    pub(super) deletes: u32,
}

impl Scenario {
    /// All events occur.
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
        rejoin: 1_000,
        lag: 0,
        late: 60,
        lost_answers: 60,
        deletes: 300,
    };

    /// Shards fail over often, and replicate slowly.
    pub(super) const FAILOVERS: Self =
        Self { failover: 7, replication: 30, deposed: 300, read: 2, scatter: 1, ..Self::ALL };

    /// One mover sends requests that often arrive long after they were sent. No shard fails over.
    pub(super) const LATE: Self = Self {
        events: 400,
        failover: 0,
        catalog_failover: 0,
        clock: 1,
        new_mover: 0,
        goal: 2,
        copy_again: 2,
        deposed: 0,
        delivery: 2,
        late: 250,
        lost_answers: 0,
        write: 30,
        read: 2,
        scatter: 1,
        ..Self::ALL
    };

    /// A deposed primary often accepts requests for a long time, and other requests are late.
    pub(super) const REPAIRS: Self = Self {
        failover: 2,
        deposed: 250,
        rejoin: 20,
        goal: 0,
        copy_again: 0,
        write: 10,
        ..Self::LATE
    };

    /// Copies begin again, and requests are often late.
    pub(super) const COPIES: Self =
        Self { copy_again: 6, goal: 0, late: 350, delivery: 4, write: 8, ..Self::LATE };

    /// The operator often changes the direction, and requests are late.
    pub(super) const CHANGES_OF_MIND: Self = Self {
        events: 800,
        goal: 12,
        copy_again: 0,
        router_activation: 6,
        late: 150,
        delivery: 1,
        write: 8,
        ..Self::LATE
    };

    /// The operator cancels the move, and requests arrive long after that.
    pub(super) const CANCELS: Self =
        Self { events: 500, goal: 8, late: 350, delivery: 3, write: 6, ..Self::LATE };

    /// The catalog often fails over, and the operator often changes the goal.
    pub(super) const FORGETFUL_CATALOG: Self = Self {
        events: 800,
        catalog_failover: 10,
        goal: 20,
        copy_again: 0,
        late: 0,
        write: 8,
        ..Self::LATE
    };

    /// A session reads often, and replicas lag behind.
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

    /// A session reads through routers that seldom read the catalog, while replicas lag behind.
    pub(super) const TOKENS: Self = Self {
        events: 500,
        goal: 0,
        copy_again: 0,
        replication: 40,
        lag: 950,
        read: 25,
        write: 20,
        poll: 3,
        late: 0,
        ..Self::LATE
    };

    /// A session reads while deposed primaries keep accepting requests for a long time.
    pub(super) const DEPOSED_READS: Self = Self {
        failover: 4,
        deposed: 250,
        rejoin: 20,
        lag: 0,
        read: 10,
        write: 10,
        poll: 10,
        ..Self::TOKENS
    };

    /// Scatter reads are frequent, and most writes delete their row.
    pub(super) const SCANS: Self = Self { scatter: 80, deletes: 800, read: 2, ..Self::ALL };

    /// Scatter reads take long, and most writes delete their row.
    pub(super) const SLOW_SCANS: Self =
        Self { scatter: 8, deletes: 900, write: 40, late: 0, copy_again: 0, ..Self::LATE };

    /// Returns the scenario of a seed. Half of the seeds have [`Self::ALL`].
    pub(super) fn of(seed: u64) -> Self {
        match seed % 24 {
            1 => Self::FAILOVERS,
            3 => Self::LATE,
            5 => Self::REPAIRS,
            7 => Self::COPIES,
            9 => Self::CHANGES_OF_MIND,
            11 => Self::CANCELS,
            13 => Self::FORGETFUL_CATALOG,
            15 => Self::READS,
            17 => Self::TOKENS,
            19 => Self::DEPOSED_READS,
            21 => Self::SCANS,
            23 => Self::SLOW_SCANS,
            _ => Self::ALL,
        }
    }

    /// Returns the scenario without a rule of moves.
    pub(super) fn without(self, rule: MoveRule) -> Self {
        Self { rules: self.rules.without(rule), ..self }
    }

    /// Returns the scenario without a rule of readers.
    pub(super) fn without_reader(self, rule: ReaderRule) -> Self {
        Self { reader_rules: self.reader_rules.without(rule), ..self }
    }
}
