//! Tests of access control while the server of the catalog cannot be reached.

use serde_json::{Value, json};

use super::guarded::{Guarded, admin, now, with_access, write_files};
use crate::backend::{self, not_on_citus, servers_only};
use crate::harness::{Reply, Router, eventually};
use crate::tcp_proxy::{ProxyMode, TcpProxy};

const READ: &str = "/api/read?table=users&shardKey=acme";
/// Time for which keys are used without the catalog, in seconds, as the value of the flag.
const STALE_MAX: &str = "20";
/// Validity of a key that expires before that, in seconds.
const LIFE_S: u64 = 8;

fn read(guarded: &Guarded, key: &str) -> Reply {
    guarded.send("GET", READ, Some(key))
}

/// Creates a key and returns it.
fn create(guarded: &Guarded, body: &Value) -> String {
    let path = "/api/access/keys";
    let made = guarded.send_with("POST", path, Some(admin().reveal()), &[], Some(body));
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()["key"].as_str().unwrap().to_owned()
}

/// Returns the age of keys and roles in seconds.
fn age(guarded: &Guarded) -> Option<u64> {
    let metrics = guarded.send("GET", "/metrics", Some(admin().reveal())).text();
    let mut lines = metrics.lines();
    let age = lines.find_map(|line| line.strip_prefix("tessera_access_age_seconds "))?;
    Some(age.parse::<f64>().unwrap() as u64)
}

#[test]
fn keys_go_on_working_without_the_catalog_and_end_at_their_bound() {
    servers_only!("the catalog of files is a file");
    not_on_citus!("its coordinator is the catalog and the shard");
    let data = crate::folders::temporary();
    let folder = data.path().to_owned();
    write_files(&folder);
    let data_dir = folder.join("data");
    let mut command = backend::command(&data_dir, &["--access-stale-max-s", STALE_MAX]);
    with_access(&mut command, &folder, "on");
    let url = backend::url_of(&data_dir, 0);
    let (before, after) = url.rsplit_once(':').unwrap();
    let (port, database) = after.split_once('/').unwrap();
    let proxy = TcpProxy::to(port.parse().unwrap());
    command.env("MAINDB_URL", format!("{before}:{}/{database}", proxy.port));
    let guarded = Guarded { router: Router::start_command(command).owning(data), folder };
    let lasting = create(&guarded, &json!({"role": "reader"}));
    let end = chrono::DateTime::from_timestamp((now() + LIFE_S) as i64, 0).unwrap().to_rfc3339();
    let ending = create(&guarded, &json!({"role": "reader", "expires_at": end}));
    assert_eq!((read(&guarded, &lasting).status, read(&guarded, &ending).status), (200, 200));
    assert!(age(&guarded).unwrap() < LIFE_S);

    proxy.set(ProxyMode::Cut);
    assert_eq!(read(&guarded, &lasting).status, 200);
    let expired = eventually("the end of a key", || {
        let reply = read(&guarded, &ending);
        (reply.status == 401).then_some(reply)
    });
    assert!(expired.text().contains("expired"), "{}", expired.text());
    // During the outage nothing confirms the keys, so their age grows.
    eventually("keys of some age", || age(&guarded).filter(|age| *age >= 5));
    let stale = eventually("keys that are too old", || {
        let reply = read(&guarded, &lasting);
        (reply.status == 503).then_some(reply)
    });
    assert_eq!(stale.code(), "TSR006", "{}", stale.text());
    assert_eq!(guarded.send("GET", "/live", None).status, 200);

    proxy.set(ProxyMode::Open);
    eventually("the catalog", || (read(&guarded, &lasting).status == 200).then_some(()));
    assert_eq!(read(&guarded, &ending).status, 401);
}
