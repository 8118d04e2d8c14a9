//! Reads: carries out reads by a key or by filters.
//!
//! **Invariant:** a read whose filters name its keys returns the same rows, in the same order and
//! with cursors of the same kind, as one that reads all shards. The position that a session has
//! seen on a shard is compared with the shard's history before a read and after it, because another
//! node may become the primary in between.
//! **Not here:** the choice of the shards (`shards_of_read`), answers from the cache (`cached`),
//! the choice of a node (`shard`).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::rights::CompiledRole;
use cache::ServedBy;
use model::cursor;
use model::error::{Error, Failure};
use model::keyspace::ShardKey;
use model::query::ReadQuery;
use model::shard_map::KeyLocation;
use model::slot_refusal::{RefusedState, SlotRefusal};
use model::topology::ShardNumber;
use model::value::Value;

use super::super::{Manager, ReadDone, RequestOptions};
use super::cached::KeyAnswer;
use super::moved_slots;
use super::read_rights::error_without_slot;
use super::scatter::ReadScope;
use super::shards_of_read::{Route, divided_by, single_place, spread, within_partition};
use super::{Data, ResumeError, RowReader};
use crate::shard::{ReadRequirements, Shard};

/// Maximum number of times that a read looks for the owner of a slot again.
pub(super) const TRIES_MAX: usize = 64;
/// Number of attempts after which a read waits, even if a shard has named another owner. It waits
/// again after each further such number, so that two shards that name each other cause no busy
/// loop.
const HOPS_MAX: usize = 4;
/// Wait of a read before it looks for the owner of a slot again.
pub(super) const RETRY: Duration = Duration::from_millis(10);

impl Data<'_> {
    /// Reads rows of one key, of the keys that the filters name, or of all shards, as far as the
    /// client's rights permit.
    ///
    /// # Errors
    /// [`Failure`] of the shard, or of the first of several shards that could not answer. A read
    /// that the rights do not permit fails without being sent to any shard.
    pub async fn read(
        self,
        query: ReadQuery,
        key: Option<ShardKey<'_>>,
        options: &RequestOptions,
    ) -> Result<ReadDone, Failure> {
        let query = self.bind(Cow::Owned(query), key);
        let mut query = query.map_err(|error| Failure::rejected(error, None))?.into_owned();
        if query.outputs.is_empty() && self.rights.is_all() {
            query.select_if(|_| true);
        }
        let options = &*self.catch_up(options).await;
        let map = self.manager.map.load();
        query.is_divided = divided_by(&query.table, &map).is_some();
        let began = Instant::now();
        let reader = RowReader { data: self, options };
        let place = key.map_or(Ok(None), |key| single_place(&query, key, &map));
        let place = place.map_err(|error| {
            Failure::rejected(error_without_slot(self, &query.table, error, &map), None)
        })?;
        let Some((key, place)) = key.zip(place) else {
            if let Some(key) = key {
                spread(&mut query, key, &map);
            }
            let (route, epoch) = (Route::of(&query, key, (&map, self.manager)), map.epoch());
            let has_moved = reader.has_moved(&route, &map);
            drop(map);
            let check = async || {
                if !has_moved {
                    return Ok(());
                }
                let checked = Box::pin(reader.check_positions(options.deadline)).await;
                checked.map_err(|error| Failure::rejected(error, None))
            };
            check().await?;
            let done = reader.read_by_filters((query, route), epoch).await?;
            // Another node may have become the primary of an earlier owner of the slots during the
            // read.
            check().await?;
            return Ok(done);
        };
        let within = within_partition(&query, &map);
        drop(map);
        let mut done = reader.read_one((&within, key), place, began).await?;
        done.next_cursor = self.next_cursor(&query, Some(key), done.rows.more_after.as_deref());
        Ok(done)
    }

    /// Returns true if a read goes to all shards (a scatter read): neither the request nor its
    /// filters nor the client's rights name keys or partitions, or they name too many keys. A read
    /// that the rights do not permit does not count as a scatter read.
    pub fn is_scatter_read(self, query: &ReadQuery, key: Option<ShardKey<'_>>) -> bool {
        let map = self.manager.map.load();
        if key.is_some_and(|key| !matches!(single_place(query, key, &map), Ok(None))) {
            return false;
        }
        let query = self.bind(Cow::Borrowed(query), key);
        query.is_ok_and(|query| {
            matches!(Route::of(&query, key, (&map, self.manager)), Route::Shards)
        })
    }

    pub(super) fn next_cursor(
        self,
        query: &ReadQuery,
        key: Option<ShardKey<'_>>,
        last: Option<&[Value]>,
    ) -> Option<String> {
        let (key, secret) = (key.map(|key| key.as_str()), &self.manager.token_key);
        // A cursor contains the id of the last row, even if no response may contain that id.
        let hides = |role: &CompiledRole| role.hides_columns(query.table.name());
        let is_sealed = self.rights.role().is_some_and(hides);
        let encode = if is_sealed { cursor::encode_sealed } else { cursor::encode };
        Some(encode(query, key, last?, secret))
    }

    /// Returns the sort keys of the row after which a read continues, from the cursor of an earlier
    /// response.
    ///
    /// # Errors
    /// [`ResumeError`] if the cursor belongs to another cluster or to another query, or if the
    /// client may not carry out the read. The same query with other rights counts as another query.
    pub fn resume(
        self,
        query: &ReadQuery,
        key: Option<ShardKey<'_>>,
        text: &str,
    ) -> Result<Vec<Value>, ResumeError> {
        let mut query = self.bind(Cow::Borrowed(query), key).map_err(ResumeError::Refused)?;
        let map = self.manager.map.load();
        let is_divided = divided_by(&query.table, &map).is_some();
        if is_divided {
            query.to_mut().is_divided = true;
        }
        let key = key.filter(|key| !(is_divided && spread(query.to_mut(), *key, &map)));
        let key = key.map(|key| key.as_str());
        cursor::decode(text, &query, key, &self.manager.token_key).map_err(ResumeError::Cursor)
    }
}

