//! Declared: how a table is spelled where it is kept: on each shard, in the change log, among the intents.
//!
//! **Invariant:** what is read is checked as any other table; what is written reads as the same table.
//! **Not here:** where declarations are kept (`sqlite`, `postgres`).

use serde::{Deserialize, Serialize};

use crate::table::{Column, Table};
use crate::value::ColumnType;

/// A table, as a node declares it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(super) columns: Vec<DeclaredColumn>,
    pub(super) id: Vec<String>,
    pub(super) routing: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct DeclaredColumn {
    name: String,
    #[serde(rename = "type")]
    kind: ColumnType,
    null: bool,
}

impl Declared {
    /// The declaration of a table.
    pub(crate) fn of(table: &Table) -> Self {
        let name = |column: usize| table.column(column).name.clone();
        let columns = table.own().map(|column| table.column(column)).map(|column| DeclaredColumn {
            name: column.name.clone(),
            kind: column.kind,
            null: column.nullable,
        });
        Self {
            name: table.name().to_owned(),
            columns: columns.collect(),
            id: table.id().iter().map(|column| name(*column)).collect(),
            routing: table.routing().map(name),
        }
    }

    /// The table that it declares, or what is wrong with it.
    pub(crate) fn into_table(self) -> Result<Table, String> {
        let columns = self.columns.into_iter().map(|declared| Column {
            name: declared.name,
            kind: declared.kind,
            nullable: declared.null,
        });
        Table::new(&self.name, columns.collect(), &self.id, self.routing.as_deref())
            .map_err(|error| error.to_string())
    }

    /// All of it as one line of JSON.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("names always serialise")
    }

    /// What [`Declared::json`] wrote.
    pub(crate) fn parse(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }
}

/// The columns of a declaration where it is kept.
pub(super) type Row = (String, String, String, Option<String>);

impl Declared {
    /// The columns of `tessera_tables`: name, `column_list`, id, routing.
    pub(super) fn row(&self) -> Row {
        let json = |list: Result<String, _>| list.expect("names always serialise");
        let columns = json(serde_json::to_string(&self.columns));
        let id = json(serde_json::to_string(&self.id));
        (self.name.clone(), columns, id, self.routing.clone())
    }

    /// What [`Declared::row`] wrote.
    pub(super) fn of_row((name, columns, id, routing): Row) -> Result<Self, serde_json::Error> {
        let (columns, id) = (serde_json::from_str(&columns)?, serde_json::from_str(&id)?);
        Ok(Self { name, columns, id, routing })
    }
}
