//! Read path: answers a query from the cache, from a shared read (one read of the shard for several
//! concurrent readers), or from the shard.
//!
//! **Invariant:** a reader gets a result only if it read the result itself, or if the result
//! belongs to its query and its metadata proves it new enough. A lease is requested before the
//! shard is read.
//! **Not here:** the removal of entries (`invalidation`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::{Expected, Question};
use super::cache_key::{About, Name};
use super::client::{Reply, UNWAITED_MAX, spawn};
use super::entry::{self, Entry};
use super::local_cache::Mark;
use super::proof::{
    ClockReading, CurrentSince, EntryMetadata, FreshnessBound, FreshnessRequirement,
};
use super::script::{Lease, Leased, RedisStep, leased};
use super::shared_read::{LeadRead, Participation, SharedResult};
use super::stats::{CacheUse, ServedBy};
use super::tally::Count;
use super::{Cache, cache_key};
use model::position::Position;
use model::query::ReadQuery;
use model::result_rows::Rows;
use model::sabotage::{Mutation, is_on};

/// Result of a read of the shard.
#[derive(Clone, Debug)]
pub struct ShardAnswer {
    /// The rows.
    pub rows: Rows,
    /// Latest position whose changes the rows may contain.
    pub position: Position,
    /// Facts that prove how new the rows are at least; `None` if nothing can be proven.
    pub freshness: Option<FreshnessBound>,
    /// Cache, or role of the node, that returned the rows.
    pub served_by: ServedBy,
}

/// Result of a read, from the cache or the shard.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The rows.
    pub rows: Rows,
    /// Latest position whose changes the rows may contain.
    pub position: Position,
    /// Cache, or role of the node, that returned the rows.
    pub served_by: ServedBy,
    /// Cache hit, cache miss or bypass of the cache.
    pub cache: CacheUse,
}

impl Answer {
    fn of(Entry { rows, metadata }: Entry, served_by: ServedBy, cache: CacheUse) -> Self {
        let position = Position { timeline: metadata.timeline, sequence: metadata.seen };
        Self { rows, position, served_by, cache }
    }

    fn fresh(fresh: ShardAnswer) -> Self {
        let ShardAnswer { rows, position, served_by, freshness: _ } = fresh;
        Self { rows, position, served_by, cache: CacheUse::Miss }
    }
}

/// Maximum number of requests for one lease: a second request follows if Redis returns an entry
/// that the reader cannot use.
const LEASE_VISITS_MAX: usize = 2;

/// Result of the lookup in Redis.
enum Found {
    Enough(Entry),
    /// Redis has an entry that is not new enough. The value is the tag of the entry; `None` if the
    /// entry was not looked up, because an earlier read showed that it is too old.
    Stale(Option<[u8; 16]>),
    /// Redis has no entry, or this router knows of none.
    Nothing,
    /// Redis is not used for this read, or did not respond.
    Away,
}

/// Decision for the leader of a shared read: read the shard, or use an existing entry.
enum FillDecision {
    /// The leader reads the shard, and stores the result in Redis if it has a lease.
    Reader(Option<Lease>),
    /// The entry in Redis is new enough.
    Served(Entry),
}

/// A read in progress.
struct Reading<'r> {
    cache: &'r Arc<Cache>,
    name: Name,
    question: Question,
    requirement: &'r FreshnessRequirement,
    began: Instant,
    /// Time until which the read waits for Redis.
    patient_until: Instant,
    /// Mark that was taken before the read, needed to store the result in the in-process cache;
    /// `None` without that cache.
    mark: Option<Mark>,
}

impl Cache {
    /// Returns true if results of this query can be cached.
    pub fn keeps(&self, query: &ReadQuery) -> bool {
        cache_key::is_kept(query)
    }

    /// Counts a read that must not use the cache.
    pub fn bypass(&self) -> CacheUse {
        self.tally.count(Count::Bypass);
        CacheUse::Bypass
    }

