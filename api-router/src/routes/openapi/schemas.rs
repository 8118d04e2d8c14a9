//! Schemas: converts the schemas of the document to a form that client generators understand. For
//! the types that the routes use, the result is equivalent:
//!
//! - A tuple gets `items` that allow the type of each of its members, and a fixed length.
//!   Generators do not understand `items: false`, which forbids further items after `prefixItems`.
//! - An object with arbitrary members gets `additionalProperties`, because otherwise generators
//!   produce a type without members.

use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{
    AdditionalProperties, AnyOfBuilder, Array, ArrayItems, Components, Object, SchemaType, Type,
};
use utoipa::openapi::{RefOr, Response, Schema};

/// Converts all schemas of an operation.
pub(super) fn simplify_operation(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        parameter.schema.iter_mut().for_each(simplify);
    }
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        simplify_contents(body.content.values_mut());
    }
    operation.responses.responses.values_mut().for_each(simplify_response);
}

/// Converts all schemas that operations share.
pub(super) fn simplify_components(components: &mut Components) {
    components.schemas.values_mut().for_each(simplify);
    components.responses.values_mut().for_each(simplify_response);
}

fn simplify_response(response: &mut RefOr<Response>) {
    if let RefOr::T(response) = response {
        simplify_contents(response.content.values_mut());
    }
}

fn simplify_contents<'c>(contents: impl Iterator<Item = &'c mut RefOr<utoipa::openapi::Content>>) {
    for content in contents {
        let RefOr::T(content) = content else { continue };
        content.schema.iter_mut().for_each(simplify);
    }
}

fn simplify(schema: &mut RefOr<Schema>) {
    if let RefOr::T(schema) = schema {
        simplify_schema(schema);
    }
}

fn simplify_schema(schema: &mut Schema) {
    match schema {
        Schema::Array(array) => simplify_array(array),
        Schema::Object(object) => simplify_object(object),
        Schema::OneOf(one) => one.items.iter_mut().for_each(simplify),
        Schema::AllOf(all) => all.items.iter_mut().for_each(simplify),
        Schema::AnyOf(any) => any.items.iter_mut().for_each(simplify),
        // Kinds of schema that a later version of the crate may add stay as they are.
        _ => {}
    }
}

fn simplify_array(array: &mut Array) {
    array.prefix_items.iter_mut().for_each(simplify_schema);
    match &mut array.items {
        ArrayItems::RefOrSchema(items) => simplify(items),
        ArrayItems::False => {
            let count = array.prefix_items.len();
            (array.min_items, array.max_items) = (Some(count), Some(count));
            array.items = ArrayItems::RefOrSchema(Box::new(any_of(&array.prefix_items)));
        }
    }
}

/// Returns a schema that matches any of these schemas; equal ones are listed once.
fn any_of(schemas: &[Schema]) -> RefOr<Schema> {
    let mut different: Vec<&Schema> = Vec::new();
    for schema in schemas {
        if !different.contains(&schema) {
            different.push(schema);
        }
    }
    match different[..] {
        [one] => RefOr::T(one.clone()),
        _ => {
            let any = different.into_iter().cloned();
            RefOr::T(any.fold(AnyOfBuilder::new(), AnyOfBuilder::item).into())
        }
    }
}

fn simplify_object(object: &mut Object) {
    object.properties.values_mut().for_each(simplify);
    match object.additional_properties.as_deref_mut() {
        Some(AdditionalProperties::RefOr(members)) => simplify(members),
        Some(AdditionalProperties::FreeForm(_)) => {}
        None if is_object(&object.schema_type) && object.properties.is_empty() => {
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(true)));
        }
        None => {}
    }
}

fn is_object(kind: &SchemaType) -> bool {
    match kind {
        SchemaType::Type(kind) => *kind == Type::Object,
        SchemaType::Array(kinds) => kinds.contains(&Type::Object),
        SchemaType::AnyValue => false,
    }
}
