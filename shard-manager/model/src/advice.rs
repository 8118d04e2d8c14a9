//! Advice: whether shards carry what their weights say, and which slots should move if they do not.
//!
//! The judgement rests on observations: requests of each slot, or bytes of each shard. A skew
//! within [`SKEW_TOLERATED`], or within what chance makes of so few requests, is left alone; a plan
//! then aims well below it, so that the same cluster gets no further advice in a moment. Nothing is
//! moved here.
//!
//! **Invariant:** the moves never make a fullest shard fuller, a slot moves at most once, and the
//! same observations give the same advice.
//! **Not here:** observing, moving, and where rows lie within a shard: those of a slot are
//! estimated by the mean of its shard. No I/O, no clock, no `async`.

mod plan;
mod scales;

use crate::keyspace::Slot;
use crate::shard_map::ShardMap;
use crate::topology::ShardIndex;

pub use plan::MOVES_MAX;
use scales::Scales;

/// A fullest shard that carries at most so much of its fair share is full enough.
pub const SKEW_TOLERATED: f64 = 1.1;
/// Requests in all below which nothing is said.
pub const REQUESTS_MIN: u64 = 1_000;
/// Fewest requests per shard that allow a judgement.
pub const REQUESTS_OF_SHARD_MIN: u64 = 100;
/// Bytes in all below which nothing is said: an empty shard has some as well.
pub const BYTES_MIN: u64 = 16 << 20;
/// Hot spots that are told.
pub const HOT_MAX: usize = 20;

/// Quantity that shards are to share evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BalanceBy {
    /// The requests that were observed.
    Load,
    /// The bytes that shards hold.
    Size,
}

impl BalanceBy {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Load, Self::Size];

    /// Name in requests and responses.
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
    /// Shards carry what their weights say, near enough.
    Balanced,
    /// They do not.
    Skewed,
    /// They do not, and a slot outweighs what any shard should carry: it cannot be split, wherever
    /// it lies.
    Hot,
    /// There is too little to judge by.
    TooLittleToSay,
}

impl Verdict {
    /// The name in answers.
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
    /// Reads of keys.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Size of a shard, as far as is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSize {
    /// Rows.
    pub rows: Option<u64>,
    /// Bytes.
    pub bytes: Option<u64>,
}

/// A key that was asked for often.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyLoad {
    /// The key.
    pub key: String,
    /// Its slot.
    pub slot: Slot,
    /// Its requests.
    pub requests: u64,
}

/// Observations of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'o> {
    /// Owners of the slots, and weights of the shards.
    pub map: &'o ShardMap,
    /// Requests of each slot, in order; those that are missing had none.
    pub load: &'o [SlotLoad],
    /// Sizes of the shards, in the order of the topology; missing ones are unknown.
    pub sizes: &'o [ShardSize],
    /// The keys that were asked for most.
    pub keys: &'o [KeyLoad],
}

/// Verdict on a cluster, and the moves that improve it.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// Quantity that was to be even.
    pub balance_by: BalanceBy,
    /// Verdict.
    pub verdict: Verdict,
    /// The verdict as a sentence.
    pub because: String,
    /// Total count: requests or bytes.
    pub total: u64,
    /// Load of the fullest shard as a multiple of its fair share: 1 is even.
    pub skew: f64,
    /// Load of the fullest shard after all moves.
    pub skew_after: f64,
    /// The shards, in their order.
    pub shards: Vec<ShardOutlook>,
    /// Moves in this order; each one is an improvement by itself.
    pub moves: Vec<Move>,
    /// Slots that outweigh any shard's fair share, the heaviest first.
    pub hot: Vec<HotSpot>,
}

/// Load of a shard now and after all moves.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardOutlook {
    /// Index of the shard.
    pub shard: ShardIndex,
    /// Its slots.
    pub slots: usize,
    /// Count of the shard: requests or bytes.
    pub carries: u64,
    /// Count as a part of all, 0 to 1.
    pub share: f64,
    /// Fair part of all, 0 to 1.
    pub fair_share: f64,
    /// Its slots after all moves.
    pub slots_after: usize,
    /// Its part after all moves, as far as requests or bytes stay as they are.
    pub share_after: f64,
}

/// Slots that should go to another shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// Owner now.
    pub from: ShardIndex,
    /// Owner after the move.
    pub to: ShardIndex,
    /// First and last slots, both included, in order.
    pub ranges: Vec<(u16, u16)>,
    /// Number of slots.
    pub slots: usize,
    /// About how many rows, by the mean of the shard.
    pub rows: Option<u64>,
    /// About how many bytes, by the mean of the shard.
    pub bytes: Option<u64>,
    /// The part of all requests, or of all bytes, that moves.
    pub share: f64,
    /// The giver's part after this move and those before it.
    pub from_share_after: f64,
    /// The taker's part after this move and those before it.
    pub to_share_after: f64,
}

/// A slot that outweighs the fair share of any shard.
#[derive(Clone, Debug, PartialEq)]
pub struct HotSpot {
    /// The slot.
    pub slot: Slot,
    /// Owner.
    pub shard: ShardIndex,
    /// Its part of all requests.
    pub share: f64,
    /// The largest fair share of a shard.
    pub fair_share: f64,
    /// The key that outweighs it alone; `None`, if several keys do so together.
    pub key: Option<String>,
    /// The key's part of all requests.
    pub key_share: Option<f64>,
}

/// Judges what was observed, and plans what would make it even.
pub fn advise(observed: &Observed<'_>, balance_by: BalanceBy) -> Advice {
    let scales = Scales::new(observed, balance_by);
    let mut advice = scales.outlook(balance_by);
    if let Some(why) = scales.too_little(observed, balance_by) {
        (advice.verdict, advice.because) = (Verdict::TooLittleToSay, why);
        return advice;
    }
    if let Some(why) = scales.even_enough(advice.skew, balance_by) {
        advice.because = why;
        return advice;
    }
    if balance_by == BalanceBy::Load {
        advice.hot = scales.hot(observed);
    }
    scales.plan(&mut advice, observed);
    advice.verdict = if advice.hot.is_empty() { Verdict::Skewed } else { Verdict::Hot };
    advice.because = scales.skewed(&advice, observed);
    advice
}
