//! Tests of tables without a grant: they are not found, listed or suggested.

use std::time::{Duration, Instant};

use shard_manager::access::operation::RowOperations;
use shard_manager::access::rights::Rights;
use shard_manager::declaration::Declaration;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::error::Error;
use shard_manager::keyspace::KeyError;
use shard_manager::keyspace::partition_column::PartitionError;
use shard_manager::manager::{IndexDraft, Indexes, IndexesError};
use shard_manager::row_change::Operation::{Insert, Update};
use shard_manager::table::Column;
use shard_manager::value::ColumnType;

use crate::shop::{OWN, Shop, caller, change, lack};

fn no_such_table(error: Error) -> Option<String> {
    let Error::NoSuchTable { suggestion, .. } = error else { panic!("it exists: {error:?}") };
    suggestion
}

#[tokio::test]
async fn a_table_without_a_grant_is_as_if_it_were_not_there() {
    let shop = Shop::open();
    let acme = caller(OWN, &["acme"]);
    let tables = shop.manager.schema(&acme).tables();
    let names: Vec<&str> = tables.tables().map(|table| table.name()).collect();
    assert_eq!(names, ["kv", "orders", "users"]);
    for (name, meant) in
        [("products", None), ("product", None), ("transaction", None), ("user", Some("users"))]
    {
        let read = shop.rows(&acme, name, None).await.expect_err("no table");
        assert_eq!(no_such_table(read).as_deref(), meant);
        let write = change(&shop.manager, &acme, (name, Insert, "acme"), "{}");
        assert_eq!(no_such_table(write.expect_err("no table")).as_deref(), meant);
    }
    // A request that was parsed without bounds is refused as well.
    let query = shop.query(Rights::ALL, "products").expect("a query");
    let read = shop.read(&acme, query, None).await.expect_err("no grant");
    assert_eq!(no_such_table(read.error), None);
    let row = r#"{"product_id":"p","name":"Pen","price":1}"#;
    let made = change(&shop.manager, Rights::ALL, ("products", Insert, "p"), row);
    let (place, row) = made.expect("a row");
    let options = crate::shop::options();
    let write = shop.manager.data(&acme).write(place, row, &options).await.expect_err("no grant");
    assert_eq!(no_such_table(write.error), None);
    let none = Rights::none();
    assert_eq!(shop.manager.schema(&none).tables().tables().count(), 0);
    let nothing = shop.manager.schema(&none).table("users").expect_err("no table");
    assert_eq!(no_such_table(nothing), None);
}

#[test]
fn a_table_is_shown_with_the_columns_of_its_grants() {
    let shop = Shop::open();
    let grants = r#"{"tables":["users"],"may":["read"],"keys":"*","columns":["user_id","name"]},
        {"tables":["users"],"may":["update"],"keys":"*","columns":["user_id","email"]}"#;
    let rights = caller(grants, &[]);
    let schema = shop.manager.schema(&rights);
    let table = schema.table("users").expect("a grant");
    for listed in [&table, schema.tables().find("users").expect("listed")] {
        let shown = listed.visible().answered().map(|column| listed.column(column).name.clone());
        assert_eq!(shown.collect::<Vec<_>>(), ["user_id", "name", "email"]);
    }
    let of = |operations| schema.usable_for(table.clone(), operations).expect("granted");
    let (read, update) = (of(RowOperations::READ), of(RowOperations::UPDATE));
    assert_eq!((read.find("email"), update.find("name")), (None, None));
    assert!(read.find("name").is_some() && update.find("email").is_some());
    let insert = schema.usable_for(table.clone(), RowOperations::INSERT);
    assert_eq!(lack(&insert.expect_err("none")), "no grant of this table allows insert");
}

#[test]
fn a_change_needs_the_columns_that_identify_rows() {
    let shop = Shop::open();
    let grants = r#"{"tables":["orders"],"may":["update"],"keys":"$tenant","columns":["status"]}"#;
    let rights = caller(grants, &["acme"]);
    let key = ("orders", Update, "acme");
    let refused = change(&shop.manager, &rights, key, r#"{"status":"paid"}"#);
    let refused = refused.expect_err("order_id is hidden");
    assert_eq!(lack(&refused), "no grant has all columns that tell its rows apart");
}

#[tokio::test]
async fn a_table_is_created_with_the_scope_only() {
    let shop = Shop::open();
    let declaration = |name: &str| Declaration {
        name: name.to_owned(),
        columns: vec![Column {
            name: "id".to_owned(),
            kind: ColumnType::Text,
            nullable: false,
            default: None,
        }],
        id: vec!["id".to_owned()],
        routing: None,
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    let acme = caller(OWN, &["acme"]);
    for name in ["notes", "products"] {
        let table = declaration(name).check().expect("a table");
        let refused = shop.manager.schema(&acme).create_table(table, deadline).await;
        let refused = refused.expect_err("no scope").error;
        assert!(lack(&refused).contains("scope tables"), "{refused}");
    }
    assert!(shop.manager.schema(Rights::ALL).table("notes").is_err());
}

#[tokio::test]
async fn the_error_of_a_key_without_a_partition_names_no_hidden_column() {
    let keyspace = Some("list(account):A=1,B=1".parse().expect("a keyspace"));
    let wanted = ClusterSpec { keyspace, shards: Some(1), replicas: Some(0), ..Default::default() };
    let shop = Shop::open_as(wanted);
    let grants = r#"{"tables":["transactions"],"may":["read","insert"],"keys":"*",
        "columns":["tx_id","amount"]}"#;
    let rights = caller(grants, &[]);
    let key = ("transactions", Insert, "Z");
    let write = change(&shop.manager, &rights, key, r#"{"tx_id":"t","amount":1}"#);
    let read = shop.rows(&rights, "transactions", Some("Z")).await;
    for refused in [write.map(drop), read.map(drop)] {
        let hidden = KeyError::from(PartitionError::Hidden);
        assert_eq!(refused, Err(Error::from(hidden)));
    }
    let shown = shop.rows(Rights::ALL, "transactions", Some("Z")).await.expect_err("no partition");
    assert!(shown.to_string().contains("account"), "{shown}");
}

#[tokio::test]
async fn an_index_of_a_hidden_column_is_as_if_it_were_not_there() {
    let shop = Shop::open();
    let grants = r#"{"tables":["users"],"may":["read"],"keys":"*","columns":["user_id","name"]}"#;
    let rights = caller(grants, &[]);
    let deadline = Instant::now() + Duration::from_secs(20);
    let all = Indexes::of(shop.manager.schema(Rights::ALL));
    for column in ["name", "email"] {
        let (name, columns) = (format!("by_{column}"), vec![column.to_owned()]);
        let draft = IndexDraft { name, columns, is_unique: false, pause_max_ms: 1_000 };
        all.create("users", &draft, deadline).await.expect("listed");
    }
    let own = Indexes::of(shop.manager.schema(&rights));
    let listed = own.list("users", deadline).await.expect("a grant");
    let names: Vec<&str> = listed.iter().map(|record| record.name.as_str()).collect();
    assert_eq!(names, ["by_name"]);
    let removed = own.remove("users", "by_name", deadline).await;
    let Err(IndexesError::Failed(Error::Forbidden { lack, .. })) = removed else {
        panic!("it has no right to: {removed:?}")
    };
    assert!(lack.contains("tables"), "{lack}");
    assert_eq!(all.list("users", deadline).await.expect("all").len(), 2);
}
