//! Rights: the decision whether a caller may do something.
//!
//! Exactly one grant must allow all of a request: the first that can. If grants were combined, the
//! columns of one could be read in the rows of another.
//!
//! **Invariant:** rights never change; a change of a role makes new ones. A check of one table and
//! one key allocates nothing unless it is denied. A denial never depends on stored rows.
//! **Not here:** the binding of a query to shard keys, which must be part of the query itself.

mod coverage;
mod reach;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use model::fair_share::FairShare;
use model::keyspace::ShardKey;

pub use coverage::Excess;
pub use reach::Reach;

use crate::grant::{ColumnSet, Grant, KeyBinding, TableSet};
use crate::operation::RowOperations;
use crate::role::AccessRole;
use crate::scope::AccessScope;
use crate::tenant::Tenants;

/// Part of a request: operations on the rows of a table, and all columns that it names in them.
#[derive(Clone, Copy, Debug)]
pub struct RowRequest<'q, C> {
    /// All operations of the request. A change with a filter also reads. Without an operation, a
    /// grant of any operation on the table allows the request.
    pub operations: RowOperations,
    /// Name of the table.
    pub table: &'q str,
    /// Names of the columns that are selected, filtered, sorted or written.
    pub columns: C,
}

/// Permission of a request, with its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'r> {
    /// Shard keys to which the request is bound.
    pub binding: KeyBinding<'r>,
    /// Columns that a response without `select` has.
    pub columns: &'r ColumnSet,
    /// True if a read that is bound to prefixes and names no shard key may go to all shards.
    pub scatters: bool,
}

/// Name of a table, and the indices of its grants in the role.
type TableGrants = (Box<str>, Box<[u8]>);

/// Role whose grants are found by table.
#[derive(Debug)]
pub struct CompiledRole {
    role: AccessRole,
    /// Grants of each table that some grant names, in the order of the role.
    tables: Box<[TableGrants]>,
    /// Grants of the other tables.
    others: Box<[u8]>,
}

const _: () = assert!(AccessRole::GRANTS_MAX <= u8::MAX as usize, "a grant's index is a byte");

impl CompiledRole {
    /// Compiles a role.
    pub fn new(role: AccessRole) -> Self {
        let indexed = || role.grants().iter().zip(0_u8..);
        let named = role.grants().iter().filter_map(|grant| match grant.tables() {
            TableSet::All => None,
            TableSet::Named(names) => Some(names),
        });
        let of_table = |table: &str| {
            let grants = indexed().filter(|(grant, _)| grant.tables().contains(table));
            grants.map(|(_, index)| index).collect()
        };
        let tables: BTreeSet<&str> =
            named.flat_map(|names| names.iter()).map(|name| &**name).collect();
        let tables = tables.into_iter().map(|name| (name.into(), of_table(name))).collect();
        let of_all = indexed().filter(|(grant, _)| *grant.tables() == TableSet::All);
        let others = of_all.map(|(_, index)| index).collect();
        Self { role, tables, others }
    }

    /// Returns the role.
    #[inline]
    pub fn role(&self) -> &AccessRole {
        &self.role
    }

    /// Returns the grants of a table, in the order of the role.
    #[inline]
    fn grants(&self, table: &str) -> impl Iterator<Item = &Grant> + Clone {
        let found = self.tables.binary_search_by(|(name, _)| (**name).cmp(table));
        let indices = found.map_or(&self.others, |index| &self.tables[index].1);
        indices.iter().map(|index| &self.role.grants()[usize::from(*index)])
    }

    /// Returns true if a caller may know every column of a table: one grant with all these
    /// operations has them all.
    pub fn shows_all_columns(&self, table: &str, operations: RowOperations) -> bool {
        let mut grants = self.grants(table).filter(|grant| grant.operations().contains(operations));
        grants.any(|grant| *grant.columns() == ColumnSet::All)
    }

    /// Returns true if some grant to read the table leaves out columns. Then a row that is read may
    /// have values that the caller may not know.
    pub fn hides_columns(&self, table: &str) -> bool {
        let may_read = |grant: &&Grant| grant.operations().contains(RowOperations::READ);
        self.grants(table).filter(may_read).any(|grant| *grant.columns() != ColumnSet::All)
    }

