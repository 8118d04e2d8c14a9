//! Difference: the first fact in which two declarations of a table differ.
//!
//! **Invariant:** tables without a difference have the same own columns, id and routing column.
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
    /// These columns are the id.
    Id(Vec<String>),
    /// This column is the routing column, if there is one.
    Routing(Option<String>),
}

impl TableDifference {
    /// Returns the first difference of a table to another declaration; `None` if there is none.
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
        for (Column { name, kind, nullable }, theirs) in table.columns.iter().zip(&other.columns) {
            if *kind != theirs.kind {
                return Some(Self::Kind(name.clone(), *kind));
            }
            if *nullable != theirs.nullable {
                return Some(Self::Nullable(name.clone(), *nullable));
            }
        }
        if table.id != other.id {
            return Some(Self::Id(names(table, &table.id)));
        }
        let routing = || table.routing.map(|column| table.column(column).name.clone());
        (table.routing != other.routing).then(|| Self::Routing(routing()))
    }
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
            Self::Id(names) => write!(f, "its id is {}", names.join(", ")),
            Self::Routing(Some(name)) => write!(f, "its routing column is {name}"),
            Self::Routing(None) => write!(f, "it has no routing column"),
        }
    }
}
