//! Tests of declarations: every name is either refused or works in every statement, and an invalid
//! declaration is refused with the member that is wrong.

use serde_json::json;
use shard_manager::access::rights::Rights;
use shard_manager::declaration::{Declaration, DeclarationError, Fault};
use shard_manager::query::{Comparison, Condition, OrderBy, ReadQuery, Test};
use shard_manager::row_change::Operation::{Insert, Update, Upsert};
use shard_manager::table::Table;
use shard_manager::value::{ColumnType, Value};

use crate::cluster::Cluster;
use crate::tables::{column, declaration, make};

/// Every keyword of SQLite (<https://www.sqlite.org/lang_keywords.html>), and the keywords of
/// PostgreSQL that SQLite lacks and that can appear where a column or table name is expected.
const KEYWORDS: &str = "abort action add after all alter always analyze and as asc attach autoincrement before begin \
    between by cascade case cast check collate column commit conflict constraint create cross current current_date \
    current_time current_timestamp database default deferrable deferred delete desc detach distinct do drop each else \
    end escape except exclude exclusive exists explain fail filter first following for foreign from full generated \
    glob group groups having if ignore immediate in index indexed initially inner insert instead intersect into is \
    isnull join key last left like limit match materialized natural no not nothing notnull null nulls of offset on or \
    order others outer over partition plan pragma preceding primary query raise range recursive references regexp \
    reindex release rename replace restrict returning right rollback row rows savepoint select set table temp \
    temporary then ties to transaction trigger unbounded union unique update using vacuum values view virtual when \
    where window with without within strict stored main true false analyse any array asymmetric authorization \
    binary both collation concurrently current_catalog current_role current_schema current_user fetch freeze grant \
    ilike lateral leading localtime localtimestamp only overlaps placing session_user similar some symmetric \
    system_user tablesample trailing user variadic verbose bigint bit boolean char character coalesce dec decimal \
    float greatest grouping inout int integer interval json json_array json_object least national nchar none \
    normalize nullif numeric out overlay position precision real setof smallint substring text time timestamp treat \
    trim uuid varchar value values_ xml year month day hour minute second zone name type data date count_ min max sum \
    avg total length lower upper random abs changes glob_ instr iif printf typeof unicode";

#[tokio::test]
async fn every_name_is_refused_or_works_everywhere_in_a_statement() {
    let cluster = Cluster::with_shards(1);
    let (mut used, mut refused) = (Vec::new(), Vec::new());
    let mut columns = vec![column("id", ColumnType::Text, false)];
    for word in KEYWORDS.split_whitespace() {
        let mut own = declaration(word);
        own.columns[1].name = word.to_owned();
        match own.check() {
            Ok(_) => {
                used.push(word);
                columns.push(column(word, ColumnType::Text, true));
            }
            Err(DeclarationError { member, fault: Fault::Reserved { .. } }) => {
                assert_eq!(member, "name");
                let mut own = declaration("fine");
                own.columns[1].name = word.to_owned();
                let column = own.check().expect_err("refused as a column as well");
                assert_eq!(column.member, "columns[1].name", "{word}");
                refused.push(word);
            }
            Err(error) => panic!("{word}: {error}"),
        }
    }
    assert!(used.len() > 90 && refused.len() > 100, "{used:?} {refused:?}");
    for word in &used {
        let mut own = declaration(word);
        own.columns[1] = column(word, ColumnType::Json, true);
        own.columns.push(column("pair", ColumnType::Text, false));
        own.id.push("pair".to_owned());
        make(&cluster, own.check().expect("good"))
            .await
            .unwrap_or_else(|e| panic!("{word}: {e:?}"));
        let row = json!({"pair": "p", *word: {"n": 1}}).to_string();
        cluster.write(word, Insert, "ada", &row).await.unwrap_or_else(|e| panic!("{word}: {e}"));
    }
    for names in columns[1..].chunks(100) {
        let mut own = declaration("words");
        own.name = format!("words_{}", names[0].name);
        own.columns = std::iter::once(columns[0].clone()).chain(names.iter().cloned()).collect();
        make(&cluster, own.clone().check().expect("good")).await.expect("made");
        use_every_column(&cluster, &own.name).await;
    }
    cluster.restart_after(|_| {});
}

