//! OpenAPI: completes the document that is generated from the routes. Adds its title and groups,
//! and the headers that all data routes have in common.
//!
//! Groups are listed in the order in which a newcomer needs them. Schemas have a form that client
//! generators understand.
//!
//! **Not here:** the description of one operation (the attributes of its handler).

mod schemas;
mod security;

use std::collections::{BTreeMap, BTreeSet};

use actix_web::http::Method;
use analytics::Operation as Kind;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{
    Operation, Parameter, ParameterBuilder, ParameterIn, ParameterStyle, PathItem,
};
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{Info, License, OpenApi, RefOr, ResponseBuilder, Schema};

use self::schemas::{simplify_components, simplify_operation};
use crate::data_route::{KV, data_route};

/// Data route whose requests contain rows of any number of shard keys.
const BULK: &str = "/api/bulk-write";
/// Route on which every other parameter is a filter.
const READ: &str = "/api/read";

/// Groups of operations, the most important first.
const GROUPS: [(&str, &str); 9] = [
    ("data", "Rows of tables: write, read, write many"),
    ("keys and values", "JSON values under keys"),
    ("tables", "Tables, and what they consist of"),
    ("placement", "Which shard has what"),
    ("operations", "How the router and its shards are; what errors mean"),
    ("analytics", "What is counted, and the dashboard"),
    ("aliases", "Short forms of some of the calls above"),
    ("access", "Who may do what"),
    ("lab", "Placement trials, experiments, and injected faults of nodes"),
];

/// Completes the document that was collected from the routes. If `access` is true, it names the
/// right that each operation needs.
pub fn describe(api: &mut OpenApi, access: bool) {
    let mut info = Info::new("Tessera", env!("CARGO_PKG_VERSION"));
    info.description = Some("One REST API in front of many databases.".to_owned());
    info.license = Some(License::new("MIT OR Apache-2.0"));
    api.info = info;
    for (path, item) in &mut api.paths.paths {
        for (method, operation) in operations(item) {
            if let Some(route) = data_route(path, &method) {
                take_headers(operation, route.operation);
                carry_headers(operation, route.operation, path != BULK);
            }
            if (path.as_str(), &method) == (READ, &Method::GET) {
                operation.parameters.get_or_insert_default().push(RefOr::T(filters()));
            }
            if access {
                security::declare(operation, path, &method);
            } else {
                declare_access(operation);
            }
            forbid_nulls(operation);
            simplify_operation(operation);
            refuse_large_headers(operation);
        }
    }
    api.components.iter_mut().for_each(simplify_components);
    if let Some(item) = api.paths.paths.get_mut(KV) {
        item.head = item.get.as_ref().map(head_of);
    }
    if access {
        security::declare_schemes(api);
        security::declare_health(api);
    }
    order_groups(api);
}

/// Lists the groups that have any operation, in the order in which Swagger UI shows them.
fn order_groups(api: &mut OpenApi) {
    let items = api.paths.paths.values_mut();
    let used: BTreeSet<String> = items
        .flat_map(|item| operations(item).collect::<Vec<_>>())
        .flat_map(|(_, operation)| operation.tags.clone().unwrap_or_default())
        .collect();
    let group = |(name, about): &(&str, &str)| {
        used.contains(*name)
            .then(|| TagBuilder::new().name(*name).description(Some(*about)).build())
    };
    api.tags = Some(GROUPS.iter().filter_map(group).collect());
}

/// Returns the parameter which declares that a read accepts further parameters of any name, each of
/// which is a filter. Its example is empty, because Swagger UI would otherwise send an invented
/// one.
fn filters() -> Parameter {
    let text = ObjectBuilder::new().schema_type(Type::String).build();
    let any = AdditionalProperties::RefOr(RefOr::T(text.into()));
    let filters = ObjectBuilder::new().schema_type(Type::Object).additional_properties(Some(any));
    ParameterBuilder::new()
        .name("filters")
        .parameter_in(ParameterIn::Query)
        .description(Some(
            "Filters on columns, each a parameter of its own: {\"name\": \"eq.John\"} is sent as name=eq.John",
        ))
        .style(Some(ParameterStyle::Form))
        .explode(Some(true))
        .schema(Some(filters.build()))
        .example(Some(serde_json::json!({})))
        .build()
}

/// Declares the header `x-access`, by which a response says that `Authorization` has no effect.
fn declare_access(operation: &mut Operation) {
    let about = "off: Authorization, which the request has, is accepted and has no effect yet";
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            let access = header(Type::String, about);
            response.headers.insert("x-access".to_owned(), RefOr::T(access));
        }
    }
}

