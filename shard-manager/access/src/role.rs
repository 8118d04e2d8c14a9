//! Roles: named lists of grants, with scopes, a weight and limits.
//!
//! **Invariant:** a parsed role has none of the faults that [`RoleFault`] lists. In particular,
//! each of its grants states to which keys it applies, and a role that is restricted to some keys
//! does not have the scope `analytics`, which would reveal other callers' keys.
//! **Not here:** the decision about a request (`rights`), storage of roles.

mod document;
mod roles_file;

use crate::grant::{ColumnSet, Grant, KeyRule, TableSet};
use crate::limit::RoleLimits;
use crate::operation::RowOperations;
use crate::scope::{AccessScope, ScopeSet};

/// Role: a name, and the permissions and limits of each caller that has this role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRole {
    name: Box<str>,
    grants: Vec<Grant>,
    scopes: ScopeSet,
    weight: u32,
    limits: RoleLimits,
}

impl AccessRole {
    /// Maximum length of a name in bytes.
    pub const NAME_LEN_MAX: usize = 64;
    /// Maximum number of grants. The number is limited because a request may have to be compared
    /// with every grant.
    pub const GRANTS_MAX: usize = 64;
    /// Maximum weight. While operations of two callers wait for a shard, a caller of weight n gets
    /// n times the share of a caller of weight 1.
    pub const WEIGHT_MAX: u32 = 1_000;

    /// Role with every right.
    pub const ADMIN: &str = "admin";
    /// Role for programs that read and write all rows.
    pub const SERVICE: &str = "service";
    /// Role for programs that read all rows.
    pub const READER: &str = "reader";
    /// Role for programs that collect metrics.
    pub const SCRAPER: &str = "scraper";
    /// Role for requests without credentials. The built-in definition has no grants; it may be
    /// replaced.
    pub const ANONYMOUS: &str = "anonymous";

    /// Returns the built-in roles, which exist without being defined.
    pub fn built_in() -> [Self; 5] {
        let all = |operations| vec![Grant::of_all_tables(operations)];
        let scraper = [AccessScope::Metrics, AccessScope::Frames].into_iter().collect();
        [
            Self::simple(Self::ADMIN, all(RowOperations::ALL), ScopeSet::ALL),
            Self::simple(Self::SERVICE, all(RowOperations::ALL), ScopeSet::NONE),
            Self::simple(Self::READER, all(RowOperations::READ), ScopeSet::NONE),
            Self::simple(Self::SCRAPER, Vec::new(), scraper),
            Self::simple(Self::ANONYMOUS, Vec::new(), ScopeSet::NONE),
        ]
    }

    fn simple(name: &str, grants: Vec<Grant>, scopes: ScopeSet) -> Self {
        Self { name: name.into(), grants, scopes, weight: 1, limits: RoleLimits::default() }
    }

    /// Parses the JSON of a role.
    ///
    /// # Errors
    /// [`RoleError`] names the faulty member and states how to correct it.
    pub fn parse(json: &str) -> Result<Self, RoleError> {
        document::parse(json)
    }

    /// Parses a file of roles: the JSON of one role, or a list of roles with different names.
    ///
    /// # Errors
    /// [`RoleError`] names the role by its index in the list, and the faulty member, as in
    /// `[2].grants[0].keys`.
    pub fn parse_file(json: &str) -> Result<Vec<Self>, RoleError> {
        roles_file::parse(json)
    }

    /// Returns the JSON of the role, which [`AccessRole::parse`] reads.
    pub fn to_json(&self) -> String {
        document::format(self)
    }

    /// Returns true if a role may have this name: a lower-case letter, then lower-case letters,
    /// digits, `_` or `-`.
    pub fn is_name(name: &str) -> bool {
        let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
        name.len() <= Self::NAME_LEN_MAX
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(is_inner)
    }

    /// Returns true if this is the name of a built-in role that cannot be redefined.
    pub fn is_reserved(name: &str) -> bool {
        [Self::ADMIN, Self::SERVICE, Self::READER, Self::SCRAPER].contains(&name)
    }

    /// Returns the name.
    #[inline]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the grants, in the order in which they are tried.
    #[inline]
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// Returns the scopes.
    #[inline]
    pub fn scopes(&self) -> ScopeSet {
        self.scopes
    }

