//! Signers: issuers for tests, which sign valid and forged tokens with keys of each algorithm.

use std::sync::Arc;

use access::auth_error::AuthReason;
use access::jwt::issuer::{Issuer, IssuerSettings, LoadedKeys};
use access::jwt::key_set::KeySet;
use access::jwt::{Issuers, TokenAlgorithm, VerifiedToken};
use access::unix_time::UnixTime;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair, RsaPublicKeyComponents,
};
use serde_json::{Value, json};

use crate::changed_claims::changed;

/// Current time in the tests, in seconds since 1970.
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const AUDIENCE: &str = "tessera";
pub(crate) const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

/// RSA key of 2048 bits in PKCS #8, made for tests only. It is stored because `ring` cannot
/// generate RSA keys.
const RSA_KEY: &str = include_str!("rsa_key.base64");

pub(crate) fn now() -> UnixTime {
    UnixTime::from_seconds(NOW)
}

pub(crate) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Private key or secret with which an issuer signs tokens.
pub(crate) enum Signer {
    Rsa(Box<RsaKeyPair>),
    P256(Box<EcdsaKeyPair>),
    Ed25519(Ed25519KeyPair),
    Secret(Vec<u8>),
}

impl Signer {
    pub(crate) fn rsa() -> Self {
        let der = STANDARD.decode(RSA_KEY.replace('\n', "")).unwrap();
        Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(&der).unwrap()))
    }

    pub(crate) fn p256() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let der = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref(), &random).unwrap();
        Self::P256(Box::new(pair))
    }

    pub(crate) fn ed25519() -> Self {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap())
    }

    pub(crate) fn secret() -> Self {
        Self::Secret(SECRET.to_vec())
    }

    pub(crate) fn algorithm(&self) -> TokenAlgorithm {
        match self {
            Self::Rsa(_) => TokenAlgorithm::Rs256,
            Self::P256(_) => TokenAlgorithm::Es256,
            Self::Ed25519(_) => TokenAlgorithm::EdDsa,
            Self::Secret(_) => TokenAlgorithm::Hs256,
        }
    }

    /// Returns the public key as an entry of a JWKS document.
    pub(crate) fn jwk(&self, id: &str) -> Value {
        match self {
            Self::Rsa(pair) => {
                let RsaPublicKeyComponents { n, e } =
                    RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "kid": id, "n": base64url(n), "e": base64url(e)})
            }
            Self::P256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": id, "x": base64url(x), "y": base64url(y)})
            }
            Self::Ed25519(pair) => {
                let x = base64url(pair.public_key());
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": x})
            }
            Self::Secret(_) => panic!("a secret has no public key"),
        }
    }

    /// Returns the decoded bytes of a member of the public key.
    pub(crate) fn public_bytes(&self, member: &str) -> Vec<u8> {
        let jwk = self.jwk("one");
        URL_SAFE_NO_PAD.decode(jwk[member].as_str().unwrap_or_default()).unwrap()
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let random = SystemRandom::new();
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Self::P256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Secret(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                hmac::sign(&key, message).as_ref().to_vec()
            }
        }
    }

    /// Signs a header and claims that are given as strings, so that tests can pass malformed JSON.
    pub(crate) fn sign_text(&self, header: &str, claims: &str) -> String {
        self.sign_encoded(&base64url(header), &base64url(claims))
    }

    /// Signs the first two parts of a token without encoding them, so that tests can pass malformed
    /// base64.
    pub(crate) fn sign_encoded(&self, header: &str, claims: &str) -> String {
        let message = format!("{header}.{claims}");
        let signature = self.signature(message.as_bytes());
        format!("{message}.{}", base64url(signature))
    }

    /// Signs claims with a valid header.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm().name(), "typ": "JWT", "kid": "one"});
        self.sign_text(&header.to_string(), &claims.to_string())
    }
}

/// Returns the claims of a valid token.
pub(crate) fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "jti": "t1",
        "iat": NOW - 60, "exp": NOW + 600, "role": "shop", "tenant": "acme",
    })
}

/// Returns valid claims with another value of one member. The value `null` removes the member.
pub(crate) fn claims_with(member: &str, value: Value) -> Value {
    changed(claims(), member, value)
}

pub(crate) fn settings(algorithms: &[TokenAlgorithm]) -> IssuerSettings {
    IssuerSettings {
        issuer: ISSUER.to_owned(),
        audiences: vec![AUDIENCE.to_owned()],
        algorithms: algorithms.to_vec(),
        role_claim: "/role".to_owned(),
        tenant_claim: Some("/tenant".to_owned()),
        roles: None,
        lifetime_max: IssuerSettings::LIFETIME_MAX_DEFAULT,
    }
}

pub(crate) fn loaded(set: KeySet) -> Option<LoadedKeys> {
    Some(LoadedKeys { set: Arc::new(set), usable_until: None })
}

/// Returns a JWKS document with the public keys of these signers, whose ids are `one`, `two` and
/// `three`.
pub(crate) fn document(signers: &[&Signer]) -> Vec<u8> {
    let names = ["one", "two", "three"];
    let keys: Vec<Value> = signers.iter().zip(names).map(|(signer, id)| signer.jwk(id)).collect();
    json!({ "keys": keys }).to_string().into_bytes()
}

/// Returns a set with a single issuer, which has the keys of these signers.
pub(crate) fn issuers(signers: &[&Signer]) -> Issuers {
    let algorithms: Vec<TokenAlgorithm> = signers.iter().map(|signer| signer.algorithm()).collect();
    let set = match signers {
        [Signer::Secret(secret)] => KeySet::from_secret(secret).unwrap(),
        _ => KeySet::from_jwks(&document(signers)).unwrap(),
    };
    Issuers::new(vec![Issuer::new(settings(&algorithms), loaded(set)).unwrap()]).unwrap()
}

pub(crate) fn verify(issuers: &Issuers, token: &str) -> Result<VerifiedToken, AuthReason> {
    issuers.verify(token, now(), || true).map_err(|error| error.reason)
}

/// Returns the reason for which a token is refused.
pub(crate) fn refusal(issuers: &Issuers, token: &str) -> AuthReason {
    verify(issuers, token).expect_err("the token must be refused")
}
