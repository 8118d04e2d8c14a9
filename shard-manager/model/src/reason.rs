//! Reason: why a node does not fulfil its role, as a name for programs and a sentence for people.
//!
//! The health of a node is a set of reasons; an empty set means that the node is healthy. Some
//! reasons are found by a probe (`shard`). Others are raised by other modules, for example after a
//! comparison of copies, and hold until the same module withdraws them: [`Findings`] stores these.
//!
//! **Not here:** detecting the reasons (`lane`, `shard`, `replica_set`).

use std::sync::atomic::{AtomicU32, Ordering};

/// Reason why a node does not fulfil its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The node does not respond.
    NoAnswer,
    /// A check found that the file of the node is damaged.
    Damaged,
    /// The router's thread that writes to the node has ended.
    WriterEnded,
    /// No node of the shard accepts writes.
    NoPrimary,
    /// A write has waited for seconds, and no write has finished meanwhile.
    WritesStalled,
    /// The last writes to the node failed because of errors of its storage.
    WritesFail,
    /// The node is being built from a copy of the primary.
    Building,
    /// The replica does not follow the primary.
    NotFollowing,
    /// Reads of the node failed, so it gets no reads until a probe succeeds.
    LeftOut,
    /// The replica lags too far behind the primary to answer reads.
    Behind,
    /// Rows on the primary are known to be wrong.
    RowsWrong,
    /// Rows on the replica are known to be wrong.
    CopyWrong,
    /// Copies of the shard differ, and it is not known which of them is right.
    CopiesDiffer,
    /// The primary's files were removed or replaced while they were open: writes to them are lost
    /// when the process ends.
    FilesLost,
    /// The lock of the data directory was removed or replaced: two processes that write one
    /// directory destroy each other's work.
    LockLost,
    /// The catalog was removed from the data directory. The cluster still works, but a router
    /// cannot start without the catalog.
    CatalogGone,
    /// The node did not answer within the short deadline of a request for its health.
    NoAnswerInTime,
}

impl Reason {
    /// All reasons, in the order in which they are reported.
    pub const ALL: [Self; 17] = [
        Self::NoAnswer,
        Self::Damaged,
        Self::WriterEnded,
        Self::NoPrimary,
        Self::WritesStalled,
        Self::WritesFail,
        Self::Building,
        Self::NotFollowing,
        Self::LeftOut,
        Self::Behind,
        Self::RowsWrong,
        Self::CopyWrong,
        Self::CopiesDiffer,
        Self::FilesLost,
        Self::LockLost,
        Self::CatalogGone,
        Self::NoAnswerInTime,
    ];

