//! Tests of algorithms over HTTP: a token is valid only with the algorithm of its key, and the
//! tokens of a replaced secret are refused.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    RsaPublicKeyComponents,
};
use serde_json::{Value, json};

use super::guarded::{AUDIENCE, Guarded, claims_with, with_access, write_files, write_private};
use crate::backend;
use crate::harness::{Router, eventually};

const ME: &str = "/api/access/me";
/// Issuer with an RSA and a P-256 key, called `rsa` and `p256`.
const PUBLIC: &str = "https://public.example";
/// Issuer with a secret.
const SECRET: &str = "https://secret.example";
const OLD: &[u8] = b"0123456789abcdef0123456789abcdef";
const NEW: &[u8] = b"fedcba9876543210fedcba9876543210";
/// RSA key of 2048 bits in PKCS #8, created for tests only; `ring` cannot generate one.
const RSA_KEY: &str = include_str!("../../../../shard-manager/access/tests/access/rsa_key.base64");

struct Keys {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
}

impl Keys {
    fn new() -> Self {
        let der = STANDARD.decode(RSA_KEY.replace('\n', "")).unwrap();
        let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let p256 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self {
            rsa: RsaKeyPair::from_pkcs8(&der).unwrap(),
            p256: EcdsaKeyPair::from_pkcs8(kind, p256.as_ref(), &random).unwrap(),
        }
    }

    fn modulus(&self) -> Vec<u8> {
        RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public()).n
    }

    fn document(&self) -> Value {
        let e = RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public()).e;
        let (x, y) = self.p256.public_key().as_ref()[1..].split_at(32);
        json!({"keys": [
            {"kty": "RSA", "kid": "rsa", "n": encoded(self.modulus()), "e": encoded(e)},
            {"kty": "EC", "crv": "P-256", "kid": "p256", "x": encoded(x), "y": encoded(y)},
        ]})
    }

    fn rsa(&self, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.rsa.public().modulus_len()];
        self.rsa.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }

    fn p256(&self, message: &[u8]) -> Vec<u8> {
        self.p256.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn hs256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

/// Returns a token of this issuer, with a header for this algorithm and key.
fn token(issuer: &str, (alg, kid): (&str, &str), sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let header = json!({"alg": alg, "typ": "JWT", "kid": kid}).to_string();
    let claims = claims_with("iss", json!(issuer)).to_string();
    let message = format!("{}.{}", encoded(header), encoded(claims));
    format!("{message}.{}", encoded(sign(message.as_bytes())))
}

fn section(issuer: &str, algorithms: &str, source: &str, file: &Path) -> String {
    format!(
        "[[access.issuer]]\nissuer = \"{issuer}\"\naudience = \"{AUDIENCE}\"\nalgorithms = {algorithms}\n\
         {source} = \"{}\"\nrole_claim = \"/role\"\ntenant_claim = \"/tenant\"\n",
        file.display()
    )
}

fn start(keys: &Keys) -> Guarded {
    let data = crate::folders::temporary();
    let folder = data.path().to_owned();
    write_files(&folder);
    write_private(&folder.join("public.json"), keys.document().to_string());
    write_private(&folder.join("secret"), OLD);
    let issuers =
        section(PUBLIC, r#"["RS256", "ES256"]"#, "jwks_file", &folder.join("public.json"))
            + &section(SECRET, r#"["HS256"]"#, "secret_file", &folder.join("secret"));
    write_private(&folder.join("access.toml"), issuers);
    let mut command = backend::command(&folder.join("data"), &[]);
    with_access(&mut command, &folder, "on");
    Guarded { router: Router::start_command(command).owning(data), folder }
}

#[test]
fn a_token_is_good_only_with_the_algorithm_of_its_key() {
    let keys = Keys::new();
    let guarded = start(&keys);
    let rsa = |message: &[u8]| keys.rsa(message);
    let p256 = |message: &[u8]| keys.p256(message);
    for good in [
        token(PUBLIC, ("RS256", "rsa"), rsa),
        token(PUBLIC, ("ES256", "p256"), p256),
        token(SECRET, ("HS256", "any"), |message| hs256(OLD, message)),
    ] {
        let reply = guarded.send("GET", ME, Some(&good));
        assert_eq!(reply.status, 200, "{good}: {}", reply.text());
    }
    let mut forged = vec![
        // These use a key of one kind under the name or the algorithm of another.
        token(PUBLIC, ("ES256", "rsa"), p256),
        token(PUBLIC, ("RS256", "rsa"), p256),
        token(PUBLIC, ("RS256", "p256"), p256),
        token(PUBLIC, ("RS256", "p256"), rsa),
        token(PUBLIC, ("ES256", "p256"), rsa),
        token(SECRET, ("RS256", "rsa"), rsa),
        token(SECRET, ("ES256", "p256"), p256),
        token(SECRET, ("HS256", "any"), |message| hs256(NEW, message)),
        token(PUBLIC, ("HS256", "rsa"), |message| hs256(OLD, message)),
    ];
    // A public key, in any encoding, must not be accepted as a secret.
    let document = keys.document();
    let written = [
        document.to_string().into_bytes(),
        document["keys"][0].to_string().into_bytes(),
        document["keys"][0]["n"].as_str().unwrap().as_bytes().to_vec(),
        keys.modulus(),
        keys.rsa.public().as_ref().to_vec(),
        keys.p256.public_key().as_ref().to_vec(),
    ];
    for secret in &written {
        for (issuer, id) in [(PUBLIC, "rsa"), (PUBLIC, "p256"), (SECRET, "rsa")] {
            forged.push(token(issuer, ("HS256", id), |message| hs256(secret, message)));
            forged.push(token(issuer, ("RS256", id), |message| hs256(secret, message)));
        }
    }
    for token in forged {
        let reply = guarded.send("GET", ME, Some(&token));
        assert_eq!((reply.status, &*reply.code()), (401, "TSR401"), "{token}: {}", reply.text());
    }
}

#[test]
fn tokens_of_a_replaced_secret_are_refused_although_they_were_accepted_before() {
    let guarded = start(&Keys::new());
    let by = |secret: &'static [u8]| token(SECRET, ("HS256", "any"), move |m| hs256(secret, m));
    let (old, new) = (by(OLD), by(NEW));
    // The second time, the token is found in the cache of valid tokens.
    for _ in 0..2 {
        assert_eq!(guarded.send("GET", ME, Some(&old)).status, 200);
    }
    assert_eq!(guarded.send("GET", ME, Some(&new)).status, 401);
    write_private(&guarded.folder.join("secret"), NEW);
    eventually("the new secret", || {
        guarded.router.signal("HUP");
        (guarded.send("GET", ME, Some(&new)).status == 200).then_some(())
    });
    assert_eq!(guarded.send("GET", ME, Some(&old)).status, 401, "at once, though it was cached");
}
