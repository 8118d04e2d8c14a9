//! Group rows: the form in which a catalog stores the table groups, and the groups that a start
//! adds.
//!
//! **Invariant:** a group that is stored and read again is unchanged. The group `main` has a row
//! only if it is limited to some of the shards.
//! **Not here:** the statements (the catalogs), the owners of slots (`catalog_rows`).

use diesel::prelude::*;
use model::keyspace::Keyspace;
use model::placement::Placement;
use model::shard_map::{ShardMap, with_group, with_main};
use model::table::Registry;
use model::table_group::{GroupFault, GroupNumber, GroupSpec, TableGroup, check_specs};
use model::topology::ShardNumber;

use super::open_error::OpenError;
use super::system_tables::tessera_groups;

/// Row of a group.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Insertable)]
#[diesel(table_name = tessera_groups)]
pub struct GroupRow {
    /// Number of the group, primary key.
    pub number: i64,
    /// Name.
    pub name: String,
    /// Name of the keyspace.
    pub keyspace: String,
    /// Parameters of the keyspace.
    pub parameters: String,
    /// Name of the placement.
    pub placement: String,
    /// Parameters of the placement.
    pub placement_parameters: String,
    /// Numbers of the shards that may own slots of the group, as JSON; `None` for all shards.
    pub shards: Option<String>,
    /// Names of the tables that belong to the group when they are created, as JSON.
    pub tables: String,
    /// 1 once the shards own the slots of the group, else 0.
    pub ready: i64,
}

impl GroupRow {
    /// Returns the rows of the groups of a map whose number is `from` or higher. They are marked as
    /// not ready: the shards do not own the slots of these groups yet.
    pub fn of(map: &ShardMap, from: usize) -> Vec<Self> {
        let groups = map.groups().iter().filter(|(number, group)| {
            let is_main = *number == GroupNumber::MAIN;
            number.index() >= from && !(is_main && group.shards.is_none())
        });
        groups.map(|(number, group)| Self::with(number, group)).collect()
    }

    fn with(number: GroupNumber, group: &TableGroup) -> Self {
        let json = |list: Result<String, _>| list.expect("names and numbers always serialise");
        let numbers = |shards: &[ShardNumber]| -> Vec<u16> { shards.iter().map(|s| s.0).collect() };
        Self {
            number: number.index() as i64,
            name: group.name.clone(),
            keyspace: group.keyspace.name().to_owned(),
            parameters: group.keyspace.parameters(),
            placement: group.placement.name().to_owned(),
            placement_parameters: group.placement.parameters(),
            shards: group
                .shards
                .as_ref()
                .map(|shards| json(serde_json::to_string(&numbers(shards)))),
            tables: json(serde_json::to_string(&group.tables)),
            ready: 0,
        }
    }

    fn group(&self) -> Result<TableGroup, String> {
        let failed = |error: &dyn std::fmt::Display| format!("group {}: {error}", self.name);
        let keyspace = Keyspace::restore(&self.keyspace, &self.parameters);
        let placement = Placement::restore(&self.placement, &self.placement_parameters);
        let shards: Option<Vec<u16>> = match &self.shards {
            None => None,
            Some(shards) => Some(serde_json::from_str(shards).map_err(|error| failed(&error))?),
        };
        Ok(TableGroup {
            name: self.name.clone(),
            keyspace: keyspace.map_err(|error| failed(&error))?,
            placement: placement.map_err(|error| failed(&error))?,
            shards: shards.map(|shards| shards.into_iter().map(ShardNumber).collect()),
            tables: serde_json::from_str(&self.tables).map_err(|error| failed(&error))?,
        })
    }
}

/// Restores the groups from all rows, which must be in the order of their numbers: the group `main`
/// with the shards to which it is limited, and the other groups.
///
/// # Errors
/// A description of the damage.
pub(super) fn groups(
    main: TableGroup,
    rows: &[GroupRow],
) -> Result<(TableGroup, Vec<TableGroup>), String> {
    let (mut main, mut further) = (main, Vec::new());
    for row in rows {
        let group = row.group()?;
        match usize::try_from(row.number) {
            Ok(0) => main.shards = group.shards,
            Ok(number) if number == further.len() + 1 => further.push(group),
            _ => return Err(format!("tessera_groups lacks a group before {}", row.name)),
        }
    }
    Ok((main, further))
}

/// Tables that every shard has.
const BUILT_IN: [&str; 5] = ["users", "orders", "products", "transactions", "kv"];

