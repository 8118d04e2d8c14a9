//! Matrix: the response of every route to every kind of caller.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use api_router::access::scopes::{ROWS, RouteNeed, RouteRow};
use api_router::documented_paths::DOCUMENT;
use api_router::routes::OptionalRoutes;
use api_router::server::openapi;
use serde_json::Value;

use super::guarded::{Guarded, Signer, admin, bound, claims, powerless, reader};
use crate::backend::files_only;
use crate::harness::eventually;

/// Pages that are in the table and not in the document.
const PAGES: [&str; 3] = [DOCUMENT, "/swagger-ui/", "/swagger-ui/{file}"];

/// Returns method and path of each operation in the OpenAPI document, which is made from the same
/// list as the routes.
fn documented() -> BTreeSet<(String, String)> {
    let api =
        serde_json::to_value(openapi(OptionalRoutes { lab: true, access: true, operate: true }))
            .unwrap();
    let mut found = BTreeSet::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let is_method = ["get", "put", "post", "patch", "delete"].contains(&&**method);
            if is_method {
                found.insert((method.to_uppercase(), path.clone()));
            }
        }
    }
    found
}

#[test]
fn every_route_has_exactly_one_row_with_the_rights_that_it_needs() {
    let listed: Vec<(String, String)> = ROWS
        .iter()
        .filter(|row| !PAGES.contains(&row.path))
        .map(|row| (row.method.to_owned(), row.path.to_owned()))
        .collect();
    let once: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(once.len(), listed.len(), "a row stands twice");
    assert_eq!(once, documented());
    assert_eq!(ROWS.iter().filter(|row| PAGES.contains(&row.path)).count(), PAGES.len());
}

