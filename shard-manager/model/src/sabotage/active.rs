//! Active mutations: the mutations that an environment variable names for this process.
//!
//! **Invariant:** the environment is read once, so a mutation is active either throughout the life
//! of the process or never.
//! **Not here:** refusing to start if a name is unknown (the program).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Mutation;

/// Environment variable that names the active mutations.
pub const VARIABLE: &str = "TESSERA_SABOTAGE";
/// Environment variable that makes a router transfer slots between its shards continually.
pub const HAND_OVERS: &str = "TESSERA_HAND_OVERS";

impl Mutation {
    /// All mutations, in the order of their declaration.
    pub const ALL: [Self; 33] = [
        Self::AckBeforeCommit,
        Self::LostBatch,
        Self::NoTokenWait,
        Self::TokenBeforeCommit,
        Self::NoStalenessBound,
        Self::QuorumFromAny,
        Self::QuorumWithoutWaiting,
        Self::NoIdempotency,
        Self::IdempotencyOtherAnswer,
        Self::BulkReportAllOk,
        Self::TornTransaction,
        Self::IgnoreIfVersion,
        Self::VersionFromOne,
        Self::Resurrect,
        Self::DuplicatePages,
        Self::WrongRow,
        Self::SqliteSyncOff,
        Self::CacheSetWithoutVersion,
        Self::TokenWithoutEpoch,
        Self::CacheKeepsSlot,
        Self::ReadUnowned,
        Self::ScatterUnchecked,
        Self::RefusalLost,
        Self::UnboundReads,
        Self::NoFence,
        Self::ForgetLastChanges,
        Self::CopyForgetsDeletes,
        Self::IdempotencyStays,
        Self::VersionNotRaised,
        Self::ActivateUnconfirmed,
        Self::Unverified,
        Self::CommitByClock,
        Self::OneStatementFence,
    ];

    /// Returns the name in the environment variable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeCommit => "ack_before_commit",
            Self::LostBatch => "lost_batch",
            Self::NoTokenWait => "no_token_wait",
            Self::TokenBeforeCommit => "token_before_commit",
            Self::NoStalenessBound => "no_staleness_bound",
            Self::QuorumFromAny => "quorum_from_any",
            Self::QuorumWithoutWaiting => "quorum_without_waiting",
            Self::NoIdempotency => "no_idempotency",
            Self::IdempotencyOtherAnswer => "idempotency_other_answer",
            Self::BulkReportAllOk => "bulk_report_all_ok",
            Self::TornTransaction => "torn_transaction",
            Self::IgnoreIfVersion => "ignore_if_version",
            Self::VersionFromOne => "version_from_one",
            Self::Resurrect => "resurrect",
            Self::DuplicatePages => "duplicate_pages",
            Self::WrongRow => "wrong_row",
            Self::SqliteSyncOff => "sqlite_sync_off",
            Self::CacheSetWithoutVersion => "cache_set_without_version",
            Self::TokenWithoutEpoch => "token_without_epoch",
            Self::CacheKeepsSlot => "cache_keeps_slot",
            Self::ReadUnowned => "read_unowned",
            Self::ScatterUnchecked => "scatter_unchecked",
            Self::RefusalLost => "refusal_lost",
            Self::UnboundReads => "unbound_reads",
            Self::NoFence => "no_fence",
            Self::ForgetLastChanges => "forget_last_changes",
            Self::CopyForgetsDeletes => "copy_forgets_deletes",
            Self::IdempotencyStays => "idempotency_stays",
            Self::VersionNotRaised => "version_not_raised",
            Self::ActivateUnconfirmed => "activate_unconfirmed",
            Self::Unverified => "unverified",
            Self::CommitByClock => "commit_by_clock",
            Self::OneStatementFence => "one_statement_fence",
        }
    }

    const fn bit(self) -> u64 {
        1 << self as u32
    }
}

/// Unknown name of a mutation in the environment variable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{VARIABLE} names {name:?}, which is none of: {}", Mutation::ALL.map(Mutation::name).join(", "))]
pub struct UnknownMutation {
    name: String,
}

/// Returns the active mutations.
///
/// # Errors
/// [`UnknownMutation`] if one of the names is unknown; then no mutation is active.
pub fn active_mutations() -> Result<Vec<Mutation>, UnknownMutation> {
    let set = environment().clone()?;
    Ok(Mutation::ALL.into_iter().filter(|mutation| set & mutation.bit() != 0).collect())
}

/// Returns true if the mutation is active, so that its guarantee has to be violated.
pub fn is_on(mutation: Mutation) -> bool {
    environment().as_ref().is_ok_and(|set| set & mutation.bit() != 0)
}

/// Returns true if this process transfers slots between its shards continually.
pub fn hands_slots_over() -> bool {
    static SET: OnceLock<bool> = OnceLock::new();
    *SET.get_or_init(|| std::env::var_os(HAND_OVERS).is_some())
}

/// Returns true once in every `every` calls if the mutation is active: then its guarantee has to be
/// violated.
pub fn is_due(mutation: Mutation, every: u64) -> bool {
    static CALLS: [AtomicU64; Mutation::ALL.len()] =
        [const { AtomicU64::new(0) }; Mutation::ALL.len()];
    // The last call of each cycle violates the guarantee, not the first, so that a test can prepare
    // its data.
    is_on(mutation) && CALLS[mutation as usize].fetch_add(1, Ordering::Relaxed) % every == every - 1
}

fn environment() -> &'static Result<u64, UnknownMutation> {
    static SET: OnceLock<Result<u64, UnknownMutation>> = OnceLock::new();
    SET.get_or_init(|| {
        // A value that is not valid Unicode contains an unknown name as well. The error repeats it
        // as far as possible.
        let names = std::env::var_os(VARIABLE).unwrap_or_default();
        parse(&names.to_string_lossy())
    })
}

fn parse(names: &str) -> Result<u64, UnknownMutation> {
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.into_iter().try_fold(0, |set, name| {
        let found = Mutation::ALL.into_iter().find(|mutation| mutation.name() == name);
        found
            .map(|mutation| set | mutation.bit())
            .ok_or_else(|| UnknownMutation { name: name.to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_an_unknown_one_is_reported_with_the_list() {
        assert_eq!(parse(""), Ok(0));
        let both = Mutation::LostBatch.bit() | Mutation::WrongRow.bit();
        assert_eq!(parse(" wrong_row, lost_batch,"), Ok(both));
        let error = parse("lost_batch,lost_batches").unwrap_err().to_string();
        assert!(
            error.contains("\"lost_batches\"") && error.ends_with("one_statement_fence"),
            "{error}"
        );
    }

    #[test]
    fn every_mutation_has_a_name_a_place_and_a_line_in_the_table() {
        let table = include_str!("../sabotage.rs");
        let named = table.lines().filter(|line| line.starts_with("//! | `")).count();
        assert_eq!(named, Mutation::ALL.len());
        for (place, mutation) in Mutation::ALL.into_iter().enumerate() {
            assert_eq!(mutation as usize, place);
            assert!(
                table.contains(&format!("//! | `{}` |", mutation.name())),
                "{}",
                mutation.name()
            );
        }
    }
}
