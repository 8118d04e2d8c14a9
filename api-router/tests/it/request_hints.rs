//! Tests of hints: the response to a request that is nearly right suggests a correct request, but
//! none that is too different.

use serde_json::{Value, json};

use crate::harness::{Reply, Router};

/// Remedy for a method that nothing replaces.
const ALLOWED: &str = "send one of these methods: the header Allow lists them";

fn hint(reply: &Reply) -> String {
    reply.json()["hint"].as_str().unwrap_or("no hint").to_owned()
}

/// Sends a request with an empty object as its body, or without a body to read.
fn send(router: &Router, method: &str, path: &str) -> Reply {
    router.send(method, path, &[], (method != "GET").then_some(b"{}"))
}

/// Returns detail and hint of a problem.
fn said(reply: &Reply) -> (String, String) {
    (reply.json()["detail"].as_str().unwrap().to_owned(), hint(reply))
}

#[test]
fn an_unknown_path_is_refused_with_the_nearest_one_and_the_documentation() {
    let router = Router::shared();
    for (path, meant) in [
        ("/api/reads?table=users", "did you mean `/api/read`?"),
        ("/api/wirte", "did you mean `/api/write`?"),
        ("/bulk-write", "did you mean `/api/bulk-write`?"),
        ("/api/health/", "did you mean `/api/health`?"),
        ("/API/Health", "did you mean `/api/health`?"),
        ("/api/table/users", "did you mean `/api/tables/{name}`?"),
        ("/helth", "did you mean `/health`?"),
        ("/apii/read", "did you mean `/api/read`?"),
        ("/api/v1/write", "did you mean `/api/write`?"),
        ("/users", "/api/read?table=users"),
        ("/rest/v1/users", "/api/read?table=users"),
    ] {
        let reply = router.get(path);
        assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{path}: {}", reply.text());
        let hint = hint(&reply);
        assert!(hint.contains(meant) && hint.contains("/swagger-ui/"), "{path}: {hint}");
    }
    for path in ["/.env", "/a", "/admin", "/wp-login.php", "/favicon.ico", "/api", "/v1/x/y"] {
        let reply = router.get(path);
        assert_eq!(hint(&reply), "/ lists what there is, /swagger-ui/ explains it", "{path}");
    }
}

#[test]
fn paths_that_probes_and_people_try_first_are_there_and_documented() {
    let router = Router::shared();
    for path in ["/health", "/healthz"] {
        let reply = router.get(path);
        assert_eq!((reply.status, &reply.json()["success"]), (200, &json!(true)), "{path}");
        assert_eq!(router.get(&format!("{path}?nonsense=1")).code(), "TSR100", "{path}");
    }
    let docs = router.get("/docs");
    assert_eq!((docs.status, docs.header("location")), (303, Some("/swagger-ui/")));
    let document = router.get("/openapi.json").json();
    assert_eq!(document, router.get("/api-docs/openapi.json").json());
    for path in ["/health", "/healthz", "/docs", "/openapi.json", "/version"] {
        assert!(document["paths"][path]["get"].is_object(), "{path} is not documented");
        assert_eq!(router.send("HEAD", path, &[], None).status, router.get(path).status, "{path}");
        let posted = router.send("POST", path, &[], Some(b"{}"));
        assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD")), "{path}");
    }
    let version = router.get("/version").json();
    assert_eq!(version["version"], router.get("/api/health").json()["version"]);
}

#[test]
fn unsupported_features_are_refused_with_an_alternative() {
    let router = Router::shared();
    let get = |path: &str, headers: &[(&str, &str)]| router.send("GET", path, headers, None);
    let users = "/api/read?table=users";
    let refused: [(&str, Reply, &str); 8] = [
        ("TSR112", router.send("PATCH", "/api/write", &[], Some(b"{}")), "op update"),
        ("TSR112", router.send("DELETE", "/api/read", &[], None), "op delete"),
        ("TSR113", get(users, &[("range", "0-9")]), "next_cursor"),
        ("TSR107", get(users, &[("accept", "text/csv")]), "shard-manager export"),
        ("TSR311", get(&format!("{users}&select=count()"), &[]), "count=exact"),
        ("TSR311", get(&format!("{users}&select=name,orders(*)"), &[]), "select columns"),
        ("TSR311", get(&format!("{users}&select=name::text"), &[]), "select the column"),
        ("TSR311", get(&format!("{users}&select=name-%3Ea"), &[]), "whole value"),
    ];
    for (code, reply, way_out) in refused {
        assert_eq!(reply.code(), code, "{}", reply.text());
        let (detail, hint) = said(&reply);
        let says = [&detail, &hint].iter().any(|text| text.contains("supported"));
        assert!(says && hint.contains(way_out), "{detail} ({hint})");
    }
}