    /// Returns the grants of every table.
    fn grants_of_all_tables(&self) -> impl Iterator<Item = &Grant> {
        self.others.iter().map(|index| &self.role.grants()[usize::from(*index)])
    }
}

/// All that a caller may do.
#[derive(Clone, Debug)]
pub struct Rights(Option<Bounds>);

/// Bounds of a caller's rights.
#[derive(Clone, Debug)]
struct Bounds {
    role: Arc<CompiledRole>,
    tenants: Tenants,
    share: FairShare,
}

impl Rights {
    /// Rights without bounds, for work of the system that borrows them.
    pub const ALL: &Self = &Self::all();

    /// Returns rights without bounds: those of a cluster without access control, and of the
    /// system's own work. A check of them costs one branch.
    #[inline]
    pub const fn all() -> Self {
        Self(None)
    }

    /// Returns rights that allow nothing.
    pub fn none() -> Self {
        static NOTHING: OnceLock<Arc<CompiledRole>> = OnceLock::new();
        let role = NOTHING.get_or_init(|| {
            let [.., anonymous] = AccessRole::built_in();
            Arc::new(CompiledRole::new(anonymous))
        });
        Self::of(Arc::clone(role), Tenants::none())
    }

    /// Returns the rights of a role for a caller with these tenants. A tenant that contains a
    /// separator of the role leaves no rights.
    pub fn of(role: Arc<CompiledRole>, tenants: Tenants) -> Self {
        if tenants.check_separators(role.role().separators()).is_err() {
            return Self::none();
        }
        Self(Some(Bounds { role, tenants, share: FairShare::COMMON }))
    }

    /// Returns these rights with the number of a tenant, whose operations wait in a queue of their
    /// own, with the weight of the role. [`Rights::all`] get no number.
    #[must_use]
    pub fn with_number(mut self, number: u64) -> Self {
        if let Some(bounds) = &mut self.0 {
            bounds.share = FairShare::new(number, bounds.role.role().weight());
        }
        self
    }

    /// Returns the share of the caller's operations while those of several tenants wait.
    #[inline]
    pub fn share(&self) -> FairShare {
        self.0.as_ref().map_or(FairShare::COMMON, |bounds| bounds.share)
    }

    /// Returns true if nothing bounds these rights.
    #[inline]
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the role; `None` for [`Rights::all`].
    #[inline]
    pub fn role(&self) -> Option<&CompiledRole> {
        self.0.as_ref().map(|bounds| &*bounds.role)
    }

    /// Returns the tenants, of which there are none for [`Rights::all`].
    pub fn tenants(&self) -> &[Box<str>] {
        self.0.as_ref().map_or(&[], |bounds| bounds.tenants.as_slice())
    }

    /// Allows a request about one shard key: the key by which it is routed.
    ///
    /// # Errors
    /// [`Denied`] names the missing part.
    #[inline]
    pub fn allow_key<'q, C>(
        &self,
        request: &RowRequest<'q, C>,
        key: ShardKey<'_>,
    ) -> Result<Allowed<'_>, Denied>
    where
        C: Iterator<Item = &'q str> + Clone,
    {
        self.allow_if(request, |binding| binding.admits(key.as_str()))
    }

    /// Allows a request that is not routed by one key. The request must then be bound to the keys
    /// that are returned. A caller without tenants may be bound to none, and then finds no rows.
    ///
    /// # Errors
    /// [`Denied`] names the missing part.
    #[inline]
    pub fn allow_bound<'q, C>(&self, request: &RowRequest<'q, C>) -> Result<Allowed<'_>, Denied>
    where
        C: Iterator<Item = &'q str> + Clone,
    {
        self.allow_if(request, |_| true)
    }

    fn allow_if<'q, C>(
        &self,
        request: &RowRequest<'q, C>,
        admits: impl Fn(KeyBinding<'_>) -> bool,
    ) -> Result<Allowed<'_>, Denied>
    where
        C: Iterator<Item = &'q str> + Clone,
    {
        let Some(Bounds { role, tenants, .. }) = &self.0 else {
            let (binding, columns) = (KeyBinding::All, &ColumnSet::All);
            return Ok(Allowed { binding, columns, scatters: false });
        };
        for grant in role.grants(request.table) {
            let binding = grant.keys().binding(tenants);
            let can = grant.operations().contains(request.operations)
                && has_all(grant.columns(), request.columns.clone())
                && admits(binding);
            if can {
                let (columns, scatters) = (grant.columns(), grant.scatters());
                return Ok(Allowed { binding, columns, scatters });
            }
        }
        Err(explain(role, request))
    }

    /// Allows a request that is not about rows.
    ///
    /// # Errors
    /// [`Denied`] names the scope.
    #[inline]
    pub fn allow_scope(&self, scope: AccessScope) -> Result<(), Denied> {
        match &self.0 {
            None => Ok(()),
            Some(Bounds { role, .. }) if role.role().scopes().has(scope) => Ok(()),
            Some(_) => Err(Denied::Scope(scope)),
        }
    }

    /// Returns the tables, columns and keys that the caller may know of.
    #[inline]
    pub fn reach(&self) -> Reach<'_> {
        Reach(self.0.as_ref())
    }

    /// Returns true if some grant of the role is not for all keys.
    pub fn is_bound(&self) -> bool {
        self.0.as_ref().is_some_and(|bounds| bounds.role.role().is_bound())
    }
}

