//! Coverage: the check that a caller who creates a key or a role (the giver) does not give rights
//! that it lacks itself.
//!
//! **Invariant:** if the rights of the giver cover a role, they allow every request that the role
//! allows. The converse does not hold: a role is also refused if a grant of it is covered only by
//! several grants of the giver together.
//! **Not here:** the check of the scope `keys`, which the giver also needs. Every change that can
//! extend the rights of credentials needs the check of coverage: creating, rotating or resuming a
//! key, defining a role, and removing a denial. A key must not be created for a role that does not
//! exist, because the role might be defined later with any rights.

use super::{Bounds, Rights};
use crate::grant::{Grant, KeyBinding, TableSet};
use crate::role::AccessRole;
use crate::scope::AccessScope;
use crate::tenant::Tenants;

/// Part of a role that exceeds the rights of the giver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// The giver lacks a scope.
    #[error("it has the scope {}, which you do not have", .0.name())]
    Scope(AccessScope),
    /// No single grant of the giver allows everything that the grant with this index in the role
    /// allows.
    #[error("grants[{0}] allows more than any one grant of yours")]
    Grant(usize),
    /// A limit of the role is higher than that of the giver, or not set although the giver has one.
    #[error("its limits are higher than yours")]
    RoleLimits,
    /// The weight is higher than the giver's.
    #[error("its weight is higher than yours")]
    Weight,
}

impl Rights {
    /// Checks that these rights cover a role for a caller with these tenants. If `tenants` is
    /// `None`, they must cover the role for every tenant: this is needed to define a role, which
    /// can then be given to any tenant.
    ///
    /// # Errors
    /// [`Excess`] names the first part of the role that exceeds these rights.
    pub fn covers(&self, role: &AccessRole, tenants: Option<&Tenants>) -> Result<(), Excess> {
        let Some(bounds) = &self.0 else { return Ok(()) };
        let own = bounds.role.role();
        if own.is_all_powerful() {
            return Ok(());
        }
        let has = own.scopes();
        if let Some(scope) = role.scopes().iter().find(|scope| !has.has(*scope)) {
            return Err(Excess::Scope(scope));
        }
        let is_covered = |grant: &Grant| covers_grant(bounds, grant, tenants);
        if let Some(index) = role.grants().iter().position(|grant| !is_covered(grant)) {
            return Err(Excess::Grant(index));
        }
        if !own.limits().covers(role.limits()) {
            return Err(Excess::RoleLimits);
        }
        if own.weight() < role.weight() {
            return Err(Excess::Weight);
        }
        Ok(())
    }
}

/// Returns true if, for each table of the grant `given`, a single grant of the giver covers
/// `given`.
fn covers_grant(own: &Bounds, given: &Grant, tenants: Option<&Tenants>) -> bool {
    let covers = |grant: &Grant| {
        let binding = grant.keys().binding(&own.tenants);
        grant.operations().contains(given.operations())
            && grant.columns().covers(given.columns())
            && (grant.scatters() || !given.scatters() || !binding.is_bound())
            && covers_keys(binding, given, tenants)
    };
    match given.tables() {
        TableSet::All => own.role.grants_of_all_tables().any(covers),
        TableSet::Named(names) => names.iter().all(|table| own.role.grants(table).any(covers)),
    }
}

fn covers_keys(binding: KeyBinding<'_>, given: &Grant, tenants: Option<&Tenants>) -> bool {
    match tenants {
        Some(tenants) => binding.covers(&given.keys().binding(tenants)),
        None if given.keys().depends_on_tenants() => !binding.is_bound(),
        None => binding.covers(&given.keys().binding(&Tenants::none())),
    }
}
