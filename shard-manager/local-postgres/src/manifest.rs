//! Manifest: description of a local cluster, kept in its directory.
//!
//! **Invariant:** the name and port of a node never change once it was complete; a node is recorded
//! as made only after all its files are on disk; a primary that is recorded as made is never
//! created again.
//! **Not here:** the current state of the servers (`node`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::local_spec::LocalSpec;
use crate::cluster_dir::{ClusterDir, MANIFEST};
use crate::error::LocalError;
use crate::ports;
use crate::programs::Programs;
use model::topology::Topology;

const FORMAT: u32 = 1;

/// Description of a cluster, as `cluster.json` holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: u32,
    /// Major version of PostgreSQL with which the cluster was created.
    pub(super) major: u32,
    /// Folder of the programs that were last used.
    pub(super) bin: PathBuf,
    pub(super) shards: usize,
    pub(super) replicas: usize,
    /// First port, if the user chose it.
    first_port: Option<u16>,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) nodes: Vec<NodeEntry>,
    /// True if a `destroy` was begun, so that the remaining files are no longer a usable cluster.
    #[serde(rename = "is_going")]
    pub(super) is_being_destroyed: bool,
}

/// Description of one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeEntry {
    pub(super) name: String,
    /// Index of the node's shard, from 0.
    pub(super) shard: usize,
    /// Number of the node within its shard; node 0 was created as the primary.
    pub(super) number: usize,
    pub(super) port: u16,
    /// True if the node is complete; false while it is created, rewound or rebuilt.
    pub(super) is_made: bool,
    /// Name of the node from which this node replicates; `None` for the primary.
    pub(super) follows: Option<String>,
}

impl Manifest {
    /// Returns the manifest of a cluster without nodes.
    pub(super) fn new(programs: &Programs, first_port: Option<u16>) -> Self {
        Self {
            format: FORMAT,
            major: programs.major,
            bin: programs.bin.clone(),
            shards: 0,
            replicas: 0,
            first_port,
            settings: BTreeMap::new(),
            nodes: Vec::new(),
            is_being_destroyed: false,
        }
    }

    /// Reads the manifest of a directory.
    pub(super) fn load(dir: &Path) -> Result<Self, LocalError> {
        let path = dir.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(LocalError::file(&path))?;
        let unsuitable = |cause: String| LocalError::Manifest { path: path.clone(), cause };
        let manifest: Self = serde_json::from_str(&text).map_err(|error| {
            unsuitable(format!("this is not a manifest of a cluster ({error})"))
        })?;
        if manifest.format != FORMAT {
            return Err(unsuitable(format!(
                "format {} is newer than this program",
                manifest.format
            )));
        }
        let is_plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if let Some(bad) = manifest.nodes.iter().find(|node| !is_plain(&node.name)) {
            return Err(unsuitable(format!("{:?} is not a name of a node", bad.name)));
        }
        Ok(manifest)
    }

