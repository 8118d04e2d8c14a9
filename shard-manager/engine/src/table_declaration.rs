//! Table declaration: the form in which the definition of a table is stored on each shard, in the
//! change log and in intents.
//!
//! **Invariant:** a declaration that is read is checked like any new table, and gives the same
//! table that was stored.
//! **Not here:** storing declarations (`sqlite`, `postgres`).

use diesel::QueryDsl;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use model::table::{Column, ColumnDefault, Table, in_group};
use model::table_group::GroupNumber;
use model::value::ColumnType;

use super::system_tables::tessera_tables;

/// Declaration of a table.
#[derive(Debug, Deserialize, Serialize)]
pub struct TableDeclaration {
    /// Name of the table.
    pub name: String,
    /// Columns that the client declared.
    pub columns: Vec<ColumnDeclaration>,
    /// Names of the id columns.
    pub id: Vec<String>,
    /// Name of the routing column.
    pub routing: Option<String>,
    /// Number of the group that the table belongs to. Absent for the group `main`, so that
    /// declarations from before other groups existed stay valid.
    #[serde(default, skip_serializing_if = "is_main")]
    pub group: usize,
}

fn is_main(group: &usize) -> bool {
    *group == GroupNumber::MAIN.index()
}

/// Declaration of a column.
#[derive(Debug, Deserialize, Serialize)]
pub struct ColumnDeclaration {
    name: String,
    #[serde(rename = "type")]
    kind: ColumnType,
    null: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default: Option<Box<RawValue>>,
}

impl TableDeclaration {
    /// Converts a table to its declaration.
    pub fn of(table: &Table) -> Self {
        let name = |column: usize| table.column(column).name.clone();
        let columns =
            table.own().map(|column| table.column(column)).map(|column| ColumnDeclaration {
                name: column.name.clone(),
                kind: column.kind,
                null: column.nullable,
                default: column.default_json(),
            });
        Self {
            name: table.name().to_owned(),
            columns: columns.collect(),
            id: table.id().iter().map(|column| name(*column)).collect(),
            routing: table.routing().map(name),
            group: table.group().index(),
        }
    }

    /// Converts the declaration to a table, or describes what is wrong with it.
    pub fn into_table(self) -> Result<Table, String> {
        let columns = self.columns.into_iter().map(ColumnDeclaration::into_column);
        let columns = columns.collect::<Result<_, _>>()?;
        let group = GroupNumber::new(self.group);
        let group = group.ok_or_else(|| format!("there is no group number {}", self.group))?;
        let table = Table::new(&self.name, columns, &self.id, self.routing.as_deref());
        Ok(in_group(table.map_err(|error| error.to_string())?, group))
    }

    /// Formats the declaration as one line of JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("names always serialise")
    }

    /// Parses the JSON of [`TableDeclaration::json`].
    pub fn parse(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }
}

impl ColumnDeclaration {
    fn into_column(self) -> Result<Column, String> {
        let Self { name, kind, null, default } = self;
        let default = default.map(|json| ColumnDefault::parse(kind, &json)).transpose();
        let default = default.map_err(|fault| format!("the default of {name} {fault}"))?.flatten();
        Ok(Column { name, kind, nullable: null, default })
    }
}

/// Values of a declaration in the columns of `tessera_tables`.
pub type Row = (String, String, String, Option<String>, i64);

/// Selects the columns of [`Row`].
#[diesel::dsl::auto_type(no_type_alias)]
pub fn stored_columns() -> _ {
    tessera_tables::table.select((
        tessera_tables::name,
        tessera_tables::column_list,
        tessera_tables::id,
        tessera_tables::routing,
        tessera_tables::group_number,
    ))
}

impl TableDeclaration {
    /// Returns the values for the columns of `tessera_tables`: name, `column_list`, id, routing,
    /// `group_number`.
    pub fn row(&self) -> Row {
        let json = |list: Result<String, _>| list.expect("names always serialise");
        let columns = json(serde_json::to_string(&self.columns));
        let id = json(serde_json::to_string(&self.id));
        (self.name.clone(), columns, id, self.routing.clone(), self.group as i64)
    }

    /// Restores a declaration from the values of [`TableDeclaration::row`].
    pub fn of_row((name, columns, id, routing, group): Row) -> Result<Self, serde_json::Error> {
        let (columns, id) = (serde_json::from_str(&columns)?, serde_json::from_str(&id)?);
        // A negative number belongs to no group, so the table is refused.
        let group = usize::try_from(group).unwrap_or(usize::MAX);
        Ok(Self { name, columns, id, routing, group })
    }
}
