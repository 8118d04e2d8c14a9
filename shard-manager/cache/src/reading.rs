//! Reading: from a question to an answer: out of the cache, from the flight of somebody else, or from the shard.
//!
//! **Invariant:** nothing is answered that was not read for this question and proves itself to its reader, or was read by
//! it; a lease is asked for before the shard is.
//! **Not here:** what voids entries (`voiding`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::admission::{Expected, Question};
use super::asking::Asked;
use super::entry::{self, Entry};
use super::flight::{Boarded, Landed, Lead};
use super::near::Mark;
use super::proof::{Claim, Moment, Oldest, Stamp, Want};
use super::script::{Lease, Leased, Step, leased};
use super::shape::{About, Name};
use super::tally::Count;
use super::vitals::{CacheUse, ServedBy};
use super::{Cache, shape};
use model::position::Position;
use model::query::ReadQuery;
use model::result_rows::Rows;
use model::sabotage::{Switch, is_on};

/// What the shard answered.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// The rows.
    pub rows: Rows,
    /// Up to where they may show changes.
    pub position: Position,
    /// From when and how far they surely are; `None` if that is not known.
    pub stamp: Option<Stamp>,
    /// Who answered.
    pub served_by: ServedBy,
}

/// What a reader gets.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The rows.
    pub rows: Rows,
    /// Up to where they may show changes.
    pub position: Position,
    /// Who answered.
    pub served_by: ServedBy,
    /// What the cache was to it.
    pub cache: CacheUse,
}

impl Answer {
    fn of(Entry { rows, claim }: Entry, served_by: ServedBy, cache: CacheUse) -> Self {
        let position = Position { timeline: claim.timeline, at: claim.seen };
        Self { rows, position, served_by, cache }
    }

    fn fresh(fresh: Fresh) -> Self {
        let Fresh { rows, position, served_by, stamp: _ } = fresh;
        Self { rows, position, served_by, cache: CacheUse::Miss }
    }
}

/// How often one who wants to fill asks for a lease: again, where what is there is of no use to it.
const LEASE_VISITS_MAX: usize = 2;

/// What was found in Redis.
enum Found {
    Enough(Entry),
    /// An entry that does not prove itself, and its tag; or one is known of that is too old.
    Stale(Option<[u8; 16]>),
    /// Nothing is there, or known to be there.
    Nothing,
    /// Redis was not to be asked, or did not answer.
    Away,
}

/// What became of who wanted to fill.
enum Turned {
    /// It may fill, if it has a lease.
    Reader(Option<Lease>),
    /// What is there is enough.
    Served(Entry),
}

/// A question on its way.
struct Reading<'r> {
    name: Name,
    question: Question,
    want: &'r Want,
    began: Instant,
    /// Until when it waits for Redis.
    patient_until: Instant,
    /// What the first level is to be told with what it is to keep.
    mark: Option<Mark>,
}

impl Cache {
    /// Whether the answer to a question may come from here.
    pub fn keeps(&self, query: &ReadQuery) -> bool {
        shape::is_kept(query)
    }

    /// Told of a read that must not be answered from here.
    pub fn bypass(&self) -> CacheUse {
        self.tally.count(Count::Bypass);
        CacheUse::Bypass
    }

    /// How old an answer may be for a client that allows so much.
    pub fn age_max(&self, staleness: Duration) -> Duration {
        let allowed = if staleness == Duration::MAX { self.settings.bound } else { staleness };
        allowed.min(self.settings.ttl)
    }

