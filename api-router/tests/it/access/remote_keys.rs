//! Tests of keys that are fetched from issuers: new ones are found, and an issuer that misbehaves
//! affects no other caller.

use std::fs::File;

use issuers::key_fetcher::RETRY_AFTER;
use serde_json::json;

use super::guarded::{
    AUDIENCE, Guarded, ISSUER, Signer, admin, claims, claims_with, reader, with_access,
    write_files, write_private,
};
use super::key_server::{KeyServer, Served};
use crate::backend;
use crate::harness::{Reply, Router, eventually};

const ME: &str = "/api/access/me";
const READ: &str = "/api/read?table=users";

fn issuer(name: &str, url: &str) -> String {
    format!(
        "[[access.issuer]]\nissuer = \"{name}\"\naudience = \"{AUDIENCE}\"\nalgorithms = [\"EdDSA\"]\n\
         jwks_url = \"{url}\"\nrole_claim = \"/role\"\ntenant_claim = \"/tenant\"\n"
    )
}

/// Starts a router with these issuers, whose log is the file `log`.
fn start(issuers: &str) -> Guarded {
    let data = crate::folders::temporary();
    let folder = data.path().to_owned();
    write_files(&folder);
    write_private(&folder.join("access.toml"), issuers);
    let mut command = backend::command(&folder.join("data"), &["--trusted-proxies", "127.0.0.1"]);
    with_access(&mut command, &folder, "on");
    let log = File::create(folder.join("log")).unwrap();
    Guarded { router: Router::start_logging(command, log.into()).owning(data), folder }
}

/// Sends a token once; unlike elsewhere, a refusal because of a limit is returned.
fn send(guarded: &Guarded, token: &str) -> Reply {
    send_from(guarded, "127.0.0.1", token)
}

/// Sends a token through a proxy as this client. Each client has its own limits.
fn send_from(guarded: &Guarded, client: &str, token: &str) -> Reply {
    let credentials = format!("Bearer {token}");
    let headers = [("authorization", &*credentials), ("x-forwarded-for", client)];
    guarded.router.send("GET", ME, &headers, None)
}

/// Sends a token that names a key that the issuer does not have.
fn forge(guarded: &Guarded, token: &str) {
    let reply = send_from(guarded, "198.51.100.1", token);
    assert!(matches!(reply.status, 401 | 429), "{}", reply.text());
}

fn logged(guarded: &Guarded, words: &str) -> usize {
    std::fs::read_to_string(guarded.folder.join("log")).unwrap().matches(words).count()
}

