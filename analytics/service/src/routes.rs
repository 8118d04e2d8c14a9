//! Routes: the list of all routes of the service. The OpenAPI document is made from the same list.

mod alerts;
mod cluster;
mod figures;
mod pages;
mod session;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Info, License, OpenApi};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::gate::LOGIN;
use crate::problem::{Code, Problem};

/// Registers every route. The route of the login is registered only if there is access control.
pub(crate) fn configure(surface: &mut ServiceConfig<'_>, has_access: bool) {
    surface
        .service(figures::read_metrics)
        .service(figures::stream_metrics)
        .service(figures::list_errors)
        .service(alerts::list_alerts)
        .service(cluster::route_key)
        .service(cluster::shard_map)
        .service(cluster::list_groups)
        .service(cluster::list_shards)
        .service(cluster::advice)
        .service(cluster::list_moves)
        .service(cluster::list_rebalances)
        .service(cluster::find_rebalance)
        .service(cluster::health)
        .service(pages::live)
        .service(pages::ready)
        .service(pages::home)
        .service(pages::show_metrics)
        .service(pages::show_dashboard)
        .service(pages::show_file)
        .service(pages::explain_code)
        .service(pages::show_document);
    if has_access {
        surface.service(session::begin_session).service(session::end_session);
    }
}

/// Completes the OpenAPI document of the routes.
pub(crate) fn describe(api: &mut OpenApi, has_access: bool) {
    let mut info = Info::new("Tessera analytics", env!("CARGO_PKG_VERSION"));
    info.description = Some("The figures of any number of Tessera's routers, together.".to_owned());
    info.license = Some(License::new(env!("CARGO_PKG_LICENSE")));
    api.info = info;
    if has_access {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        let scheme = scheme.description(Some("An API key (tsr_…)")).build();
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
        // The empty requirement stands for pages and probes, which need no credentials.
        let none = SecurityRequirement::default();
        api.security = Some(vec![none, SecurityRequirement::new("bearer", Vec::<String>::new())]);
    }
}

/// Answers a request for an unknown path, or with a method that the path does not have.
pub(crate) async fn nothing_here(
    request: HttpRequest,
    api: Data<OpenApi>,
) -> Result<HttpResponse, Problem> {
    let path = request.match_info().as_str();
    if path == "/dashboard/" {
        return Ok(HttpResponse::PermanentRedirect()
            .insert_header(("location", "/dashboard"))
            .finish());
    }
    let is_same = |template: &String| {
        let (mut known, mut requested) = (template.split('/'), path.split('/'));
        let alike = known
            .by_ref()
            .zip(requested.by_ref())
            .all(|(a, b)| a == b || (a.starts_with('{') && !b.is_empty()));
        alike && template.split('/').count() == path.split('/').count()
    };
    if path == LOGIN && api.paths.paths.contains_key(LOGIN) {
        return Err(Problem::new(Code::TSR112, "this path has POST, DELETE").allow("POST, DELETE"));
    }
    if api.paths.paths.keys().any(is_same) {
        return Err(Problem::new(Code::TSR112, "this path has GET, HEAD").allow("GET, HEAD"));
    }
    let hint = match path {
        LOGIN => {
            "access control is off, so no login is needed: start the service with --access on to need one"
        }
        _ => "/ lists what there is",
    };
    Err(Problem::new(Code::TSR111, "there is nothing at this path").hint(hint))
}