#[test]
fn a_method_that_a_path_lacks_leads_to_the_path_below_that_has_it() {
    let router = Router::start_with(&["--operate"]);
    for (method, path, below) in [
        ("DELETE", "/api/tables/users/indexes", "/api/tables/{name}/indexes/{index}"),
        ("DELETE", "/api/shards", "/api/shards/{name}"),
        ("PATCH", "/api/shards", "/api/shards/{name}"),
        ("POST", "/api/moves/5f0c1c1e", "/api/moves/{id}/{order}"),
    ] {
        let reply = send(&router, method, path);
        assert_eq!((reply.status, &*reply.code()), (405, "TSR112"), "{path}: {}", reply.text());
        let expected = format!("did you mean {method} {below}? Or {ALLOWED}");
        assert_eq!(hint(&reply), expected, "{method} {path}");
    }
    for (method, path) in [
        ("DELETE", "/api/moves"),
        ("DELETE", "/api/rebalance"),
        ("DELETE", "/api/tables/students"),
        ("DELETE", "/api/slots/fence"),
        ("PATCH", "/api/health"),
    ] {
        let reply = send(&router, method, path);
        assert_eq!((reply.status, &*reply.code()), (405, "TSR112"), "{path}: {}", reply.text());
        assert_eq!(hint(&reply), ALLOWED, "{method} {path}");
    }
    // The flag would not add this path.
    assert!(!hint(&router.get("/api/slots")).contains("--operate"));
}

#[test]
fn a_route_that_only_some_routers_serve_leads_to_the_option_that_adds_it() {
    let router = Router::shared();
    for (method, path, option) in [
        ("POST", "/api/lab/levels", "--lab"),
        ("GET", "/api/lab/nodes", "--lab"),
        ("PUT", "/api/lab/nodes/shard1-primary", "--lab"),
        ("GET", "/api/access/me", "--access on"),
        ("GET", "/api/access/keys", "--access on"),
        ("POST", "/api/access/check", "--access on"),
        ("POST", "/api/session", "--access on"),
        ("POST", "/api/slots/fence", "--operate"),
        ("DELETE", "/api/shards", "--operate"),
        ("PATCH", "/api/shards/shard1", "--operate"),
    ] {
        let reply = send(&router, method, path);
        assert!([404, 405].contains(&reply.status), "{method} {path}: {}", reply.text());
        assert!(hint(&reply).contains(option), "{method} {path}: {}", hint(&reply));
    }
    for (method, path) in [("DELETE", "/api/moves"), ("GET", "/api/slots"), ("GET", "/api/lab/x")] {
        let reply = send(&router, method, path);
        assert!(!hint(&reply).contains("--"), "{method} {path}: {}", hint(&reply));
    }
}

