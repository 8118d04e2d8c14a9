//! Reads: rows of one key, of the keys that filters name, or of all shards.
//!
//! **Invariant:** a read whose filters name its keys returns the same rows, in the same order and
//! with cursors of the same kind, as one that reads all shards.
//! **Not here:** answers of the cache (`cached`), the choice of a node (`shard`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::rights::CompiledRole;
use cache::ServedBy;
use model::cursor;
use model::error::{Error, Failure};
use model::keyspace::{ShardKey, Slot};
use model::query::ReadQuery;
use model::result_rows::Rows;
use model::shard_map::{KeyLocation, ShardMap};
use model::topology::{Role, ShardNumber};
use model::value::Value;

use super::super::{ReadDone, RequestOptions};
use super::cached::KeyAnswer;
use super::{Data, ResumeError, RowReader};
use crate::shard::{ReadRequirements, ShardRows};

/// Query that each shard of a read answers.
type Questions = Vec<(ShardNumber, Arc<ReadQuery>)>;

/// Shard keys that the filters name, by their shards.
type KeysOfShards = BTreeMap<ShardNumber, Vec<(Slot, String)>>;

/// Shards that are read without a shard key in the request.
enum Route {
    /// The shard of one key.
    Key(String, KeyLocation),
    /// The shards of several keys.
    Keys(KeysOfShards),
    /// All shards.
    Shards,
}

impl Route {
    /// Routes by the shard keys that the filters name. A key outside the keyspace has no rows.
    fn of(query: &ReadQuery, map: &ShardMap) -> Self {
        let Some(named) = query.keys_named() else { return Self::Shards };
        if named.is_empty() && query.is_bound {
            return Self::Keys(KeysOfShards::new());
        }
        let place = |key: &str| map.place(ShardKey::parse(key).ok()?).ok();
        let mut placed = named.into_iter().filter_map(|key| Some((place(&key)?, key)));
        let Some((first_place, first)) = placed.next() else { return Self::Shards };
        let Some((next_place, next)) = placed.next() else { return Self::Key(first, first_place) };
        let mut keys = KeysOfShards::new();
        for (place, key) in [(first_place, first), (next_place, next)].into_iter().chain(placed) {
            keys.entry(place.shard).or_default().push((place.slot, key));
        }
        Self::Keys(keys)
    }
}

