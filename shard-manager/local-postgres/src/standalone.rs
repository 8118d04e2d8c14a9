//! Standalone: a single node whose server replaces this process, for containers and service
//! managers.
//!
//! ```text
//! /var/lib/tessera/node/
//!   node.json          manifest of the node
//!   cluster.lock       held while the node is made, and by its server as long as that runs
//!   password, pgpass   the password of the databases, as given at the last start
//!   hba.conf           networks that may connect
//!   server/            the node (`node`)
//! ```
//!
//! A standalone node is created like the nodes of a cluster (`provision`), with these differences:
//! other machines may connect to the node, its primary may be on another machine, and only the
//! container or service manager that runs this process starts or stops the node.
//!
//! **Invariant:** the files on disk determine the role of a node; the specification only determines
//! what is created in an empty directory. Until a node is complete, no other machine can connect to
//! its server.
//! **Not here:** the decision to promote a replica.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster_dir::{ClusterDir, Lock, PASSFILE, PASSWORD, read_manifest};
use crate::error::LocalError;
use crate::node::{LocalNode, Stop};
use crate::node_dir::NodeDir;
use crate::ports;
use crate::programs::Programs;
use crate::provision::{ensure_slot, make_primary, make_replica};
use crate::settings;
use crate::shared_env::{DATABASE_USER, Peer, Secret, SharedEnv};
use model::topology::Role;

const MANIFEST: &str = "node.json";
const ACCESS: &str = "hba.conf";
const SERVER: &str = "server";
const FORMAT: u32 = 1;
/// Time limit for processes of a killed server to release the directory.
const LEFT_OVER_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);
/// Error messages after which a further attempt to connect would fail as well.
const FINAL: [&str; 2] = ["password authentication failed", "no pg_hba.conf entry"];

/// Specification of a standalone node.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Directory of the node.
    pub dir: PathBuf,
    /// Name of the node and of its replication slot.
    pub name: String,
    /// Database that a new primary creates; a replica has the databases of its source.
    pub database: String,
    /// Server from which the node replicates; `None` for a primary.
    pub source: Option<Peer>,
    /// Addresses on which the server listens, in PostgreSQL's notation; `*` means all.
    pub listen: Vec<String>,
    /// Port.
    pub port: u16,
    /// Networks, such as `10.0.0.0/8` or `samenet`, that may connect with the password, in addition
    /// to this machine.
    pub allow: Vec<String>,
    /// Password of the databases.
    pub password: Secret,
    /// User that runs the server if this process runs as root; by default `postgres`, or `nobody`
    /// if there is no such user.
    pub user: Option<String>,
    /// Folder of PostgreSQL's programs; default: the newest installed version.
    pub pg_bin: Option<PathBuf>,
    /// Additional server settings, such as `("shared_buffers", "1GB")`.
    pub settings: Vec<(String, String)>,
}

/// Description of a node, as `node.json` holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeManifest {
    format: u32,
    name: String,
    /// Major version of PostgreSQL with which the node was created.
    major: u32,
    /// Folder of the programs that were used at the last start.
    bin: PathBuf,
    port: u16,
    /// True if the node was complete at some time.
    is_made: bool,
    /// True if the node was the primary at the last start.
    leads: bool,
}

/// Status that the server of a node reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Current role of the node.
    pub role: Role,
    /// True if the node is a replica that is streaming from its source.
    pub streams: bool,
}

/// Complete node, ready to be run.
#[derive(Debug)]
pub struct StandaloneNode {
    node: LocalNode,
    lock: Lock,
    listen: Vec<String>,
}

