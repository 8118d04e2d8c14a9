//! Table group: tables that are used together, and therefore share a keyspace, a placement and
//! slots.
//!
//! A group has its own range of slot numbers: group number g has the 16 384 slots from 16 384 × g
//! on. So everything that works by slot number, such as owners, fences and moves, works for all
//! groups. Since the tables of a group share slots, their rows with the same shard key are on the
//! same shard.
//!
//! **Invariant:** the number, name and keyspace of a group never change; number 0 is `main`.
//! **Not here:** the owners of the slots (`shard_map`), storing groups (the catalogs).

use crate::keyspace::{GROUPS_MAX, Keyspace, KeyspaceError};
use crate::placement::{Placement, PlacementError, contradiction};
use crate::table::is_name;
use crate::topology::{ShardNumber, ShardState, Topology};

pub use crate::group_number::GroupNumber;

/// Table group of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableGroup {
    /// Name of the group: a lower-case letter, then lower-case letters, digits and `_`.
    pub name: String,
    /// Function from the shard keys of the group to its slots.
    pub keyspace: Keyspace,
    /// Placement with which the group was created.
    pub placement: Placement,
    /// Shards that may own slots of the group, in ascending order; `None` if all shards may.
    pub shards: Option<Box<[ShardNumber]>>,
    /// Names of tables that join the group when they are created.
    pub tables: Vec<String>,
}

impl TableGroup {
    /// Name of the group `main`, which every cluster has.
    pub const MAIN: &str = "main";

    /// Creates the group `main`, whose slots all shards may own.
    pub fn main(keyspace: Keyspace, placement: Placement) -> Self {
        let name = Self::MAIN.to_owned();
        Self { name, keyspace, placement, shards: None, tables: Vec::new() }
    }

    /// Returns true if a shard may own slots of the group.
    pub fn allows(&self, shard: ShardNumber) -> bool {
        self.shards.as_ref().is_none_or(|shards| shards.binary_search(&shard).is_ok())
    }

    /// Returns the topology with the weights of all shards that may not own slots of the group set
    /// to 0; `None` if no weight above 0 remains.
    pub fn topology(&self, topology: &Topology) -> Option<Topology> {
        if self.shards.is_none() {
            return Some(topology.clone());
        }
        let mut shards = topology.shards().to_vec();
        for (number, shard) in (0..).map(ShardNumber).zip(&mut shards) {
            if !self.allows(number) {
                shard.weight = 0;
            }
        }
        Topology::restore(shards).ok()
    }

    /// Returns the owners that the placement gives to the group's slots, in slot order.
    ///
    /// # Errors
    /// [`GroupFault`] if the placement does not fit the keyspace or the shards of the group.
    pub fn assign(&self, topology: &Topology) -> Result<Vec<ShardNumber>, GroupFault> {
        let fault = |cause: String| GroupFault::Placement { group: self.name.clone(), cause };
        if let Some(cause) = contradiction(&self.keyspace, &self.placement) {
            return Err(fault(cause));
        }
        let no_shard = || GroupFault::NoShard { group: self.name.clone() };
        let own = self.topology(topology).ok_or_else(no_shard)?;
        let owners = self.placement.assign(&own);
        let owners = owners.map_err(|error: PlacementError| fault(error.to_string()))?;
        if let Some(other) = owners.iter().find(|owner| !self.allows(**owner)) {
            let (placement, shard) = (&self.placement, topology.name(*other));
            return Err(fault(format!(
                "{placement} assigns slots to {shard}, which is not one of its shards"
            )));
        }
        Ok(owners)
    }

    /// Returns the shards that may own slots of the group, except retired ones.
    pub fn members<'t>(
        &'t self,
        topology: &'t Topology,
    ) -> impl Iterator<Item = (ShardNumber, &'t crate::topology::ShardSpec)> {
        topology.members().filter(|(number, _)| self.allows(*number))
    }

    /// Returns true if a shard of the group other than `than` may receive slots.
    pub fn has_other_taker(&self, topology: &Topology, than: ShardNumber) -> bool {
        self.members(topology).any(|(number, shard)| {
            number != than && shard.state == ShardState::Serving && shard.weight > 0
        })
    }
}

/// Table group as the settings describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSpec {
    /// Name of the group.
    pub name: String,
    /// Keyspace of the group, if the settings give one.
    pub keyspace: Option<Keyspace>,
    /// Placement of the group, if the settings give one.
    pub placement: Option<Placement>,
    /// Names of the shards that may own slots of the group, if the settings limit them.
    pub shards: Option<Vec<String>>,
    /// Names of tables that join the group when they are created.
    pub tables: Vec<String>,
}

