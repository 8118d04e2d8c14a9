//! Advice: compares the load of shards with their weights, and proposes slots to move.
//!
//! The judgement rests on observations: requests of each slot, or bytes of each shard. A skew
//! within [`SKEW_TOLERATED`], or a skew that chance explains, needs no action. A plan aims well
//! below that skew, so that the same cluster does not need further advice soon. Nothing is moved
//! here.
//!
//! **Invariant:** the moves never make the fullest shard fuller, a slot moves at most once, slots
//! that are already being moved are left alone, and the same observations give the same advice.
//! **Not here:** observing, moving, and the distribution of rows within a shard: the rows of a slot
//! are estimated by the mean of its shard. No I/O, no clock, no `async`.

mod fair_shares;
mod findings;
mod load_judgement;
mod plan;

use crate::keyspace::Slot;
use crate::shard_map::ShardMap;
use crate::slot_set::SlotSet;
use crate::topology::ShardNumber;

pub use findings::{AdviceFinding, Help, ImbalanceKind, Remedy};
use load_judgement::LoadJudgement;
pub use plan::MOVES_MAX;

/// Highest tolerated load of the fullest shard, as a multiple of its fair share.
pub const SKEW_TOLERATED: f64 = 1.1;
/// Total number of requests below which there is no verdict.
pub const REQUESTS_MIN: u64 = 1_000;
/// Lowest number of requests per shard that allows a verdict.
pub const REQUESTS_OF_SHARD_MIN: u64 = 100;
/// Total bytes below which there is no verdict: an empty shard has some as well.
pub const BYTES_MIN: u64 = 16 << 20;
/// Highest number of hot spots in the advice.
pub const HOT_MAX: usize = 20;

/// Quantity that the shards should share evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BalanceBy {
    /// The requests that were observed.
    Load,
    /// The bytes that shards hold.
    Size,
}

impl BalanceBy {
    /// All quantities.
    pub const ALL: [Self; 2] = [Self::Load, Self::Size];

    /// Returns the name in requests and responses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Size => "size",
        }
    }

    /// Returns the quantity of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|balance_by| balance_by.name() == name)
    }
}

/// Verdict on a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The load of the shards is close enough to their weights.
    Balanced,
    /// The load of the shards is uneven.
    Skewed,
    /// The load is uneven, and a slot exceeds the fair share of every shard: it cannot be split,
    /// and moving it does not help.
    Hot,
    /// There are too few observations for a verdict.
    TooLittleToSay,
}

impl Verdict {
    /// Returns the name in responses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::Skewed => "skewed",
            Self::Hot => "hot",
            Self::TooLittleToSay => "too_little_to_say",
        }
    }
}

/// Requests of one slot that were observed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotLoad {
    /// Number of reads of keys.
    pub reads: u64,
    /// Number of writes.
    pub writes: u64,
}

/// Size of a shard, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSize {
    /// Number of rows.
    pub rows: Option<u64>,
    /// Bytes.
    pub bytes: Option<u64>,
}

/// Frequently requested key.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyLoad {
    /// The key.
    pub key: String,
    /// Slot of the key.
    pub slot: Slot,
    /// Number of its requests.
    pub requests: u64,
}

/// Observations of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'o> {
    /// Owners of the slots and weights of the shards.
    pub map: &'o ShardMap,
    /// Requests of each slot, in order; those that are missing had none.
    pub load: &'o [SlotLoad],
    /// Sizes of the shards, by number; missing ones are unknown.
    pub sizes: &'o [ShardSize],
    /// The most frequently requested keys.
    pub keys: &'o [KeyLoad],
    /// Moves in progress; `None` if there are none.
    pub open: Option<OpenMoves<'o>>,
    /// Number of the first slot of the map in sentences: that of its table group.
    pub first_slot: u16,
}

/// Moves of slots in progress.
#[derive(Clone, Copy, Debug)]
pub struct OpenMoves<'o> {
    /// Owner of every slot once the moves have succeeded, in slot order.
    pub owners: &'o [ShardNumber],
    /// The slots that are being moved.
    pub moving: &'o SlotSet,
}

