//! Names: what the rows of a run are called, so that no two runs meet.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{BANKS, HOT_ROWS};

/// A name for this run: nobody else's begins with it.
pub(super) fn run_name() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Two testers started in the same microsecond differ by their process.
    let mut number = (now.as_micros() as u64).wrapping_mul(1 << 12) ^ u64::from(std::process::id());
    let mut name = "v".to_owned();
    while number > 0 {
        name.extend(char::from_digit((number % 36) as u32, 36));
        number /= 36;
    }
    name
}

/// Names of rows of one run.
#[derive(Debug)]
pub(super) struct RowNames {
    /// What all of them begin with.
    pub(super) run: String,
}

impl RowNames {
    pub(super) fn new(run: String) -> Self {
        Self { run }
    }

    /// A register by rank, the hottest first.
    pub(super) fn register(&self, rank: u32) -> String {
        let class = if rank < HOT_ROWS { 'h' } else { 'c' };
        format!("{}-{class}{rank}", self.run)
    }

    /// A row that is written once, in a bulk.
    pub(super) fn once(&self, session: u32, number: u32) -> String {
        format!("{}-b{session}-{number}", self.run)
    }

    pub(super) fn bank(&self, number: u32) -> String {
        format!("{}-bank{}", self.run, number % BANKS)
    }
}

/// An account of a bank.
pub(super) fn account(bank: &str, number: u32) -> String {
    format!("{bank}-a{number}")
}

/// The row that counts a bank's transfers.
pub(super) fn counter(bank: &str) -> String {
    format!("{bank}-ac")
}

/// The row of one transfer.
pub(super) fn entry(bank: &str, session: u32, number: u32) -> String {
    format!("{bank}-l{session}-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_different_things_never_meet() {
        let names = RowNames::new(run_name());
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
            assert!(name.starts_with(&names.run) && name.len() < 64, "{name}");
            assert!(!all[..index].contains(name), "{name}");
        }
    }
}
