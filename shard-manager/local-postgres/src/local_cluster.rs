//! Local cluster: starts, opens, stops and destroys the servers of a cluster on this machine.
//!
//! `up` creates missing nodes, starts stopped servers and does not touch running ones. If an `up`
//! is interrupted at any point, the next `up` continues it.
//!
//! **Invariant:** only `destroy` removes rows that the present primary of a shard has; `up` never
//! rebuilds a primary that was once complete.
//! **Not here:** the servers of one shard (`cluster_update`), starting and stopping one server
//! (`node`), commands on single nodes (`node_commands`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use model::topology::Role;
use uuid::Uuid;

use crate::cluster_dir::{
    ClusterDir, ENVIRONMENT, LOCK, MANIFEST, PASSFILE, PASSWORD, part_of, remove_folder,
    remove_if_there,
};
use crate::cluster_update::{ClusterUpdate, IsCancelled, for_each_parallel};
use crate::error::LocalError;
use crate::local_spec::LocalSpec;
use crate::manifest::Manifest;
use crate::node::{LocalNode, Stop};
use crate::primary_choice::{node_of, nodes_of};
use crate::programs::Programs;
use crate::setting_check::check_accepted;
use crate::shared_env::{DATABASE_USER, Secret, SharedEnv};
use crate::{NodeCommands, environment, ports, settings};

/// A cluster of local servers.
#[derive(Debug)]
pub struct LocalCluster {
    pub(super) env: Arc<SharedEnv>,
    pub(super) nodes: Vec<LocalNode>,
}

impl LocalCluster {
    /// Creates the missing parts of a cluster, and starts those servers that are not running.
    ///
    /// # Errors
    /// [`LocalError`], whose message states what to do. Parts that are already complete are kept,
    /// and the next `up` continues.
    pub fn up(spec: &LocalSpec) -> Result<Self, LocalError> {
        settings::check(&spec.settings)?;
        let (cluster_dir, is_made) =
            ClusterDir::prepare(&spec.dir, spec.user.as_deref(), MANIFEST)?;
        let started = make_and_start(spec, &cluster_dir, None);
        if started.is_err() && is_made && !cluster_dir.path.join(MANIFEST).exists() {
            // The directory is new and holds no manifest yet, so nothing of value is removed.
            let _ = remove_folder(&cluster_dir.path);
        }
        started
    }

