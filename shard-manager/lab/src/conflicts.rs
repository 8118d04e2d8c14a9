//! Conflicts: clients change the same row at the same time, and the experiment counts the changes
//! that each way of writing loses or refuses.
//!
//! In each round every client first reads a number from the row. When all clients have read it,
//! every client writes this number plus 1. If the way of writing is an insert, every client inserts
//! the same new row instead. So the clients of a round always conflict.
//!
//! **Invariant:** the result depends on the settings only, not on the speed of the machine.
//! **Not here:** concurrent writes of different rows, which never conflict.

use std::path::PathBuf;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::Instant;

use model::query::ReadQuery;
use model::row_change::{Operation, Precondition, RowWrite};
use model::table::Table as DataTable;

use crate::chart::{BarChart, Chart};
use crate::databases::{Databases, ServerDatabases};
use crate::dataset::user_named;
use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::{LabCluster, block_on, failure, options as request_options};
use crate::lab_error::LabError;
use crate::report::{Cell, Report, ReportTable};

/// Number of shards of the cluster.
pub const SHARDS: usize = 1;

/// Settings of the experiment.
#[derive(Clone, Debug)]
pub struct ConflictsOptions {
    /// Number of clients that write the same row.
    pub clients: u16,
    /// Number of rounds, in each of which every client writes once.
    pub rounds: u32,
    /// Seed that the report names. It has no effect, because nothing is random.
    pub seed: u64,
    /// Folder in which the temporary folder is created; `None` for the system's folder.
    pub work_folder: Option<PathBuf>,
}

/// Way of writing that is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Upsert without a condition: the last write wins.
    LastWrite,
    /// Update on condition that the row still has the version that was read.
    IfMatch,
    /// Insert of a new row in each round, with the same key for all clients.
    Insert,
}

impl Way {
    const ALL: [Self; 3] = [Self::LastWrite, Self::IfMatch, Self::Insert];

    fn name(self) -> &'static str {
        match self {
            Self::LastWrite => "last write",
            Self::IfMatch => "If-Match",
            Self::Insert => "insert",
        }
    }
}

/// Results of one way of writing.
struct Tried {
    way: Way,
    attempts: u64,
    acknowledged: u64,
    refused: u64,
    /// Number of acknowledged changes that the final state does not contain.
    lost: u64,
    first_refusal: Option<String>,
}

/// Carries out the experiment in the databases on servers, or in files if there are none.
///
/// # Errors
/// [`LabError`] of the step that failed.
pub fn run(
    options: &ConflictsOptions,
    servers: Option<&ServerDatabases>,
    observer: &dyn ExperimentObserver,
) -> Result<Report, LabError> {
    let began = Instant::now();
    let databases = Databases::new(servers, options.work_folder.as_deref())?;
    let cluster = databases.open((0, SHARDS), None)?;
    let mut tried = Vec::new();
    for way in Way::ALL {
        observer.report(way.name());
        tried.push(try_way(way, options, &cluster, observer)?);
    }
    let mut report = databases
        .report("conflicts", options.seed)?
        .set("shards", SHARDS)
        .set("clients", options.clients)
        .set("rounds", options.rounds);
    report.tables.push(table(&tried));
    report.charts.push(chart(&tried));
    report.explanation = explanation(&tried);
    Ok(report.ended(began.elapsed()))
}

/// Row that the clients change at the same time, with its table and the way of writing.
struct Contest<'c> {
    cluster: &'c LabCluster,
    users: Arc<DataTable>,
    way: Way,
}

fn try_way(
    way: Way,
    options: &ConflictsOptions,
    cluster: &LabCluster,
    observer: &dyn ExperimentObserver,
) -> Result<Tried, LabError> {
    let contest = Contest { cluster, users: cluster.table("users")?, way };
    if way != Way::Insert {
        contest.write(Operation::Insert, &contest.id(0), 0, None)?;
    }
    let mut tried =
        Tried { way, attempts: 0, acknowledged: 0, refused: 0, lost: 0, first_refusal: None };
    for round in 0..options.rounds {
        observer.check_cancelled()?;
        for written in contest.meet(round, options.clients.into()) {
            tried.attempts += 1;
            match written {
                Ok(()) => tried.acknowledged += 1,
                Err(cause) => {
                    tried.refused += 1;
                    tried.first_refusal.get_or_insert(cause.to_string());
                }
            }
        }
    }
    let shown = match way {
        Way::LastWrite | Way::IfMatch => contest.read(0)?.0,
        Way::Insert => u64::from(options.rounds),
    };
    tried.lost = tried.acknowledged.saturating_sub(shown);
    Ok(tried)
}

