//! Tests of restores that are repeated after they have failed or were cut off.

use shard_manager::engine::save_error::SaveError;
use shard_manager::store::postgres::backup::restore;

use crate::backing_up::{OBSERVER, keys_of_users, restore_in_part, small_copy};
use crate::cluster::{Databases, mortal};

/// Number of locks that sessions of restores hold in a database.
const LOCKS: &str = "SELECT count(*)::text AS value FROM pg_locks WHERE locktype = 'advisory'
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Waits until the server has ended the sessions of a restore.
async fn until_ended(databases: &Databases) {
    for shard in 0..databases.names.len() {
        databases.direct_session(shard).await.until(LOCKS, "0").await;
    }
}

/// The first shard is filled when the second one fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_restore_names_the_shard_and_the_next_step_and_succeeds_when_repeated() {
    let (databases, _folder, copy) = small_copy().await;
    let fresh = Databases::blank(2).await;
    let mut second = fresh.direct_session(1).await;
    // A type prevents a table of its name.
    second.run("CREATE TYPE public.users AS ENUM ('a')").await;
    for _ in 0..2 {
        let failed = restore::restore(&copy, &fresh.address(), &OBSERVER).await.unwrap_err();
        assert!(matches!(failed, SaveError::Partial { .. }), "{failed}");
        let sentence = failed.to_string();
        let next = "the databases hold a part of the copy, with which no router starts: run the command again, or drop \
                    them";
        assert!(sentence.contains("shard2: ") && sentence.ends_with(next), "{sentence}");
        until_ended(&fresh).await;
    }
    second.run("DROP TYPE public.users").await;
    restore::restore(&copy, &fresh.address(), &OBSERVER).await.unwrap();
    assert_eq!(keys_of_users(&fresh).await, keys_of_users(&databases).await);
}

/// The first database has tables of the copy when the restore is cut off, the second one none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_restore_drops_no_table_that_another_application_has_made_meanwhile() {
    let (databases, _folder, copy) = small_copy().await;
    let fresh = Databases::blank(2).await;
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

#[test]
fn each_restore_on_any_server_replaces_the_key_of_the_session_tokens() {
    let servers = mortal();
    // Migrations block their thread.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        let (databases, _folder, copy) = small_copy().await;
        let secret = "SELECT secret AS value FROM tessera.tessera_cluster";
        let mut secrets = vec![databases.direct_session(0).await.text(secret).await];
        for _ in 0..2 {
            let other = servers.primaries().next().expect("a server");
            let fresh = Databases::on(&[other, other]).await;
            restore::restore(&copy, &fresh.address(), &OBSERVER).await.unwrap();
            secrets.push(fresh.direct_session(0).await.text(secret).await);
        }
        secrets.sort();
        secrets.dedup();
        assert_eq!(secrets.len(), 3, "old and new positions cannot be distinguished");
    });
}
