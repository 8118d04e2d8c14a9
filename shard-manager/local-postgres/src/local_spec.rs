//! Local specification: the choices of a caller for a cluster of local servers.
//!
//! **Not here:** the choices that the cluster keeps (`manifest`).

use std::path::PathBuf;

/// Specification of a cluster of local servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalSpec {
    /// Directory of the cluster.
    pub dir: PathBuf,
    /// Number of shards.
    pub shards: usize,
    /// Number of replicas of each shard.
    pub replicas: usize,
    /// First port, which the others follow; without it, free ports are chosen.
    pub first_port: Option<u16>,
    /// User that runs the servers if the caller is root; default: `postgres`, else `nobody`.
    pub user: Option<String>,
    /// Folder of PostgreSQL's programs; default: the newest installed version.
    pub pg_bin: Option<PathBuf>,
    /// Additional server settings, such as `("fsync", "off")`; those of an earlier `up` stay, and
    /// an empty value removes one.
    pub settings: Vec<(String, String)>,
}

impl LocalSpec {
    /// Returns the specification of three shards with a replica each, in this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            shards: 3,
            replicas: 1,
            first_port: None,
            user: None,
            pg_bin: None,
            settings: Vec::new(),
        }
    }
}
