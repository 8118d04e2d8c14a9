//! Tests of tenants: they are compared byte by byte, and a tenant never reaches the keys of
//! another.

use access::grant::KeyBinding;
use access::tenant::{TenantError, Tenants};

fn prefixes<'t>(tenants: &'t Tenants) -> KeyBinding<'t> {
    KeyBinding::Prefixes { tenants: tenants.as_slice(), separator: ':' }
}

#[test]
fn malformed_tenants_are_refused() {
    let many: Vec<String> = (0..17).map(|number| number.to_string()).collect();
    assert_eq!(Tenants::parse([""]), Err(TenantError::Empty));
    assert_eq!(Tenants::parse(["a\0"]), Err(TenantError::ControlCharacter));
    assert_eq!(Tenants::parse(["a\u{85}"]), Err(TenantError::ControlCharacter));
    assert_eq!(Tenants::parse([&*"x".repeat(201)]), Err(TenantError::TooLong { len: 201 }));
    assert_eq!(Tenants::parse(many.iter().map(String::as_str)), Err(TenantError::TooMany));
    assert!(Tenants::parse(many[..16].iter().map(String::as_str)).is_ok());
    assert!(Tenants::parse([&*"é".repeat(100)]).is_ok());
}

#[test]
fn tenant_acme_has_no_keys_of_acme2() {
    let acme = Tenants::parse(["acme"]).unwrap();
    let own = prefixes(&acme);
    assert!(own.admits("acme:1") && own.admits("acme:") && own.admits("acme:x:1"));
    for key in ["acme", "acme2", "acme2:1", "acm", "ACME:1", " acme:1", ":acme:1", ""] {
        assert!(!own.admits(key), "{key}");
    }
    let equal = KeyBinding::Keys(acme.as_slice());
    assert!(equal.admits("acme"));
    for key in ["acme2", "acme:1", "Acme", "acme ", ""] {
        assert!(!equal.admits(key), "{key}");
    }
}

#[test]
fn a_tenant_with_the_separator_has_no_keys_of_another() {
    let inner = Tenants::parse(["acme:x"]).unwrap();
    assert_eq!(inner.check_separators([':']), Err(TenantError::Separator { separator: ':' }));
    assert!(inner.check_separators(['/']).is_ok());
    assert!(!prefixes(&inner).admits("acme:x:1"));
}

#[test]
fn another_spelling_of_a_text_is_another_tenant() {
    let composed = Tenants::parse(["caf\u{e9}"]).unwrap();
    let decomposed = "cafe\u{301}";
    assert!(!KeyBinding::Keys(composed.as_slice()).admits(decomposed));
    assert!(!prefixes(&composed).admits(&format!("{decomposed}:1")));
    assert!(prefixes(&composed).admits("caf\u{e9}:1"));
}

#[test]
fn no_tenant_matches_nothing() {
    let none = Tenants::none();
    for key in ["", ":", "a", ":a"] {
        assert!(!prefixes(&none).admits(key) && !KeyBinding::Keys(none.as_slice()).admits(key));
    }
}
