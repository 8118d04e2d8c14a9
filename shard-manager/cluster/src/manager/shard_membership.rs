//! Shard membership: lets a shard join, gives it another weight, or retires it, as an operator
//! orders.
//!
//! ```text
//!   nothing ──check──▶ joining (catalog) ──open──▶ serving (catalog) ──▶ other routers
//! ```
//! The catalog lists the joining shard before its database is touched. If the process dies, the
//! shard stays in the state `joining`, and the next start or the next request with the same name
//! finishes the join.
//!
//! **Invariant:** a shard that serves is open on the router that let it join, and has every table.
//! **Not here:** the database of a shard (the engines), the owners of slots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use access::rights::Rights;
use engine::catalog_rows::MapChangeError;
use engine::new_shard::{NewShard, NewShardRefusal};
use engine::refusal_code::RefusalCode;
use model::error::Error;
use model::map_change::MapChange;
use model::shard_map::ShardMap;
use model::topology::{ShardNumber, ShardSpec, ShardState};

use super::Shards;
use super::join_orders::JoinOrder;
use super::shards::epoch_to_retry;

/// Maximum number of attempts to change the map while concurrent changes come first.
const TRIES_MAX: usize = 16;
/// Longest wait for the newest map.
const UPDATE_MAX: Duration = Duration::from_secs(2);

/// Change of a shard that is in force.
#[derive(Clone, Debug)]
pub struct ShardChanged {
    /// The shard.
    pub shard: ShardNumber,
    /// The map after the change.
    pub map: Arc<ShardMap>,
}