impl StandaloneNode {
    /// Creates the node if its directory contains no node or an incomplete one. Waits until the
    /// source of a new replica responds. Progress is reported as lines of text.
    ///
    /// # Errors
    /// [`LocalError`], whose message states what to do. The next call continues where this one
    /// failed.
    pub fn make(spec: &NodeSpec, report: &mut dyn FnMut(&str)) -> Result<Self, LocalError> {
        check(spec)?;
        let name = spec.name.clone();
        let unsuitable = |cause: String| LocalError::Unsuitable { node: name.clone(), cause };
        let named = |error: LocalError| {
            if let LocalError::ForeignContents(dir) = &error {
                let dir = dir.display();
                return unsuitable(format!(
                    "the directory {dir} is not empty and holds no node; name another"
                ));
            }
            if let LocalError::Busy(dir) = &error {
                let dir = dir.display();
                return unsuitable(format!("a server or another command uses {dir}; stop that"));
            }
            error
        };
        let prepared = ClusterDir::prepare(&spec.dir, spec.user.as_deref(), MANIFEST);
        let (cluster_dir, _) = prepared.map_err(named)?;
        let lock = lock_with_retry(&cluster_dir).map_err(named)?;
        let known = NodeManifest::load(&cluster_dir.path)?;
        if let Some(known) = known.as_ref().filter(|known| known.name != name) {
            let (dir, other) = (cluster_dir.path.display(), &known.name);
            return Err(unsuitable(format!("{dir} holds {other}; name its own directory")));
        }
        let programs = programs_for(known.as_ref(), &cluster_dir.path, spec.pg_bin.as_deref())?;
        write_password(&cluster_dir, &spec.password)?;
        cluster_dir.write(&cluster_dir.path.join(ACCESS), &access_rules(&spec.allow))?;
        let mut manifest = known.unwrap_or_else(|| NodeManifest::new(spec, &programs));
        (manifest.port, manifest.bin) = (spec.port, programs.bin.clone());
        let (password, settings) = (spec.password.clone(), spec.settings.clone());
        let env = Arc::new(SharedEnv::new(cluster_dir, programs, password, settings));
        env.check_reach()?;
        manifest.save(&env.cluster_dir)?;
        let node = node_of(env, &manifest, &spec.database, spec.source.clone());
        make_or_check(&node, &mut manifest, &lock, report)?;
        Ok(Self { node, lock, listen: spec.listen.clone() })
    }

    /// Returns the role of the node according to the files on disk.
    pub fn role(&self) -> Role {
        if self.node.dir.is_standby() { Role::Replica } else { Role::Primary }
    }

    /// Replaces this process with the server; returns only if that fails. The server and its child
    /// processes hold the lock of the directory until all of them have exited.
    pub fn run(self) -> LocalError {
        if let Err(error) = self.write_start_files() {
            return error;
        }
        let mut command = self.node.env.command("postgres");
        command.arg("-D").arg(self.node.dir.data()).stdin(self.lock.shared());
        let source = command.exec();
        let path = PathBuf::from(command.get_program());
        LocalError::Spawn { path, user: self.node.env.cluster_dir.os_user.name(), source }
    }

    /// Writes the files that the server reads at its start.
    fn write_start_files(&self) -> Result<(), LocalError> {
        self.node.dir.remove_stale_pid_file()?;
        restrict_mode(&self.node.dir.data(), 0o700)?;
        let access = self.node.env.cluster_dir.path.join(ACCESS);
        self.node.write_settings(&[
            ("listen_addresses", addresses(&self.listen)),
            ("hba_file", access.to_string_lossy().into_owned()),
        ])
    }

    /// Queries the status of the server of the node in a directory.
    ///
    /// # Errors
    /// [`LocalError::Unsuitable`] if there is no node or it is still being created,
    /// [`LocalError::Program`] if the server does not answer.
    pub fn status(dir: &Path) -> Result<NodeStatus, LocalError> {
        let Some(manifest) = NodeManifest::load(dir)? else {
            let (node, cause) = (dir.display().to_string(), "there is no node here".to_owned());
            return Err(LocalError::Unsuitable { node, cause });
        };
        let cluster_dir = ClusterDir::open(dir, MANIFEST)?;
        let programs = Programs { bin: manifest.bin.clone(), major: manifest.major };
        // The password is not needed here, because client programs read the passfile.
        let password = Secret(String::new());
        let env = Arc::new(SharedEnv::new(cluster_dir, programs, password, Vec::new()));
        let node = node_of(env, &manifest, "", None);
        if !manifest.is_made || !node.dir.is_complete() {
            let cause = "it is being made; wait".to_owned();
            return Err(LocalError::Unsuitable { node: manifest.name, cause });
        }
        let output = node.query(
            "SELECT pg_is_in_recovery(), EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')",
        )?;
        let (recovers, streams) = output.split_once('|').unwrap_or_default();
        let role = if recovers == "t" { Role::Replica } else { Role::Primary };
        Ok(NodeStatus { role, streams: streams == "t" })
    }
}

impl NodeManifest {
    fn new(spec: &NodeSpec, programs: &Programs) -> Self {
        Self {
            format: FORMAT,
            name: spec.name.clone(),
            major: programs.major,
            bin: programs.bin.clone(),
            port: spec.port,
            is_made: false,
            leads: spec.source.is_none(),
        }
    }

    fn load(dir: &Path) -> Result<Option<Self>, LocalError> {
        let manifest: Option<Self> = read_manifest(&dir.join(MANIFEST))?;
        match manifest {
            Some(manifest) if manifest.format != FORMAT => Err(LocalError::Manifest {
                path: dir.join(MANIFEST),
                cause: format!("format {} is newer than this program", manifest.format),
            }),
            manifest => Ok(manifest),
        }
    }

