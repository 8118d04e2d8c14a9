//! Tests of roles: their JSON, and the faults for which it is refused.

use access::role::{AccessRole, RoleFault};
use access::scope::{AccessScope, ScopeSet};
use serde_json::{Value, json};

fn role() -> Value {
    json!({
        "role": "shop",
        "grants": [
            {"tables": ["users", "orders", "kv"], "may": ["read", "insert", "update", "delete"],
             "keys": "$tenant"},
            {"tables": ["products"], "may": ["read"], "keys": "*",
             "columns": ["product_id", "name", "price"]},
        ],
        "scopes": [], "weight": 1,
        "limits": {"requests_per_s": 200, "burst": 400, "rows_per_s": 5000, "concurrent": 32,
                   "rows_per_day": 1_000_000},
    })
}

/// Parses the role with another value at a JSON Pointer. The value `null` removes the member.
fn with(pointer: &str, value: Value) -> Result<AccessRole, access::role::RoleError> {
    let mut role = role();
    let (parent, member) = pointer.rsplit_once('/').unwrap();
    match (role.pointer_mut(parent).unwrap(), value) {
        (Value::Object(object), Value::Null) => drop(object.remove(member)),
        (Value::Object(object), value) => drop(object.insert(member.to_owned(), value)),
        (parent, value) => parent[member.parse::<usize>().unwrap()] = value,
    }
    AccessRole::parse(&role.to_string())
}

#[test]
fn the_json_of_a_role_is_read_as_it_was_written() {
    let role = AccessRole::parse(&role().to_string()).unwrap();
    assert_eq!(AccessRole::parse(&role.to_json()).unwrap(), role);
    assert!(role.is_bound());
    for keys in [json!("*"), json!("$tenant:*"), json!("$tenant/*"), json!(["b", "a"])] {
        let role = with("/grants/0/keys", keys).unwrap();
        assert_eq!(AccessRole::parse(&role.to_json()).unwrap(), role);
    }
    let short = r#"{"role":"none","grants":[]}"#;
    let role = AccessRole::parse(short).unwrap();
    assert_eq!((role.weight(), role.scopes(), role.limits().is_none()), (1, ScopeSet::NONE, true));
}