/// Reason why a shard was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardChangeError {
    /// There is no shard of this name, or it has retired.
    #[error("the cluster has no shard `{name}`")]
    NoShard {
        /// The name.
        name: String,
    },
    /// Another shard has this name.
    #[error(
        "the cluster has a shard {name} with weight {weight}, which is {}: choose another name, or \
         change its weight",
        state.name()
    )]
    Exists {
        /// The name.
        name: String,
        /// Weight of the shard that has the name.
        weight: u32,
        /// State of the shard that has the name.
        state: ShardState,
    },
    /// The new shard cannot join.
    #[error(transparent)]
    NewShard(#[from] NewShardRefusal),
    /// The shard map could not be changed, or the outcome of the change is unknown.
    #[error(transparent)]
    Map(#[from] MapChangeError),
    /// The cluster is busy, or the catalog does not respond. The request may be repeated.
    #[error("{0}")]
    Failed(Error),
}

impl ShardChangeError {
    /// Returns the public code; `None` if the work failed and may be repeated.
    pub fn code(&self) -> Option<RefusalCode> {
        match self {
            Self::NoShard { .. } => Some(RefusalCode::NoShard),
            Self::Exists { .. } => Some(RefusalCode::ShardState),
            Self::NewShard(refusal) => RefusalCode::of_new_shard(refusal),
            Self::Map(error) => RefusalCode::of_map_change(error),
            Self::Failed(_) => None,
        }
    }
}

impl Shards<'_> {
    /// Adds a shard without slots to the cluster. If a shard with this name, weight and URL is
    /// already joining, its join is resumed; if it already serves, nothing changes.
    ///
    /// Cancel safety: if this process runs [`Shards::keep_up`], the join continues after the future
    /// is dropped. Otherwise the next request with the same name, or the next start, finishes the
    /// join.
    ///
    /// # Errors
    /// [`ShardChangeError`].
    pub async fn join(
        self,
        shard: NewShard,
        expected_epoch: Option<u64>,
        deadline: Instant,
    ) -> Result<ShardChanged, ShardChangeError> {
        match self.0.joins.order(JoinOrder { shard, expected_epoch, deadline }).await {
            Ok(joined) => joined,
            Err(order) => ShardJoin { shards: self, order: &order }.carry_out().await,
        }
    }

    /// Gives a shard another weight. Its slots stay where they are.
    ///
    /// # Errors
    /// [`ShardChangeError`].
    pub async fn set_weight(
        self,
        name: &str,
        weight: u32,
        expected_epoch: Option<u64>,
    ) -> Result<ShardChanged, ShardChangeError> {
        self.change(name, expected_epoch, |shard| MapChange::Weight { shard, weight }).await
    }

    /// Retires a shard that owns no slots. Its database, or its files, stay as they are.
    ///
    /// # Errors
    /// [`ShardChangeError`].
    pub async fn remove(
        self,
        name: &str,
        expected_epoch: Option<u64>,
    ) -> Result<ShardChanged, ShardChangeError> {
        let state = ShardState::Retired;
        self.change(name, expected_epoch, |shard| MapChange::State { shard, state }).await
    }

    async fn change(
        self,
        name: &str,
        expected_epoch: Option<u64>,
        change: impl Fn(ShardNumber) -> MapChange,
    ) -> Result<ShardChanged, ShardChangeError> {
        let change_once = async || {
            let known = self.newest_map();
            let shard = known.topology().find(name);
            let shard = shard.ok_or_else(|| ShardChangeError::NoShard { name: name.to_owned() })?;
            let epoch = expected_epoch.unwrap_or(known.epoch());
            let map = self.change_map(change(shard), epoch).await?;
            Ok(ShardChanged { shard, map })
        };
        for _ in 1..TRIES_MAX {
            let changed = change_once().await;
            if !self.is_behind(&changed, expected_epoch, Instant::now() + UPDATE_MAX).await {
                return changed;
            }
        }
        change_once().await
    }

    /// Returns true if a change failed only because the map has another epoch than expected, and
    /// the request did not require an epoch. In this case the newest map has been read, so the
    /// change can be tried again.
    async fn is_behind<T>(
        self,
        changed: &Result<T, ShardChangeError>,
        expected_epoch: Option<u64>,
        deadline: Instant,
    ) -> bool {
        let Err(ShardChangeError::Map(MapChangeError::Stale { expected, epoch })) = changed else {
            return false;
        };
        let later = epoch_to_retry((*expected, *epoch), expected_epoch);
        expected_epoch.is_none() && self.0.backend.update_map(later, deadline).await.is_ok()
    }

    /// Returns the newest map of the catalog, as far as it is known here. It may name shards that
    /// are not open yet.
    pub fn newest_map(self) -> Arc<ShardMap> {
        self.0.map.backlog().newest_or(self.0.map())
    }
}

/// Join of one shard.
#[derive(Clone, Copy)]
pub(super) struct ShardJoin<'m> {
    pub(super) shards: Shards<'m>,
    pub(super) order: &'m JoinOrder,
}

