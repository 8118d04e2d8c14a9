//! Range: sorted split points divide the keys, or the values of a column, into ranges, each of
//! which has one slot.
//!
//! Source: Bigtable and HBase regions, range sharding of MongoDB and Vitess. Neighbouring keys stay
//! together, so that a query for a range of keys goes to few shards. The distribution is even only
//! if the split points are chosen well. If new keys are always higher than all others (times,
//! counters), they all fall into the last range, whose shard takes the whole load. A cluster uses
//! only as many slots as it has ranges: with fewer ranges than shards, some shards are idle.
//!
//! With numeric split points the whole key must be an integer. If only the digits at the end
//! counted, `user_5` and `order_5` would be neighbours, an order that is of no use for range
//! queries. Keys with letters need text split points, which are compared byte by byte.
//!
//! **Invariant:** split points are strictly ascending, and no two ranges share a slot. A new split
//! point gives the upper part of one range the lowest slot number that no range uses; no other key
//! changes its slot.
//! **Not here:** moving the rows whose slot changes.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::routing_step::RoutingStep;
use super::{KeyError, SLOT_COUNT, ShardKey, Slot, blocks, partition_column};

/// Maximum number of split points. There is one more range than split points, and each range needs
/// a slot.
pub const SPLITS_MAX: usize = SLOT_COUNT as usize - 1;

/// Split points, and the slot of each range between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSpace {
    splits: Splits,
    /// Slot of each range, in the order of the ranges: one more than there are split points.
    slots: Vec<Slot>,
    /// Column whose value is compared with the split points; `None` if the shard key is compared.
    column: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Splits {
    /// Split points that all fit into 64 bits, as is usual. They take half the memory of 128-bit
    /// ones, so that more of them are in the processor's cache during a search.
    Short(Vec<i64>),
    Long(Vec<i128>),
    Text(Vec<TextSplit>),
}

/// Text split point. It is compared by its bytes, the first 16 of which are also stored as a
/// number, because numbers are compared faster.
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

/// Returns the first 16 bytes as a big-endian number; missing bytes are 0. If the heads of two
/// texts differ, the texts have the same order as their heads.
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

/// Parameters of the keyspace in the catalog. Numeric split points are strings, because many JSON
/// parsers cannot represent integers of 128 bits.
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
    /// Creates ranges of integers between split points such as `1000,2000`. The slots of the ranges
    /// are spread over all slots, so that a contiguous placement distributes the ranges evenly over
    /// the shards and keeps neighbours together.
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

    /// Returns these ranges for a keyspace in which the value of a column, not the shard key, is
    /// compared.
    ///
    /// # Errors
    /// Reason why the column cannot be used, as a clause.
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

    /// Returns these ranges with one more split point, `at`. The range that contains `at` is
    /// divided there: keys from `at` on get the lowest slot that no range uses, and all other keys
    /// keep their slots.
    ///
    /// # Errors
    /// Description of the fault, as a clause: `at` is already a split point or cannot be one, or
    /// every slot is in use.
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

    /// Returns the index of the range that contains a key: the number of split points that are not
    /// greater than the key.
    fn range_of(&self, key: &str) -> Result<usize, KeyError> {
        match self {
            Self::Short(splits) => {
                let number = integer(key).ok_or(KeyError::NotAnInteger)?;
                Ok(match i64::try_from(number) {
                    Ok(number) => splits.partition_point(|split| *split <= number),
                    // A number outside 64 bits is above or below all split points.
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

/// Returns true if a string can be a split point: it is a valid key, and can be an element of the
/// comma-separated list in the configuration.
fn is_text_split(split: &str) -> bool {
    ShardKey::parse(split).is_ok() && !split.contains(',') && split.trim() == split
}

fn parse_split(text: &str) -> Result<i128, String> {
    integer(text).ok_or_else(|| format!("`{text}` is not an integer of at most 128 bits"))
}

/// Parses `-?[0-9]+` of up to 128 bits. A leading `+`, which the standard parser accepts, is
/// refused, because ids do not have one.
fn integer(text: &str) -> Option<i128> {
    if text.starts_with('+') {
        return None;
    }
    // Most integers are short, and parsing them with 64-bit arithmetic is several times as fast.
    if text.len() <= SHORT_LEN_MAX {
        return text.parse::<i64>().ok().map(i128::from);
    }
    text.parse().ok()
}

/// Maximum length of a decimal integer, including its sign, that is certain to fit into 64 bits.
const SHORT_LEN_MAX: usize = 18;

/// Inserts a value into a sorted vector and returns its index; `None` if it is already present.
fn insert<T: Ord>(sorted: &mut Vec<T>, value: T) -> Option<usize> {
    let index = sorted.binary_search(&value).err()?;
    sorted.insert(index, value);
    Some(index)
}

/// Formats the keyspace as it is written in the configuration.
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
