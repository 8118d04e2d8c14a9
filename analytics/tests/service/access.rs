//! Tests of access control: the rights that the service requires, the sessions of browsers, and the
//! key that the service sends to routers.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use access::key::NewApiKey;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ED25519, SigningKey as _};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::json;
use tempfile::TempDir;

use crate::eventually;
use crate::fake::{Server, response};
use crate::http::{Answer, send};
use crate::process::{Service, refused};
use crate::router::Router;

const METRICS: &str = "/api/analytics/metrics";
const LOGIN: &str = "/api/session";
const ROLES: &str = r#"[{"role":"watcher","grants":[],"scopes":["analytics","frames"]},
    {"role":"nobody","grants":[]}]"#;
const WATCHER: u8 = 1;
const NOBODY: u8 = 2;
const SCRAPER: u8 = 3;
const EXPIRED: u8 = 4;

fn key(number: u8) -> NewApiKey {
    NewApiKey::from_random(&[number; NewApiKey::RANDOM_LEN])
}

fn line(number: u8, role: &str, expires_at: Option<&str>) -> String {
    let key = key(number);
    let expires_at = expires_at.map(|time| format!(" - {time}")).unwrap_or_default();
    format!("{} {} {role}{expires_at}\n", key.id().as_str(), key.digest().to_hex())
}

fn lines() -> String {
    [
        line(WATCHER, "watcher", None),
        line(NOBODY, "nobody", None),
        line(SCRAPER, "scraper", None),
        line(EXPIRED, "admin", Some("1970-01-01T00:16:40Z")),
    ]
    .concat()
}

fn write_private(path: &Path, content: &str) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Creates a folder with the files of keys and roles, and with the key for routers.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_private(&folder.path().join("keys"), &lines());
    write_private(&folder.path().join("roles.json"), ROLES);
    write_private(&folder.path().join("router.key"), &format!("{}\n", key(WATCHER).reveal()));
    folder
}

/// Returns the arguments of a service with access control that collects from this URL.
fn arguments(url: &str) -> Vec<String> {
    let routers = format!("north={url}");
    let arguments = [
        "--routers",
        &routers,
        "--store",
        "none",
        "--access",
        "on",
        "--access-keys-file",
        "keys",
        "--access-roles-file",
        "roles.json",
    ];
    arguments.map(str::to_owned).to_vec()
}

fn start(folder: &Path, url: &str, more: &[&str]) -> Service {
    let arguments = arguments(url);
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Service::start(folder, &arguments)
}

/// Sends a request, and repeats it while it is refused because of too many failures (429).
fn sent(
    service: &Service,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    eventually("credentials that are not limited", || {
        let answer = send(service.address, (method, path), headers, body).unwrap();
        (answer.status != 429).then_some(answer)
    })
}

fn get(service: &Service, path: &str, text: Option<&str>) -> Answer {
    let value = text.map(|text| format!("Bearer {text}"));
    let headers: Vec<(&str, &str)> =
        value.as_deref().map(|value| ("Authorization", value)).into_iter().collect();
    sent(service, "GET", path, &headers, "")
}

fn status(service: &Service, path: &str, number: u8) -> u16 {
    get(service, path, Some(key(number).reveal())).status
}

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

fn login(service: &Service, text: &str, headers: &[(&str, &str)]) -> Answer {
    let headers = [&[("Content-Type", "application/json")], headers].concat();
    sent(service, "POST", LOGIN, &headers, &json!({ "key": text }).to_string())
}

