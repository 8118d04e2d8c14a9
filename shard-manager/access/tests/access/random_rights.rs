//! Tests of rights with random roles: the decision must equal that of a simple evaluation of the
//! role's JSON.

use std::sync::Arc;

use access::operation::RowOperations;
use access::rights::{CompiledRole, Rights, RowRequest};
use access::role::AccessRole;
use access::tenant::Tenants;
use model::keyspace::ShardKey;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

static TABLES: [&str; 3] = ["users", "orders", "kv"];
static COLUMNS: [&str; 3] = ["id", "name", "price"];
static OPERATIONS: [&str; 4] = ["read", "insert", "update", "delete"];
/// Shard keys that resemble tenants and each other.
static KEYS: [&str; 10] =
    ["acme", "acme2", "acme:1", "acme2:1", "acme:x", "acme:x:1", "acme/1", "other", "other:", "*"];
static TENANTS: [&str; 4] = ["acme", "acme2", "acme:x", "other"];

fn keys() -> impl Strategy<Value = Value> {
    let literals = subsequence(&KEYS[..9], 1..4).prop_map(|keys| json!(keys));
    let patterns =
        select(vec![json!("*"), json!("$tenant"), json!("$tenant:*"), json!("$tenant/*")]);
    prop_oneof![patterns, literals]
}

fn grant() -> impl Strategy<Value = Value> {
    let tables = prop_oneof![
        Just(json!(["*"])),
        subsequence(&TABLES[..], 1..3).prop_map(|tables| json!(tables)),
    ];
    let columns = proptest::option::of(subsequence(&COLUMNS[..], 1..4));
    (tables, subsequence(&OPERATIONS[..], 1..5), keys(), columns).prop_map(
        |(tables, may, keys, columns)| {
            let mut grant = json!({"tables": tables, "may": may, "keys": keys});
            if let Some(columns) = columns {
                grant["columns"] = json!(columns);
            }
            grant
        },
    )
}

fn grants() -> impl Strategy<Value = Vec<Value>> {
    proptest::collection::vec(grant(), 0..4)
}

fn tenants() -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(&TENANTS[..], 0..3)
}

fn rights(grants: &[Value], tenants: &[&str]) -> Rights {
    let json = json!({"role": "random", "grants": grants}).to_string();
    let role = CompiledRole::new(AccessRole::parse(&json).unwrap());
    Rights::of(Arc::new(role), Tenants::parse(tenants.iter().copied()).unwrap())
}

/// Random request: operations, table, columns and shard key.
type Request = (Vec<&'static str>, &'static str, Vec<&'static str>, &'static str);

fn request() -> impl Strategy<Value = Request> {
    (
        subsequence(&OPERATIONS[..], 1..3),
        select(&TABLES[..]),
        subsequence(&COLUMNS[..], 0..3),
        select(&KEYS[..]),
    )
}

fn operations(names: &[&str]) -> RowOperations {
    let found = names.iter().filter_map(|name| RowOperations::find(name));
    found.fold(RowOperations::NONE, RowOperations::union)
}

fn is_allowed(rights: &Rights, (names, table, columns, key): &Request) -> bool {
    let columns = columns.iter().copied();
    let request = RowRequest { operations: operations(names), table, columns };
    rights.allow_key(&request, ShardKey::parse(key).unwrap()).is_ok()
}

/// Decides directly from the JSON of the grants, without the code under test.
fn reference(grants: &[Value], tenants: &[&str], request: &Request) -> bool {
    let (names, table, columns, key) = request;
    let has = |list: &Value, name: &str| list.as_array().unwrap().contains(&json!(name));
    // If a tenant contains a separator of any grant, the caller has no rights at all.
    let separators: Vec<String> = grants
        .iter()
        .filter_map(|grant| grant["keys"].as_str()?.strip_prefix("$tenant")?.strip_suffix('*'))
        .map(str::to_owned)
        .collect();
    if tenants.iter().any(|tenant| separators.iter().any(|separator| tenant.contains(separator))) {
        return false;
    }
    grants.iter().any(|grant| {
        let is_for_key = match &grant["keys"] {
            Value::Array(keys) => keys.contains(&json!(key)),
            Value::String(text) if text == "*" => true,
            Value::String(text) if text == "$tenant" => tenants.contains(key),
            Value::String(pattern) => tenants.iter().any(|tenant| {
                let prefix = pattern.replace("$tenant", tenant).replace('*', "");
                key.starts_with(&prefix)
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
        };
        is_for_key
            && (has(&grant["tables"], "*") || has(&grant["tables"], table))
            && names.iter().all(|name| has(&grant["may"], name))
            && (grant["columns"].is_null()
                || columns.iter().all(|column| has(&grant["columns"], column)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn rights_decide_as_the_text_of_the_role(
        grants in grants(), tenants in tenants(), request in request(),
    ) {
        let decided = is_allowed(&rights(&grants, &tenants), &request);
        prop_assert_eq!(decided, reference(&grants, &tenants, &request));
    }

    #[test]
    fn a_binding_admits_exactly_the_keys_that_are_allowed_one_by_one(
        grants in grants(), tenants in tenants(), request in request(),
    ) {
        let rights = rights(&grants[..grants.len().min(1)], &tenants);
        let (names, table, columns, key) = &request;
        let columns = columns.iter().copied();
        let unkeyed = RowRequest { operations: operations(names), table, columns };
        let admitted = rights.allow_bound(&unkeyed).is_ok_and(|allowed| allowed.binding.admits(key));
        prop_assert_eq!(admitted, is_allowed(&rights, &request));
    }

    #[test]
    fn a_covered_role_allows_nothing_that_its_giver_may_not(
        own in grants(), own_tenants in tenants(),
        given in grants(), given_tenants in tenants(),
        requests in proptest::collection::vec(request(), 20),
    ) {
        let giver = rights(&own, &own_tenants);
        let json = json!({"role": "given", "grants": given}).to_string();
        let role = AccessRole::parse(&json).unwrap();
        let tenants = Tenants::parse(given_tenants.iter().copied()).unwrap();
        if giver.covers(&role, Some(&tenants)).is_ok() {
            let receiver = rights(&given, &given_tenants);
            for request in &requests {
                let gains = is_allowed(&receiver, request) && !is_allowed(&giver, request);
                prop_assert!(!gains, "{:?}", request);
            }
        }
    }

    #[test]
    fn the_json_of_a_random_role_is_read_as_it_was_written(grants in grants()) {
        let json = json!({"role": "random", "grants": grants}).to_string();
        let role = AccessRole::parse(&json).unwrap();
        prop_assert_eq!(AccessRole::parse(&role.to_json()).unwrap(), role);
    }
}