impl Data<'_> {
    /// Reads rows of one key, of the keys that the filters name, or of all shards, as far as the
    /// rights of the caller permit.
    ///
    /// # Errors
    /// [`Failure`] of the shard, or of the first of several shards that could not answer; a read
    /// that the rights do not permit is sent nowhere.
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
        let map = self.manager.map.load();
        let began = Instant::now();
        let reader = RowReader { data: self, options };
        let Some(key) = key else {
            let (route, epoch) = (Route::of(&query, &map), map.epoch());
            drop(map);
            return reader.read_by_filters((query, route), epoch).await;
        };
        let place = map.place(key);
        drop(map);
        let place = place.map_err(|error| Failure::rejected(error.into(), None))?;
        let mut done = reader.read_one((&query, key), place, began).await?;
        done.next_cursor = self.next_cursor(&query, Some(key), done.rows.more_after.as_deref());
        Ok(done)
    }

    /// Returns true if a read without a shard key is a scatter read: neither its filters nor the
    /// rights of the caller name keys. A read that the rights do not permit is none.
    pub fn asks_all_shards(self, query: &ReadQuery) -> bool {
        let query = self.bind(Cow::Borrowed(query), None);
        query
            .is_ok_and(|query| matches!(Route::of(&query, &self.manager.map.load()), Route::Shards))
    }

    fn next_cursor(
        self,
        query: &ReadQuery,
        key: Option<ShardKey<'_>>,
        last: Option<&[Value]>,
    ) -> Option<String> {
        let (key, secret) = (key.map(|key| key.as_str()), &self.manager.token_key);
        // The last row has an id, also if no answer may contain it.
        let hides = |role: &CompiledRole| role.hides_columns(query.table.name());
        let is_sealed = self.rights.role().is_some_and(hides);
        let encode = if is_sealed { cursor::encode_sealed } else { cursor::encode };
        Some(encode(query, key, last?, secret))
    }

    /// Returns the sort keys after which a read continues, by the cursor of an earlier one.
    ///
    /// # Errors
    /// [`ResumeError`] if the cursor belongs to another cluster or to another query, among them the
    /// same query with other rights, or if the caller may not carry out the read.
    pub fn resume(
        self,
        query: &ReadQuery,
        key: Option<ShardKey<'_>>,
        text: &str,
    ) -> Result<Vec<Value>, ResumeError> {
        let query = self.bind(Cow::Borrowed(query), key).map_err(ResumeError::Refused)?;
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
        let questions = match route {
            Route::Key(key, place) => return self.read_named((&query, &key), place).await,
            Route::Keys(keys) => {
                let questions = keys
                    .into_iter()
                    .map(|(shard, keys)| (shard, Arc::new(ReadQuery { keys, ..(*query).clone() })));
                questions.collect()
            }
            Route::Shards => {
                let shards = (0..).map(ShardNumber).zip(&self.data.manager.shards);
                shards.map(|(shard, _)| (shard, Arc::clone(&query))).collect()
            }
        };
        self.scatter(&query, questions, epoch).await
    }

    /// Reads the rows of the one key that the filters name. Its cursors are those of a scatter
    /// read.
    async fn read_named(
        self,
        (query, key): (&ReadQuery, &str),
        place: KeyLocation,
    ) -> Result<ReadDone, Failure> {
        let within_key = query.within_key();
        let parsed = ShardKey::parse(key).map_err(Error::from);
        let parsed = parsed.map_err(|error| Failure::rejected(error, Some(place)))?;
        let mut done = self.read_one((&within_key, parsed), place, Instant::now()).await?;
        let last = done.rows.more_after.as_deref();
        let last = last.map(|last| query.sort_values(place.slot, key, last));
        done.next_cursor = self.data.next_cursor(query, None, last.as_deref());
        Ok(done)
    }

    /// Reads the rows of one key; the caller creates the cursor.
    async fn read_one(
        self,
        (query, key): (&ReadQuery, ShardKey<'_>),
        place: KeyLocation,
        began: Instant,
    ) -> Result<ReadDone, Failure> {
        let told = |error| Failure::rejected(error, Some(place));
        let requirements = self.requirements(place.shard, self.options.deadline).await;
        let requirements = requirements.map_err(told)?;
        let answer = self.read_key((query, key), place, &requirements).await.map_err(told)?;
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

    /// Reads from several shards, each of which sorts and limits; the merge limits again.
    async fn scatter(
        self,
        query: &ReadQuery,
        questions: Questions,
        epoch: u64,
    ) -> Result<ReadDone, Failure> {
        let began = Instant::now();
        // A shard must answer before the client's deadline.
        let left = self.options.deadline.saturating_duration_since(began);
        let deadline =
            self.options.deadline - if self.options.partial { left / 10 } else { Duration::ZERO };
        let reads = questions.iter().map(async |(index, query)| {
            let shard = &self.data.manager.shards[index.index()];
            let requirements = self.requirements(*index, deadline).await?;
            shard.reads().read_all(query, &requirements).await
        });
        let answers = futures_util::future::join_all(reads).await;
        let database = began.elapsed();
        let mut session = self.options.session.clone();
        let mut served_by = ServedBy::Replica;
        let (mut parts, mut shards, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        let mut first_error = None;
        for ((index, _), answer) in questions.into_iter().zip(answers) {
            match answer {
                Ok(ShardRows { read, role, .. }) => {
                    self.data.manager.sessions().extend(&mut session, index, read.position);
                    if role == Role::Primary {
                        served_by = ServedBy::Primary;
                    }
                    parts.push(read.rows);
                    shards.push(index);
                }
                Err(error) if self.options.partial && error.is_of_one_shard() => {
                    first_error.get_or_insert(error);
                    missing.push(index);
                }
                Err(error) => return Err(Failure::rejected(error, None)),
            }
        }
        if let Some(error) = first_error.filter(|_| parts.is_empty()) {
            return Err(Failure::rejected(error, None));
        }
        let (offset, limit) = (query.offset as usize, query.limit as usize);
        let mut rows = Rows::merge(&parts, &query.sort_keys(false), offset, limit);
        rows.total = rows.total.filter(|_| query.counts);
        if rows.is_too_large() {
            return Err(Failure::rejected(Error::AnswerTooLarge, None));
        }
        let next_cursor = self.data.next_cursor(query, None, rows.more_after.as_deref());
        let (place, merge) = (None, began.elapsed() - database);
        Ok(ReadDone {
            rows,
            shards,
            missing,
            next_cursor,
            place,
            served_by,
            cache: self.data.manager.cache.as_ref().map(|cache| cache.bypass()),
            session,
            epoch,
            database,
            merge,
        })
    }

    /// Returns the requirements of the read on one shard, among them the position that the session
    /// has seen.
    async fn requirements(
        self,
        index: ShardNumber,
        deadline: Instant,
    ) -> Result<ReadRequirements, Error> {
        let RequestOptions { level, staleness, .. } = *self.options;
        let seen = match self.options.session.seen(index) {
            Some(position) => {
                let shard = &self.data.manager.shards[index.index()];
                shard.primary().held(position, deadline).await?
            }
            None => 0,
        };
        let share = self.data.rights.share();
        Ok(ReadRequirements { level, seen, staleness, deadline, share })
    }
}