#[inline]
fn has_all<'q>(columns: &ColumnSet, mut named: impl Iterator<Item = &'q str>) -> bool {
    match columns {
        ColumnSet::All => true,
        ColumnSet::Named(_) => named.all(|column| columns.contains(column)),
    }
}

/// Returns the reason why a request is denied, which depends on its role only.
#[cold]
fn explain<'q, C>(role: &CompiledRole, request: &RowRequest<'q, C>) -> Denied
where
    C: Iterator<Item = &'q str> + Clone,
{
    let operations = request.operations;
    let denied = |lack| Denied::Rows { operations, table: request.table.into(), lack };
    let grants = role.grants(request.table);
    if grants.clone().next().is_none() {
        return denied(RowLack::Table);
    }
    let granted = |all: RowOperations, grant: &Grant| all.union(grant.operations());
    let missing = operations.without(grants.clone().fold(RowOperations::NONE, granted));
    if !missing.is_empty() {
        return denied(RowLack::Operations(missing));
    }
    let able = grants.filter(|grant| grant.operations().contains(operations));
    let hidden = |column: &&str| able.clone().all(|grant| !grant.columns().contains(column));
    if able.clone().next().is_none() {
        return denied(RowLack::OneGrant);
    }
    if let Some(column) = request.columns.clone().find(hidden) {
        return denied(RowLack::Column(column.into()));
    }
    let mut whole = able.filter(|grant| has_all(grant.columns(), request.columns.clone()));
    denied(if whole.next().is_none() { RowLack::OneGrant } else { RowLack::Key })
}

/// Denial of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No grant allows an operation on rows.
    #[error("this caller may not {operations} these rows of {table}: {lack}")]
    Rows {
        /// All operations of the request.
        operations: RowOperations,
        /// The table.
        table: Box<str>,
        /// Missing part.
        lack: RowLack,
    },
    /// A scope is missing.
    #[error("this caller's role does not have the scope {}", .0.name())]
    Scope(AccessScope),
}

/// Part of a request that no grant allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowLack {
    /// No grant is for the table: to this caller it does not exist.
    #[error("no grant is for this table")]
    Table,
    /// No grant of the table has these operations.
    #[error("no grant of this table allows {0}")]
    Operations(RowOperations),
    /// No grant with the operations has this column: to this caller it does not exist.
    #[error("no grant has the column {0}")]
    Column(Box<str>),
    /// Several grants allow the request only together.
    #[error("several grants allow it only together, and one alone must allow all of it")]
    OneGrant,
    /// The shard key is not one of the caller's.
    #[error("the shard key is not one of this caller's")]
    Key,
}

impl RowLack {
    /// Returns the name of the missing part, for responses and counters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Operations(_) => "operation",
            Self::Column(_) => "column",
            Self::OneGrant => "one_grant",
            Self::Key => "key",
        }
    }
}