    fn save(&self, cluster_dir: &ClusterDir) -> Result<(), LocalError> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        cluster_dir.write(&cluster_dir.path.join(MANIFEST), &(text + "\n"))
    }
}

fn node_of(
    env: Arc<SharedEnv>,
    manifest: &NodeManifest,
    database: &str,
    source: Option<Peer>,
) -> LocalNode {
    LocalNode {
        name: manifest.name.clone(),
        shard: 0,
        database: database.to_owned(),
        role: if source.is_none() { Role::Primary } else { Role::Replica },
        port: manifest.port,
        dir: NodeDir { path: env.cluster_dir.path.join(SERVER) },
        was_complete: manifest.is_made,
        is_recorded_primary: source.is_none(),
        source,
        env,
    }
}

/// Creates a missing or incomplete node. For an existing replica, only ensures that its replication
/// slot exists on the source.
fn make_or_check(
    node: &LocalNode,
    manifest: &mut NodeManifest,
    lock: &Lock,
    report: &mut dyn FnMut(&str),
) -> Result<(), LocalError> {
    if node.dir.is_complete() {
        // If an earlier attempt was interrupted at its end, its server may still be running.
        node.stop(Stop::Fast)?;
    } else if manifest.is_made && (manifest.leads || node.source.is_none()) {
        return Err(LocalError::Lost { node: node.name.clone(), dir: node.dir.path.clone() });
    } else {
        // The server runs on a temporary port that no client knows, because it will soon be
        // restarted.
        let node = LocalNode { port: ports::choose_free(1, &[node.port])?[0], ..node.clone() };
        if let Some(source) = &node.source {
            await_source(&node, source, report)?;
            report(&format!("copying {source}"));
            make_replica(&node, source, lock)?;
        } else {
            report("making an empty database");
            make_primary(&node, lock)?;
        }
        node.stop(Stop::Fast)?;
    }
    let leads = !node.dir.is_standby();
    match &node.source {
        Some(_) if leads => report("it was promoted: it is the primary now"),
        None if !leads => {
            let cause = "it is a replica: promote it, or run it as `node replica` of its source";
            return Err(LocalError::Unsuitable {
                node: node.name.clone(),
                cause: cause.to_owned(),
            });
        }
        // After a failover the source may be a different server, which has no replication slot for
        // this node yet. If the source does not answer, the node is started anyway and connects
        // later.
        Some(source) => {
            if let Err(error) = ensure_slot(node, source, lock) {
                report(&format!("its source {source} does not answer yet ({error})"));
            }
        }
        None => {}
    }
    (manifest.is_made, manifest.leads) = (true, leads);
    manifest.save(&node.env.cluster_dir)
}

/// Waits until the source of a new replica responds.
fn await_source(
    node: &LocalNode,
    source: &Peer,
    report: &mut dyn FnMut(&str),
) -> Result<(), LocalError> {
    let mut last = String::new();
    loop {
        let mut command = node.env.client("psql", source);
        command.args(["-X", "-q", "-A", "-t", "-d", "postgres", "-c", "SELECT 1"]);
        let Err(error) = node.env.run(&node.name, &mut command) else { return Ok(()) };
        let LocalError::Program { output, .. } = &error else { return Err(error) };
        if FINAL.iter().any(|words| output.contains(words)) {
            return Err(error);
        }
        if *output != last {
            report(&format!("waiting for {source}: {output}"));
            last.clone_from(output);
        }
        sleep(POLL);
    }
}

/// Locks a directory. Waits for a while if processes of a server that was just killed still hold
/// the lock.
fn lock_with_retry(cluster_dir: &ClusterDir) -> Result<Lock, LocalError> {
    let deadline = Instant::now() + LEFT_OVER_MAX;
    loop {
        match cluster_dir.lock() {
            Err(LocalError::Busy(_)) if Instant::now() < deadline => sleep(POLL),
            ended => return ended,
        }
    }
}

/// Finds PostgreSQL programs of the major version with which the node was created.
fn programs_for(
    known: Option<&NodeManifest>,
    dir: &Path,
    named: Option<&Path>,
) -> Result<Programs, LocalError> {
    let found = Programs::find(named)?;
    let Some(known) = known.filter(|known| known.major != found.major) else { return Ok(found) };
    let other = if named.is_none() { Programs::find_major(known.major) } else { None };
    other.ok_or_else(|| LocalError::OtherVersion {
        dir: dir.to_owned(),
        made: known.major,
        found: format!("version {} in {}", found.major, found.bin.display()),
    })
}

