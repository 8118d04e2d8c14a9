//! Keyspace: which slot a shard key belongs to.
//!
//! **Invariant:** a keyspace is a pure, total function from key to slot that never changes for the
//! life of a cluster; golden vectors in the tests pin it. The catalog remembers name, algorithm and
//! slot count, and a router with others refuses to start.
//! **Not here:** which shard owns a slot (`placement`, `shard_map`); no I/O, no clock, no `async`.

use std::fmt;
use std::str::FromStr;

/// Number of slots, for ever. A power of two, so that a hash is reduced by a mask.
pub const SLOT_COUNT: u16 = 16_384;

const _: () = assert!(SLOT_COUNT.is_power_of_two(), "slot_of() masks instead of dividing");

/// One of the [`SLOT_COUNT`] parts of the keyspace: the unit that is owned and moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot of this number, if there is one.
    pub fn new(number: u16) -> Option<Self> {
        (number < SLOT_COUNT).then_some(Self(number))
    }

    /// The number, `0..SLOT_COUNT`.
    pub fn number(self) -> u16 {
        self.0
    }

    /// The number as an index into a table of [`SLOT_COUNT`] entries.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a client routes by: 1 to [`ShardKey::LEN_MAX`] bytes of UTF-8 without control characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShardKey<'k>(&'k str);

impl<'k> ShardKey<'k> {
    /// Longest key in bytes. Keys stand in every row, index entry and log line.
    pub const LEN_MAX: usize = 256;

    /// Checks a key once, at the edge; everything behind relies on it.
    ///
    /// # Errors
    /// [`KeyError`] names the rule that the text breaks.
    pub fn parse(text: &'k str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > Self::LEN_MAX {
            return Err(KeyError::TooLong { len: text.len() });
        }
        if text.chars().any(char::is_control) {
            return Err(KeyError::ControlCharacter);
        }
        Ok(Self(text))
    }

    /// The key's text.
    pub fn as_str(self) -> &'k str {
        self.0
    }
}

/// Why a text is no shard key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing to route by.
    #[error("a shard key has at least one byte")]
    Empty,
    /// Longer than [`ShardKey::LEN_MAX`].
    #[error("a shard key has at most {} bytes, this one has {len}", ShardKey::LEN_MAX)]
    TooLong {
        /// Bytes of the text.
        len: usize,
    },
    /// Contains U+0000..U+001F, U+007F or U+0080..U+009F.
    #[error("a shard key holds no control characters")]
    ControlCharacter,
}

/// How keys become slots. Chosen once per cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keyspace {
    /// XXH3-64 with seed 0 over the key's bytes, modulo [`SLOT_COUNT`]. Spreads any keys evenly;
    /// neighbouring keys do not stay together.
    #[default]
    Hash,
}

impl Keyspace {
    /// Every keyspace there is, for messages and help.
    pub const ALL: [Self; 1] = [Self::Hash];

    /// The name used in configuration, catalog and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
        }
    }

    /// The algorithm behind the name, as the catalog and `/api/shard-map` tell it.
    pub fn algorithm(self) -> &'static str {
        match self {
            Self::Hash => "xxh3_64",
        }
    }

    /// What else decides over slots, as JSON: it stands in the catalog, and must not change either.
    pub fn parameters(self) -> &'static str {
        match self {
            Self::Hash => r#"{"seed":0}"#,
        }
    }

    /// The slot of a key.
    ///
    /// # Errors
    /// [`KeyError`] if the keyspace has no place for the key. A hash has one for every key.
    pub fn slot_of(&self, key: ShardKey<'_>) -> Result<Slot, KeyError> {
        match self {
            Self::Hash => {
                let hash = xxhash_rust::xxh3::xxh3_64(key.as_str().as_bytes());
                Ok(Slot((hash & u64::from(SLOT_COUNT - 1)) as u16))
            }
        }
    }
}

impl FromStr for Keyspace {
    type Err = UnknownKeyspace;

    fn from_str(name: &str) -> Result<Self, UnknownKeyspace> {
        let found = Self::ALL.into_iter().find(|keyspace| keyspace.name() == name);
        found.ok_or_else(|| UnknownKeyspace(name.to_owned()))
    }
}

/// A keyspace name that means nothing here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no keyspace; there is: {names}", names = Keyspace::ALL.map(Keyspace::name).join(", "))]
pub struct UnknownKeyspace(String);
