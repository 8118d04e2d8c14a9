//! Range: sorted split points divide the keys, or the values of a column, into ranges, each of
//! which has one slot.
//!
//! Source: Bigtable and HBase regions, range sharding of MongoDB and Vitess. Neighbouring keys stay
//! together, so that a query for a range of keys goes to few shards. The distribution is only as
//! even as the split points are well chosen, and growing keys (times, counters) all fall into the
//! last range, whose shard takes the whole load. A cluster uses as many slots as it has ranges:
//! with fewer ranges than shards, some shards are idle.
//!
//! With numeric split points the whole key must be an integer: reading only the digits at the end
//! would put `user_5` and `order_5` side by side, an order that is of no use for range queries.
//! Keys with letters need text split points, compared byte by byte.
//!
//! **Invariant:** split points ascend strictly; ranges have distinct slots. A split gives the upper
//! part of one range the lowest free slot number, and no other key changes its slot.
//! **Not here:** moving the rows of keys that change their slot.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::routing_step::RoutingStep;
use super::{KeyError, SLOT_COUNT, ShardKey, Slot, blocks, partition_column};

/// Highest number of split points: each range needs a slot.
pub const SPLITS_MAX: usize = SLOT_COUNT as usize - 1;

/// Split points, and the slot of each range between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSpace {
    splits: Splits,
    /// One element more than there are split points.
    slots: Vec<Slot>,
    /// Column whose value is compared; `None` if the shard key is.
    column: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Splits {
    /// Split points that all fit into 64 bits, as is usual: half the memory to search, so more of
    /// it is in the processor's cache.
    Short(Vec<i64>),
    Long(Vec<i128>),
    Text(Vec<TextSplit>),
}

/// Text split point, compared by its bytes, the first of which are also stored as a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TextSplit {
    head: u128,
    text: Box<str>,
}

impl From<&str> for TextSplit {
    fn from(text: &str) -> Self {
        Self { head: head(text), text: text.into() }
    }
}

/// Returns the first 16 bytes as a number, the first byte the highest; missing bytes are 0. If the
/// heads of two texts differ, the texts are in the order of the heads.
fn head(text: &str) -> u128 {
    let mut bytes = [0; 16];
    let len = text.len().min(bytes.len());
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    u128::from_be_bytes(bytes)
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    Numeric,
    Text,
}

/// Split points are strings, because JSON has no integers of 128 bits.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    order: Order,
    splits: Vec<String>,
    slots: Vec<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    column: Option<String>,
}

impl RangeSpace {
    /// Creates ranges of integers between split points such as `1000,2000`. Their slots are spread
    /// over all slots, so that a contiguous placement distributes them evenly and keeps neighbours
    /// together.
    pub(super) fn numeric(text: &str) -> Result<Self, String> {
        let splits: Result<_, _> = text.split(',').map(|split| parse_split(split.trim())).collect();
        Self::spread(Splits::numeric(splits?))
    }

    /// Creates ranges of text between split points such as `g,n`.
    pub(super) fn text(text: &str) -> Result<Self, String> {
        Self::spread(Splits::Text(text.split(',').map(|split| split.trim().into()).collect()))
    }

    fn spread(splits: Splits) -> Result<Self, String> {
        splits.check()?;
        let cuts = blocks::cut(std::iter::repeat_n(1, splits.len() + 1));
        let slots = cuts.map(|block| Slot(block.start)).collect();
        Ok(Self { splits, slots, column: None })
    }

    /// Returns the same ranges, of the values of a column.
    ///
    /// # Errors
    /// A clause with the reason why this is not possible.
    pub(super) fn with_column(self, column: Option<&str>) -> Result<Self, String> {
        column.map_or(Ok(()), partition_column::check_name)?;
        Ok(Self { column: column.map(Arc::from), ..self })
    }

    pub(super) fn restore(parameters: &str) -> Result<Self, String> {
        let read: Parameters =
            serde_json::from_str(parameters).map_err(|error| error.to_string())?;
        let splits = match read.order {
            Order::Numeric => {
                let splits: Result<_, _> =
                    read.splits.iter().map(|split| parse_split(split)).collect();
                Splits::numeric(splits?)
            }
            Order::Text => {
                Splits::Text(read.splits.iter().map(|split| (&**split).into()).collect())
            }
        };
        splits.check()?;
        let slots = read.slots.into_iter();
        let slots: Option<Vec<Slot>> =
            slots.map(|slot| Slot::new(slot).filter(|_| slot < SLOT_COUNT)).collect();
        let slots = slots.ok_or("a slot is beyond the last")?;
        let mut sorted = slots.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if slots.len() != splits.len() + 1 || sorted.len() != slots.len() {
            return Err("every range must have a slot of its own".to_owned());
        }
        Self { splits, slots, column: None }.with_column(read.column.as_deref())
    }

    pub(super) fn parameters(&self) -> String {
        let parameters = Parameters {
            order: match self.splits {
                Splits::Short(_) | Splits::Long(_) => Order::Numeric,
                Splits::Text(_) => Order::Text,
            },
            splits: (0..self.splits.len()).map(|index| self.splits.text_of(index)).collect(),
            slots: self.slots.iter().map(|slot| slot.number()).collect(),
            column: self.column.as_deref().map(str::to_owned),
        };
        serde_json::to_string(&parameters).expect("texts and numbers always serialise")
    }

