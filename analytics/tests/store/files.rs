//! Tests of history in a file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use analytics::Step;
use analytics::store::{HistoryWriter, StoreAddress};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::{await_state, frame, history, loaded, now, requests, seconds, stored_history};

fn address(path: &Path) -> StoreAddress {
    StoreAddress::parse(path.to_str().unwrap()).unwrap().unwrap()
}

/// Runs SQL on the file through a connection of its own, as another program would.
fn meddle(path: &Path, sql: &str) {
    let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    connection.batch_execute(sql).unwrap();
}

#[test]
fn the_history_of_each_source_is_loaded_and_only_the_owner_can_read_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("analytics.db");
    let history_writer = HistoryWriter::open(address(&path)).unwrap();
    let minute = now() / 60 * 60;
    let minutes = [frame(Step::Minute, minute - 120, 7), frame(Step::TenSeconds, minute - 60, 8)];
    history_writer.keep("north", history(seconds(20).chain(minutes)), || ());
    history_writer.keep("south", history(seconds(3)), || ());
    history_writer.close();
    for file in fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    let (north, state) = stored_history(&address(&path), "north");
    assert_eq!(requests(&north, Step::Second), (1..=20).collect::<Vec<_>>());
    assert_eq!(requests(&north, Step::TenSeconds), [8]);
    assert_eq!(requests(&north, Step::Minute), [7]);
    assert_eq!((state.loaded, state.unreadable, state.store_errors), (22, 0, 0));
    let (south, _) = stored_history(&address(&path), "south");
    assert_eq!(requests(&south, Step::Second), [1, 2, 3]);
    let (nobody, _) = stored_history(&address(&path), "nobody");
    assert_eq!(requests(&nobody, Step::Second), [0; 0]);
}

#[test]
fn intervals_that_finish_later_are_written_automatically_and_each_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("analytics.db");
    let history = history(seconds(5));
    let history_writer = HistoryWriter::start(address(&path), "router", history.clone()).unwrap();
    await_state(&history_writer, |state| state.written == 5);
    history.absorb(frame(Step::Second, now(), 6));
    await_state(&history_writer, |state| state.written == 6);
    // This simulates a kill: nothing more is written, and only the earlier writes are in the file.
    std::mem::forget(history_writer);
    let (again, _) = stored_history(&address(&path), "router");
    assert_eq!(requests(&again, Step::Second), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_history_that_only_the_writer_holds_is_released_and_stays_stored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("analytics.db");
    let history_writer = HistoryWriter::open(address(&path)).unwrap();
    let held = history(seconds(5));
    let released = Arc::downgrade(&held);
    history_writer.keep("north", held.clone(), || ());
    await_state(&history_writer, |state| state.written == 5);
    history_writer.flush();
    assert!(released.upgrade().is_some(), "it may get further frames");
    held.absorb(frame(Step::Second, now(), 6));
    drop(held);
    history_writer.flush();
    assert!(released.upgrade().is_none());
    history_writer.close();
    let (again, _) = stored_history(&address(&path), "north");
    assert_eq!(requests(&again, Step::Second), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn frames_after_a_clock_was_set_back_are_stored_in_place_of_those_it_has_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("analytics.db");
    let history_writer = HistoryWriter::open(address(&path)).unwrap();
    let held = history(seconds(5));
    held.absorb(frame(Step::Second, now() + 600, 6));
    held.absorb(frame(Step::TenSeconds, (now() + 600) / 10 * 10, 6));
    history_writer.keep("north", held.clone(), || ());
    await_state(&history_writer, |state| state.written == 7);
    held.forget_from(now() + 60);
    held.absorb(frame(Step::Second, now(), 7));
    history_writer.flush();
    await_state(&history_writer, |state| state.written == 8);
    history_writer.close();
    let (again, state) = stored_history(&address(&path), "north");
    assert_eq!(requests(&again, Step::Second), [1, 2, 3, 4, 5, 7]);
    assert_eq!((state.loaded, state.unreadable), (6, 0), "no frame of the future is left");
}

#[test]
fn forgotten_frames_that_the_store_could_not_remove_are_removed_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("analytics.db");
    let history_writer = HistoryWriter::open(address(&path)).unwrap();
    let held = history(seconds(5));
    held.absorb(frame(Step::Second, now() + 600, 6));
    history_writer.keep("north", held.clone(), || ());
    await_state(&history_writer, |state| state.written == 6);
    let change = |sql: &str| meddle(&path, &format!("PRAGMA busy_timeout=5000; {sql}"));
    change(
        "CREATE TRIGGER no BEFORE DELETE ON tessera_history BEGIN SELECT RAISE(ABORT, 'no'); END",
    );
    held.forget_from(now() + 60);
    history_writer.flush();
    await_state(&history_writer, |state| state.store_errors > 0);
    change("DROP TRIGGER no");
    history_writer.flush();
    await_state(&history_writer, |state| !state.is_unavailable);
    history_writer.close();
    let (again, state) = stored_history(&address(&path), "north");
    assert_eq!(requests(&again, Step::Second), [1, 2, 3, 4, 5]);
    assert_eq!((state.loaded, state.unreadable), (5, 0), "no frame of the future is left");
}

