//! Tests of the login: the dashboard of a router and of the service with access control, from the
//! first visit to the end of the session.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use shard_manager::access::key::NewApiKey;
use tempfile::TempDir;

use crate::access::barriers;
use crate::page::{DESK, NIGHT, PHONE, Page};
use crate::router::Router;
use crate::service::Service;

pub(crate) const LOCKED: &str = "document.documentElement.dataset.connection === 'locked'";
pub(crate) const LIVE: &str = "document.documentElement.dataset.connection === 'live'";
/// A key that may see figures.
const WATCHER: u8 = 1;
/// A key without rights.
const NOBODY: u8 = 2;
/// A key that may use the lab.
const STUDENT: u8 = 3;
const ROLES: &str = r#"[{"role":"watcher","grants":[],"scopes":["analytics","frames"]},
    {"role":"student","grants":[],"scopes":["lab"]}, {"role":"nobody","grants":[]}]"#;

fn key(number: u8) -> NewApiKey {
    NewApiKey::from_random(&[number; NewApiKey::RANDOM_LEN])
}

fn line(number: u8, role: &str) -> String {
    let key = key(number);
    format!("{} {} {role}\n", key.id().as_str(), key.digest().to_hex())
}

fn write_private(path: &Path, content: &str) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Files of keys and roles, and of the key that the service sends.
pub(crate) struct Files {
    folder: TempDir,
}

