//! Published map: the shard map in force, and the shards that requests can be sent to.
//!
//! Engines publish newer maps, and the cluster adds and removes shards. One lock serializes both,
//! so a request that has loaded a map finds all shards of that map in the cluster's list.
//!
//! If a map of the catalog names shards that are not open in this process, the map is kept until
//! they are open (`map_backlog`).
//!
//! **Invariant:** every member of the map in force is open, or is joining and has no slots. Epochs
//! never decrease. The name of a shard number never changes.
//! **Not here:** the list of open shards (`cluster`), the catalog's copy of the map (the engines).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::{ArcSwap, Guard};
use model::shard_map::{ShardMap, with_first_shards, with_joining};
use model::topology::{ShardNumber, ShardSpec, ShardState, Topology};

use crate::map_backlog::MapBacklog;

/// The shard map in force.
pub struct PublishedMap {
    map: ArcSwap<ShardMap>,
    /// Names by shard number, including retired shards. A name is never removed, so references to
    /// it stay valid.
    names: Box<[OnceLock<Box<str>>]>,
    /// Numbers of the open shards. Locked while a map is published.
    open: Mutex<BTreeSet<ShardNumber>>,
    backlog: MapBacklog,
}

/// Reason why a map was not published, or a shard was not added or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardListError {
    /// The map names a shard that is not open.
    #[error("the shard map of epoch {epoch} names {shard}, which this router has not opened")]
    NotOpen {
        /// Epoch of the map.
        epoch: u64,
        /// Name of the shard.
        shard: String,
    },
    /// The number belongs to another shard, or the shard with this number is already open.
    #[error("shard number {} was given to {shard}", .number.0)]
    NumberTaken {
        /// The number.
        number: ShardNumber,
        /// Name of the shard that has the number.
        shard: String,
    },
    /// The number is beyond [`Topology::SHARDS_MAX`].
    #[error("a cluster has at most {} shards, retired ones included", Topology::SHARDS_MAX)]
    TooMany,
    /// The map in force names the shard that is to be removed.
    #[error("{shard} is a member of the shard map in force")]
    InUse {
        /// Name of the shard.
        shard: String,
    },
}

impl PublishedMap {
    /// Creates the published map from a first map, all of whose members are open.
    pub fn new(map: ShardMap) -> Self {
        let open = Mutex::new(map.topology().numbers().collect());
        let names = (0..Topology::SHARDS_MAX).map(|_| OnceLock::new()).collect();
        let backlog = MapBacklog::default();
        let published = Self { map: ArcSwap::from_pointee(map), names, open, backlog };
        published.keep_names(&published.map.load());
        published
    }

    /// Returns the map in force, for use during a short time.
    #[inline]
    pub fn load(&self) -> Guard<Arc<ShardMap>> {
        self.map.load()
    }

    /// Returns the map in force.
    #[inline]
    pub fn load_full(&self) -> Arc<ShardMap> {
        self.map.load_full()
    }

    /// Publishes a map if it is not older than the map in force. Returns true if the map in force
    /// has changed.
    ///
    /// # Errors
    /// [`ShardListError::NotOpen`] if a member is not open, [`ShardListError::NumberTaken`] if a
    /// number was given to a shard of another name. The map in force then stays unchanged.
    pub fn publish(&self, map: ShardMap) -> Result<bool, ShardListError> {
        self.publish_locked(&self.lock(), map)
    }

    /// Publishes a map like [`PublishedMap::publish`], but leaves out shards that are not open
    /// here, if they have just joined and own no slots yet. The complete map is kept until these
    /// shards are open.
    ///
    /// # Errors
    /// [`ShardListError::NotOpen`] if a shard that is not open owns slots,
    /// [`ShardListError::NumberTaken`] if a number was given to a shard of another name. The map in
    /// force then stays unchanged.
    pub fn publish_open(&self, map: ShardMap) -> Result<bool, ShardListError> {
        let open = self.lock();
        let missing: Vec<ShardNumber> =
            map.topology().numbers().filter(|number| !open.contains(number)).collect();
        let Some(first) = missing.first() else {
            self.backlog.clear(map.epoch());
            let published = self.publish_locked(&open, map);
            if retired(&open, &self.map.load()).next().is_some() {
                self.backlog.announce();
            }
            return published;
        };
        if let Some(taken) = taken_number(&self.names, &map) {
            return Err(taken);
        }
        self.backlog.keep(&map);
        self.backlog.announce();
        // Shards that joined after the first missing shard may already be open and own slots.
        let limited = with_first_shards(&map, first.index());
        let limited = limited.or_else(|| with_joining(&map, &missing));
        self.publish_locked(&open, limited.unwrap_or(map))
    }