#[test]
fn expired_intervals_are_neither_loaded_nor_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("analytics.db");
    HistoryWriter::start(address(&path), "router", history(seconds(2))).unwrap().close();
    let long_ago = "UPDATE tessera_history SET start = start - 901;
        UPDATE tessera_history SET source = 'gone' WHERE id = 1";
    meddle(&path, long_ago);
    let (old, _) = stored_history(&address(&path), "router");
    assert_eq!(requests(&old, Step::Second), [0; 0]);
    let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    let left =
        diesel::dsl::sql::<diesel::sql_types::BigInt>("SELECT count(*) FROM tessera_history");
    assert_eq!(left.get_result::<i64>(&mut connection).unwrap(), 0);
}

#[test]
fn a_damaged_file_is_set_aside_and_a_new_one_created() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("analytics.db");
    fs::write(&path, "not a database at all, but not empty").unwrap();
    HistoryWriter::start(address(&path), "router", history(seconds(3))).unwrap().close();
    let aside = folder.path().join("analytics.db.damaged-1");
    assert!(fs::read_to_string(&aside).unwrap().starts_with("not a database"));
    assert_eq!(requests(&stored_history(&address(&path), "router").0, Step::Second), [1, 2, 3]);
    // The first page, which contains the application id, stays intact. All other pages are damaged.
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    HistoryWriter::start(address(&path), "router", history(seconds(2))).unwrap().close();
    assert!(folder.path().join("analytics.db.damaged-2").exists());
    assert_eq!(requests(&stored_history(&address(&path), "router").0, Step::Second), [1, 2]);
}

#[test]
fn a_database_of_another_program_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("accounts.db");
    meddle(&path, "CREATE TABLE accounts (id INTEGER); INSERT INTO accounts VALUES (1)");
    let before = fs::read(&path).unwrap();
    let history_writer =
        HistoryWriter::start(address(&path), "router", history(seconds(3))).unwrap();
    let state = await_state(&history_writer, |state| state.is_unavailable);
    assert_eq!((state.written, state.store_errors), (0, 1));
    history_writer.close();
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn damaged_frames_and_those_of_another_format_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("analytics.db");
    HistoryWriter::start(address(&path), "router", history(seconds(4))).unwrap().close();
    meddle(
        &path,
        "UPDATE tessera_history SET shape = 99 WHERE id = 1;
         UPDATE tessera_history SET frame = x'00' WHERE id = 2",
    );
    let (read, state) = stored_history(&address(&path), "router");
    assert_eq!(requests(&read, Step::Second), [3, 4]);
    assert_eq!((state.loaded, state.unreadable, state.store_errors), (2, 2, 0));
}

#[test]
fn a_file_of_a_newer_program_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("analytics.db");
    HistoryWriter::start(address(&path), "router", history(seconds(4))).unwrap().close();
    meddle(&path, "INSERT INTO __diesel_schema_migrations (version) VALUES ('20990101000001')");
    let history_writer =
        HistoryWriter::start(address(&path), "router", history(seconds(1))).unwrap();
    await_state(&history_writer, |state| state.is_unavailable);
    history_writer.close();
    meddle(&path, "DELETE FROM __diesel_schema_migrations WHERE version = '20990101000001'");
    assert_eq!(requests(&stored_history(&address(&path), "router").0, Step::Second).len(), 4);
}

#[test]
fn intervals_stored_with_a_wrong_clock_stop_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("analytics.db");
    let ahead = [frame(Step::Second, now() + 86_400, 9)];
    HistoryWriter::start(address(&path), "router", history(ahead)).unwrap().close();
    let history_writer = HistoryWriter::open(address(&path)).unwrap();
    let read = loaded(&history_writer, "router");
    assert_eq!(requests(&read, Step::Second), [0; 0]);
    seconds(2).for_each(|frame| read.absorb(frame));
    await_state(&history_writer, |state| state.written == 2);
    history_writer.close();
    assert_eq!(requests(&stored_history(&address(&path), "router").0, Step::Second), [1, 2]);
}

#[test]
fn a_missing_folder_is_awaited_and_everything_is_written_then() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later/analytics.db");
    let history_writer =
        HistoryWriter::start(address(&path), "router", history(seconds(3))).unwrap();
    await_state(&history_writer, |state| state.is_unavailable && state.store_errors == 1);
    fs::create_dir(folder.path().join("later")).unwrap();
    let state = await_state(&history_writer, |state| !state.is_unavailable);
    assert_eq!((state.written, state.store_errors), (3, 1));
    history_writer.close();
    assert_eq!(requests(&stored_history(&address(&path), "router").0, Step::Second), [1, 2, 3]);
}

#[test]
fn the_migrations_of_a_file_go_down_and_up_again() {
    const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations/sqlite/analytics");
    let mut connection = SqliteConnection::establish(":memory:").unwrap();
    let up = connection.run_pending_migrations(MIGRATIONS).unwrap().len();
    let down = connection.revert_all_migrations(MIGRATIONS).unwrap().len();
    assert_eq!((up, down), (1, 1));
    assert_eq!(connection.run_pending_migrations(MIGRATIONS).unwrap().len(), 1);
}
