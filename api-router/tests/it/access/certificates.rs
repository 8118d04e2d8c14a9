//! Tests of certificates of clients: they give a role by their names, and a certificate that is
//! revoked, expired or unknown gives none.

use std::fs::File;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rcgen::SanType;
use serde_json::{Value, json};

use super::client_authority::{Authority, Client};
use super::guarded::{reader, with_access, write_files, write_private};
use crate::backend;
use crate::config::{folder, refusal, shown};
use crate::harness::{Router, bare_command, eventually};

const ME: &str = "/api/access/me";
const READ: &str = "/api/read?table=users&shardKey=acme";
const ORIGIN: &str = "https://app.example.com";

const CLIENTS: &str = r#"
[[access.certificate]]
dns = "shop.example"
role = "shop"
tenant = "acme"

[[access.certificate]]
uri = "spiffe://example/reports"
role = "reader"

[[access.certificate]]
email = "ann@example.com"
role = "shop"
tenant = ["acme", "acme2"]

[[access.certificate]]
ip = "192.0.2.7"
role = "watcher"
"#;

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

/// Returns a command for a router with these clients, a certificate and the authority.
fn command(authority: &Authority, flags: &[&str]) -> Command {
    let folder = authority.folder();
    write_files(folder);
    write_private(&folder.join("access.toml"), CLIENTS);
    let mut command = backend::command(&folder.join("data"), flags);
    with_access(&mut command, folder, "on");
    command.arg("--cors-origins").arg(ORIGIN);
    for (flag, file) in
        [("--tls-cert", "cert.pem"), ("--tls-key", "key.pem"), ("--tls-client-ca", "ca.pem")]
    {
        command.arg(flag).arg(authority.path(file));
    }
    command
}

/// Starts a router whose log is the file `log`.
fn start(authority: &Authority, flags: &[&str]) -> Router {
    let log = File::create(authority.path("log")).unwrap();
    Router::start_logging(command(authority, flags), log.into())
}

