//! The switches that are thrown in this process.
//!
//! **Invariant:** the environment is read once; a switch never changes while the process runs.
//! **Not here:** refusing to start (whoever starts).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Switch;

/// The environment variable that names the switches to throw.
pub const VARIABLE: &str = "TESSERA_SABOTAGE";

impl Switch {
    /// Every switch, in the order of its declaration.
    pub const ALL: [Self; 18] = [
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
    ];

    /// The name in the environment variable.
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
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// A name that is none of a switch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{VARIABLE} names {name:?}, which is none of: {}", Switch::ALL.map(Switch::name).join(", "))]
pub struct UnknownSwitch {
    name: String,
}

/// The switches that are thrown.
///
/// # Errors
/// [`UnknownSwitch`] if a name is none of a switch; then none is on.
pub fn thrown() -> Result<Vec<Switch>, UnknownSwitch> {
    let set = environment().clone()?;
    Ok(Switch::ALL.into_iter().filter(|switch| set & switch.bit() != 0).collect())
}

/// Whether a promise is to be broken.
pub fn is_on(switch: Switch) -> bool {
    environment().as_ref().is_ok_and(|set| set & switch.bit() != 0)
}

/// Whether a promise is to be broken this time: once in so many.
pub fn is_due(switch: Switch, every: u64) -> bool {
    static ASKED: [AtomicU64; Switch::ALL.len()] = [const { AtomicU64::new(0) }; Switch::ALL.len()];
    // Not the first time: what is made before a test begins is none of its business.
    is_on(switch) && ASKED[switch as usize].fetch_add(1, Ordering::Relaxed) % every == every - 1
}

fn environment() -> &'static Result<u32, UnknownSwitch> {
    static SET: OnceLock<Result<u32, UnknownSwitch>> = OnceLock::new();
    SET.get_or_init(|| {
        // What is no Unicode is no name either, and is told as it can be.
        let names = std::env::var_os(VARIABLE).unwrap_or_default();
        parse(&names.to_string_lossy())
    })
}

fn parse(names: &str) -> Result<u32, UnknownSwitch> {
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.into_iter().try_fold(0, |set, name| {
        let found = Switch::ALL.into_iter().find(|switch| switch.name() == name);
        found
            .map(|switch| set | switch.bit())
            .ok_or_else(|| UnknownSwitch { name: name.to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_what_is_none_is_told_with_the_list() {
        assert_eq!(parse(""), Ok(0));
        let both = Switch::LostBatch.bit() | Switch::WrongRow.bit();
        assert_eq!(parse(" wrong_row, lost_batch,"), Ok(both));
        let told = parse("lost_batch,lost_batches").unwrap_err().to_string();
        assert!(told.contains("\"lost_batches\"") && told.ends_with("sqlite_sync_off"), "{told}");
    }

    #[test]
    fn every_switch_has_a_name_a_place_and_a_line_in_the_table() {
        let table = include_str!("../sabotage.rs");
        let named = table.lines().filter(|line| line.starts_with("//! | `")).count();
        assert_eq!(named, Switch::ALL.len());
        for (place, switch) in Switch::ALL.into_iter().enumerate() {
            assert_eq!(switch as usize, place);
            assert!(table.contains(&format!("//! | `{}` |", switch.name())), "{}", switch.name());
        }
    }
}