#[test]
fn a_value_that_is_too_large_is_refused_with_the_limit() {
    let router = Router::shared();
    let value = format!("\"{}\"", "v".repeat(1 << 20));
    let headers = [("content-type", "application/json")];
    let put = router.send("PUT", "/api/kv/large", &headers, Some(value.as_bytes()));
    let body = format!(r#"{{"key":"large","value":{value}}}"#);
    let written = router.send("POST", "/write", &headers, Some(body.as_bytes()));
    for reply in [put, written] {
        assert_eq!((reply.status, &*reply.code()), (413, "TSR108"), "{}", reply.text());
        assert!(hint(&reply).contains("a value has at most 1 MiB"), "{}", reply.text());
    }
}

#[test]
fn parameters_of_other_apis_get_the_names_of_this_one() {
    let router = Router::shared();
    router.write_user("a", "Ada");
    for (query, meant) in [
        ("page=2", "cursor"),
        ("per_page=5", "limit"),
        ("sort=amount", "`order`"),
        ("skip=5", "offset"),
        ("fields=name", "`select`"),
        ("q=ada", "column=op.value"),
    ] {
        let reply = router.get(&format!("/api/read?table=orders&{query}"));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR311"), "{query}");
        assert!(hint(&reply).contains(meant), "{query}: {}", reply.text());
    }
    // A name that resembles no column gets no suggestion, but the list of all.
    for query in ["select=sort", "order=sort", "zzzz=eq.1"] {
        let reply = router.get(&format!("/api/read?table=orders&{query}"));
        let list = "/api/tables/orders lists the columns";
        assert_eq!(hint(&reply), list, "{query}: {}", reply.text());
    }
    let row = json!({"table": "orders", "data": {"order_id": "o", "user_id": "u", "zzzz": 1}});
    assert_eq!(hint(&router.write("u", &row)), "/api/tables/orders lists the columns");
    for path in ["/api/read?table=zzzz", "/api/tables/zzzz", "/api/distribution?table=zzzz"] {
        assert_eq!(hint(&router.get(path)), "/api/tables lists the tables", "{path}");
    }
}

#[test]
fn an_empty_name_in_select_is_refused_as_such() {
    let router = Router::shared();
    for list in ["", ",", "name,", "name,,email"] {
        let reply = router.get(&format!("/api/read?table=users&select={list}"));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{list:?}");
        let (detail, hint) = said(&reply);
        assert!(detail.starts_with("select has an empty name"), "{list:?}: {detail}");
        assert!(hint.contains("select=column,column"), "{list:?}: {hint}");
    }
}

#[test]
fn an_empty_name_in_order_is_refused_as_such() {
    let router = Router::shared();
    for query in ["order=", "order=,", "order=name,", "order=.desc", "orderBy="] {
        let reply = router.get(&format!("/api/read?table=users&{query}"));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{query}: {}", reply.text());
        let (detail, hint) = said(&reply);
        assert!(detail.starts_with("order has an empty name"), "{query}: {detail}");
        assert!(hint.contains("order=column.desc"), "{query}: {hint}");
    }
}

#[test]
fn a_compressed_body_that_cannot_be_read_is_refused_with_a_remedy() {
    let router = Router::shared();
    for (path, coding) in [("/api/write", "gzip"), ("/api/write", "br"), ("/api/kv/a", "gzip")] {
        let headers = [("content-type", "application/json"), ("content-encoding", coding)];
        let method = if path == "/api/write" { "POST" } else { "PUT" };
        let reply = router.send(method, path, &headers, Some(b"{}"));
        assert_eq!((reply.status, &*reply.code()), (415, "TSR107"), "{path}: {}", reply.text());
        assert!(hint(&reply).contains("without Content-Encoding"), "{path}: {}", reply.text());
    }
}

#[test]
fn a_delete_of_no_row_does_not_suggest_an_insert() {
    let router = Router::shared();
    let delete = json!({"table": "users", "op": "delete", "data": {"user_id": "nobody"}});
    for reply in
        [router.write("nobody", &delete), router.send("DELETE", "/api/kv/nothing", &[], None)]
    {
        assert_eq!((reply.status, &*reply.code()), (404, "TSR302"), "{}", reply.text());
        assert!(hint(&reply).contains("nothing left to remove"), "{}", reply.text());
    }
}

/// Returns an object of this many members.
fn object(members: usize) -> Value {
    (0..members).map(|n| (format!("m{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn a_value_may_have_any_number_of_members_and_a_row_has_its_limit() {
    let router = Router::shared();
    let value = object(3_000);
    let headers = [("content-type", "application/json")];
    let text = value.to_string();
    let put = router.send("PUT", "/api/kv/many", &headers, Some(text.as_bytes()));
    assert_eq!(put.status, 201, "{}", put.text());
    assert_eq!(router.get("/api/kv/many").json(), value);
    let data = json!({"product_id": "p", "name": "N", "price": 1, "stock": 1, "attributes": value});
    let made = router.write("p", &json!({"table": "products", "data": data}));
    assert_eq!(made.status, 201, "{}", made.text());
    for (members, code) in [(256, "TSR311"), (257, "TSR101")] {
        let reply = router.write("u", &json!({"table": "users", "data": object(members)}));
        assert_eq!((reply.status, &*reply.code()), (400, code), "{members}: {}", reply.text());
    }
    let reply = router.post("/api/write", &[], &object(257));
    assert_eq!((reply.status, &*reply.code()), (400, "TSR101"));
    assert!(reply.text().contains("at most 256 members"), "{}", reply.text());
}
