//! Tests of node addresses: how they are parsed, what is refused, and that no password is ever
//! shown.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use shard_manager::node_address::{Host, NodeAddress, NodeDefaults, Password, TlsMode};

fn parsed(text: &str) -> NodeAddress {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    text.parse::<NodeAddress>().map(|address| address.to_string()).unwrap_err().to_string()
}

fn host(host: &str, port: u16) -> Host {
    Host { host: host.to_owned(), port }
}

#[test]
fn an_address_is_read_as_libpq_reads_it() {
    let address = parsed(
        "postgresql://us%40er:p%3Ass%2F@db1,db2:5433/my%20db?sslmode=verify-ca&sslrootcert=/x.pem\
         &connect_timeout=7&application_name=blue",
    );
    assert_eq!(address.hosts, [host("db1", 5432), host("db2", 5433)]);
    assert_eq!((&*address.database, &*address.user), ("my db", "us@er"));
    assert_eq!(address.password.as_ref().unwrap().secret(), "p:ss/");
    assert_eq!(address.tls, TlsMode::VerifyCa);
    assert_eq!(address.root_certificates.as_deref(), Some(Path::new("/x.pem")));
    assert_eq!(address.connect_timeout, Some(Duration::from_secs(7)));
    assert_eq!(address.application.as_deref(), Some("blue"));
    assert_eq!(address.to_string(), "db1:5432,db2:5433/my db");

    for (text, hosts) in [
        ("postgres://u@[::1]:6000/d", vec![host("::1", 6000)]),
        ("postgres://u@[::1]/d", vec![host("::1", 5432)]),
        ("postgres:///d?user=u&host=a,b&port=1,2", vec![host("a", 1), host("b", 2)]),
        ("postgres:///d?user=u&host=a,b&port=9", vec![host("a", 9), host("b", 9)]),
        ("postgres://u@%2Frun%2Fpg:6/d", vec![host("/run/pg", 6)]),
        ("postgres://?host=/run/pg&user=u&dbname=d", vec![host("/run/pg", 5432)]),
    ] {
        assert_eq!(parsed(text).hosts, hosts, "{text}");
    }
    assert_eq!(parsed("postgres://u:a@b@h/d").password.unwrap().secret(), "a@b");
    assert_eq!(parsed("postgres://u@[::1]:6000/d").to_string(), "[::1]:6000/d");
}

#[test]
fn remote_connections_are_encrypted_and_verified_by_default() {
    for local in ["127.0.0.1", "localhost", "[::1]", "%2Frun%2Fpg", "127.0.0.1,localhost"] {
        assert_eq!(parsed(&format!("postgres://u@{local}/d")).tls, TlsMode::Prefer, "{local}");
    }
    for far in ["db1", "10.0.0.1", "127.0.0.1,db1"] {
        assert_eq!(parsed(&format!("postgres://u@{far}/d")).tls, TlsMode::VerifyFull, "{far}");
    }
    let defaults = NodeDefaults { tls: Some(TlsMode::Require), ..NodeDefaults::default() };
    assert_eq!(NodeAddress::parse("postgres://u@db1/d", &defaults).unwrap().tls, TlsMode::Require);
}

#[test]
fn sslrootcert_system_is_refused_with_modes_that_do_not_verify_certificates() {
    for (mode, tls) in [
        ("", TlsMode::VerifyFull),
        ("&sslmode=verify-ca", TlsMode::VerifyCa),
        ("&sslmode=verify-full", TlsMode::VerifyFull),
    ] {
        for host in ["127.0.0.1", "db1"] {
            let address = parsed(&format!("postgres://u@{host}/d?sslrootcert=system{mode}"));
            assert_eq!((address.tls, address.root_certificates), (tls, None), "{host} {mode}");
        }
    }
    let wanted = "sslmode must be verify-ca or verify-full where sslrootcert is system";
    let defaults = |tls: Option<TlsMode>, roots: &str| NodeDefaults {
        tls,
        root_certificates: Some(roots.into()),
        ..NodeDefaults::default()
    };
    for mode in [TlsMode::Disable, TlsMode::Prefer, TlsMode::Require] {
        let own = format!("postgres://u@db1/d?sslmode={mode}&sslrootcert=system");
        assert_eq!(refused(&own), wanted);
        // The two meet as well if one of them, or both, are defaults.
        let tls_alone = format!("postgres://u@db1/d?sslmode={mode}");
        for (text, defaults) in [
            (&*tls_alone, defaults(None, "system")),
            ("postgres://u@db1/d?sslrootcert=system", defaults(Some(mode), "/ca.pem")),
            ("postgres://u@db1/d", defaults(Some(mode), "system")),
        ] {
            let error = NodeAddress::parse(text, &defaults).unwrap_err();
            assert_eq!(error.to_string(), wanted, "{text} {defaults:?}");
        }
        // A file in the address takes the place of the default.
        let file = format!("postgres://u@db1/d?sslmode={mode}&sslrootcert=/x.pem");
        let address = NodeAddress::parse(&file, &defaults(None, "system")).unwrap();
        assert_eq!(address.root_certificates.as_deref(), Some(Path::new("/x.pem")));
    }
    let local = NodeAddress::parse("postgres://u@127.0.0.1/d", &defaults(None, "system")).unwrap();
    assert_eq!((local.tls, local.root_certificates), (TlsMode::VerifyFull, None));
}

