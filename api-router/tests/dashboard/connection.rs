//! Tests of the browser's connection: how a browser reaches the page, the permissions of the page,
//! and its message when the router does not answer.

use serde_json::json;

use crate::load::Load;
use crate::page::{DESK, Page};
use crate::router::Router;

const STATE: &str = "document.documentElement.dataset.connection";

#[test]
fn a_browser_at_the_root_is_redirected_to_the_dashboard_which_loads_from_no_other_host() {
    let router = Router::start(&[]);
    let _load = Load::begin(&router);
    let mut page = Page::visit(&router.url(""), "/", DESK);
    page.until("it is live", &format!("{STATE} === 'live'"));
    assert_eq!(page.value("location.pathname"), "/dashboard");
    page.until("there is traffic", "document.querySelectorAll('#parts tbody tr').length > 0");
    assert_eq!(page.faults(), Vec::<String>::new());
    assert!(page.asked().iter().any(|path| path.starts_with("/api/analytics/stream")));
    assert!(
        !page.asked().iter().any(|path| path.starts_with("/api/analytics/alerts")),
        "a router has no rules"
    );
}

#[test]
fn the_page_may_run_and_reach_nothing_but_its_own() {
    let router = Router::start(&[]);
    let (status, headers) = router.headers("/dashboard");
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert_eq!(status, 200);
    assert_eq!(policy, analytics::dashboard::CONTENT_SECURITY_POLICY);
    let other = Router::start(&[]);
    let mut page = Page::open(&router, DESK);
    page.value(
        "(() => { const script = document.createElement('script'); script.textContent = 'window.broken = true';
            document.body.append(script);
            document.body.setAttribute('onclick', 'window.broken = true'); document.body.click(); })()",
    );
    assert_eq!(page.value("window.broken === undefined"), true);
    let reach = format!(
        "fetch({}, {{mode: 'no-cors'}}).then(() => 'reached', () => 'refused')",
        json!(other.url("/live"))
    );
    assert_eq!(page.value(&reach), "refused");
}

#[test]
fn an_unreachable_router_is_shown_as_lost_until_it_is_back() {
    let mut router = Router::start(&[]);
    let mut page = Page::open(&router, DESK);
    assert_eq!(page.value("document.getElementById('notice').hidden"), true);
    router.kill();
    page.until("it is lost", &format!("{STATE} === 'lost'"));
    let said = page.text("#connection-text");
    assert!(said.starts_with("lost · last seen "), "{said}");
    assert_eq!(page.value("document.getElementById('notice').hidden"), false);
    assert_eq!(page.value("document.title"), "lost · Tessera");
    // What goes through a proxy that keeps answers back gets no events.
    page.command("Network.setBlockedURLs", &json!({"urls": ["*/api/analytics/stream*"]}));
    router.come_back();
    page.until("it polls", &format!("{STATE} === 'polling'"));
    for n in 0..5 {
        assert_eq!(router.write_user(&format!("user_{n}")), 201);
    }
    page.until(
        "figures come",
        "document.querySelector('[data-figure=errors] .tile-note').textContent.endsWith(' of 5')",
    );
    page.command("Network.setBlockedURLs", &json!({"urls": []}));
    page.until("it is live again", &format!("{STATE} === 'live'"));
    assert_eq!(page.text("#connection-text"), "live");
}

#[test]
fn nothing_is_requested_while_the_page_is_hidden() {
    let router = Router::start(&[]);
    let mut page = Page::open(&router, DESK);
    let see = |hidden: bool| {
        format!(
            "Object.defineProperty(document, 'hidden', {{value: {hidden}, configurable: true}}),
                document.dispatchEvent(new Event('visibilitychange'))"
        )
    };
    page.value(&see(true));
    assert_eq!(page.value(STATE), "resting");
    page.wait_for_the_end_of_the_stream();
    page.value(&see(false));
    page.until("it is live again", &format!("{STATE} === 'live'"));
    page.click("#pause");
    assert_eq!(page.value(STATE), "paused");
    page.wait_for_the_end_of_the_stream();
    page.click("#pause");
    page.until("it is live again", &format!("{STATE} === 'live'"));
}

#[test]
fn a_window_is_chosen_and_kept_in_the_address() {
    let router = Router::start(&[]);
    let mut page = Page::open(&router, DESK);
    page.click("#window input[value='15m']");
    page.until(
        "it is shown",
        "document.getElementById('traffic-note').textContent.endsWith('the last 15 min')",
    );
    assert_eq!(page.value("location.hash"), "#window=15m");
    page.until("it is requested", &format!("{STATE} === 'live'"));
    assert!(
        page.asked().iter().any(|path| path == "/api/analytics/stream?window=15m"),
        "{:?}",
        page.asked()
    );
    assert_eq!(page.faults(), Vec::<String>::new());
}
