//! Coverage: the check that a caller gives no right that it does not have.
//!
//! **Invariant:** if rights cover a role, every request that the role allows is allowed to the
//! giver. The opposite need not hold: a role that only several grants of the giver cover together
//! is refused.
//! **Not here:** the scope `keys`, which the giver needs, too. Each act after which credentials can
//! do more needs this check: making, rotating and resuming a key, defining a role, and removing a
//! denial. A key of a role that does not exist must not be made: the role might be defined later.

use super::{Bounds, Rights};
use crate::grant::{Grant, KeyBinding, TableSet};
use crate::role::AccessRole;
use crate::scope::AccessScope;
use crate::tenant::Tenants;

/// Part of a role that exceeds the rights of its giver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// The giver lacks a scope.
    #[error("it has the scope {}, which you do not have", .0.name())]
    Scope(AccessScope),
    /// No grant of the giver allows all that this grant of the role does.
    #[error("grants[{0}] allows more than any one grant of yours")]
    Grant(usize),
    /// A limit is higher than the giver's, or missing.
    #[error("its limits are higher than yours")]
    RoleLimits,
    /// The weight is higher than the giver's.
    #[error("its weight is higher than yours")]
    Weight,
}

impl Rights {
    /// Checks that these rights cover a role with these tenants. If `tenants` is `None`, the role
    /// must be covered for all tenants, because a defined role can be given to every tenant.
    ///
    /// # Errors
    /// [`Excess`] names the first part that exceeds.
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

/// Returns true if for each table of the grant some grant of the giver covers it.
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
