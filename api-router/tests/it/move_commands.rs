//! Tests of the commands that begin a move and roll it back, and of the files that the router
//! leaves: `check` finds each row on its shard.
//!
//! **Not here:** other commands of moves (`moves`), stopped files, on which no move begins
//! (`shard-manager/tests/cli/moves.rs`).

use serde_json::json;

use crate::backend::files_only;
use crate::commands::run;
use crate::folders;
use crate::harness::{Router, eventually};
use crate::moves::{OPERATE, names, other, place};

/// Number of users.
const USERS: u64 = 60;

/// Checks the files of a stopped cluster, and returns the number of users that their owners have.
#[track_caller]
fn users_found(dir: &str) -> u64 {
    let checked = run(&["check", "--json", "--data-dir", dir], "").json(0);
    assert_eq!(checked["findings"], json!([]), "{checked}");
    let shards = checked["shards"].as_array().unwrap().iter();
    shards.map(|shard| shard["tables"]["users"].as_u64().unwrap_or_default()).sum()
}

#[test]
fn a_move_begun_and_rolled_back_by_commands_leaves_files_in_which_each_row_is_found() {
    files_only!("the files of a stopped router are checked");
    let folder = folders::temporary();
    let data = folder.path().join("data");
    let dir = data.to_str().unwrap().to_owned();
    let command = |arguments: &[&str]| {
        run(&[&["move"], arguments, &["--json", "--data-dir", &dir]].concat(), "")
    };
    let mut router = Router::start_in(&data, OPERATE);
    for number in 0..USERS {
        assert_eq!(router.write_user(&format!("user_{number}"), "Ada").status, 201);
    }
    let (_, from) = place(&router, "user_7");
    let to = other(&from);
    let begun = eventually("the replicas follow", || {
        let begun = command(&["start", "--key", "user_7", "--to", to]);
        (!begun.err.contains("must follow its primary")).then_some(begun)
    });
    let begun = begun.json(0);
    let id = begun["id"].as_str().unwrap();
    assert_eq!(command(&["wait", id]).json(0)["phase"], "keeping");
    assert_eq!(place(&router, "user_7").1, to);
    assert_eq!(router.write_user("user_7", "late").status, 200);
    router.end();
    assert_eq!(users_found(&dir), USERS, "the rows that the source keeps do not count");

    let mut router = Router::start_in(&data, OPERATE);
    assert_eq!(command(&["rollback", id]).json(0)["goal"], "back");
    assert_eq!(command(&["wait", id, "--ended"]).json(0)["phase"], "rolled_back");
    assert_eq!(place(&router, "user_7").1, from);
    assert_eq!(names(&router, "user_7"), ["late"]);
    router.end();
    assert_eq!(users_found(&dir), USERS);
}
