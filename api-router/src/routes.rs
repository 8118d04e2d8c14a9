//! Routes: the whole HTTP surface, as one list. The OpenAPI document is collected from the same list.

pub mod aliases;
pub mod analytics;
pub mod bulk;
pub mod change;
pub mod distribution;
pub mod errors;
pub mod health;
pub mod home;
pub mod kv;
pub mod lab;
pub mod placement;
pub mod read;
pub mod tables;
pub mod write;

use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{SchemaType, Type};
use utoipa::openapi::{Info, License, OpenApi, RefOr, Schema};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::data_route::KV;

/// Registers every route. Those that are asked for most stand first: they are found first.
pub fn configure(surface: &mut ServiceConfig<'_>, lab: bool) {
    surface
        .service(write::write_row)
        .service(read::read_rows)
        .service(placement::route_key)
        .service(bulk::write_bulk)
        .service(kv::get_value)
        .service(kv::put_value)
        .service(kv::delete_value)
        .service(aliases::write_pair)
        .service(aliases::read_pair)
        .service(aliases::stats)
        .service(health::health)
        .service(health::live)
        .service(health::ready)
        .service(placement::list_shards)
        .service(placement::find_shard)
        .service(placement::shard_map)
        .service(distribution::distribution)
        .service(tables::list_tables)
        .service(tables::find_table)
        .service(tables::make_table)
        .service(analytics::read_metrics)
        .service(analytics::list_errors)
        .service(home::home)
        .service(errors::list_codes)
        .service(errors::explain_code);
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
    if let Some(item) = api.paths.paths.get_mut(KV) {
        item.head = item.get.as_ref().map(head_of);
    }
    let operations = api.paths.paths.values_mut().flat_map(|item| {
        [&mut item.get, &mut item.post, &mut item.put, &mut item.delete, &mut item.head]
    });
    for operation in operations.flatten() {
        for parameter in operation.parameters.iter_mut().flatten() {
            let RefOr::T(parameter) = parameter else { continue };
            if let Some(RefOr::T(schema)) = &mut parameter.schema {
                forbid_null(schema);
            }
        }
    }
}

/// HEAD, which every path with GET answers and one promises: the same without bodies.
fn head_of(get: &Operation) -> Operation {
    let mut head = get.clone();
    head.operation_id = head.operation_id.map(|name| format!("{name}_head"));
    head.summary = Some("Tells whether there is a value under a key, and its version.".to_owned());
    head.description = Some("As GET, without a body.".to_owned());
    for response in head.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            response.content.clear();
        }
    }
    head
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
