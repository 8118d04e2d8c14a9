//! Difference: the first property in which two declarations of a table with the same name differ.
//!
//! **Invariant:** tables without a difference have the same own columns, id, routing column and
//! group.
//! **Not here:** differences between a declaration and a database (`declarations` of `postgres`).

use std::fmt;

use super::{Column, Table};
use crate::value::ColumnType;

/// Property of a table that differs in another declaration with the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableDifference {
    /// The table has this column, and the other declaration does not.
    HasColumn(String),
    /// The table does not have this column, and the other declaration does.
    LacksColumn(String),
    /// The table has its columns in this order.
    Order(Vec<String>),
    /// A column of the table has this type.
    Kind(String, ColumnType),
    /// A column of the table may be null (true) or may not (false).
    Nullable(String, bool),
    /// A column of the table has this default, as JSON, or `None` if it has no default.
    Default(String, Option<String>),
    /// The table has these id columns.
    Id(Vec<String>),
    /// The table has this routing column, or `None` if it has no routing column.
    Routing(Option<String>),
    /// The table belongs to another table group.
    Group,
}

impl TableDifference {
    /// Returns the first difference between a table and another declaration, as a property of
    /// `table`; `None` if they do not differ.
    pub fn between(table: &Table, other: &Table) -> Option<Self> {
        let names = |table: &Table, columns: &[usize]| -> Vec<String> {
            columns.iter().map(|column| table.column(*column).name.clone()).collect()
        };
        let own = |table: &Table| -> Vec<usize> { table.own().collect() };
        let (columns, others) = (names(table, &own(table)), names(other, &own(other)));
        if let Some(name) = columns.iter().find(|name| !others.contains(name)) {
            return Some(Self::HasColumn(name.clone()));
        }
        if let Some(name) = others.iter().find(|name| !columns.contains(name)) {
            return Some(Self::LacksColumn(name.clone()));
        }
        if columns != others {
            return Some(Self::Order(columns));
        }
        let pairs = table.columns.iter().zip(&other.columns);
        if let Some(difference) = pairs.into_iter().find_map(|(own, other)| of_columns(own, other))
        {
            return Some(difference);
        }
        if table.id != other.id {
            return Some(Self::Id(names(table, &table.id)));
        }
        let routing = || table.routing.map(|column| table.column(column).name.clone());
        if table.routing != other.routing {
            return Some(Self::Routing(routing()));
        }
        (table.group != other.group).then_some(Self::Group)
    }
}

/// Returns the first difference between two columns with the same name.
fn of_columns(column: &Column, other: &Column) -> Option<TableDifference> {
    let Column { name, kind, nullable, default } = column;
    if *kind != other.kind {
        return Some(TableDifference::Kind(name.clone(), *kind));
    }
    if *nullable != other.nullable {
        return Some(TableDifference::Nullable(name.clone(), *nullable));
    }
    let json = || column.default_json().map(|json| json.get().to_owned());
    (*default != other.default).then(|| TableDifference::Default(name.clone(), json()))
}

impl fmt::Display for TableDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HasColumn(name) => write!(f, "it has a column {name}"),
            Self::LacksColumn(name) => write!(f, "it has no column {name}"),
            Self::Order(names) => write!(f, "its columns come in the order {}", names.join(", ")),
            Self::Kind(name, kind) => write!(f, "its column {name} is {}", kind.name()),
            Self::Nullable(name, true) => write!(f, "its column {name} may be null"),
            Self::Nullable(name, false) => write!(f, "its column {name} may not be null"),
            Self::Default(name, Some(json)) => {
                write!(f, "its column {name} has the default {json}")
            }
            Self::Default(name, None) => write!(f, "its column {name} has no default"),
            Self::Id(names) => write!(f, "its id is {}", names.join(", ")),
            Self::Routing(Some(name)) => write!(f, "its routing column is {name}"),
            Self::Routing(None) => write!(f, "it has no routing column"),
            Self::Group => write!(f, "it belongs to another table group"),
        }
    }
}