impl ShardJoin<'_> {
    /// Carries out a join while holding the schema lock: a table that was created meanwhile would
    /// be missing on the shard when it serves.
    pub(super) async fn carry_out(self) -> Result<ShardChanged, ShardChangeError> {
        let Self { shards: Shards(manager), order } = self;
        let (schema, deadline) = (manager.schema(Rights::ALL), order.deadline);
        let lock = schema.lock_schema(deadline).await.map_err(ShardChangeError::Failed)?;
        schema.finish_pending(&*lock, deadline).await.map_err(ShardChangeError::Failed)?;
        let (number, listed) = self.list_newest().await?;
        let state = listed.topology().shards()[number.index()].state;
        if state == ShardState::Serving {
            return Ok(ShardChanged { shard: number, map: listed });
        }
        self.shards.upkeep().open_listed(number, deadline).await?;
        let map = self.serve(number, listed.epoch()).await?;
        tracing::info!(shard = order.shard.name, epoch = map.epoch(), "a shard has joined");
        Ok(ShardChanged { shard: number, map })
    }

    /// Lists a shard in the catalog. If the map changes meanwhile, this is tried again, unless the
    /// request required an epoch.
    async fn list_newest(self) -> Result<(ShardNumber, Arc<ShardMap>), ShardChangeError> {
        let JoinOrder { expected_epoch, deadline, .. } = self.order;
        for _ in 1..TRIES_MAX {
            let listed = self.list().await;
            if !self.shards.is_behind(&listed, *expected_epoch, *deadline).await {
                return listed;
            }
        }
        self.list().await
    }

    /// Lists a shard in the catalog, unless it is listed, and returns a map that lists it as
    /// joining or serving.
    async fn list(self) -> Result<(ShardNumber, Arc<ShardMap>), ShardChangeError> {
        let JoinOrder { shard, expected_epoch, deadline } = self.order;
        let (known, backend) = (self.shards.newest_map(), &self.shards.0.backend);
        let listed = known.topology().members().find(|(_, member)| member.name == shard.name);
        if let Some((number, ShardSpec { name, weight, state })) = listed {
            let is_same = *weight == shard.weight && *state != ShardState::Draining;
            if !is_same {
                let (name, weight, state) = (name.clone(), *weight, *state);
                return Err(ShardChangeError::Exists { name, weight, state });
            }
            // The same name with another URL is not a repetition.
            backend.check_new_shard(shard, *deadline).await?;
            return Ok((number, known));
        }
        let change = |address| {
            let (name, weight) = (shard.name.clone(), shard.weight);
            MapChange::NewShard { name, weight, address }
        };
        // Checked first, because the request to the backend may take long.
        change(None).apply(&known).map_err(MapChangeError::Refused)?;
        let number = ShardNumber(known.topology().len() as u16);
        let before = self.shards.0.shard_name(number);
        // If a newer map gives the number to a shard that joins through another router, the change
        // is tried again.
        if !before.is_empty() && self.shards.newest_map().epoch() == known.epoch() {
            // A router on which that shard is open would use its database for the new shard.
            let cause = format!(
                "its number would be that of {before}, which the catalog has lost in a failover: \
                 start all routers again, and repeat the request"
            );
            return Err(NewShardRefusal::Unsuitable { place: shard.name.clone(), cause }.into());
        }
        let address = backend.check_new_shard(shard, *deadline).await?;
        let epoch = expected_epoch.unwrap_or(known.epoch());
        let map = self.shards.change_map(change(address), epoch).await?;
        let number = map.topology().find(&shard.name);
        let number =
            number.ok_or_else(|| ShardChangeError::NoShard { name: shard.name.clone() })?;
        Ok((number, map))
    }

    /// Lets a joining shard serve, whatever else has changed in the map since this epoch.
    async fn serve(
        self,
        shard: ShardNumber,
        mut epoch: u64,
    ) -> Result<Arc<ShardMap>, ShardChangeError> {
        let change = MapChange::State { shard, state: ShardState::Serving };
        for _ in 1..TRIES_MAX {
            let found = match self.shards.change_map(change.clone(), epoch).await {
                Err(MapChangeError::Stale { epoch: found, .. }) => found,
                changed => return Ok(changed?),
            };
            let later = epoch_to_retry((epoch, found), None);
            let updated = self.shards.0.backend.update_map(later, self.order.deadline).await;
            updated.map_err(ShardChangeError::Failed)?;
            let newest = self.shards.newest_map();
            epoch = newest.epoch().max(found);
            // The catalog may have lost the shard in a failover, and given its number to another
            // one.
            let spec = newest.topology().shards().get(shard.index());
            let Some(spec) = spec.filter(|spec| spec.name == self.order.shard.name) else {
                return Err(ShardChangeError::NoShard { name: self.order.shard.name.clone() });
            };
            if spec.state == ShardState::Serving {
                // The last step of an earlier request for this join was still under way, and has
                // succeeded.
                return Ok(newest);
            }
        }
        Ok(self.shards.change_map(change, epoch).await?)
    }
}
