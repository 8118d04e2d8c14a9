//! Join orders: the queue of orders to let a shard join, which requests send to the task that
//! carries them out.
//!
//! The future of a request is dropped when its client disconnects. The join continues, because the
//! task is not part of the request.
//!
//! **Not here:** the steps of a join (`shard_membership`), the task (`shard_upkeep`).

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use engine::new_shard::NewShard;
use model::error::Error;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

use super::shard_membership::{ShardChangeError, ShardChanged};

/// Maximum number of orders that wait.
const ORDERS_MAX: usize = 16;

/// Result of a join.
pub(super) type Joined = Result<ShardChanged, ShardChangeError>;

/// Shard that is to join.
#[derive(Clone, Debug)]
pub(super) struct JoinOrder {
    /// The shard.
    pub(super) shard: NewShard,
    /// Epoch that the shard map must have; `None` if it may have any.
    pub(super) expected_epoch: Option<u64>,
    /// Time after which the join is not begun, and until which its steps may wait.
    pub(super) deadline: Instant,
}

/// Order, and the channel for its result.
pub(super) type WaitingOrder = (JoinOrder, oneshot::Sender<Joined>);

/// Queue of orders.
pub(super) struct JoinOrders {
    orders: Sender<WaitingOrder>,
    /// The receiver, until a task takes it to carry out the orders.
    waiting: Mutex<Option<Receiver<WaitingOrder>>>,
}

impl Default for JoinOrders {
    fn default() -> Self {
        let (orders, waiting) = channel(ORDERS_MAX);
        Self { orders, waiting: Mutex::new(Some(waiting)) }
    }
}

impl JoinOrders {
    /// Returns the receiver of orders; `None` if it was taken before.
    pub(super) fn open(&self) -> Option<Receiver<WaitingOrder>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Sends an order to the task, and returns the result of the join; returns the order if no task
    /// carries out orders. The wait ends at the deadline of the order, even while the order waits
    /// behind others. The task finishes a join that it has begun, and begins none after the
    /// deadline.
    pub(super) async fn order(&self, order: JoinOrder) -> Result<Joined, JoinOrder> {
        let is_open = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        if !is_open {
            return Err(order);
        }
        let (done, joined) = oneshot::channel();
        let deadline = tokio::time::Instant::from_std(order.deadline);
        let ended = || Err(ShardChangeError::Failed(Error::DeadlinePassed));
        match tokio::time::timeout_at(deadline, self.orders.send((order, done))).await {
            Ok(sent) => sent.map_err(|unsent| unsent.0.0)?,
            Err(_elapsed) => return Ok(ended()),
        }
        let joined = tokio::time::timeout_at(deadline, joined).await;
        // If the task has ended with the router, the next start finishes a join that was begun.
        Ok(joined.ok().and_then(Result::ok).unwrap_or_else(ended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_order_waits_behind_other_joins_only_until_its_deadline() {
        let orders = JoinOrders::default();
        let waiting = orders.open();
        assert!(waiting.is_some(), "the task has not been started");
        for number in 0..=ORDERS_MAX {
            let shard = NewShard { name: format!("shard{number}"), weight: 1, url: None };
            let order = JoinOrder { shard, expected_epoch: None, deadline: Instant::now() };
            let ended = orders.order(order).await;
            let is_late = matches!(ended, Ok(Err(ShardChangeError::Failed(Error::DeadlinePassed))));
            assert!(is_late, "{ended:?}");
        }
    }
}
