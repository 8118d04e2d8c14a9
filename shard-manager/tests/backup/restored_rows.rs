//! Tests of the comparison of the restored rows with those of the copy.

use std::fs;
use std::path::Path;

use shard_manager::backup::replace::replace;
use shard_manager::backup::{ProgressObserver, Step};
use shard_manager::row_change::Operation;
use shard_manager::store::sqlite::digest::digest;

use crate::backup::save;
use crate::cluster::Cluster;
use crate::scratch;

/// Changes a text of a row in a file, wherever it is, without changing its length.
fn damage(file: &Path, text: &str, other: &str) {
    let (text, other) = (text.as_bytes(), other.as_bytes());
    let mut bytes = fs::read(file).expect("readable");
    let mut changed = 0;
    while let Some(at) = bytes.windows(text.len()).position(|part| part == text) {
        bytes[at..at + other.len()].copy_from_slice(other);
        changed += 1;
    }
    assert!(changed > 0, "the row is there");
    fs::write(file, bytes).expect("written");
}

#[tokio::test]
async fn a_restore_whose_rows_differ_from_the_copy_changes_nothing() {
    let dir = scratch::folder();
    let copy = dir.path().join("copy");
    let cluster = Cluster::with_shards(1);
    let row = |name: &str| format!(r#"{{"user_id":"a","name":"{name}","email":"e"}}"#);
    cluster.write("users", Operation::Upsert, "a", &row("Ada Lovelace")).await.expect("a write");
    save(&cluster, &copy);
    cluster.write("users", Operation::Upsert, "a", &row("Grace Hopper")).await.expect("a write");
    let stopped = cluster.stop();
    let file = stopped.path().join("shard1-primary.db");
    let before = digest(&file).expect("its rows");
    let saved = copy.join("shard1-primary.db");
    // After its bytes were verified and copied, and before its rows are compared.
    let change = |step: &Step| {
        if let Step::Writing { bytes, of } = step
            && bytes == of
        {
            damage(&saved, "Ada Lovelace", "Ada Lovelice");
        }
    };
    let observer = ProgressObserver { step: &change, cancelled: &|| false };
    let refused = replace(&copy, stopped.path(), &observer).expect_err("the rows differ");
    assert!(refused.to_string().contains("the restored rows differ"), "{refused}");
    assert_eq!(digest(&file).expect("its rows"), before);
    let mut beside = stopped.path().as_os_str().to_owned();
    beside.push("-replaced-unfinished");
    assert!(!Path::new(&beside).exists(), "nothing is left beside it");
}
