//! Keyspace: the function from a shard key to its slot.
//!
//! **Invariant:** a keyspace is a pure function from a key to a slot, or to the reason why the key
//! has no slot. It never changes in the lifetime of a cluster; tests compare it with fixed results.
//! The catalog stores its name, algorithm, parameters and number of slots, and a router with other
//! values refuses to start.
//! **Not here:** the owner of a slot (`placement`, `shard_map`); no I/O, no clock, no `async`.

pub mod blocks;
mod hash;
pub mod list;
pub mod matrix;
mod modulo;
pub mod partition_column;
pub mod range;
pub mod routing_step;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use hash::{hash, slot_of_hash};
use list::ListSpace;
use matrix::MatrixMode;
use partition_column::PartitionError;
use range::RangeSpace;
use routing_step::{Explanation, RoutingStep};

/// Number of slots of a table group, the same in all clusters. It is a power of two, so that a hash
/// is reduced to a slot by a bit mask.
pub const SLOT_COUNT: u16 = 16_384;

/// Maximum number of table groups. Slot numbers have 16 bits, and each group has [`SLOT_COUNT`] of
/// them.
pub const GROUPS_MAX: usize = (u16::MAX / SLOT_COUNT) as usize + 1;

/// Maximum number of slots of a cluster, over all table groups.
pub const SLOTS_MAX: usize = GROUPS_MAX * SLOT_COUNT as usize;

const _: () = assert!(SLOT_COUNT.is_power_of_two(), "slot_of_hash() masks instead of dividing");

/// One of the [`SLOT_COUNT`] parts of the keyspace of a table group. A slot is owned by one shard,
/// and moves to another one as a whole. Slots of different groups have different numbers
/// (`table_group`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// Returns the slot with this number, if the number is valid.
    #[inline]
    pub fn new(number: u16) -> Option<Self> {
        (usize::from(number) < SLOTS_MAX).then_some(Self(number))
    }

    /// Converts a slot of a group's keyspace to a slot of the cluster; `first` is the number of the
    /// group's first slot.
    #[inline]
    pub(crate) fn of_group(first: u16, within: Self) -> Self {
        Self(first + within.0)
    }

    /// Returns the number of the slot. In the group `main` it is less than [`SLOT_COUNT`].
    #[inline]
    pub fn number(self) -> u16 {
        self.0
    }

    /// Returns the number as an index into a table of all slots.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Key in a request that determines the shard: 1 to [`ShardKey::LEN_MAX`] bytes of UTF-8 without
/// control characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShardKey<'k>(&'k str);

impl<'k> ShardKey<'k> {
    /// Maximum length of a key in bytes. It is short because keys are part of every row, index
    /// entry and log line.
    pub const LEN_MAX: usize = 256;

    /// Checks a key when it enters the program. All other code relies on this check and does not
    /// repeat it.
    ///
    /// # Errors
    /// [`KeyError`], which names the rule that `text` breaks.
    pub fn parse(text: &'k str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > Self::LEN_MAX {
            return Err(KeyError::TooLong { len: text.len() });
        }
        if has_control_characters(text) {
            return Err(KeyError::ControlCharacter);
        }
        Ok(Self(text))
    }

    /// Returns the key's text.
    #[inline]
    pub fn as_str(self) -> &'k str {
        self.0
    }
}

/// Returns true if the text contains U+0000..U+001F, U+007F or U+0080..U+009F. Most keys are ASCII;
/// their loop has no early exit, so that the compiler can make it examine many bytes at a time.
fn has_control_characters(text: &str) -> bool {
    if !text.is_ascii() {
        return text.chars().any(char::is_control);
    }
    text.bytes().fold(false, |found, byte| found | byte.is_ascii_control())
}