fn metric(guarded: &Guarded, name: &str) -> Option<f64> {
    let text = guarded.send("GET", "/metrics", Some(admin().reveal())).text();
    let begin = format!("{name}{{issuer=\"{ISSUER}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&begin)?.parse().ok())
}

fn signed(signer: &Signer, id: &str) -> String {
    let header = json!({"alg": "EdDSA", "typ": "JWT", "kid": id}).to_string();
    signer.sign_text(&header, &claims().to_string())
}

#[test]
fn nothing_is_known_before_the_first_keys_and_other_callers_are_served() {
    let server = KeyServer::start();
    server.serve("/keys", Served::Silence);
    let guarded = start(&issuer(ISSUER, &server.url("/keys")));
    let token = Signer::new().sign(&claims());
    let reply = guarded.send("GET", ME, Some(&token));
    assert_eq!((reply.status, &*reply.code()), (503, "TSR006"), "{}", reply.text());
    assert_eq!(reply.header("retry-after"), Some("10"));
    assert_eq!(guarded.send("GET", READ, Some(reader().reveal())).status, 200);
    assert_eq!(metric(&guarded, "tessera_access_issuer_up"), Some(0.0));
    assert_eq!(metric(&guarded, "tessera_access_issuer_age_seconds"), None);
    server.serve("/keys", Served::Document(Signer::new().document()));
    eventually("a token that is accepted", || (send(&guarded, &token).status == 200).then_some(()));
    // The outcome of a fetch is stored for the metrics after its keys are in force.
    eventually("the issuer is up", || {
        (metric(&guarded, "tessera_access_issuer_up") == Some(1.0)).then_some(())
    });
    eventually("the age of the keys", || metric(&guarded, "tessera_access_issuer_age_seconds"));
}

/// Keys are rotated, and meanwhile a client floods the router with names of keys that do not exist.
#[test]
fn new_keys_are_found_and_a_flood_of_unknown_ones_is_no_flood_of_the_issuer() {
    let (server, old, new) = (KeyServer::start(), Signer::new(), Signer::of_seed(9));
    server.serve("/keys", Served::Document(old.document()));
    let guarded = start(&issuer(ISSUER, &server.url("/keys")));
    let first = old.sign(&claims());
    eventually("the first keys", || (send(&guarded, &first).status == 200).then_some(()));
    let both = json!({"keys": [old.jwk("one"), new.jwk("two")]}).to_string();
    server.serve("/keys", Served::Document(both));
    let names =
        ["../../keys", "http://127.0.0.1:1/keys", "file:///etc/passwd", "' OR 1=1 --", "\0"];
    let (second, mut number) = (signed(&new, "two"), 0);
    eventually("the second keys", || {
        for name in names {
            number += 1;
            forge(&guarded, &signed(&new, &format!("{name}{number}")));
        }
        // During the flood, no token of a known key waits or is refused.
        assert_eq!(send(&guarded, &first).status, 200);
        (send_from(&guarded, "198.51.100.2", &second).status == 200).then_some(())
    });
    // The flood continues, and again causes only one request.
    server.serve("/keys", Served::Document(json!({"keys": [new.jwk("two")]}).to_string()));
    eventually("the first key is withdrawn", || {
        number += 1;
        forge(&guarded, &signed(&new, &format!("k{number}")));
        (send(&guarded, &first).status == 401).then_some(())
    });
    let received = server.received();
    assert!(received.iter().all(|(path, _)| path == "/keys"), "{received:?}");
    for pair in received.windows(2) {
        assert!(pair[1].1.duration_since(pair[0].1) >= RETRY_AFTER, "{received:?}");
    }
    assert!(received.len() < number, "{} requests, {number} tokens", received.len());
}

#[test]
fn an_issuer_that_fails_keeps_its_last_keys_and_is_logged_once() {
    let (server, signer) = (KeyServer::start(), Signer::new());
    server.serve("/keys", Served::Document(signer.document()));
    let guarded = start(&issuer(ISSUER, &server.url("/keys")));
    let token = signer.sign(&claims());
    eventually("the keys", || (send(&guarded, &token).status == 200).then_some(()));
    server.serve("/keys", Served::Status("500 Internal Server Error", String::new()));
    eventually("a fetch that failed", || {
        forge(&guarded, &signed(&signer, "unknown"));
        (metric(&guarded, "tessera_access_issuer_up") == Some(0.0)).then_some(())
    });
    let fetches = server.received().len();
    // Another failure follows, and is not logged.
    eventually("another fetch", || (server.received().len() > fetches).then_some(()));
    assert_eq!(logged(&guarded, "cannot be fetched: the answer has the status 500"), 1);
    assert_eq!(send(&guarded, &token).status, 200, "the last keys are used");
    let audiences = signer.sign(&claims_with("aud", json!([AUDIENCE, "other"])));
    eventually("a token that was never seen", || {
        (send(&guarded, &audiences).status == 200).then_some(())
    });
    server.serve("/keys", Served::Document(signer.document()));
    eventually("the fetch after", || {
        (metric(&guarded, "tessera_access_issuer_up") == Some(1.0)).then_some(())
    });
    let again = "are fetched again";
    eventually(again, || (logged(&guarded, again) > 0).then_some(()));
    assert_eq!(logged(&guarded, again), 1);
}

/// One issuer responds correctly, and each other one in a different wrong way.
#[test]
fn wrong_answers_of_an_issuer_are_refused() {
    let (server, signer) = (KeyServer::start(), Signer::new());
    let good = signer.document();
    let secret = json!({"keys": [{"kty": "oct", "k": "AAAA", "kid": "one"}]}).to_string();
    let to = |path: &str| format!("location: {}\r\n", server.url(path));
    let long = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(256 << 10));
    let cases = [
        ("/moved", Served::Status("302 Found", to("/target")), "is a redirect (302)"),
        ("/for-ever", Served::Status("308 Permanent Redirect", to("/target")), "(308)"),
        ("/missing", Served::Status("404 Not Found", String::new()), "has the status 404"),
        ("/empty", Served::Status("204 No Content", String::new()), "has the status 204"),
        ("/long", Served::Document(long), "longer than 256 KiB"),
        ("/garbage", Served::Document("<html>".to_owned()), "not a JWKS document"),
        ("/secret", Served::Document(secret), "private or symmetric"),
        ("/none", Served::Document("{\"keys\":[]}".to_owned()), "no key of the document"),
        ("/silent", Served::Silence, "timeout"),
        ("/drops", Served::Drops, "timeout"),
    ];
    server.serve("/target", Served::Document(good.clone()));
    server.serve("/good", Served::Document(good));
    let mut issuers = issuer(ISSUER, &server.url("/good"));
    for (path, served, _) in &cases {
        server.serve(path, served.clone());
        issuers += &issuer(&format!("https://wrong.example{path}"), &server.url(path));
    }
    let guarded = start(&issuers);
    for (path, _, words) in cases {
        let name = format!("https://wrong.example{path}");
        let line = || {
            let log = std::fs::read_to_string(guarded.folder.join("log")).unwrap();
            let about = |line: &&str| line.contains(&name) && line.contains("cannot be fetched");
            log.lines().find(about).map(str::to_owned)
        };
        let line = eventually(path, line);
        assert!(line.contains(words), "{line}");
        let token = signer.sign(&claims_with("iss", json!(name)));
        let reply = guarded.send("GET", ME, Some(&token));
        assert_eq!((reply.status, &*reply.code()), (503, "TSR006"), "{path}: {}", reply.text());
    }
    let token = signer.sign(&claims());
    eventually("the good issuer", || (send(&guarded, &token).status == 200).then_some(()));
    assert!(server.received().iter().all(|(path, _)| path != "/target"), "no redirect is followed");
}