/// Writes, changes, filters by and orders by every column of a table, and uses each as an id.
async fn use_every_column(cluster: &Cluster, name: &str) {
    let table = cluster.manager.schema(Rights::ALL).table(name).expect("it is there");
    let own: Vec<usize> = table.own().filter(|column| !table.id().contains(column)).collect();
    let row: serde_json::Map<String, serde_json::Value> =
        own.iter().map(|column| (table.column(*column).name.clone(), json!("v"))).collect();
    let row = serde_json::Value::Object(row).to_string();
    cluster.write(name, Insert, "ada", &row).await.expect("stored");
    cluster.write(name, Insert, "bob", "{}").await.expect("stored");
    for column in own {
        let word = &table.column(column).name;
        let changed = json!({word: "w"}).to_string();
        cluster
            .write(name, Update, "ada", &changed)
            .await
            .unwrap_or_else(|e| panic!("{word}: {e}"));
        for test in [
            Test::Compare(Comparison::Equal, Value::Text("w".into())),
            Test::In(vec![Value::Text("w".into())]),
        ] {
            let query = ReadQuery {
                conditions: vec![Condition::Column(column, test)],
                order: vec![OrderBy { column, descending: true }],
                ..ReadQuery::all(&table)
            };
            let rows = cluster.read(query, None).await;
            assert_eq!((rows.len(), &rows[0][word]), (1, &json!("w")), "{word}");
        }
        for descending in [false, true] {
            let order = vec![OrderBy { column, descending }];
            let rows = cluster.read(ReadQuery { order, ..ReadQuery::all(&table) }, None).await;
            let expected = if descending { ["bob", "ada"] } else { ["ada", "bob"] };
            assert_eq!([&rows[0]["id"], &rows[1]["id"]], expected, "{word}");
        }
    }
}

#[tokio::test]
async fn a_table_may_have_as_many_columns_and_ids_as_there_may_be() {
    let cluster = Cluster::with_shards(1);
    // The longest names, and the type with the longest SQL.
    let name = |n: usize| format!("{}{n:03}", "c".repeat(37));
    let ids = Declaration::ID_MAX;
    let kind = |n| if n < ids { ColumnType::Text } else { ColumnType::Json };
    let whole = Declaration {
        name: "t".repeat(40),
        columns: (0..Table::COLUMNS_MAX).map(|n| column(&name(n), kind(n), n >= ids)).collect(),
        id: (0..ids).map(name).collect(),
        routing: None,
    };
    make(&cluster, whole.clone().check().expect("as many as there may be")).await.expect("made");
    let row: serde_json::Map<String, serde_json::Value> =
        (0..Table::COLUMNS_MAX).map(|n| (name(n), json!(n.to_string()))).collect();
    let row = serde_json::Value::Object(row);
    for _ in 0..2 {
        cluster.write(&whole.name, Upsert, "k", &row.to_string()).await.expect("stored");
    }
    let rows = cluster.rows(&whole.name, Some("k")).await;
    assert_eq!((rows.len(), &rows[0][name(199)]), (1, &json!("199")));
}

#[test]
fn a_declaration_that_is_no_table_is_refused_and_the_member_is_named() {
    let refused = |change: &dyn Fn(&mut Declaration)| {
        let mut other = declaration("students");
        change(&mut other);
        other.check().expect_err("refused").to_string()
    };
    for name in ["", "A", "1a", "a-b", "a b", "é", "a\"b", "a;drop table users", &"a".repeat(41)] {
        let reported = refused(&|t| t.name = name.to_owned());
        assert!(reported.starts_with("name must be"), "{reported}");
        let reported = refused(&|t| t.columns[1].name = name.to_owned());
        assert!(reported.starts_with("columns[1].name must be"), "{reported}");
    }
    for name in
        ["tessera_x", "sqlite_master", "pg_class", "information_schema", "dbstat", "json_each"]
    {
        assert_eq!(
            refused(&|t| t.name = name.to_owned()),
            "name is a name that the system needs for itself"
        );
    }
    for name in ["slot", "shard_key", "version", "created_at", "updated_at", "rowid", "oid", "ctid"]
    {
        let reported = refused(&|t| t.columns[0].name = name.to_owned());
        assert_eq!(reported, "columns[0].name is a name that the system needs for itself");
    }
    for name in
        ["select", "order", "limit", "offset", "cursor", "count", "and", "or", "columns", "not"]
    {
        let reported = refused(&|t| t.columns[0].name = name.to_owned());
        assert_eq!(reported, "columns[0].name is a name that a query string needs for itself");
    }
    let many =
        |count| (0..count).map(|n| column(&format!("c{n}"), ColumnType::Text, false)).collect();
    assert_eq!(refused(&|t| t.columns = many(201)), "columns must be 1 to 200, and are 201");
    assert_eq!(refused(&|t| t.columns.clear()), "columns must be 1 to 200, and are 0");
    assert_eq!(refused(&|t| t.columns[1].name = "id".into()), "columns[1].name is given twice");
    assert_eq!(refused(&|t| t.id.clear()), "id must name 1 to 8 columns, but names 0");
    assert_eq!(refused(&|t| t.id.push("id".into())), "id[1] is given twice");
    assert_eq!(refused(&|t| t.id[0] = "grade".into()), "id[0] is a column that may be null");
    assert_eq!(refused(&|t| t.id[0] = "idd".into()), "id[0] is none of the columns");
    assert_eq!(refused(&|t| t.routing = Some("slot".into())), "routing is none of the columns");
    assert_eq!(
        refused(&|t| t.routing = Some("grade".into())),
        "routing is a column that may be null"
    );
    let json = |t: &mut Declaration| t.columns[0].kind = ColumnType::Json;
    assert_eq!(refused(&json), "id[0] is a json column, and json cannot be compared");
}