impl Files {
    pub(crate) fn write() -> Self {
        let files = Self { folder: crate::folders::temporary() };
        let keys = line(WATCHER, "watcher") + &line(NOBODY, "nobody") + &line(STUDENT, "student");
        write_private(&files.path("keys"), &keys);
        write_private(&files.path("roles.json"), ROLES);
        write_private(&files.path("key"), key(WATCHER).reveal());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the key of a caller with the scopes of the dashboard only.
    pub(crate) fn watcher() -> NewApiKey {
        key(WATCHER)
    }

    /// Returns the key of a caller with the scope of the lab only.
    pub(crate) fn student() -> NewApiKey {
        key(STUDENT)
    }

    fn router(&self) -> Router {
        self.router_with(&[])
    }

    /// Starts a router with access control and these flags.
    pub(crate) fn router_with(&self, flags: &[&str]) -> Router {
        let (keys, roles) = (self.path("keys"), self.path("roles.json"));
        let access = [
            "--access",
            "on",
            "--access-keys-file",
            keys.to_str().unwrap(),
            "--access-roles-file",
            roles.to_str().unwrap(),
        ];
        Router::start(&[&access, flags].concat())
    }

    fn service(&self, router: &Router, router_key: &str) -> Service {
        let path = |name: &str| self.path(name).display().to_string();
        let file = format!(
            "access = \"on\"\naccess_keys_file = \"{}\"\naccess_roles_file = \"{}\"\n{router_key}",
            path("keys"),
            path("roles.json")
        );
        Service::start(&[("north", router)], &file)
    }
}

/// Types a key into the field that has the focus, as a user does.
pub(crate) fn enter(page: &mut Page, key: &str) {
    assert_eq!(page.value("document.activeElement.id"), "login-key", "the field has the focus");
    page.type_text(key);
    page.press("Enter");
}

/// Checks that the browser complained of nothing but refused requests.
pub(crate) fn check_faults(page: &Page) {
    let is_refusal = |fault: &String| {
        let is_for_others = fault.contains("status of 403")
            && ["/api/moves", "/api/lab/"].iter().any(|path| fault.contains(path));
        fault.contains("status of 401") || is_for_others
    };
    let other: Vec<String> = page.faults().into_iter().filter(|fault| !is_refusal(fault)).collect();
    assert_eq!(other, Vec::<String>::new());
}

/// From the first visit to the end of the session, on a page of this origin.
fn check_login(origin: &str) {
    let mut page = Page::visit(origin, "/dashboard", PHONE);
    page.until("a login is needed", LOCKED);
    assert_eq!(page.text("#connection-text"), "not logged in");
    assert_eq!(page.value("document.getElementById('slots').checkVisibility()"), false);
    assert_eq!(page.value("document.getElementById('logout').hidden"), true);
    for screen in [PHONE, NIGHT, DESK] {
        page.look_on(screen);
        assert_eq!(barriers(&mut page), Vec::<String>::new(), "{} wide", screen.width);
        let wide = page.value("document.documentElement.scrollWidth - innerWidth");
        assert!(wide.as_i64().unwrap() <= 0, "{} wide: {wide} too much", screen.width);
    }
    enter(&mut page, key(9).reveal());
    let problem = "document.getElementById('login-problem').textContent";
    page.until("it is refused", &format!("{problem}.includes('not valid')"));
    // The wrong key is selected, so that the next one replaces it.
    enter(&mut page, key(WATCHER).reveal());
    page.until("it is live", LIVE);
    page.until("the form is gone", "document.getElementById('login').hidden");
    assert_eq!(page.value("document.getElementById('login-key').value"), "");
    assert_eq!(page.value("document.cookie"), "", "no script reads the session");
    let stored = page.value("JSON.stringify({...localStorage, ...sessionStorage})");
    assert!(!stored.as_str().unwrap().contains("tsr_"), "{stored}");
    page.command("Page.reload", &serde_json::json!({}));
    page.until("the session stays", LIVE);
    let note = "document.querySelector('#moves > .note').textContent";
    page.until("moves are for operators", &format!("{note}.endsWith('the scope operate.')"));
    page.until("one may log out", "!document.getElementById('logout').hidden");
    page.click_and_load("#logout");
    page.until("a login is needed again", LOCKED);
    assert_eq!(page.value("document.getElementById('foot-note').textContent"), "", "no figures");
    assert!(!page.asked().iter().any(|path| path.contains("tsr_")), "{:?}", page.asked());
    check_faults(&page);
}

#[test]
fn the_dashboard_of_a_router_requires_a_key_and_ends_the_session() {
    let files = Files::write();
    let router = files.router();
    check_login(&router.url(""));
}

#[test]
fn the_dashboard_of_the_service_does_the_same() {
    let files = Files::write();
    let router = files.router();
    let router_key = format!("router_key_file = \"{}\"\n", files.path("key").display());
    let service = files.service(&router, &router_key);
    check_login(&service.url());
}

#[test]
fn a_page_whose_key_is_revoked_requires_another_one() {
    let files = Files::write();
    let router = files.router();
    let mut page = Page::visit(&router.url(""), "/dashboard", DESK);
    page.until("a login is needed", LOCKED);
    enter(&mut page, key(NOBODY).reveal());
    let notice = "document.getElementById('notice').textContent";
    page.until("the scope is missing", &format!("{notice}.includes('analytics')"));
    page.click_and_load("#logout");
    page.until("a login is needed again", LOCKED);
    enter(&mut page, key(WATCHER).reveal());
    page.until("it is live", LIVE);
    write_private(&files.path("keys"), &line(NOBODY, "nobody"));
    page.until("the session has ended", LOCKED);
    assert_eq!(page.value("document.getElementById('slots').checkVisibility()"), false);
}

/// Authorize of Swagger UI sends the key with a call, and the page keeps it nowhere.
#[test]
fn swagger_ui_sends_the_key_that_was_entered() {
    let files = Files::write();
    let router = files.router();
    let mut page = Page::visit(&router.url(""), "/swagger-ui/", DESK);
    page.until(
        "it offers to authorize",
        "document.querySelector('.auth-wrapper .authorize') !== null",
    );
    page.value("document.querySelector('.auth-wrapper .authorize').click()");
    page.until("the field is shown", "document.querySelector('.auth-container input') !== null");
    page.value("document.querySelector('.auth-container input').focus()");
    page.type_text(key(WATCHER).reveal());
    page.value("document.querySelector('.auth-btn-wrapper .authorize').click()");
    page.value("document.querySelector('.auth-btn-wrapper .btn-done').click()");
    let call = "[...document.querySelectorAll('.opblock')].find((one) => \
                one.querySelector('.opblock-summary-path')?.dataset.path === '/api/access/me')";
    page.until(
        "the operation is listed",
        &format!("{call}?.querySelector('.opblock-summary-control') != null"),
    );
    page.value(&format!("{call}.querySelector('.opblock-summary-control').click()"));
    page.until(
        "it can be tried",
        &format!("{call}.querySelector('.try-out__btn, .execute') !== null"),
    );
    page.value(&format!(
        "(() => {{ const one = {call}; if (!one.querySelector('.execute')) one.querySelector('.try-out__btn').click(); }})()"
    ));
    page.until("it can be sent", &format!("{call}.querySelector('.execute') !== null"));
    page.value(&format!("{call}.querySelector('.execute').click()"));
    page.until(
        "the caller is shown",
        &format!("{call}.querySelector('.live-responses-table')?.textContent.includes('watcher')"),
    );
    let stored = page.value("JSON.stringify({...localStorage, ...sessionStorage})");
    assert!(!stored.as_str().unwrap().contains("tsr_"), "{stored}");
    assert_eq!(page.faults(), Vec::<String>::new());
}

#[test]
fn a_router_that_refuses_the_service_is_shown_with_the_remedy() {
    let files = Files::write();
    let router = files.router();
    let service = files.service(&router, "");
    let mut page = Page::visit(&service.url(), "/dashboard", DESK);
    page.until("a login is needed", LOCKED);
    enter(&mut page, key(WATCHER).reveal());
    let notice = "document.getElementById('notice').textContent";
    page.until("the remedy is shown", &format!("{notice}.includes('router_key_file')"));
    let choice = "document.querySelectorAll('#router-choice option')[1].textContent";
    page.until("the router is not called lost", &format!("{choice} === 'north (unauthorized)'"));
}
