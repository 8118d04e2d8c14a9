//! Tests of rights: a single grant must allow the whole request, and a caller cannot give rights
//! that it lacks itself.

use std::sync::Arc;

use access::grant::KeyBinding;
use access::operation::RowOperations;
use access::rights::{Allowed, CompiledRole, Denied, Excess, Rights, RowLack, RowRequest};
use access::role::AccessRole;
use access::scope::AccessScope;
use access::tenant::Tenants;
use model::keyspace::ShardKey;
use serde_json::{Value, json};

fn role(grants: Value) -> AccessRole {
    AccessRole::parse(&json!({"role": "shop", "grants": grants}).to_string()).unwrap()
}

fn rights(role: AccessRole, tenants: &[&str]) -> Rights {
    let tenants = Tenants::parse(tenants.iter().copied()).unwrap();
    Rights::of(Arc::new(CompiledRole::new(role)), tenants)
}

fn shop() -> AccessRole {
    role(json!([
        {"tables": ["users"], "may": ["read", "insert"], "keys": "$tenant", "columns": ["id", "name"]},
        {"tables": ["users", "orders"], "may": ["read"], "keys": "*", "columns": ["id"]},
        {"tables": ["orders"], "may": ["update"], "keys": "$tenant:*"},
    ]))
}

fn ask<'r>(
    rights: &'r Rights,
    operations: RowOperations,
    table: &str,
    columns: &[&str],
    key: &str,
) -> Result<Allowed<'r>, RowLack> {
    let request = RowRequest { operations, table, columns: columns.iter().copied() };
    let allowed = rights.allow_key(&request, ShardKey::parse(key).unwrap());
    allowed.map_err(|denied| match denied {
        Denied::Rows { lack, .. } => lack,
        Denied::Scope(_) => panic!("a row needs no scope"),
    })
}

#[test]
fn columns_of_one_grant_do_not_mix_with_keys_of_another() {
    let rights = rights(shop(), &["acme"]);
    let read = RowOperations::READ;
    assert!(ask(&rights, read, "users", &["id", "name"], "acme").is_ok());
    assert!(ask(&rights, read, "users", &["id"], "other").is_ok());
    assert_eq!(ask(&rights, read, "users", &["name"], "other").unwrap_err(), RowLack::Key);
    assert_eq!(
        ask(&rights, RowOperations::INSERT, "users", &["id"], "other").unwrap_err(),
        RowLack::Key
    );
    let both = RowOperations::READ.union(RowOperations::UPDATE);
    assert_eq!(ask(&rights, both, "orders", &["id"], "acme:1").unwrap_err(), RowLack::OneGrant);
}

#[test]
fn a_denial_names_what_lacks() {
    let rights = rights(shop(), &["acme"]);
    let read = RowOperations::READ;
    assert_eq!(ask(&rights, read, "secrets", &[], "acme").unwrap_err(), RowLack::Table);
    assert_eq!(
        ask(&rights, RowOperations::DELETE, "users", &[], "acme").unwrap_err(),
        RowLack::Operations(RowOperations::DELETE)
    );
    assert_eq!(
        ask(&rights, RowOperations::UPSERT, "users", &[], "acme").unwrap_err(),
        RowLack::Operations(RowOperations::UPDATE)
    );
    assert_eq!(
        ask(&rights, read, "users", &["id", "email"], "acme").unwrap_err(),
        RowLack::Column("email".into())
    );
    let request =
        RowRequest { operations: RowOperations::DELETE, table: "users", columns: [].into_iter() };
    let denied = rights.allow_bound(&request).unwrap_err().to_string();
    assert_eq!(
        denied,
        "this caller may not delete these rows of users: no grant of this table allows delete"
    );
    assert!(rights.reach().has_table("users") && !rights.reach().has_table("secrets"));
    assert!(rights.reach().has_column("users", "name", RowOperations::READ));
    assert!(!rights.reach().has_column("users", "email", RowOperations::READ));
    assert!(!rights.reach().has_column("users", "name", RowOperations::DELETE));
}

#[test]
fn a_request_without_a_key_is_bound_by_the_first_grant_that_can() {
    let rights = rights(shop(), &["b", "a"]);
    let bound = |columns: &[&'static str]| {
        let columns = columns.iter().copied();
        rights.allow_bound(&RowRequest { operations: RowOperations::READ, table: "users", columns })
    };
    let own = bound(&["name"]).unwrap();
    assert_eq!(own.binding, KeyBinding::Keys(&["a".into(), "b".into()]));
    assert!(own.columns.contains("name") && !own.columns.contains("email"));
    assert!(bound(&["id"]).unwrap().binding.is_bound(), "the first grant that can decides");
}

#[test]
fn rights_without_bounds_allow_everything_and_none_allow_nothing() {
    let all = Rights::all();
    let allowed = ask(&all, RowOperations::ALL, "any", &["column"], "key").unwrap();
    assert!(!allowed.binding.is_bound() && allowed.columns.contains("other"));
    let none = Rights::none();
    assert_eq!(ask(&none, RowOperations::READ, "any", &[], "key").unwrap_err(), RowLack::Table);
    for scope in AccessScope::ALL {
        assert!(all.allow_scope(scope).is_ok());
        assert_eq!(none.allow_scope(scope), Err(Denied::Scope(scope)));
        assert_eq!(AccessScope::find(scope.name()), Some(scope));
    }
}