    /// Returns the weight of a caller's operations relative to those of other callers, while
    /// operations of several callers wait in the write lane (write queue) of a shard.
    #[inline]
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// Returns the limits of each caller.
    #[inline]
    pub fn limits(&self) -> &RoleLimits {
        &self.limits
    }

    /// Returns true if some grant does not apply to all keys.
    pub fn is_bound(&self) -> bool {
        self.grants.iter().any(|grant| grant.keys != KeyRule::All)
    }

    /// Returns the separators that a tenant of this role must not contain.
    pub fn separators(&self) -> impl Iterator<Item = char> {
        self.grants.iter().filter_map(|grant| grant.keys.separator())
    }

    /// Returns true if the role has every right and no limit.
    pub fn is_all_powerful(&self) -> bool {
        let all = |grant: &Grant| {
            grant.tables == TableSet::All
                && grant.operations == RowOperations::ALL
                && grant.keys == KeyRule::All
                && grant.columns == ColumnSet::All
        };
        self.scopes == ScopeSet::ALL && self.limits.is_none() && self.grants.iter().any(all)
    }
}

/// Reason why a role is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{member} {fault}")]
pub struct RoleError {
    /// The member, such as `grants[1].keys`.
    pub member: String,
    /// Fault of the member.
    pub fault: RoleFault,
}

/// Fault of a member of a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoleFault {
    /// The JSON is malformed, or a member is unknown, missing, repeated or of another type.
    #[error("cannot be read: {0}")]
    Json(String),
    /// A required member is missing.
    #[error("is missing: give {hint}")]
    Missing {
        /// Description of the permitted values.
        hint: &'static str,
    },
    /// The name of a role is malformed.
    #[error(
        "must be a lower-case letter, then lower-case letters, digits, _ or -, at most {}",
        AccessRole::NAME_LEN_MAX
    )]
    RoleName,
    /// The role is built in and cannot be redefined.
    #[error("is a built-in role: choose another name")]
    Reserved,
    /// The name of a table or a column is malformed.
    #[error("must be a lower-case letter, then letters, digits or _, at most 40")]
    Name,
    /// A list contains `*` and names.
    #[error("must be [\"*\"] alone, or names without it")]
    WildcardAmongNames,
    /// `*` is given as the name of a column.
    #[error("must be names: leave `columns` out to grant all columns")]
    WildcardColumn,
    /// A list has no entries or too many entries.
    #[error("must have 1 to {max} entries, and has {count}")]
    Count {
        /// Number of entries.
        count: usize,
        /// Maximum number of entries.
        max: usize,
    },
    /// An entry occurs twice.
    #[error("comes twice: remove one")]
    Twice,
    /// An operation is unknown.
    #[error("is not an operation: use {}", RowOperations::NAMES)]
    Operation,
    /// A string is not a rule for keys.
    #[error(
        "must be \"*\", \"$tenant\", \"$tenant:*\" with a separator of your choice, or a list of keys"
    )]
    KeyPattern,
    /// A pattern has no separator between the tenant and the rest of the key.
    #[error(
        "needs a separator, as in \"$tenant:*\": without one, tenant acme reads the keys of acme2"
    )]
    NoSeparator,
    /// A separator is not one character of ASCII punctuation.
    #[error("must separate tenant and rest by one punctuation character other than * and $")]
    Separator,
    /// The value of `scatter` is unknown, or `scatter` is given although the keys of the grant do
    /// not begin with a tenant.
    #[error("must be \"filter\", beside keys that begin with a tenant, such as \"$tenant:*\"")]
    Scatter,
    /// A literal key is not a shard key.
    #[error("is not a shard key: {0}")]
    Key(String),
    /// A literal key looks like a pattern.
    #[error("is a pattern inside a list of literal keys: write it as the text of `keys` itself")]
    PatternAmongKeys,
    /// A scope is unknown.
    #[error("is not a scope: use {}", AccessScope::NAMES)]
    Scope,
    /// A role with a grant that is restricted to some keys has the scope `analytics`.
    #[error(
        "cannot include analytics: it names other callers' keys, and a grant of this role is bound to keys"
    )]
    AnalyticsOfBoundRole,
    /// A number is out of range.
    #[error("must be 1 to {max}")]
    Range {
        /// Maximum value.
        max: u64,
    },
    /// A burst is given without a rate.
    #[error("needs requests_per_s beside it")]
    BurstWithoutRate,
}