    /// Returns the maximum age of a cached result for a client that allows this staleness.
    /// `Duration::MAX` means that the client sets no limit.
    pub fn age_max(&self, staleness: Duration) -> Duration {
        let allowed = if staleness == Duration::MAX { self.settings.bound } else { staleness };
        allowed.min(self.settings.ttl)
    }

    /// Answers a query about one key: from the cache if an entry is new enough, and otherwise from
    /// the shard.
    ///
    /// # Errors
    /// The error that `read` returned. `read` is called at most once.
    ///
    /// Cancel safety: if the future of the reader that leads a shared read is dropped, one of the
    /// waiting readers reads the shard instead.
    pub async fn read<E>(
        self: &Arc<Self>,
        (about, query): (&About<'_>, &ReadQuery),
        (requirement, deadline): (&FreshnessRequirement, Instant),
        read: impl AsyncFnOnce() -> Result<ShardAnswer, E>,
    ) -> Result<Answer, E> {
        let began = Instant::now();
        let patient_until = (began + self.settings.patience).min(deadline);
        let name = self.secrets.name(about, query);
        let question = Question::of(&name);
        let is_often =
            self.admission.record_request(question, self.clock.own(began), requirement.age_max);
        if let Some(entry) = self.local_entry(&name, requirement) {
            return Ok(Answer::of(entry, ServedBy::Cache, CacheUse::Hit));
        }
        let mark = self.local_cache.as_ref().map(|local_cache| local_cache.mark(name.key_hash));
        let cache = self;
        let reading = Reading { cache, name, question, requirement, began, patient_until, mark };
        let found = if is_often { reading.find().await } else { reading.pass_over() };
        if let Found::Enough(entry) = found {
            self.tally.count(Count::Hit);
            self.keep_locally(&reading.name, reading.mark, || Arc::new(entry.clone()));
            return Ok(Answer::of(entry, ServedBy::Cache, CacheUse::Hit));
        }
        let mut is_second = false;
        loop {
            let shared_read = match self.shared_reads.join(&reading.name) {
                Participation::Leader(lead) => return reading.lead(lead, found, read).await,
                Participation::Follower(shared_read) => shared_read,
            };
            match tokio::time::timeout_at(deadline.into(), shared_read.result()).await {
                Ok(Some(result)) => {
                    let in_time = shared_read.began_after(reading.began);
                    if let Some(answer) = reading.answer_of(&result, in_time) {
                        match answer.cache {
                            CacheUse::Hit => self.tally.count(Count::Hit),
                            CacheUse::Miss | CacheUse::Bypass => reading.missed(&found),
                        }
                        return Ok(answer);
                    }
                    // The leader used an entry of Redis that is not new enough for this reader.
                    // Readers that waited form one more shared read, which reads the shard.
                    if result.served_by == ServedBy::Cache && !is_second {
                        is_second = true;
                        continue;
                    }
                    reading.missed(&found);
                    return Ok(Answer::fresh(read().await?));
                }
                // The read failed: one of the waiting readers leads the next shared read.
                Ok(None) => {}
                // The deadline has passed: the read of the shard returns the corresponding error.
                Err(_elapsed) => {
                    reading.missed(&found);
                    return Ok(Answer::fresh(read().await?));
                }
            }
        }
    }

    /// Returns the entry of the in-process cache, if it is new enough.
    fn local_entry(&self, name: &Name, requirement: &FreshnessRequirement) -> Option<Entry> {
        let entry = self.local_cache.as_ref()?.get(name)?;
        entry.metadata.proves(requirement, &self.clock.now()).then(|| {
            self.tally.count(Count::Hit);
            self.tally.count(Count::LocalHit);
            Entry::clone(&entry)
        })
    }

    /// Keeps an entry in the in-process cache, if there is one.
    fn keep_locally(&self, name: &Name, mark: Option<Mark>, entry: impl FnOnce() -> Arc<Entry>) {
        if let (Some(local_cache), Some(mark)) = (&self.local_cache, mark) {
            local_cache.keep(name, mark, entry());
        }
    }

    /// Stores an entry in Redis. Returns false if Redis rejected it, and `None` if it is unknown
    /// whether the entry was stored.
    async fn fill(&self, name: &Name, lease: Option<Lease>, bytes: &[u8]) -> Option<bool> {
        let until = Instant::now() + UNWAITED_MAX;
        let ttl = self.jittered_ttl();
        let Some(lease) = lease.filter(|_| !is_on(Mutation::CacheSetWithoutVersion)) else {
            self.client.send(&RedisStep::set(name, bytes), until).await;
            let mut expire = redis::cmd("PEXPIRE");
            expire.arg(&name.key).arg(ttl.as_millis() as u64);
            self.client.send(&expire, until).await;
            self.tally.count(Count::Fill);
            return Some(true);
        };
        let step = RedisStep::fill(name, lease, bytes, ttl);
        let answer = self.client.run_script(&step, until).await?;
        let filled = redis::from_redis_value::<i64>(answer) == Ok(1);
        self.tally.count(if filled { Count::Fill } else { Count::Rejected });
        Some(filled)
    }

    /// Returns the lifetime of an entry, with a random deviation so that entries that were stored
    /// at the same time do not expire at the same time.
    fn jittered_ttl(&self) -> Duration {
        let chance = uuid::Uuid::new_v4().as_u64_pair().1 as u32;
        let spread = f64::from(chance) / f64::from(u32::MAX);
        self.settings.ttl.mul_f64(1.0 - super::TTL_JITTER + 2.0 * super::TTL_JITTER * spread)
    }
}

impl Reading<'_> {
    /// Skips Redis because the query is too infrequent. If a trial of the circuit breaker is due,
    /// it is started nevertheless.
    fn pass_over(&self) -> Found {
        self.cache.client.may_use();
        self.cache.tally.count(Count::TooInfrequent);
        Found::Away
    }

