//! Caller rights: the rights with which a request reads and writes rows.
//!
//! **Invariant:** the rights of a request do not change while it is carried out, unless its caller
//! is attached again.
//! **Not here:** the check of credentials, the decision about a request (`access`).

use std::ops::Deref;
use std::sync::Arc;

use actix_web::HttpMessage;
use shard_manager::access::caller::Caller;
use shard_manager::access::rights::Rights;

/// Rights of the caller of a request. A clone is cheap, and may be moved to another thread.
#[derive(Clone, Debug)]
pub struct CallerRights(Option<Arc<Caller>>);

impl CallerRights {
    /// Returns the rights of the caller that is attached to a request; all rights if there is none.
    pub fn of(request: &impl HttpMessage) -> Self {
        Self(request.extensions().get::<Arc<Caller>>().cloned())
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
    use actix_web::test::TestRequest;
    use shard_manager::access::caller::Principal;

    use super::*;

    #[test]
    fn a_request_has_the_rights_of_its_caller() {
        let request = TestRequest::default().to_http_request();
        assert!(CallerRights::of(&request).is_all());
        let caller = Caller {
            principal: Principal::Anonymous,
            role: "anonymous".into(),
            rights: Rights::none(),
            weight: 1,
            limits: None,
            expires_at: None,
        };
        request.extensions_mut().insert(Arc::new(caller));
        let rights = CallerRights::of(&request);
        assert!(!rights.is_all() && !rights.clone().sees_table("users"));
    }
}
