//! Tests of changes: foreign keys, missing operations, bulk writes, and the row in an answer.

use serde_json::{Value, json};
use shard_manager::access::rights::Rights;
use shard_manager::error::{Error, Outcome};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::BulkRowDone;
use shard_manager::row_change::Operation::{self, Delete, Insert, Update, Upsert};
use shard_manager::row_change::{Precondition, RowDone, RowError};

use crate::shop::{OWN, Shop, caller, change, lack, options};

const ADA: &str = r#"{"name":"Ada","email":"ada@example.com"}"#;

fn row(done: &RowDone) -> Value {
    serde_json::from_slice(&done.json).expect("JSON")
}

#[tokio::test]
async fn a_change_under_a_foreign_key_is_refused_whatever_exists() {
    let shop = Shop::open();
    shop.fill("users", &[("acme2", ADA)]).await;
    let acme = caller(OWN, &["acme"]);
    let mut answers = Vec::new();
    for key in ["acme2", "nobody"] {
        for operation in [Upsert, Insert, Update, Delete] {
            let json = if operation == Delete { "{}" } else { ADA };
            let failure = shop.write(&acme, ("users", operation, key), json).await;
            let failure = failure.expect_err("it is another's key");
            assert_eq!((failure.outcome, failure.place), (Outcome::Rejected, None));
            assert_eq!(failure.seen, None, "no shard has looked it up");
            answers.push((operation, failure.error));
        }
    }
    let (existing, missing) = answers.split_at(4);
    assert_eq!(existing, missing);
    assert_eq!(lack(&existing[0].1), "the shard key is not one of this caller's");
    let untouched = shop.rows(Rights::ALL, "users", Some("acme2")).await.expect("rows");
    assert_eq!(untouched.len(), 1);
    shop.write(&acme, ("users", Insert, "acme"), ADA).await.expect("its own key");
}

