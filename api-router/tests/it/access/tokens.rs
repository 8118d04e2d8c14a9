//! Tests of tokens over HTTP: valid ones give their role, and forged ones are refused.

use serde_json::json;

use super::guarded::{Guarded, Signer, claims, claims_with, now};

const ME: &str = "/api/access/me";
const GOOD: &str = r#"{"alg":"EdDSA","typ":"JWT","kid":"one"}"#;

#[test]
fn a_good_token_gives_its_role_and_tenant() {
    let guarded = Guarded::start("on", &[]);
    let token = Signer::new().sign(&claims());
    // The second time, the token is found in the cache of valid tokens.
    for _ in 0..2 {
        let me = guarded.send("GET", ME, Some(&token)).json();
        assert_eq!(me["kind"], "token", "{me}");
        assert_eq!(me["issuer"], super::guarded::ISSUER, "{me}");
        assert_eq!((&me["id"], &me["role"]), (&json!("ann"), &json!("shop")), "{me}");
        assert_eq!(me["tenants"], json!(["acme"]), "{me}");
    }
    let audiences = Signer::new().sign(&claims_with("aud", json!(["other", "tessera"])));
    assert_eq!(guarded.send("GET", ME, Some(&audiences)).status, 200);
}

#[test]
fn forged_tokens_are_refused() {
    let guarded = Guarded::start("on", &[]);
    let signer = Signer::new();
    let good = signer.sign(&claims());
    let claims_text = claims().to_string();
    let parts: Vec<&str> = good.split('.').collect();
    let headers = [
        r#"{"alg":"none","typ":"JWT"}"#,
        r#"{"alg":"HS256","typ":"JWT","kid":"one"}"#,
        r#"{"alg":"RS256","typ":"JWT","kid":"one"}"#,
        r#"{"alg":"eddsa","typ":"JWT","kid":"one"}"#,
        r#"{"alg":"EdDSA","typ":"JOSE","kid":"one"}"#,
        r#"{"alg":"EdDSA","typ":"JWT","kid":"one","crit":["exp"]}"#,
        r#"{"alg":"EdDSA","typ":"JWT","kid":"../../etc/passwd"}"#,
        r#"{"alg":"EdDSA","typ":"JWT","kid":"http://127.0.0.1:1/jwks"}"#,
        r#"{"alg":"EdDSA","typ":"JWT","kid":"' OR 1=1 --"}"#,
        r#"{"alg":"EdDSA","alg":"EdDSA","typ":"JWT","kid":"one"}"#,
    ];
    let mut forged: Vec<String> =
        headers.iter().map(|header| signer.sign_text(header, &claims_text)).collect();
    let embedded =
        r#"{"alg":"EdDSA","typ":"JWT","jwk":{"kty":"OKP","crv":"Ed25519","x":"AAAA"},"kid":"one"}"#;
    forged.push(Signer::of_seed(9).sign_text(embedded, &claims_text));
    forged.push(Signer::of_seed(9).sign(&claims()));
    forged.push(format!("{}.{}.", parts[0], parts[1]));
    forged.push(format!("{good}.x.y"));
    let other = signer.sign(&claims_with("role", json!("admin")));
    forged.push(format!("{}.{}.{}", parts[0], other.split('.').nth(1).unwrap(), parts[2]));
    for (member, value) in [
        ("iss", json!("https://other.example")),
        ("iss", json!(null)),
        ("aud", json!("other")),
        ("aud", json!(null)),
        ("exp", json!(null)),
        ("exp", json!("soon")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("exp", json!(now() + 10_000_000)),
        ("nbf", json!(now() + 1_000)),
        ("role", json!(null)),
        ("role", json!("admin")),
        ("tenant", json!(7)),
        ("tenant", json!("a\u{0}")),
        ("tenant", json!(vec!["x"; 17])),
    ] {
        forged.push(signer.sign(&claims_with(member, value)));
    }
    let twice = claims_text.replacen("{\"aud\"", "{\"role\":\"shop\",\"aud\"", 1);
    assert_ne!(twice, claims_text);
    forged.push(signer.sign_text(GOOD, &twice));
    for token in forged {
        let reply = guarded.send("GET", ME, Some(&token));
        assert_eq!((reply.status, &*reply.code()), (401, "TSR401"), "{token}: {}", reply.text());
        assert!(!reply.text().contains("expired"), "{}", reply.text());
        assert!(!reply.text().contains("token ends"), "{}", reply.text());
    }
    let old = signer.sign(&claims_with("exp", json!(now() - 3_600)));
    let old = guarded.send("GET", ME, Some(&old));
    assert_eq!((old.status, &*old.code()), (401, "TSR401"), "{}", old.text());
}

#[test]
fn a_tenant_that_only_resembles_another_reaches_none_of_its_rows() {
    let guarded = Guarded::start("on", &[]);
    let body = json!({"table": "users", "data": {"user_id": "acme", "name": "N", "email": "e"}});
    let write = |tenant: &str| {
        let token = Signer::new().sign(&claims_with("tenant", json!(tenant)));
        guarded.send_with("POST", "/api/write", Some(&token), &[], Some(&body))
    };
    for tenant in ["acme2", "acm", "ACME", "acme:x", "ａcme"] {
        let reply = write(tenant);
        assert_eq!((reply.status, &*reply.code()), (403, "TSR403"), "{tenant}: {}", reply.text());
        assert_eq!(reply.json()["outcome"], "rejected");
    }
    assert!(write("acme").status < 300);
}
