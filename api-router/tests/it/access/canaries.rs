//! Canaries: secrets of tests, which no response, metric, page, log line or audit line may contain.

use std::process::Command;

use serde_json::json;

use super::files::logging;
use super::guarded::{Signer, admin, claims, key, with_access};
use crate::backend;
use crate::harness::eventually;

#[test]
fn no_secret_is_shown_anywhere() {
    let folder = crate::folders::temporary();
    let log = folder.path().join("log");
    let audit_log = folder.path().join("audit.log");
    let audited = ["--audit", "all", "--audit-keys", "plain", "--audit-log"];
    let flags = [&["--log", "trace"][..], &audited, &[audit_log.to_str().unwrap()]].concat();
    let guarded = logging(folder.path(), &log, &flags);
    let (admin, unknown) = (admin(), key(77));
    let token = Signer::new().sign(&claims());
    let forged = Signer::of_seed(9).sign(&claims());
    let texts = [admin.reveal(), unknown.reveal(), &*token, &*forged];
    let mut said = String::new();
    for text in texts {
        for path in [
            "/api/read?table=users",
            "/metrics",
            "/api/access/me",
            "/api/analytics/errors",
            "/api/health",
            "/errors/TSR401",
            "/nowhere",
        ] {
            let reply = guarded.send("GET", path, Some(text));
            said += &format!("{:?} {}", reply.headers, reply.text());
            let in_query = format!("{path}?access_token={text}");
            said += &guarded.send("GET", &in_query, None).text();
            let as_basic = [("authorization", text)];
            said += &guarded.send_with("GET", path, None, &as_basic, None).text();
        }
        let one = format!("/api/access/keys/{text}");
        let rotate = format!("{one}/rotate");
        for (method, path) in [("GET", &one), ("DELETE", &one), ("POST", &rotate)] {
            let reply = guarded.send(method, path, Some(admin.reveal()));
            said += &format!("{:?} {}", reply.headers, reply.text());
        }
        let body = json!({"table": "users", "data": {"user_id": "u"}});
        said += &guarded.send_with("POST", "/api/write", Some(text), &[], Some(&body)).text();
    }
    let printed = |flag: &str| {
        let mut command: Command = backend::command(&folder.path().join("data"), &[flag]);
        with_access(&mut command, folder.path(), "on");
        let output = command.output().unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    said += &printed("--print-config");
    said += &printed("--doctor");
    said += &std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("credentials were refused"), "the log is looked at");
    let last = [("x-request-id", "last")];
    guarded.send_with("GET", "/api/shards", Some(admin.reveal()), &last, None);
    said += &eventually("the last line of the audit log", || {
        std::fs::read_to_string(&audit_log).ok().filter(|lines| lines.contains("\"last\""))
    });
    for text in texts {
        // The last characters of a key are its secret, and those of a token its signature.
        let secret = &text[text.len() - 40..];
        assert!(!said.contains(secret), "a secret was shown");
    }
    assert!(!said.contains(&admin.digest().to_hex()), "a digest was shown");
}