    /// Answers a question about one key: from here if something here is enough, or else as the shard does.
    ///
    /// # Errors
    /// Those of `read`, which is called at most once.
    ///
    /// Cancel safety: who waits for the same answer reads it then.
    pub async fn read<E>(
        self: &Arc<Self>,
        (about, query): (&About<'_>, &ReadQuery),
        (want, deadline): (&Want, Instant),
        read: impl AsyncFnOnce() -> Result<Fresh, E>,
    ) -> Result<Answer, E> {
        let began = Instant::now();
        let patient_until = (began + self.settings.patience).min(deadline);
        let name = self.secrets.name(about, query);
        let question = Question::of(&name);
        let is_often = self.admission.asked(question, self.clock.own(began), want.age_max);
        if let Some(entry) = self.near_by(&name, want) {
            return Ok(Answer::of(entry, ServedBy::Cache, CacheUse::Hit));
        }
        let mark = self.near.as_ref().map(|near| near.mark(name.key_hash));
        let reading = Reading { name, question, want, began, patient_until, mark };
        let found = if is_often { self.find(&reading).await } else { self.pass_over() };
        if let Found::Enough(entry) = found {
            self.tally.count(Count::Hit);
            self.keep_near(&reading.name, reading.mark, || Arc::new(entry.clone()));
            return Ok(Answer::of(entry, ServedBy::Cache, CacheUse::Hit));
        }
        let mut is_second = false;
        loop {
            let flight = match self.flights.board(&reading.name) {
                Boarded::Leader(lead) => return self.lead(lead, reading, found, read).await,
                Boarded::Follower(flight) => flight,
            };
            match tokio::time::timeout_at(deadline.into(), flight.landed()).await {
                Ok(Some(landed)) => {
                    let in_time = flight.began_after(reading.began);
                    if let Some(answer) = reading.from(&self.clock_of(&reading), &landed, in_time) {
                        match answer.cache {
                            CacheUse::Hit => self.tally.count(Count::Hit),
                            CacheUse::Miss | CacheUse::Bypass => self.missed(&found),
                        }
                        return Ok(answer);
                    }
                    // What was in Redis was enough for the leader only: one of the others reads for the rest.
                    if landed.served_by == ServedBy::Cache && !is_second {
                        is_second = true;
                        continue;
                    }
                    self.missed(&found);
                    return Ok(Answer::fresh(read().await?));
                }
                // It failed: the next one leads.
                Ok(None) => {}
                // The shard tells that the time is over as it does.
                Err(_elapsed) => {
                    self.missed(&found);
                    return Ok(Answer::fresh(read().await?));
                }
            }
        }
    }

    /// The entry that this process keeps itself, if it is enough.
    fn near_by(&self, name: &Name, want: &Want) -> Option<Entry> {
        let entry = self.near.as_ref()?.get(name)?;
        entry.claim.proves(want, &self.clock.now()).then(|| {
            self.tally.count(Count::Hit);
            self.tally.count(Count::NearHit);
            Entry::clone(&entry)
        })
    }

    fn keep_near(&self, name: &Name, mark: Option<Mark>, entry: impl FnOnce() -> Arc<Entry>) {
        if let (Some(near), Some(mark)) = (&self.near, mark) {
            near.keep(name, mark, entry());
        }
    }

    /// Leaves Redis alone, because the question is asked too seldom. That it may be back is found out all the same.
    fn pass_over(self: &Arc<Self>) -> Found {
        self.may_ask();
        self.tally.count(Count::Seldom);
        Found::Away
    }

    /// Looks for an entry that is enough, if one is expected. If not, whoever leads finds out with what it has to do anyway:
    /// it asks for a lease.
    async fn find(self: &Arc<Self>, reading: &Reading<'_>) -> Found {
        if !self.may_ask() {
            return Found::Away;
        }
        let Reading { name, question, want, began, patient_until, .. } = reading;
        match self.admission.expects(*question, self.clock.own(*began), want.age_max) {
            Expected::Enough => {}
            Expected::TooOld => return Found::Stale(None),
            Expected::Unknown => return Found::Nothing,
        }
        let mut cmd = redis::cmd("HGET");
        cmd.arg(&name.key).arg(&name.field);
        match self.ask(&cmd, *patient_until).await {
            Asked::Answer(redis::Value::BulkString(bytes)) => {
                let tag = entry::tag_of(&bytes);
                match self.read_entry(bytes, reading) {
                    Some(entry) if entry.claim.proves(want, &self.clock.now()) => {
                        Found::Enough(entry)
                    }
                    Some(_) => Found::Stale(tag),
                    None => Found::Nothing,
                }
            }
            Asked::Answer(redis::Value::Nil) => {
                self.admission.forget(*question);
                Found::Nothing
            }
            Asked::Answer(_) => {
                self.tally.count(Count::Error);
                Found::Nothing
            }
            Asked::WrongKind => Found::Nothing,
            Asked::Late => {
                // What is there may be what takes so long.
                self.remove(name);
                Found::Away
            }
            Asked::Trouble => Found::Away,
        }
    }

    /// The entry of these bytes. Others have made them, if they are none.
    fn read_entry(self: &Arc<Self>, bytes: Vec<u8>, reading: &Reading<'_>) -> Option<Entry> {
        let Reading { name, question, .. } = reading;
        let Some(entry) = Entry::decode(bytes, &name.spot(), &self.secrets.entries) else {
            self.tally.count(Count::Error);
            // It would be met again and again.
            self.remove(name);
            return None;
        };
        let now = self.clock.now();
        if let Some(age) = entry.claim.as_of.age(&now) {
            let own = u64::try_from(now.own).unwrap_or(0);
            self.admission.saw(*question, own.saturating_sub(age.as_micros() as u64));
        }
        Some(entry)
    }

    fn missed(&self, found: &Found) {
        let stale = matches!(found, Found::Stale(_));
        self.tally.count(if stale { Count::Stale } else { Count::Miss });
    }

    /// The moment at which a question began.
    fn clock_of(&self, reading: &Reading<'_>) -> Moment {
        self.clock.moment(reading.began)
    }

    /// Reads for all who ask the same.
    async fn lead<E>(
        self: &Arc<Self>,
        lead: Lead,
        reading: Reading<'_>,
        found: Found,
        read: impl AsyncFnOnce() -> Result<Fresh, E>,
    ) -> Result<Answer, E> {
        let lease = match self.turn(&reading, &found).await {
            Turned::Reader(lease) => lease,
            Turned::Served(entry) => {
                self.tally.count(Count::Hit);
                let served_by = ServedBy::Cache;
                let kept = Arc::new(entry.clone());
                self.keep_near(&reading.name, reading.mark, || Arc::clone(&kept));
                lead.leave();
                lead.land(Arc::new(Landed { entry: kept, served_by }));
                return Ok(Answer::of(entry, served_by, CacheUse::Hit));
            }
        };
        self.missed(&found);
        lead.begin();
        let asked = Instant::now();
        let fresh = read().await?;
        self.breaker.shard_took(asked.elapsed());
        let Some(stamp) = fresh.stamp else { return Ok(Answer::fresh(fresh)) };
        let as_of = self.clock.moment(stamp.as_of);
        let Stamp { timeline, floor, .. } = stamp;
        let claim = Claim { timeline, floor, seen: fresh.position.at, as_of };
        let rows = fresh.rows.clone();
        let served_by = fresh.served_by;
        let landed = Arc::new(Landed { entry: Arc::new(Entry { rows, claim }), served_by });
        lead.land(Arc::clone(&landed));
        self.keep(lead, reading, lease, landed);
        Ok(Answer::fresh(fresh))
    }

    /// The right to fill, or what is there already.
    async fn turn(self: &Arc<Self>, reading: &Reading<'_>, found: &Found) -> Turned {
        let mut known = match found {
            Found::Away | Found::Enough(_) => return Turned::Reader(None),
            Found::Nothing => None,
            Found::Stale(tag) => *tag,
        };
        for _ in 0..LEASE_VISITS_MAX {
            let bytes = match self.lease(reading, known).await {
                Some(Leased::Granted(lease)) => return Turned::Reader(Some(lease)),
                Some(Leased::Filled(bytes)) => bytes,
                Some(Leased::Refused) | None => break,
            };
            known = entry::tag_of(&bytes);
            match self.read_entry(bytes, reading) {
                Some(entry) if entry.claim.proves(reading.want, &self.clock.now()) => {
                    return Turned::Served(entry);
                }
                // It is new, but lacks what the reader's session has seen, or is of another timeline.
                Some(_) => {}
                None => break,
            }
        }
        Turned::Reader(None)
    }

    async fn lease(
        self: &Arc<Self>,
        reading: &Reading<'_>,
        known: Option<[u8; 16]>,
    ) -> Option<Leased> {
        // Who has waited for another's flight may have no patience left: that is not Redis that is late.
        if !self.breaker.is_closed() || Instant::now() >= reading.patient_until {
            return None;
        }
        let lease = Lease(uuid::Uuid::new_v4().into_bytes());
        let oldest = Oldest::of(&self.clock.now(), reading.want.age_max);
        let step = Step::acquire(&reading.name, lease, known, &oldest);
        let answer = self.step(&step, reading.patient_until).await?;
        leased(answer, lease)
    }

    /// Stores what was read, if it may; nobody waits for it. The flight goes on until that is done: who comes meanwhile
    /// finds the answer here or there.
    fn keep(
        self: &Arc<Self>,
        lead: Lead,
        reading: Reading<'_>,
        lease: Option<Lease>,
        landed: Arc<Landed>,
    ) {
        let Reading { name, question, mark, .. } = reading;
        let unchecked = is_on(Switch::CacheSetWithoutVersion);
        let Landed { entry, .. } = &*landed;
        let old =
            entry.claim.as_of.age(&self.clock.now()).is_none_or(|age| age > self.settings.ttl);
        let is_whole = entry.rows.more_after.is_none() && entry.rows.total.is_none();
        let fits = entry.rows.json().len() + 4 * entry.rows.len() + entry::OVERHEAD
            <= self.settings.entry_bytes_max;
        if !is_whole || !fits || old {
            return;
        }
        self.keep_near(&name, mark, || Arc::clone(entry));
        if (lease.is_none() && !unchecked) || !self.breaker.is_closed() {
            return;
        }
        if lead.is_voided() && !unchecked {
            self.tally.count(Count::Rejected);
            return;
        }
        let Some(turn) = self.turns.take(1) else { return };
        let cache = Arc::clone(self);
        let bytes = entry.encode(&name.spot(), &cache.secrets.entries);
        let as_of = u64::try_from(entry.claim.as_of.own).unwrap_or(0);
        self.spawn(async move {
            let _in_the_air_until_here = (lead, turn);
            match cache.fill(&name, lease, &bytes).await {
                Some(true) => cache.admission.saw(question, as_of),
                // Somebody has written, or has filled what is better: the next one looks.
                Some(false) => cache.admission.saw(question, cache.clock.own(Instant::now())),
                None => {}
            }
        });
    }

    /// Whether it was stored; `None` if nobody knows.
    async fn fill(&self, name: &Name, lease: Option<Lease>, bytes: &[u8]) -> Option<bool> {
        let until = Instant::now() + super::UNWAITED_MAX;
        let ttl = self.jittered_ttl();
        let Some(lease) = lease.filter(|_| !is_on(Switch::CacheSetWithoutVersion)) else {
            self.ask(&Step::set(name, bytes), until).await;
            let mut expire = redis::cmd("PEXPIRE");
            expire.arg(&name.key).arg(ttl.as_millis() as u64);
            self.ask(&expire, until).await;
            self.tally.count(Count::Fill);
            return Some(true);
        };
        let answer = self.step(&Step::fill(name, lease, bytes, ttl), until).await?;
        let filled = redis::from_redis_value::<i64>(answer) == Ok(1);
        self.tally.count(if filled { Count::Fill } else { Count::Rejected });
        Some(filled)
    }

    /// How long an entry is kept: not all that were made together end together.
    fn jittered_ttl(&self) -> Duration {
        let chance = uuid::Uuid::new_v4().as_u64_pair().1 as u32;
        let spread = f64::from(chance) / f64::from(u32::MAX);
        self.settings.ttl.mul_f64(1.0 - super::TTL_JITTER + 2.0 * super::TTL_JITTER * spread)
    }
}

impl Reading<'_> {
    /// The answer that another's flight brought, if it is enough. A reader that asked `in_time`, before the flight's read
    /// began, gets from the primary what it would have read there itself.
    fn from(&self, began: &Moment, landed: &Landed, in_time: bool) -> Option<Answer> {
        let Landed { entry, served_by } = landed;
        let Entry { rows, claim } = &**entry;
        let is_own_read = in_time && *served_by == ServedBy::Primary;
        let holds = is_own_read || self.want.seen.is_none_or(|seen| seen <= claim.floor);
        // What is newer than the question is new enough for it, however long the flight took.
        let as_of = claim.as_of;
        let is_newer = as_of.process == began.process && as_of.own >= began.own;
        let is_new = is_newer || as_of.age(began).is_some_and(|age| age <= self.want.age_max);
        (claim.timeline == self.want.timeline && holds && is_new).then(|| {
            let entry = Entry { rows: rows.clone(), claim: *claim };
            let cache = match served_by {
                ServedBy::Cache => CacheUse::Hit,
                ServedBy::Primary | ServedBy::Replica => CacheUse::Miss,
            };
            Answer::of(entry, *served_by, cache)
        })
    }
}