    /// Looks up the entry in Redis if this router knows of one that is new enough. Otherwise no
    /// lookup is needed: the leader gets any usable entry when it requests the lease.
    async fn find(&self) -> Found {
        if !self.cache.client.may_use() {
            return Found::Away;
        }
        let Self { cache, name, question, requirement, began, patient_until, .. } = self;
        match cache.admission.expects(*question, cache.clock.own(*began), requirement.age_max) {
            Expected::Enough => {}
            Expected::TooOld => return Found::Stale(None),
            Expected::Unknown => return Found::Nothing,
        }
        let mut cmd = redis::cmd("HGET");
        cmd.arg(&name.key).arg(&name.field);
        match cache.client.send(&cmd, *patient_until).await {
            Reply::Answer(redis::Value::BulkString(bytes)) => {
                let tag = entry::tag_of(&bytes);
                match self.read_entry(bytes) {
                    Some(entry) if entry.metadata.proves(requirement, &cache.clock.now()) => {
                        Found::Enough(entry)
                    }
                    Some(_) => Found::Stale(tag),
                    None => Found::Nothing,
                }
            }
            Reply::Answer(redis::Value::Nil) => {
                cache.admission.forget(*question);
                Found::Nothing
            }
            Reply::Answer(_) => {
                cache.tally.count(Count::Error);
                Found::Nothing
            }
            Reply::WrongKind => Found::Nothing,
            Reply::Late => {
                // The stored value may be the cause of the delay, for example because it is huge.
                self.remove();
                Found::Away
            }
            Reply::Failed => Found::Away,
        }
    }