impl RowReader<'_> {
    async fn read_by_filters(
        self,
        (query, route): (ReadQuery, Route),
        epoch: u64,
    ) -> Result<ReadDone, Failure> {
        let query = Arc::new(query);
        let scope = match route {
            Route::Key(key, place) => return self.read_named((&query, &key), place).await,
            Route::Keys(keys) => ReadScope::Keys(keys),
            Route::Slots(slots) => ReadScope::Slots(slots),
            Route::Shards => ReadScope::All(query.table.group()),
        };
        self.scatter(query, scope, epoch).await
    }

    /// Reads the rows of the one key that the filters name. The cursors of the response are those
    /// of a scatter read.
    async fn read_named(
        self,
        (query, key): (&ReadQuery, &str),
        place: KeyLocation,
    ) -> Result<ReadDone, Failure> {
        let within_key = query.within_key();
        let within_key = within_partition(&within_key, &self.data.manager.map.load());
        let parsed = ShardKey::parse(key).map_err(Error::from);
        let parsed = parsed.map_err(|error| Failure::rejected(error, Some(place)))?;
        let within_key = within_key.into_owned();
        let mut done = self.read_one((&within_key, parsed), place, Instant::now()).await?;
        let last = done.rows.more_after.as_deref();
        let last = last.map(|last| query.sort_values(place.slot, key, last));
        done.next_cursor = self.data.next_cursor(query, None, last.as_deref());
        Ok(done)
    }

    /// Reads the rows of one key, without a cursor in the result. A slot that has moved is read
    /// from its new owner.
    async fn read_one(
        self,
        (query, key): (&ReadQuery, ShardKey<'_>),
        place: KeyLocation,
        began: Instant,
    ) -> Result<ReadDone, Failure> {
        let mut place = self.data.manager.router.redirected(place);
        let mut tries = 0;
        let answer = loop {
            match self.read_place((query, key), place).await {
                Err(Error::SlotRefused(refusal)) if tries < TRIES_MAX => {
                    tries += 1;
                    // On the heap: every read reserves space for this wait, and few need it.
                    place = Box::pin(self.next_place(place, refusal, tries)).await;
                }
                answer => break answer.map_err(|error| Failure::rejected(error, Some(place)))?,
            }
        };
        let KeyAnswer { rows, position, served_by, cache } = answer;
        let mut session = self.options.session.clone();
        self.data.manager.sessions().extend(&mut session, place.shard, position);
        let is_cached = served_by == ServedBy::Cache;
        Ok(ReadDone {
            rows,
            shards: vec![place.shard],
            missing: Vec::new(),
            next_cursor: None,
            place: Some(place),
            served_by,
            cache,
            session,
            epoch: place.epoch,
            database: if is_cached { Duration::ZERO } else { began.elapsed() },
            merge: Duration::ZERO,
        })
    }

    async fn read_place(
        self,
        (query, key): (&ReadQuery, ShardKey<'_>),
        place: KeyLocation,
    ) -> Result<KeyAnswer, Error> {
        let has_moved = self.may_have_moved(place.since, place.epoch);
        if has_moved {
            // On the heap, because few reads need it.
            Box::pin(self.check_positions(self.options.deadline)).await?;
        }
        // A shard that has retired owns no slots.
        let refused = || Error::SlotRefused(SlotRefusal::absent(place.slot));
        let shard = self.data.manager.shards().find(place.shard).ok_or_else(refused)?;
        let requirements = self.requirements((place.shard, &shard), self.options.deadline).await?;
        let answer = self.read_key((query, key), (place, &shard), &requirements).await?;
        // During the read, a node without the changes that the session has seen may have become
        // the primary.
        held_position(self.options, (place.shard, &shard), self.options.deadline).await?;
        if has_moved {
            Box::pin(self.check_positions(self.options.deadline)).await?;
        }
        Ok(answer)
    }

    /// Returns the shard from which a slot is read next, after a shard has refused it: the shard to
    /// which it has moved, or that a newer map names. If neither is known, waits briefly and looks
    /// the slot up again.
    async fn next_place(
        self,
        place: KeyLocation,
        refusal: SlotRefusal,
        tries: usize,
    ) -> KeyLocation {
        let manager = self.data.manager;
        let refusals = std::iter::once(refusal);
        moved_slots::learn(self.data, place.shard, refusals, self.options.deadline).await;
        let next = manager.router.locate(place.slot);
        let is_new = next.shard != place.shard
            && (matches!(refusal.state, RefusedState::Moved { .. }) || next.epoch > place.epoch);
        if !is_new || tries.is_multiple_of(HOPS_MAX) {
            let left = self.options.deadline.saturating_duration_since(Instant::now());
            tokio::time::sleep(RETRY.min(left)).await;
            return manager.router.locate(place.slot);
        }
        next
    }

    /// Returns the requirements that a node of one shard must meet for the read, including the
    /// position that the session has seen.
    pub(super) async fn requirements(
        self,
        (number, shard): (ShardNumber, &Shard),
        deadline: Instant,
    ) -> Result<ReadRequirements, Error> {
        let RequestOptions { level, staleness, .. } = *self.options;
        let seen = held_position(self.options, (number, shard), deadline).await?;
        let share = self.data.rights.share();
        Ok(ReadRequirements { level, seen, staleness, deadline, share })
    }
}

/// Returns the position of a shard that the session has seen; 0 if it has seen none.
///
/// # Errors
/// [`Error::SeenMayBeLost`] if the shard's history does not contain it; [`Error::NoPrimary`] if the
/// primary of its timeline was not found in time.
pub(super) async fn held_position(
    options: &RequestOptions,
    (number, shard): (ShardNumber, &Shard),
    deadline: Instant,
) -> Result<u64, Error> {
    match options.session.seen(number) {
        Some(position) => shard.primary().held(position, deadline).await,
        None => Ok(0),
    }
}

/// Returns the error of a read of a shard that has retired.
pub(super) fn unavailable(manager: &Manager, shard: ShardNumber) -> Error {
    Error::ShardUnavailable { shard: manager.shard_name(shard).to_owned() }
}
