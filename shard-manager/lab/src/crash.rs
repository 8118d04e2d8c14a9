//! Crash: repeatedly kills a process that writes to a cluster, and the database servers of the
//! cluster if there are any, with SIGKILL. Every row that was acknowledged must be found when the
//! databases are opened again.
//!
//! **Invariant:** the experiment fails if an acknowledged row is missing.
//! **Not here:** the process that writes (`killed_writer`), killing servers (`cli`); a loss of
//! power, in which data in the memory of the operating system is lost as well.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use model::query::ReadQuery;

use crate::chart::{BarChart, Chart};
use crate::databases::{ServerNodes, report_of_files, report_of_servers};
use crate::dataset::UserIds;
use crate::experiment_observer::ExperimentObserver;
use crate::killed_writer::{kill_after, user_ids};
use crate::lab_cluster::{LabCluster, block_on, failure, options as request_options};
use crate::lab_error::LabError;
use crate::report::{Cell, Report, ReportTable};
use crate::work_folder::WorkFolder;

/// Number of shards of the cluster.
pub const SHARDS: usize = 3;
/// Difference between the first row numbers of consecutive rounds. A round writes fewer rows than
/// this, so no two rounds write the same row.
const ROUND: u64 = 1 << 32;

/// Settings of the experiment.
#[derive(Clone)]
pub struct CrashOptions<'c> {
    /// Number of rounds; in each round a new process is started and killed.
    pub rounds: u32,
    /// Number of acknowledged rows after which the process is killed.
    pub acknowledged: usize,
    /// Seed of the ids of the rows.
    pub seed: u64,
    /// Folder in which the temporary folder is created; `None` for the system's folder.
    pub work_folder: Option<PathBuf>,
    /// Function that returns the command of the process that writes. Its arguments are the folder
    /// by which the process finds the databases, and the number of the first row. The process must
    /// use the same seed.
    pub start_writer: &'c (dyn Fn(&Path, u64) -> Command + Sync),
}

/// Database servers to which the process writes instead of files, and which are killed together
/// with it.
pub struct KilledServers<'s> {
    /// Servers of the cluster, which has no replicas.
    pub nodes: &'s ServerNodes,
    /// Folder whose files tell the process how to reach the servers.
    pub dir: PathBuf,
    /// Function that kills all processes of all database servers with SIGKILL.
    pub kill: &'s dyn Fn() -> Result<(), LabError>,
    /// Function that restarts the servers, and returns once they accept connections.
    pub start: &'s dyn Fn() -> Result<(), LabError>,
}

/// Result of one round: numbers of rows, and the time to open the cluster after the kill.
struct Round {
    acknowledged: u64,
    found: u64,
    unacknowledged: u64,
    opened_ms: f64,
}

/// Databases to which the killed process writes.
enum Killed<'k> {
    /// Files in this folder.
    Files(PathBuf),
    /// Servers, which are killed together with the process.
    Servers(&'k KilledServers<'k>),
}

impl Killed<'_> {
    /// Returns the folder of the files, or the folder whose files tell the process how to reach the
    /// servers.
    fn dir(&self) -> &Path {
        match self {
            Self::Files(dir) => dir,
            Self::Servers(servers) => &servers.dir,
        }
    }

    fn kill_servers(&self) -> Result<(), LabError> {
        match self {
            Self::Files(_) => Ok(()),
            Self::Servers(servers) => (servers.kill)(),
        }
    }

    /// Opens the cluster after a kill. Restarts the servers first, if there are any.
    fn open(&self) -> Result<LabCluster, LabError> {
        match self {
            Self::Files(dir) => LabCluster::embedded(dir.clone(), SHARDS, 0),
            Self::Servers(servers) => {
                (servers.start)()?;
                LabCluster::connected(&servers.nodes.cluster)
            }
        }
    }
}

/// Carries out the experiment on the servers, or in files if there are none.
///
/// # Errors
/// [`LabError`] of the step that failed, for example a lost row.
pub fn run(
    options: &CrashOptions<'_>,
    servers: Option<&KilledServers<'_>>,
    observer: &dyn ExperimentObserver,
) -> Result<Report, LabError> {
    let began = Instant::now();
    let (rounds, report) = match servers {
        Some(servers) => {
            let rounds = kill_repeatedly(&Killed::Servers(servers), options, observer)?;
            let engine = (&*servers.nodes.engine, &*servers.nodes.notes);
            (rounds, report_of_servers(engine, "crash", options.seed))
        }
        None => {
            let folder = WorkFolder::create(options.work_folder.as_deref())?;
            let rounds = kill_repeatedly(&Killed::Files(folder.join("crash")), options, observer)?;
            (rounds, report_of_files(&folder, "crash", options.seed)?)
        }
    };
    let mut report = report
        .set("shards", SHARDS)
        .set("rounds", options.rounds)
        .set("acknowledged", options.acknowledged);
    report.tables.push(table(&rounds));
    report.charts.push(chart(&rounds));
    report.explanation = explanation(&rounds, servers.is_some());
    Ok(report.ended(began.elapsed()))
}

