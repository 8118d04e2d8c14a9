//! Tests of TLS: clients verify the router's certificate, and a renewed certificate needs no
//! restart.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::commands::PROGRAM;
use crate::harness::{PATIENCE, Router, bare_command, command, isolated, refused_start};

/// A folder with a certificate and its key; a client that trusts only this certificate can verify
/// the router.
struct CertificateFolder {
    folder: TempDir,
}

impl CertificateFolder {
    fn new() -> Self {
        let certificates = Self { folder: crate::folders::temporary() };
        certificates.renew();
        certificates
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Creates a new certificate for the same names, and keeps the previous one as `old.pem`.
    fn renew(&self) {
        if self.path("cert.pem").exists() {
            fs::copy(self.path("cert.pem"), self.path("old.pem")).unwrap();
        }
        let (certificate, key) = fresh();
        fs::write(self.path("cert.pem"), certificate).unwrap();
        fs::write(self.path("key.pem"), key).unwrap();
    }

    /// Returns a command that starts a router with this certificate and key.
    fn router(&self) -> Command {
        let mut command = command(&self.path("data"));
        command.arg("--tls-cert").arg(self.path("cert.pem"));
        command.arg("--tls-key").arg(self.path("key.pem"));
        command
    }

    /// Runs curl, which trusts only this certificate, and returns its output.
    fn curl(&self, trusted: &str, router: &Router, path: &str, more: &[&str]) -> Output {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "20", "--cacert"]);
        curl.arg(self.path(trusted)).args(more);
        curl.arg(format!("https://{}{path}", router.address())).output().unwrap()
    }

    fn is_proven_by(&self, trusted: &str, router: &Router) -> bool {
        self.curl(trusted, router, "/live", &["--fail"]).status.success()
    }
}

