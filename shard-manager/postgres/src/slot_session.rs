//! Slot session: fences and releases slots of a cluster, without opening the cluster. For commands.
//!
//! The owners are read from the shards themselves, which decide about every write. The databases
//! notify the routers of the change.
//!
//! **Invariant:** nothing is changed unless each slot is owned by one of the given shards.
//! **Not here:** the change (`slot_changes`, `migrations`), a cluster that is open in this process
//! (`writer`).

use std::time::{Duration, Instant};

use engine::open_error::OpenError;
use engine::refusal_code::RefusalCode;
use engine::slot_change::{SlotChange, SlotStep};
use model::keyspace::{SLOT_COUNT, Slot};
use model::slot_set::{SlotSet, SlotSetError, check_known};

use super::discovery;
use super::node_address::{ClusterAddress, NodeAddress};
use super::session::Session;
use super::shard_addresses::{self, JoiningShards};
use super::slot_changes;
use super::sql;
use super::statement::{Bind, RowView, Statement, load};

/// Wait before a change is tried again while other writes hold the fence lock.
const BUSY_WAIT: Duration = Duration::from_millis(50);
/// Longest time for which a change is tried.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// Sessions with the primaries of all shards.
pub struct SlotSession {
    shards: Vec<(String, Session)>,
}

/// Reason why slots were not changed.
#[derive(Debug, thiserror::Error)]
pub enum SlotSessionError {
    /// A shard cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The cluster has no slot of this number.
    #[error(transparent)]
    Slots(#[from] SlotSetError),
    /// None of the shards owns these slots.
    #[error("none of the shards owns the slots {0}: name all shards of the cluster in SHARD_URLS")]
    NotOwned(SlotSet),
    /// Two of the shards own a slot.
    #[error(
        "two of the shards own the slots {0}: name each shard of one cluster once in SHARD_URLS"
    )]
    OwnedTwice(SlotSet),
    /// Other writes held the fence lock.
    #[error("the fence lock of {0} was not free in time: try again")]
    Busy(String),
}

impl SlotSessionError {
    /// Returns the public code; `None` if the shards cannot carry the change out now.
    pub fn code(&self) -> Option<RefusalCode> {
        match self {
            Self::Slots(_) | Self::NotOwned(_) => Some(RefusalCode::BadFence),
            Self::Open(_) | Self::OwnedTwice(_) | Self::Busy(_) => None,
        }
    }
}

impl SlotSession {
    /// Connects to the primary of each shard: of those in the settings, and of those that the
    /// catalog lists beside them, because they have joined. Of the latter, one that cannot be used
    /// is left out.
    ///
    /// # Errors
    /// [`OpenError`] if a shard of the settings has no primary, or no tables of a cluster.
    pub async fn open(settings: &ClusterAddress) -> Result<Self, OpenError> {
        let primaries = primaries(settings).await;
        let is_named = |at: &NodeAddress| {
            settings.shards.iter().any(|shard| shard.primary.location() == at.location())
        };
        let mut shards = Vec::with_capacity(primaries.len());
        for at in &primaries {
            let name = at.redacted();
            match discovery::connect_primary(at, &name, &ClusterAddress::of_node(at)).await {
                Ok(session) => shards.push((name, session.0)),
                // Slots of the other shards can be fenced.
                Err(error) if !is_named(at) => tracing::warn!(%error, "a shard is left out"),
                Err(error) => return Err(error),
            }
        }
        Ok(Self { shards })
    }