#[test]
fn each_path_needs_its_scope_and_pages_need_none() {
    let folder = folder();
    let service = start(folder.path(), "http://127.0.0.1:9", &[]);
    for path in ["/", "/live", "/ready", "/dashboard", "/dashboard/page.js", "/errors/TSR401"] {
        assert_eq!(get(&service, path, None).status, 200, "{path}");
    }
    let document = get(&service, "/api-docs/openapi.json", None).json();
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.contains_key(LOGIN));
    for path in paths
        .keys()
        .filter(|path| path.starts_with("/api/") && *path != LOGIN && !path.ends_with(".json"))
    {
        let none = get(&service, path, None);
        assert_eq!(code(&none), (401, "TSR401".to_owned()), "{path}");
        assert_eq!(none.header("www-authenticate"), Some("Bearer realm=\"tessera\""), "{path}");
        let lacking = get(&service, path, Some(key(NOBODY).reveal()));
        assert_eq!(code(&lacking), (403, "TSR403".to_owned()), "{path}");
    }
    assert_eq!(status(&service, METRICS, WATCHER), 200);
    let operated = ["/api/shards", "/api/shard-map", "/api/groups", "/api/moves", "/api/rebalance"];
    let rebalance = "/api/rebalance/9b3e6c0a-52d4-4c5e-8f53-6d1b0c8f2a71";
    for path in operated.into_iter().chain([rebalance]) {
        assert_eq!(status(&service, path, WATCHER), 403, "{path}: a router needs operate for it");
    }
    assert_eq!(
        (status(&service, "/metrics", SCRAPER), status(&service, METRICS, SCRAPER)),
        (200, 403)
    );
    assert_eq!(status(&service, "/metrics", WATCHER), 403);
    assert_eq!(get(&service, "/nowhere", None).status, 401, "what is not listed is not open");
    assert_eq!(get(&service, "/%61pi/analytics/errors", None).status, 401);
}

#[test]
fn bad_credentials_are_refused_everywhere() {
    let folder = folder();
    let service = start(folder.path(), "http://127.0.0.1:9", &[]);
    let good = key(WATCHER);
    for text in ["x", "a.b.c", "tsr_", key(99).reveal(), &good.reveal()[1..]] {
        for path in [METRICS, "/live"] {
            let answer = get(&service, path, Some(text));
            assert_eq!(code(&answer), (401, "TSR401".to_owned()), "{path} {text}");
            assert!(answer.header("www-authenticate").unwrap().contains("invalid_token"));
            assert!(!answer.text().contains(text) || text == "x", "{}", answer.text());
        }
    }
    let expired = get(&service, METRICS, Some(key(EXPIRED).reveal()));
    assert!(expired.text().contains("expired"), "{}", expired.text());
    let basic = sent(&service, "GET", METRICS, &[("Authorization", "Basic YTpi")], "");
    assert_eq!(basic.status, 401);
    let value = format!("Bearer {}", good.reveal());
    let both = [("Authorization", &*value), ("Authorization", &*value)];
    assert_eq!(code(&sent(&service, "GET", METRICS, &both, "")), (400, "TSR113".to_owned()));
    let query = format!("{METRICS}?access_token={}", good.reveal());
    assert_eq!(code(&get(&service, &query, None)), (400, "TSR100".to_owned()));
    assert!(!service.said().contains(good.reveal()));
}

