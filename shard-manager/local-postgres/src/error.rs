//! Error: the reasons why a local cluster cannot be created, started, stopped or inspected.
//!
//! **Invariant:** every message states in one line what is wrong and what to do.
//! **Not here:** the presentation to an operator (the command line).

use std::io;
use std::path::{Path, PathBuf};

/// Error of an operation on a local cluster; its message is shown to the operator.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The programs of PostgreSQL are missing, incomplete or too old.
    #[error(
        "{cause}; install PostgreSQL {least} or later with its server (Debian and Ubuntu: postgresql, Fedora: \
         postgresql-server, Homebrew: postgresql@17), or name its folder of programs with --pg-bin or TESSERA_PG_BIN"
    )]
    NoPrograms {
        /// Result of the search.
        cause: String,
        /// Oldest version that is supported.
        least: u32,
    },
    /// The cluster was created by another major version of PostgreSQL.
    #[error(
        "{}: made with PostgreSQL {made}, and here is {found}; install version {made}, or name its folder of programs \
         with --pg-bin", dir.display()
    )]
    OtherVersion {
        /// Directory of the cluster.
        dir: PathBuf,
        /// Version with which the cluster was created.
        made: u32,
        /// Version that was found, and its folder.
        found: String,
    },
    /// There is no cluster in this directory.
    #[error("{}: there is no local cluster here; make one with `shard-manager cluster up`", .0.display())]
    NoCluster(PathBuf),
    /// The directory contains files that do not belong to a cluster.
    #[error("{}: this directory is not empty and holds no local cluster; name another", .0.display())]
    ForeignContents(PathBuf),
    /// The manifest of the cluster cannot be used.
    #[error("{}: {cause}", path.display())]
    Manifest {
        /// Path of the manifest.
        path: PathBuf,
        /// Reason.
        cause: String,
    },
    /// Another command holds the lock of the directory.
    #[error("{}: another command works on this cluster; wait until it has ended", .0.display())]
    Busy(PathBuf),
    /// The start of a temporary cluster was cancelled.
    #[error("cancelled; the servers that were started are stopped and removed")]
    Cancelled,
    /// A `destroy` of the cluster was begun.
    #[error("{}: this cluster is being destroyed; finish that with `shard-manager cluster destroy`", .0.display())]
    BeingDestroyed(PathBuf),
    /// A number of shards or replicas is out of range.
    #[error(
        "{wanted} {what} are wanted, and there can be {least} to {most}; choose a number in that range"
    )]
    Range {
        /// `shards` or `replicas`.
        what: &'static str,
        /// Requested number.
        wanted: usize,
        /// Smallest number.
        least: usize,
        /// Largest number.
        most: usize,
    },
    /// The requested number of shards differs from the number that exists.
    #[error(
        "{}: the cluster has {has} shards, which its rows are spread over, and a cluster cannot be given {wanted} yet; \
         leave --shards out, or make a new cluster with --dir elsewhere and write the rows to it through its router",
        dir.display()
    )]
    OtherShards {
        /// Directory of the cluster.
        dir: PathBuf,
        /// Number of shards of the existing cluster.
        has: usize,
        /// Requested number of shards.
        wanted: usize,
    },
    /// Fewer shards or replicas are requested than exist.
    #[error(
        "{}: there are {has} {what} and {wanted} are wanted, but servers with rows are not removed; choose {has} or \
         more, or destroy the cluster", dir.display()
    )]
    Fewer {
        /// Directory of the cluster.
        dir: PathBuf,
        /// `shards` or `replicas`.
        what: &'static str,
        /// Number that exists.
        has: usize,
        /// Requested number.
        wanted: usize,
    },
    /// A first port is requested that the existing cluster does not have.
    #[error("{}: this cluster keeps the ports that it has (see `cluster status`); leave the port out", .0.display())]
    OtherPorts(PathBuf),
    /// The port numbers end before every node has one.
    #[error("there are not {wanted} ports from {first} on; name a lower one")]
    PortsEnd {
        /// First port.
        first: u16,
        /// Number of ports that are needed.
        wanted: usize,
    },
    /// A port cannot be listened on.
    #[error(
        "{node}: port {port} cannot be had ({source}); stop the program that uses it, and try again"
    )]
    Port {
        /// Name of the node.
        node: String,
        /// Number of the port.
        port: u16,
        /// Error of the system.
        source: io::Error,
    },
    /// No port is free.
    #[error("no free port was found between 20000 and 32000; name a first one with --port")]
    NoPort,
    /// The user is unknown to the system, or must not run servers.
    #[error("user {user}: {cause}; name another with --user")]
    User {
        /// Name or numeric id of the user.
        user: String,
        /// Reason.
        cause: String,
    },
    /// The directory belongs to another user.
    #[error("{}: this belongs to the user with id {owner}; run the command as that user, or as root", dir.display())]
    OthersDirectory {
        /// Directory of the cluster.
        dir: PathBuf,
        /// User id of its owner.
        owner: u32,
    },
    /// The user that runs the servers cannot reach the directory.
    #[error(
        "{}: user {user}, who runs the servers, may not pass through {}; allow it (chmod o+x {}), name another \
         directory, or another user with --user", dir.display(), at.display(), at.display()
    )]
    Unreachable {
        /// Directory of the cluster.
        dir: PathBuf,
        /// First folder on the path that the user may not traverse.
        at: PathBuf,
        /// Name of the user.
        user: String,
    },
    /// The data of a primary is missing.
    #[error(
        "{node}: {} is missing, and its rows with it; it is not made again, for it would be empty; put it back, or \
         destroy the cluster", dir.display()
    )]
    Lost {
        /// Name of the node.
        node: String,
        /// Folder of the node.
        dir: PathBuf,
    },
    /// No node of the shard can be the source of a replica.
    #[error("{shard}: {cause}, so no replica can be made; repair the shard first")]
    NoSource {
        /// Name of the shard.
        shard: String,
        /// Reason.
        cause: &'static str,
    },
    /// The cluster has no node of this name.
    #[error("{0}: this cluster has no such node; see `cluster status`")]
    NoNode(String),
    /// The state of the node does not permit the operation.
    #[error("{node}: {cause}")]
    Unsuitable {
        /// Name of the node, or of its shard.
        node: String,
        /// Reason, and what to do.
        cause: String,
    },
    /// The user cannot choose this setting.
    #[error("the setting {name}: {cause}; leave it out")]
    Setting {
        /// Name of the setting.
        name: String,
        /// Reason.
        cause: &'static str,
    },
    /// PostgreSQL does not accept the setting.
    #[error("the setting {name}: PostgreSQL refuses it: {reason}; correct it, or leave it out")]
    RefusedSetting {
        /// Name of the setting.
        name: String,
        /// Message of the server program.
        reason: String,
    },
    /// A program failed.
    #[error("{node}: {program} failed: {output}; correct that, and run the command again")]
    Program {
        /// Name of the node for which the program ran, or `cluster`.
        node: String,
        /// Name of the program.
        program: String,
        /// Error output of the program.
        output: String,
    },
    /// A program cannot be executed.
    #[error("{}: this program cannot be run by user {user} ({source}); check the permissions of it and its folders", path.display())]
    Spawn {
        /// Path of the program.
        path: PathBuf,
        /// User that was to run it.
        user: String,
        /// Error of the system.
        source: io::Error,
    },
    /// A server did not start.
    #[error("{node} does not start: {reason}; its log is {}", log.display())]
    NotStarted {
        /// Name of the node.
        node: String,
        /// Last error in the server's log.
        reason: String,
        /// Path of the server's log.
        log: PathBuf,
    },
    /// A server did not stop.
    #[error("{node} does not stop: {reason}; its log is {}", log.display())]
    NotStopped {
        /// Name of the node.
        node: String,
        /// Result of the last attempt.
        reason: String,
        /// Path of the server's log.
        log: PathBuf,
    },
    /// A file operation failed.
    #[error("{}: {source}; check the path and its permissions", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
}

impl LocalError {
    /// Attaches the path to an error of the file system.
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}