    /// Returns these ranges with one more split point: keys of its range from `at` on get the
    /// lowest slot without a range, all other keys keep their slots.
    ///
    /// # Errors
    /// A clause that states the fault: `at` is a split point already or cannot be one, or every
    /// slot is in use.
    pub fn split(&self, at: &str) -> Result<Self, String> {
        let mut used = vec![false; usize::from(SLOT_COUNT)];
        self.slots.iter().for_each(|slot| used[slot.index()] = true);
        let free = used.iter().position(|used| !used).ok_or("every slot has a range")?;
        let mut next = self.clone();
        let found = match &mut next.splits {
            Splits::Text(splits) => insert(splits, at.into()),
            numeric @ (Splits::Short(_) | Splits::Long(_)) => {
                let mut splits = numeric.numbers();
                let found = insert(&mut splits, parse_split(at)?);
                *numeric = Splits::numeric(splits);
                found
            }
        };
        let index = found.ok_or_else(|| format!("`{at}` is a split point already"))?;
        next.slots.insert(index + 1, Slot(free as u16));
        next.splits.check()?;
        Ok(next)
    }

    /// Returns the number of ranges, at least two.
    pub fn ranges(&self) -> usize {
        self.slots.len()
    }

    /// Returns the slot of each range, in order.
    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(super) fn column(&self) -> Option<&Arc<str>> {
        self.column.as_ref()
    }

    pub(super) fn slot_of(&self, key: &str) -> Result<Slot, KeyError> {
        Ok(self.slots[self.splits.range_of(key)?])
    }

    pub(super) fn explain(&self, key: &str) -> Result<RoutingStep<'static>, KeyError> {
        let range = self.splits.range_of(key)?;
        let from = range.checked_sub(1).map(|index| self.splits.text_of(index));
        let below = (range < self.splits.len()).then(|| self.splits.text_of(range));
        Ok(RoutingStep::Range { from, below })
    }
}

impl Splits {
    fn numeric(splits: Vec<i128>) -> Self {
        let short: Result<_, _> = splits.iter().map(|&split| i64::try_from(split)).collect();
        short.map_or(Self::Long(splits), Self::Short)
    }

    /// Returns the numeric split points; empty if the split points are texts.
    fn numbers(&self) -> Vec<i128> {
        match self {
            Self::Short(splits) => splits.iter().copied().map(i128::from).collect(),
            Self::Long(splits) => splits.clone(),
            Self::Text(_) => Vec::new(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Short(splits) => splits.len(),
            Self::Long(splits) => splits.len(),
            Self::Text(splits) => splits.len(),
        }
    }

    fn text_of(&self, index: usize) -> String {
        match self {
            Self::Short(splits) => splits[index].to_string(),
            Self::Long(splits) => splits[index].to_string(),
            Self::Text(splits) => splits[index].text.to_string(),
        }
    }

    /// Returns the range of a key: the number of split points that are not above it.
    fn range_of(&self, key: &str) -> Result<usize, KeyError> {
        match self {
            Self::Short(splits) => {
                let number = integer(key).ok_or(KeyError::NotAnInteger)?;
                Ok(match i64::try_from(number) {
                    Ok(number) => splits.partition_point(|split| *split <= number),
                    // Above or below all of them.
                    Err(_) if number < 0 => 0,
                    Err(_) => splits.len(),
                })
            }
            Self::Long(splits) => {
                let number = integer(key).ok_or(KeyError::NotAnInteger)?;
                Ok(splits.partition_point(|split| *split <= number))
            }
            Self::Text(splits) => {
                let key = (head(key), key);
                Ok(splits.partition_point(|split| (split.head, &*split.text) <= key))
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        let count = self.len();
        if count == 0 || count > SPLITS_MAX {
            return Err(format!("there must be 1 to {SPLITS_MAX} split points, not {count}"));
        }
        let ascend = match self {
            Self::Short(splits) => splits.is_sorted_by(|a, b| a < b),
            Self::Long(splits) => splits.is_sorted_by(|a, b| a < b),
            Self::Text(splits) => {
                if let Some(bad) = splits.iter().find(|split| !is_text_split(&split.text)) {
                    let bad = &bad.text;
                    return Err(format!("`{bad}` is not a split point: a key without a comma is"));
                }
                splits.is_sorted_by(|a, b| a < b)
            }
        };
        if ascend { Ok(()) } else { Err("split points must ascend, each once".to_owned()) }
    }
}

/// Returns true if a text can be a split point: it can be a key, and the comma-separated list of
/// the configuration can contain it.
fn is_text_split(split: &str) -> bool {
    ShardKey::parse(split).is_ok() && !split.contains(',') && split.trim() == split
}

fn parse_split(text: &str) -> Result<i128, String> {
    integer(text).ok_or_else(|| format!("`{text}` is not an integer of at most 128 bits"))
}

/// Parses `-?[0-9]+` of up to 128 bits. The standard parser also accepts `+`, which is not part of
/// an id.
fn integer(text: &str) -> Option<i128> {
    if text.starts_with('+') {
        return None;
    }
    // Most are short, and 64-bit arithmetic is several times as fast.
    if text.len() <= SHORT_LEN_MAX {
        return text.parse::<i64>().ok().map(i128::from);
    }
    text.parse().ok()
}

/// Highest length of digits, or a sign and digits, that always fit into 64 bits.
const SHORT_LEN_MAX: usize = 18;

/// Inserts a value in order; `None` if it is present already.
fn insert<T: Ord>(sorted: &mut Vec<T>, value: T) -> Option<usize> {
    let index = sorted.binary_search(&value).err()?;
    sorted.insert(index, value);
    Some(index)
}

/// Formats the value as the configuration has it.
impl fmt::Display for RangeSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.splits {
            Splits::Short(_) | Splits::Long(_) => "range",
            Splits::Text(_) => "range-text",
        })?;
        match &self.column {
            Some(column) => write!(f, "({column}):")?,
            None => f.write_str(":")?,
        }
        for index in 0..self.splits.len() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", self.splits.text_of(index))?;
        }
        Ok(())
    }
}
