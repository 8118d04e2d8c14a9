//! Tour: ten chapters, each of which demonstrates a feature on a small cluster and names the files
//! that implement it.
//!
//! **Invariant:** chapters are independent: a tour can begin at any of them.
//! **Not here:** storing the chapter at which a tour is continued later (`cli`).

mod failures;
mod growing;
mod keys;
mod writes;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use engine::fault_injector::NodeMode;
use model::row_change::{Operation, RowDone};
use serde::Serialize;

use crate::databases::engine_of_files;
use crate::dataset::user_named;
use crate::disturbance::{Disturbance, LinkedServers, disturb};
use crate::experiment_observer::ExperimentObserver;
use crate::killed_writer::StartWriter;
use crate::lab_cluster::{LabCluster, block_on, failure, options};
use crate::lab_error::LabError;
use crate::machine::Machine;
use crate::node_faults::in_mode;
use crate::tcp_link::LinkState;
use crate::work_folder::WorkFolder;

/// Number of shards of the cluster in most chapters.
const SHARDS: usize = 3;

/// One chapter of the tour.
#[derive(Clone, Copy, Debug)]
pub struct Chapter {
    /// Title of the chapter.
    pub title: &'static str,
    /// Introduction: the subject of the chapter, and why it matters.
    pub intro: &'static str,
    /// Source files that implement the feature, as paths from the root of the repository.
    pub files: &'static [&'static str],
    /// Number of shards of the chapter's cluster.
    shards: usize,
    /// Number of replicas of each shard.
    replicas: usize,
    /// True if another shard joins during the chapter.
    grows: bool,
    work: fn(&Stage<'_>) -> Result<(), LabError>,
}

/// All chapters, in order.
pub const CHAPTERS: [Chapter; 10] = [
    keys::HASH,
    keys::SHARD,
    writes::WRITE,
    failures::REPLICA,
    writes::SESSION,
    failures::CRASH,
    failures::LEVELS,
    growing::SHARD,
    keys::HOT,
    writes::BULK,
];

/// User interface through which a person follows a tour.
pub trait Guide: ExperimentObserver {
    /// Shows the number, counted from 1, the title and the introduction of a chapter at its
    /// beginning.
    fn open(&self, number: usize, chapter: &Chapter);

    /// Shows the source files of a chapter at its end, and waits until the reader continues.
    /// Returns false if the reader ends the tour.
    fn close(&self, number: usize, chapter: &Chapter) -> Result<bool, LabError>;
}

/// Chapter that was shown, with its output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChapterRead {
    /// Number of the chapter, counted from 1.
    pub number: usize,
    /// Title of the chapter.
    pub title: &'static str,
    /// Lines of output that the chapter has shown.
    pub seen: Vec<String>,
    /// Source files that implement the feature, as paths from the root of the repository.
    pub files: &'static [&'static str],
}

/// Chapters that were shown, and the conditions under which their numbers were measured.
#[derive(Clone, Debug, Serialize)]
pub struct TourSummary {
    /// Seed of the random keys in the chapters.
    pub seed: u64,
    /// Database engine of the clusters and its version.
    pub engine: String,
    /// Machine and program.
    pub machine: Machine,
    /// Chapters that were shown, in order.
    pub chapters: Vec<ChapterRead>,
}

/// Size of the cluster that a chapter needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChapterSize {
    /// Number of shards of the chapter's cluster.
    pub shards: usize,
    /// Number of replicas of each shard.
    pub replicas: usize,
    /// True if another shard joins during the chapter, which then needs a database on a server as
    /// well.
    pub grows: bool,
}

/// Database servers of one chapter, used instead of SQLite files. They are removed when the value
/// is dropped.
pub trait ChapterServers {
    /// Returns the nodes of the cluster. If it has replicas, each node is behind a link, a proxy
    /// that can delay or cut the connection.
    fn linked(&self) -> &LinkedServers;

    /// Returns the URL of the database of the shard that joins, without user and password; `None`
    /// if no shard joins.
    fn joining(&self) -> Option<&str>;

    /// Returns the folder whose files tell another process how to reach the servers.
    ///
    /// # Errors
    /// [`LabError::Failed`] if there are no servers.
    fn dir(&self) -> Result<&Path, LabError>;

    /// Kills all processes of all database servers with SIGKILL.
    ///
    /// # Errors
    /// [`LabError::Failed`] if one of the processes is still running afterwards.
    fn kill(&self) -> Result<(), LabError>;

    /// Restarts the servers, and returns once they accept connections.
    ///
    /// # Errors
    /// [`LabError::Failed`] if a server does not start.
    fn start_again(&self) -> Result<(), LabError>;
}

