//! Databases: the empty databases of an experiment's clusters, as files or on servers.
//!
//! **Invariant:** each cluster of an experiment has databases of its own, and its number leads to
//! the same ones whenever it is opened.
//! **Not here:** creating and removing databases on servers (`cli`).

use std::path::Path;

use assembly::ConnectedCluster;
use cache::CacheSettings;

use crate::lab_cluster::LabCluster;
use crate::lab_error::LabError;
use crate::report::Report;
use crate::work_folder::WorkFolder;

/// Empty databases on servers, to use instead of files. The caller removes them afterwards.
#[derive(Clone, Debug)]
pub struct ServerDatabases {
    /// Databases of each cluster that the experiment opens, by its number.
    pub clusters: Vec<ConnectedCluster>,
    /// URL of the database of a shard that joins later, without user and password.
    pub joining: Option<String>,
    /// Servers and their version, for the report.
    pub engine: String,
    /// Conditions that affect the numbers, for the report.
    pub notes: Vec<String>,
}

/// Servers of the nodes of a cluster, to use instead of files. The caller removes them afterwards.
#[derive(Clone, Debug)]
pub struct ServerNodes {
    /// The nodes.
    pub cluster: ConnectedCluster,
    /// Servers and their version, for the report.
    pub engine: String,
    /// Conditions that affect the numbers, for the report.
    pub notes: Vec<String>,
}

/// Databases of the clusters of an experiment.
#[derive(Debug)]
pub(crate) enum Databases<'d> {
    /// Files in a temporary folder.
    Files(WorkFolder),
    /// Databases on servers.
    Servers(&'d ServerDatabases),
}

impl<'d> Databases<'d> {
    /// Returns the databases on the servers, or else creates a folder for files below
    /// `work_folder`.
    ///
    /// # Errors
    /// [`LabError::Impossible`] if no folder can be created there.
    pub(crate) fn new(
        servers: Option<&'d ServerDatabases>,
        work_folder: Option<&Path>,
    ) -> Result<Self, LabError> {
        Ok(match servers {
            Some(servers) => Self::Servers(servers),
            None => Self::Files(WorkFolder::create(work_folder)?),
        })
    }

    /// Opens the cluster of this number, counted from 0, and creates it first if there is none. It
    /// has no replicas; with a cache, its reads may be answered from there.
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

    /// Returns the URL of the database of a shard that joins later; `None` with files, which are
    /// created when it joins.
    pub(crate) fn joining(&self) -> Option<&str> {
        match self {
            Self::Files(_) => None,
            Self::Servers(servers) => servers.joining.as_deref(),
        }
    }

    /// Begins the report of an experiment on these databases.
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

/// Begins the report of an experiment on files in a folder.
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

/// Begins the report of an experiment on servers of this engine, with notes about them.
pub(crate) fn report_of_servers(
    (engine, notes): (&str, &[String]),
    experiment: &'static str,
    seed: u64,
) -> Report {
    let mut report = Report::new(experiment, seed).set("engine", engine);
    report.notes.extend(notes.iter().cloned());
    report
}

/// Returns the engine of files and its version, for the report.
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