#[test]
fn tenants_that_break_the_separator_have_no_rights() {
    let rights = rights(shop(), &["acme:x"]);
    for table in ["users", "orders"] {
        assert!(ask(&rights, RowOperations::READ, table, &["id"], "acme:x").is_err());
    }
}

fn keyed(keys: Value) -> AccessRole {
    role(
        json!([{"tables": ["users"], "may": ["read", "insert"], "keys": keys, "columns": ["a", "b"]}]),
    )
}

#[test]
fn no_role_grants_more_rights_than_it_has() {
    let own = rights(keyed(json!("$tenant:*")), &["acme"]);
    let tenants = |names: &[&str]| Tenants::parse(names.iter().copied()).unwrap();
    let covers = |role: &AccessRole, names: &[&str]| own.covers(role, Some(&tenants(names)));
    assert_eq!(covers(&keyed(json!("$tenant:*")), &["acme"]), Ok(()));
    assert_eq!(covers(&keyed(json!("$tenant:*")), &["other"]), Err(Excess::Grant(0)));
    assert_eq!(covers(&keyed(json!("$tenant:*")), &["acme", "other"]), Err(Excess::Grant(0)));
    assert_eq!(covers(&keyed(json!("$tenant/*")), &["acme"]), Err(Excess::Grant(0)));
    assert_eq!(covers(&keyed(json!("$tenant/*")), &["acme:x"]), Ok(()));
    assert_eq!(covers(&keyed(json!("$tenant")), &["acme:x"]), Ok(()));
    assert_eq!(covers(&keyed(json!("$tenant")), &["acme"]), Err(Excess::Grant(0)));
    assert_eq!(covers(&keyed(json!(["acme:1", "acme:2"])), &[]), Ok(()));
    assert_eq!(covers(&keyed(json!(["acme:1", "acme2"])), &[]), Err(Excess::Grant(0)));
    assert_eq!(covers(&keyed(json!("*")), &["acme"]), Err(Excess::Grant(0)));
    assert_eq!(own.covers(&keyed(json!("$tenant:*")), None), Err(Excess::Grant(0)));
    for wider in [
        json!([{"tables": ["*"], "may": ["read"], "keys": ["acme:1"], "columns": ["a"]}]),
        json!([{"tables": ["users", "x"], "may": ["read"], "keys": ["acme:1"], "columns": ["a"]}]),
        json!([{"tables": ["users"], "may": ["delete"], "keys": ["acme:1"], "columns": ["a"]}]),
        json!([{"tables": ["users"], "may": ["read"], "keys": ["acme:1"], "columns": ["c"]}]),
        json!([{"tables": ["users"], "may": ["read"], "keys": ["acme:1"]}]),
    ] {
        assert_eq!(covers(&role(wider.clone()), &[]), Err(Excess::Grant(0)), "{wider}");
    }
}

#[test]
fn scopes_limits_and_weight_are_not_exceeded_either() {
    let [admin, service, ..] = AccessRole::built_in();
    let everything = rights(admin.clone(), &[]);
    let all_rows = rights(service, &[]);
    assert_eq!(everything.covers(&admin, None), Ok(()));
    assert_eq!(all_rows.covers(&admin, None), Err(Excess::Scope(AccessScope::Keys)));
    assert_eq!(all_rows.covers(&shop(), None), Ok(()), "all rows include those of every tenant");
    assert_eq!(Rights::all().covers(&admin, None), Ok(()));
    let limited = |limits: Value, weight: u32| {
        let json = json!({"role": "a", "grants": [], "limits": limits, "weight": weight});
        AccessRole::parse(&json.to_string()).unwrap()
    };
    let own = rights(limited(json!({"requests_per_s": 10, "concurrent": 2}), 2), &[]);
    for (limits, weight, expected) in [
        (json!({"requests_per_s": 10, "concurrent": 2}), 2, Ok(())),
        (json!({"requests_per_s": 9, "concurrent": 1, "rows_per_s": 1}), 1, Ok(())),
        (json!({"requests_per_s": 11, "concurrent": 2}), 1, Err(Excess::RoleLimits)),
        (json!({"requests_per_s": 10, "burst": 11, "concurrent": 2}), 1, Err(Excess::RoleLimits)),
        (json!({"requests_per_s": 10}), 1, Err(Excess::RoleLimits)),
        (json!({"requests_per_s": 10, "concurrent": 2}), 3, Err(Excess::Weight)),
    ] {
        assert_eq!(own.covers(&limited(limits.clone(), weight), None), expected, "{limits}");
    }
    assert_eq!(all_rows.covers(&limited(json!({}), 2), None), Err(Excess::Weight));
}

#[test]
fn a_limited_role_with_every_right_grants_no_unlimited_role() {
    let [admin, ..] = AccessRole::built_in();
    let mut json: Value = serde_json::from_str(&admin.to_json()).unwrap();
    json["role"] = json!("operator");
    let unlimited = AccessRole::parse(&json.to_string()).unwrap();
    json["limits"] = json!({"requests_per_s": 10});
    let limited = AccessRole::parse(&json.to_string()).unwrap();
    assert_eq!(rights(unlimited, &[]).covers(&admin, None), Ok(()));
    assert_eq!(rights(limited.clone(), &[]).covers(&admin, None), Err(Excess::RoleLimits));
    assert_eq!(rights(limited.clone(), &[]).covers(&limited, None), Ok(()));
}
