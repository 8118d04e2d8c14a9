//! Routes: the whole HTTP surface, as one list. The OpenAPI document is collected from the same list.

pub mod analytics;
pub mod bulk;
pub mod change;
pub mod health;
pub mod home;
pub mod lab;
pub mod placement;
pub mod read;
pub mod write;

use utoipa::openapi::schema::{SchemaType, Type};
use utoipa::openapi::{Info, License, OpenApi, RefOr, Schema};
use utoipa_actix_web::service_config::ServiceConfig;

/// Registers every route. Those that are asked for most stand first: they are found first.
pub fn configure(surface: &mut ServiceConfig<'_>, lab: bool) {
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
    if lab {
        surface.service(lab::list_holds).service(lab::hold_node);
    }
}

/// What the OpenAPI document says about itself.
pub fn describe(api: &mut OpenApi) {
    let mut info = Info::new("Tessera", env!("CARGO_PKG_VERSION"));
    info.description = Some("One REST API in front of many databases.".to_owned());
    info.license = Some(License::new("MIT OR Apache-2.0"));
    api.info = info;
    let operations = api
        .paths
        .paths
        .values_mut()
        .flat_map(|item| [&mut item.get, &mut item.post, &mut item.put]);
    for operation in operations.flatten() {
        for parameter in operation.parameters.iter_mut().flatten() {
            let RefOr::T(parameter) = parameter else { continue };
            if let Some(RefOr::T(schema)) = &mut parameter.schema {
                forbid_null(schema);
            }
        }
    }
}

/// A header or a parameter may be absent, but it cannot be null: `Option` says the one and means the other.
fn forbid_null(schema: &mut Schema) {
    let Schema::Object(object) = schema else { return };
    if let SchemaType::Array(types) = &object.schema_type {
        let given: Vec<Type> = types.iter().filter(|kind| **kind != Type::Null).cloned().collect();
        if let [kind] = &given[..] {
            object.schema_type = SchemaType::Type(kind.clone());
        }
    }
}