#[test]
fn a_browser_logs_in_reads_and_logs_out() {
    let folder = folder();
    let service = start(folder.path(), "http://127.0.0.1:9", &[]);
    let answer = login(&service, key(WATCHER).reveal(), &[]);
    assert_eq!((answer.status, &answer.json()["role"]), (200, &json!("watcher")));
    let cookie = answer.header("set-cookie").unwrap();
    for part in ["tessera_session=", "; HttpOnly", "; SameSite=Strict", "; Max-Age=3600"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let cookie = cookie.split(';').next().unwrap();
    assert_eq!(sent(&service, "GET", METRICS, &[("Cookie", cookie)], "").status, 200);
    assert_eq!(sent(&service, "HEAD", METRICS, &[("Cookie", cookie)], "").status, 200);
    let beside = format!("name=J\u{f6}rg; {cookie}");
    assert_eq!(sent(&service, "GET", METRICS, &[("Cookie", &beside)], "").status, 200);
    assert_eq!(sent(&service, "GET", "/metrics", &[("Cookie", cookie)], "").status, 403);
    assert_eq!(sent(&service, "POST", METRICS, &[("Cookie", cookie)], "").status, 405);
    let out = sent(&service, "DELETE", LOGIN, &[("Cookie", cookie)], "");
    assert_eq!(out.status, 204);
    assert!(out.header("set-cookie").unwrap().starts_with("tessera_session=; "));
    for forged in ["", "x", &cookie["tessera_session=".len() + 1..], "x; tessera_session=y"] {
        let forged = format!("tessera_session={forged}");
        let answer = sent(&service, "GET", METRICS, &[("Cookie", &forged)], "");
        assert_eq!(code(&answer), (401, "TSR401".to_owned()), "{forged}");
        assert!(answer.header("set-cookie").unwrap().contains("Max-Age=0"), "{forged}");
        let page = sent(&service, "GET", "/dashboard", &[("Cookie", &forged)], "");
        assert_eq!(page.status, 200, "{forged}");
    }
    for text in ["", "x", key(99).reveal(), key(EXPIRED).reveal()] {
        assert_eq!(code(&login(&service, text, &[])), (401, "TSR401".to_owned()), "{text}");
    }
    for origin in ["https://evil.example", "null"] {
        let foreign = login(&service, key(WATCHER).reveal(), &[("Origin", origin)]);
        assert_eq!(code(&foreign), (403, "TSR403".to_owned()), "{origin}");
        assert_eq!(foreign.header("set-cookie"), None, "{origin}");
    }
    let form = sent(&service, "POST", LOGIN, &[("Content-Type", "text/plain")], "{}");
    assert_eq!(code(&form), (415, "TSR107".to_owned()));
    let headers = [("Content-Type", "application/json")];
    let unknown = sent(&service, "POST", LOGIN, &headers, r#"{"key":"tsr_secret","x":1}"#);
    assert_eq!(code(&unknown), (400, "TSR101".to_owned()));
    assert!(!unknown.text().contains("tsr_secret"), "{}", unknown.text());
    // Each process has its own secret for sessions, so a session of another process is not valid.
    let other = start(folder.path(), "http://127.0.0.1:9", &[]);
    assert_eq!(sent(&other, "GET", METRICS, &[("Cookie", cookie)], "").status, 401);
}

/// Returns a token with these claims, signed with the key pair that is derived from the number
/// `signer`.
fn token(signer: u8, claims: &serde_json::Value) -> String {
    let message = [r#"{"alg":"EdDSA","kid":"one"}"#, &claims.to_string()]
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".");
    let signature = signing_key(signer).sign(message.as_bytes()).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn signing_key(number: u8) -> KeyPair {
    // These are the bytes of an Ed25519 key in PKCS#8 that precede the secret.
    let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let der: Vec<u8> = head.into_iter().chain([number; 32]).collect();
    let der = PrivatePkcs8KeyDer::from(der);
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519).unwrap()
}

#[test]
fn tokens_of_issuers_are_accepted_with_keys_of_files_and_addresses() {
    let folder = folder();
    let x = URL_SAFE_NO_PAD.encode(signing_key(1).public_key_raw());
    let jwks =
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "one", "x": x}]}).to_string();
    write_private(&folder.path().join("jwks.json"), &jwks);
    let keys = Server::start(move |_| Some(response(200, &jwks)));
    let section = |name: &str, source: &str| {
        format!(
            "[[issuer]]\nissuer = \"https://{name}.example\"\naudience = \"figures\"\n\
             algorithms = [\"EdDSA\"]\n{source}\nrole_claim = \"/role\"\n\
             roles = [\"watcher\", \"nobody\"]\n"
        )
    };
    let text = section("file", "jwks_file = \"jwks.json\"")
        + &section("remote", &format!("jwks_url = \"http://{}/keys\"", keys.0));
    write_private(&folder.path().join("analytics.toml"), &text);
    let service = start(folder.path(), "http://127.0.0.1:9", &[]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = |name: &str, role: &str, exp: u64| {
        let issuer = format!("https://{name}.example");
        json!({"iss": issuer, "aud": "figures", "sub": "ann", "iat": now - 60, "exp": exp, "role": role})
    };
    let status = |signer: u8, claims: serde_json::Value| {
        get(&service, METRICS, Some(&token(signer, &claims))).status
    };
    let later = now + 600;
    eventually("the keys of the issuer", || {
        (status(1, claims("remote", "watcher", later)) == 200).then_some(())
    });
    for name in ["file", "remote"] {
        assert_eq!(status(1, claims(name, "watcher", later)), 200, "{name}");
        assert_eq!(status(1, claims(name, "nobody", later)), 403, "{name}");
        assert_eq!(status(2, claims(name, "watcher", later)), 401, "{name}: another key");
        assert_eq!(status(1, claims(name, "watcher", now - 60)), 401, "{name}: expired");
    }
    assert_eq!(status(1, claims("other", "watcher", later)), 401, "no such issuer");
    // A changed file of keys is read again.
    let x = URL_SAFE_NO_PAD.encode(signing_key(3).public_key_raw());
    let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "one", "x": x}]});
    write_private(&folder.path().join("jwks.json"), &jwks.to_string());
    eventually("the new key", || {
        (status(3, claims("file", "watcher", later)) == 200).then_some(())
    });
    assert_eq!(status(1, claims("file", "watcher", later)), 401);
    assert_eq!(status(1, claims("remote", "watcher", later)), 200);
}

