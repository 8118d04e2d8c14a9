//! Lone: one node by itself, whose server takes the place of this process, for containers and service managers.
//!
//! ```text
//! /var/lib/tessera/node/
//!   node.json          what it was made as (`NodeNotes`)
//!   cluster.lock       held by whoever makes the node, and by its server as long as that runs
//!   password, pgpass   the password of the databases, as it was given at the last start
//!   hba.conf           who is let in
//!   server/            the node (`node`)
//! ```
//!
//! It is made as nodes of a cluster are (`provision`). Where it differs: others may reach it, its source may be another
//! machine, and nobody starts or stops it but whoever runs this process.
//!
//! **Invariant:** what stands on the disk decides what a node is; what is asked for decides only how an empty directory
//! is filled. Until a node is complete nobody else can reach its server.
//! **Not here:** when a replica is to take over.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::cluster_dir::{Lock, PASSFILE, PASSWORD, Place, read_notes};
use super::error::LocalError;
use super::node::{LocalNode, Stop};
use super::programs::Programs;
use super::provision::{ensure_slot, make_primary, make_replica};
use super::shared_env::{DATABASE_USER, Ground, Peer, Secret};
use super::{ports, settings};
use crate::topology::Role;

const NOTES: &str = "node.json";
const ACCESS: &str = "hba.conf";
const SERVER: &str = "server";
const FORMAT: u32 = 1;
/// How long processes of a server that was killed may still hold the directory.
const LEFT_OVER_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);
/// What a server says to a client that it will never let in.
const FINAL: [&str; 2] = ["password authentication failed", "no pg_hba.conf entry"];

/// The node that is to be.
#[derive(Clone, Debug)]
pub struct WantedNode {
    /// Its directory.
    pub dir: PathBuf,
    /// What it is called, and its slot.
    pub name: String,
    /// The database that a new primary gets; a replica has those of its source.
    pub database: String,
    /// Whom it follows; nobody if it is to lead.
    pub source: Option<Peer>,
    /// Addresses that it listens on, as PostgreSQL spells them; `*` is all.
    pub listen: Vec<String>,
    /// Its port.
    pub port: u16,
    /// Networks that are let in with the password, beside this machine: `10.0.0.0/8`, `samenet`.
    pub allow: Vec<String>,
    /// The password of the databases.
    pub password: Secret,
    /// Who runs the server when the caller is root; `postgres`, else `nobody` without it.
    pub user: Option<String>,
    /// The folder of the programs; the newest that are installed without it.
    pub pg_bin: Option<PathBuf>,
    /// More settings of the server, such as `("shared_buffers", "1GB")`.
    pub settings: Vec<(String, String)>,
}

/// What is noted about a node in its directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeNotes {
    format: u32,
    name: String,
    /// The version of PostgreSQL that made it.
    major: u32,
    /// Where its programs were when it was last started.
    bin: PathBuf,
    port: u16,
    /// Whether it was ever complete.
    is_made: bool,
    /// Whether it led when it was last started.
    leads: bool,
}

/// What the server of a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAnswer {
    /// What it is now.
    pub role: Role,
    /// Whether a replica receives what its source writes.
    pub streams: bool,
}

/// A node that is complete and can be run.
#[derive(Debug)]
pub struct LoneNode {
    node: LocalNode,
    lock: Lock,
    listen: Vec<String>,
}

