//! Checks: decide whether a role would allow a request, and by which grant, without carrying out
//! the request.
//!
//! **Invariant:** a check calls the same function that decides about real requests, so that its
//! result cannot differ from theirs.
//! **Not here:** the right to run a check, which is the scope `keys`.

mod document;

use std::sync::Arc;

use model::keyspace::ShardKey;

use crate::grant::{ColumnSet, Grant, KeyRule};
use crate::json_member::MemberError;
use crate::operation::RowOperations;
use crate::rights::{Allowed, CompiledRole, Denied, Rights, RowRequest};
use crate::role::AccessRole;
use crate::tenant::{TenantError, Tenants};

/// Hypothetical request whose permission is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckRequest {
    role: Box<str>,
    tenants: Tenants,
    operations: RowOperations,
    table: Box<str>,
    key: Option<Box<str>>,
    columns: Vec<Box<str>>,
}

impl CheckRequest {
    /// Maximum number of columns.
    pub const COLUMNS_MAX: usize = 256;

    /// Parses JSON such as
    /// `{"role":"shop","tenant":"acme","operation":"read","table":"users","key":"acme:1"}`. The
    /// tenant may be a list of strings. `tenant`, `key` and `columns` may be left out.
    ///
    /// # Errors
    /// [`MemberError`] names the faulty member and states how to correct it.
    pub fn parse(json: &str) -> Result<Self, MemberError> {
        document::parse(json)
    }

    /// Returns the name of the role.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Returns the decision on the request. `role` must be the role that the request names; `None`
    /// stands for a role that does not exist.
    pub fn decide(&self, role: Option<&Arc<CompiledRole>>) -> CheckAnswer {
        let Some(role) = role else { return CheckAnswer::NoRole };
        if let Err(error) = self.tenants.check_separators(role.role().separators()) {
            return CheckAnswer::Tenant(error);
        }
        let rights = Rights::of(Arc::clone(role), self.tenants.clone());
        let columns = self.columns.iter().map(|column| &**column);
        let request = RowRequest { operations: self.operations, table: &self.table, columns };
        let key = self.key.as_deref().map(|key| {
            ShardKey::parse(key).expect("the key was checked when the request was read")
        });
        let allowed = match key {
            Some(key) => rights.allow_key(&request, key),
            None => rights.allow_bound(&request),
        };
        match allowed {
            Ok(allowed) => CheckAnswer::allowed(role.role(), &allowed),
            Err(denied) => CheckAnswer::Denied(denied),
        }
    }
}

/// Result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckAnswer {
    /// A grant allows the request.
    Allowed {
        /// Index in the role of the grant that allows the request.
        grant: usize,
        /// Key rule of the grant. A request without a shard key is restricted to the keys of this
        /// rule.
        keys: KeyRule,
        /// Columns that the caller may see. A response without `select` contains exactly these.
        columns: ColumnSet,
    },
    /// No grant allows the request.
    Denied(Denied),
    /// A tenant contains a separator of the role's key rules, so the role gives no rights.
    Tenant(TenantError),
    /// No role with this name exists, so its callers have no rights.
    NoRole,
}

impl CheckAnswer {
    fn allowed(role: &AccessRole, allowed: &Allowed<'_>) -> Self {
        let is_it = |grant: &Grant| std::ptr::eq(grant.columns(), allowed.columns);
        let index = role.grants().iter().position(is_it);
        let index = index.expect("what allows a request is a grant of the role");
        let grant = &role.grants()[index];
        Self::Allowed { grant: index, keys: grant.keys().clone(), columns: grant.columns().clone() }
    }

    /// Returns JSON such as `{"allowed":true,"grant":0,"keys":"$tenant:*","columns":["name"]}` or
    /// `{"allowed":false,"lacks":"key","detail":"the shard key is not one of this caller's"}`. For
    /// a grant of all columns, `columns` is `"*"`.
    pub fn to_json(&self) -> String {
        document::format(self)
    }
}
