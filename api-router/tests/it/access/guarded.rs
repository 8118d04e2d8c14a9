//! Guarded routers: routers with access control, and the keys and tokens that tests send to them.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ED25519, SigningKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use shard_manager::access::key::NewApiKey;
use shard_manager::access::key_record::KeyRecord;
use shard_manager::access::keys_file;
use shard_manager::access::tenant::Tenants;
use shard_manager::access::unix_time::UnixTime;

use super::changed_claims::changed;
use crate::backend;
use crate::harness::{Reply, Router, eventually};

pub(super) const ISSUER: &str = "https://issuer.example";
pub(super) const AUDIENCE: &str = "tessera";

/// Roles of tests. `shop` is bound to the keys of a tenant, `nothing` has neither grant nor scope.
pub(super) const ROLES: &str = r#"[
  {"role":"shop","grants":[
    {"tables":["users","kv"],"may":["read","insert","update","delete"],"keys":"$tenant"}]},
  {"role":"nothing","grants":[]},
  {"role":"watcher","grants":[],"scopes":["analytics"]},
  {"role":"slow","grants":[{"tables":["*"],"may":["read","insert","update"],"keys":"*"}],
    "limits":{"requests_per_s":1,"burst":3}},
  {"role":"single","grants":[{"tables":["*"],"may":["read","insert","update"],"keys":"*"}],
    "limits":{"concurrent":1}}
]"#;

/// Returns the key with this number, the same one in each run.
pub(super) fn key(number: u8) -> NewApiKey {
    let mut random = [number; NewApiKey::RANDOM_LEN];
    random[0] = 0x5a;
    NewApiKey::from_random(&random)
}

pub(super) fn admin() -> NewApiKey {
    key(1)
}

pub(super) fn reader() -> NewApiKey {
    key(2)
}

pub(super) fn bound() -> NewApiKey {
    key(3)
}

pub(super) fn powerless() -> NewApiKey {
    key(4)
}

pub(super) fn watcher() -> NewApiKey {
    key(5)
}

/// Returns a key that has expired.
pub(super) fn expired() -> NewApiKey {
    key(6)
}

/// Returns a key that may send one request in a second.
pub(super) fn slow() -> NewApiKey {
    key(7)
}

/// Returns a key that may send one request at a time.
pub(super) fn single() -> NewApiKey {
    key(8)
}

/// Returns the line of a key in a file of keys.
pub(super) fn line(key: &NewApiKey, role: &str, tenants: &[&str], expires: Option<u64>) -> String {
    keys_file::format(&KeyRecord {
        id: key.id(),
        digest: key.digest(),
        role: role.into(),
        tenants: Tenants::parse(tenants.iter().copied()).unwrap(),
        name: "test".into(),
        made_by: "test".into(),
        made_at: UnixTime::default(),
        expires_at: expires.map(UnixTime::from_seconds),
        revoked_at: None,
        is_suspended: false,
        used_on: None,
    })
}

/// Returns the lines of all keys.
pub(super) fn lines() -> String {
    let lines = [
        line(&admin(), "admin", &[], None),
        line(&reader(), "reader", &[], None),
        line(&bound(), "shop", &["acme"], None),
        line(&powerless(), "nothing", &[], None),
        line(&watcher(), "watcher", &[], None),
        line(&expired(), "admin", &[], Some(1_000)),
        line(&slow(), "slow", &[], None),
        line(&single(), "single", &[], None),
    ];
    lines.map(|line| line + "\n").concat()
}

/// A router with access control, and the folder of its files.
pub(super) struct Guarded {
    pub(super) router: Router,
    pub(super) folder: PathBuf,
}

/// Writes a file that only its owner may read.
pub(super) fn write_private(path: &Path, content: impl AsRef<[u8]>) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Writes the files of keys, roles and the issuer.
pub(super) fn write_files(folder: &Path) {
    write_private(&folder.join("keys"), lines());
    write_private(&folder.join("roles.json"), ROLES);
    write_private(&folder.join("jwks.json"), Signer::new().document());
    let issuer = format!(
        "[[access.issuer]]\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\nalgorithms = [\"EdDSA\"]\n\
         jwks_file = \"{}\"\nrole_claim = \"/role\"\ntenant_claim = \"/tenant\"\n",
        folder.join("jwks.json").display()
    );
    write_private(&folder.join("access.toml"), issuer);
}

/// Adds the flags of access control to a command.
pub(super) fn with_access(command: &mut Command, folder: &Path, mode: &str) {
    command.args(["--access", mode, "--access-keys-file"]).arg(folder.join("keys"));
    command.arg("--access-roles-file").arg(folder.join("roles.json"));
    command.arg("--config").arg(folder.join("access.toml"));
}

