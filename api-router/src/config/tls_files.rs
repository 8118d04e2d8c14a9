//! TLS files: the settings that name certificates, keys and authorities.
//!
//! **Not here:** reading the files (`tls`).

use std::path::PathBuf;

use analytics::settings::Settings;

use super::ConfigError;
use super::sources::name_with_origin;
use crate::tls;

/// Returns the files of the certificate and the key: both or neither.
///
/// # Errors
/// [`ConfigError`], which names the setting that needs another one.
pub(super) fn tls_files(settings: &mut Settings<'_>) -> Result<Option<tls::TlsFiles>, ConfigError> {
    let mut file = |name: &'static str| {
        settings.optional(name, "none", |text| match text {
            "" => Err("a file".to_owned()),
            _ => Ok(PathBuf::from(text)),
        })
    };
    let (certificate, key) = (file("tls_cert")?, file("tls_key")?);
    let (authority, revoked) = (file("tls_client_ca")?, file("tls_client_crl")?);
    let clients = client_files(settings, authority, revoked)?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(tls::TlsFiles { certificate, key, clients })),
        (None, None) if clients.is_some() => {
            let given = name_with_origin(settings, "tls_client_ca").unwrap_or_default();
            Err(ConfigError(format!(
                "{given} needs tls_cert and tls_key: client certificates need TLS"
            )))
        }
        (None, None) => Ok(None),
        (given, _) => {
            let (name, other) = match given {
                Some(_) => ("tls_cert", "tls_key"),
                None => ("tls_key", "tls_cert"),
            };
            let given = name_with_origin(settings, name).unwrap_or_default();
            Err(ConfigError(format!(
                "{given} also needs {other}: a certificate and its private key"
            )))
        }
    }
}

/// Returns the files for client certificates. Without the authority, the other two settings would
/// have no effect, so they are refused.
fn client_files(
    settings: &mut Settings<'_>,
    authority: Option<PathBuf>,
    revoked: Option<PathBuf>,
) -> Result<Option<tls::ClientFiles>, ConfigError> {
    let is_required = settings.truth("tls_client_required")?;
    if let Some(authority) = authority {
        return Ok(Some(tls::ClientFiles { authority, revoked, is_required }));
    }
    let name = match (revoked, is_required) {
        (Some(_), _) => "tls_client_crl",
        (None, true) => "tls_client_required",
        (None, false) => return Ok(None),
    };
    let given = name_with_origin(settings, name).unwrap_or_default();
    Err(ConfigError(format!(
        "{given} also needs tls_client_ca: the authority that signs client certificates"
    )))
}