    /// Changes slots on the shards that own them. If a shard does not fence its slots, the others
    /// release theirs.
    ///
    /// # Errors
    /// [`SlotSessionError`]. If one of several shards fails, others may have released their slots.
    pub async fn change(&self, slots: &SlotSet, step: SlotStep) -> Result<(), SlotSessionError> {
        let (mut parts, mut left, mut slot_count) =
            (Vec::new(), slots.clone(), usize::from(SLOT_COUNT));
        for (name, session) in &self.shards {
            let count = count_slots(session).await;
            slot_count = slot_count.max(count.map_err(|error| OpenError::node(name, error))?);
            let owned = owned(session, slots).await;
            let owned = owned.map_err(|error| OpenError::node(name, error))?;
            let (missing, found) = (left.without(&owned), owned.without(&left));
            if !found.is_empty() {
                return Err(SlotSessionError::OwnedTwice(found));
            }
            left = missing;
            parts.push((name, session, owned));
        }
        if !left.is_empty() {
            check_known(&left, slot_count)?;
            return Err(SlotSessionError::NotOwned(left));
        }
        parts.retain(|(.., slots)| !slots.is_empty());
        for (index, (name, session, slots)) in parts.iter().enumerate() {
            let changed = change(name, session, SlotChange { slots: slots.clone(), step }).await;
            if let Err(error) = changed {
                if matches!(step, SlotStep::Fence { .. }) {
                    release(&parts[..index]).await;
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Returns the addresses of the primaries of all shards. If the catalog cannot be read, these are
/// those of the settings: the shards themselves decide which slots they own.
async fn primaries(settings: &ClusterAddress) -> Vec<NodeAddress> {
    let mut joining = JoiningShards { are_left_out: true, ..JoiningShards::default() };
    let shards = match shard_addresses::find(settings, &mut joining).await {
        Ok(found) if found.is_made => found.cluster.shards,
        Ok(_) | Err(_) => settings.shards.clone(),
    };
    shards.into_iter().map(|shard| shard.primary).collect()
}

/// Releases the slots that some shards have fenced for a request that failed at another shard. A
/// fence that is not released ends by itself.
async fn release(parts: &[(&String, &Session, SlotSet)]) {
    for (name, session, slots) in parts {
        let released = SlotChange { slots: slots.clone(), step: SlotStep::Release };
        if let Err(error) = change(name, session, released).await {
            tracing::debug!(%error, "the fence of a failed request ends by itself");
        }
    }
}

/// Returns the number of slots of all table groups that a shard knows of.
async fn count_slots(session: &Session) -> Result<usize, diesel::result::Error> {
    let statement = Statement { sql: sql::SLOT_COUNT, binds: &[], cached: false };
    let rows = load(&session.connection, statement).await?;
    let count = rows.first().and_then(|row| usize::try_from(row.bigint(0)?).ok());
    Ok(count.unwrap_or_default())
}

/// Returns the slots among these that a shard owns.
async fn owned(session: &Session, slots: &SlotSet) -> Result<SlotSet, diesel::result::Error> {
    let numbers: Vec<i32> = slots.iter().map(|slot| i32::from(slot.number())).collect();
    let binds = [Bind::integers(numbers.into_iter())];
    let statement = Statement { sql: sql::OWNED_SLOTS, binds: &binds, cached: false };
    let rows = load(&session.connection, statement).await?;
    let number = |row: &RowView| Slot::new(u16::try_from(row.bigint(0)?).ok()?);
    Ok(rows.iter().filter_map(number).collect())
}

/// Changes slots of a shard, as soon as its fence lock is free.
async fn change(name: &str, session: &Session, change: SlotChange) -> Result<(), SlotSessionError> {
    let binds = slot_changes::binds(&change);
    let until = Instant::now() + BUSY_MAX;
    loop {
        let statement = Statement { sql: sql::CHANGE_SLOTS, binds: &binds, cached: false };
        let decided = load(&session.connection, statement).await;
        let decided = decided.map_err(|error| OpenError::node(name, error))?;
        match decided.first().and_then(|row| row.bigint(0)) {
            Some(0) => return Ok(()),
            Some(_) => return Err(SlotSessionError::NotOwned(slot_changes::refused(&decided))),
            None if Instant::now() < until => tokio::time::sleep(BUSY_WAIT).await,
            None => return Err(SlotSessionError::Busy(name.to_owned())),
        }
    }
}