    /// Returns the name in responses.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoAnswer => "no_answer",
            Self::Damaged => "damaged",
            Self::WriterEnded => "writer_ended",
            Self::NoPrimary => "no_primary",
            Self::WritesStalled => "writes_stalled",
            Self::WritesFail => "writes_fail",
            Self::Building => "building",
            Self::NotFollowing => "not_following",
            Self::LeftOut => "left_out",
            Self::Behind => "behind",
            Self::RowsWrong => "rows_wrong",
            Self::CopyWrong => "copy_wrong",
            Self::CopiesDiffer => "copies_differ",
            Self::FilesLost => "files_lost",
            Self::LockLost => "lock_lost",
            Self::CatalogGone => "catalog_gone",
            Self::NoAnswerInTime => "no_answer_in_time",
        }
    }

    /// Returns a sentence about the node that describes the reason and, where possible, the remedy.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NoAnswer => "it does not answer",
            Self::Damaged => "a check found its file damaged: see the log of the router",
            Self::WriterEnded => "the router's writer has ended: restart the router",
            Self::NoPrimary => "no node of the shard takes writes: they wait for one",
            Self::WritesStalled => {
                "it takes no writes now: one has waited for seconds, and none was finished"
            }
            Self::WritesFail => {
                "its last writes failed in its storage: look at the disk and at the log of the router"
            }
            Self::Building => "it is being made from a copy of the primary, and gets no reads yet",
            Self::NotFollowing => "it does not follow the primary, and gets no reads",
            Self::LeftOut => "it failed reads, and gets none until it answers a probe",
            Self::Behind => "it is more than 10 s behind the primary, and gets no reads",
            Self::RowsWrong => {
                "rows of it are wrong: it is not read, and takes no change that builds on what it has. Stop the router, \
                 put the file of a replica in its place, and start"
            }
            Self::CopyWrong => {
                "rows of it are wrong: it gets no reads, and is rebuilt from the primary"
            }
            Self::CopiesDiffer => {
                "its rows differ from those of another copy, and it is not known which are right: `shard-manager check` \
                 names them. Stop the router, remove the file of the replica if that is wrong, or else put it in the \
                 primary's place, and start"
            }
            Self::FilesLost => {
                "its files were removed or replaced while the router had them open; put them back and restart the router"
            }
            Self::LockLost => {
                "the lock of the data directory was removed or replaced, so that another process may write there; \
                 restart the router"
            }
            Self::NoAnswerInTime => {
                "it did not answer before the deadline of this request, which is too short to call it down"
            }
            Self::CatalogGone => {
                "the catalog of the data directory was removed: put it back, because the router does not start without it"
            }
        }
    }

    /// Returns true if the node still fulfils its role despite this reason, which only requires the
    /// attention of an operator.
    fn is_advisory(self) -> bool {
        match self {
            Self::RowsWrong | Self::CopiesDiffer | Self::CatalogGone => true,
            Self::NoAnswer
            | Self::Damaged
            | Self::WriterEnded
            | Self::NoPrimary
            | Self::WritesStalled
            | Self::WritesFail
            | Self::Building
            | Self::NotFollowing
            | Self::LeftOut
            | Self::Behind
            | Self::CopyWrong
            | Self::FilesLost
            | Self::LockLost
            | Self::NoAnswerInTime => false,
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Set of reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons(u32);

impl Reasons {
    /// Creates a set of these reasons.
    pub fn of(reasons: impl IntoIterator<Item = Reason>) -> Self {
        Self(reasons.into_iter().fold(0, |set, reason| set | reason.bit()))
    }

    /// Returns the union of two sets.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns true if there is no reason: the node is healthy.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns true if the node still fulfils its role despite the reasons.
    pub fn is_up(self) -> bool {
        self.iter().all(Reason::is_advisory)
    }

    /// Returns true if the set contains this reason.
    pub fn contains(self, reason: Reason) -> bool {
        self.0 & reason.bit() != 0
    }

    /// Iterates over the reasons, in order.
    pub fn iter(self) -> impl Iterator<Item = Reason> {
        Reason::ALL.into_iter().filter(move |reason| self.contains(*reason))
    }
}

/// Reasons that modules have raised about one node and not yet withdrawn.
#[derive(Debug, Default)]
pub struct Findings(AtomicU32);

impl Findings {
    /// Adds a reason, which holds until it is withdrawn. Returns true if it did not hold before.
    pub fn raise(&self, reason: Reason) -> bool {
        self.0.fetch_or(reason.bit(), Ordering::AcqRel) & reason.bit() == 0
    }

    /// Withdraws a reason. Returns true if it held before.
    pub fn withdraw(&self, reason: Reason) -> bool {
        self.0.fetch_and(!reason.bit(), Ordering::AcqRel) & reason.bit() != 0
    }

    /// Returns the reasons that hold now.
    pub fn now(&self) -> Reasons {
        Reasons(self.0.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_place_and_a_name_of_its_own() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{reason:?}");
            assert_eq!(Reason::ALL.iter().filter(|one| one.name() == reason.name()).count(), 1);
        }
    }

    #[test]
    fn a_finding_holds_until_it_is_withdrawn() {
        let findings = Findings::default();
        assert!(findings.now().is_empty());
        assert!(findings.raise(Reason::Damaged) && !findings.raise(Reason::Damaged));
        findings.raise(Reason::Behind);
        assert_eq!(findings.now(), Reasons::of([Reason::Damaged, Reason::Behind]));
        assert!(findings.withdraw(Reason::Damaged) && !findings.withdraw(Reason::Damaged));
        assert_eq!(findings.now().iter().collect::<Vec<_>>(), [Reason::Behind]);
    }
}
