//! Tests of the dashboard's files over HTTP: browsers are redirected to the dashboard, may run no
//! scripts but its own, and request a file again only when it has changed.

use crate::harness::Router;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Returns the files that a text names after one of these marks.
fn names<'t>(text: &'t str, marks: &[&str]) -> Vec<&'t str> {
    let parts = marks.iter().flat_map(|mark| text.split(*mark).skip(1));
    parts.map(|rest| rest.split('"').next().unwrap()).collect()
}

#[test]
fn a_browser_is_led_to_a_page_that_loads_nothing_from_elsewhere() {
    let router = Router::shared();
    let led = router.send("GET", "/", &[("accept", "text/html,*/*;q=0.8")], None);
    assert_eq!((led.status, led.header("location")), (303, Some("/dashboard")));
    let page = router.get("/dashboard");
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    let html = page.text();
    let files = names(&html, &["src=\"", "href=\"dashboard", "href=\"/dashboard"]);
    assert!(files.len() >= 2, "{html}");
    let mut paths: Vec<String> = ["page.js", "page.css", "stream.js"]
        .iter()
        .map(|name| format!("/dashboard/{name}"))
        .collect();
    paths.push("/dashboard".to_owned());
    for path in paths {
        let reply = router.get(&path);
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.header("content-security-policy"), Some(POLICY), "{path}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(reply.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(reply.header("cache-control"), Some("no-cache"), "{path}");
    }
}

#[test]
fn a_file_that_a_browser_has_is_not_sent_again() {
    let router = Router::shared();
    let mut tags = Vec::new();
    for path in ["/dashboard", "/dashboard/page.js", "/dashboard/page.css"] {
        let tag = router.get(path).header("etag").unwrap().to_owned();
        let again = |tag: &str| router.send("GET", path, &[("if-none-match", tag)], None);
        let known = again(&tag);
        assert_eq!((known.status, known.body.len()), (304, 0), "{path}");
        assert_eq!(known.header("etag"), Some(&*tag));
        assert_eq!(again(&format!("\"other\", W/{tag}")).status, 304);
        assert_eq!(again("\"other\"").status, 200, "{path}");
        tags.push(tag);
    }
    tags.dedup();
    assert_eq!(tags.len(), 3, "each has its own");
}

#[test]
fn a_router_without_metrics_redirects_browsers_to_its_documentation() {
    let router = Router::start_with(&["--analytics", "off"]);
    assert!(router.write_user("ada", "Ada").status < 300);
    assert_eq!(router.get("/api/read?table=nope").status, 404);
    for path in [
        "/api/analytics/metrics",
        "/api/analytics/errors",
        "/api/analytics/stream",
        "/api/analytics/frames",
        "/metrics",
    ] {
        let reply = router.get(path);
        assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{path}: {}", reply.text());
        let problem = reply.json();
        assert!(problem["detail"].as_str().unwrap().contains("analytics is off"), "{problem}");
        assert!(problem["hint"].as_str().unwrap().contains("--analytics on"), "{problem}");
    }
    let led = router.send("GET", "/", &[("accept", "text/html")], None);
    assert_eq!((led.status, led.header("location")), (303, Some("/swagger-ui/")));
    let links = router.get("/").text();
    assert!(links.contains("/api/write") && links.contains("/swagger-ui/"), "{links}");
    assert!(!links.contains("/metrics") && !links.contains("/api/analytics"), "{links}");
}
