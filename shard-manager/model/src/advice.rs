//! Advice: compares the load of shards with their weights, and proposes slots to move.
//!
//! The judgement is based on observations: the number of requests to each slot, or the number of
//! bytes on each shard. The skew is the load of the fullest shard as a multiple of its fair share,
//! which is its part of the total load in proportion to its weight. A skew of at most
//! [`SKEW_TOLERATED`], or one that chance explains, needs no action. A plan aims at a skew well
//! below that tolerance, so that the cluster does not soon need another plan. This module only
//! plans; it moves nothing.
//!
//! **Invariant:** the moves never make the fullest shard fuller, a slot moves at most once, slots
//! that are already being moved are left alone, and the same observations give the same advice.
//! **Not here:** collecting the observations, carrying out the moves. The number of rows of a
//! single slot is not known: it is estimated as the mean over the slots of its shard. No I/O, no
//! clock, no `async`.

mod fair_shares;
mod findings;
mod load_judgement;
mod load_plan;

use crate::keyspace::Slot;
use crate::shard_map::ShardMap;
use crate::slot_set::SlotSet;
use crate::topology::ShardNumber;

pub use findings::{AdviceFinding, Help, ImbalanceKind, Remedy};
use load_judgement::LoadJudgement;
pub use load_plan::MOVES_MAX;

/// Highest tolerated load of the fullest shard, as a multiple of its fair share.
pub const SKEW_TOLERATED: f64 = 1.1;
/// Minimum number of observed requests, over all shards, for a verdict.
pub const REQUESTS_MIN: u64 = 1_000;
/// Minimum mean number of observed requests per shard for a verdict.
pub const REQUESTS_OF_SHARD_MIN: u64 = 100;
/// Minimum number of bytes, over all shards, for a verdict by size. Below it, the bytes that even
/// an empty shard occupies would distort the comparison.
pub const BYTES_MIN: u64 = 16 << 20;
/// Maximum number of hot slots that an advice lists.
pub const HOT_MAX: usize = 20;

/// Quantity that the shards should share evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BalanceBy {
    /// Number of observed requests.
    Load,
    /// Number of bytes stored.
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

    /// Returns the quantity with this name.
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
    /// The load is uneven, and a single slot carries more than the fair share of any shard. A slot
    /// cannot be split, so moving it would only overload another shard.
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

/// Number of observed requests to one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotLoad {
    /// Number of reads that named a shard key in this slot.
    pub reads: u64,
    /// Number of writes.
    pub writes: u64,
}

/// Size of a shard; each number is `None` if it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSize {
    /// Number of rows.
    pub rows: Option<u64>,
    /// Number of bytes.
    pub bytes: Option<u64>,
}

/// Frequently requested key.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyLoad {
    /// The key.
    pub key: String,
    /// Slot of the key.
    pub slot: Slot,
    /// Number of requests for this key.
    pub requests: u64,
}

/// Observations of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'o> {
    /// Owners of the slots and weights of the shards.
    pub map: &'o ShardMap,
    /// Number of requests to each slot, in slot order; a slot beyond the end of the slice had none.
    pub load: &'o [SlotLoad],
    /// Size of each shard, indexed by shard number; a shard beyond the end of the slice has an
    /// unknown size.
    pub sizes: &'o [ShardSize],
    /// The most frequently requested keys.
    pub keys: &'o [KeyLoad],
    /// Moves in progress; `None` if there are none.
    pub open: Option<OpenMoves<'o>>,
    /// Number that the sentences of the advice give to slot 0 of the map: the number of the first
    /// slot of the table group that the map describes.
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

/// Verdict on a cluster, with the moves that would improve it.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// Quantity that should be even.
    pub balance_by: BalanceBy,
    /// Verdict.
    pub verdict: Verdict,
    /// The verdict as a sentence.
    pub because: String,
    /// Total number of requests, or of bytes.
    pub total: u64,
    /// Load of the fullest shard as a multiple of its fair share: 1 is perfectly even. Shards whose
    /// fair share is zero are left out.
    pub skew: f64,
    /// Load of the fullest shard after all moves.
    pub skew_after: f64,
    /// The members of the cluster, in their order.
    pub shards: Vec<ShardOutlook>,
    /// Moves, in the order in which they should be carried out. Stopping after any of them leaves
    /// the cluster better than before.
    pub moves: Vec<Move>,
    /// Slots that each carry more than the fair share of any shard, the heaviest first.
    pub hot: Vec<HotSpot>,
    /// Findings, each with its remedy: first those about hot slots, then the one about the shards
    /// as a whole. If the remedies are carried out in this order, each one is an improvement.
    pub findings: Vec<AdviceFinding>,
}

/// Load of a shard now and after all moves.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardOutlook {
    /// Number of the shard.
    pub shard: ShardNumber,
    /// Number of slots that the shard owns.
    pub slots: usize,
    /// Number of requests to the shard, or of bytes on it.
    pub carries: u64,
    /// Requests or bytes of the shard as a fraction of the total, 0 to 1.
    pub share: f64,
    /// Fraction of the total that the shard should carry by its weight, 0 to 1.
    pub fair_share: f64,
    /// Number of slots that the shard owns after all moves.
    pub slots_after: usize,
    /// Fraction of the total after all moves, if the number of requests or bytes of each slot does
    /// not change.
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
    /// Approximate number of rows that move, from the mean number of rows per slot of the shard
    /// `from`.
    pub rows: Option<u64>,
    /// Approximate number of bytes that move, from the mean number of bytes per slot of the shard
    /// `from`.
    pub bytes: Option<u64>,
    /// Fraction of all requests, or of all bytes, that moves.
    pub share: f64,
    /// Fraction of the total that the shard `from` carries after this move and those before it.
    pub from_share_after: f64,
    /// Fraction of the total that the shard `to` carries after this move and those before it.
    pub to_share_after: f64,
}

/// Slot that alone carries more than the fair share of any shard.
#[derive(Clone, Debug, PartialEq)]
pub struct HotSpot {
    /// The slot.
    pub slot: Slot,
    /// Owner.
    pub shard: ShardNumber,
    /// Requests to the slot as a fraction of all requests.
    pub share: f64,
    /// Largest fair share among the shards.
    pub fair_share: f64,
    /// Key that alone receives more than the largest fair share; `None` if only several keys of the
    /// slot together do so.
    pub key: Option<String>,
    /// Requests for this key as a fraction of all requests.
    pub key_share: Option<f64>,
}

/// Assesses the observations, and plans moves that improve an uneven load.
pub fn advise(observed: &Observed<'_>, balance_by: BalanceBy) -> Advice {
    let mut advice = judge(observed, balance_by);
    let members: Vec<ShardNumber> = observed.map.topology().numbers().collect();
    advice.shards.retain(|outlook| members.binary_search(&outlook.shard).is_ok());
    advice
}

/// Assesses the observations. The result has an entry in `shards` for every shard number, including
/// those of retired shards.
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

/// Returns the skew by requests that the cluster would have if its slots had these owners and each
/// slot received as many requests as were observed.
pub fn skew_of_owners(observed: &Observed<'_>, owners: &[ShardNumber]) -> f64 {
    LoadJudgement::new(observed, BalanceBy::Load).skew_of_owners(owners)
}
