//! Indexes: maps each refusal of a change of indexes to its problem.
//!
//! **Invariant:** the mapping is exhaustive, and no detail contains a value of a row.
//! **Not here:** the codes, and the form of a problem (`problem`).

use shard_manager::manager::IndexesError;
use shard_manager::table_index::{IndexError, IndexFault};

use super::domain::LONGER_PAUSE;
use super::{Code, Problem};

impl From<IndexesError> for Problem {
    fn from(error: IndexesError) -> Self {
        let detail = error.to_string();
        let problem = match error {
            IndexesError::Draft(error) => of_draft(error),
            IndexesError::Differs { .. } => Self::new(Code::TSR344, detail)
                .hint("choose another name, or drop the index first: GET lists the indexes"),
            IndexesError::Dropping { .. } => Self::new(Code::TSR344, detail)
                .hint("send the same request again once GET no longer lists it"),
            IndexesError::TooMany => {
                Self::new(Code::TSR108, detail).hint("drop an index that no query uses")
            }
            IndexesError::PauseTooLong { shard, .. } => {
                Self::new(Code::TSR346, detail).shard(shard).hint(LONGER_PAUSE)
            }
            IndexesError::NoIndex { suggestion, .. } => {
                let problem = Self::new(Code::TSR345, detail);
                match suggestion {
                    Some(near) => problem.hint(format!("did you mean `{near}`?")),
                    None => problem.hint("GET lists the indexes of the table"),
                }
            }
            IndexesError::Unsupported => {
                Self::new(Code::TSR347, "Tessera does not build indexes on Citus")
                    .hint("create the index in the database, on the coordinator")
            }
            IndexesError::Doubtful(error) => {
                let problem = Self::from(error).outcome("unknown");
                return problem.hint("GET lists the indexes; the same request may be sent again");
            }
            IndexesError::Failed(error) => Self::from(error),
        };
        problem.outcome("rejected")
    }
}

fn of_draft(error: IndexError) -> Problem {
    let detail = error.to_string();
    match error.fault {
        IndexFault::NoSuchColumn { suggestion } => {
            let problem = Problem::new(Code::TSR311, detail);
            match suggestion {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem.hint("/api/tables lists the columns"),
            }
        }
        IndexFault::Name(_)
        | IndexFault::ColumnCount { .. }
        | IndexFault::Twice
        | IndexFault::NotComparable
        | IndexFault::Place => Problem::new(Code::TSR101, detail),
    }
}