#[test]
fn an_error_names_the_member_and_what_to_do() {
    let key_of_257 = "x".repeat(257);
    let many: Vec<String> = (0..65).map(|number| format!("key{number}")).collect();
    let cases: [(&str, Value, &str, &str); 24] = [
        ("/role", json!("Shop"), "role", "lower-case"),
        ("/role", json!("admin"), "role", "built-in"),
        ("/grants/1/keys", json!(null), "grants[1].keys", "no default"),
        ("/grants/1/tables", json!(null), "grants[1].tables", "names of tables"),
        ("/grants/1/may", json!(null), "grants[1].may", "read, insert"),
        ("/grants/0/keys", json!("$tenant*"), "grants[0].keys", "separator"),
        ("/grants/0/keys", json!("$tenantX*"), "grants[0].keys", "punctuation"),
        ("/grants/0/keys", json!("$tenant::*"), "grants[0].keys", "punctuation"),
        ("/grants/0/keys", json!("acme"), "grants[0].keys", "list of keys"),
        ("/grants/0/keys", json!(""), "grants[0].keys", "list of keys"),
        ("/grants/0/keys", json!([]), "grants[0].keys", "1 to 64"),
        ("/grants/0/keys", json!(many), "grants[0].keys", "1 to 64"),
        ("/grants/0/keys", json!(["a", "*"]), "grants[0].keys[1]", "pattern"),
        ("/grants/0/keys", json!(["$tenant"]), "grants[0].keys[0]", "pattern"),
        ("/grants/0/keys", json!([key_of_257]), "grants[0].keys[0]", "256"),
        ("/grants/0/tables", json!(["a", "*"]), "grants[0].tables", "alone"),
        ("/grants/0/tables", json!(["a", "a"]), "grants[0].tables[1]", "twice"),
        ("/grants/0/tables", json!(["Users"]), "grants[0].tables[0]", "lower-case"),
        ("/grants/1/columns", json!(["*"]), "grants[1].columns[0]", "leave `columns` out"),
        ("/grants/1/columns", json!([]), "grants[1].columns", "1 to"),
        ("/grants/0/may", json!(["upsert"]), "grants[0].may[0]", "read, insert"),
        ("/scopes", json!(["root"]), "scopes[0]", "keys, tables"),
        ("/scopes", json!(["analytics"]), "scopes", "bound"),
        ("/weight", json!(0), "weight", "1 to 1000"),
    ];
    for (pointer, value, member, hint) in cases {
        let error = with(pointer, value.clone()).expect_err(pointer);
        assert_eq!(error.member, member, "{pointer} {value}: {error}");
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[test]
fn only_grants_of_a_prefix_may_scatter() {
    let grant = |keys: &str, scatter: &str| {
        let grant =
            format!(r#"{{"tables":["*"],"may":["read"],"keys":{keys},"scatter":{scatter}}}"#);
        AccessRole::parse(&format!(r#"{{"role":"shop","grants":[{grant}]}}"#))
    };
    let role = grant(r#""$tenant:*""#, r#""filter""#).unwrap();
    assert!(role.grants()[0].scatters());
    assert_eq!(AccessRole::parse(&role.to_json()), Ok(role));
    for (keys, scatter) in [
        (r#""$tenant:*""#, r#""all""#),
        (r#""*""#, r#""filter""#),
        (r#""$tenant""#, r#""filter""#),
        (r#"["acme"]"#, r#""filter""#),
    ] {
        let error = grant(keys, scatter).unwrap_err();
        assert_eq!((error.member.as_str(), error.fault), ("grants[0].scatter", RoleFault::Scatter));
    }
    for malformed in ["null", "true"] {
        let error = grant(r#""$tenant:*""#, malformed).unwrap_err();
        assert!(matches!(error.fault, RoleFault::Json(_)), "{error}");
    }
}

#[test]
fn limits_must_be_above_zero() {
    for member in ["requests_per_s", "burst", "rows_per_s", "concurrent", "rows_per_day"] {
        let error = with(&format!("/limits/{member}"), json!(0)).unwrap_err();
        assert_eq!(error.member, format!("limits.{member}"));
        assert!(matches!(error.fault, RoleFault::Range { .. }));
    }
    let error = with("/limits", json!({"burst": 5})).unwrap_err();
    assert_eq!(error.fault, RoleFault::BurstWithoutRate);
}

#[test]
fn unknown_repeated_and_null_members_are_refused() {
    for json in [
        r#"{"role":"a","grants":[],"grant":[]}"#,
        r#"{"role":"a","grants":[],"grants":[]}"#,
        r#"{"role":"a"}"#,
        r#"{"grants":[]}"#,
        r#"{"role":"a","grants":[],"limits":null}"#,
        r#"{"role":"a","grants":[],"limits":{"burst":null}}"#,
        r#"{"role":"a","grants":[],"limits":{"rate":1}}"#,
        r#"{"role":"a","grants":[],"limits":{"concurrent":1,"concurrent":9}}"#,
        r#"{"role":"a","grants":[{"tables":["*"],"may":["read"],"keys":"*","columns":null}]}"#,
        r#"{"role":"a","grants":[{"tables":["*"],"may":["read"],"keys":null}]}"#,
        r#"{"role":"a","grants":[{"tables":["*"],"may":["read"],"keys":"*","column":["a"]}]}"#,
        r#"{"role":"a","grants":[{"tables":["*"],"may":["read"],"keys":"$tenant","keys":"*"}]}"#,
        "",
        "null",
        "[]",
    ] {
        let error = AccessRole::parse(json).unwrap_err();
        assert!(matches!(error.fault, RoleFault::Json(_)), "{json}: {error}");
    }
    let many = vec![role()["grants"][0].clone(); AccessRole::GRANTS_MAX + 1];
    let error = with("/grants", json!(many)).unwrap_err();
    assert_eq!(
        (error.member.as_str(), error.fault),
        ("grants", RoleFault::Count { count: 65, max: 64 })
    );
}

#[test]
fn a_member_of_another_type_is_named() {
    for (pointer, value, member) in [
        ("/role", json!(7), "role"),
        ("/grants", json!("all"), "grants"),
        ("/grants/0", json!(["read"]), "grants[0]"),
        ("/grants/0/tables", json!("users"), "grants[0].tables"),
        ("/grants/0/tables", json!([1]), "grants[0].tables"),
        ("/grants/0/may", json!("read"), "grants[0].may"),
        ("/grants/1/keys", json!(true), "grants[1].keys"),
        ("/grants/1/keys", json!({"tenant": "acme"}), "grants[1].keys"),
        ("/grants/1/columns", json!({}), "grants[1].columns"),
        ("/scopes", json!("audit"), "scopes"),
        ("/weight", json!(1.5), "weight"),
        ("/weight", json!(-1), "weight"),
        ("/weight", json!(1_u64 << 40), "weight"),
        ("/limits", json!([]), "limits"),
        ("/limits/burst", json!("400"), "limits.burst"),
        ("/limits/concurrent", json!(1.0), "limits.concurrent"),
        ("/limits/rows_per_day", json!(-1), "limits.rows_per_day"),
    ] {
        let error = with(pointer, value.clone()).expect_err(pointer);
        assert_eq!(error.member, member, "{value}: {error}");
        assert!(matches!(error.fault, RoleFault::Json(_)), "{error}");
    }
    let error = with("/grants/0/key", json!("*")).unwrap_err();
    assert_eq!(error.member, "grants[0]");
    assert!(error.to_string().contains("`key`"), "{error}");
}

#[test]
fn a_list_is_no_object_with_its_members_in_order() {
    let error = AccessRole::parse(r#"["shop",[],[],1]"#).unwrap_err();
    assert_eq!(error.member, "the role");
    let error = with("/grants/0", json!([["users"], ["read"], "*"])).unwrap_err();
    assert_eq!(error.member, "grants[0]");
    let error = with("/limits", json!([1, 1, 1, 1, 1])).unwrap_err();
    assert_eq!(error.member, "limits");
}

#[test]
fn a_member_that_is_repeated_by_escapes_is_refused() {
    let grant = r#"{"tables":["*"],"may":["read"],"keys":"$tenant","k\u0065ys":"*"}"#;
    let json = format!(r#"{{"role":"a","grants":[{grant}]}}"#);
    let error = AccessRole::parse(&json).unwrap_err();
    assert!(error.to_string().contains("duplicate field `keys`"), "{error}");
}

#[test]
fn an_error_is_short_and_has_no_control_characters() {
    let long = "x".repeat(1 << 20);
    for name in ["a\u{1b}[2J\n\u{7f}\u{85}", &long, " at line "] {
        for json in [
            json!({"role": "a", "grants": [], name: 1}),
            json!({"role": name, "grants": []}),
            json!({"role": "a", "grants": [], "weight": name}),
            json!({"role": "a", "grants": [{name: 1}]}),
            json!({"role": "a", "grants": [], "scopes": [name]}),
        ] {
            let text = AccessRole::parse(&json.to_string()).unwrap_err().to_string();
            assert!(text.len() < 1_000 && !text.chars().any(char::is_control), "{text}");
        }
    }
}

#[test]
fn a_file_has_one_role_or_a_list_of_them() {
    let parse = |json: Value| AccessRole::parse_file(&json.to_string());
    assert_eq!(parse(role()).unwrap().len(), 1);
    assert_eq!(parse(json!([])).unwrap().len(), 0);
    let other = json!({"role": "other", "grants": []});
    let roles = parse(json!([role(), other])).unwrap();
    assert_eq!(roles.iter().map(AccessRole::name).collect::<Vec<_>>(), ["shop", "other"]);
    assert!(AccessRole::parse_file(" \n[ ]").is_ok());
    let mut bad = role();
    bad["grants"][1]["keys"] = json!("acme");
    for (json, member) in [
        (json!([role(), bad]), "[1].grants[1].keys"),
        (json!([role(), role()]), "[1].role"),
        (json!([role(), 1]), "[1]"),
        (json!([role(), {"role": "a", "grants": [], "unknown": 1}]), "[1]"),
        (json!([other, {"role": "admin", "grants": []}]), "[1].role"),
        (json!({"roles": []}), "the role"),
    ] {
        assert_eq!(parse(json).unwrap_err().member, member);
    }
    for json in ["", "[", "[]]", "[{}", "null"] {
        assert!(AccessRole::parse_file(json).is_err(), "{json}");
    }
}

#[test]
fn the_built_in_roles_are_as_documented() {
    let [admin, service, reader, scraper, anonymous] = AccessRole::built_in();
    assert!(admin.is_all_powerful() && !service.is_all_powerful());
    assert!(service.scopes().is_empty() && reader.scopes().is_empty());
    let scopes: Vec<AccessScope> = scraper.scopes().iter().collect();
    assert_eq!(scopes, [AccessScope::Metrics, AccessScope::Frames]);
    assert!(scraper.grants().is_empty() && anonymous.grants().is_empty());
    assert!(!AccessRole::is_reserved(anonymous.name()), "anonymous may be given grants");
}