    pub(super) fn save(&self, cluster_dir: &ClusterDir) -> Result<(), LocalError> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        cluster_dir.write(&cluster_dir.path.join(MANIFEST), &(text + "\n"))
    }

    /// Adds the nodes and settings of the specification that the manifest does not contain yet.
    pub(super) fn extend_to(&mut self, spec: &LocalSpec) -> Result<(), LocalError> {
        self.check(spec)?;
        let missing: Vec<_> = (0..spec.shards)
            .flat_map(|shard| (0..=spec.replicas).map(move |number| (shard, number)))
            .filter(|key| !self.nodes.iter().any(|node| (node.shard, node.number) == *key))
            .collect();
        let taken: Vec<u16> = self.nodes.iter().map(|node| node.port).collect();
        let chosen = match self.first_port {
            Some(first) if taken.is_empty() => ports::consecutive(first, missing.len())?,
            Some(_) => ports::above(&taken, missing.len())?,
            None => ports::choose_free(missing.len(), &taken)?,
        };
        let is_new = self.nodes.is_empty();
        for ((shard, number), port) in missing.iter().copied().zip(chosen) {
            let name = name_of(shard, number);
            if is_new {
                // Ports that the user chose are never changed later, so a port that is in use is
                // reported before anything is recorded.
                let in_use = |source| LocalError::Port { node: name.clone(), port, source };
                ports::check_free(port).map_err(in_use)?;
            }
            let follows = (number > 0).then(|| name_of(shard, 0));
            self.nodes.push(NodeEntry { name, shard, number, port, is_made: false, follows });
        }
        self.nodes.sort_by_key(|node| (node.shard, node.number));
        (self.shards, self.replicas) = (spec.shards, spec.replicas);
        self.settings.extend(spec.settings.iter().cloned());
        self.settings.retain(|_, value| !value.is_empty());
        Ok(())
    }

    fn check(&self, spec: &LocalSpec) -> Result<(), LocalError> {
        let ranges = [
            ("shards", spec.shards, self.shards, 1, Topology::SHARDS_MAX),
            ("replicas", spec.replicas, self.replicas, 0, Topology::REPLICAS_MAX),
        ];
        for (what, wants, has, least, most) in ranges {
            if wants < least || wants > most {
                return Err(LocalError::Range { what, wanted: wants, least, most });
            }
            if wants < has && what != "shards" {
                let dir = spec.dir.clone();
                return Err(LocalError::Fewer { dir, what, has, wanted: wants });
            }
        }
        // The number of shards cannot grow here, because `up` can neither add a shard to the
        // router's shard map nor move rows to it.
        if self.shards > 0 && spec.shards != self.shards {
            let (dir, has) = (spec.dir.clone(), self.shards);
            return Err(LocalError::OtherShards { dir, has, wanted: spec.shards });
        }
        if spec.first_port.is_some() && spec.first_port != self.first_port {
            return Err(LocalError::OtherPorts(spec.dir.clone()));
        }
        Ok(())
    }

    /// Chooses a new port for each node that was never complete and whose port is in use, unless
    /// the user chose the ports.
    pub(super) fn reassign_ports(
        &mut self,
        is_free: impl Fn(&NodeEntry) -> bool,
    ) -> Result<(), LocalError> {
        if self.first_port.is_some() {
            return Ok(());
        }
        let mut taken: Vec<u16> = self.nodes.iter().map(|node| node.port).collect();
        let blocked = self.nodes.iter_mut().filter(|node| !node.is_made && !is_free(node));
        for node in blocked {
            node.port = ports::choose_free(1, &taken)?[0];
            taken.push(node.port);
        }
        Ok(())
    }

    /// Returns the entry of one node.
    pub(super) fn node(&mut self, name: &str) -> Result<&mut NodeEntry, LocalError> {
        let found = self.nodes.iter_mut().find(|node| node.name == name);
        found.ok_or_else(|| LocalError::NoNode(name.to_owned()))
    }

    /// Returns the additional settings, sorted by name.
    pub(super) fn chosen_settings(&self) -> Vec<(String, String)> {
        self.settings.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

fn name_of(shard: usize, number: usize) -> String {
    match number {
        0 => format!("shard{}-primary", shard + 1),
        number => format!("shard{}-replica{number}", shard + 1),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nodes_that_move_at_once_get_different_ports() {
        let programs = Programs { bin: PathBuf::new(), major: 15 };
        let mut manifest = Manifest::new(&programs, None);
        let shards = Topology::SHARDS_MAX;
        manifest.extend_to(&LocalSpec { shards, replicas: 3, ..LocalSpec::new("") }).unwrap();
        manifest.reassign_ports(|_| false).unwrap();
        let ports: BTreeSet<u16> = manifest.nodes.iter().map(|node| node.port).collect();
        assert_eq!(ports.len(), shards * 4);
    }
}
