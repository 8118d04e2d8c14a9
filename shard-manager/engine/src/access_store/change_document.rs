//! JSON form of a change: the form in which a command sends a change to the process that has the
//! data directory open.
//!
//! **Invariant:** a document contains the digest of a new key, never its secret. It may contain the
//! session secret, because the receiving process stores that secret; only the owner of the socket
//! can read the document.
//! **Not here:** the socket (`sqlite::control`).

use access::denial::Denial;
use access::key::{KeyId, SecretDigest};
use access::role::AccessRole;
use access::session::SessionSeed;
use access::tenant::Tenants;
use access::unix_time::UnixTime;
use serde::{Deserialize, Serialize};

use super::change::{AccessChange, NewKey};
use super::mode::AccessMode;

/// Change as JSON.
#[derive(Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
enum ChangeDocument {
    CreateKey {
        id: String,
        sha256: String,
        role: String,
        tenants: Vec<String>,
        name: String,
        expires_at: Option<u64>,
    },
    RevokeKey {
        id: String,
    },
    RotateKey {
        id: String,
        successor: String,
        sha256: String,
        overlap_s: u64,
    },
    ResumeKey {
        id: String,
    },
    SuspendAllKeys {},
    PutRoles {
        documents: Vec<String>,
    },
    RemoveRole {
        role: String,
    },
    PutDenial {
        denial: String,
    },
    RemoveDenial {
        denial: String,
    },
    SetMode {
        mode: String,
    },
    ReplaceSessionSecret {
        secret: String,
    },
}

impl AccessChange {
    /// Returns the JSON of the change, which [`AccessChange::from_json`] reads.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&document(self)).expect("texts and numbers always serialise")
    }

    /// Reads the JSON of a change.
    ///
    /// # Errors
    /// A message that describes the fault.
    pub fn from_json(json: &str) -> Result<Self, String> {
        let document = serde_json::from_str(json).map_err(|error| error.to_string())?;
        change(document)
    }
}

fn document(change: &AccessChange) -> ChangeDocument {
    match change {
        AccessChange::CreateKey(key) => ChangeDocument::CreateKey {
            id: key.id.to_string(),
            sha256: key.digest.to_hex(),
            role: key.role.to_string(),
            tenants: key.tenants.as_slice().iter().map(|tenant| tenant.to_string()).collect(),
            name: key.name.to_string(),
            expires_at: key.expires_at.map(UnixTime::seconds),
        },
        AccessChange::RevokeKey(id) => ChangeDocument::RevokeKey { id: id.to_string() },
        AccessChange::RotateKey { id, successor, digest, overlap_s } => ChangeDocument::RotateKey {
            id: id.to_string(),
            successor: successor.to_string(),
            sha256: digest.to_hex(),
            overlap_s: *overlap_s,
        },
        AccessChange::ResumeKey(id) => ChangeDocument::ResumeKey { id: id.to_string() },
        AccessChange::SuspendAllKeys => ChangeDocument::SuspendAllKeys {},
        AccessChange::PutRoles(roles) => {
            ChangeDocument::PutRoles { documents: roles.iter().map(AccessRole::to_json).collect() }
        }
        AccessChange::RemoveRole(name) => ChangeDocument::RemoveRole { role: name.to_string() },
        AccessChange::PutDenial(denial) => ChangeDocument::PutDenial { denial: denial.to_json() },
        AccessChange::RemoveDenial(subject) => {
            let denial = Denial { subject: subject.clone(), until: None };
            ChangeDocument::RemoveDenial { denial: denial.to_json() }
        }
        AccessChange::SetMode(mode) => ChangeDocument::SetMode { mode: mode.name().to_owned() },
        AccessChange::ReplaceSessionSecret(seed) => {
            ChangeDocument::ReplaceSessionSecret { secret: seed.to_hex() }
        }
    }
}

fn change(document: ChangeDocument) -> Result<AccessChange, String> {
    let time = |seconds: Option<u64>| seconds.map(UnixTime::from_seconds);
    Ok(match document {
        ChangeDocument::CreateKey { id, sha256, role, tenants, name, expires_at } => {
            let tenants = Tenants::parse(tenants.iter().map(String::as_str));
            AccessChange::CreateKey(NewKey {
                id: key_id(&id)?,
                digest: digest(&sha256)?,
                role: role.into(),
                tenants: tenants.map_err(|error| error.to_string())?,
                name: name.into(),
                expires_at: time(expires_at),
            })
        }
        ChangeDocument::RevokeKey { id } => AccessChange::RevokeKey(key_id(&id)?),
        ChangeDocument::RotateKey { id, successor, sha256, overlap_s } => AccessChange::RotateKey {
            id: key_id(&id)?,
            successor: key_id(&successor)?,
            digest: digest(&sha256)?,
            overlap_s,
        },
        ChangeDocument::ResumeKey { id } => AccessChange::ResumeKey(key_id(&id)?),
        ChangeDocument::SuspendAllKeys {} => AccessChange::SuspendAllKeys,
        ChangeDocument::PutRoles { documents } => {
            let roles = documents.iter().map(|document| AccessRole::parse(document));
            let roles: Result<Vec<AccessRole>, _> = roles.collect();
            AccessChange::PutRoles(roles.map_err(|error| error.to_string())?)
        }
        ChangeDocument::RemoveRole { role } => AccessChange::RemoveRole(role.into()),
        ChangeDocument::PutDenial { denial: json } => AccessChange::PutDenial(denial(&json)?),
        ChangeDocument::RemoveDenial { denial: json } => {
            AccessChange::RemoveDenial(denial(&json)?.subject)
        }
        ChangeDocument::SetMode { mode } => AccessChange::SetMode(
            AccessMode::find(&mode).ok_or_else(|| "`mode` must be off or on".to_owned())?,
        ),
        ChangeDocument::ReplaceSessionSecret { secret } => {
            let seed = SessionSeed::parse_hex(&secret, 0);
            let malformed = || "`secret` has 64 hexadecimal digits".to_owned();
            AccessChange::ReplaceSessionSecret(seed.ok_or_else(malformed)?)
        }
    })
}

fn denial(json: &str) -> Result<Denial, String> {
    Denial::parse(json).map_err(|error| error.to_string())
}

fn key_id(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text).ok_or_else(|| format!("an id has {} letters and digits", KeyId::LEN))
}

fn digest(text: &str) -> Result<SecretDigest, String> {
    SecretDigest::parse_hex(text).ok_or_else(|| "`sha256` has 64 hexadecimal digits".to_owned())
}
