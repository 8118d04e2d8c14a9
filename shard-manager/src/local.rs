//! Local: PostgreSQL clusters on this machine, of the programs that are installed, and the node of one container (`standalone`),
//! made by the same code.
//!
//! ```text
//! data-postgres/
//!   cluster.json       which nodes there are, with their ports (`manifest`)
//!   cluster.lock       held by the one command that works here (`cluster_dir`)
//!   password, pgpass   the password of the databases, as a word and as PostgreSQL's clients read it
//!   tessera.env        SHARD_URLS and REPLICA_URLS, for a router
//!   shard1-primary/    one server (`node`), and so on
//! ```
//!
//! `up` makes what is missing and starts what is stopped; what runs it leaves alone. An `up` that was cut off, whenever
//! that was, is carried on by the next one.
//!
//! **Invariant:** rows are never taken away but by `destroy`: a node that was complete once is not cleared away to be made
//! again, unless it is a replica that is gone or that somebody names. Of a shard one node is started as primary: the one
//! that was promoted last.
//! **Not here:** SQL, and anything about tables (`store`); when a replica is to take over (whoever calls `promote`).

mod cluster_dir;
mod environment;
mod error;
mod manifest;
mod node;
mod node_commands;
mod os_user;
mod parallel_tasks;
mod pg_rewind;
mod ports;
mod primary_choice;
mod processes;
mod programs;
mod provision;
mod settings;
mod shared_env;
mod standalone;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use uuid::Uuid;

use crate::topology::Role;
use cluster_dir::{ENVIRONMENT, LOCK, NOTES, PASSFILE, PASSWORD, Place, remove_folder};
use manifest::Notes;
use parallel_tasks::{Work, all};
use primary_choice::{node_of, nodes_of};
use shared_env::Ground;

pub use error::LocalError;
pub use node::{LocalNode, NodeState, Stop};
pub use node_commands::{Promoted, Rejoined};
pub use programs::{MAJOR_MIN, Programs, VARIABLE};
pub use shared_env::{DATABASE_USER, Peer, Secret};
pub use standalone::{LoneNode, NodeAnswer, WantedNode};

/// The cluster that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its directory.
    pub dir: PathBuf,
    /// How many shards.
    pub shards: usize,
    /// How many replicas each has.
    pub replicas: usize,
    /// The first port, the others following; free ones from anywhere without it.
    pub first_port: Option<u16>,
    /// Who runs the servers when the caller is root; `postgres`, else `nobody` without it.
    pub user: Option<String>,
    /// The folder of the programs; the newest that are installed without it.
    pub pg_bin: Option<PathBuf>,
    /// More settings of the servers, such as `("fsync", "off")`; those of an earlier `up` stay, and
    /// an empty value takes one back.
    pub settings: Vec<(String, String)>,
}

impl Wanted {
    /// Three shards with a replica each, in this directory.
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

/// A cluster of local servers.
#[derive(Debug)]
pub struct LocalCluster {
    ground: Arc<Ground>,
    nodes: Vec<LocalNode>,
}

impl LocalCluster {
    /// Makes what is missing of a cluster and starts what does not run.
    ///
    /// # Errors
    /// [`LocalError`], whose words tell what to do; what was made until then stays, and the next `up` carries on.
    pub fn up(wanted: &Wanted) -> Result<Self, LocalError> {
        settings::check(&wanted.settings)?;
        let (place, is_made) = Place::prepare(&wanted.dir, wanted.user.as_deref(), NOTES)?;
        let raised = Self::raise(wanted, &place);
        if raised.is_err() && is_made && !place.dir.join(NOTES).exists() {
            // Of a directory that could not even be begun nothing is left.
            let _ = remove_folder(&place.dir);
        }
        raised
    }