    /// Decodes an entry. Bytes that cannot be decoded were not stored by this cluster for this key,
    /// and are removed.
    fn read_entry(&self, bytes: Vec<u8>) -> Option<Entry> {
        let Self { cache, name, question, .. } = self;
        let Some(entry) = Entry::decode(bytes, &name.entry_key(), &cache.secrets.entries) else {
            cache.tally.count(Count::Error);
            // Otherwise every later read would find these bytes again.
            self.remove();
            return None;
        };
        let now = cache.clock.now();
        if let Some(age) = entry.metadata.as_of.age(&now) {
            let own = u64::try_from(now.own).unwrap_or(0);
            cache.admission.record_entry(*question, own.saturating_sub(age.as_micros() as u64));
        }
        Some(entry)
    }

    /// Removes the data that is stored under the key.
    fn remove(&self) {
        self.cache.client.unlink(vec![self.name.key.clone()]);
    }

    /// Counts a read that found no entry, or none that is new enough.
    fn missed(&self, found: &Found) {
        let stale = matches!(found, Found::Stale(_));
        self.cache.tally.count(if stale { Count::Stale } else { Count::Miss });
    }

    /// Returns the values of the monotonic and the system clock at the beginning of the read.
    fn clock(&self) -> ClockReading {
        self.cache.clock.moment(self.began)
    }

    /// Reads the shard on behalf of all readers of the shared read, unless Redis has a usable
    /// entry.
    async fn lead<E>(
        self,
        lead: LeadRead,
        found: Found,
        read: impl AsyncFnOnce() -> Result<ShardAnswer, E>,
    ) -> Result<Answer, E> {
        let lease = match self.fill_decision(&found).await {
            FillDecision::Reader(lease) => lease,
            FillDecision::Served(entry) => {
                self.cache.tally.count(Count::Hit);
                let served_by = ServedBy::Cache;
                let kept = Arc::new(entry.clone());
                self.cache.keep_locally(&self.name, self.mark, || Arc::clone(&kept));
                lead.leave();
                lead.publish(Arc::new(SharedResult { entry: kept, served_by }));
                return Ok(Answer::of(entry, served_by, CacheUse::Hit));
            }
        };
        self.missed(&found);
        lead.begin();
        let asked = Instant::now();
        let fresh = read().await?;
        self.cache.client.breaker.shard_took(asked.elapsed());
        let Some(freshness) = fresh.freshness else { return Ok(Answer::fresh(fresh)) };
        let as_of = self.cache.clock.moment(freshness.as_of);
        let FreshnessBound { timeline, min_position, .. } = freshness;
        let seen = fresh.position.sequence;
        let metadata = EntryMetadata { timeline, min_position, seen, as_of };
        let rows = fresh.rows.clone();
        let served_by = fresh.served_by;
        let result =
            Arc::new(SharedResult { entry: Arc::new(Entry { rows, metadata }), served_by });
        lead.publish(Arc::clone(&result));
        self.keep(lead, lease, result);
        Ok(Answer::fresh(fresh))
    }

    /// Requests the lease from Redis, which grants it or returns the entry that is already stored.
    async fn fill_decision(&self, found: &Found) -> FillDecision {
        let mut known = match found {
            Found::Away | Found::Enough(_) => return FillDecision::Reader(None),
            Found::Nothing => None,
            Found::Stale(tag) => *tag,
        };
        for _ in 0..LEASE_VISITS_MAX {
            let bytes = match self.lease(known).await {
                Some(Leased::Granted(lease)) => return FillDecision::Reader(Some(lease)),
                Some(Leased::Filled(bytes)) => bytes,
                Some(Leased::Refused) | None => break,
            };
            known = entry::tag_of(&bytes);
            match self.read_entry(bytes) {
                Some(entry) if entry.metadata.proves(self.requirement, &self.cache.clock.now()) => {
                    return FillDecision::Served(entry);
                }
                // The entry is not too old, but lacks changes that the reader's session has seen,
                // or belongs to another timeline.
                Some(_) => {}
                None => break,
            }
        }
        FillDecision::Reader(None)
    }