/// Returns the map of a new cluster with the table groups that the settings request.
///
/// # Errors
/// [`GroupFault`].
pub(super) fn with_first_groups(
    map: ShardMap,
    specs: &[GroupSpec],
) -> Result<ShardMap, GroupFault> {
    check_specs(specs)?;
    let mut map = map;
    for spec in specs {
        let group = spec.group(map.topology())?;
        map = if spec.name == TableGroup::MAIN {
            let keyspace_and_placement = (map.keyspace().clone(), map.placement().clone());
            let (keyspace, placement) = keyspace_and_placement;
            with_main(&map, TableGroup { keyspace, placement, ..group })?
        } else {
            with_group(&map, group, map.epoch())?
        };
    }
    Ok(map)
}

/// Returns the map of the next epoch, which also has the new groups that the settings request;
/// `None` if there are no new groups.
///
/// # Errors
/// [`OpenError::Conflict`] if such a group is not possible.
pub fn with_new_groups(map: &ShardMap, specs: &[GroupSpec]) -> Result<Option<ShardMap>, OpenError> {
    let refused = |fault: GroupFault| OpenError::Conflict(fault.to_string());
    check_specs(specs).map_err(refused)?;
    let is_new = |spec: &&GroupSpec| map.groups().find(&spec.name).is_none();
    let (mut next, epoch) = (None, map.epoch() + 1);
    for spec in specs.iter().filter(is_new) {
        if let Some(table) = spec.tables.iter().find(|name| BUILT_IN.contains(&name.as_str())) {
            let (group, table) = (spec.name.clone(), table.clone());
            return Err(refused(GroupFault::TableExists { group, table }));
        }
        let before = next.as_ref().unwrap_or(map);
        let group = spec.group(before.topology()).map_err(refused)?;
        next = Some(with_group(before, group, epoch).map_err(refused)?);
    }
    Ok(next)
}

/// Returns a sentence for each table that the settings of one group name although the table was
/// created in another group.
pub fn misplaced_tables(map: &ShardMap, tables: &Registry) -> Vec<String> {
    let groups = map.groups();
    let misplaced = groups.tables().into_iter().filter_map(|(name, named)| {
        let own = tables.find(&name)?.group();
        let (own, named) = ((own != named).then(|| groups.name_of(own))?, groups.name_of(named));
        Some(format!("group {named} names the table {name}, which remains in group {own}"))
    });
    misplaced.collect()
}

/// Compares the requested settings of groups with those of a map, and returns a sentence for each
/// one that has no effect. Groups that the map does not have are skipped.
///
/// # Errors
/// [`OpenError::Conflict`] if a keyspace differs: it never changes.
pub(super) fn group_differences(
    map: &ShardMap,
    specs: &[GroupSpec],
    place: &str,
) -> Result<Vec<String>, OpenError> {
    let mut found = Vec::new();
    for spec in specs {
        let Some(group) = map.groups().find(&spec.name).and_then(|number| map.groups().get(number))
        else {
            continue;
        };
        let name = &spec.name;
        if let Some(keyspace) = spec.keyspace.as_ref().filter(|wanted| **wanted != group.keyspace) {
            return Err(OpenError::Conflict(format!(
                "keyspace {keyspace} was requested for group {name}, but {place} has the group with {}: rows would be \
                 searched where they are not. Leave the setting out, or give the group another name",
                group.keyspace
            )));
        }
        if let Some(placement) =
            spec.placement.as_ref().filter(|wanted| **wanted != group.placement)
        {
            let made = &group.placement;
            found.push(format!(
                "placement of group {name} is {placement}, but it was created with {made}: leave the setting out; \
                 `shard-manager rebalance --by placement --group {name} --placement '{placement}'` moves the slots to \
                 the shards of that placement"
            ));
        }
        let numbers = spec.shards.as_ref().map(|names| {
            let mut numbers: Vec<_> = names.iter().map(|name| map.topology().find(name)).collect();
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        });
        let own = |shards: &[ShardNumber]| shards.iter().copied().map(Some).collect();
        let own: Option<Vec<_>> = group.shards.as_deref().map(own);
        if numbers.is_some() && numbers != own {
            let names = |(_, shard): (_, &model::topology::ShardSpec)| shard.name.clone();
            let members: Vec<String> = group.members(map.topology()).map(names).collect();
            let members = members.join(", ");
            found.push(format!(
                "shards of group {name} differ from those stored, which are {members}: leave the setting out"
            ));
        }
        let new = spec.tables.iter().filter(|table| !group.tables.contains(table));
        let new: Vec<&str> = new.map(String::as_str).collect();
        if !new.is_empty() {
            found.push(format!(
                "tables of group {name} has {}, and the list is only for new groups: POST /api/tables names the group \
                 of a table",
                new.join(", ")
            ));
        }
    }
    Ok(found)
}
