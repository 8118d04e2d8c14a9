//! Tests of the modes: `off` changes nothing, and `observe` refuses nothing and reports what `on`
//! would refuse.

use serde_json::json;

use super::guarded::{Guarded, powerless};
use crate::backend::files_only;
use crate::harness::{Router, bare_command, command, refused_start};

#[test]
fn without_access_control_credentials_mean_nothing() {
    let router = Router::shared();
    let bad = [("authorization", "Bearer tsr_wrong")];
    let reply = router.send("GET", "/api/read?table=users", &bad, None);
    assert_eq!((reply.status, reply.header("x-access")), (200, Some("off")));
    for path in ["/api/access/me", "/api/access/check"] {
        assert_eq!(router.send("GET", path, &bad, None).status, 404, "{path}");
    }
    let metrics = router.get("/metrics").text();
    assert!(!metrics.contains("tessera_access"), "{metrics}");
    assert!(router.get("/api/health").json()["shards"].is_array());
}

#[test]
fn observing_serves_everything_and_counts_what_would_be_refused() {
    let guarded = Guarded::start("observe", &[]);
    let row = json!({"table": "users", "data": {"user_id": "u", "name": "N", "email": "e"}});
    for text in [None, Some("tsr_wrong"), Some(powerless().reveal())] {
        let reply = guarded.send_with("POST", "/api/write", text, &[], Some(&row));
        assert!(reply.status < 300, "{}", reply.text());
        assert_eq!(reply.header("x-access"), None);
        assert_eq!(guarded.send("GET", "/api/shards", text).status, 200);
        assert!(guarded.send("GET", "/api/health", text).json()["shards"].is_array());
    }
    let powerless = powerless();
    let me = guarded.send("GET", "/api/access/me", Some(powerless.reveal())).json();
    assert_eq!((&me["mode"], &me["role"]), (&json!("observe"), &json!("nothing")), "{me}");
    let metrics = guarded.send("GET", "/metrics", None).text();
    for line in [
        "tessera_access_total{kind=\"anonymous\",outcome=\"unauthenticated\"} ",
        "tessera_access_total{kind=\"key\",outcome=\"unauthenticated\"} 3",
        "tessera_access_total{kind=\"key\",outcome=\"forbidden\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[test]
fn without_keys_all_that_needs_a_right_is_refused() {
    let router = Router::start_with(&["--access", "on"]);
    assert!(router.banner().contains("need a key"), "{}", router.banner());
    assert_eq!(router.get("/api/read?table=users").status, 401);
    assert_eq!(router.get("/live").status, 200);
}

#[test]
fn the_log_names_the_command_for_a_first_key_with_the_data_directory() {
    files_only!("it is about a folder of files");
    let folder = crate::folders::temporary();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let mut on = command(&data);
    on.args(["--access", "on"]);
    let _router = Router::start_logging(on, std::fs::File::create(&log).unwrap().into());
    let said = std::fs::read_to_string(&log).unwrap();
    let words = format!("`shard-manager key create --role admin --data-dir {}`", data.display());
    assert!(said.contains(&words), "{said}");
}

#[test]
fn keys_do_not_travel_in_the_clear() {
    let folder = crate::folders::temporary();
    let start = |flags: &[&str]| {
        let mut command = bare_command(folder.path());
        command.args(["--bind", "0.0.0.0:0"]).args(flags);
        refused_start(command)
    };
    for flags in [
        &["--access", "on"][..],
        &["--access", "on", "--insecure"],
        &["--access", "observe"],
        &["--access", "observe", "--behind-tls"],
    ] {
        let (code, said) = start(flags);
        assert_eq!(code, Some(2), "{flags:?}: {said}");
    }
    let (code, said) = start(&["--access", "on"]);
    assert!(code == Some(2) && said.contains("tls_cert") && said.contains("behind_tls"), "{said}");
    let (code, _) = start(&["--access", "on", "--behind-tls"]);
    assert_eq!(code, None, "a proxy protects the keys");
}