    fn raise(wanted: &Wanted, place: &Place) -> Result<Self, LocalError> {
        let lock = place.lock()?;
        let known =
            if place.dir.join(NOTES).exists() { Some(Notes::load(&place.dir)?) } else { None };
        let programs = match &known {
            Some(notes) => programs_for(notes, &place.dir, wanted.pg_bin.as_deref())?,
            None => Programs::find(wanted.pg_bin.as_deref())?,
        };
        let is_new = known.is_none();
        let mut notes = known.unwrap_or_else(|| Notes::new(&programs, wanted.first_port));
        if notes.is_going {
            return Err(LocalError::Going(place.dir.clone()));
        }
        notes.grow(wanted)?;
        notes.bin.clone_from(&programs.bin);
        let password = if is_new { make_password(place)? } else { read_password(place)? };
        let settings = notes.chosen();
        let ground = Arc::new(Ground { place: place.clone(), programs, password, settings });
        ground.check_reach()?;
        notes.move_unmade(|note| {
            let node = node_of(&ground, note, None);
            node.is_running() || ports::try_out(note.port).is_ok()
        })?;
        notes.save(place)?;
        let work = Work { place, lock: &lock, notes: Mutex::new(notes) };
        let nodes = nodes_of(&ground, &work.notes());
        let shards: Vec<_> = nodes.chunk_by(|a, b| a.shard == b.shard).collect();
        all(&shards, |nodes| work.raise_shard(nodes))?;
        let cluster = Self { nodes: nodes_of(&ground, &work.notes()), ground };
        place.write(&cluster.environment_file(), &environment::text(&cluster))?;
        Ok(cluster)
    }

    /// A cluster that is there, whether it runs or not.
    ///
    /// # Errors
    /// [`LocalError::NoCluster`] if there is none, and what else keeps from looking at it.
    pub fn open(dir: &Path) -> Result<Self, LocalError> {
        let place = Place::of(dir, NOTES)?;
        let notes = Notes::load(&place.dir)?;
        let programs = programs_for(&notes, &place.dir, None)?;
        let password = read_password(&place)?;
        let ground = Arc::new(Ground { place, programs, password, settings: notes.chosen() });
        Ok(Self { nodes: nodes_of(&ground, &notes), ground })
    }

    /// Its directory, an absolute path.
    pub fn dir(&self) -> &Path {
        &self.ground.place.dir
    }

    /// The programs that it runs on.
    pub fn programs(&self) -> &Programs {
        &self.ground.programs
    }