/// Declares the response to a request whose headers are too large. It is refused before its route
/// is determined, so every operation has this response.
fn refuse_large_headers(operation: &mut Operation) {
    let large = ResponseBuilder::new()
        .description(
            "There are more than 96 headers, or more than 128 KiB of them. Without a body.",
        )
        .build();
    operation.responses.responses.insert("431".to_owned(), RefOr::T(large));
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let PathItem { get, post, put, patch, delete, .. } = item;
    let all = [
        (Method::GET, get.as_mut()),
        (Method::POST, post.as_mut()),
        (Method::PUT, put.as_mut()),
        (Method::PATCH, patch.as_mut()),
        (Method::DELETE, delete.as_mut()),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation?)))
}

/// Declares the headers that every request about rows may have.
fn take_headers(operation: &mut Operation, kind: Kind) {
    let deadline = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(100))
        .maximum(Some(60_000))
        .build();
    let token = ObjectBuilder::new().schema_type(Type::String).max_length(Some(4_096)).build();
    let level = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(["one", "quorum", "all"]))
        .build();
    let mut common = vec![parameter(
        "x-deadline-ms",
        "Longest time for an answer; 5000 when not given. Of a stream: for each chunk",
        deadline,
    )];
    match kind {
        Kind::Write => {
            common.push(parameter(
                "x-consistency",
                "Where it must be durable: one (the primary), quorum (a majority of the nodes) or all; one when not given",
                level,
            ));
            common.push(parameter(
                "x-session-token",
                "Positions that the client has seen: the token of its last response",
                token,
            ));
            let key = ObjectBuilder::new()
                .schema_type(Type::String)
                .min_length(Some(1))
                .max_length(Some(128))
                .build();
            common.push(parameter(
                "Idempotency-Key",
                "The same request with the same key under one shard key is carried out once, and answered alike for 24 hours; rows of a JSON bulk write are recognised by key and index",
                key,
            ));
        }
        Kind::Read => {
            common.push(parameter(
                "x-consistency",
                "one: the cache or a replica, not older than the token; quorum: a node that has all that was acknowledged before; all: the primary; one when not given",
                level,
            ));
            common.push(parameter(
                "x-session-token",
                "Positions that the client has seen, and so must see again: the token of its last response",
                token,
            ));
            let age = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).build();
            common.push(parameter(
                "x-max-staleness-ms",
                "At level one: how long ago the node may have been current, and how old an answer of the cache may be",
                age,
            ));
        }
    }
    operation.parameters.get_or_insert_default().extend(common.into_iter().map(RefOr::T));
}

fn parameter(name: &str, description: &str, schema: impl Into<RefOr<Schema>>) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

/// Declares the headers that every successful response about rows has.
fn carry_headers(operation: &mut Operation, kind: Kind, keyed: bool) {
    let text = |about: &str| header(Type::String, about);
    let mut headers = BTreeMap::from([
        ("x-session-token", text("Positions that the client has seen, with this response")),
        ("x-epoch", header(Type::Integer, "The version of the shard map")),
        ("x-served-by", text("Node or cache that answered: primary, replica or cache")),
        ("x-request-id", text("The id under which the request is logged")),
        ("Server-Timing", text("route, queue, db, merge, in milliseconds")),
        ("Preference-Applied", text("The preferences that were honoured, if any")),
    ]);
    if kind == Kind::Read {
        let about = "If there is a cache: hit (it answered), miss (it had nothing new enough) or bypass (it was not used)";
        headers.insert("x-cache", text(about));
    }
    if keyed {
        headers.insert("x-shard", text("The shard of the key, if there is one key"));
        headers.insert("x-shard-slot", header(Type::Integer, "The slot of the key"));
        headers.insert("ETag", text("The version, in quotes, of the one row that it is about"));
    }
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        if status.starts_with('2') || status == "304" {
            let carried = headers
                .iter()
                .map(|(name, header)| ((*name).to_owned(), RefOr::T(Header::clone(header))));
            response.headers.extend(carried);
        }
    }
}

fn header(kind: Type, description: &str) -> Header {
    let schema = ObjectBuilder::new().schema_type(kind).build();
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
}

/// Returns the operation HEAD for a GET, with the same responses without bodies. Every path with
/// GET supports HEAD, but the document lists it for [`KV`] only.
fn head_of(get: &Operation) -> Operation {
    let mut head = get.clone();
    head.operation_id = head.operation_id.map(|name| format!("{name}_head"));
    head.summary = Some("Returns the version of the value of a key, if there is one.".to_owned());
    head.description = Some("As GET, without a body.".to_owned());
    for response in head.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            response.content.clear();
        }
    }
    head
}

/// Removes null from the types of parameters. A header or parameter may be absent, but the type
/// `Option` of its declaration also lets it be null.
fn forbid_nulls(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema else { continue };
        let SchemaType::Array(types) = &object.schema_type else { continue };
        let given: Vec<Type> = types.iter().filter(|kind| **kind != Type::Null).cloned().collect();
        if let [kind] = &given[..] {
            object.schema_type = SchemaType::Type(kind.clone());
        }
    }
}