/// Writes the password file and the passfile of libpq, in which colons and backslashes are escaped
/// with a backslash.
fn write_password(cluster_dir: &ClusterDir, password: &Secret) -> Result<(), LocalError> {
    cluster_dir.write(&cluster_dir.path.join(PASSWORD), &format!("{}\n", password.0))?;
    let escaped = password.0.replace('\\', "\\\\").replace(':', "\\:");
    let passfile = cluster_dir.path.join(PASSFILE);
    cluster_dir.write(&passfile, &format!("*:*:*:{DATABASE_USER}:{escaped}\n"))?;
    restrict_mode(&passfile, 0o600)
}

/// Returns the addresses on which the server listens: the requested ones, and loopback for health
/// checks.
fn addresses(listen: &[String]) -> String {
    let covers = ["*", "0.0.0.0", "127.0.0.1", "localhost"];
    let mut all: Vec<&str> = listen.iter().map(String::as_str).collect();
    if !all.iter().any(|address| covers.contains(address)) {
        all.push("127.0.0.1");
    }
    all.join(",")
}

/// Removes permissions that mounting a volume may have added, because PostgreSQL refuses files that
/// other users can read.
fn restrict_mode(path: &Path, mode: u32) -> Result<(), LocalError> {
    let permissions = fs::metadata(path).map_err(LocalError::file(path))?.permissions();
    if permissions.mode() & 0o777 & !mode == 0 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(LocalError::file(path))
}

/// Returns the contents of `hba.conf`, which lets the database user connect with the password from
/// this machine and from the named networks.
fn access_rules(networks: &[String]) -> String {
    let here = ["127.0.0.1/32", "::1/128"];
    let networks = here.into_iter().chain(networks.iter().map(String::as_str));
    let line = |network| {
        ["all", "replication"]
            .map(|what| format!("host {what} {DATABASE_USER} {network} scram-sha-256\n"))
            .concat()
    };
    std::iter::once("# Written at each start of this node.\n".to_owned())
        .chain(networks.map(line))
        .collect()
}

fn check(spec: &NodeSpec) -> Result<(), LocalError> {
    settings::check(&spec.settings)?;
    let unsuitable = |cause: String| Err(LocalError::Unsuitable { node: spec.name.clone(), cause });
    let is_name = |name: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.len() <= 63
            && name.chars().all(plain)
    };
    if !is_name(&spec.name) {
        return unsuitable("a name is up to 63 of a-z, 0-9, - and _, a letter first".to_owned());
    }
    if spec.source.is_none() && !is_name(&spec.database) {
        let cause = "a name of a database is up to 63 of a-z, 0-9, - and _, a letter first";
        return unsuitable(format!("{:?}: {cause}", spec.database));
    }
    let is_host = |host: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
        !host.is_empty() && !host.starts_with('-') && host.chars().all(plain)
    };
    if let Some(source) = spec.source.as_ref().filter(|source| !is_host(&source.host)) {
        return unsuitable(format!("{:?} is not a host", source.host));
    }
    if let Some(bad) = spec.listen.iter().find(|it| !is_host(it) && *it != "*") {
        return unsuitable(format!("{bad:?} is not an address to listen on, such as 0.0.0.0"));
    }
    if let Some(bad) = spec.allow.iter().find(|network| !is_network(network)) {
        return unsuitable(format!("{bad:?} is not a network, such as 10.0.0.0/8 or samenet"));
    }
    let word = &spec.password.0;
    if word.is_empty() || word.contains(|c: char| c.is_control()) {
        return unsuitable("the password is empty, or holds a control character".to_owned());
    }
    Ok(())
}

/// Returns true if PostgreSQL accepts this string as a range of addresses.
fn is_network(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return text == "samenet" };
    let most = match address.parse() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_a_range_of_addresses_or_that_of_this_machine() {
        for good in ["10.0.0.0/8", "fd00::/8", "192.168.1.7/32", "samenet"] {
            assert!(is_network(good), "{good}");
        }
        for bad in ["", "all", "10.0.0.0", "10.0.0.0/33", "db/8", "10.0.0.0/8 trust", "samenet\n"] {
            assert!(!is_network(bad), "{bad}");
        }
    }

    #[test]
    fn a_node_is_always_reachable_from_its_own_machine() {
        let on = |address: &str| addresses(&[address.to_owned()]);
        assert_eq!(on("10.0.0.5"), "10.0.0.5,127.0.0.1");
        assert_eq!(on("::"), "::,127.0.0.1");
        assert_eq!(on("0.0.0.0"), "0.0.0.0");
    }

    #[test]
    fn every_connection_needs_the_password() {
        let text = access_rules(&["10.1.0.0/16".to_owned()]);
        let rules: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(rules.len(), 6);
        assert!(rules.iter().all(|rule| rule.ends_with(" scram-sha-256")), "{text}");
        assert!(text.contains("host replication tessera 10.1.0.0/16 scram-sha-256\n"), "{text}");
    }
}