/// Starts a router over the data in this folder, which has the files of access control.
pub(super) fn start_in(folder: &Path) -> Router {
    let mut command = backend::command(&folder.join("data"), &[]);
    with_access(&mut command, folder, "on");
    Router::start_command(command)
}

impl Guarded {
    /// Writes the files of access control and starts a router over the data in this folder, which
    /// outlives the router.
    pub(super) fn start_in(folder: &Path) -> Self {
        write_files(folder);
        Self { router: start_in(folder), folder: folder.to_owned() }
    }

    pub(super) fn start(mode: &str, flags: &[&str]) -> Self {
        let mut folder = PathBuf::new();
        let router = Router::start_owning(|data_dir| {
            data_dir.parent().unwrap().clone_into(&mut folder);
            write_files(&folder);
            let mut command = backend::command(data_dir, flags);
            with_access(&mut command, &folder, mode);
            command
        });
        Self { router, folder }
    }

    /// Sends a request with these credentials.
    pub(super) fn send(&self, method: &str, path: &str, text: Option<&str>) -> Reply {
        self.send_with(method, path, text, &[], None)
    }

    /// Sends a request with these credentials, headers and body. If it is refused because of too
    /// many failed credentials, it is sent again, because such tests are not about that limit.
    pub(super) fn send_with(
        &self,
        method: &str,
        path: &str,
        text: Option<&str>,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Reply {
        let credentials = text.map(|text| format!("Bearer {text}"));
        let mut all = headers.to_vec();
        all.extend(credentials.as_deref().map(|value| ("authorization", value)));
        all.extend(body.map(|_| ("content-type", "application/json")));
        let body = body.map(Value::to_string);
        eventually("credentials that are not limited", || {
            let body = body.as_ref().map(|text| text.as_bytes());
            Some(self.router.send(method, path, &all, body)).filter(|reply| reply.status != 429)
        })
    }

    /// Sends a request, and returns the status and the code of its response, without waiting for
    /// the end of a stream.
    pub(super) fn outcome(
        &self,
        method: &str,
        path: &str,
        text: Option<&str>,
        body: Option<&str>,
    ) -> String {
        let credentials = text.map(|text| format!("authorization: Bearer {text}\r\n"));
        let body = body.unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-request-id: m\r\n{}\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            credentials.unwrap_or_default(),
            body.len()
        );
        let mut stream = self.router.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = BufReader::new(stream);
        let mut first = String::new();
        answer.read_line(&mut first).unwrap();
        let status = first.split(' ').nth(1).unwrap_or_default().to_owned();
        if status.starts_with('2') {
            return status;
        }
        let mut rest = Vec::new();
        let _ = answer.read_to_end(&mut rest);
        let rest = String::from_utf8_lossy(&rest);
        let code = rest.split_once("\"code\":\"").and_then(|(_, rest)| rest.split_once('"'));
        code.map_or(status.clone(), |(code, _)| format!("{status} {code}"))
    }
}

/// Issuer of tokens that are signed with Ed25519.
pub(super) struct Signer(KeyPair);

/// PKCS #8 of an Ed25519 key that is used in these tests only: its head, then the seed.
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

impl Signer {
    /// Returns the issuer that routers of tests know.
    pub(super) fn new() -> Self {
        Self::of_seed(7)
    }

    pub(super) fn of_seed(seed: u8) -> Self {
        let der: Vec<u8> = PKCS8_HEAD.into_iter().chain([seed; 32]).collect();
        let der = PrivatePkcs8KeyDer::from(der);
        Self(KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519).unwrap())
    }

    /// Returns the public key under this name.
    pub(super) fn jwk(&self, id: &str) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key_raw());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": x})
    }

    pub(super) fn document(&self) -> String {
        json!({"keys": [self.jwk("one")]}).to_string()
    }

    /// Signs a header and claims that are given as text, so that they may be malformed.
    pub(super) fn sign_text(&self, header: &str, claims: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = self.0.sign(message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        self.sign_text(r#"{"alg":"EdDSA","typ":"JWT","kid":"one"}"#, &claims.to_string())
    }
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Returns the claims of a valid token of the role `shop`.
pub(super) fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "jti": "t1",
        "iat": now() - 60, "exp": now() + 3_000, "role": "shop", "tenant": "acme",
    })
}

/// Returns valid claims with another value of a member; `null` removes it.
pub(super) fn claims_with(member: &str, value: Value) -> Value {
    changed(claims(), member, value)
}
