//! Tests of replacing a cluster with a copy of it, repeatedly.

use std::collections::BTreeSet;

use shard_manager::backup::replace::replace;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::row_change::Operation;

use crate::backup::{ALONE, save};
use crate::cluster::{Cluster, open, with_replicas};
use crate::scratch;

#[tokio::test]
async fn no_version_is_given_out_twice_by_the_lives_that_begin_with_one_copy() {
    let dir = scratch::folder();
    let (home, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let cluster = Cluster::with(with_replicas(2, 1));
    let row = |life: usize| format!(r#"{{"user_id":"a","name":"{life}","email":"e"}}"#);
    cluster.write("users", Operation::Upsert, "a", &row(0)).await.expect("a write");
    save(&cluster, &copy);
    drop(cluster.stop());
    shard_manager::backup::restore::restore(&copy, &home, &ALONE).expect("it is put back");
    let mut versions = BTreeSet::new();
    for life in 1..=3 {
        let manager = open(&home, ClusterSpec::default()).expect("it starts");
        let living = Cluster { manager, source: None, dir: scratch::folder() };
        for _ in 0..3 {
            let written = living.write("users", Operation::Upsert, "a", &row(life)).await;
            let version = written.expect("a write").row.version;
            assert!(versions.insert(version), "life {life} gave out {version} again");
        }
        living.manager.close();
        drop(living);
        let replaced = replace(&copy, &home, &ALONE).expect("it is replaced");
        assert_eq!(replaced.manifest.rows(), 1);
    }
}
