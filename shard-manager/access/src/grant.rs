//! Grants: the operations that a role allows on tables, for some columns and some shard keys.
//!
//! The routing column of a row contains its shard key, so restricting a caller to shard keys
//! restricts it to rows.
//!
//! The separator between a tenant and the rest of a key is exactly one character of ASCII
//! punctuation, other than `*` and `$`, and no tenant of the role may contain it. Two characters
//! would not separate tenants reliably: with the separator `::`, the tenants `acme` and `acme:`
//! would both own the key `acme:::1`, although neither name contains `::`. Letters and digits are
//! not permitted because tenant names consist of them. Characters beyond ASCII are not permitted
//! because another character may look the same.
//!
//! **Invariant:** the names of tables and columns are well-formed, no list is empty, and no literal
//! key looks like a pattern such as `$tenant`.
//! **Not here:** the choice of the grant that allows a request (`rights`), the JSON of grants
//! (`role`).

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::json_member::raw;
use crate::operation::RowOperations;
use crate::tenant::Tenants;

/// Permission of operations on rows of some tables. A role is a list of grants.
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

    /// Returns the columns that a request may name and a response may contain.
    #[inline]
    pub fn columns(&self) -> &ColumnSet {
        &self.columns
    }

    /// Returns true if a read that names no shard key may be sent to all shards. Only a grant whose
    /// keys begin with a tenant needs this permission, because such keys may be on any shard; a
    /// list of exact keys determines the shards.
    #[inline]
    pub fn scatters(&self) -> bool {
        self.scatters
    }
}

/// Tables of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableSet {
    /// Every table, including tables that are created later.
    All,
    /// The tables with these names, sorted by name.
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
    /// Every column, including columns that are added later.
    All,
    /// The columns with these names, sorted by name.
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

    /// Returns true if this set contains all columns of the other set.
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

/// Rule that determines the shard keys of a grant. It may contain the placeholder `$tenant`, which
/// stands for each tenant of a caller.
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
    /// Exactly these keys, sorted.
    Literals(Arc<[Box<str>]>),
}

impl KeyRule {
    /// Maximum number of literal keys in a grant. The number is limited because a read under such a
    /// grant may list all of them in its SQL statement.
    pub const LITERALS_MAX: usize = 64;

    /// Returns the keys to which the rule restricts a caller with these tenants.
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

    /// Returns the rule as it is written in the JSON of a role.
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

/// Shard keys to which a request is restricted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyBinding<'r> {
    /// Every key: the request is not restricted.
    All,
    /// Exactly these keys. An empty list admits no key.
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
    /// Returns true if a request may use this key. Keys are compared byte by byte.
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

    /// Returns true if the binding does not admit every key.
    #[inline]
    pub fn is_bound(&self) -> bool {
        !matches!(self, Self::All)
    }

    /// Returns true if this binding admits every key that the other binding admits.
    pub fn covers(&self, other: &KeyBinding<'_>) -> bool {
        match other {
            KeyBinding::All => !self.is_bound(),
            KeyBinding::Keys(keys) => keys.iter().all(|key| self.admits(key)),
            // The other binding admits every key that begins with one of its prefixes. This binding
            // admits all of them only if it admits every key, or if that prefix itself begins with
            // one of the prefixes of this binding.
            KeyBinding::Prefixes { tenants, separator } => tenants.iter().all(|tenant| {
                let is_prefix = !matches!(self, Self::Keys(_));
                is_prefix && self.admits(&format!("{tenant}{separator}"))
            }),
        }
    }
}

/// Returns true if a key begins with the tenant and the separator. A tenant that contains the
/// separator matches no keys, because those keys could belong to another tenant.
#[inline]
fn begins_with(key: &str, tenant: &str, separator: char) -> bool {
    let rest = key.strip_prefix(tenant);
    rest.is_some_and(|rest| rest.starts_with(separator)) && !tenant.contains(separator)
}