impl LoneNode {
    /// Makes the node if its directory has none, or half of one. A new replica waits until its source answers; what it
    /// waits for is told.
    ///
    /// # Errors
    /// [`LocalError`], whose words tell what to do; the next call carries on.
    pub fn make(wanted: &WantedNode, told: &mut dyn FnMut(&str)) -> Result<Self, LocalError> {
        check(wanted)?;
        let name = wanted.name.clone();
        let unfit = |cause: String| LocalError::Unfit { node: name.clone(), cause };
        let named = |error: LocalError| {
            if let LocalError::NotOurs(dir) = &error {
                let dir = dir.display();
                return unfit(format!(
                    "the directory {dir} is not empty and holds no node; name another"
                ));
            }
            if let LocalError::Busy(dir) = &error {
                let dir = dir.display();
                return unfit(format!("a server or another command works in {dir}; end that"));
            }
            error
        };
        let prepared = Place::prepare(&wanted.dir, wanted.user.as_deref(), NOTES);
        let (place, _) = prepared.map_err(named)?;
        let lock = lock_soon(&place).map_err(named)?;
        let known = NodeNotes::load(&place.dir)?;
        if let Some(known) = known.as_ref().filter(|known| known.name != name) {
            let (dir, other) = (place.dir.display(), &known.name);
            return Err(unfit(format!("{dir} holds {other}; name its own directory")));
        }
        let programs = programs_for(known.as_ref(), &place.dir, wanted.pg_bin.as_deref())?;
        write_password(&place, &wanted.password)?;
        place.write(&place.dir.join(ACCESS), &access(&wanted.allow))?;
        let mut notes = known.unwrap_or_else(|| NodeNotes::new(wanted, &programs));
        (notes.port, notes.bin) = (wanted.port, programs.bin.clone());
        let (password, settings) = (wanted.password.clone(), wanted.settings.clone());
        let ground = Arc::new(Ground { place, programs, password, settings });
        ground.check_reach()?;
        notes.save(&ground.place)?;
        let node = node_of(ground, &notes, &wanted.database, wanted.source.clone());
        fill(&node, &mut notes, &lock, told)?;
        Ok(Self { node, lock, listen: wanted.listen.clone() })
    }

    /// What it is, as it stands on the disk.
    pub fn role(&self) -> Role {
        if self.node.is_standby() { Role::Replica } else { Role::Primary }
    }

    /// The server in place of this process; returns only if that cannot be. The server holds the directory until it and
    /// all that it has started have ended.
    pub fn run(self) -> LocalError {
        if let Err(error) = self.settle() {
            return error;
        }
        let mut command = self.node.ground.command("postgres");
        command.arg("-D").arg(self.node.data_dir()).stdin(self.lock.shared());
        let source = command.exec();
        let path = PathBuf::from(command.get_program());
        LocalError::Spawn { path, user: self.node.ground.place.account.name(), source }
    }

    /// Writes what the server reads at its start.
    fn settle(&self) -> Result<(), LocalError> {
        self.node.forget_number()?;
        tighten(&self.node.data_dir(), 0o700)?;
        let access = self.node.ground.place.dir.join(ACCESS);
        self.node.write_settings_with(vec![
            ("listen_addresses", addresses(&self.listen)),
            ("hba_file", access.to_string_lossy().into_owned()),
        ])
    }

    /// What the server of the node in a directory answers.
    ///
    /// # Errors
    /// [`LocalError::Unfit`] if there is none, or it is still being made, [`LocalError::Program`] if it does not answer.
    pub fn ask(dir: &Path) -> Result<NodeAnswer, LocalError> {
        let Some(notes) = NodeNotes::load(dir)? else {
            let (node, cause) = (dir.display().to_string(), "there is no node here".to_owned());
            return Err(LocalError::Unfit { node, cause });
        };
        let place = Place::of(dir, NOTES)?;
        let programs = Programs { bin: notes.bin.clone(), major: notes.major };
        // Programs read the file beside it.
        let password = Secret(String::new());
        let ground = Arc::new(Ground { place, programs, password, settings: Vec::new() });
        let node = node_of(ground, &notes, "", None);
        if !notes.is_made || !node.is_complete() {
            let cause = "it is being made; wait".to_owned();
            return Err(LocalError::Unfit { node: notes.name, cause });
        }
        let said = node.ask(
            "SELECT pg_is_in_recovery(), EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')",
        )?;
        let (recovers, streams) = said.split_once('|').unwrap_or_default();
        let role = if recovers == "t" { Role::Replica } else { Role::Primary };
        Ok(NodeAnswer { role, streams: streams == "t" })
    }
}

