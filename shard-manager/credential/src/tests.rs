//! Tests of credentials: their files, and the addresses that they are sent to.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn a_file_that_others_may_read_is_refused_by_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, " \n tsr_secret\r\n").unwrap();
    for mode in [0o600, 0o400] {
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let found = Credential::from_file(&path).unwrap();
        assert_eq!(found.bearer(), "Bearer tsr_secret");
    }
    for mode in [0o644, 0o604, 0o660, 0o601] {
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = Credential::from_file(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("mode {mode:o}")), "{error}");
        assert!(error.contains("key") && !error.contains("tsr_"), "{error}");
    }
    let error = Credential::from_file(dir.path()).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
    let error = Credential::from_file(&dir.path().join("none")).unwrap_err().to_string();
    assert!(error.contains("none") && error.contains("No such file"), "{error}");
}

#[test]
fn a_text_without_exactly_one_key_is_refused() {
    assert_eq!(Credential::parse(" \n"), Err(TextFault::Empty));
    assert_eq!(Credential::parse(&"a".repeat(8_193)), Err(TextFault::TooLong));
    assert!(Credential::parse(&"a".repeat(8_192)).is_ok());
    for bad in ["tsr_a tsr_b", "tsr_a\ntsr_b", "tsr_\u{e4}", "a\r\nx-role: admin", "a\0"] {
        assert_eq!(Credential::parse(bad), Err(TextFault::Characters), "{bad:?}");
    }
}

#[test]
fn no_debug_output_shows_it() {
    let credential = Credential::parse("tsr_canary").unwrap();
    assert_eq!(format!("{credential:?} {:?}", Some(&credential)), "*** Some(***)");
}

#[test]
fn it_is_sent_over_tls_or_to_this_machine_only() {
    for good in [
        "https://example.com",
        "HTTPS://example.com:8443/api",
        "http://127.0.0.1:3000",
        "http://127.9.9.9",
        "http://localhost:3000/",
        "http://LOCALHOST",
        "http://[::1]:3000",
        "http://[::ffff:127.0.0.1]",
    ] {
        assert_eq!(Credential::check_url(good), Ok(()), "{good}");
    }
    for bad in [
        "http://example.com",
        "http://10.0.0.1:3000",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://127.0.0.1@example.com",
        "http://127.0.0.1:80@example.com",
        "http://127.0.0.1\\@example.com",
        "http://127.0.0.1\\.example.com",
        "http://[::1]example.com",
        "http://[::2]",
        "http://2130706433",
        "http://0.0.0.0",
        "http://",
        "ftp://127.0.0.1",
        "127.0.0.1:3000",
        "",
    ] {
        let error = Credential::check_url(bad).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{bad}: a key is sent only by https")), "{error}");
    }
}
