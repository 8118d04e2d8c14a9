//! Shard request: requests to change the shards, as clients of the socket write them.
//!
//! **Not here:** the shards (`cluster`), the socket (`control`).

use engine::new_shard::NewShard;
use engine::operator_queue::ShardAction;
use serde::{Deserialize, Serialize};

/// Change of the shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub enum ShardRequest {
    /// A shard joins, without slots.
    Join {
        /// Name of the shard.
        name: String,
        /// Weight of the shard.
        weight: u32,
        /// URL of its database; files have none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        url: Option<String>,
    },
    /// A shard gets another weight.
    Weight {
        /// Name of the shard.
        name: String,
        /// The weight.
        weight: u32,
    },
    /// A shard without slots retires.
    Remove {
        /// Name of the shard.
        name: String,
    },
}

impl From<ShardRequest> for ShardAction {
    fn from(request: ShardRequest) -> Self {
        match request {
            ShardRequest::Join { name, weight, url } => Self::Join(NewShard { name, weight, url }),
            ShardRequest::Weight { name, weight } => Self::Weight { name, weight },
            ShardRequest::Remove { name } => Self::Remove { name },
        }
    }
}
