//! Reasons: returns one sentence that explains the difference between the single database and the
//! shards.
//!
//! The sentence is chosen by the measured ratio, so it never claims a gain that was not measured.

use super::queries::{Compared, Query};

/// Ratios of the rates from which a gain, or a loss, is assumed to be more than random variation.
const GAIN: f64 = 1.1;
const LOSS: f64 = 0.9;

/// Storage of the rows on each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// Both sides consist of SQLite files.
    Files,
    /// Both sides consist of databases on PostgreSQL servers.
    Servers,
    /// The shards are SQLite files, and the single database is on a PostgreSQL server.
    FilesBesideServer,
}

impl Storage {
    /// Returns the noun for the storage of one shard, and its plural.
    fn nouns(self) -> (&'static str, &'static str) {
        match self {
            Self::Files | Self::FilesBesideServer => ("file", "files"),
            Self::Servers => ("database", "databases"),
        }
    }
}

/// Returns the explanation of the ratio of one kind of request, for this number of shards and
/// clients.
pub(super) fn of(
    compared: &Compared,
    (shards, clients): (usize, usize),
    storage: Storage,
) -> String {
    if storage == Storage::FilesBesideServer {
        return "The one database is on a PostgreSQL server and the shards are files, so the ratio also compares these engines.".to_owned();
    }
    let (file, files) = storage.nouns();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let ratio = compared.ratio();
    let (gained, lost) = (ratio >= GAIN, ratio <= LOSS);
    match compared.query {
        Query::Point if gained => {
            format!("One shard answers, as one database does, but each of {shards} {files} is smaller and has its own locks.")
        }
        Query::Point if lost => format!(
            "One shard answers by the primary key, as one database does, so the differences are the memory of {shards} \
             {files}, each with its own cache, and other work on this machine."
        ),
        Query::Point => {
            "One shard answers by the primary key, as one database does: the work is the same, and only more machines would help.".to_owned()
        }
        Query::Range | Query::Count | Query::Order if gained => format!(
            "No index has the column, so every row is visited, and {} of the {shards} shards do so at the same time on {cores} cores.",
            shards.min(cores)
        ),
        Query::Range | Query::Count | Query::Order if lost => format!(
            "The query goes to every shard and waits for the slowest, and for so few rows this costs more than {cores} cores save."
        ),
        Query::Range | Query::Count | Query::Order => format!(
            "The same rows are visited in total, and sending the query to {shards} shards on {cores} cores costs as much as their parallel work saves."
        ),
        Query::Insert if gained => format!(
            "Each of {shards} {files} has its own log, so their commits are synced at the same time."
        ),
        Query::Insert => format!(
            "The writes of {clients} waiting clients already share the transactions of one {file}, and {shards} {files} split them into more and smaller ones."
        ),
        Query::Bulk if gained => format!(
            "The rows become {shards} smaller transactions that are stored at the same time on {cores} cores."
        ),
        Query::Bulk => format!(
            "The rows become {shards} transactions instead of one, and each is synced to the same disk."
        ),
    }
}

/// Returns a summary of the experiment's result in two sentences.
pub(super) fn explanation(all: &[Compared], shards: usize) -> String {
    let by_ratio = |a: &&Compared, b: &&Compared| a.ratio().total_cmp(&b.ratio());
    let (Some(best), Some(worst)) = (all.iter().max_by(by_ratio), all.iter().min_by(by_ratio))
    else {
        return String::new();
    };
    format!(
        "On this machine {shards} shards answer `{}` at {:.2} times the rate of one database, and `{}` at {:.2} times. {}",
        best.query.name(),
        best.ratio(),
        worst.query.name(),
        worst.ratio(),
        best.why
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::queries::QUERIES;
    use super::*;
    use crate::clients::Timings;

    /// Returns the timings of one request in a run of this many milliseconds.
    fn timings(ms: u64) -> Timings {
        let mut timings = Timings::default();
        timings.add(Instant::now(), Ok(()));
        timings.ended(Duration::from_millis(ms))
    }

    #[test]
    fn reasons_are_one_sentence_and_speak_of_files_only_if_there_are_files() {
        for query in QUERIES {
            // The three values make the ratio a gain, a loss, and neither.
            for one_ms in [20, 5, 10] {
                let (one, shards) = (timings(one_ms), timings(10));
                let compared = Compared { query, clients: 2, one, shards, why: String::new() };
                let [files, servers] =
                    [Storage::Files, Storage::Servers].map(|at| of(&compared, (3, 2), at));
                assert!(!servers.contains("file"), "{servers}");
                assert_eq!(files.replace("file", "database"), servers);
                let mixed = of(&compared, (3, 2), Storage::FilesBesideServer);
                assert!(mixed.contains("these engines"), "{mixed}");
                for why in [files, servers, mixed] {
                    assert!(why.ends_with('.') && !why.contains(". "), "{why}");
                }
            }
        }
    }
}
