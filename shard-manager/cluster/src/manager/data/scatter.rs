//! Scatter: reads from several shards. Each shard sorts and limits its rows, and the merged rows
//! are limited again.
//!
//! **Invariant:** rows are merged only if each slot that the read wants was shown by exactly one
//! shard, or its shard is reported as missing. If answers do not fit together, their shards are
//! queried again for all of their slots, because the rows of single slots cannot be removed from an
//! answer that was sorted and limited. If two shards have shown a slot and its new owner is known,
//! only the older owner is queried again. If the client has a session, and a replica shows slots
//! that belong to another shard as far as this process knows, that shard is queried again, and its
//! replicas must have the present position of their primary.
//! **Not here:** merging sorted rows (`model::result_rows`), the route of a read (`reads`), the
//! check of the answers (`coverage`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cache::ServedBy;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use model::consistency::Level;
use model::error::{Error, Failure};
use model::keyspace::Slot;
use model::query::ReadQuery;
use model::result_rows::Rows;
use model::sabotage::{Mutation, is_on};
use model::shard_map::partitions::location;
use model::slot_refusal::SlotRefusal;
use model::slot_set::SlotSet;
use model::table_group::GroupNumber;
use model::topology::{Role, ShardNumber, ShardState};

use super::super::{Manager, ReadDone, RequestOptions};
use super::RowReader;
use super::coverage::{self, Coverage, Shown};
use super::reads::{RETRY, TRIES_MAX, held_position, unavailable};
use super::shards_of_read::KeysOfShards;
use crate::scatter_budget::{RowsCharge, ScatterShare};
use crate::shard::ShardRows;
use crate::shard_list::ShardList;

/// Longest wait for the position of a primary when a read is repeated. If a primary does not
/// respond, replicas can still answer the read.
const POSITION_MAX: Duration = Duration::from_millis(100);

/// Position up to which a replica must have applied changes, in addition to the position of the
/// session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MinPosition {
    /// Any position is sufficient.
    Any,
    /// Present position of its primary, if the primary responds soon; otherwise any position.
    OfPrimaryIfKnown,
    /// Present position of its primary.
    OfPrimary,
}

/// Shards to query, and the query for each of them.
type ShardQueries = Vec<(ShardNumber, Arc<ReadQuery>)>;

/// Answers of shards, in order of their numbers, with the charges for their rows.
type Answers<'s> = Vec<(ShardNumber, Result<(ShardRows, RowsCharge<'s>), Error>)>;

/// Slots that a read wants, and the shards that are queried for them.
pub(super) enum ReadScope {
    /// All slots of a table group.
    All(GroupNumber),
    /// The slots of keys. Each is read from the shard that is believed to own it.
    Keys(KeysOfShards),
    /// The slots of keys, read from all shards.
    Everywhere(Vec<(Slot, String)>),
    /// The given slots, read from the shards that own them according to the shard map.
    Slots(SlotSet),
    /// The given slots, read from all shards.
    SlotsEverywhere(SlotSet),
}

impl ReadScope {
    /// Returns the same slots, to be read from all shards.
    fn everywhere(self) -> Self {
        match self {
            Self::Keys(keys) => Self::Everywhere(keys.into_values().flatten().collect()),
            Self::Slots(slots) => Self::SlotsEverywhere(slots),
            Self::All(_) | Self::Everywhere(_) | Self::SlotsEverywhere(_) => self,
        }
    }
}