impl NodeNotes {
    fn new(wanted: &WantedNode, programs: &Programs) -> Self {
        Self {
            format: FORMAT,
            name: wanted.name.clone(),
            major: programs.major,
            bin: programs.bin.clone(),
            port: wanted.port,
            is_made: false,
            leads: wanted.source.is_none(),
        }
    }

    fn load(dir: &Path) -> Result<Option<Self>, LocalError> {
        let notes: Option<Self> = read_notes(&dir.join(NOTES))?;
        match notes {
            Some(notes) if notes.format != FORMAT => Err(LocalError::Notes {
                path: dir.join(NOTES),
                cause: format!("format {} is newer than this program", notes.format),
            }),
            notes => Ok(notes),
        }
    }

    fn save(&self, place: &Place) -> Result<(), LocalError> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        place.write(&place.dir.join(NOTES), &(text + "\n"))
    }
}

fn node_of(
    ground: Arc<Ground>,
    notes: &NodeNotes,
    database: &str,
    source: Option<Peer>,
) -> LocalNode {
    LocalNode {
        name: notes.name.clone(),
        shard: 0,
        database: database.to_owned(),
        role: if source.is_none() { Role::Primary } else { Role::Replica },
        port: notes.port,
        dir: ground.place.dir.join(SERVER),
        is_noted: notes.is_made,
        is_leading: source.is_none(),
        source,
        ground,
    }
}

/// Makes a node that is missing or half-made; of one that is there only its place on its source is seen to.
fn fill(
    node: &LocalNode,
    notes: &mut NodeNotes,
    lock: &Lock,
    told: &mut dyn FnMut(&str),
) -> Result<(), LocalError> {
    if node.is_complete() {
        // One that was cut off just after it was made may still run.
        node.stop(Stop::Fast)?;
    } else if notes.is_made && (notes.leads || node.source.is_none()) {
        return Err(LocalError::Lost { node: node.name.clone(), dir: node.dir.clone() });
    } else {
        // On a port that nobody knows: who found its server now would lose it again in a moment.
        let node = LocalNode { port: ports::anywhere(1, &[node.port])?[0], ..node.clone() };
        if let Some(source) = &node.source {
            await_source(&node, source, told)?;
            told(&format!("copying {source}"));
            make_replica(&node, source, lock)?;
        } else {
            told("making an empty database");
            make_primary(&node, lock)?;
        }
        node.stop(Stop::Fast)?;
    }
    let leads = !node.is_standby();
    match &node.source {
        Some(_) if leads => told("it was promoted: it leads, and follows nobody"),
        None if !leads => {
            let cause = "it is a replica: promote it, or run it as `node replica` of its source";
            return Err(LocalError::Unfit { node: node.name.clone(), cause: cause.to_owned() });
        }
        // After a failover it may be another one, which has no slot for it; if it does not answer, it is asked for by
        // the server itself.
        Some(source) => {
            if let Err(error) = ensure_slot(node, source, lock) {
                told(&format!("its source {source} does not answer yet ({error})"));
            }
        }
        None => {}
    }
    (notes.is_made, notes.leads) = (true, leads);
    notes.save(&node.ground.place)
}

/// Waits until the source of a new replica answers.
fn await_source(
    node: &LocalNode,
    source: &Peer,
    told: &mut dyn FnMut(&str),
) -> Result<(), LocalError> {
    let mut last = String::new();
    loop {
        let mut command = node.ground.client("psql", source);
        command.args(["-X", "-q", "-A", "-t", "-d", "postgres", "-c", "SELECT 1"]);
        let Err(error) = node.ground.run(&node.name, &mut command) else { return Ok(()) };
        let LocalError::Program { said, .. } = &error else { return Err(error) };
        if FINAL.iter().any(|words| said.contains(words)) {
            return Err(error);
        }
        if *said != last {
            told(&format!("waiting for {source}: {said}"));
            last.clone_from(said);
        }
        sleep(POLL);
    }
}

/// The right to work in a directory, which processes of a server that was killed may still have for a moment.
fn lock_soon(place: &Place) -> Result<Lock, LocalError> {
    let deadline = Instant::now() + LEFT_OVER_MAX;
    loop {
        match place.lock() {
            Err(LocalError::Busy(_)) if Instant::now() < deadline => sleep(POLL),
            ended => return ended,
        }
    }
}