#[test]
fn only_a_document_of_access_control_names_rights() {
    let with = |access| {
        let optional = OptionalRoutes { lab: false, access, operate: access };
        serde_json::to_value(openapi(optional)).unwrap()
    };
    let off = with(false).to_string();
    for word in ["securitySchemes", "\"security\"", "/api/access", "\"401\"", "Needs the scope"] {
        assert!(!off.contains(word), "{word}");
    }
    let api = with(true);
    assert_eq!(api["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    assert!(!api.to_string().contains("x-access"), "Authorization is not without effect");
    let health = &api["paths"]["/api/health"]["get"]["responses"]["200"]["content"];
    let health = health["application/json"]["schema"]["anyOf"].as_array().unwrap();
    for schema in health {
        let name = schema["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
        assert!(api["components"]["schemas"][name].is_object(), "{name}");
    }
    assert_eq!(health.len(), 2);
    let mut text = String::new();
    for row in ROWS.iter().filter(|row| !PAGES.contains(&row.path)) {
        let operation = &api["paths"][row.path][row.method.to_lowercase()];
        if operation.is_null() {
            assert!(row.path.starts_with("/api/lab/"), "{}", row.path);
            continue;
        }
        let about = operation["description"].as_str().unwrap().lines().last().unwrap();
        let optional = operation["security"].as_array().unwrap().contains(&serde_json::json!({}));
        assert_eq!(optional, row.need == RouteNeed::Open, "{}", row.path);
        for status in ["401", "403", "429", "503"] {
            assert!(operation["responses"][status].is_object(), "{} {status}", row.path);
        }
        writeln!(text, "{} {}: {about}", row.method, row.path).unwrap();
    }
    insta::with_settings!({prepend_module_to_snapshot => false, snapshot_path => "../snapshots"}, {
        insta::assert_snapshot!("access_rights", text);
    });
}

/// Returns a path and a body with which the request of a caller with the right reaches the route's
/// handler. The shard key is the tenant of bound callers.
fn example(row: &RouteRow) -> (String, Option<&'static str>) {
    let name = if row.path.starts_with("/api/shards") { "shard1" } else { "users" };
    let path = row
        .path
        .replace("{key}", "acme")
        .replace("{code}", "TSR101")
        .replace("{id}", "000000000000")
        .replace("{order}", "pause")
        .replace("{index}", "by_name")
        .replace("{node}", "shard1-primary")
        .replace("{name}", name);
    let file = if row.path.starts_with("/swagger-ui") { "index.css" } else { "page.css" };
    let path = path.replace("{file}", file);
    match (row.method, row.path) {
        (_, "/api/read") => (format!("{path}?table=users&shardKey=acme"), None),
        (_, "/read") => (format!("{path}?key=acme"), None),
        (_, "/api/route") => (format!("{path}?key=acme"), None),
        (_, "/api/write") => {
            (path, Some(r#"{"table":"users","data":{"user_id":"acme","name":"N","email":"e"}}"#))
        }
        (_, "/api/bulk-write") => (
            path,
            Some(r#"{"table":"users","records":[{"user_id":"acme","name":"N","email":"e"}]}"#),
        ),
        (_, "/write") => (path, Some(r#"{"key":"acme","value":1}"#)),
        ("PUT", "/api/kv/{key}") => (path, Some("1")),
        // The handler refuses these bodies, so that the shards and their slots stay as they are.
        (
            "POST",
            "/api/tables"
            | "/api/tables/{name}/indexes"
            | "/api/shards"
            | "/api/slots/fence"
            | "/api/slots/release"
            | "/api/moves",
        )
        | ("PATCH", "/api/shards/{name}") => (path, Some("{}")),
        ("POST", "/api/shards/{name}/drain") => (path, Some(r#"{"keep":-1}"#)),
        ("POST", "/api/access/check") => {
            (path, Some(r#"{"role":"reader","operation":"read","table":"users"}"#))
        }
        ("POST", "/api/access/keys") => (path, Some(r#"{"role":"reader"}"#)),
        ("POST", "/api/access/keys/{id}/rotate") => (path, Some(r#"{"overlap_s":0}"#)),
        ("PUT", "/api/access/roles/{name}") => (path, Some(r#"{"role":"users","grants":[]}"#)),
        ("POST", "/api/access/denials") => (path, Some(r#"{"tenant":"nobody"}"#)),
        ("DELETE", "/api/access/denials") => (format!("{path}?tenant=nobody"), None),
        // The handler refuses this body, so that no experiment runs.
        ("POST", "/api/lab/levels") => (path, Some(r#"{"replicas":0}"#)),
        ("PUT", "/api/lab/nodes/{node}") => (path, Some(r#"{"state":"running"}"#)),
        _ => (path, None),
    }
}

#[test]
fn every_route_answers_each_caller_as_in_its_row() {
    files_only!("the nodes of files are held up by the lab");
    // Without replicas each read sees the write before it.
    let backups = crate::folders::temporary();
    let folder = backups.path().to_str().unwrap();
    let flags = ["--lab", "--replicas", "0", "--backup-dir", folder];
    let guarded = Guarded::start("on", &flags);
    let token = Signer::new().sign(&claims());
    let callers = [
        ("none", None),
        ("forged", Some("tsr_forged".to_owned())),
        ("powerless", Some(powerless().reveal().to_owned())),
        ("reader", Some(reader().reveal().to_owned())),
        ("bound key", Some(bound().reveal().to_owned())),
        ("bound JWT", Some(token)),
        ("admin", Some(admin().reveal().to_owned())),
    ];
    // Callers read this value, before a caller removes it.
    guarded.outcome("PUT", "/api/kv/acme", Some(admin().reveal()), Some("1"));
    let mut text = String::new();
    for row in ROWS {
        let (path, body) = example(&row);
        write!(text, "{} {}:", row.method, row.path).unwrap();
        for (name, credentials) in &callers {
            let outcome = answered(&guarded, &row, (&path, body), credentials.as_deref());
            write!(text, " {name} {outcome},").unwrap();
            if row.method == "DELETE" && outcome.starts_with('2') {
                guarded.outcome("PUT", &path, Some(admin().reveal()), Some("1"));
            }
        }
        text.truncate(text.len() - 1);
        text.push('\n');
    }
    insta::with_settings!({prepend_module_to_snapshot => false, snapshot_path => "../snapshots"}, {
        insta::assert_snapshot!("access_matrix", text);
    });
}

/// Returns the outcome of a request, which is sent again while it is refused because of too many
/// failures.
fn answered(
    guarded: &Guarded,
    row: &RouteRow,
    (path, body): (&str, Option<&str>),
    credentials: Option<&str>,
) -> String {
    eventually("credentials that are not limited", || {
        let outcome = guarded.outcome(row.method, path, credentials, body);
        (!outcome.starts_with("429")).then_some(outcome)
    })
}

/// A path that a client spells in another way needs the right of the route that serves it.
#[test]
fn no_spelling_of_a_path_evades_its_row() {
    let guarded = Guarded::start("on", &[]);
    for path in [
        "/%6detrics",
        "/api/%73hards",
        "/api/shards/%73hard1",
        "/api/shards/a%2Fb",
        "/%61pi/analytics/errors",
        "/api/kv/a%2fb",
        "/api/kv/%2561",
        "/api/kv//a",
        "/metrics?x=1",
    ] {
        let served = guarded.outcome("GET", path, Some(admin().reveal()), None);
        let anonymous = guarded.outcome("GET", path, None, None);
        let is_refused =
            anonymous == "401 TSR401" || (anonymous == served && served == "404 TSR111");
        assert!(is_refused, "{path}: {anonymous}, and {served} with a key");
    }
    for path in ["/metrics/", "//metrics", "/METRICS", "/api/shards/", "/api/kv", "/nowhere"] {
        let outcome = guarded.outcome("GET", path, None, None);
        assert!(!outcome.starts_with('2'), "{path}: {outcome}");
    }
    let head = guarded.router.send("HEAD", "/metrics", &[], None);
    assert_eq!(head.status, 401);
    let wrong: Value = guarded.router.send("DELETE", "/metrics", &[], None).json();
    assert_eq!(wrong["code"], "TSR112");
}