/// Function that starts the servers of a chapter with this size.
pub type StartServers<'s> = &'s dyn Fn(ChapterSize) -> Result<Box<dyn ChapterServers>, LabError>;

/// State of one chapter: its cluster, and the lines that it has shown. The order of the fields
/// matters, because they are dropped in this order: the cluster before its servers.
struct Stage<'t> {
    cluster: LabCluster,
    /// Servers of the cluster; `None` if the cluster consists of files.
    servers: Option<Box<dyn ChapterServers>>,
    folder: &'t WorkFolder,
    guide: &'t dyn Guide,
    start_writer: StartWriter<'t>,
    seed: u64,
    seen: Mutex<Vec<String>>,
}

/// Settings of a tour.
#[derive(Clone, Copy)]
pub struct TourOptions<'t> {
    /// Number of the first chapter to show, counted from 1.
    pub first: usize,
    /// Seed of the random keys in the chapters.
    pub seed: u64,
    /// Folder in which the temporary folder is created; `None` for the system's folder.
    pub work_folder: Option<&'t Path>,
    /// Function that returns the command of the writing process that one chapter kills. The process
    /// must use the same seed.
    pub start_writer: StartWriter<'t>,
    /// Function that starts the servers of a chapter; `None` to use files.
    pub start_servers: Option<StartServers<'t>>,
}

/// Shows chapters until the last one, or until the reader ends the tour, and returns those that
/// were shown.
///
/// # Errors
/// [`LabError::Impossible`] if the first chapter does not exist; otherwise the error of the step
/// that failed.
pub fn run(options: TourOptions<'_>, guide: &dyn Guide) -> Result<TourSummary, LabError> {
    let TourOptions { first, seed, work_folder, start_writer, start_servers } = options;
    if !(1..=CHAPTERS.len()).contains(&first) {
        let line = format!("there are chapters 1 to {}, not {first}", CHAPTERS.len());
        return Err(LabError::Impossible(line));
    }
    let folder = WorkFolder::create(work_folder)?;
    let (mut chapters, mut engine) = (Vec::new(), None);
    for (number, chapter) in (1..).zip(&CHAPTERS).skip(first - 1) {
        guide.check_cancelled()?;
        guide.open(number, chapter);
        // Each chapter has its own cluster, so that it does not depend on earlier chapters.
        let Chapter { title, files, shards, replicas, grows, work, .. } = *chapter;
        let size = ChapterSize { shards, replicas, grows };
        let servers = start_servers.map(|start| start(size)).transpose()?;
        let cluster = match &servers {
            Some(servers) => LabCluster::connected(&servers.linked().cluster)?,
            None => {
                LabCluster::embedded(folder.join(&format!("chapter{number}")), shards, replicas)?
            }
        };
        engine = servers.as_ref().map(|servers| servers.linked().engine.clone());
        let (seen, folder) = (Mutex::default(), &folder);
        let stage = Stage { cluster, servers, folder, guide, start_writer, seed, seen };
        work(&stage)?;
        let seen = stage.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        chapters.push(ChapterRead { number, title, seen, files });
        if !guide.close(number, chapter)? {
            break;
        }
    }
    let engine = engine.map_or_else(engine_of_files, Ok)?;
    Ok(TourSummary { seed, engine, machine: Machine::here(), chapters })
}

impl Stage<'_> {
    /// Shows a line of output, and stores it for the summary.
    fn report(&self, line: impl Into<String>) {
        let line = line.into();
        self.guide.report(&line);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// Returns the servers; `None` if the cluster consists of files.
    fn linked(&self) -> Option<&LinkedServers> {
        self.servers.as_ref().map(|servers| servers.linked())
    }

    /// Cuts the connections to the nodes whose names fulfil a condition, until the result is
    /// dropped.
    fn cut(
        &self,
        is_about: impl Fn(&str) -> bool,
    ) -> Result<Vec<Box<dyn Disturbance + '_>>, LabError> {
        let cut = (in_mode(NodeMode::Cut), LinkState::Cut);
        disturb((&self.cluster, self.linked()), is_about, cut)
    }

    /// Stores a user with this id and name, and returns the stored row.
    fn store(&self, id: &str, name: &str) -> Result<RowDone, LabError> {
        let users = self.cluster.table("users")?;
        let row = user_named(id, name);
        let placed = self.cluster.place(&users, Operation::Upsert, id, row);
        let placed = placed.map_err(LabError::failed)?;
        let written = block_on(self.cluster.write(placed, &options()));
        Ok(written.map_err(failure)?.row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_files_are_in_the_repository() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for chapter in &CHAPTERS {
            assert!(!chapter.files.is_empty(), "{}", chapter.title);
            for file in chapter.files {
                assert!(root.join(file).is_file(), "{}: {file}", chapter.title);
            }
        }
    }
}