/// Reason why a string is not a shard key, or has no slot in the keyspace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is empty.
    #[error("a shard key has at least one byte")]
    Empty,
    /// The text is longer than [`ShardKey::LEN_MAX`].
    #[error("a shard key has at most {} bytes, this one has {len}", ShardKey::LEN_MAX)]
    TooLong {
        /// Length of the text in bytes.
        len: usize,
    },
    /// The text contains U+0000..U+001F, U+007F or U+0080..U+009F.
    #[error("a shard key holds no control characters")]
    ControlCharacter,
    /// Keyspace `modulo`: the key does not end in a digit.
    #[error("in keyspace modulo a shard key ends in a decimal integer, such as user_42")]
    NoTrailingInteger,
    /// Keyspace `range` with numeric split points: the key is not an integer of at most 128 bits.
    #[error(
        "in keyspace range a shard key is an integer of at most 128 bits and nothing else, such as 42"
    )]
    NotAnInteger,
    /// Keyspace `list`: the key does not begin with the name of a partition.
    #[error(
        "in keyspace list a shard key begins with the name of a partition and `:`; there are: {known}"
    )]
    NoSuchPartition {
        /// Names of the existing partitions, at most [`list::NAMES_SHOWN_MAX`] of them.
        known: Arc<str>,
    },
    /// Keyspace `matrix`: the key does not have the form `@user:server`.
    #[error("in keyspace matrix a shard key has the form @user:server")]
    NotAMatrixId,
    /// Keyspace by a column of the row: the value of the column is missing, or names no partition.
    #[error(transparent)]
    Partition(Box<PartitionError>),
    /// The table belongs to a group that was added after the epoch of this router's shard map.
    #[error("this router does not know the table's group yet: try again")]
    UnknownGroup,
}

/// Function from keys to slots, chosen when a cluster or a table group is created. Clones share the
/// parameters, so cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Keyspace {
    /// XXH3-64 with seed 0 over the key's bytes, modulo [`SLOT_COUNT`]. Keys are distributed
    /// evenly; neighbouring keys are not kept together.
    #[default]
    Hash,
    /// The key's trailing integer modulo [`SLOT_COUNT`] (`keyspace/modulo.rs`).
    Modulo,
    /// One slot for each range of keys between two split points ([`range`]).
    Range(Arc<RangeSpace>),
    /// One block of slots for each named partition ([`list`]).
    List(Arc<ListSpace>),
    /// Hash of a user id `@user:server`, or of its server ([`matrix`]).
    Matrix(MatrixMode),
}

impl Keyspace {
    /// Names of all keyspaces in the configuration, for messages and help. The catalog stores
    /// `range-text` under the name `range`.
    pub const NAMES: [&str; 6] = ["hash", "modulo", "range", "range-text", "list", "matrix"];

    /// Forms of a keyspace in the configuration.
    pub const FORMS: &str = "hash, modulo, range:10,20,… (numbers), range-text:g,n,…, \
        list:NAME=WEIGHT,…, matrix:id or matrix:server; list(COLUMN):…, range(COLUMN):… and \
        range-text(COLUMN):… by a column of the row";

    /// Returns the name used in the catalog and in responses.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Modulo => "modulo",
            Self::Range(_) => "range",
            Self::List(_) => "list",
            Self::Matrix(_) => "matrix",
        }
    }

    /// Returns the name of the hash function, as the catalog and `/api/shard-map` give it; `None`
    /// if the keyspace does not hash.
    pub fn algorithm(&self) -> Option<&'static str> {
        match self {
            Self::Hash | Self::List(_) | Self::Matrix(_) => Some("xxh3_64"),
            Self::Modulo | Self::Range(_) => None,
        }
    }

    /// Returns the parameters as JSON, for the catalog. They must never change, because they
    /// determine the slots of keys.
    pub fn parameters(&self) -> String {
        match self {
            Self::Hash => r#"{"seed":0}"#.to_owned(),
            Self::Modulo => "{}".to_owned(),
            Self::Range(ranges) => ranges.parameters(),
            Self::List(partitions) => partitions.parameters(),
            Self::Matrix(mode) => mode.parameters(),
        }
    }

    /// Restores a keyspace from the catalog.
    ///
    /// # Errors
    /// [`KeyspaceError`] if the name is unknown, or if this program would have stored the
    /// parameters in another form.
    pub fn restore(name: &str, parameters: &str) -> Result<Self, KeyspaceError> {
        let bad = |cause| KeyspaceError::Parameters { keyspace: name.to_owned(), cause };
        let keyspace = match name {
            "hash" => Self::Hash,
            "modulo" => Self::Modulo,
            "range" => Self::Range(Arc::new(RangeSpace::restore(parameters).map_err(bad)?)),
            "list" => Self::List(Arc::new(ListSpace::restore(parameters).map_err(bad)?)),
            "matrix" => Self::Matrix(MatrixMode::restore(parameters).map_err(bad)?),
            other => return Err(KeyspaceError::Unknown(other.to_owned())),
        };
        if keyspace.parameters() != parameters {
            return Err(bad(format!("they should be {}", keyspace.parameters())));
        }
        Ok(keyspace)
    }

    /// Returns the slot of a key.
    ///
    /// # Errors
    /// [`KeyError`] if the keyspace has no slot for the key. The keyspace `hash` has a slot for
    /// every key. In a keyspace by a column, a key alone never has one.
    pub fn slot_of(&self, key: ShardKey<'_>) -> Result<Slot, KeyError> {
        match self {
            Self::Range(_) | Self::List(_) if self.column().is_some() => {
                Err(partition_column::key_alone(self))
            }
            Self::Hash => Ok(slot_of_hash(hash(key.0))),
            Self::Modulo => modulo::slot_of(key.0),
            Self::Range(ranges) => ranges.slot_of(key.0),
            Self::List(partitions) => partitions.slot_of(key.0),
            Self::Matrix(mode) => Ok(slot_of_hash(hash(mode.hashed_part(key.0)?))),
        }
    }

    /// Returns the slot of a key and the steps that lead to it, to be shown to a person.
    ///
    /// # Errors
    /// Errors of [`Keyspace::slot_of`].
    pub fn explain<'k>(&self, key: ShardKey<'k>) -> Result<Explanation<'k>, KeyError> {
        let slot = self.slot_of(key)?;
        let steps = match self {
            Self::Hash => vec![RoutingStep::Hash(hash(key.0))],
            Self::Modulo => vec![RoutingStep::Integer(modulo::trailing_digits(key.0)?)],
            Self::Range(ranges) => vec![ranges.explain(key.0)?],
            Self::List(partitions) => {
                vec![partitions.explain(key.0)?, RoutingStep::Hash(hash(key.0))]
            }
            Self::Matrix(mode) => {
                let part = mode.hashed_part(key.0)?;
                match mode {
                    MatrixMode::Id => vec![RoutingStep::Hash(hash(part))],
                    MatrixMode::Server => {
                        vec![RoutingStep::Server(part), RoutingStep::Hash(hash(part))]
                    }
                }
            }
        };
        Ok(Explanation { slot, steps })
    }
}

