//! Tests of restores that are repeated after they were cut off.

use shard_manager::engine::save_error::SaveError;
use shard_manager::store::postgres::backup::restore;

use crate::backing_up::{OBSERVER, keys_of_users, restore_in_part, small_copy};
use crate::cluster::Databases;

/// Number of locks that sessions of restores hold in a database.
const LOCKS: &str = "SELECT count(*)::text AS value FROM pg_locks WHERE locktype = 'advisory'
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Waits until the server has ended the sessions of a restore.
async fn until_ended(databases: &Databases) {
    for shard in 0..databases.names.len() {
        databases.direct_session(shard).await.until(LOCKS, "0").await;
    }
}

/// The first database has tables of the copy when the restore is cut off, the second one none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_restore_drops_no_table_that_another_application_has_made_meanwhile() {
    let (databases, _folder, copy) = small_copy().await;
    let fresh = Databases::new(2).await;
    restore_in_part(&copy, &fresh).await;
    for (index, shard) in ["shard1", "shard2"].into_iter().enumerate() {
        let mut direct = fresh.direct_session(index).await;
        direct.run("CREATE TABLE public.notes AS SELECT 7 AS number").await;
        until_ended(&fresh).await;
        let refused = restore::restore(&copy, &fresh.address(), &OBSERVER).await.unwrap_err();
        assert!(matches!(refused, SaveError::Databases(_)), "{refused}");
        let sentence = refused.to_string();
        let parts = [shard, "the database also has notes", "move it elsewhere"];
        assert!(parts.iter().all(|part| sentence.contains(part)), "{sentence}");
        let kept = "SELECT number::text AS value FROM public.notes";
        assert_eq!(direct.text(kept).await, "7");
        direct.run("DROP TABLE public.notes").await;
    }
    until_ended(&fresh).await;
    restore::restore(&copy, &fresh.address(), &OBSERVER).await.unwrap();
    assert_eq!(keys_of_users(&fresh).await, keys_of_users(&databases).await);
}