/// Verdict on a cluster, and the moves that improve it.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// Quantity that should be even.
    pub balance_by: BalanceBy,
    /// Verdict.
    pub verdict: Verdict,
    /// The verdict as a sentence.
    pub because: String,
    /// Total count: requests or bytes.
    pub total: u64,
    /// Load of the fullest shard as a multiple of its fair share: 1 is even. Shards that should
    /// have no load do not count.
    pub skew: f64,
    /// Load of the fullest shard after all moves.
    pub skew_after: f64,
    /// The members of the cluster, in their order.
    pub shards: Vec<ShardOutlook>,
    /// Moves in this order; each one is an improvement by itself.
    pub moves: Vec<Move>,
    /// Slots that exceed the fair share of every shard, the heaviest first.
    pub hot: Vec<HotSpot>,
    /// Findings, each with its remedy: hot slots first, then the shards as a whole. If the remedies
    /// are carried out in this order, each one is an improvement.
    pub findings: Vec<AdviceFinding>,
}

/// Load of a shard now and after all moves.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardOutlook {
    /// Number of the shard.
    pub shard: ShardNumber,
    /// Number of its slots.
    pub slots: usize,
    /// Count of the shard: requests or bytes.
    pub carries: u64,
    /// Count as a fraction of the total, 0 to 1.
    pub share: f64,
    /// Fair fraction of the total, 0 to 1.
    pub fair_share: f64,
    /// Number of its slots after all moves.
    pub slots_after: usize,
    /// Fraction of the total after all moves, if requests or bytes stay as they are.
    pub share_after: f64,
}

/// Slots that should move to another shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// Owner now.
    pub from: ShardNumber,
    /// Owner after the move.
    pub to: ShardNumber,
    /// First and last slots, both included, in order.
    pub ranges: Vec<(u16, u16)>,
    /// Number of slots.
    pub slots: usize,
    /// Approximate number of rows, by the mean of the shard.
    pub rows: Option<u64>,
    /// Approximate number of bytes, by the mean of the shard.
    pub bytes: Option<u64>,
    /// Fraction of all requests, or of all bytes, that moves.
    pub share: f64,
    /// The giver's fraction of the total after this move and those before it.
    pub from_share_after: f64,
    /// The taker's fraction of the total after this move and those before it.
    pub to_share_after: f64,
}

/// Slot that exceeds the fair share of every shard.
#[derive(Clone, Debug, PartialEq)]
pub struct HotSpot {
    /// The slot.
    pub slot: Slot,
    /// Owner.
    pub shard: ShardNumber,
    /// Fraction of all requests.
    pub share: f64,
    /// The largest fair share of a shard.
    pub fair_share: f64,
    /// Key that alone exceeds the largest fair share; `None` if only several keys together do so.
    pub key: Option<String>,
    /// The key's fraction of all requests.
    pub key_share: Option<f64>,
}

/// Assesses the observations, and plans moves that improve an uneven load.
pub fn advise(observed: &Observed<'_>, balance_by: BalanceBy) -> Advice {
    let mut advice = judge(observed, balance_by);
    let members: Vec<ShardNumber> = observed.map.topology().numbers().collect();
    advice.shards.retain(|outlook| members.binary_search(&outlook.shard).is_ok());
    advice
}

/// Assesses the observations; the outlook contains an entry for every shard number, including those
/// of retired shards.
fn judge(observed: &Observed<'_>, balance_by: BalanceBy) -> Advice {
    let judgement = LoadJudgement::new(observed, balance_by);
    let mut advice = judgement.outlook(balance_by);
    if let Some(why) = judgement.too_little(observed, balance_by) {
        (advice.verdict, advice.because) = (Verdict::TooLittleToSay, why);
        return advice;
    }
    if let Some(why) = judgement.even_enough(advice.skew, balance_by) {
        advice.because = why;
        return advice;
    }
    if balance_by == BalanceBy::Load {
        advice.hot = judgement.hot(observed);
    }
    let steps = judgement.plan(&mut advice, observed);
    advice.verdict = if advice.hot.is_empty() { Verdict::Skewed } else { Verdict::Hot };
    advice.because = judgement.skewed(&advice, observed);
    advice.findings = findings::find(&judgement, &advice, (observed, &steps));
    advice
}

/// Returns the load of the fullest shard as a multiple of its fair share, if slots had these owners
/// and the requests that were observed.
pub fn skew_of_owners(observed: &Observed<'_>, owners: &[ShardNumber]) -> f64 {
    LoadJudgement::new(observed, BalanceBy::Load).skew_of_owners(owners)
}