#[test]
fn a_key_that_leaves_the_file_ends_its_sessions_and_streams() {
    let folder = folder();
    let service = start(folder.path(), "http://127.0.0.1:9", &[]);
    let answer = login(&service, key(WATCHER).reveal(), &[]);
    let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let mut stream = std::net::TcpStream::connect(service.address).unwrap();
    stream.set_read_timeout(Some(crate::PATIENCE)).unwrap();
    let head = format!(
        "GET /api/analytics/stream HTTP/1.1\r\nhost: {}\r\ncookie: {cookie}\r\nconnection: close\r\n\r\n",
        service.address
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut events = BufReader::new(stream);
    let mut event = String::new();
    while !event.starts_with("data: ") {
        event.clear();
        assert!(events.read_line(&mut event).unwrap() > 0, "the stream ended at once");
    }
    // A file that cannot be used changes nothing.
    write_private(&folder.path().join("keys"), "nonsense\n");
    eventually("the warning", || service.said().contains("were not read again").then_some(()));
    assert_eq!(status(&service, METRICS, WATCHER), 200);
    write_private(&folder.path().join("keys"), &line(NOBODY, "nobody", None));
    eventually("the end of the key", || (status(&service, METRICS, WATCHER) == 401).then_some(()));
    assert_eq!(sent(&service, "GET", METRICS, &[("Cookie", &cookie)], "").status, 401);
    let mut rest = Vec::new();
    events.read_to_end(&mut rest).expect("the stream ends in order");
}

#[test]
fn a_service_serves_on_after_a_hangup_signal() {
    let folder = folder();
    let nowhere = ["--routers", "north=http://127.0.0.1:9", "--store", "none"];
    let open = Service::start(folder.path(), &nowhere);
    let guarded = start(folder.path(), "http://127.0.0.1:9", &[]);
    for (service, words) in [
        (&open, "there is nothing to read again"),
        (&guarded, "keys and roles were checked: they are the same"),
    ] {
        service.signal("HUP");
        eventually(words, || service.said().contains(words).then_some(()));
        assert_eq!(service.get("/live").status, 200);
    }
    assert_eq!(open.end("TERM"), Some(0));
    assert_eq!(guarded.end("TERM"), Some(0));
}

#[test]
fn settings_that_would_expose_keys_or_have_no_effect_are_refused() {
    let folder = folder();
    let loose = folder.path().join("loose.key");
    std::fs::write(&loose, key(WATCHER).reveal()).unwrap();
    std::fs::set_permissions(&loose, std::fs::Permissions::from_mode(0o644)).unwrap();
    let empty = folder.path().join("empty.key");
    write_private(&empty, "\n");
    let started = |more: &[&str]| {
        let (code, out, error) = refused(folder.path(), more);
        assert!(code.is_some_and(|code| code != 0), "{more:?}: {out}{error}");
        assert!(!(out + &error).contains(key(WATCHER).reveal()), "{more:?}: {error}");
        error
    };
    for (more, part) in [
        (&["--access", "maybe"][..], "off or on"),
        (&["--access", "on"], "access_keys_file"),
        (&["--access", "on", "--access-keys-file", "none"], "access_keys_file (none)"),
        (&["--access", "on", "--access-keys-file", "keys", "--bind", "0.0.0.0:0"], "in the clear"),
        (&["--access-keys-file", "keys"], "access_keys_file (from flag) is ignored while access"),
        (
            &["--access", "off", "--access-roles-file", "roles.json"],
            "access_roles_file (from flag) is ignored while access",
        ),
        (&["--router-key-file", "router.key", "--routers", "http://10.0.0.1:3000"], "in the clear"),
        (
            &["--router-key-file", "router.key", "--routers", "dns+http://routers:3000"],
            "in the clear",
        ),
        (
            &["--bind", "127.0.0.1:0", "--store", "none", "--router-key-file", "loose.key"],
            "set the mode to 600",
        ),
        (&["--bind", "127.0.0.1:0", "--store", "none", "--router-key-file", "empty.key"], "no key"),
    ] {
        let error = started(more);
        assert!(error.contains(part), "{more:?}: {error}");
    }
}

#[test]
fn routers_get_the_key_of_the_service() {
    let folder = folder();
    let keys = folder.path().join("keys").display().to_string();
    let roles = folder.path().join("roles.json").display().to_string();
    let flags = ["--access", "on", "--access-keys-file", &*keys, "--access-roles-file", &*roles];
    let router = Router::serve(&folder.path().join("router"), "127.0.0.1:0", &flags);
    let path = folder.path().join("router.key");
    write_private(&path, key(NOBODY).reveal());
    let of = |service: &Service| {
        let answer = get(service, METRICS, Some(key(WATCHER).reveal())).json();
        answer["metrics"]["routers"][0].clone()
    };
    let service = start(folder.path(), &router.url(), &["--router-key-file", "router.key"]);
    let refused = eventually("the refusal", || {
        Some(of(&service)).filter(|router| router["state"] == "unauthorized")
    });
    assert_eq!(refused["up"], false);
    assert!(refused["error"].as_str().unwrap().contains("the scope frames"), "{refused}");
    // The file is read again, so a rotated key needs no restart.
    write_private(&path, key(WATCHER).reveal());
    eventually("the new key", || (of(&service)["state"] == "up").then_some(()));
    let advice = get(&service, "/api/advice", Some(key(WATCHER).reveal()));
    assert_eq!(advice.status, 200, "it is sent with forwarded requests: {}", advice.text());
    let without = start(folder.path(), &router.url(), &[]);
    let refused = eventually("the refusal", || {
        Some(of(&without)).filter(|router| router["state"] == "unauthorized")
    });
    assert!(refused["error"].as_str().unwrap().contains("router_key_file"), "{refused}");
    for service in [&service, &without] {
        assert!(!service.said().contains(key(WATCHER).reveal()));
    }
}

/// The key is sent only to the configured router, and not to the target of a redirect.
#[test]
fn a_redirect_is_not_followed() {
    let folder = folder();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = std::sync::Arc::clone(&seen);
    let other = Server::start(move |request| {
        heard.lock().unwrap().push(request.header("authorization").map(str::to_owned));
        Some(response(200, "{}"))
    });
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (count, url) = (std::sync::Arc::clone(&asked), other.url());
    let router = Server::start(move |request| {
        let value = format!("Bearer {}", key(WATCHER).reveal());
        if request.header("authorization") == Some(&value) {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        let head = format!("HTTP/1.1 307 X\r\nlocation: {url}/\r\ncontent-length: 0\r\n\r\n");
        Some(head.into_bytes())
    });
    let _service = start(folder.path(), &router.url(), &["--router-key-file", "router.key"]);
    eventually("two requests with the key", || {
        (asked.load(std::sync::atomic::Ordering::SeqCst) > 1).then_some(())
    });
    assert_eq!(*seen.lock().unwrap(), Vec::<Option<String>>::new());
}
