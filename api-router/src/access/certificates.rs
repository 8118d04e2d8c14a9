//! Certificates: the TLS client certificate of a connection, and the caller that it identifies.
//!
//! **Invariant:** if the settings list any client, a certificate that was revoked, has expired, or
//! is named by no entry of the settings identifies no caller, also on a connection that was opened
//! earlier. A request with such a certificate is not treated as anonymous.
//! **Not here:** the handshake (`tls`), credentials in headers (`credentials`).

use std::any::Any;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;
use rustls::pki_types::CertificateDer;
use shard_manager::access::authenticator::Authenticator;
use shard_manager::access::caller::{Caller, Principal};
use shard_manager::access::snapshot::CallerIdentity;
use shard_manager::access::unix_time::UnixTime;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::access_problems;
use crate::config::{CertificateConfig, NameKind, SubjectName};
use crate::problem::Problem;
use crate::tls::client_authority::ClientAuthority;

/// Certificate of a connection, which was verified when the connection was opened.
pub struct ClientCertificate {
    authority: Arc<ClientAuthority>,
    chain: Vec<CertificateDer<'static>>,
    names: Vec<SubjectName>,
    /// Time from which the certificate is refused because it has expired.
    ends_at: UnixTime,
    known: Mutex<Known>,
}

/// Results of earlier checks of a certificate, so that they are not repeated for each request.
#[derive(Default)]
struct Known {
    /// Generation of the certificate authority under which the certificate was last found valid.
    authority: u64,
    /// Caller, and the generation of keys, roles and issuers under which it was found.
    caller: Option<(u64, Arc<Caller>)>,
}

/// Clients that the settings identify by their certificates.
#[derive(Debug, Default)]
pub struct CertificateClients(Vec<CertificateConfig>);

/// Reason why a certificate identifies no caller.
enum Unidentified {
    /// No entry of the settings has one of its names.
    Unknown,
    /// Several entries have one of its names, and their roles or tenants differ.
    Ambiguous,
}

impl ClientCertificate {
    /// Stores the client certificate of a new connection, if there is one, in the data of the
    /// connection.
    pub fn attach(authority: &Arc<ClientAuthority>, connection: &dyn Any, data: &mut Extensions) {
        let stream = connection.downcast_ref::<TlsStream<TcpStream>>();
        let chain = stream.and_then(|stream| stream.get_ref().1.peer_certificates());
        let Some(chain) = chain.filter(|chain| !chain.is_empty()) else { return };
        let known = Known { authority: authority.generation(), caller: None };
        let (names, ends_at) = read(&chain[0]).unwrap_or_default();
        data.insert(Arc::new(Self {
            authority: Arc::clone(authority),
            chain: chain.iter().map(|one| one.clone().into_owned()).collect(),
            names,
            ends_at,
            known: Mutex::new(known),
        }));
    }
}

/// Returns the names of a certificate and the time at which it expires. Unreadable names are left
/// out.
fn read(certificate: &CertificateDer<'_>) -> Option<(Vec<SubjectName>, UnixTime)> {
    let read = Certificate::from_der(certificate).ok()?.tbs_certificate;
    // The verifier accepts a certificate during the last second of its validity, so this does too.
    let last = UnixTime::from_seconds(read.validity.not_after.to_unix_duration().as_secs());
    let names = read.get::<SubjectAltName>().ok().flatten();
    let names = names.map_or_else(Vec::new, |(_, names)| names.0);
    Some((names.iter().filter_map(subject_name).collect(), last.plus(1)))
}

fn subject_name(name: &GeneralName) -> Option<SubjectName> {
    let text = |kind, text: &str| Some(SubjectName { kind, text: text.to_owned() });
    if let GeneralName::DnsName(name) = name {
        text(NameKind::Dns, name.as_str())
    } else if let GeneralName::UniformResourceIdentifier(name) = name {
        text(NameKind::Uri, name.as_str())
    } else if let GeneralName::Rfc822Name(name) = name {
        text(NameKind::Email, name.as_str())
    } else if let GeneralName::IpAddress(bytes) = name {
        let four = <[u8; 4]>::try_from(bytes.as_bytes()).map(IpAddr::from);
        let address = four.or_else(|_| <[u8; 16]>::try_from(bytes.as_bytes()).map(IpAddr::from));
        text(NameKind::Ip, &address.ok()?.to_canonical().to_string())
    } else {
        None
    }
}

impl CertificateClients {
    /// Creates the clients that the settings list.
    pub fn new(clients: Vec<CertificateConfig>) -> Self {
        Self(clients)
    }

    /// Returns true if the settings list no client: certificates then protect connections, but
    /// identify no caller.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the caller that a certificate identifies.
    ///
    /// # Errors
    /// TSR401 if the certificate is no longer valid or identifies no caller, or the problem for
    /// which its caller is refused.
    pub fn caller(
        &self,
        current: &Authenticator,
        certificate: &ClientCertificate,
        now: UnixTime,
    ) -> Result<Arc<Caller>, Problem> {
        let mut known = certificate.known.lock().unwrap_or_else(PoisonError::into_inner);
        let authority = certificate.authority.generation();
        let is_valid = known.authority == authority
            || certificate.authority.is_valid(&certificate.chain, SystemTime::now());
        if !is_valid || now >= certificate.ends_at {
            return Err(access_problems::certificate(
                "the client certificate is not valid any more: connect with another one",
            ));
        }
        known.authority = authority;
        current.check_age(now).map_err(access_problems::refused)?;
        if let Some((generation, caller)) = &known.caller
            && *generation == current.generation()
        {
            return Ok(Arc::clone(caller));
        }
        let client = self.find(&certificate.names).map_err(|reason| {
            access_problems::certificate(match reason {
                Unidentified::Unknown => {
                    "the client certificate is valid, but the router knows none of its names"
                }
                Unidentified::Ambiguous => {
                    "the client certificate is valid, but its names are those of several clients"
                }
            })
        })?;
        let identity = CallerIdentity {
            principal: Principal::Certificate { name: client.name.to_string().into() },
            role: client.role.as_str().into(),
            tenants: client.tenants.clone(),
            expires_at: Some(certificate.ends_at),
        };
        let caller = current.authenticate_certificate(identity, now);
        let caller = caller.map_err(access_problems::refused)?;
        let caller = Arc::new(caller);
        known.caller = Some((current.generation(), Arc::clone(&caller)));
        Ok(caller)
    }

    fn find(&self, names: &[SubjectName]) -> Result<&CertificateConfig, Unidentified> {
        let mut found = self.0.iter().filter(|client| names.contains(&client.name));
        let first = found.next().ok_or(Unidentified::Unknown)?;
        let is_same = |other: &CertificateConfig| {
            other.role == first.role && other.tenants.as_slice() == first.tenants.as_slice()
        };
        if found.all(is_same) { Ok(first) } else { Err(Unidentified::Ambiguous) }
    }
}
