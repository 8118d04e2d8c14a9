//! Databases: provides the databases of an experiment's clusters, as files or on servers.
//!
//! **Invariant:** each cluster of an experiment has its own databases, and opening a cluster again
//! by its number opens the same databases.
//! **Not here:** creating and removing databases on servers (`cli`).

use std::path::Path;

use assembly::ConnectedCluster;
use cache::CacheSettings;

use crate::lab_cluster::LabCluster;
use crate::lab_error::LabError;
use crate::report::Report;
use crate::work_folder::WorkFolder;

/// Empty databases on servers, which are used instead of files. The calling function removes them
/// afterwards.
#[derive(Clone, Debug)]
pub struct ServerDatabases {
    /// Databases of each cluster that the experiment opens; the index is the number of the cluster.
    pub clusters: Vec<ConnectedCluster>,
    /// URL of the database of a shard that joins later, without user and password; `None` if no
    /// shard joins.
    pub joining: Option<String>,
    /// Database engine and its version, for the report.
    pub engine: String,
    /// Notes for the report on conditions that affect the numbers.
    pub notes: Vec<String>,
}

/// Database servers of one cluster with its replicas, which are used instead of files. The calling
/// function removes them afterwards.
#[derive(Clone, Debug)]
pub struct ServerNodes {
    /// Cluster of these servers.
    pub cluster: ConnectedCluster,
    /// Database engine and its version, for the report.
    pub engine: String,
    /// Notes for the report on conditions that affect the numbers.
    pub notes: Vec<String>,
}

/// Location of the databases of an experiment's clusters.
#[derive(Debug)]
pub(crate) enum Databases<'d> {
    /// Files in a temporary folder.
    Files(WorkFolder),
    /// Databases on servers.
    Servers(&'d ServerDatabases),
}

impl<'d> Databases<'d> {
    /// Uses the databases on the servers; without servers, creates a temporary folder for files in
    /// `work_folder`.
    ///
    /// # Errors
    /// [`LabError::Impossible`] if the folder cannot be created.
    pub(crate) fn new(
        servers: Option<&'d ServerDatabases>,
        work_folder: Option<&Path>,
    ) -> Result<Self, LabError> {
        Ok(match servers {
            Some(servers) => Self::Servers(servers),
            None => Self::Files(WorkFolder::create(work_folder)?),
        })
    }

    /// Opens the cluster with this number, counted from 0. Creates it first if it does not exist.
    /// The cluster has no replicas; if `cache` is given, reads may be answered from that cache.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub(crate) fn open(
        &self,
        (number, shards): (usize, usize),
        cache: Option<CacheSettings>,
    ) -> Result<LabCluster, LabError> {
        match self {
            Self::Files(folder) => {
                let data_dir = folder.join(&format!("cluster{number}"));
                match cache {
                    None => LabCluster::embedded(data_dir, shards, 0),
                    Some(settings) => LabCluster::cached(data_dir, shards, settings),
                }
            }
            Self::Servers(servers) => {
                let cluster = servers.clusters.get(number);
                let cluster = cluster.ok_or_else(|| {
                    LabError::Failed(format!("cluster {number} of the experiment has no databases"))
                })?;
                match cache {
                    None => LabCluster::connected(cluster),
                    Some(settings) => LabCluster::connected_and_cached(cluster, settings),
                }
            }
        }
    }

    /// Returns the URL of the database of a shard that joins later. Returns `None` for files, which
    /// are created when the shard joins.
    pub(crate) fn joining(&self) -> Option<&str> {
        match self {
            Self::Files(_) => None,
            Self::Servers(servers) => servers.joining.as_deref(),
        }
    }

    /// Creates the report of an experiment on these databases, with the engine and the notes.
    ///
    /// # Errors
    /// [`LabError::Failed`] if the version of SQLite cannot be read.
    pub(crate) fn report(&self, experiment: &'static str, seed: u64) -> Result<Report, LabError> {
        match self {
            Self::Files(folder) => report_of_files(folder, experiment, seed),
            Self::Servers(ServerDatabases { engine, notes, .. }) => {
                Ok(report_of_servers((engine, notes), experiment, seed))
            }
        }
    }
}

/// Creates the report of an experiment on files in a folder, with the engine and the notes.
///
/// # Errors
/// [`LabError::Failed`] if the version of SQLite cannot be read.
pub(crate) fn report_of_files(
    folder: &WorkFolder,
    experiment: &'static str,
    seed: u64,
) -> Result<Report, LabError> {
    let mut report = Report::new(experiment, seed).set("engine", engine_of_files()?);
    report.notes.extend(folder.notes());
    Ok(report)
}

/// Creates the report of an experiment on servers of this engine, with these notes.
pub(crate) fn report_of_servers(
    (engine, notes): (&str, &[String]),
    experiment: &'static str,
    seed: u64,
) -> Report {
    let mut report = Report::new(experiment, seed).set("engine", engine);
    report.notes.extend(notes.iter().cloned());
    report
}

/// Returns the name of the engine of files and its version, for the report.
///
/// # Errors
/// [`LabError::Failed`] if the version cannot be read.
pub(crate) fn engine_of_files() -> Result<String, LabError> {
    let version = assembly::sqlite_version().map_err(LabError::failed)?;
    Ok(format!("SQLite {version} files, synchronous=FULL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_files_names_the_version_of_sqlite() {
        let parent = tempfile::tempdir().expect("a folder");
        let files = Databases::new(None, Some(parent.path())).expect("a folder for files");
        let report = files.report("grow", 1).expect("a report");
        let engine = &report.settings[0];
        assert_eq!(engine.name, "engine");
        let version = engine.value.strip_prefix("SQLite ").and_then(|text| text.split_once(' '));
        let (version, rest) = version.unwrap_or_else(|| panic!("{}", engine.value));
        let numbers = version.split('.').filter_map(|number| number.parse::<u32>().ok());
        assert_eq!((numbers.count(), rest), (3, "files, synchronous=FULL"));
    }

    #[test]
    fn a_cluster_without_databases_on_the_servers_is_refused_by_its_number() {
        let (engine, notes) = ("PostgreSQL 17".to_owned(), vec!["a note".to_owned()]);
        let servers = ServerDatabases { clusters: Vec::new(), joining: None, engine, notes };
        let databases = Databases::new(Some(&servers), None).expect("no folder is needed");
        let refused = databases.open((1, 3), None).map(drop).expect_err("there are no databases");
        assert_eq!(refused.to_string(), "cluster 1 of the experiment has no databases");
        let report = databases.report("grow", 1).expect("a report");
        assert_eq!(
            (&*report.settings[0].value, &*report.notes),
            ("PostgreSQL 17", &*servers.notes)
        );
    }
}
