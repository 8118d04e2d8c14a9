//! Reads: which rows, which columns of them, in which order, how many.
//!
//! **Invariant:** a [`ReadQuery`] names only columns of its table, its literals fit their columns, and its
//! order is total: the columns asked for, then what tells any two rows apart.
//! **Not here:** the spelling in a query string (the router), SQL (`store`).

use std::sync::Arc;

use crate::table::Table;
use crate::value::Value;

/// A checked read of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadQuery {
    /// The table.
    pub table: Arc<Table>,
    /// The columns of the answer, in its order.
    pub outputs: Vec<Output>,
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// What the client asked to sort by; ties are broken by [`ReadQuery::sort_keys`].
    pub order: Vec<OrderBy>,
    /// Most rows of the answer, 0..=[`ReadQuery::LIMIT_MAX`].
    pub limit: u32,
}

impl ReadQuery {
    /// Rows of an answer when the client does not say.
    pub const LIMIT_DEFAULT: u32 = 100;
    /// Most rows of one answer: a page, not an export.
    pub const LIMIT_MAX: u32 = 1_000;
    /// Most conditions: each is work for every row looked at.
    pub const CONDITIONS_MAX: usize = 32;
    /// Most literals of one `in.(…)`.
    pub const IN_MAX: usize = 500;
    /// Most columns of `order`.
    pub const ORDER_MAX: usize = 8;

    /// All answered columns of a table, no conditions, the default order and limit.
    pub fn all(table: &Arc<Table>) -> Self {
        let outputs = table.answered().map(|column| Output { column, alias: None }).collect();
        Self {
            table: Arc::clone(table),
            outputs,
            conditions: Vec::new(),
            order: Vec::new(),
            limit: Self::LIMIT_DEFAULT,
        }
    }

    /// The full order: what was asked for, then the tie breakers. Without a wish rows come in the order
    /// in which they are kept (slot, shard key, id), which costs no sorting; with one, ties are broken
    /// by shard key and id.
    pub fn sort_keys(&self) -> Vec<OrderBy> {
        let mut keys = self.order.clone();
        let slot = self.order.is_empty().then_some(Table::SLOT);
        let ties =
            slot.into_iter().chain([Table::SHARD_KEY]).chain(self.table.id().iter().copied());
        for column in ties {
            if keys.iter().all(|key| key.column != column) {
                keys.push(OrderBy { column, descending: false });
            }
        }
        keys
    }

    /// Whether one index range answers it without looking at rows in vain: no conditions, and the
    /// order in which rows are kept.
    pub fn is_point_read(&self) -> bool {
        self.conditions.is_empty() && self.order.is_empty()
    }
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Which column.
    pub column: usize,
    /// The member's name, when not the column's.
    pub alias: Option<String>,
}

/// A test that a row must pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Which column.
    pub column: usize,
    /// What must hold for its value.
    pub test: Test,
}

/// What must hold for a value. Null passes none of these.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// Equal to this.
    Equal(Value),
    /// Equal to one of these.
    In(Vec<Value>),
}

/// One column of an order. Null is last when ascending and first when descending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderBy {
    /// Which column.
    pub column: usize,
    /// From high to low.
    pub descending: bool,
}
