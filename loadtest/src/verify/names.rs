//! Names: a unique name for each row of a run.
//!
//! **Not here:** the form that the cluster's keyspace requires of keys (`keyspace`).

use std::sync::Arc;

use super::{BANKS, HOT_ROWS};
use crate::keyspace::{Name, Names};
use crate::requests;

/// Names of rows of one run.
#[derive(Debug)]
pub(super) struct RowNames(Arc<Names>);

impl RowNames {
    pub(super) fn new(names: Arc<Names>) -> Self {
        Self(names)
    }

    /// Returns the name of the run, which each of its rows contains.
    pub(super) fn run(&self) -> &str {
        self.0.run()
    }

    /// Returns the columns of a user. The user's partition is added if a column determines the
    /// shard of users.
    pub(super) fn placed(&self, id: &str, columns: serde_json::Value) -> serde_json::Value {
        requests::placed(&self.0, id, columns)
    }

    /// Returns the key of a register by its rank; rank 0 is the hottest.
    pub(super) fn register(&self, rank: u32) -> String {
        self.0.key(if rank < HOT_ROWS { Name::Hot(rank) } else { Name::Cold(rank) })
    }

    /// Returns the key of a row that is written once, in a bulk write.
    pub(super) fn once(&self, session: u32, number: u32) -> String {
        self.0.key(Name::Once(session, number))
    }

    pub(super) fn bank(&self, number: u32) -> String {
        self.0.key(Name::Bank(number % BANKS))
    }
}

/// Returns the id of an account of a bank.
pub(super) fn account(bank: &str, number: u32) -> String {
    format!("{bank}-a{number}")
}

/// Returns the id of the row that counts a bank's transfers.
pub(super) fn counter(bank: &str) -> String {
    format!("{bank}-ac")
}

/// Returns the id of the row of one transfer.
pub(super) fn entry(bank: &str, session: u32, number: u32) -> String {
    format!("{bank}-l{session}-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_different_things_never_meet() {
        let names = Names::of_new_run(br#"{"keyspace":"hash","parameters":{}}"#).unwrap();
        let names = RowNames::new(Arc::new(names));
        let bank = names.bank(1);
        let all = [
            names.register(0),
            names.register(HOT_ROWS),
            names.once(1, 11),
            names.once(11, 1),
            account(&bank, 1),
            counter(&bank),
            entry(&bank, 1, 11),
            entry(&bank, 11, 1),
        ];
        for (index, name) in all.iter().enumerate() {
            assert!(name.contains(names.run()) && name.len() < 64, "{name}");
            assert!(!all[..index].contains(name), "{name}");
        }
    }
}
