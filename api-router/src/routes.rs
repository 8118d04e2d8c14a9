//! Routes: the whole HTTP surface, as one list. The OpenAPI document is collected from the same list.

pub mod analytics;
pub mod bulk;
pub mod health;
pub mod home;
pub mod placement;
pub mod read;
pub mod write;

use utoipa::openapi::{Info, License, OpenApi};
use utoipa_actix_web::service_config::ServiceConfig;

/// Registers every route. Those that are asked for most stand first: they are found first.
pub fn configure(surface: &mut ServiceConfig<'_>) {
    surface
        .service(write::write_row)
        .service(read::read_rows)
        .service(placement::route_key)
        .service(bulk::write_bulk)
        .service(health::health)
        .service(health::live)
        .service(health::ready)
        .service(placement::list_shards)
        .service(placement::find_shard)
        .service(placement::shard_map)
        .service(analytics::read_metrics)
        .service(analytics::list_errors)
        .service(home::home)
        .service(home::explain_error);
}

/// What the OpenAPI document says about itself.
pub fn describe(api: &mut OpenApi) {
    let mut info = Info::new("Tessera", env!("CARGO_PKG_VERSION"));
    info.description = Some("One REST API in front of many databases.".to_owned());
    info.license = Some(License::new("MIT OR Apache-2.0"));
    api.info = info;
}
