//! Trouble: why a local cluster cannot be made, started, stopped or looked at.
//!
//! **Invariant:** every error says in one line what is so and what to do.
//! **Not here:** how an operator is told (`command`).

use std::io;
use std::path::{Path, PathBuf};

/// Why something could not be done to a local cluster; shown to the operator.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// There are no programs of PostgreSQL, or not all of them.
    #[error(
        "{cause}; install PostgreSQL {least} or later with its server (Debian and Ubuntu: postgresql, Fedora: \
         postgresql-server, Homebrew: postgresql@17), or name its folder of programs with --pg-bin or TESSERA_PG_BIN"
    )]
    NoPrograms {
        /// What was found, or not.
        cause: String,
        /// The least version that will do.
        least: u32,
    },
    /// The cluster was made by another PostgreSQL.
    #[error(
        "{}: made with PostgreSQL {made}, and here is {found}; install version {made}, or name its folder of programs \
         with --pg-bin", dir.display()
    )]
    OtherVersion {
        /// The cluster's directory.
        dir: PathBuf,
        /// With which it was made.
        made: u32,
        /// What there is.
        found: String,
    },
    /// There is no cluster in this directory.
    #[error("{}: there is no local cluster here; make one with `shard-manager cluster up`", .0.display())]
    NoCluster(PathBuf),
    /// A directory that holds other things.
    #[error("{}: this directory is not empty and holds no local cluster; name another", .0.display())]
    NotOurs(PathBuf),
    /// The notes about the cluster cannot be used.
    #[error("{}: {cause}", path.display())]
    Notes {
        /// Their file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Another command works in the directory.
    #[error("{}: another command works on this cluster; wait until it has ended", .0.display())]
    Busy(PathBuf),
    /// A cluster that is half gone.
    #[error("{}: this cluster is being destroyed; end that with `shard-manager cluster destroy`", .0.display())]
    Going(PathBuf),
    /// A number of shards or replicas that cannot be.
    #[error("{wanted} {what} are wanted, and there can be {least} to {most}; ask for as many")]
    Range {
        /// Shards or replicas.
        what: &'static str,
        /// How many are wanted.
        wanted: usize,
        /// The fewest.
        least: usize,
        /// The most.
        most: usize,
    },
    /// The wanted number of shards differs from the number that exists.
    #[error(
        "{}: the cluster has {has} shards, which its rows are spread over, and a cluster cannot be given {wanted} yet; \
         leave --shards out, or make a new cluster with --dir elsewhere and write the rows to it through its router",
        dir.display()
    )]
    OtherShards {
        /// The cluster's directory.
        dir: PathBuf,
        /// Number of shards that exist.
        has: usize,
        /// Number of shards that is wanted.
        wanted: usize,
    },
    /// Fewer than there are.
    #[error(
        "{}: there are {has} {what} and {wanted} are wanted, but what holds rows is not taken away; ask for {has} or \
         more, or destroy the cluster", dir.display()
    )]
    Fewer {
        /// The cluster's directory.
        dir: PathBuf,
        /// Shards or replicas.
        what: &'static str,
        /// How many there are.
        has: usize,
        /// How many are wanted.
        wanted: usize,
    },
    /// Other ports than the cluster has.
    #[error("{}: this cluster keeps the ports that it has (see `cluster status`); leave the port out", .0.display())]
    OtherPorts(PathBuf),
    /// No ports are left after the first one.
    #[error("there are not {wanted} ports from {first} on; name a lower one")]
    PortsEnd {
        /// The first.
        first: u16,
        /// How many are needed.
        wanted: usize,
    },
    /// A port that cannot be listened on.
    #[error("{node}: port {port} cannot be had ({source}); end whatever has it, and try again")]
    Port {
        /// Whose port.
        node: String,
        /// Which.
        port: u16,
        /// Why not.
        source: io::Error,
    },
    /// No free port was found.
    #[error("no free port was found between 20000 and 32000; name a first one with --port")]
    NoPort,
    /// A user whom the system does not know, or who must not run servers.
    #[error("user {user}: {cause}; name another with --user")]
    User {
        /// Name or number.
        user: String,
        /// What is wrong with that user.
        cause: String,
    },
    /// The directory is another user's.
    #[error("{}: this belongs to the user with the number {owner}; run the command as that user, or as root", dir.display())]
    OthersDirectory {
        /// The cluster's directory.
        dir: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// The user who runs the servers does not get to the directory.
    #[error(
        "{}: user {user}, who runs the servers, may not pass through {}; allow it (chmod o+x {}), name another \
         directory, or another user with --user", dir.display(), at.display(), at.display()
    )]
    Unreachable {
        /// The cluster's directory.
        dir: PathBuf,
        /// Where the way ends.
        at: PathBuf,
        /// Who.
        user: String,
    },
    /// The data of a primary is gone.
    #[error(
        "{node}: {} is gone, and rows with it: it is not made again, for it would be empty; put it back, or destroy \
         the cluster", dir.display()
    )]
    Lost {
        /// The node.
        node: String,
        /// Its folder.
        dir: PathBuf,
    },
    /// It cannot be told from which node a replica is to be made.
    #[error("{shard}: {cause}, so no replica can be made; bring the shard in order first")]
    NoSource {
        /// The shard.
        shard: String,
        /// Why.
        cause: &'static str,
    },
    /// There is no such node.
    #[error("{0}: this cluster has no such node; see `cluster status`")]
    NoNode(String),
    /// A node that is not in the state for what is asked.
    #[error("{node}: {cause}")]
    Unfit {
        /// The node, or its shard.
        node: String,
        /// Why not, and what to do.
        cause: String,
    },
    /// A setting that is not for its user to choose.
    #[error("the setting {name}: {cause}; leave it out")]
    Setting {
        /// Which.
        name: String,
        /// Why not.
        cause: &'static str,
    },
    /// A program said that it could not do what it was asked.
    #[error("{node}: {program} failed: {said}; put that right, and run the command again")]
    Program {
        /// For which node, or the cluster.
        node: String,
        /// Which program.
        program: String,
        /// What it said.
        said: String,
    },
    /// A program cannot be run at all.
    #[error("{}: this program cannot be run by user {user} ({source}); look who may read it and its folders", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// By whom.
        user: String,
        /// Why not.
        source: io::Error,
    },
    /// A server did not start.
    #[error("{node} does not start: {said}; its log is {}", log.display())]
    NotStarted {
        /// The node.
        node: String,
        /// What it said last.
        said: String,
        /// Where it says more.
        log: PathBuf,
    },
    /// A server did not stop.
    #[error("{node} does not stop: {said}; its log is {}", log.display())]
    NotStopped {
        /// The node.
        node: String,
        /// What is known.
        said: String,
        /// Where it says more.
        log: PathBuf,
    },
    /// The file system said no.
    #[error("{}: {source}; look at the path and who may use it", path.display())]
    File {
        /// Of what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl LocalError {
    /// What the file system said of a path.
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}