    /// Returns the backlog: the newest map of the catalog if it is not completely in force, and the
    /// announcements that shards are to be opened or closed.
    pub fn backlog(&self) -> &MapBacklog {
        &self.backlog
    }

    /// Returns the shards that have retired but are still open here.
    pub fn open_retired(&self) -> Vec<ShardNumber> {
        retired(&self.lock(), &self.map.load()).collect()
    }

    fn publish_locked(
        &self,
        open: &BTreeSet<ShardNumber>,
        map: ShardMap,
    ) -> Result<bool, ShardListError> {
        let known = self.map.load();
        if map.epoch() < known.epoch() || map == **known {
            return Ok(false);
        }
        let is_missing = |(number, shard): &(ShardNumber, &ShardSpec)| {
            shard.state != ShardState::Joining && !open.contains(number)
        };
        if let Some((_, shard)) = map.topology().members().find(is_missing) {
            let (epoch, shard) = (map.epoch(), shard.name.clone());
            return Err(ShardListError::NotOpen { epoch, shard });
        }
        if let Some(taken) = taken_number(&self.names, &map) {
            return Err(taken);
        }
        self.keep_names(&map);
        self.map.store(Arc::new(map));
        Ok(true)
    }

    /// Returns the name of a shard, even if it has retired; empty if the number was never assigned.
    #[inline]
    pub fn shard_name(&self, number: ShardNumber) -> &str {
        self.names.get(number.index()).and_then(OnceLock::get).map_or("", |name| name)
    }

    /// Returns the numbers that have a name, in order.
    pub fn named(&self) -> impl Iterator<Item = ShardNumber> + '_ {
        let named = (0..).map(ShardNumber).zip(&self.names);
        named.filter(|(_, name)| name.get().is_some()).map(|(number, _)| number)
    }

    /// Reserves a number for a shard that is being opened. Maps that name the shard can be
    /// published only after [`PublishedMap::add_shard`].
    ///
    /// # Errors
    /// [`ShardListError::NumberTaken`] if the shard with this number is open, or the number was
    /// given to a shard of another name; [`ShardListError::TooMany`] if the number is too large.
    pub fn reserve(&self, number: ShardNumber, name: &str) -> Result<(), ShardListError> {
        let open = self.lock();
        let known = self.names.get(number.index()).ok_or(ShardListError::TooMany)?;
        let known = known.get_or_init(|| name.into());
        if **known != *name || open.contains(&number) {
            return Err(ShardListError::NumberTaken { number, shard: known.to_string() });
        }
        Ok(())
    }

    /// Allows maps that name this shard to be published. Called when requests can be sent to the
    /// shard.
    pub fn add_shard(&self, number: ShardNumber) {
        self.lock().insert(number);
        // The shard may have retired while it was being opened.
        self.backlog.announce();
    }

    /// Prevents maps that name this shard from being published.
    ///
    /// # Errors
    /// [`ShardListError::InUse`] if the map in force names it.
    pub fn remove_shard(&self, number: ShardNumber) -> Result<(), ShardListError> {
        let mut open = self.lock();
        if self.map.load().topology().numbers().any(|member| member == number) {
            let shard = self.shard_name(number).to_owned();
            return Err(ShardListError::InUse { shard });
        }
        open.remove(&number);
        Ok(())
    }

    fn keep_names(&self, map: &ShardMap) {
        for (shard, name) in map.topology().shards().iter().zip(&self.names) {
            name.get_or_init(|| shard.name.as_str().into());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<ShardNumber>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns an error if a map gives the number of a known shard to another shard. The catalog has
/// then lost the first shard in a failover, and this process may still have that shard open.
fn taken_number(names: &[OnceLock<Box<str>>], map: &ShardMap) -> Option<ShardListError> {
    let mut numbered = map.topology().shards().iter().zip(names).zip((0..).map(ShardNumber));
    numbered.find_map(|((shard, name), number)| {
        let known = name.get().filter(|known| ***known != *shard.name)?;
        Some(ShardListError::NumberTaken { number, shard: known.to_string() })
    })
}

/// Returns those of these shards that have retired according to the map.
fn retired<'s>(
    shards: &'s BTreeSet<ShardNumber>,
    map: &'s ShardMap,
) -> impl Iterator<Item = ShardNumber> + 's {
    let known = map.topology().shards();
    let state = |number: &ShardNumber| known.get(number.index()).map(|shard| shard.state);
    shards.iter().copied().filter(move |number| state(number) == Some(ShardState::Retired))
}