fn kill_repeatedly(
    killed: &Killed<'_>,
    options: &CrashOptions<'_>,
    observer: &dyn ExperimentObserver,
) -> Result<Vec<Round>, LabError> {
    let ids = user_ids(options.seed);
    let (mut rounds, mut acknowledged, mut stored) = (Vec::new(), Vec::new(), 0);
    let bar = observer.bar("kills", options.rounds.into());
    for round in 0..options.rounds {
        let writer = (options.start_writer)(killed.dir(), u64::from(round) * ROUND);
        let kill_servers = || killed.kill_servers();
        let known = kill_after(writer, options.acknowledged, &kill_servers, observer)?;
        let opening = Instant::now();
        let cluster = killed.open()?;
        let opened_ms = opening.elapsed().as_secs_f64() * 1_000.0;
        acknowledged.extend(known.iter().copied());
        // The acknowledged rows of earlier rounds must be found as well.
        let found = count_found(&cluster, &ids, &acknowledged)?;
        if found != acknowledged.len() as u64 {
            let lost = acknowledged.len() as u64 - found;
            return Err(LabError::Failed(format!("{lost} acknowledged rows were lost")));
        }
        let all = block_on(cluster.count(&cluster.table("users")?))?;
        let own = known.len() as u64;
        let unacknowledged = all - stored - own;
        stored = all;
        rounds.push(Round { acknowledged: own, found: own, unacknowledged, opened_ms });
        bar.add(1);
    }
    Ok(rounds)
}

fn count_found(cluster: &LabCluster, ids: &UserIds, numbers: &[u64]) -> Result<u64, LabError> {
    let users = cluster.table("users")?;
    block_on(async {
        let mut found = 0;
        for number in numbers {
            let (id, asked) = (ids.of(*number), request_options());
            let read = cluster.read(ReadQuery::all(&users), Some(&id), &asked).await;
            found += read.map_err(failure)?.rows.len() as u64;
        }
        Ok(found)
    })
}

fn table(rounds: &[Round]) -> ReportTable {
    let columns = ["kill", "acknowledged", "found", "lost", "stored unacknowledged", "opened in"];
    let mut table = ReportTable::new("Rows after each kill -9", &columns);
    for (number, round) in (1..).zip(rounds) {
        table.push([
            Cell::Count(number),
            Cell::Count(round.acknowledged),
            Cell::Count(round.found),
            Cell::Count(round.acknowledged - round.found),
            Cell::Count(round.unacknowledged),
            Cell::Millis(round.opened_ms),
        ]);
    }
    table
}

fn chart(rounds: &[Round]) -> Chart {
    let values = |round: &Round| vec![round.acknowledged as f64, round.found as f64];
    let groups = (1..).zip(rounds).map(|(number, round)| (format!("kill {number}"), values(round)));
    Chart::Bars(BarChart {
        title: "Rows that were acknowledged before each kill, and found after it".to_owned(),
        unit: "rows",
        series: vec!["acknowledged".to_owned(), "found".to_owned()],
        groups: groups.collect(),
    })
}

fn explanation(rounds: &[Round], is_on_servers: bool) -> String {
    let (log, next) = match is_on_servers {
        false => ("log of its file", "opening"),
        true => ("write-ahead log of its server", "start"),
    };
    let sum = |of: fn(&Round) -> u64| rounds.iter().map(of).sum::<u64>();
    let slowest = rounds.iter().map(|round| round.opened_ms).fold(0.0, f64::max);
    format!(
        "All {} rows that were acknowledged before {} kills are there, because a row is acknowledged after its \
         transaction is in the synced {log}, which the next {next} replays in at most {slowest:.0} ms. Another {} \
         rows were stored although their clients had received no response: for them the outcome is unknown, and nothing is lost.",
        sum(|round| round.acknowledged),
        rounds.len(),
        sum(|round| round.unacknowledged)
    )
}
