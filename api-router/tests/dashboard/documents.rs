//! Tests of the other HTML pages: each works completely under its content security policy.

use crate::page::{DESK, Page};
use crate::router::Router;

#[test]
fn swagger_ui_lists_operations_and_calls_them_under_its_policy() {
    let router = Router::start(&[]);
    let mut page = Page::visit(&router.url(""), "/swagger-ui/", DESK);
    page.until("it lists operations", "document.querySelectorAll('.opblock').length > 10");
    let live = "[...document.querySelectorAll('.opblock')].find((one) => \
                one.querySelector('.opblock-summary-path')?.dataset.path === '/live')";
    page.until(
        "the operation is listed",
        &format!("{live}.querySelector('.opblock-summary-control') !== null"),
    );
    page.value(&format!("{live}.querySelector('.opblock-summary-control').click()"));
    // Until its references are resolved, an operation can be clicked but is not found.
    let resolved = "window.ui.specSelectors.specResolvedSubtree(['paths', '/live', 'get'])";
    page.until("the operation is resolved", &format!("{resolved} != null"));
    page.until("it can be tried", &format!("{live}.querySelector('.execute') !== null"));
    page.value(&format!("{live}.querySelector('.execute').click()"));
    page.until(
        "the answer is shown",
        &format!("{live}.querySelector('.live-responses-table')?.textContent.includes('200')"),
    );
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn pages_of_errors_have_their_style_under_their_policy() {
    let router = Router::start(&[]);
    for path in ["/errors", "/errors/TSR101"] {
        let mut page = Page::visit(&router.url(""), path, DESK);
        assert_eq!(page.value("getComputedStyle(document.body).maxWidth"), "736px", "{path}");
        assert_eq!(page.faults(), Vec::<String>::new(), "{path}");
    }
}
