//! Partition column: the column that determines the partition or range of a row, in a keyspace in
//! which the shard key does not.
//!
//! With `list(COLUMN)` the value of the column names the partition, and the hash of the shard key
//! determines the slot inside the partition's block. With `range(COLUMN)` the value lies in a
//! range, which has one slot. A row of a table without this column has no partition: its key is
//! hashed over all slots.
//!
//! **Invariant:** the slot of a row is a pure function of its shard key and of the value of this
//! column. The partition is therefore part of the row's identity: a row cannot change its
//! partition, and the same shard key and id in two partitions belong to two rows.
//! **Not here:** finding the column in a table (`shard_map`).

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::list::Partition;
use super::routing_step::{Explanation, RoutingStep};
use super::{KeyError, Keyspace, ShardKey, Slot, hash, slot_of_hash};

/// Maximum length of the name of a column, in bytes.
const NAME_LEN_MAX: usize = 40;
/// Columns that the server sets. They cannot name a partition, because their values are not yet
/// known when the slot is determined.
const SERVER_COLUMNS: [&str; 5] = ["slot", "shard_key", "version", "created_at", "updated_at"];

/// Checks that a string can be the name of a partition column.
///
/// # Errors
/// Description of the fault, as a clause.
pub(super) fn check_name(column: &str) -> Result<(), String> {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let is_name = column.starts_with(|c: char| c.is_ascii_lowercase())
        && column.chars().all(is_inner)
        && column.len() <= NAME_LEN_MAX;
    if !is_name {
        let shown: String = column.chars().take(NAME_LEN_MAX).collect();
        return Err(format!(
            "`{shown}` is not the name of a column: use a lower-case letter, then letters, digits or _, at most \
             {NAME_LEN_MAX}"
        ));
    }
    if SERVER_COLUMNS.contains(&column) {
        return Err(format!(
            "the server sets {column}, so a row cannot name its partition there: use another column"
        ));
    }
    Ok(())
}

/// Splits `NAME(COLUMN)` into the name of the keyspace and the column; the column is `None` if
/// there are no parentheses.
pub(super) fn split_name(text: &str) -> (&str, Option<&str>) {
    match text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        Some((name, column)) => (name, Some(column)),
        None => (text, None),
    }
}

/// Reason why a row or a key has no slot in a keyspace that partitions by a column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// The write or read gives no value for the partition column, or null.
    #[error(
        "{column} is missing: it names the partition of the row, and is part of its identity{}",
        listed(known.as_deref())
    )]
    Missing {
        /// The partition column.
        column: Arc<str>,
        /// Names of the existing partitions, at most [`super::list::NAMES_SHOWN_MAX`] of them;
        /// `None` for ranges, which have no names.
        known: Option<Arc<str>>,
    },
    /// The value does not name a partition.
    #[error("{column} does not name an existing partition{}", listed(Some(known)))]
    Unknown {
        /// The partition column.
        column: Arc<str>,
        /// Names of the existing partitions, at most [`super::list::NAMES_SHOWN_MAX`] of them.
        known: Arc<str>,
    },
    /// The keyspace has ranges of integers, and the value is not an integer.
    #[error("{column} must be an integer of at most 128 bits: it determines the range of the row")]
    NotAnInteger {
        /// The partition column.
        column: Arc<str>,
    },
    /// A change would move a row to another partition.
    #[error(
        "{column} cannot change: it names the partition of the row, and is part of its identity"
    )]
    Changed {
        /// The partition column.
        column: Arc<str>,
    },
    /// The client has no right to the partition column, so the error must not name it.
    #[error("this table is partitioned by a column to which this caller has no right")]
    Hidden,
    /// A shard key without a partition was given, but a key alone has no slot.
    #[error(
        "a shard key alone has no slot in a keyspace by the column {column}: the rows of a key may be in any partition"
    )]
    KeyAlone {
        /// The partition column.
        column: Arc<str>,
    },
}

impl From<PartitionError> for KeyError {
    fn from(error: PartitionError) -> Self {
        Self::Partition(Box::new(error))
    }
}

fn listed(known: Option<&str>) -> String {
    known.map(|known| format!("; there are: {known}")).unwrap_or_default()
}

/// Slots in keyspaces with a partition column.
impl Keyspace {
    /// Returns the column that names the partition of a row; `None` if the shard key alone
    /// determines the slot.
    #[inline]
    pub fn column(&self) -> Option<&str> {
        shared_column(self).map(|column| &**column)
    }

    /// Returns the slot of a key in a table that does not have the partition column of this
    /// keyspace: its hash over all slots. If the keyspace has no partition column, this is the slot
    /// that [`Keyspace::slot_of`] returns.
    ///
    /// # Errors
    /// [`KeyError`] if the keyspace has no slot for the key.
    pub fn slot_of_key(&self, key: ShardKey<'_>) -> Result<Slot, KeyError> {
        match self.column() {
            Some(_) => Ok(slot_of_hash(hash(key.as_str()))),
            None => self.slot_of(key),
        }
    }