impl RowReader<'_> {
    /// Reads from all shards, or from those of the requested keys or slots.
    pub(super) async fn scatter(
        self,
        query: Arc<ReadQuery>,
        scope: ReadScope,
        epoch: u64,
    ) -> Result<ReadDone, Failure> {
        let began = Instant::now();
        // In a partial read, shards must answer some time before the client's deadline. If one of
        // them does not, the answers of the others can still be returned in time.
        let left = self.options.deadline.saturating_duration_since(began);
        let deadline =
            self.options.deadline - if self.options.partial { left / 10 } else { Duration::ZERO };
        let share = self.data.manager.scatter_budget.open_share();
        let answers = self.query_until_complete((&query, epoch, &share), scope, deadline).await;
        let answers = answers.map_err(|error| Failure::rejected(error, None))?;
        let database = began.elapsed();
        let mut session = self.options.session.clone();
        let mut served_by = ServedBy::Replica;
        let (mut parts, mut shards, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        let mut charges = Vec::new();
        let mut first_error = None;
        for (index, answer) in answers {
            match answer {
                Ok((ShardRows { read, role, .. }, charge)) => {
                    charges.push(charge);
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
        drop((parts, charges));
        rows.total = rows.total.filter(|_| query.counts);
        if rows.is_too_large() {
            return Err(Failure::rejected(Error::AnswerTooLarge, None));
        }
        let next_cursor = self.data.next_cursor(&query, None, rows.more_after.as_deref());
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

    /// Queries shards until their answers can be merged, or one of them fails. Answers are merged
    /// without a check if the engine distributes rows by itself.
    async fn query_until_complete<'s>(
        self,
        (query, epoch, share): (&Arc<ReadQuery>, u64, &'s ScatterShare<'s>),
        mut scope: ReadScope,
        deadline: Instant,
    ) -> Result<Answers<'s>, Error> {
        let list = self.data.manager.shards.load_full();
        let queries = self.shard_queries(query, &scope, &list);
        let any = (MinPosition::Any, deadline);
        let mut answers = self.query_shards((&queries, share), &list, any).await?;
        let (mut tries, mut doubted) = (0, Vec::new());
        loop {
            let concerned = match self.check(&answers, &scope, &doubted) {
                Coverage::Complete => return Ok(answers),
                Coverage::Doubtful(_) if !doubted.is_empty() => return Ok(answers),
                Coverage::Doubtful(shards) => {
                    doubted.clone_from(&shards);
                    Some(shards)
                }
                Coverage::Gap(slot) if tries >= TRIES_MAX => {
                    return Err(Error::SlotRefused(SlotRefusal::absent(slot)));
                }
                Coverage::Overlap { shards, .. } if tries >= TRIES_MAX => {
                    let shard =
                        shards.first().map_or("", |shard| self.data.manager.shard_name(*shard));
                    return Err(Error::ShardUnavailable { shard: shard.to_owned() });
                }
                Coverage::Overlap { shards, slots } if tries == 0 => {
                    Some(older_owners(self.data.manager, shards, (&slots, epoch)))
                }
                Coverage::Overlap { shards, .. } => Some(shards),
                Coverage::Gap(_) => None,
            };
            tries += 1;
            if tries > 1 {
                let left = deadline.saturating_duration_since(Instant::now());
                tokio::time::sleep(RETRY.min(left)).await;
            }
            scope = scope.everywhere();
            let list = self.data.manager.shards.load_full();
            let mut queries = self.shard_queries(query, &scope, &list);
            if let Some(shards) = &concerned {
                queries.retain(|(shard, _)| shards.contains(shard));
            } else {
                answers.clear();
            }
            // Rows that will be read again are dropped before, so that old and new rows are not in
            // memory at once.
            answers.retain(|(shard, _)| queries.iter().all(|(asked, _)| asked != shard));
            // A replica that has not applied a move yet may show slots that its primary no longer
            // owns, or lack slots that its primary owns by now.
            let is_doubted = !doubted.is_empty();
            let least =
                if is_doubted { MinPosition::OfPrimary } else { MinPosition::OfPrimaryIfKnown };
            let again = self.query_shards((&queries, share), &list, (least, deadline)).await?;
            answers.extend(again);
            answers.sort_by_key(|(shard, _)| *shard);
        }
    }

    /// Returns the shards to query, and the query for each. A read of all shards leaves out two
    /// kinds of shards. Retired shards may be in the list until they are closed, but they own no
    /// slots and may lack tables. Shards outside the table's group have no rows of the table.
    fn shard_queries(
        self,
        query: &Arc<ReadQuery>,
        scope: &ReadScope,
        list: &ShardList,
    ) -> ShardQueries {
        let of_keys = |keys: &[(Slot, String)]| {
            Arc::new(ReadQuery { keys: keys.to_vec(), ..(**query).clone() })
        };
        let everywhere = match scope {
            ReadScope::Keys(keys) => {
                return keys.iter().map(|(shard, keys)| (*shard, of_keys(keys))).collect();
            }
            ReadScope::Slots(slots) => {
                let owners = owners(self.data.manager, slots).into_iter();
                return owners.map(|shard| (shard, Arc::clone(query))).collect();
            }
            ReadScope::All(_) | ReadScope::SlotsEverywhere(_) => Arc::clone(query),
            ReadScope::Everywhere(keys) => of_keys(keys),
        };
        let map = self.data.manager.map.load();
        let shards = map.topology().shards();
        let state = |number: ShardNumber| shards.get(number.index()).map(|shard| shard.state);
        let group = map.groups().get(query.table.group());
        let asked = list.iter().filter(|(shard, _)| {
            state(*shard) != Some(ShardState::Retired)
                && group.is_none_or(|group| group.allows(*shard))
        });
        asked.map(|(shard, _)| (shard, Arc::clone(&everywhere))).collect()
    }

    /// Sends the queries to their shards.
    ///
    /// # Errors
    /// [`Error::ScatterMemoryFull`] as soon as the rows of one shard exceed the memory for scatter
    /// reads. The other queries and their rows are dropped at once, so that other reads have
    /// memory.
    async fn query_shards<'s>(
        self,
        (queries, share): (&ShardQueries, &'s ScatterShare<'s>),
        list: &ShardList,
        (least, deadline): (MinPosition, Instant),
    ) -> Result<Answers<'s>, Error> {
        let reads = queries.iter().map(async |(number, query)| {
            let read = async {
                let shard =
                    list.get(*number).ok_or_else(|| unavailable(self.data.manager, *number))?;
                let mut requirements = self.requirements((*number, shard), deadline).await?;
                let by = deadline.min(Instant::now() + POSITION_MAX);
                let now = match least {
                    MinPosition::Any => 0,
                    MinPosition::OfPrimaryIfKnown => {
                        shard.primary().position(by).await.map_or(0, |now| now.sequence)
                    }
                    MinPosition::OfPrimary => shard.primary().position(deadline).await?.sequence,
                };
                requirements.seen = requirements.seen.max(now);
                let rows = shard.reads().read_all(query, &requirements).await?;
                let charge = share.charge(&rows.read.rows)?;
                // During the read, a node without the changes that the session has seen may have
                // become the primary.
                held_position(self.options, (*number, shard), deadline).await?;
                Ok::<_, Error>((rows, charge))
            };
            (*number, read.await)
        });
        let mut reads: FuturesUnordered<_> = reads.collect();
        let mut answers = Vec::with_capacity(queries.len());
        while let Some((number, answer)) = reads.next().await {
            if matches!(answer, Err(Error::ScatterMemoryFull)) {
                return Err(Error::ScatterMemoryFull);
            }
            answers.push((number, answer));
        }
        answers.sort_by_key(|(shard, _)| *shard);
        Ok(answers)
    }

    /// Checks the slots of the answers. Nothing is checked if a shard has failed (unless the read
    /// may be partial), or if an answer has no slot set. `doubted` contains the shards that were
    /// queried again because they had shown slots of other shards. If one of them is missing now,
    /// any slot may be missing.
    fn check(self, answers: &Answers<'_>, scope: &ReadScope, doubted: &[ShardNumber]) -> Coverage {
        if is_on(Mutation::ScatterUnchecked) {
            return Coverage::Complete;
        }
        let mut shown: Vec<Shown> = Vec::with_capacity(answers.len());
        let mut missing = Vec::new();
        for (shard, answer) in answers {
            match answer {
                Ok((ShardRows { read, .. }, _)) => match &read.owned {
                    Some(owned) => shown.push((*shard, Arc::clone(owned))),
                    None => return Coverage::Complete,
                },
                Err(error) if self.options.partial && error.is_of_one_shard() => {
                    missing.push(*shard)
                }
                Err(_) => return Coverage::Complete,
            }
        }
        let manager = self.data.manager;
        let lacks_doubted = doubted.iter().any(|shard| missing.contains(shard));
        let is_missing =
            |slot| lacks_doubted || missing.contains(&manager.router.locate(slot).shard);
        match scope {
            ReadScope::All(group) => {
                let (known, map) = (&manager.coverage[group.index()], manager.map.load());
                if missing.is_empty() && known.knows(map.epoch(), &shown) {
                    return Coverage::Complete;
                }
                let wanted = SlotSet::of_group(*group);
                let found = coverage::check(&shown, &wanted, is_missing);
                if found != Coverage::Complete || !notices_older_rows(self.options) {
                    return found;
                }
                let foreign = foreign(manager, &shown, &wanted);
                // Combinations with slots of other shards are not remembered: a replica that lags
                // may show the same slots as a primary that has just received them.
                if foreign.is_empty() && missing.is_empty() {
                    known.remember(map.epoch(), shown);
                }
                doubt(foreign, answers)
            }
            ReadScope::Keys(keys) => {
                let of_shard = |(shard, owned): &Shown| {
                    let slots = keys.get(shard)?.iter().map(|(slot, _)| *slot);
                    slots.into_iter().find(|slot| !owned.contains(*slot))
                };
                shown.iter().find_map(of_shard).map_or(Coverage::Complete, Coverage::Gap)
            }
            ReadScope::Everywhere(keys) => {
                let wanted: SlotSet = keys.iter().map(|(slot, _)| *slot).collect();
                let found = coverage::check(&shown, &wanted, is_missing);
                or_doubtful(self, found, (&shown, answers), &wanted)
            }
            ReadScope::Slots(slots) | ReadScope::SlotsEverywhere(slots) => {
                let found = coverage::check(&shown, slots, is_missing);
                or_doubtful(self, found, (&shown, answers), slots)
            }
        }
    }
}

