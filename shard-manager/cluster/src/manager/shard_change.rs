//! Shard change: a shard joins, gets another weight or leaves, on the orders of an operator.
//!
//! ```text
//!   nothing ──check──▶ joining (catalog) ──open──▶ open here ──▶ serving (catalog) ──▶ other routers
//! ```
//! The catalog lists the joining shard before its database is touched. A process that dies leaves it
//! joining: the next start finishes the join, and so does the next request of the same name.
//!
//! **Invariant:** a shard that serves is open on the router that let it join, and has every table.
//! **Not here:** the database of a shard (the engines), the owners of slots.

use std::sync::Arc;
use std::time::Instant;

use access::rights::Rights;
use engine::catalog_rows::MapChangeError;
use engine::new_shard::{NewShard, NewShardRefusal};
use model::error::Error;
use model::map_change::MapChange;
use model::shard_map::ShardMap;
use model::topology::{ShardNumber, ShardSpec, ShardState};

use super::Shards;
use super::join_desk::JoinOrder;

/// Attempts to let a joining shard serve while other changes of the map come first.
const SERVE_TRIES: usize = 16;

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
    #[error("the cluster has no shard {name}")]
    NoShard {
        /// The name.
        name: String,
    },
    /// The name is that of another shard.
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
        /// Its state.
        state: ShardState,
    },
    /// The new shard cannot join.
    #[error(transparent)]
    NewShard(#[from] NewShardRefusal),
    /// The map cannot be changed so.
    #[error(transparent)]
    Map(#[from] MapChangeError),
    /// The cluster is occupied, or the catalog does not answer. Nothing was changed.
    #[error("{0}")]
    Failed(Error),
}

impl Shards<'_> {
    /// Lets a shard join the cluster, without slots. A shard of this name that is joining already is
    /// taken further; one that serves, with the same weight, is left as it is.
    ///
    /// Cancel safety: where [`Shards::keep_up`] runs, the join goes on if the future is dropped;
    /// elsewhere the next request of the same name, or the next start, finishes it.
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
            Err(order) => self.carry_out(order).await,
        }
    }

    /// Carries out a join. The tables stay as they are meanwhile, so that none is missing on the
    /// shard when it serves.
    pub(super) async fn carry_out(
        self,
        order: JoinOrder,
    ) -> Result<ShardChanged, ShardChangeError> {
        let (schema, deadline) = (self.0.schema(Rights::ALL), order.deadline);
        let lock = schema.lock_schema(deadline).await.map_err(ShardChangeError::Failed)?;
        schema.finish_pending(&*lock, deadline).await.map_err(ShardChangeError::Failed)?;
        let (number, listed) = self.list(&order).await?;
        let state = listed.topology().shards()[number.index()].state;
        if state == ShardState::Serving {
            return Ok(ShardChanged { shard: number, map: listed });
        }
        self.open_listed(number, deadline).await?;
        let map = self.serve(number, listed.epoch()).await?;
        tracing::info!(shard = order.shard.name, epoch = map.epoch(), "a shard has joined");
        Ok(ShardChanged { shard: number, map })
    }

    /// Lists a shard in the catalog, unless it is listed, and returns a map that lists it as joining
    /// or serving.
    async fn list(
        self,
        JoinOrder { shard, expected_epoch, deadline }: &JoinOrder,
    ) -> Result<(ShardNumber, Arc<ShardMap>), ShardChangeError> {
        let known = self.newest_map();
        let listed = known.topology().members().find(|(_, member)| member.name == shard.name);
        if let Some((number, ShardSpec { name, weight, state })) = listed {
            let is_same = *weight == shard.weight && *state != ShardState::Draining;
            if !is_same {
                let (name, weight, state) = (name.clone(), *weight, *state);
                return Err(ShardChangeError::Exists { name, weight, state });
            }
            if *state == ShardState::Joining {
                self.0.backend.check_new_shard(shard, *deadline).await?;
            }
            return Ok((number, known));
        }
        let change = |address| {
            let (name, weight) = (shard.name.clone(), shard.weight);
            MapChange::NewShard { name, weight, address }
        };
        // Before the check, which may take long.
        change(None).apply(&known).map_err(MapChangeError::Refused)?;
        let address = self.0.backend.check_new_shard(shard, *deadline).await?;
        let epoch = expected_epoch.unwrap_or(known.epoch());
        let map = self.change_map(change(address), epoch).await?;
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
        for _ in 1..SERVE_TRIES {
            match self.change_map(change.clone(), epoch).await {
                Err(MapChangeError::Stale { epoch: present, .. }) => epoch = present,
                changed => return Ok(changed?),
            }
        }
        Ok(self.change_map(change, epoch).await?)
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
        let known = self.newest_map();
        let shard = known.topology().find(name);
        let shard = shard.ok_or_else(|| ShardChangeError::NoShard { name: name.to_owned() })?;
        let epoch = expected_epoch.unwrap_or(known.epoch());
        let map = self.change_map(change(shard), epoch).await?;
        Ok(ShardChanged { shard, map })
    }
}
