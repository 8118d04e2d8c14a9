//! Rights: decide whether a caller may carry out a request.
//!
//! A single grant must allow the whole request, and the first grant that does so is used. If grants
//! were combined, a caller could read the columns of one grant in the rows of another.
//!
//! **Invariant:** rights never change; a change of a role creates new rights. A check of one table
//! and one key allocates no memory unless the request is denied. A denial never depends on stored
//! rows.
//! **Not here:** restricting a query to shard keys, which must be part of the query itself.

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

/// Part of a request: operations on the rows of one table, and all columns that they name.
#[derive(Clone, Copy, Debug)]
pub struct RowRequest<'q, C> {
    /// All operations of the request. A change with a filter also reads. If the set is empty, a
    /// grant of any operation on the table suffices.
    pub operations: RowOperations,
    /// Name of the table.
    pub table: &'q str,
    /// Names of the columns that are selected, filtered, sorted or written.
    pub columns: C,
}

/// Permission of a request, with the restrictions that apply to it.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'r> {
    /// Shard keys to which the request is restricted.
    pub binding: KeyBinding<'r>,
    /// Columns that a response to a request without `select` contains.
    pub columns: &'r ColumnSet,
    /// True if a read that is restricted to prefixes of keys and names no shard key may be sent to
    /// all shards.
    pub scatters: bool,
}

/// Name of a table, and the indices in the role of the grants that apply to it.
type TableGrants = (Box<str>, Box<[u8]>);

/// Role with an index of its grants by table.
#[derive(Debug)]
pub struct CompiledRole {
    role: AccessRole,
    /// Grants for each table that some grant names. The tables are sorted by name, the grants of
    /// each are in the order of the role.
    tables: Box<[TableGrants]>,
    /// Indices of the grants for all other tables.
    others: Box<[u8]>,
}

const _: () = assert!(AccessRole::GRANTS_MAX <= u8::MAX as usize, "a grant's index is a byte");

impl CompiledRole {
    /// Builds the index of a role.
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

    /// Returns the grants that apply to a table, in the order of the role.
    #[inline]
    fn grants(&self, table: &str) -> impl Iterator<Item = &Grant> + Clone {
        let found = self.tables.binary_search_by(|(name, _)| (**name).cmp(table));
        let indices = found.map_or(&self.others, |index| &self.tables[index].1);
        indices.iter().map(|index| &self.role.grants()[usize::from(*index)])
    }

    /// Returns true if a caller may see every column of a table: some grant of all these operations
    /// on the table permits all columns.
    pub fn shows_all_columns(&self, table: &str, operations: RowOperations) -> bool {
        let mut grants = self.grants(table).filter(|grant| grant.operations().contains(operations));
        grants.any(|grant| *grant.columns() == ColumnSet::All)
    }

    /// Returns true if some grant to read the table permits only some columns. A row that is read
    /// may then contain values that the caller may not see.
    pub fn hides_columns(&self, table: &str) -> bool {
        let may_read = |grant: &&Grant| grant.operations().contains(RowOperations::READ);
        self.grants(table).filter(may_read).any(|grant| *grant.columns() != ColumnSet::All)
    }

    /// Returns the grants that apply to every table.
    fn grants_of_all_tables(&self) -> impl Iterator<Item = &Grant> {
        self.others.iter().map(|index| &self.role.grants()[usize::from(*index)])
    }
}

/// Permissions of a caller: its role and its tenants, or no restrictions at all.
#[derive(Clone, Debug)]
pub struct Rights(Option<Bounds>);

/// Role and tenants that restrict a caller's rights.
#[derive(Clone, Debug)]
struct Bounds {
    role: Arc<CompiledRole>,
    tenants: Tenants,
    share: FairShare,
}

impl Rights {
    /// Unrestricted rights as a constant, for internal work that needs a reference to rights.
    pub const ALL: &Self = &Self::all();

    /// Returns unrestricted rights: they apply if a cluster has no access control, and to the
    /// system's own work. Checking them costs one branch.
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