/// The programs of the version that made the node.
fn programs_for(
    known: Option<&NodeNotes>,
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

/// In the passfile a colon and a backslash have a backslash before them.
fn write_password(place: &Place, password: &Secret) -> Result<(), LocalError> {
    place.write(&place.dir.join(PASSWORD), &format!("{}\n", password.0))?;
    let escaped = password.0.replace('\\', "\\\\").replace(':', "\\:");
    let passfile = place.dir.join(PASSFILE);
    place.write(&passfile, &format!("*:*:*:{DATABASE_USER}:{escaped}\n"))?;
    tighten(&passfile, 0o600)
}

/// Those that are wanted, and that by which it is asked whether it answers.
fn addresses(listen: &[String]) -> String {
    let covers = ["*", "0.0.0.0", "127.0.0.1", "localhost"];
    let mut all: Vec<&str> = listen.iter().map(String::as_str).collect();
    if !all.iter().any(|address| covers.contains(address)) {
        all.push("127.0.0.1");
    }
    all.join(",")
}

/// Takes back what whoever mounts a volume may have opened to its group: PostgreSQL refuses to use such a thing.
fn tighten(path: &Path, mode: u32) -> Result<(), LocalError> {
    let permissions = fs::metadata(path).map_err(LocalError::file(path))?.permissions();
    if permissions.mode() & 0o777 & !mode == 0 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(LocalError::file(path))
}

/// Who is let in: this machine, and our user from the networks that are named, with the password.
fn access(networks: &[String]) -> String {
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

fn check(wanted: &WantedNode) -> Result<(), LocalError> {
    settings::check(&wanted.settings)?;
    let unfit = |cause: String| Err(LocalError::Unfit { node: wanted.name.clone(), cause });
    let is_name = |name: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.len() <= 63
            && name.chars().all(plain)
    };
    if !is_name(&wanted.name) {
        return unfit("a name is up to 63 of a-z, 0-9, - and _, a letter first".to_owned());
    }
    if wanted.source.is_none() && !is_name(&wanted.database) {
        let cause = "a database is called by up to 63 of a-z, 0-9, - and _, a letter first";
        return unfit(format!("{:?}: {cause}", wanted.database));
    }
    let is_host = |host: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
        !host.is_empty() && !host.starts_with('-') && host.chars().all(plain)
    };
    if let Some(source) = wanted.source.as_ref().filter(|source| !is_host(&source.host)) {
        return unfit(format!("{:?} is no host", source.host));
    }
    if let Some(bad) = wanted.listen.iter().find(|it| !is_host(it) && *it != "*") {
        return unfit(format!("{bad:?} is no address to listen on, such as 0.0.0.0"));
    }
    if let Some(bad) = wanted.allow.iter().find(|network| !is_network(network)) {
        return unfit(format!("{bad:?} is no network, such as 10.0.0.0/8 or samenet"));
    }
    let word = &wanted.password.0;
    if word.is_empty() || word.contains(|c: char| c.is_control()) {
        return unfit("the password is empty, or holds a control character".to_owned());
    }
    Ok(())
}

/// Whether PostgreSQL takes this for a range of addresses.
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
    fn a_node_can_always_be_asked_from_its_own_machine() {
        let on = |address: &str| addresses(&[address.to_owned()]);
        assert_eq!(on("10.0.0.5"), "10.0.0.5,127.0.0.1");
        assert_eq!(on("::"), "::,127.0.0.1");
        assert_eq!(on("0.0.0.0"), "0.0.0.0");
    }

    #[test]
    fn nobody_is_let_in_without_the_password() {
        let text = access(&["10.1.0.0/16".to_owned()]);
        let rules: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(rules.len(), 6);
        assert!(rules.iter().all(|rule| rule.ends_with(" scram-sha-256")), "{text}");
        assert!(text.contains("host replication tessera 10.1.0.0/16 scram-sha-256\n"), "{text}");
    }
}
