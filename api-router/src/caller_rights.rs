//! Caller rights: the rights with which a request reads and writes rows. The caller of a request is
//! its client, as access control has identified it.
//!
//! **Invariant:** the rights of a request do not change while it is carried out, unless a caller is
//! attached to the request again.
//! **Not here:** the check of credentials, the decision about a request (`access`).

use std::ops::Deref;
use std::sync::Arc;

use shard_manager::access::caller::Caller;
use shard_manager::access::rights::Rights;

/// Rights of the caller of a request. A clone is cheap, and may be moved to another thread.
#[derive(Clone, Debug)]
pub struct CallerRights(Option<Arc<Caller>>);

impl CallerRights {
    /// Returns unlimited rights, which every request has while access control is off.
    #[inline]
    pub const fn all() -> Self {
        Self(None)
    }

    /// Returns the rights of a caller.
    #[inline]
    pub const fn of(caller: Arc<Caller>) -> Self {
        Self(Some(caller))
    }
}

impl Deref for CallerRights {
    type Target = Rights;

    #[inline]
    fn deref(&self) -> &Rights {
        self.0.as_ref().map_or(Rights::ALL, |caller| &caller.rights)
    }
}

#[cfg(test)]
mod tests {
    use shard_manager::access::caller::Principal;

    use super::*;

    #[test]
    fn a_request_has_the_rights_of_its_caller() {
        assert!(CallerRights::all().is_all());
        let caller = Caller {
            principal: Principal::Anonymous,
            role: "anonymous".into(),
            rights: Rights::none(),
            weight: 1,
            limits: None,
            expires_at: None,
        };
        let rights = CallerRights::of(Arc::new(caller));
        assert!(!rights.is_all() && !rights.clone().reach().has_table("users"));
    }
}
