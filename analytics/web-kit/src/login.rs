//! Login: the bodies with which a browser exchanges an API key for a cookie.
//!
//! **Invariant:** the key is sent in the body, which neither logs nor browser histories keep.
//! **Not here:** the check of the key, the cookie (the programs that serve `/api/session`).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An API key, which a browser exchanges for a cookie.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// The key.
    #[schema(example = "tsr_…")]
    pub key: String,
}

impl std::fmt::Debug for LoginRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LoginRequest(***)")
    }
}

/// The session of a browser.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionAnswer {
    /// Always true.
    pub success: bool,
    /// Id of the key.
    #[schema(example = "4fKq0ZxY81Ab")]
    pub id: String,
    /// Name of its role.
    pub role: String,
    /// Time at which the session ends: RFC 3339.
    pub expires_at: String,
}