    /// Requests the lease. Redis returns the stored entry instead if that is new enough and does
    /// not have the tag `known`, which marks an entry that was already found insufficient.
    async fn lease(&self, known: Option<[u8; 16]>) -> Option<Leased> {
        // Waiting for a shared read may have used up the time. A timeout would then count as a
        // failure of Redis, which has not caused it.
        if !self.cache.client.breaker.is_closed() || Instant::now() >= self.patient_until {
            return None;
        }
        let lease = Lease(uuid::Uuid::new_v4().into_bytes());
        let oldest = CurrentSince::of(&self.cache.clock.now(), self.requirement.age_max);
        let step = RedisStep::acquire(&self.name, lease, known, &oldest);
        let answer = self.cache.client.run_script(&step, self.patient_until).await?;
        leased(answer, lease)
    }

    /// Stores the result in the background, if that is allowed. The shared read can be joined until
    /// the result is stored, so that a later reader finds it either here or in Redis.
    fn keep(self, lead: LeadRead, lease: Option<Lease>, result: Arc<SharedResult>) {
        let Self { cache, name, question, mark, .. } = self;
        let unchecked = is_on(Mutation::CacheSetWithoutVersion);
        let SharedResult { entry, .. } = &*result;
        let old =
            entry.metadata.as_of.age(&cache.clock.now()).is_none_or(|age| age > cache.settings.ttl);
        let is_whole = entry.rows.more_after.is_none() && entry.rows.total.is_none();
        let fits = entry.rows.json().len() + 4 * entry.rows.len() + entry::OVERHEAD
            <= cache.settings.entry_bytes_max;
        if !is_whole || !fits || old {
            return;
        }
        cache.keep_locally(&name, mark, || Arc::clone(entry));
        if (lease.is_none() && !unchecked) || !cache.client.breaker.is_closed() {
            return;
        }
        if lead.is_invalidated() && !unchecked {
            cache.tally.count(Count::Rejected);
            return;
        }
        let Some(permit) = cache.client.permits.take(1) else { return };
        let cache = Arc::clone(cache);
        let bytes = entry.encode(&name.entry_key(), &cache.secrets.entries);
        let as_of = u64::try_from(entry.metadata.as_of.own).unwrap_or(0);
        spawn(async move {
            let _in_the_air_until_here = (lead, permit);
            match cache.fill(&name, lease, &bytes).await {
                Some(true) => cache.admission.record_entry(question, as_of),
                // The key was written, or a more complete entry is stored. The next reader looks it
                // up in Redis.
                Some(false) => {
                    cache.admission.record_entry(question, cache.clock.own(Instant::now()));
                }
                None => {}
            }
        });
    }

    /// Returns the result of a shared read, if it is new enough for this reader. `in_time` is true
    /// if this reader arrived before the shared read began. It then gets, if the primary served the
    /// read, the same rows as if it had read there itself.
    fn answer_of(&self, result: &SharedResult, in_time: bool) -> Option<Answer> {
        let began = &self.clock();
        let SharedResult { entry, served_by } = result;
        let Entry { rows, metadata } = &**entry;
        let is_own_read = in_time && *served_by == ServedBy::Primary;
        let holds =
            is_own_read || self.requirement.seen.is_none_or(|seen| seen <= metadata.min_position);
        // Rows that were current after this reader's request began are new enough for it, however
        // long the shared read took.
        let as_of = metadata.as_of;
        let is_newer = as_of.process == began.process && as_of.own >= began.own;
        let is_new =
            is_newer || as_of.age(began).is_some_and(|age| age <= self.requirement.age_max);
        (metadata.timeline == self.requirement.timeline && holds && is_new).then(|| {
            let entry = Entry { rows: rows.clone(), metadata: *metadata };
            let cache = match served_by {
                ServedBy::Cache => CacheUse::Hit,
                ServedBy::Primary | ServedBy::Replica => CacheUse::Miss,
            };
            Answer::of(entry, *served_by, cache)
        })
    }
}
