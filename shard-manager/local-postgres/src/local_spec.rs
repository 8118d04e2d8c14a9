//! Local specification: the settings with which a local cluster is requested.
//!
//! **Not here:** the settings that the cluster stores (`manifest`).

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
    /// Port of the first node, with the others directly above it; if there is none, free ports are
    /// chosen.
    pub first_port: Option<u16>,
    /// User that runs the servers if this process runs as root; by default `postgres`, or `nobody`
    /// if there is no such user.
    pub user: Option<String>,
    /// Folder of PostgreSQL's programs; default: the newest installed version.
    pub pg_bin: Option<PathBuf>,
    /// Additional server settings, such as `("fsync", "off")`. Settings of an earlier `up` remain
    /// in force; an empty value removes a setting.
    pub settings: Vec<(String, String)>,
}

impl LocalSpec {
    /// Returns the specification of a cluster in this directory, with three shards and one replica
    /// for each.
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