    /// All nodes: by shards, and in each the one that was made as its primary first.
    pub fn nodes(&self) -> &[LocalNode] {
        &self.nodes
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&LocalNode> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The primary of each shard, in the order of the shards.
    pub fn primaries(&self) -> impl Iterator<Item = &LocalNode> {
        self.nodes.iter().filter(|node| node.role == Role::Primary)
    }

    /// The replicas of a shard, from 0.
    pub fn replicas_of(&self, shard: usize) -> impl Iterator<Item = &LocalNode> {
        self.nodes.iter().filter(move |node| node.shard == shard && node.role == Role::Replica)
    }

    /// Shards, and replicas of each, of the cluster in a directory, if there is one.
    ///
    /// # Errors
    /// [`LocalError`] if what is noted there cannot be read.
    pub fn size_of(dir: &Path) -> Result<Option<(usize, usize)>, LocalError> {
        match Place::of(dir, NOTES) {
            Ok(place) => Notes::load(&place.dir).map(|notes| Some((notes.shards, notes.replicas))),
            Err(LocalError::NoCluster(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Shards, and replicas of each.
    pub fn size(&self) -> (usize, usize) {
        let shards = self.nodes.last().map_or(0, |node| node.shard + 1);
        (shards, self.nodes.iter().filter(|node| node.shard == 0).count().saturating_sub(1))
    }

    /// The file with the variables that a router reads; whoever reads it knows the password.
    pub fn environment_file(&self) -> PathBuf {
        self.dir().join(ENVIRONMENT)
    }

    /// Ends all servers, in good order and at the same time.
    ///
    /// # Errors
    /// [`LocalError::Busy`] if another command works on the cluster, [`LocalError::NotStopped`] for a server that does
    /// not end.
    pub fn down(&self) -> Result<(), LocalError> {
        let _lock = self.ground.place.lock()?;
        self.stop_all(Stop::Fast)
    }

    fn stop_all(&self, how: Stop) -> Result<(), LocalError> {
        let nodes: Vec<_> = self.nodes.iter().collect();
        all(&nodes, |node| node.stop(how))
    }

    /// Ends all servers and removes everything that was made: all rows are gone. A directory that holds anything else
    /// stays with that.
    ///
    /// # Errors
    /// As [`LocalCluster::down`]; what was not removed is removed by another `destroy`.
    pub fn destroy(self) -> Result<(), LocalError> {
        let place = &self.ground.place;
        let _lock = place.lock()?;
        let mut notes = Notes::load(&place.dir)?;
        notes.is_going = true;
        notes.save(place)?;
        self.stop_all(Stop::Immediate)?;
        for node in &self.nodes {
            remove_folder(&node.dir)?;
        }
        // Without its notes, what is left is taken for an `up` that was cut off before it had made anything.
        for name in [ENVIRONMENT, NOTES, PASSFILE, PASSWORD, LOCK] {
            let path = place.dir.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(LocalError::File { path, source: error });
                }
                Ok(()) | Err(_) => {}
            }
        }
        // What is not ours is left, and the directory with it.
        let _ = fs::remove_dir(&place.dir);
        Ok(())
    }

    /// Makes a node again, as a replica of another one of its shard, which runs: what it had is removed.
    ///
    /// # Errors
    /// [`LocalError::NoNode`] or [`LocalError::NoSource`] if the names do not fit, and what else keeps it from being made.
    pub fn make_again(&mut self, name: &str, source: &str) -> Result<(), LocalError> {
        let find = |name: &str| self.node(name).ok_or_else(|| LocalError::NoNode(name.to_owned()));
        let (node, from) = (find(name)?, find(source)?);
        if node.shard != from.shard || node.name == from.name || from.is_standby() {
            let cause = "a replica is made from the primary of its own shard only";
            return Err(LocalError::NoSource { shard: node.database(), cause });
        }
        let (node, from) = (node.clone(), from.clone());
        self.work_on(|work, _| {
            // It leads, whoever made it do so.
            work.change(&from.name, |note| note.follows = None)?;
            work.make_replica(&node, &from)
        })
    }
}

/// The programs of the version that made a cluster.
fn programs_for(notes: &Notes, dir: &Path, named: Option<&Path>) -> Result<Programs, LocalError> {
    let fits = |programs: &Programs| programs.major == notes.major;
    if let Some(same) = Programs::fit(&notes.bin).ok().filter(|it| named.is_none() && fits(it)) {
        return Ok(same);
    }
    let found = Programs::find(named)?;
    if fits(&found) {
        return Ok(found);
    }
    let other = if named.is_none() { Programs::find_major(notes.major) } else { None };
    other.ok_or_else(|| LocalError::OtherVersion {
        dir: dir.to_owned(),
        made: notes.major,
        found: format!("version {} in {}", found.major, found.bin.display()),
    })
}

/// A password for the databases, made when the cluster is, and kept.
fn make_password(place: &Place) -> Result<Secret, LocalError> {
    let path = place.dir.join(PASSWORD);
    if !path.exists() {
        place.write(&path, &format!("{}\n", Uuid::new_v4().simple()))?;
    }
    let password = read_password(place)?;
    let line = format!("127.0.0.1:*:*:{DATABASE_USER}:{}\n", password.0);
    place.write(&place.dir.join(PASSFILE), &line)?;
    Ok(password)
}

fn read_password(place: &Place) -> Result<Secret, LocalError> {
    let path = place.dir.join(PASSWORD);
    let text = fs::read_to_string(&path).map_err(LocalError::file(&path))?;
    Ok(Secret(text.trim().to_owned()))
}
