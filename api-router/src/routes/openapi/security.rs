//! Security: adds to the document the credentials that the API accepts, the right that each
//! operation needs, and the refusals of access control.
//!
//! **Not here:** the table of rights (`access::scopes`).

use actix_web::http::Method;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::AnyOfBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::access::scopes::{ROWS, RouteNeed, find};
use crate::routes::health::{HealthAnswer, HealthStatus};

/// Routes whose response contains details for some callers only.
const HEALTH: [&str; 3] = ["/api/health", "/health", "/healthz"];
/// Name of the security scheme.
const BEARER: &str = "bearer";

/// Declares that API keys and tokens are sent as bearer credentials.
pub(super) fn declare_schemes(api: &mut OpenApi) {
    let about = "An API key (tsr_…) or a JWT of one of the configured issuers";
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(about)).build();
    let components = api.components.get_or_insert_default();
    components.add_security_scheme(BEARER, SecurityScheme::Http(scheme));
}

/// Declares that health responses contain no details for callers without the scope `analytics`.
pub(super) fn declare_health(api: &mut OpenApi) {
    let components = api.components.get_or_insert_default();
    components.schemas.insert(HealthStatus::name().into_owned(), HealthStatus::schema());
    let named = |name: &str| {
        RefOr::T(Schema::AnyOf(
            AnyOfBuilder::new()
                .item(Ref::from_schema_name(name))
                .item(Ref::from_schema_name(HealthStatus::name()))
                .build(),
        ))
    };
    for path in HEALTH {
        let operation = api.paths.paths.get_mut(path).and_then(|item| item.get.as_mut());
        let responses = operation.into_iter().flat_map(|one| one.responses.responses.values_mut());
        for response in responses {
            let RefOr::T(response) = response else { continue };
            if let Some(content) = response.content.get_mut("application/json") {
                let schema = Some(named(&HealthAnswer::name()));
                *content = RefOr::T(ContentBuilder::new().schema(schema).build());
            }
        }
    }
}

/// Declares the right that an operation needs, and the refusals of access control.
pub(super) fn declare(operation: &mut Operation, path: &str, method: &Method) {
    let Some(row) = find(path, method) else { return };
    let (needs, mut security) = match ROWS[row].need {
        RouteNeed::Open => ("Needs no right.".to_owned(), vec![SecurityRequirement::default()]),
        RouteNeed::Rows => ("Needs a grant on the table.".to_owned(), Vec::new()),
        RouteNeed::Scope(scope) => (format!("Needs the scope `{}`.", scope.name()), Vec::new()),
    };
    security.push(SecurityRequirement::new(BEARER, Vec::<String>::new()));
    operation.security = Some(security);
    let about = operation.description.take();
    operation.description =
        Some(about.map_or_else(|| needs.clone(), |about| format!("{about}\n\n{needs}")));
    for (status, about) in [
        ("401", "The credentials are not valid, or some are needed; see WWW-Authenticate."),
        ("403", "The caller may not do this, or the request comes from a foreign web page."),
        ("429", "Too many credentials from this address were not valid; see Retry-After."),
        ("503", "The rights of the caller cannot be known now; see Retry-After."),
    ] {
        let known = operation.responses.responses.entry(status.to_owned());
        let response = known.or_insert_with(|| RefOr::T(problem(about)));
        if let (RefOr::T(response), "403") = (response, status) {
            about.clone_into(&mut response.description);
        }
    }
}

fn problem(about: &str) -> Response {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(about).content("application/problem+json", body).build()
}