/// Formats the keyspace as it is written in the configuration.
impl fmt::Display for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash | Self::Modulo => f.write_str(self.name()),
            Self::Range(ranges) => ranges.fmt(f),
            Self::List(partitions) => partitions.fmt(f),
            Self::Matrix(mode) => mode.fmt(f),
        }
    }
}

impl FromStr for Keyspace {
    type Err = KeyspaceError;

    fn from_str(text: &str) -> Result<Self, KeyspaceError> {
        let (name, parameters) = match text.split_once(':') {
            Some((name, parameters)) => (name, Some(parameters)),
            None => (text, None),
        };
        let (name, column) = partition_column::split_name(name);
        let given = parameters.unwrap_or_default();
        let keyspace = match (name, parameters, column) {
            ("hash", None, None) => Ok(Self::Hash),
            ("modulo", None, None) => Ok(Self::Modulo),
            ("range", _, _) => RangeSpace::numeric(given)
                .and_then(|ranges| Ok(Self::Range(Arc::new(ranges.with_column(column)?)))),
            ("range-text", _, _) => RangeSpace::text(given)
                .and_then(|ranges| Ok(Self::Range(Arc::new(ranges.with_column(column)?)))),
            ("list", _, _) => ListSpace::parse(given)
                .and_then(|list| Ok(Self::List(Arc::new(list.with_column(column)?)))),
            ("matrix", _, None) => MatrixMode::parse(parameters).map(Self::Matrix),
            ("hash" | "modulo", Some(_), None) => Err("there are none".to_owned()),
            ("hash" | "modulo" | "matrix", _, Some(_)) => {
                Err("only list, range and range-text take a column".to_owned())
            }
            (_, _, _) => return Err(KeyspaceError::Unknown(name.to_owned())),
        };
        keyspace.map_err(|cause| KeyspaceError::Parameters { keyspace: name.to_owned(), cause })
    }
}

/// Reason why a string is not a keyspace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyspaceError {
    /// The name of the keyspace is unknown.
    #[error("`{0}` is not a keyspace; there are: {names}", names = Keyspace::NAMES.join(", "))]
    Unknown(String),
    /// The name is known, but the parameters are invalid.
    #[error("the parameters of keyspace {keyspace} cannot be used: {cause}")]
    Parameters {
        /// Name of the keyspace.
        keyspace: String,
        /// Description of the fault, as a clause.
        cause: String,
    },
}
