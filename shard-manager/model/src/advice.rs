//! Advice: whether shards carry what their weights say, and which slots should move if they do not.
//!
//! It judges by what was observed: requests of each slot, or bytes of each shard. What is within [`SKEW_TOLERATED`], or
//! within what chance makes of so few requests, is left alone; what is planned then aims well below, so that the same
//! cluster is not told to move again in a moment. Nothing is moved here.
//!
//! **Invariant:** the moves never make a fullest shard fuller, a slot moves at most once, and the same observations give
//! the same advice.
//! **Not here:** observing, moving, and where rows lie within a shard: those of a slot are estimated by the mean of its
//! shard. No I/O, no clock, no `async`.

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
/// The same for each shard.
pub const REQUESTS_OF_SHARD_MIN: u64 = 100;
/// Bytes in all below which nothing is said: an empty shard has some as well.
pub const BYTES_MIN: u64 = 16 << 20;
/// Hot spots that are told.
pub const HOT_MAX: usize = 20;

/// What is to be even.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The requests that were observed.
    Load,
    /// The bytes that shards hold.
    Size,
}

impl Basis {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Load, Self::Size];

    /// The name in questions and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Size => "size",
        }
    }

    /// The basis of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|basis| basis.name() == name)
    }
}

/// What is to be said of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Shards carry what their weights say, near enough.
    Balanced,
    /// They do not.
    Skewed,
    /// They do not, and a slot outweighs what any shard should carry: it cannot be split, wherever it lies.
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

/// What a shard holds, as far as is known.
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

/// What was observed of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'o> {
    /// Who owns what, and the weights.
    pub map: &'o ShardMap,
    /// Requests of each slot, in order; those that are missing had none.
    pub load: &'o [SlotLoad],
    /// What each shard holds, in the order of the topology; of those that are missing nothing is known.
    pub sizes: &'o [ShardSize],
    /// The keys that were asked for most.
    pub keys: &'o [KeyLoad],
}

/// What should be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// What was to be even.
    pub basis: Basis,
    /// How it is.
    pub verdict: Verdict,
    /// The verdict as a sentence.
    pub because: String,
    /// What was counted in all: requests or bytes.
    pub total: u64,
    /// What the fullest shard carries of its fair share: 1 is even.
    pub skew: f64,
    /// The same after all moves.
    pub skew_after: f64,
    /// The shards, in their order.
    pub shards: Vec<ShardOutlook>,
    /// What should move, in this order; each move by itself makes it better.
    pub moves: Vec<Move>,
    /// Slots that outweigh any shard's fair share, the heaviest first.
    pub hot: Vec<HotSpot>,
}

/// What a shard carries and would carry.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardOutlook {
    /// Which shard.
    pub shard: ShardIndex,
    /// Its slots.
    pub slots: usize,
    /// What was counted there: requests or bytes.
    pub carries: u64,
    /// The same as a part of all, 0 to 1.
    pub share: f64,
    /// Which part it should be.
    pub fair_share: f64,
    /// Its slots after all moves.
    pub slots_after: usize,
    /// Its part after all moves, as far as requests or bytes stay as they are.
    pub share_after: f64,
}

/// Slots that should go to another shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// Who has them.
    pub from: ShardIndex,
    /// Who should.
    pub to: ShardIndex,
    /// First and last slots, both included, in order.
    pub ranges: Vec<(u16, u16)>,
    /// How many slots.
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
    /// Who has it.
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
pub fn advise(observed: &Observed<'_>, basis: Basis) -> Advice {
    let scales = Scales::new(observed, basis);
    let mut advice = scales.outlook(basis);
    if let Some(why) = scales.too_little(observed, basis) {
        (advice.verdict, advice.because) = (Verdict::TooLittleToSay, why);
        return advice;
    }
    if let Some(why) = scales.even_enough(advice.skew, basis) {
        advice.because = why;
        return advice;
    }
    if basis == Basis::Load {
        advice.hot = scales.hot(observed);
    }
    scales.plan(&mut advice, observed);
    advice.verdict = if advice.hot.is_empty() { Verdict::Skewed } else { Verdict::Hot };
    advice.because = scales.skewed(&advice, observed);
    advice
}
