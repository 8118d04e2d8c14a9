//! Tests of https: the tester sends requests to a router whose certificate it trusts, and to no
//! other.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Output, Stdio};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use crate::router::{PROGRAM, bare_command, tester};
use crate::text;

/// Router with embedded shards and its own certificate. Dropping this value kills the router.
struct Router {
    child: Child,
    address: String,
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a certificate for this machine, and its key.
fn certify(folder: &Path, name: &str, is_authority: bool) {
    certify_for("127.0.0.1", folder, name, is_authority);
}

/// Writes a certificate for a host, and its key.
fn certify_for(host: &str, folder: &Path, name: &str, is_authority: bool) {
    let key = KeyPair::generate().unwrap();
    let mut certificate = CertificateParams::new(vec![host.to_owned()]).unwrap();
    if is_authority {
        certificate.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let certificate = certificate.self_signed(&key).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

fn start(folder: &Path) -> Router {
    let mut command = bare_command(&*PROGRAM);
    command.args(["--bind", "127.0.0.1:0", "--log", "error"]).current_dir(folder);
    command.args(["--tls-cert", "its.pem", "--tls-key", "its.key"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.trim_start().starts_with("API")).unwrap();
    let address = line.split_whitespace().nth(1).unwrap().to_owned();
    // The output is read to its end, because writing to a pipe without a reader would end the
    // program.
    std::thread::spawn(move || lines.count());
    Router { child, address }
}

fn verify(router: &Router, trusted: &Path) -> Output {
    let mut command = tester();
    command.env_remove("SSL_CERT_DIR").env("SSL_CERT_FILE", trusted);
    command.args(["--verify", "--users", "4", "--run-time", "1"]);
    command.args(["--host", &router.address]).output().unwrap()
}

#[test]
fn only_a_router_with_a_trusted_certificate_is_tested() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path(), "its", false);
    certify(folder.path(), "another", false);
    let router = start(folder.path());
    assert!(router.address.starts_with("https://"), "{}", router.address);
    let output = verify(&router, &folder.path().join("its.pem"));
    let (reported, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{reported} {said}");
    let output = verify(&router, &folder.path().join("another.pem"));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("the certificate of the router at https://"), "{said}");
    assert!(said.contains("this machine trusts has signed it"), "{said}");
    assert!(said.contains("SSL_CERT_FILE") && !said.contains("no router answers"), "{said}");
    let output = verify(&router, &folder.path().join("another.key"));
    let said = text(&output.stderr);
    assert!(said.contains("name a file of them by SSL_CERT_FILE"), "{said}");
}

/// The certificate is like one that openssl creates by default.
#[test]
fn a_certificate_of_an_authority_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path(), "its", true);
    let router = start(folder.path());
    let output = verify(&router, &folder.path().join("its.pem"));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("CA:TRUE") && said.contains("subjectAltName"), "{said}");
}

#[test]
fn a_certificate_for_another_host_is_refused_with_the_names_it_is_for() {
    let folder = tempfile::tempdir().unwrap();
    certify_for("other.example", folder.path(), "its", false);
    let router = start(folder.path());
    let output = verify(&router, &folder.path().join("its.pem"));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let reported = "is refused: it is made for other.example and not for 127.0.0.1";
    assert!(said.contains(reported), "{said}");
}