fn me(authority: &Authority, router: &Router, client: &Client) -> Value {
    let (status, body) = authority.connect(router, Some(client)).get(ME, &[]);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn a_certificate_gives_the_role_and_the_tenants_of_its_name() {
    let authority = Authority::new();
    let router = start(&authority, &[]);
    let email = SanType::Rfc822Name("ann@example.com".try_into().unwrap());
    let ip = SanType::IpAddress("192.0.2.7".parse::<IpAddr>().unwrap());
    for (name, id, role, tenants) in [
        (dns("shop.example"), "dns:shop.example", "shop", json!(["acme"])),
        (uri("spiffe://example/reports"), "uri:spiffe://example/reports", "reader", json!([])),
        (email, "email:ann@example.com", "shop", json!(["acme", "acme2"])),
        (ip, "ip:192.0.2.7", "watcher", json!([])),
    ] {
        // Names without an entry are ignored.
        let client = authority.issue(1, vec![dns("other.example"), name]);
        let me = me(&authority, &router, &client);
        assert_eq!((&me["kind"], &me["id"]), (&json!("certificate"), &json!(id)), "{me}");
        assert_eq!((&me["role"], &me["tenants"]), (&json!(role), &tenants), "{me}");
    }
    let client = authority.issue(2, vec![dns("shop.example")]);
    let mut connection = authority.connect(&router, Some(&client));
    let mut write = |key: &str| {
        let row = json!({"table": "users", "data": {"user_id": key, "name": "N", "email": "e"}});
        let kind = [("content-type", "application/json")];
        connection.try_send("POST", "/api/write", &kind, &row.to_string()).unwrap()
    };
    assert_eq!(write("acme").0, 201, "{}", write("acme").1);
    assert_eq!(write("acme2").0, 403);
    assert_eq!(connection.get(READ, &[]).0, 200);
    assert_eq!(connection.get("/metrics", &[]).0, 403);
}

#[test]
fn a_header_comes_before_a_certificate_and_no_credentials_are_anonymous() {
    let authority = Authority::new();
    let router = start(&authority, &[]);
    let client = authority.issue(1, vec![dns("shop.example")]);
    let mut connection = authority.connect(&router, Some(&client));
    let key = format!("Bearer {}", reader().reveal());
    let (status, body) = connection.get(ME, &[("authorization", &key)]);
    assert!(status == 200 && body.contains("\"key\""), "{body}");
    let (status, body) = connection.get(ME, &[("authorization", "Bearer tsr_wrong")]);
    assert!(status == 401 && body.contains("TSR401"), "{body}");
    // A browser adds the certificate to requests of pages of other origins.
    let (status, body) = connection.get(READ, &[("origin", ORIGIN)]);
    assert!(status == 401 && body.contains("needs credentials"), "{body}");
    assert_eq!(connection.get(READ, &[]).0, 200);
    // Without a certificate a client needs a key, and open routes need nothing.
    let mut without = authority.connect(&router, None);
    let (status, body) = without.get(READ, &[]);
    assert!(status == 401 && body.contains("needs credentials"), "{body}");
    assert_eq!(without.get(READ, &[("authorization", &key)]).0, 200);
    assert_eq!(without.get("/live", &[]).0, 200);
}

#[test]
fn a_certificate_that_names_no_client_or_several_is_refused() {
    let authority = Authority::new();
    let router = start(&authority, &[]);
    let cases = [
        (vec![dns("other.example")], "knows none of its names"),
        (vec![dns("SHOP.example")], "knows none of its names"),
        (vec![dns("x.shop.example"), uri("dns:shop.example")], "knows none of its names"),
        (Vec::new(), "knows none of its names"),
        (vec![dns("shop.example"), uri("spiffe://example/reports")], "of several clients"),
    ];
    for (names, words) in cases {
        let client = authority.issue(1, names);
        let mut connection = authority.connect(&router, Some(&client));
        assert_eq!(connection.get("/live", &[]).0, 200, "everyone may send it");
        for path in [READ, ME] {
            let (status, body) = connection.get(path, &[]);
            assert!(status == 401 && body.contains("TSR401"), "{path}: {body}");
            assert!(body.contains(words), "{body}");
        }
        let key = format!("Bearer {}", reader().reveal());
        assert_eq!(connection.get(READ, &[("authorization", &key)]).0, 200);
    }
    // A certificate of another authority gets no connection.
    let foreign = Authority::new().issue(1, vec![dns("shop.example")]);
    let refused = authority.connect(&router, Some(&foreign)).try_send("GET", ME, &[], "");
    refused.expect_err("the router trusts another authority");
}

#[test]
fn without_the_certificate_that_is_required_there_is_no_connection() {
    let authority = Authority::new();
    let router = start(&authority, &["--tls-client-required"]);
    let refused = authority.connect(&router, None).try_send("GET", "/live", &[], "");
    refused.expect_err("the client has no certificate");
    let client = authority.issue(1, vec![dns("shop.example")]);
    assert_eq!(me(&authority, &router, &client)["role"], "shop");
}

#[test]
fn a_revoked_certificate_is_refused_also_on_an_open_connection() {
    let authority = Authority::new();
    authority.revoke(&[]);
    let list = authority.path("crl.pem");
    let router = start(&authority, &["--tls-client-crl", list.to_str().unwrap()]);
    let (one, two) = (
        authority.issue(1, vec![dns("shop.example")]),
        authority.issue(2, vec![dns("shop.example")]),
    );
    let mut connection = authority.connect(&router, Some(&one));
    let mut other = authority.connect(&router, Some(&two));
    assert_eq!((connection.get(READ, &[]).0, other.get(READ, &[]).0), (200, 200));
    let logged = |words: &str| {
        router.signal("HUP");
        eventually(words, || {
            std::fs::read_to_string(authority.path("log")).unwrap().contains(words).then_some(())
        });
    };
    // A list that cannot be used changes nothing.
    write_private(&list, "-----BEGIN X509 CRL-----\nnonsense");
    logged("crl.pem: its PEM is broken");
    assert_eq!((connection.get(READ, &[]).0, other.get(READ, &[]).0), (200, 200));
    authority.revoke(&[1]);
    logged("revoked certificates of clients were read again and are in force");
    let (status, body) = connection.get(READ, &[]);
    assert!(status == 401 && body.contains("not valid any more"), "{body}");
    assert_eq!(other.get(READ, &[]).0, 200);
    let refused = authority.connect(&router, Some(&one)).try_send("GET", ME, &[], "");
    refused.expect_err("the certificate is revoked");
    assert_eq!(me(&authority, &router, &two)["role"], "shop");
}

#[test]
fn a_certificate_that_ends_is_refused_on_its_connection() {
    let authority = Authority::new();
    let router = start(&authority, &[]);
    let end = SystemTime::now() + Duration::from_secs(10);
    let client = authority.issue_until(1, vec![dns("shop.example")], end);
    let mut connection = authority.connect(&router, Some(&client));
    assert_eq!(connection.get(READ, &[]).0, 200);
    let body = eventually("the end of the certificate", || {
        let (status, body) = connection.get(READ, &[]);
        (status == 401).then_some(body)
    });
    assert!(body.contains("not valid any more"), "{body}");
    let refused = authority.connect(&router, Some(&client)).try_send("GET", ME, &[], "");
    refused.expect_err("the certificate has ended");
}

#[test]
fn wrong_settings_are_refused_by_name() {
    let authority = Authority::new();
    let path = |name: &str| authority.path(name).to_str().unwrap().to_owned();
    write_private(&authority.path("empty.pem"), "");
    let folder = folder();
    let refused = |flags: &[&str], text: &str| {
        write_private(&folder.path().join("tessera.toml"), text);
        let mut command = bare_command(folder.path());
        command.args(["--bind", "127.0.0.1:0"]).args(flags);
        refusal(command)
    };
    let (certificate, key, ca, empty) =
        (path("cert.pem"), path("key.pem"), path("ca.pem"), path("empty.pem"));
    let tls = ["--tls-cert", &*certificate, "--tls-key", &*key];
    let with = |flags: &[&str]| refused(&[&tls[..], flags].concat(), "");
    for (said, words) in [
        (refused(&["--tls-client-ca", &ca], ""), "tls_client_ca (from flag) needs tls_cert"),
        (
            with(&["--tls-client-required"]),
            "tls_client_required (from flag) also needs tls_client_ca",
        ),
        (with(&["--tls-client-crl", &ca]), "tls_client_crl (from flag) also needs tls_client_ca"),
        (with(&["--tls-client-ca", "missing.pem"]), "missing.pem: No such file"),
        (with(&["--tls-client-ca", &empty]), "empty.pem: there is no certificate"),
        (with(&["--tls-client-ca", &ca, "--tls-client-crl", "no.pem"]), "no.pem: No such file"),
        (
            with(&["--tls-client-ca", &ca, "--tls-client-crl", &empty]),
            "empty.pem: there is no list",
        ),
        (
            refused(&[&tls[..], &["--access", "on"]].concat(), CLIENTS),
            "access.certificate[1] (from tessera.toml) needs tls_client_ca",
        ),
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let all = [&tls[..], &["--tls-client-ca", &ca, "--access", "on"]].concat();
    for (lines, words) in [
        ("role = \"shop\"", "access.certificate[1] (from tessera.toml) needs one of dns, uri"),
        ("dns = \"a\"\nuri = \"b\"\nrole = \"shop\"", "needs one of dns, uri"),
        ("dns = \"a\"", "access.certificate[1].role"),
        ("dns = \"a\"\nrole = \"no such\"", "access.certificate[1].role"),
        ("dns = \"a\"\nrole = \"shopp\"", "access.certificate[1].role: there is no role `shopp`"),
        ("dns = \"*.example\"\nrole = \"reader\"", "access.certificate[1].dns"),
        ("ip = \"example\"\nrole = \"reader\"", "access.certificate[1].ip"),
        ("dns = \"\"\nrole = \"reader\"", "access.certificate[1].dns"),
        ("dns = \"a\"\nrole = \"reader\"\ntenant = \"\"", "access.certificate[1].tenant"),
        ("dns = \"a\"\nrol = \"reader\"", "did you mean role"),
        ("san = \"a\"\nrole = \"reader\"", "access.certificate[1].san"),
        (
            "dns = \"a\"\nrole = \"reader\"\n[[access.certificate]]\ndns = \"a\"\nrole = \"admin\"",
            "access.certificate[2].dns",
        ),
    ] {
        let said = refused(&all, &format!("[[access.certificate]]\n{lines}\n"));
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(refused(&all, "[access]\ncertificate = 1\n").contains("[[access.certificate]]"));
}

#[test]
fn the_sections_are_shown_with_their_members() {
    let authority = Authority::new();
    let shown = shown(command(&authority, &[]));
    for (name, value) in [
        ("access.certificate[1].dns", "shop.example"),
        ("access.certificate[1].role", "shop"),
        ("access.certificate[1].tenant", "acme"),
        ("access.certificate[2].uri", "spiffe://example/reports"),
        ("access.certificate[3].tenant", "acme,acme2"),
        ("access.certificate[4].ip", "192.0.2.7"),
        ("tls_client_required", "false"),
    ] {
        assert_eq!(shown[name].0, value, "{name}");
    }
}
