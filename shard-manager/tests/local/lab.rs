//! Tests of `lab run --postgres`: servers and databases that it makes and removes.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::servers::{ClusterFolder, ask};

/// Runs the experiment with few users in a folder, and returns its report.
fn run_lab(work: &Path, main: Option<&str>) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shard-manager"));
    command.args(["lab", "run", "--postgres", "--json", "--users", "300", "--shards", "2"]);
    command.args(["--operations", "100", "--clients", "2", "--work-dir"]).arg(work);
    command.env_remove("MAX_GEN_USERS").env_remove("MAINDB_URL").stdin(Stdio::null());
    if let Some(url) = main {
        command.env("MAINDB_URL", url);
    }
    let ended = command.output().expect("the program starts");
    assert!(ended.status.success(), "{ended:?}");
    let left = std::fs::read_dir(work).expect("readable").flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("tessera-lab-"));
    assert_eq!(left.count(), 0, "the servers are removed");
    String::from_utf8(ended.stdout).expect("UTF-8")
}

#[test]
fn a_lab_compares_servers_of_its_own_and_a_database_on_the_server_of_maindb_url() {
    let place = ClusterFolder::new();
    let own = run_lab(place.parent.path(), None);
    for part in [r#""engine","value":"PostgreSQL "#, "shard2-primary", r#""bulk of 1,000""#] {
        assert!(own.contains(part), "{part}: {own}");
    }
    let cluster = place.up(1, 0);
    let primary = cluster.node("shard1-primary").expect("a primary");
    let databases = "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database";
    let before = ask(primary, databases);
    let on_main = run_lab(place.parent.path(), Some(&primary.url("shard1")));
    assert!(on_main.contains("as MAINDB_URL says"), "{on_main}");
    assert_eq!(ask(primary, databases), before, "the lab has dropped its database, and no other");
    let foreign = "SELECT count(*) FROM pg_tables WHERE schemaname = 'tessera'";
    assert_eq!(ask(primary, foreign), "0", "nothing was made in the database of the URL");
}