impl Contest<'_> {
    fn id(&self, round: u32) -> String {
        match self.way {
            Way::LastWrite => "last_write".to_owned(),
            Way::IfMatch => "if_match".to_owned(),
            Way::Insert => format!("insert_{round}"),
        }
    }

    /// Carries out one round: lets all clients read the row, and then lets all of them write it.
    /// Returns the result of each write.
    fn meet(&self, round: u32, clients: usize) -> Vec<Result<(), LabError>> {
        let barrier = Barrier::new(clients);
        let written = Mutex::new(Vec::new());
        let client = || {
            let read = if self.way == Way::Insert { Ok((0, 0)) } else { self.read(round) };
            barrier.wait();
            let done = read.and_then(|(value, version)| self.change(round, value, version));
            written.lock().unwrap_or_else(PoisonError::into_inner).push(done);
        };
        std::thread::scope(|scope| (0..clients).for_each(|_| drop(scope.spawn(client))));
        written.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number in the row, and its version.
    fn read(&self, round: u32) -> Result<(u64, i64), LabError> {
        let (id, asked) = (self.id(round), request_options());
        let read = block_on(self.cluster.read(ReadQuery::all(&self.users), Some(&id), &asked));
        let read = read.map_err(failure)?;
        let version = read.version().ok_or_else(|| LabError::failed("the row is not there"))?;
        let row: serde_json::Value =
            serde_json::from_slice(read.rows.row(0)).map_err(LabError::failed)?;
        let number = row["name"].as_str().and_then(|name| name.parse().ok());
        Ok((number.ok_or_else(|| LabError::failed("the row has no number"))?, version))
    }

    fn change(&self, round: u32, value: u64, version: i64) -> Result<(), LabError> {
        let id = self.id(round);
        match self.way {
            Way::LastWrite => self.write(Operation::Upsert, &id, value + 1, None),
            Way::IfMatch => {
                let condition = Precondition::Versions(vec![version]);
                self.write(Operation::Update, &id, value + 1, Some(condition))
            }
            Way::Insert => self.write(Operation::Insert, &id, 1, None),
        }
    }

    fn write(
        &self,
        operation: Operation,
        id: &str,
        value: u64,
        precondition: Option<Precondition>,
    ) -> Result<(), LabError> {
        let row = user_named(id, &value.to_string());
        let placed = self.cluster.place(&self.users, operation, id, row);
        let (place, row) = placed.map_err(LabError::failed)?;
        let row = RowWrite { precondition, ..row };
        block_on(self.cluster.write((place, row), &request_options())).map(drop).map_err(failure)
    }
}

fn table(tried: &[Tried]) -> ReportTable {
    let columns = ["way", "attempts", "acknowledged", "refused", "lost", "first refusal"];
    let mut table = ReportTable::new("Concurrent changes of one row", &columns);
    for one in tried {
        table.push([
            Cell::from(one.way.name()),
            Cell::Count(one.attempts),
            Cell::Count(one.acknowledged),
            Cell::Count(one.refused),
            Cell::Count(one.lost),
            one.first_refusal.as_ref().map_or(Cell::Absent, |cause| cause.as_str().into()),
        ]);
    }
    table
}

fn chart(tried: &[Tried]) -> Chart {
    let values = |one: &Tried| {
        let kept = one.acknowledged - one.lost;
        [kept, one.refused, one.lost].map(|count| count as f64).to_vec()
    };
    Chart::Bars(BarChart {
        title: "Outcomes of the changes".to_owned(),
        unit: "changes",
        series: ["kept", "refused", "acknowledged and lost"].map(ToOwned::to_owned).to_vec(),
        groups: tried.iter().map(|one| (one.way.name().to_owned(), values(one))).collect(),
    })
}

fn explanation(tried: &[Tried]) -> String {
    let of =
        |way, number: fn(&Tried) -> u64| tried.iter().find(|one| one.way == way).map_or(0, number);
    format!(
        "Of {} acknowledged changes, later writes have overwritten {} without a trace, because each \
         client added 1 to the number that it had read, not to the stored one. With If-Match, {} of as many attempts were refused and \
         none was lost: the refusal shows that the row has changed, and the client can read it again; an insert has one winner for \
         each row, and {} were refused.",
        of(Way::LastWrite, |one| one.acknowledged),
        of(Way::LastWrite, |one| one.lost),
        of(Way::IfMatch, |one| one.refused),
        of(Way::Insert, |one| one.refused)
    )
}
