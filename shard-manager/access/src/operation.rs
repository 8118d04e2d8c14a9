//! Operations: the operations on rows that a grant may allow.
//!
//! **Invariant:** an upsert counts as an insert and an update: it is allowed only if both are
//! allowed.
//! **Not here:** operations that are not about rows, such as creating a table (`scope`).

use std::fmt;

use model::row_change;

/// Set of operations on rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RowOperations(u8);

impl RowOperations {
    /// No operation.
    pub const NONE: Self = Self(0);
    /// Reading rows, including the use of rows in a filter or an aggregate.
    pub const READ: Self = Self(1);
    /// Creating rows.
    pub const INSERT: Self = Self(2);
    /// Changing rows.
    pub const UPDATE: Self = Self(4);
    /// Removing rows.
    pub const DELETE: Self = Self(8);
    /// Creating rows, or changing those that exist.
    pub const UPSERT: Self = Self(Self::INSERT.0 | Self::UPDATE.0);
    /// All operations.
    pub const ALL: Self = Self(15);

    const NAMED: [(Self, &str); 4] = [
        (Self::READ, "read"),
        (Self::INSERT, "insert"),
        (Self::UPDATE, "update"),
        (Self::DELETE, "delete"),
    ];

    /// Names that [`RowOperations::find`] accepts, as listed in error messages.
    pub const NAMES: &str = "read, insert, update, delete";

    /// Returns the operation with this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(_, known)| *known == name).map(|(operation, _)| *operation)
    }

    /// Returns the union of both sets.
    #[inline]
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the operations of this set that are not in the other set.
    #[inline]
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Returns true if this set contains all operations of the other set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns true if the set has no operation.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the names of the operations, in a fixed order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMED.iter().filter(move |(one, _)| self.contains(*one)).map(|(_, name)| *name)
    }
}

impl From<row_change::Operation> for RowOperations {
    #[inline]
    fn from(operation: row_change::Operation) -> Self {
        match operation {
            row_change::Operation::Upsert => Self::UPSERT,
            row_change::Operation::Insert => Self::INSERT,
            row_change::Operation::Update => Self::UPDATE,
            row_change::Operation::Delete => Self::DELETE,
        }
    }
}

impl fmt::Display for RowOperations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names().enumerate() {
            f.write_str(if index == 0 { "" } else { " and " })?;
            f.write_str(name)?;
        }
        Ok(())
    }
}
