//! Client authority: issues certificates to clients of tests, revokes them, and connects with them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use super::guarded::write_private;
use crate::harness::{PATIENCE, Router};

/// Authority of the certificates of clients, in a folder with the certificate of the router.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// Certificate of a client, with its key.
pub(super) struct Client {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    pub(super) fn new() -> Self {
        let folder = crate::folders::temporary();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let authority = Self { issuer, folder };
        write_private(&authority.path("ca.pem"), authority.issuer.pem());
        write_private(&authority.path("cert.pem"), own.pem());
        write_private(&authority.path("key.pem"), key.serialize_pem());
        authority
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Issues a certificate of this serial number and with these names.
    pub(super) fn issue(&self, serial: u64, names: Vec<SanType>) -> Client {
        self.issue_until(serial, names, SystemTime::now() + Duration::from_secs(86_400))
    }

    pub(super) fn issue_until(&self, serial: u64, names: Vec<SanType>, end: SystemTime) -> Client {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.subject_alt_names = names;
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(1970, 1, 1) + end.duration_since(UNIX_EPOCH).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Client { certificate: certificate.der().clone(), key }
    }

    /// Writes the list of revoked certificates to `crl.pem`.
    pub(super) fn revoke(&self, serials: &[u64]) {
        let begin = date_time_ymd(2020, 1, 1);
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: begin,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: begin,
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(serials.len() as u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap();
        write_private(&self.path("crl.pem"), list.pem().unwrap());
    }

    /// Connects to a router, with or without a certificate. Under TLS 1.3 a refusal becomes known
    /// when the first response is read.
    pub(super) fn connect(&self, router: &Router, client: Option<&Client>) -> Connection {
        let own = CertificateDer::from_pem_file(self.path("cert.pem")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            None => config.with_no_client_auth(),
            Some(client) => {
                let key = PrivateKeyDer::try_from(client.key.serialize_der()).unwrap();
                config.with_client_auth_cert(vec![client.certificate.clone()], key).unwrap()
            }
        };
        let name = router.address().ip().into();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(router.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection(StreamOwned::new(connection, stream))
    }
}

/// Connection to a router, which sends one request after another.
pub(super) struct Connection(StreamOwned<ClientConnection, TcpStream>);

impl Connection {
    /// Sends a request, and returns the status and the body of its response.
    pub(super) fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> std::io::Result<(u16, String)> {
        let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{}content-length: {}\r\n\r\n{body}",
            lines.collect::<String>(),
            body.len()
        );
        self.0.write_all(head.as_bytes())?;
        self.0.flush()?;
        let mut received = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&received).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.to_ascii_lowercase();
                let length = length.split_once("content-length: ").unwrap().1;
                let length: usize = length.lines().next().unwrap().parse().unwrap();
                if body.len() >= length {
                    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                    return Ok((status, body.to_owned()));
                }
            }
            let mut part = [0; 4_096];
            let count = self.0.read(&mut part)?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            received.extend_from_slice(&part[..count]);
        }
    }

    pub(super) fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        self.try_send("GET", path, headers, "").unwrap()
    }
}
