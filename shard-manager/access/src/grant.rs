//! Grants: the operations that a role allows on tables, for some columns and some shard keys.
//!
//! A row's routing column contains its shard key, so a caller that is bound to keys is bound to
//! rows.
//!
//! The separator between a tenant and the rest of a key is exactly one character of ASCII
//! punctuation, other than `*` and `$`, and no tenant of the role contains it. With two characters
//! that would not be enough: with the separator `::`, the tenants `acme` and `acme:` would both
//! have the key `acme:::1`, though neither contains it. Letters and digits are parts of tenants,
//! and a character beyond ASCII may have another spelling that looks alike.
//!
//! **Invariant:** names are well-formed, no list is empty, and no literal key looks like a pattern.
//! **Not here:** the choice of the grant that allows a request (`rights`), the JSON (`role`).

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::json_member::raw;
use crate::operation::RowOperations;
use crate::tenant::Tenants;

/// Permission of operations on rows, a part of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub(crate) tables: TableSet,
    pub(crate) operations: RowOperations,
    pub(crate) keys: KeyRule,
    pub(crate) columns: ColumnSet,
    pub(crate) scatters: bool,
}

impl Grant {
    /// Creates a grant of operations on all rows and columns of all tables.
    pub fn of_all_tables(operations: RowOperations) -> Self {
        let (tables, keys, columns) = (TableSet::All, KeyRule::All, ColumnSet::All);
        Self { tables, operations, keys, columns, scatters: false }
    }

    /// Returns the tables.
    #[inline]
    pub fn tables(&self) -> &TableSet {
        &self.tables
    }

    /// Returns the operations.
    #[inline]
    pub fn operations(&self) -> RowOperations {
        self.operations
    }

    /// Returns the rule for shard keys.
    #[inline]
    pub fn keys(&self) -> &KeyRule {
        &self.keys
    }

    /// Returns the columns that a request may name, and that a response has.
    #[inline]
    pub fn columns(&self) -> &ColumnSet {
        &self.columns
    }

    /// Returns true if a read without a shard key may go to all shards for the keys that begin with
    /// a tenant. Other rules name their keys, and so their shards.
    #[inline]
    pub fn scatters(&self) -> bool {
        self.scatters
    }
}

/// Tables of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableSet {
    /// Every table, also one that is created later.
    All,
    /// The tables of these names, in ascending order.
    Named(Arc<[Box<str>]>),
}

impl TableSet {
    /// Returns true if the set contains this table.
    #[inline]
    pub fn contains(&self, table: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => has(names, table),
        }
    }
}

/// Columns of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnSet {
    /// Every column, also one that is added later.
    All,
    /// The columns of these names, in ascending order.
    Named(Arc<[Box<str>]>),
}

impl ColumnSet {
    /// Returns true if the set contains this column.
    #[inline]
    pub fn contains(&self, column: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => has(names, column),
        }
    }

    /// Returns true if all columns of the other set are in this one.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Named(_), Self::All) => false,
            (Self::Named(_), Self::Named(names)) => names.iter().all(|name| self.contains(name)),
        }
    }
}

#[inline]
fn has(names: &[Box<str>], name: &str) -> bool {
    names.binary_search_by(|known| (**known).cmp(name)).is_ok()
}

/// Rule for the shard keys of a grant, before the tenants of a caller are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRule {
    /// `"*"`: every key.
    All,
    /// `"$tenant"`: the keys that equal a tenant.
    Tenant,
    /// `"$tenant:*"`: the keys that begin with a tenant and the separator.
    TenantPrefix {
        /// Character between the tenant and the rest of the key.
        separator: char,
    },
    /// Exactly these keys, in ascending order.
    Literals(Arc<[Box<str>]>),
}

impl KeyRule {
    /// Highest number of literal keys of a grant: a read by a bound caller lists them in its SQL.
    pub const LITERALS_MAX: usize = 64;

    /// Returns the keys of a caller with these tenants.
    #[inline]
    pub fn binding<'r>(&'r self, tenants: &'r Tenants) -> KeyBinding<'r> {
        match self {
            Self::All => KeyBinding::All,
            Self::Tenant => KeyBinding::Keys(tenants.as_slice()),
            Self::TenantPrefix { separator } => {
                KeyBinding::Prefixes { tenants: tenants.as_slice(), separator: *separator }
            }
            Self::Literals(keys) => KeyBinding::Keys(keys),
        }
    }

    /// Returns the rule as in the JSON of a role.
    pub(crate) fn to_raw(&self) -> Box<RawValue> {
        match self {
            Self::All => raw("*"),
            Self::Tenant => raw("$tenant"),
            Self::TenantPrefix { separator } => raw(&format!("$tenant{separator}*")),
            Self::Literals(keys) => raw(&**keys),
        }
    }

    /// Returns the separator, if the rule has one.
    pub fn separator(&self) -> Option<char> {
        match self {
            Self::TenantPrefix { separator } => Some(*separator),
            Self::All | Self::Tenant | Self::Literals(_) => None,
        }
    }

    /// Returns true if the rule depends on the tenants of the caller.
    pub fn depends_on_tenants(&self) -> bool {
        match self {
            Self::Tenant | Self::TenantPrefix { .. } => true,
            Self::All | Self::Literals(_) => false,
        }
    }
}

/// Shard keys to which a request is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyBinding<'r> {
    /// Every key: the request is not bound.
    All,
    /// Exactly these keys. An empty list admits none.
    Keys(&'r [Box<str>]),
    /// The keys that begin with one of the tenants and the separator.
    Prefixes {
        /// Tenants of the caller. An empty list admits no key.
        tenants: &'r [Box<str>],
        /// Character between the tenant and the rest of the key.
        separator: char,
    },
}

impl KeyBinding<'_> {
    /// Returns true if a request may use this key. Keys are compared by bytes.
    #[inline]
    pub fn admits(&self, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::Keys(keys) => keys.iter().any(|known| **known == *key),
            Self::Prefixes { tenants, separator } => {
                tenants.iter().any(|tenant| begins_with(key, tenant, *separator))
            }
        }
    }

    /// Returns true if the binding leaves out some keys.
    #[inline]
    pub fn is_bound(&self) -> bool {
        !matches!(self, Self::All)
    }

    /// Returns true if every key that the other binding admits is admitted by this one.
    pub fn covers(&self, other: &KeyBinding<'_>) -> bool {
        match other {
            KeyBinding::All => !self.is_bound(),
            KeyBinding::Keys(keys) => keys.iter().all(|key| self.admits(key)),
            // The other binding admits every key that begins with one of its prefixes. This binding
            // admits all of them only if the prefix itself begins with one of this binding's
            // prefixes.
            KeyBinding::Prefixes { tenants, separator } => tenants.iter().all(|tenant| {
                let is_prefix = !matches!(self, Self::Keys(_));
                is_prefix && self.admits(&format!("{tenant}{separator}"))
            }),
        }
    }
}

/// Returns true if a key begins with the tenant and the separator. A tenant that contains the
/// separator has no keys, because they would be another tenant's.
#[inline]
fn begins_with(key: &str, tenant: &str, separator: char) -> bool {
    let rest = key.strip_prefix(tenant);
    rest.is_some_and(|rest| rest.starts_with(separator)) && !tenant.contains(separator)
}