#[test]
fn omitted_parts_of_an_address_come_from_the_defaults() {
    let defaults = NodeDefaults {
        user: Some("tessera".to_owned()),
        password: Some(Password::new("secret".to_owned())),
        tls: None,
        root_certificates: Some("/ca.pem".into()),
    };
    let address = NodeAddress::parse("postgres://db1/d", &defaults).unwrap();
    assert_eq!((&*address.user, address.password.unwrap().secret()), ("tessera", "secret"));
    assert_eq!(address.root_certificates.as_deref(), Some(Path::new("/ca.pem")));
    let own = "postgres://me:mine@db1/d?sslrootcert=system";
    let address = NodeAddress::parse(own, &defaults).unwrap();
    assert_eq!((&*address.user, address.password.unwrap().secret()), ("me", "mine"));
    assert_eq!(address.root_certificates, None);
}

#[test]
fn invalid_addresses_are_refused_with_a_remedy() {
    for (text, reported) in [
        ("mysql://u@h/d", "begins with postgres://"),
        ("postgres://h/d", "names a user"),
        ("postgres://u@h", "names a database"),
        ("postgres://u@/d", "names a host"),
        ("postgres://u@h,/d", "names a host"),
        ("postgres://u@h:0/d", "from 1 to 65535"),
        ("postgres://u@h:70000/d", "from 1 to 65535"),
        ("postgres://u@::1/d", "in brackets"),
        (
            "postgres://u@h/d?sslmod=x",
            "sslmod is not a parameter of an address; did you mean sslmode?",
        ),
        ("postgres://u@h/d?xyzzy=x", "there are: application_name, connect_timeout"),
        ("postgres://u@h/d?sslmode=on", "sslmode must be disable, prefer"),
        ("postgres://u@h/d?sslmode=allow", "sslmode must be disable, prefer"),
        ("postgres://u@h/d?connect_timeout=0", "seconds from 1 to 600"),
        ("postgres://u@h/d?host=g", "hosts once"),
        ("postgres:///d?user=u&host=a,b&port=1,2,3", "hosts once"),
        ("postgres://u@h/d?user=v", "user is given twice"),
        ("postgres://u@h/d?sslmode=disable&sslmode=require", "sslmode is given twice"),
        ("postgres://u:p@h/d?password_file=/x", "one password"),
        ("postgres://u%zz@h/d", "%25"),
        ("postgres://u%00@h/d", "%25"),
    ] {
        let said = refused(text);
        assert!(said.contains(reported), "{text}: {said}");
    }
}

#[test]
fn no_password_is_ever_shown_however_it_is_spelled() {
    for text in [
        "postgres://u:canary@h:1/d",
        "postgres://u@h:1/d?password=canary",
        "postgres://u:can%61ry@h:1,g/d?sslmode=require&application_name=a%26b",
    ] {
        let address = parsed(text);
        let shown = format!("{address} {address:?} {}", address.redacted());
        assert!(!shown.contains("canary") && shown.contains("***"), "{shown}");
        let again = parsed(&address.redacted());
        assert_eq!(again.password.as_ref().unwrap().secret(), "***");
        assert_eq!(
            NodeAddress { password: None, ..again },
            NodeAddress { password: None, ..address }
        );
    }
    // If an operator forgets to write `/` as %2F, the rest of the password must not appear in a
    // log.
    for text in [
        "postgres://u:canary/canary@h/d",
        "postgres://u:1/canary@h/d",
        "postgres://u:1?canary@h/d",
        "postgres://u:1?canary=canary@h/d",
        "postgres://u:canary%@h/d",
        "postgres://u:canary",
        "u:canary@h/d",
    ] {
        assert!(!refused(text).contains("canary"), "{text}: {}", refused(text));
    }
}

fn file(folder: &tempfile::TempDir, name: &str, text: &str, mode: u32) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_password_may_come_from_a_file_that_only_the_owner_can_read() {
    let folder = tempfile::tempdir().unwrap();
    let with = |parameter: &str, path: &str| format!("postgres://u@h:5/d?{parameter}={path}");
    let plain = file(&folder, "plain", "first: line\nsecond\n", 0o600);
    let secret = |text: &str| parsed(text).password.unwrap().secret().to_owned();
    assert_eq!(secret(&with("password_file", &plain)), "first: line");
    let lines = "# of libpq\nother:5:d:u:no\n*:5:*:u:a\\:b:c\n*:*:*:*:last\n";
    let passfile = file(&folder, "passfile", lines, 0o600);
    assert_eq!(secret(&with("passfile", &passfile)), "a:b:c");

    let long = "other:5:d:u:canary\n".repeat(4096) + "h:5:d:u:last\n";
    let long = file(&folder, "long", &long, 0o600);
    let said = refused(&with("passfile", &long));
    assert!(said.contains("longer than 65536 bytes") && !said.contains("canary"), "{said}");

    let open = file(&folder, "open", "canary\n", 0o644);
    let said = refused(&with("password_file", &open));
    assert!(said.contains("(its mode is 0644)") && said.contains("chmod 600"), "{said}");
    let empty = file(&folder, "empty", "\n", 0o600);
    assert!(refused(&with("password_file", &empty)).contains("nothing in its first line"));
    let none = file(&folder, "none", "h:6:d:u:canary\n", 0o600);
    let said = refused(&with("passfile", &none));
    assert!(said.contains("h:5:d:u") && !said.contains("canary"), "{said}");
    assert!(refused(&with("password_file", "/no/such/file")).contains("/no/such/file"));
    assert!(refused(&with("password_file", "/proc")).contains("not a regular file"));
}
