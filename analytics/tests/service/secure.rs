//! Tests of https: the service collects only from a router with a valid certificate.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use crate::eventually;
use crate::process::{Service, command};
use crate::router::Router;

/// Writes a certificate for this machine, and its key.
fn certify(folder: &Path, name: &str, is_authority: bool) {
    let key = KeyPair::generate().unwrap();
    let mut certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    if is_authority {
        certificate.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let certificate = certificate.self_signed(&key).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

#[test]
fn only_routers_with_a_valid_certificate_are_collected_from() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path(), "its", false);
    certify(folder.path(), "another", false);
    let file = |name: &str| folder.path().join(name).display().to_string();
    let certificate = ["--tls-cert", &*file("its.pem"), "--tls-key", &*file("its.key")];
    let router = Router::serve(&folder.path().join("router"), "127.0.0.1:0", &certificate);
    let list = format!("north=https://{}", router.address);
    let start = |trusted: &str| {
        let mut command = command(folder.path());
        command.env("SSL_CERT_FILE", file(trusted)).args(["--routers", &*list, "--store", "none"]);
        Service::start_command(&mut command, folder.path())
    };
    let service = start("its.pem");
    service.await_router("north", true);
    assert_eq!(service.get("/api/shards").status, 200);
    let service = start("another.pem");
    let trouble =
        eventually("its trouble", || service.router("north")["error"].as_str().map(str::to_owned));
    assert!(trouble.contains("certificate"), "{trouble}");
}

/// The certificate is like one that openssl creates by default.
#[test]
fn a_certificate_of_an_authority_is_refused_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path(), "its", true);
    let file = |name: &str| folder.path().join(name).display().to_string();
    let certificate = ["--tls-cert", &*file("its.pem"), "--tls-key", &*file("its.key")];
    let router = Router::serve(&folder.path().join("router"), "127.0.0.1:0", &certificate);
    let list = format!("north=https://{}", router.address);
    let mut command = command(folder.path());
    command.env("SSL_CERT_FILE", file("its.pem")).args(["--routers", &*list, "--store", "none"]);
    let service = Service::start_command(&mut command, folder.path());
    let trouble =
        eventually("its trouble", || service.router("north")["error"].as_str().map(str::to_owned));
    for part in
        ["CA:TRUE", "openssl req -x509", "subjectAltName", "basicConstraints=critical,CA:FALSE"]
    {
        assert!(trouble.contains(part), "{trouble}");
    }
}