    /// Returns the slot of a row with this shard key and this value of the partition column, given
    /// as text. The keyspaces `hash`, `modulo` and `matrix`, which cannot have a partition column,
    /// ignore the value.
    ///
    /// # Errors
    /// [`KeyError::Partition`] if the value is missing, or names no partition or range of the
    /// keyspace.
    pub fn slot_in(&self, partition: Option<&str>, key: ShardKey<'_>) -> Result<Slot, KeyError> {
        match (self, partition) {
            (_, None) => Err(missing_partition(self)),
            (Self::List(partitions), Some(name)) => {
                Ok(partitions.partition_named(name)?.slot_of(key.as_str()))
            }
            (Self::Range(ranges), Some(value)) => {
                ranges.slot_of(value).map_err(|error| of_column(error, self))
            }
            (Self::Hash | Self::Modulo | Self::Matrix(_), Some(_)) => self.slot_of(key),
        }
    }

    /// Returns the slots of all rows whose partition column has this value.
    ///
    /// # Errors
    /// [`KeyError::Partition`] if the keyspace has no such partition, or cannot have a partition
    /// column.
    pub fn slots_in(&self, partition: &str) -> Result<RangeInclusive<u16>, KeyError> {
        match self {
            Self::List(partitions) => {
                let Partition { first, last, .. } = partitions.partition_named(partition)?;
                Ok(first.number()..=last.number())
            }
            Self::Range(ranges) => {
                let slot = ranges.slot_of(partition).map_err(|error| of_column(error, self))?;
                Ok(slot.number()..=slot.number())
            }
            Self::Hash | Self::Modulo | Self::Matrix(_) => Err(missing_partition(self)),
        }
    }

    /// Returns the slot that a row with this key would have in each partition or range; `None` if
    /// there are more than `most` of them, or if the keyspace has none.
    pub fn slots_of_key(&self, key: ShardKey<'_>, most: usize) -> Option<Vec<Slot>> {
        match self {
            Self::List(list) if list.partitions().len() <= most => {
                let partitions = list.partitions().iter();
                Some(partitions.map(|partition| partition.slot_of(key.as_str())).collect())
            }
            Self::Range(ranges) if ranges.ranges() <= most => Some(ranges.slots().to_vec()),
            Self::List(_) | Self::Range(_) | Self::Hash | Self::Modulo | Self::Matrix(_) => None,
        }
    }

    /// Returns the slot that [`Keyspace::slot_in`] returns, with the steps that lead to it.
    ///
    /// # Errors
    /// Errors of [`Keyspace::slot_in`].
    pub fn explain_in<'k>(
        &self,
        partition: Option<&str>,
        key: ShardKey<'k>,
    ) -> Result<Explanation<'k>, KeyError> {
        let slot = self.slot_in(partition, key)?;
        let value = partition.unwrap_or_default();
        let steps = match self {
            Self::Range(ranges) => vec![ranges.explain(value)?],
            Self::List(partitions) => {
                vec![
                    partitions.partition_named(value)?.explain(),
                    RoutingStep::Hash(hash(key.as_str())),
                ]
            }
            Self::Hash | Self::Modulo | Self::Matrix(_) => return self.explain(key),
        };
        Ok(Explanation { slot, steps })
    }

    /// Returns the slot that [`Keyspace::slot_of_key`] returns, with the steps that lead to it.
    ///
    /// # Errors
    /// Errors of [`Keyspace::slot_of_key`].
    pub fn explain_key<'k>(&self, key: ShardKey<'k>) -> Result<Explanation<'k>, KeyError> {
        match self.column() {
            Some(_) => {
                let steps = vec![RoutingStep::Hash(hash(key.as_str()))];
                Ok(Explanation { slot: self.slot_of_key(key)?, steps })
            }
            None => self.explain(key),
        }
    }

    /// Returns the error for a change that would move a row to another partition.
    pub fn changed_partition(&self) -> KeyError {
        PartitionError::Changed { column: column_of(self) }.into()
    }
}

/// Returns the error for a shard key that is given without a partition.
pub(super) fn key_alone(keyspace: &Keyspace) -> KeyError {
    PartitionError::KeyAlone { column: column_of(keyspace) }.into()
}

fn missing_partition(keyspace: &Keyspace) -> KeyError {
    let known = match keyspace {
        Keyspace::List(partitions) => Some(partitions.known()),
        Keyspace::Range(_) | Keyspace::Hash | Keyspace::Modulo | Keyspace::Matrix(_) => None,
    };
    PartitionError::Missing { column: column_of(keyspace), known }.into()
}

/// Converts an error about a key that is not an integer to an error about the partition column.
fn of_column(error: KeyError, keyspace: &Keyspace) -> KeyError {
    match (error, shared_column(keyspace)) {
        (KeyError::NotAnInteger, Some(column)) => {
            PartitionError::NotAnInteger { column: Arc::clone(column) }.into()
        }
        (error, _) => error,
    }
}

fn column_of(keyspace: &Keyspace) -> Arc<str> {
    shared_column(keyspace).cloned().unwrap_or_default()
}

#[inline]
fn shared_column(keyspace: &Keyspace) -> Option<&Arc<str>> {
    match keyspace {
        Keyspace::Range(ranges) => ranges.column(),
        Keyspace::List(partitions) => partitions.column(),
        Keyspace::Hash | Keyspace::Modulo | Keyspace::Matrix(_) => None,
    }
}