    /// Returns the rights of a role for a caller with these tenants. If a tenant contains a
    /// separator of the role's key rules, the caller has no rights at all.
    pub fn of(role: Arc<CompiledRole>, tenants: Tenants) -> Self {
        if tenants.check_separators(role.role().separators()).is_err() {
            return Self::none();
        }
        Self(Some(Bounds { role, tenants, share: FairShare::COMMON }))
    }

    /// Returns these rights with a number that identifies the caller's tenants in the queues of the
    /// shards. Operations with the same number wait in a queue of their own, which is served with
    /// the weight of the role. [`Rights::all`] keep the common share, which has no such number.
    #[must_use]
    pub fn with_number(mut self, number: u64) -> Self {
        if let Some(bounds) = &mut self.0 {
            bounds.share = FairShare::new(number, bounds.role.role().weight());
        }
        self
    }

    /// Returns the number and weight by which the caller's operations are served while those of
    /// several tenants wait.
    #[inline]
    pub fn share(&self) -> FairShare {
        self.0.as_ref().map_or(FairShare::COMMON, |bounds| bounds.share)
    }

    /// Returns true if these rights are unrestricted.
    #[inline]
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the role; `None` for [`Rights::all`].
    #[inline]
    pub fn role(&self) -> Option<&CompiledRole> {
        self.0.as_ref().map(|bounds| &*bounds.role)
    }

    /// Returns the tenants; an empty list for [`Rights::all`].
    pub fn tenants(&self) -> &[Box<str>] {
        self.0.as_ref().map_or(&[], |bounds| bounds.tenants.as_slice())
    }

    /// Checks that a request about one shard key, by which it is routed, is allowed.
    ///
    /// # Errors
    /// [`Denied`] names the part of the request that is not allowed.
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

    /// Checks that a request that is not routed by one key is allowed. The calling function must
    /// restrict the request to the keys of the returned binding. For a caller without tenants these
    /// may be no keys at all; the request then finds no rows.
    ///
    /// # Errors
    /// [`Denied`] names the part of the request that is not allowed.
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

    /// Checks that a request that is not about rows is allowed.
    ///
    /// # Errors
    /// [`Denied`] names the missing scope.
    #[inline]
    pub fn allow_scope(&self, scope: AccessScope) -> Result<(), Denied> {
        match &self.0 {
            None => Ok(()),
            Some(Bounds { role, .. }) if role.role().scopes().has(scope) => Ok(()),
            Some(_) => Err(Denied::Scope(scope)),
        }
    }

    /// Returns the reach of the caller: the tables, columns and keys whose existence it may know.
    #[inline]
    pub fn reach(&self) -> Reach<'_> {
        Reach(self.0.as_ref())
    }

    /// Returns true if some grant of the role does not apply to all keys.
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

/// Returns the reason why a request is denied. It depends only on the role and the request, not on
/// the tenants of the caller.
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
    /// No single grant allows the operations on rows.
    #[error("this caller may not {operations} these rows of {table}: {lack}")]
    Rows {
        /// All operations of the request.
        operations: RowOperations,
        /// The table.
        table: Box<str>,
        /// Part of the request that is not allowed.
        lack: RowLack,
    },
    /// A scope is missing.
    #[error("this caller's role does not have the scope {}", .0.name())]
    Scope(AccessScope),
}

/// Part of a request that no grant allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowLack {
    /// No grant applies to the table. For this caller, the table does not exist.
    #[error("no grant is for this table")]
    Table,
    /// No grant for the table allows these operations.
    #[error("no grant of this table allows {0}")]
    Operations(RowOperations),
    /// No grant of the operations permits this column. For this caller, the column does not exist.
    #[error("no grant has the column {0}")]
    Column(Box<str>),
    /// Several grants together would allow the request, but no single grant does.
    #[error("several grants allow it only together, and one alone must allow all of it")]
    OneGrant,
    /// The caller's grants do not admit the shard key.
    #[error("the shard key is not one of this caller's")]
    Key,
}

impl RowLack {
    /// Returns the name of this part, as used in responses and counters.
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
