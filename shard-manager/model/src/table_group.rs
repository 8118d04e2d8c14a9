//! Table group: tables that are used together, and share a keyspace, a placement and slots.
//!
//! A group is a range of slot numbers: group number g has 16 384 slots, beginning with 16 384 × g.
//! So everything that works by slot number, such as owners, fences and moves, works for all groups.
//! Tables of one group share slots, so the rows of a key are on the same shard.
//!
//! **Invariant:** the number, name and keyspace of a group never change; number 0 is `main`.
//! **Not here:** the owners of the slots (`shard_map`), the storage of groups (the catalogs).

use crate::keyspace::{GROUPS_MAX, Keyspace, KeyspaceError};
use crate::placement::{Placement, PlacementError, contradiction};
use crate::table::is_name;
use crate::topology::{ShardNumber, ShardState, Topology};

pub use crate::group_number::GroupNumber;

/// Table group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableGroup {
    /// Name: a lower-case letter, then letters, digits and `_`.
    pub name: String,
    /// Function from keys to slots.
    pub keyspace: Keyspace,
    /// Placement with which the group was created.
    pub placement: Placement,
    /// Shards that may own slots of the group, ascending; `None` for all of them.
    pub shards: Option<Box<[ShardNumber]>>,
    /// Names of the tables that belong to the group when they are created.
    pub tables: Vec<String>,
}

impl TableGroup {
    /// Name of the group that every cluster has.
    pub const MAIN: &str = "main";

    /// Creates the group that every cluster has.
    pub fn main(keyspace: Keyspace, placement: Placement) -> Self {
        let name = Self::MAIN.to_owned();
        Self { name, keyspace, placement, shards: None, tables: Vec::new() }
    }

    /// Returns true if a shard may own slots of the group.
    pub fn allows(&self, shard: ShardNumber) -> bool {
        self.shards.as_ref().is_none_or(|shards| shards.binary_search(&shard).is_ok())
    }

    /// Returns the topology in which only shards of the group have a weight; `None` if none of them
    /// has one.
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

    /// Returns the owners that the placement gives the group's slots, in slot order.
    ///
    /// # Errors
    /// [`GroupFault`].
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

    /// Returns the shards that may own slots of the group and are not retired.
    pub fn members<'t>(
        &'t self,
        topology: &'t Topology,
    ) -> impl Iterator<Item = (ShardNumber, &'t crate::topology::ShardSpec)> {
        topology.members().filter(|(number, _)| self.allows(*number))
    }

    /// Returns true if the group has another shard than this one that may receive slots.
    pub fn has_other_taker(&self, topology: &Topology, than: ShardNumber) -> bool {
        self.members(topology).any(|(number, shard)| {
            number != than && shard.state == ShardState::Serving && shard.weight > 0
        })
    }
}

/// Group as the settings describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSpec {
    /// Name.
    pub name: String,
    /// Keyspace, if one is given.
    pub keyspace: Option<Keyspace>,
    /// Placement, if one is given.
    pub placement: Option<Placement>,
    /// Names of its shards, if they are given.
    pub shards: Option<Vec<String>>,
    /// Names of its tables.
    pub tables: Vec<String>,
}

impl GroupSpec {
    /// Checks all that does not depend on the shards.
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

    /// Returns the group on these shards.
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

/// Checks the groups of the settings against each other.
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

/// Reason why a table group is not possible.
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
    /// A setting is given for `main` that is a setting of the cluster.
    #[error("{member} cannot be set for the group main: it has the {member} of the cluster")]
    MainSetting {
        /// The setting.
        member: &'static str,
    },
    /// There are too many groups.
    #[error(
        "there can be at most {GROUPS_MAX} groups, including main, because slot numbers have 16 bits"
    )]
    TooMany,
    /// A shard does not exist.
    #[error("group {group} names the shard {shard}, which does not exist; there are: {known}")]
    UnknownShard {
        /// The group.
        group: String,
        /// The name.
        shard: String,
        /// The shards.
        known: String,
    },
    /// A shard is named twice.
    #[error("group {group} names the shard {shard} twice: name each of its shards once")]
    ShardTwice {
        /// The group.
        group: String,
        /// The shard.
        shard: String,
    },
    /// No shard may have slots of the group.
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
        /// The fault.
        cause: String,
    },
    /// A table has a name that no table can have.
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
    /// The table exists already and keeps its group.
    #[error(
        "group {group} is new and names the table {table}, which already belongs to group main: leave it out"
    )]
    TableExists {
        /// The group.
        group: String,
        /// The table.
        table: String,
    },
    /// The keyspace in the catalog cannot be used.
    #[error("the keyspace of group {group} cannot be used: {cause}")]
    Keyspace {
        /// The group.
        group: String,
        /// The fault.
        cause: KeyspaceError,
    },
}
