//! Browser policy: limits on the use that a browser may make of a response.
//!
//! **Invariant:** no page can embed a response in a frame; a response that is not a page can load
//! and run nothing.
//! **Not here:** which pages may send requests (`analytics::cross_origin`).

use actix_web::http::header::{
    CONTENT_SECURITY_POLICY, HeaderMap, HeaderValue, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

/// Kind of a response, as far as it matters to a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseKind {
    /// Rows, which are never an HTML page.
    Rows,
    /// A file of Swagger UI.
    Documents,
    /// Any other response; a page sets its own policy.
    Other,
}

/// Content security policy of a response that does not set one itself.
const NOTHING: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
/// Content security policy of Swagger UI. It allows the files of Swagger UI, images embedded in its
/// style sheet, the one style that its script adds (identified by its SHA-256), and requests to
/// this router.
const DOCUMENTS: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; \
     style-src 'self' 'sha256-RL3ie0nH+Lzz2YNqQN83mnU0J1ot4QL7b99vMdIX99w='; connect-src 'self'; img-src 'self' data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Sets the headers that limit browsers.
pub fn limit_browser(headers: &mut HeaderMap, kind: ResponseKind) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    let policy = match kind {
        ResponseKind::Rows => return,
        ResponseKind::Documents => DOCUMENTS,
        ResponseKind::Other if headers.contains_key(CONTENT_SECURITY_POLICY) => return,
        ResponseKind::Other => NOTHING,
    };
    headers.insert(CONTENT_SECURITY_POLICY, policy);
}
