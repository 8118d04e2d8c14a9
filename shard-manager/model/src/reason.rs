//! Reason: explains why a node does not fulfil its role, for people and for programs.
//!
//! A node's health is a set of reasons; an empty set means that the node is healthy. Some reasons
//! are found by a probe (`shard`). Other reasons are found at other times by other modules, and
//! apply until these modules withdraw them: [`Findings`] stores them.
//!
//! **Not here:** detecting the reasons (`lane`, `shard`, `replica_set`).

use std::sync::atomic::{AtomicU32, Ordering};

/// Reason why a node does not fulfil its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The node does not answer.
    NoAnswer,
    /// A check found that its file is damaged.
    Damaged,
    /// The thread that writes to it has ended.
    WriterEnded,
    /// No node of the shard accepts writes.
    NoPrimary,
    /// A write waits, and no write has finished for a while.
    WritesStalled,
    /// The last writes failed in its storage.
    WritesFail,
    /// The node is being built from a copy of the primary.
    Building,
    /// The replica does not follow the primary.
    NotFollowing,
    /// The node failed reads, and is excluded until a probe succeeds.
    LeftOut,
    /// The replica lags too much to be read.
    Behind,
    /// Rows of the primary are wrong.
    RowsWrong,
    /// Rows of a replica are wrong.
    CopyWrong,
    /// Copies of the shard differ, and it is unknown which is right.
    CopiesDiffer,
    /// The primary's files were removed or replaced while they were open: writes to them are lost
    /// when the process ends.
    FilesLost,
    /// The lock of the data directory was removed or replaced: two processes that write one
    /// directory destroy each other's work.
    LockLost,
    /// The catalog was removed: the cluster works, but does not start again as it is.
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

    /// Describes the reason in a sentence about the node.
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

    /// Returns true if the node fulfils its role despite this reason, which only calls for an
    /// operator.
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

    /// Returns true if the node fulfils its role in spite of the reasons.
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

/// Reasons that were found about one node and still hold.
#[derive(Debug, Default)]
pub struct Findings(AtomicU32);

impl Findings {
    /// Adds a reason until it is withdrawn; returns true if it is new.
    pub fn raise(&self, reason: Reason) -> bool {
        self.0.fetch_or(reason.bit(), Ordering::AcqRel) & reason.bit() == 0
    }

    /// Withdraws a reason; returns true if it was there.
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
