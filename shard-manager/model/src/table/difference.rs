//! Difference: the first fact in which two declarations of a table differ.
//!
//! **Invariant:** tables without a difference have the same own columns, id, routing column and
//! group.
//! **Not here:** differences between a declaration and a database (`declarations` of `postgres`).

use std::fmt;

use super::{Column, Table};
use crate::value::ColumnType;

/// Property of a table in which another declaration of its name differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableDifference {
    /// The other one does not have this column.
    HasColumn(String),
    /// The other one has this column.
    LacksColumn(String),
    /// The columns come in this order.
    Order(Vec<String>),
    /// A column has this type.
    Kind(String, ColumnType),
    /// A column may be null, or may not.
    Nullable(String, bool),
    /// A column has this default, as JSON, if it has one.
    Default(String, Option<String>),
    /// The id consists of these columns.
    Id(Vec<String>),
    /// The routing column is this one, or there is none.
    Routing(Option<String>),
    /// The groups differ.
    Group,
}

impl TableDifference {
    /// Returns the first difference between a table and another declaration; `None` if there is
    /// none.
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

/// Returns the first difference between columns of one name.
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
