//! Moves of slots in a story, and their ends after a power cut.
//!
//! **Not here:** the changes of rows and the conditions after a power cut (`story`).

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use shard_manager::engine::move_record::{MoveOrder, MovePhase, NewMove};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{Manager, MovesError};
use shard_manager::topology::ShardNumber;

use crate::story::Story;

impl Story {
    /// Moves the slot of a key to the other of two shards while the key changes, and back if that
    /// is wished.
    pub(crate) async fn move_slot(&self, manager: &Manager, key: &str, comes_back: bool) {
        let place = manager.map().place(ShardKey::parse(key).expect("a good key"));
        let place = place.expect("a slot");
        let (source, target) = (place.shard, ShardNumber(1 - place.shard.0));
        let slots = [place.slot].into_iter().collect();
        let keep = if comes_back { KEPT } else { Duration::ZERO };
        let new = NewMove { slots, source, target, rate: None, keep };
        let moved = async {
            let id = loop {
                match manager.moves().begin(new.clone(), None, soon()).await {
                    Ok(record) => break record.id,
                    // Replicas that were just built do not follow yet.
                    Err(MovesError::NoMajority { .. }) => {}
                    // The catalog is locked while an image of it waits to be checked.
                    Err(MovesError::List(_)) => {
                        let listed = manager.moves().list().await.unwrap_or_default();
                        let open = listed.iter().find(|record| !record.phase.has_ended());
                        if let Some(open) = open {
                            break open.id;
                        }
                    }
                    Err(error) => panic!("it does not begin: {error}"),
                }
                self.change(manager, key).await;
            };
            loop {
                self.change(manager, key).await;
                let Ok(record) = manager.moves().get(id).await else { continue };
                if matches!(record.phase, MovePhase::Done | MovePhase::RolledBack) {
                    break;
                }
                assert!(!record.phase.has_ended(), "{record:?}");
                if record.phase == MovePhase::Keeping && comes_back {
                    // Once more is as good.
                    let _ = manager.moves().order(record.id, MoveOrder::Rollback).await;
                }
            }
        };
        beside_upkeep(manager, moved).await;
    }
}

/// Time for which the source of a move that comes back is kept: no test reaches it.
const KEPT: Duration = Duration::from_secs(3_600);

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Runs work beside the task that carries moves out.
pub(crate) async fn beside_upkeep<T>(manager: &Manager, work: impl Future<Output = T>) -> T {
    match select(pin!(manager.shards().keep_up()), pin!(work)).await {
        Either::Left(_) => panic!("the task never ends"),
        Either::Right((done, _)) => done,
    }
}

/// Lets all moves end.
pub(crate) async fn end_moves(manager: &Manager) -> Result<(), String> {
    let until = soon();
    loop {
        let listed = manager.moves().list().await.map_err(|error| error.to_string())?;
        let open = listed.iter().find(|record| !record.phase.has_ended());
        let Some(open) = open else {
            let failed = listed.iter().find(|record| record.phase == MovePhase::Failed);
            return failed.map_or(Ok(()), |failed| Err(format!("a move has failed: {failed:?}")));
        };
        if Instant::now() > until {
            return Err(format!("a move does not end: {open:?}"));
        }
        if open.phase == MovePhase::Keeping {
            // It is refused if the move returns.
            let _ = manager.moves().order(open.id, MoveOrder::Settle).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
