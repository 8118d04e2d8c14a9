//! Documented paths: the paths and methods of the OpenAPI document.
//!
//! **Not here:** the work of a route (`routes`), the routes about rows (`data_route`).

use utoipa::openapi::OpenApi;
use utoipa::openapi::path::Operation;

use crate::data_route::{KV, KV_PREFIX};

/// Path of the OpenAPI document.
pub const DOCUMENT: &str = "/api-docs/openapi.json";
/// Prefix of the paths of Swagger UI, which shows the document.
pub const PAGES: &str = "/swagger-ui/";

/// Returns true if a path, as routing decodes it, matches a template. A parameter such as `{name}`
/// matches one segment; only the key of [`KV`] matches the whole rest of the path.
pub fn fits(template: &str, path: &str) -> bool {
    if template == path {
        return true;
    }
    if template == KV {
        return path.starts_with(KV_PREFIX);
    }
    template.contains('{')
        && template.split('/').count() == path.split('/').count()
        && template
            .split('/')
            .zip(path.split('/'))
            .all(|(a, b)| a == b || (a.starts_with('{') && !b.is_empty()))
}

/// Returns true if a path, as routing decodes it, matches the template without its last segment.
pub fn is_below(template: &str, path: &str) -> bool {
    template.rsplit_once('/').is_some_and(|(above, _)| fits(above, path))
}

/// Returns the methods of a path according to the OpenAPI document.
pub fn methods(api: &OpenApi, path: &str) -> Vec<&'static str> {
    if path == DOCUMENT || path.starts_with(PAGES) {
        return vec!["GET", "HEAD"];
    }
    let Some((_, item)) = api.paths.paths.iter().find(|(template, _)| fits(template, path)) else {
        return Vec::new();
    };
    let known: [(&Option<Operation>, &[&str]); 5] = [
        (&item.get, &["GET", "HEAD"]),
        (&item.post, &["POST"]),
        (&item.put, &["PUT"]),
        (&item.patch, &["PATCH"]),
        (&item.delete, &["DELETE"]),
    ];
    known
        .into_iter()
        .filter(|(operation, _)| operation.is_some())
        .flat_map(|(_, names)| names)
        .copied()
        .collect()
}