impl GroupSpec {
    /// Checks everything that does not depend on the shards of the cluster.
    ///
    /// # Errors
    /// [`GroupFault`].
    pub fn check(&self) -> Result<(), GroupFault> {
        let group = || self.name.clone();
        if !is_name(&self.name) {
            return Err(GroupFault::Name { name: group() });
        }
        if self.name == TableGroup::MAIN {
            let other = [
                (self.keyspace.is_some(), "keyspace"),
                (self.placement.is_some(), "placement"),
                (!self.tables.is_empty(), "tables"),
            ];
            if let Some((_, member)) = other.into_iter().find(|(is_given, _)| *is_given) {
                return Err(GroupFault::MainSetting { member });
            }
        }
        if let Some(name) = self.tables.iter().find(|name| !is_name(name)) {
            return Err(GroupFault::TableName { group: group(), name: name.clone() });
        }
        if self.shards.as_ref().is_some_and(Vec::is_empty) {
            return Err(GroupFault::NoShard { group: group() });
        }
        let shards = self.shards.as_deref().unwrap_or_default();
        let mut repeated =
            (1..).zip(shards).filter(|(after, name)| shards[*after..].contains(name));
        if let Some((_, shard)) = repeated.next() {
            return Err(GroupFault::ShardTwice { group: group(), shard: shard.clone() });
        }
        Ok(())
    }

    /// Checks the description and returns the group for a cluster with these shards.
    ///
    /// # Errors
    /// [`GroupFault`].
    pub fn group(&self, topology: &Topology) -> Result<TableGroup, GroupFault> {
        self.check()?;
        let shards = self.shards.as_ref().map(|names| self.numbers(names, topology)).transpose()?;
        Ok(TableGroup {
            name: self.name.clone(),
            keyspace: self.keyspace.clone().unwrap_or_default(),
            placement: self.placement.clone().unwrap_or_default(),
            shards,
            tables: self.tables.clone(),
        })
    }

    fn numbers(
        &self,
        names: &[String],
        topology: &Topology,
    ) -> Result<Box<[ShardNumber]>, GroupFault> {
        let find = |name: &String| {
            topology.find(name).ok_or_else(|| GroupFault::UnknownShard {
                group: self.name.clone(),
                shard: name.clone(),
                known: topology
                    .members()
                    .map(|(_, shard)| &*shard.name)
                    .collect::<Vec<_>>()
                    .join(", "),
            })
        };
        let mut numbers: Vec<ShardNumber> = names.iter().map(find).collect::<Result<_, _>>()?;
        numbers.sort_unstable();
        Ok(numbers.into_boxed_slice())
    }
}

/// Checks all groups of the settings, each by itself and together.
///
/// # Errors
/// [`GroupFault`].
pub fn check_specs(specs: &[GroupSpec]) -> Result<(), GroupFault> {
    let further = specs.iter().filter(|spec| spec.name != TableGroup::MAIN).count();
    if further >= GROUPS_MAX {
        return Err(GroupFault::TooMany);
    }
    for (index, spec) in specs.iter().enumerate() {
        spec.check()?;
        for table in &spec.tables {
            let mut others = specs[..index].iter();
            if let Some(other) = others.find(|other| other.tables.contains(table)) {
                let (one, other) = (other.name.clone(), spec.name.clone());
                return Err(GroupFault::TableTwice { table: table.clone(), one, other });
            }
        }
    }
    Ok(())
}

/// Reason why a table group cannot be created or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupFault {
    /// The name does not match `[a-z][a-z0-9_]{0,39}`.
    #[error(
        "`{name}` is not the name of a group: use a lower-case letter, then letters, digits or _, at most 40"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The settings give the group `main` a keyspace, a placement or tables, although `main` always
    /// has those of the cluster.
    #[error("{member} cannot be set for the group main: it has the {member} of the cluster")]
    MainSetting {
        /// The setting.
        member: &'static str,
    },
    /// There are more groups than 16-bit slot numbers permit.
    #[error(
        "there can be at most {GROUPS_MAX} groups, including main, because slot numbers have 16 bits"
    )]
    TooMany,
    /// The group names a shard that does not exist.
    #[error("group {group} names the shard {shard}, which does not exist; there are: {known}")]
    UnknownShard {
        /// The group.
        group: String,
        /// The name.
        shard: String,
        /// Names of the existing shards, separated by commas.
        known: String,
    },
    /// The group names a shard twice.
    #[error("group {group} names the shard {shard} twice: name each of its shards once")]
    ShardTwice {
        /// The group.
        group: String,
        /// The shard.
        shard: String,
    },
    /// None of the shards that may own slots of the group has a weight above 0.
    #[error("group {group} has no shard with a weight above 0 that could own its slots")]
    NoShard {
        /// The group.
        group: String,
    },
    /// The placement does not fit the keyspace or the shards.
    #[error("the placement of group {group} cannot be used: {cause}")]
    Placement {
        /// The group.
        group: String,
        /// Description of the fault.
        cause: String,
    },
    /// The group names a table whose name is not valid.
    #[error("group {group} names the table `{name}`, which is not a valid table name")]
    TableName {
        /// The group.
        group: String,
        /// The name.
        name: String,
    },
    /// Two groups name the same table.
    #[error(
        "the groups {one} and {other} both name the table {table}: a table belongs to one group"
    )]
    TableTwice {
        /// The table.
        table: String,
        /// First group.
        one: String,
        /// Second group.
        other: String,
    },
    /// A new group names a table that already exists and cannot change its group.
    #[error(
        "group {group} is new and names the table {table}, which already belongs to group main: leave it out"
    )]
    TableExists {
        /// The group.
        group: String,
        /// The table.
        table: String,
    },
    /// The keyspace that the catalog stores for the group cannot be used.
    #[error("the keyspace of group {group} cannot be used: {cause}")]
    Keyspace {
        /// The group.
        group: String,
        /// Fault of the keyspace.
        cause: KeyspaceError,
    },
}