/// Returns a certificate for this machine that is its own authority, and its key.
fn fresh() -> (String, String) {
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_api_is_the_same_over_tls() {
    let certificates = CertificateFolder::new();
    let router = Router::start_command(certificates.router());
    let banner = router.banner();
    assert!(banner.contains(&format!("https://{}/", router.address())), "{banner}");
    assert!(!banner.contains("http://"), "{banner}");
    let row = json!({"table": "users", "data":
        {"user_id": "u", "name": "John", "email": "john@example.com"}});
    // A page of the router can write as well, and one of another origin cannot.
    for (origin, written) in [
        (format!("https://{}", router.address()), true),
        ("https://elsewhere.example".to_owned(), false),
    ] {
        let more = [
            "--header",
            "x-shard-key: u",
            "--header",
            "content-type: application/json",
            "--header",
            &format!("origin: {origin}"),
            "--data",
            &row.to_string(),
        ];
        let output = certificates.curl("cert.pem", &router, "/api/write", &more);
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
        assert_eq!(answer["success"], written, "{origin}: {answer}");
    }
}

#[test]
fn the_command_line_connects_by_tls_to_routers_that_it_trusts() {
    let certificates = CertificateFolder::new();
    let router = Router::start_command(certificates.router());
    let url = format!("https://{}", router.address());
    let ask = |trusted: &str, words: &[&str]| {
        let mut command = isolated(Command::new(&*PROGRAM), certificates.folder.path());
        command.args(words).args(["--url", &url]).env("SSL_CERT_FILE", certificates.path(trusted));
        let output = command.env_remove("SSL_CERT_DIR").output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, reported, said) = ask("cert.pem", &["status", "--json"]);
    assert_eq!(code, Some(0), "{reported} {said}");
    let (code, reported, said) = ask("cert.pem", &["generate", "--users", "10"]);
    assert_eq!(code, Some(0), "{reported} {said}");
    certificates.renew();
    let (code, reported, said) = ask("cert.pem", &["status"]);
    assert_ne!(code, Some(0), "{reported}");
    assert!(said.contains("no router answers at https://"), "{said}");
    let (_, _, said) = ask("key.pem", &["status"]);
    assert!(said.contains("name a file of them by SSL_CERT_FILE"), "{said}");
}

/// The certificate is like one that openssl creates with its defaults.
#[test]
fn the_command_line_shows_how_to_make_a_certificate_if_one_is_of_an_authority() {
    let certificates = CertificateFolder::new();
    let key = KeyPair::generate().unwrap();
    let mut certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    certificate.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = certificate.self_signed(&key).unwrap();
    fs::write(certificates.path("cert.pem"), certificate.pem()).unwrap();
    fs::write(certificates.path("key.pem"), key.serialize_pem()).unwrap();
    let router = Router::start_command(certificates.router());
    let mut command = isolated(Command::new(&*PROGRAM), certificates.folder.path());
    command.args(["status", "--url", &format!("https://{}", router.address())]);
    command.env("SSL_CERT_FILE", certificates.path("cert.pem")).env_remove("SSL_CERT_DIR");
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert!(!output.status.success(), "{said}");
    for part in ["CA:TRUE", "openssl req -x509", "subjectAltName", "CA:FALSE"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn the_command_line_refuses_a_port_that_is_none() {
    let folder = crate::folders::temporary();
    for port in ["99999", "0", ""] {
        let mut command = isolated(Command::new(&*PROGRAM), folder.path());
        command.args(["status", "--url", &format!("http://127.0.0.1:{port}")]);
        let output = command.output().unwrap();
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains("ports go from 1 to 65535"), "{said}");
    }
}

#[test]
fn a_probe_connects_by_tls_whatever_names_the_certificate_has() {
    let certificates = CertificateFolder::new();
    let router = Router::start_command(certificates.router());
    let mut probe = bare_command(certificates.folder.path());
    probe.args(["--probe", "ready", "--bind", &router.address().to_string()]);
    probe.arg("--tls-cert").arg(certificates.path("cert.pem"));
    probe.arg("--tls-key").arg(certificates.path("key.pem"));
    let output = probe.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// The functions of the script are defined by `help`, which does nothing else.
#[test]
fn the_setup_script_loads_demo_data_over_tls() {
    let certificates = CertificateFolder::new();
    let router = Router::start_command(certificates.router());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../setup.sh");
    let steps = r#"
        source "$0" help >/dev/null
        note_tls "$2"
        job=$$
        url=$(url_of "$1")
        wait_until_ready "$url"
        load_demo_data "$url"
        print_banner "$url" here
    "#;
    let settings = "tls_cert = cert.pem # .env\ntls_client_required = false # default";
    let address = router.address().to_string();
    let done = Command::new("bash").args(["-c", steps, script, &address, settings]).output();
    let done = done.unwrap();
    let said = (text(&done.stdout), text(&done.stderr));
    assert!(done.status.success(), "{said:?}");
    let line = format!("curl --insecure 'https://{address}/api/read?table=users");
    assert!(said.0.contains(&line), "{said:?}");
    let path = "/api/read?table=users&select=user_id&limit=1";
    let read = certificates.curl("cert.pem", &router, path, &["--header", "prefer: count=exact"]);
    let read: Value = serde_json::from_slice(&read.stdout).unwrap();
    assert_eq!(read["total"], 1_000, "{read}");
}

#[test]
fn clients_that_do_not_trust_the_certificate_or_use_no_tls_get_nothing() {
    let certificates = CertificateFolder::new();
    let router = Router::start_command(certificates.router());
    certificates.renew();
    fs::rename(certificates.path("old.pem"), certificates.path("its.pem")).unwrap();
    assert!(certificates.is_proven_by("its.pem", &router));
    assert!(!certificates.is_proven_by("cert.pem", &router), "another certificate proves nothing");
    let plain = router.raw(b"GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert!(!text(&plain).contains("HTTP/1.1 200"), "{}", text(&plain));
    assert!(certificates.is_proven_by("its.pem", &router), "other clients are not affected");
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_changes_nothing() {
    let certificates = CertificateFolder::new();
    let log = certificates.path("log");
    let router =
        Router::start_logging(certificates.router(), fs::File::create(&log).unwrap().into());
    let asked = |words: &str| {
        router.signal("HUP");
        wait_for(&log, words);
    };
    // The certificate is written and its key is not, as in the middle of a renewal.
    let (key, certificate) = (certificates.path("key.pem"), certificates.path("cert.pem"));
    let old_key = fs::read(&key).unwrap();
    certificates.renew();
    let new_key = fs::read(&key).unwrap();
    fs::write(&key, old_key).unwrap();
    asked("is not that of the certificate");
    assert!(certificates.is_proven_by("old.pem", &router), "the old pair goes on");
    fs::write(&key, new_key).unwrap();
    asked("the certificate is renewed");
    assert!(certificates.is_proven_by("cert.pem", &router));
    assert!(!certificates.is_proven_by("old.pem", &router));
    fs::copy(&certificate, certificates.path("good.pem")).unwrap();
    fs::write(&certificate, "-----BEGIN CERTIFICATE-----\nnonsense").unwrap();
    asked("its PEM is broken");
    fs::remove_file(&certificate).unwrap();
    asked("No such file");
    assert!(certificates.is_proven_by("good.pem", &router));
}

/// Waits until the log contains these words.
fn wait_for(log: &Path, words: &str) {
    let mut lines = BufReader::new(fs::File::open(log).unwrap());
    let (began, mut line) = (Instant::now(), String::new());
    while !line.contains(words) {
        assert!(began.elapsed() < PATIENCE, "the log never says: {words}");
        // The end of the file may be in the middle of a line.
        if line.ends_with('\n') {
            line.clear();
        }
        if lines.read_line(&mut line).unwrap() == 0 {
            std::thread::yield_now();
        }
    }
}

#[test]
fn files_that_are_no_pair_are_refused_at_the_start_by_name() {
    let certificates = CertificateFolder::new();
    let (_, other_key) = fresh();
    let file = |name: &str, content: &str| fs::write(certificates.path(name), content).unwrap();
    file("other.pem", &other_key);
    file("empty.pem", "");
    file("large.pem", &"x".repeat(2 << 20));
    file(
        "locked.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    for (certificate, key, message) in [
        ("cert.pem", "other.pem", "other.pem is not that of the certificate"),
        ("empty.pem", "key.pem", "empty.pem: there is no certificate in it"),
        ("key.pem", "key.pem", "key.pem: there is no certificate in it"),
        ("cert.pem", "cert.pem", "cert.pem: there is no private key in it"),
        (
            "cert.pem",
            "locked.pem",
            "locked.pem: there is no private key in it that has no passphrase",
        ),
        ("cert.pem", "large.pem", "large.pem: it has 2097152 bytes"),
        ("cert.pem", "nowhere.pem", "nowhere.pem: No such file"),
    ] {
        let mut start = command(&certificates.path("data"));
        start.arg("--tls-cert").arg(certificates.path(certificate));
        start.arg("--tls-key").arg(certificates.path(key)).stdout(Stdio::piped());
        let (code, said) = refused_start(start);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(message), "{message}: {said}");
        assert!(!said.contains("BEGIN"), "{said}");
    }
    for (flag, other) in [("--tls-cert", "tls_key"), ("--tls-key", "tls_cert")] {
        let mut start = command(&certificates.path("data"));
        start.arg(flag).arg(certificates.path("cert.pem"));
        let (code, said) = refused_start(start);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(&format!("also needs {other}")), "{said}");
    }
}