/// Returns the result of a check. If it was complete, but replicas have shown slots of other
/// shards, returns these shards as doubtful, if the client may notice outdated rows.
fn or_doubtful(
    reader: RowReader<'_>,
    found: Coverage,
    (shown, answers): (&[Shown], &Answers<'_>),
    wanted: &SlotSet,
) -> Coverage {
    if found != Coverage::Complete || !notices_older_rows(reader.options) {
        return found;
    }
    doubt(foreign(reader.data.manager, shown, wanted), answers)
}

/// Returns true if the client may notice that rows are older than rows that it has seen before: it
/// has a session, and the consistency level does not already guarantee current rows.
fn notices_older_rows(options: &RequestOptions) -> bool {
    options.level == Level::One && !options.session.is_empty()
}

/// Returns the shards that have shown wanted slots which belong to other shards, as far as this
/// process knows.
fn foreign(manager: &Manager, shown: &[Shown], wanted: &SlotSet) -> Vec<ShardNumber> {
    let map = manager.map.load();
    let owner = |slot| manager.router.redirect(&map, slot).unwrap_or_else(|| map.owner(slot));
    coverage::foreign(shown, wanted, owner)
}

/// Returns the result of a check in which these shards have shown slots of other shards. An answer
/// is doubtful only if it comes from a replica.
fn doubt(mut foreign: Vec<ShardNumber>, answers: &Answers<'_>) -> Coverage {
    foreign.retain(|number| {
        answers.iter().any(|(shard, answer)| {
            shard == number && matches!(answer, Ok((rows, _)) if rows.role == Role::Replica)
        })
    });
    if foreign.is_empty() { Coverage::Complete } else { Coverage::Doubtful(foreign) }
}

/// Returns the shards that own these slots, according to the shard map and the known redirects.
fn owners(manager: &Manager, slots: &SlotSet) -> BTreeSet<ShardNumber> {
    let map = manager.map.load();
    slots.iter().map(|slot| manager.router.redirected(location(&map, slot)).shard).collect()
}

/// Returns those of `shards` whose `slots` belong to other shards by now, as far as this process
/// knows. `epoch` is the epoch of the map by which the read was routed.
fn older_owners(
    manager: &Manager,
    shards: Vec<ShardNumber>,
    (slots, epoch): (&SlotSet, u64),
) -> Vec<ShardNumber> {
    let map = manager.map.load();
    coverage::older_owners(shards, slots, |slot| {
        let is_newer = map.since(slot) > epoch;
        manager.router.redirect(&map, slot).or_else(|| is_newer.then(|| map.owner(slot)))
    })
}