    /// Creates a cluster that its owner destroys in the end, and starts its servers. Ctrl-C in the
    /// terminal does not reach the programs that create them: the owner decides with `is_cancelled`
    /// that the creation ends.
    ///
    /// # Errors
    /// [`LocalError::Cancelled`] once `is_cancelled` returns true, and the errors of
    /// [`LocalCluster::up`]. If the directory is new, all servers that were started are stopped
    /// and removed.
    pub fn up_temporary(
        spec: &LocalSpec,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Self, LocalError> {
        settings::check(&spec.settings)?;
        let (cluster_dir, is_made) =
            ClusterDir::prepare(&spec.dir, spec.user.as_deref(), MANIFEST)?;
        let started = make_and_start(spec, &cluster_dir, Some(is_cancelled));
        if started.is_err() && is_made {
            // Further errors are ignored, because the first one is reported. Without a manifest,
            // no server was started.
            let _ = match Self::open(&cluster_dir.path) {
                Ok(begun) => begun.destroy(),
                Err(_) => remove_folder(&cluster_dir.path),
            };
        }
        started
    }

    /// Opens an existing cluster, running or not.
    ///
    /// # Errors
    /// [`LocalError::NoCluster`] if there is none; other variants if its files cannot be read.
    pub fn open(dir: &Path) -> Result<Self, LocalError> {
        let cluster_dir = ClusterDir::open(dir, MANIFEST)?;
        let manifest = Manifest::load(&cluster_dir.path)?;
        let programs = programs_for(&manifest, &cluster_dir.path, None)?;
        let password = read_password(&cluster_dir)?;
        let settings = manifest.chosen_settings();
        let env = Arc::new(SharedEnv::new(cluster_dir, programs, password, settings));
        Ok(Self { nodes: nodes_of(&env, &manifest), env })
    }

    /// Returns the cluster's directory, an absolute path.
    pub fn dir(&self) -> &Path {
        &self.env.cluster_dir.path
    }

    /// Returns the PostgreSQL programs that the cluster runs on.
    pub fn programs(&self) -> &Programs {
        &self.env.programs
    }

    /// Returns all nodes, ordered by shard; within a shard, the node that was created as its
    /// primary comes first.
    pub fn nodes(&self) -> &[LocalNode] {
        &self.nodes
    }

    /// Returns the node with this name; `None` if there is none.
    pub fn node(&self, name: &str) -> Option<&LocalNode> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Returns the primary of each shard, in the order of the shards.
    pub fn primaries(&self) -> impl Iterator<Item = &LocalNode> {
        self.nodes.iter().filter(|node| node.role == Role::Primary)
    }

    /// Returns the replicas of a shard; shards are counted from 0.
    pub fn replicas_of(&self, shard: usize) -> impl Iterator<Item = &LocalNode> {
        self.nodes.iter().filter(move |node| node.shard == shard && node.role == Role::Replica)
    }

    /// Returns the number of shards, and of replicas per shard, of the cluster in a directory;
    /// `None` if there is no cluster.
    ///
    /// # Errors
    /// [`LocalError`] if its manifest cannot be read.
    pub fn size_of(dir: &Path) -> Result<Option<(usize, usize)>, LocalError> {
        match ClusterDir::open(dir, MANIFEST) {
            Ok(cluster_dir) => Manifest::load(&cluster_dir.path)
                .map(|manifest| Some((manifest.shards, manifest.replicas))),
            Err(LocalError::NoCluster(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the number of shards, and of replicas per shard.
    pub fn size(&self) -> (usize, usize) {
        let shards = self.nodes.last().map_or(0, |node| node.shard + 1);
        (shards, self.nodes.iter().filter(|node| node.shard == 0).count().saturating_sub(1))
    }

    /// Returns the path of the file with the environment variables for a router. The file contains
    /// the password.
    pub fn environment_file(&self) -> PathBuf {
        self.dir().join(ENVIRONMENT)
    }

    /// Returns the commands on single nodes of this cluster.
    pub fn commands(&mut self) -> NodeCommands<'_> {
        NodeCommands { cluster: self }
    }

    /// Stops all servers concurrently, each with PostgreSQL's fast shutdown.
    ///
    /// # Errors
    /// [`LocalError::Busy`] if another command holds the cluster's lock, [`LocalError::NotStopped`]
    /// for a server that does not stop.
    pub fn down(&self) -> Result<(), LocalError> {
        let _lock = self.env.cluster_dir.lock()?;
        stop_all(&self.nodes, Stop::Fast)
    }

    /// Stops all servers and removes everything that belongs to the cluster, including all rows. If
    /// the directory contains other files, they and the directory are kept.
    ///
    /// # Errors
    /// The errors of [`LocalCluster::down`]. A further `destroy` removes what is left.
    pub fn destroy(self) -> Result<(), LocalError> {
        let cluster_dir = &self.env.cluster_dir;
        let _lock = cluster_dir.lock()?;
        let mut manifest = Manifest::load(&cluster_dir.path)?;
        manifest.is_being_destroyed = true;
        manifest.save(cluster_dir)?;
        stop_all(&self.nodes, Stop::Immediate)?;
        for node in &self.nodes {
            remove_folder(&node.dir.path)?;
        }
        // The files are removed in this order because without the manifest, the rest looks like an
        // `up` that was interrupted before it created any node.
        for name in [ENVIRONMENT, MANIFEST, PASSFILE, PASSWORD, LOCK] {
            let path = cluster_dir.path.join(name);
            // A command that was killed while it wrote the file may have left the new contents in a
            // file beside it.
            remove_if_there(&part_of(&path))?;
            remove_if_there(&path)?;
        }
        // Removing the directory fails if it contains foreign files, which are kept.
        let _ = fs::remove_dir(&cluster_dir.path);
        Ok(())
    }
}

/// Creates the missing parts of a cluster in a locked directory, and starts those servers that are
/// not running.
fn make_and_start(
    spec: &LocalSpec,
    cluster_dir: &ClusterDir,
    is_cancelled: IsCancelled<'_>,
) -> Result<LocalCluster, LocalError> {
    let lock = cluster_dir.lock()?;
    let known = if cluster_dir.path.join(MANIFEST).exists() {
        Some(Manifest::load(&cluster_dir.path)?)
    } else {
        None
    };
    let programs = match &known {
        Some(manifest) => programs_for(manifest, &cluster_dir.path, spec.pg_bin.as_deref())?,
        None => Programs::find(spec.pg_bin.as_deref())?,
    };
    let is_new = known.is_none();
    let mut manifest = known.unwrap_or_else(|| Manifest::new(&programs, spec.first_port));
    if manifest.is_being_destroyed {
        return Err(LocalError::BeingDestroyed(cluster_dir.path.clone()));
    }
    manifest.extend_to(spec)?;
    manifest.bin.clone_from(&programs.bin);
    let password = if is_new { make_password(cluster_dir)? } else { read_password(cluster_dir)? };
    let settings = manifest.chosen_settings();
    let env = Arc::new(SharedEnv {
        has_own_groups: is_cancelled.is_some(),
        ..SharedEnv::new(cluster_dir.clone(), programs, password, settings)
    });
    env.check_reach()?;
    check_accepted(&env, &spec.settings, manifest.replicas)?;
    manifest.reassign_ports(|entry| {
        let node = node_of(&env, entry, None);
        node.is_running() || ports::check_free(entry.port).is_ok()
    })?;
    manifest.save(cluster_dir)?;
    let manifest = Mutex::new(manifest);
    let update = ClusterUpdate { cluster_dir, lock: &lock, manifest, is_cancelled };
    let nodes = nodes_of(&env, &update.manifest());
    let shards: Vec<_> = nodes.chunk_by(|a, b| a.shard == b.shard).collect();
    for_each_parallel(&shards, |nodes| update.start_shard(nodes))?;
    let cluster = LocalCluster { nodes: nodes_of(&env, &update.manifest()), env };
    cluster_dir.write(&cluster.environment_file(), &environment::text(&cluster.nodes))?;
    Ok(cluster)
}

fn stop_all(nodes: &[LocalNode], how: Stop) -> Result<(), LocalError> {
    let nodes: Vec<_> = nodes.iter().collect();
    for_each_parallel(&nodes, |node| node.stop(how))
}

/// Finds PostgreSQL programs of the major version with which the cluster was created.
fn programs_for(
    manifest: &Manifest,
    dir: &Path,
    named: Option<&Path>,
) -> Result<Programs, LocalError> {
    let fits = |programs: &Programs| programs.major == manifest.major;
    if let Some(same) =
        Programs::of_folder(&manifest.bin).ok().filter(|it| named.is_none() && fits(it))
    {
        return Ok(same);
    }
    let found = Programs::find(named)?;
    if fits(&found) {
        return Ok(found);
    }
    let other = if named.is_none() { Programs::find_major(manifest.major) } else { None };
    other.ok_or_else(|| LocalError::OtherVersion {
        dir: dir.to_owned(),
        made: manifest.major,
        found: format!("version {} in {}", found.major, found.bin.display()),
    })
}

/// Returns the password of the databases, which is created once for a new cluster and kept from
/// then on.
fn make_password(cluster_dir: &ClusterDir) -> Result<Secret, LocalError> {
    let path = cluster_dir.path.join(PASSWORD);
    if !path.exists() {
        cluster_dir.write(&path, &format!("{}\n", Uuid::new_v4().simple()))?;
    }
    let password = read_password(cluster_dir)?;
    let line = format!("127.0.0.1:*:*:{DATABASE_USER}:{}\n", password.0);
    cluster_dir.write(&cluster_dir.path.join(PASSFILE), &line)?;
    Ok(password)
}

fn read_password(cluster_dir: &ClusterDir) -> Result<Secret, LocalError> {
    let path = cluster_dir.path.join(PASSWORD);
    let text = fs::read_to_string(&path).map_err(LocalError::file(&path))?;
    Ok(Secret(text.trim().to_owned()))
}
