//! Notes: what a local cluster is, kept in its directory.
//!
//! **Invariant:** names and ports of nodes, once noted, stay; a node is noted as made after all of it is on the disk, and
//! a primary that is noted as made is never made again.
//! **Not here:** what is so at the moment (`node`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cluster_dir::{NOTES, Place};
use super::error::LocalError;
use super::programs::Programs;
use super::{Wanted, ports};
use crate::topology::Topology;

const FORMAT: u32 = 1;

/// What is noted about a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Notes {
    format: u32,
    /// The version of PostgreSQL that made it.
    pub(super) major: u32,
    /// Where its programs were when they were last used.
    pub(super) bin: PathBuf,
    pub(super) shards: usize,
    pub(super) replicas: usize,
    /// The first port, if its user chose it.
    first_port: Option<u16>,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) nodes: Vec<NodeNote>,
    /// Whether it is being destroyed: what is left of it is no cluster any more.
    pub(super) is_going: bool,
}

/// What is noted about a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeNote {
    pub(super) name: String,
    /// From 0.
    pub(super) shard: usize,
    /// 0 for the one that was made as primary.
    pub(super) number: usize,
    pub(super) port: u16,
    /// Whether it was ever complete.
    pub(super) is_made: bool,
    /// The node that it replicates from.
    pub(super) follows: Option<String>,
}

impl Notes {
    /// Of a cluster that has nothing yet.
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
            is_going: false,
        }
    }

    /// What is noted in a directory.
    pub(super) fn load(dir: &Path) -> Result<Self, LocalError> {
        let path = dir.join(NOTES);
        let text = fs::read_to_string(&path).map_err(LocalError::file(&path))?;
        let unfit = |cause: String| LocalError::Notes { path: path.clone(), cause };
        let notes: Self = serde_json::from_str(&text)
            .map_err(|error| unfit(format!("these are no notes about a cluster ({error})")))?;
        if notes.format != FORMAT {
            return Err(unfit(format!("format {} is newer than this program", notes.format)));
        }
        let is_plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if let Some(bad) = notes.nodes.iter().find(|node| !is_plain(&node.name)) {
            return Err(unfit(format!("{:?} is no name of a node", bad.name)));
        }
        Ok(notes)
    }

    pub(super) fn save(&self, place: &Place) -> Result<(), LocalError> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        place.write(&place.dir.join(NOTES), &(text + "\n"))
    }

    /// Grows to what is wanted.
    pub(super) fn grow(&mut self, wanted: &Wanted) -> Result<(), LocalError> {
        self.check(wanted)?;
        let missing: Vec<_> = (0..wanted.shards)
            .flat_map(|shard| (0..=wanted.replicas).map(move |number| (shard, number)))
            .filter(|key| !self.nodes.iter().any(|node| (node.shard, node.number) == *key))
            .collect();
        let taken: Vec<u16> = self.nodes.iter().map(|node| node.port).collect();
        let chosen = match self.first_port {
            Some(first) if taken.is_empty() => ports::in_a_row(first, missing.len())?,
            Some(_) => ports::above(&taken, missing.len())?,
            None => ports::anywhere(missing.len(), &taken)?,
        };
        let is_new = self.nodes.is_empty();
        for ((shard, number), port) in missing.iter().copied().zip(chosen) {
            let name = name_of(shard, number);
            if is_new {
                // Noted ports are kept for ever: so one that cannot be had is told before.
                let told = |source| LocalError::Port { node: name.clone(), port, source };
                ports::try_out(port).map_err(told)?;
            }
            let follows = (number > 0).then(|| name_of(shard, 0));
            self.nodes.push(NodeNote { name, shard, number, port, is_made: false, follows });
        }
        self.nodes.sort_by_key(|node| (node.shard, node.number));
        (self.shards, self.replicas) = (wanted.shards, wanted.replicas);
        self.settings.extend(wanted.settings.iter().cloned());
        self.settings.retain(|_, value| !value.is_empty());
        Ok(())
    }

    fn check(&self, wanted: &Wanted) -> Result<(), LocalError> {
        let ranges = [
            ("shards", wanted.shards, self.shards, 1, Topology::SHARDS_MAX),
            ("replicas", wanted.replicas, self.replicas, 0, Topology::REPLICAS_MAX),
        ];
        for (what, wants, has, least, most) in ranges {
            if wants < least || wants > most {
                return Err(LocalError::Range { what, wanted: wants, least, most });
            }
            if wants < has && what != "shards" {
                let dir = wanted.dir.clone();
                return Err(LocalError::Fewer { dir, what, has, wanted: wants });
            }
        }
        // Nothing moves rows to shards that come later, and a router of the old number would not
        // start on the new one.
        if self.shards > 0 && wanted.shards != self.shards {
            let (dir, has) = (wanted.dir.clone(), self.shards);
            return Err(LocalError::OtherShards { dir, has, wanted: wanted.shards });
        }
        if wanted.first_port.is_some() && wanted.first_port != self.first_port {
            return Err(LocalError::OtherPorts(wanted.dir.clone()));
        }
        Ok(())
    }

    /// Other ports for nodes that were never complete and cannot have theirs, if nobody chose these.
    pub(super) fn move_unmade(
        &mut self,
        is_free: impl Fn(&NodeNote) -> bool,
    ) -> Result<(), LocalError> {
        if self.first_port.is_some() {
            return Ok(());
        }
        let taken: Vec<u16> = self.nodes.iter().map(|node| node.port).collect();
        let stuck = self.nodes.iter_mut().filter(|node| !node.is_made && !is_free(node));
        for node in stuck {
            node.port = ports::anywhere(1, &taken)?[0];
        }
        Ok(())
    }

    /// Notes of one node.
    pub(super) fn node(&mut self, name: &str) -> Result<&mut NodeNote, LocalError> {
        let found = self.nodes.iter_mut().find(|node| node.name == name);
        found.ok_or_else(|| LocalError::NoNode(name.to_owned()))
    }

    /// The settings, by name.
    pub(super) fn chosen(&self) -> Vec<(String, String)> {
        self.settings.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

fn name_of(shard: usize, number: usize) -> String {
    match number {
        0 => format!("shard{}-primary", shard + 1),
        number => format!("shard{}-replica{number}", shard + 1),
    }
}