#[tokio::test]
async fn an_upsert_needs_insert_and_update_in_one_grant() {
    let shop = Shop::open();
    let grant = |may: &str| format!(r#"{{"tables":["users"],"may":[{may}],"keys":"$tenant"}}"#);
    let halves = format!("{},{}", grant(r#""insert""#), grant(r#""update""#));
    let both = grant(r#""insert","update""#);
    for (grants, allowed) in [(&halves, [Insert, Update].as_slice()), (&both, &[Upsert, Update])] {
        let rights = caller(grants, &[if *grants == halves { "one" } else { "two" }]);
        let key = if *grants == halves { "one" } else { "two" };
        for operation in allowed {
            let written = shop.write(&rights, ("users", *operation, key), ADA).await;
            assert!(written.expect("allowed").row.json.is_empty(), "it may not read the row");
        }
    }
    let one = caller(&halves, &["one"]);
    let failure = shop.write(&one, ("users", Upsert, "one"), ADA).await.expect_err("two grants");
    assert!(lack(&failure.error).contains("only together"), "{failure}");
    let failure = shop.write(&one, ("users", Delete, "one"), "{}").await.expect_err("no grant");
    assert_eq!(lack(&failure.error), "no grant of this table allows delete");
}

#[tokio::test]
async fn the_row_in_an_answer_is_cut_to_what_the_caller_may_read() {
    let shop = Shop::open();
    let grants = r#"{"tables":["users"],"may":["insert","update"],"keys":"$tenant"},
        {"tables":["users"],"may":["read"],"keys":"$tenant","columns":["user_id","name"]}"#;
    let partial = caller(grants, &["acme"]);
    let (place, mut change) =
        change(&shop.manager, &partial, ("users", Insert, "acme"), ADA).expect("a row");
    change.idempotency_key = Some("once".to_owned());
    let written = shop.manager.data(&partial).write(place, change.clone(), &options()).await;
    let written = written.expect("stored").row;
    assert_eq!(row(&written), json!({"user_id": "acme", "name": "Ada"}));
    // The record of the key has the whole row: a repeated answer is cut to each who asks.
    let blind = r#"{"tables":["users"],"may":["insert"],"keys":"$tenant"}"#;
    for (rights, expected) in [
        (&partial, Some(json!({"user_id": "acme", "name": "Ada"}))),
        (&caller(blind, &["acme"]), None),
    ] {
        let again = shop.manager.data(rights).write(place, change.clone(), &options()).await;
        let again = again.expect("repeated").row;
        assert!(again.replayed);
        assert_eq!((!again.json.is_empty()).then(|| row(&again)), expected);
    }
    let whole = shop.manager.data(Rights::ALL).write(place, change.clone(), &options()).await;
    assert_eq!(row(&whole.expect("repeated").row)["email"], "ada@example.com");
    // Rights come before the record: another caller does not even learn that there is one.
    let other = caller(OWN, &["beta"]);
    let refused = shop.manager.data(&other).write(place, change, &options()).await;
    assert!(lack(&refused.expect_err("foreign").error).contains("shard key"));
}

#[test]
fn a_caller_reaches_the_keys_of_its_grants() {
    let one = r#"{"tables":["users"],"may":["insert"],"keys":"$tenant"}"#;
    let other = r#"{"tables":["kv"],"may":["read"],"keys":["pub"]}"#;
    let rights = caller(&format!("{one},{other}"), &["acme"]);
    let reaches = |key| rights.reach().has_key(ShardKey::parse(key).expect("a key"), None);
    assert!(reaches("acme") && reaches("pub"));
    assert!(!reaches("acme2") && !reaches("ACME"));
    let acme = ShardKey::parse("acme").expect("a key");
    let of_table = |table| rights.reach().has_key(acme, Some(table));
    assert!(of_table("users") && !of_table("kv") && !of_table("orders"));
}

#[tokio::test]
async fn a_version_that_does_not_match_is_reported_to_the_owner_only() {
    let shop = Shop::open();
    shop.fill("users", &[("acme", ADA)]).await;
    for (tenant, is_owner) in [("acme", true), ("beta", false)] {
        let rights = caller(OWN, &[tenant]);
        let prepared = change(&shop.manager, &rights, ("users", Update, "acme"), ADA);
        let (place, mut row) = prepared.expect("a row");
        row.precondition = Some(Precondition::Versions(vec![999]));
        let failure = shop.manager.data(&rights).write(place, row, &options()).await;
        let error = failure.expect_err("another version").error;
        assert_eq!(error == Error::VersionDiffers, is_owner, "{error}");
    }
}

fn outcomes(mut rows: Vec<BulkRowDone>) -> Vec<Result<(), (Error, Outcome)>> {
    rows.sort_by_key(|row| row.index);
    rows.into_iter().map(|row| row.outcome.map(drop)).collect()
}

#[tokio::test]
async fn foreign_rows_of_a_bulk_write_are_rejected_and_the_others_are_stored() {
    let shop = Shop::open();
    let acme = caller(OWN, &["acme"]);
    let rows = [("acme", ADA), ("beta", ADA), ("acme", ADA), ("acme2", ADA)];
    let shard = shop.place("acme").shard;
    let here: Vec<_> = rows.into_iter().filter(|(key, _)| shop.place(key).shard == shard).collect();
    for is_chunk in [false, true] {
        let rows = if is_chunk { here.as_slice() } else { rows.as_slice() };
        let bulk = shop.bulk("users", rows);
        let done = if is_chunk {
            let parts = shop.manager.data(&acme).write_chunk(shard, bulk, &options()).await;
            parts.into_iter().flat_map(|(_, part)| part.rows).collect()
        } else {
            shop.manager.data(&acme).write_bulk(bulk, &options()).await.rows
        };
        let done = outcomes(done);
        assert_eq!(done.len(), rows.len());
        for ((key, _), outcome) in rows.iter().zip(done) {
            match outcome {
                Ok(()) => assert_eq!(*key, "acme"),
                Err((error, outcome)) => {
                    assert_ne!(*key, "acme");
                    assert_eq!(outcome, Outcome::Rejected);
                    assert!(lack(&error).contains("shard key"));
                }
            }
        }
    }
    assert_eq!(shop.rows(Rights::ALL, "users", None).await.expect("rows").len(), 1);
}

#[tokio::test]
async fn a_foreign_row_undoes_the_transaction_of_its_shard() {
    let shop = Shop::open();
    let shard = shop.place("acme").shard;
    let keys = || (0..).map(|n| format!("key{n}"));
    let near = keys().find(|key| shop.place(key).shard == shard).expect("a key of the shard");
    let far = keys().find(|key| shop.place(key).shard != shard).expect("a key of another shard");
    let rights = caller(OWN, &["acme", &far]);
    let bulk = shop.bulk("users", &[("acme", ADA), (&near, ADA), ("acme", ADA), (&far, ADA)]);
    let done = shop.manager.data(&rights).write_bulk_atomic(bulk, &options()).await;
    let done = outcomes(done.rows);
    let cause = match &done[1] {
        Err((error, Outcome::Rejected)) => error.clone(),
        other => panic!("a foreign row: {other:?}"),
    };
    assert!(lack(&cause).contains("shard key"));
    let undone = Error::Undone { row: 1, cause: Box::new(cause) };
    assert_eq!(done[0], Err((undone.clone(), Outcome::Rejected)));
    assert_eq!(done[2], Err((undone, Outcome::Rejected)));
    assert_eq!(done[3], Ok(()), "the transaction of another shard");
    let stored = shop.rows(Rights::ALL, "users", None).await.expect("rows");
    assert_eq!(crate::shop::texts(&stored, "user_id"), [far]);
}

#[tokio::test]
async fn hidden_columns_can_not_be_written_and_are_not_named() {
    let shop = Shop::open();
    let grants = r#"{"tables":["users"],"may":["insert","update"],"keys":"$tenant",
        "columns":["name","partition_key"]}"#;
    let rights = caller(grants, &["acme"]);
    let write = async |operation: Operation, json: &str| {
        shop.write(&rights, ("users", operation, "acme"), json).await.map_err(|f| f.error)
    };
    for (member, meant) in [("email", None), ("emial", None), ("nmae", Some("name"))] {
        let json = format!(r#"{{"{member}":"x"}}"#);
        let Err(Error::Row(RowError::NoSuchColumn { column, suggestion, .. })) =
            write(Update, &json).await
        else {
            panic!("{member} is written");
        };
        assert_eq!((column.as_str(), suggestion.as_deref()), (member, meant));
    }
    // A new row needs the hidden column, whose name is not shown.
    let error = write(Insert, r#"{"name":"Ada"}"#).await.expect_err("email is missing");
    assert_eq!(lack(&error), "a new row needs a column that no grant has");
    assert!(!format!("{error:?}").contains("email"));
    // Without the view of a table the change is refused all the same.
    let (place, row) =
        change(&shop.manager, Rights::ALL, ("users", Insert, "acme"), ADA).expect("a row");
    let error = shop.manager.data(&rights).write(place, row, &options()).await;
    let error = error.expect_err("email is hidden").error;
    assert!(matches!(error, Error::Row(RowError::NoSuchColumn { .. })), "{error}");
    shop.fill("users", &[("acme", ADA)]).await;
    write(Update, r#"{"name":"Ada L."}"#).await.expect("a granted column");
}

#[tokio::test]
async fn a_bulk_write_ends_between_two_chunks_once_its_caller_may_not_continue() {
    let shop = Shop::open();
    let acme = caller(OWN, &["acme"]);
    // More rows than two chunks have.
    let rows = shop.bulk("users", &[("acme", ADA); 2_500]);
    let chunks = std::cell::Cell::new(0);
    let may_continue = || chunks.replace(chunks.get() + 1) == 0;
    let done = shop.manager.data(&acme).write_bulk_while(rows, &options(), may_continue).await;
    let sent = done.rows.len();
    assert!(sent > 0 && sent < 2_500, "{sent} rows were sent");
    assert!(done.rows.iter().all(|row| row.outcome.is_ok() && row.index < sent));
    assert_eq!(done.unsent, (sent..2_500).collect::<Vec<_>>());
    assert_eq!(chunks.get(), 2);
}
