//! Reads: which rows, which columns of them, in which order, which page of them.
//!
//! **Invariant:** a [`ReadQuery`] names only columns of its table, its literals fit their columns,
//! and its order is total: the columns asked for, then what tells any two rows apart.
//! **Not here:** the spelling in a query string (the router), the text of a cursor (`cursor`), SQL
//! (`store`).

use std::borrow::Cow;
use std::sync::Arc;

use crate::keyspace::Slot;
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
    /// Sort order of the client; ties are broken by [`ReadQuery::sort_keys`].
    pub order: Vec<OrderBy>,
    /// Most rows of the answer, 0..=[`ReadQuery::LIMIT_MAX`].
    pub limit: u32,
    /// Rows that are passed over, 0..=[`ReadQuery::OFFSET_MAX`].
    pub offset: u32,
    /// Row to continue after: its values of [`ReadQuery::sort_keys`].
    pub after: Option<Vec<Value>>,
    /// True to count the rows that meet the conditions, whatever the page.
    pub counts: bool,
    /// Shard keys of one shard that the conditions name, with their slots: every row that meets the
    /// conditions has one of these. Empty where the conditions name no key, or a single one, which
    /// a read passes separately.
    pub keys: Vec<(Slot, String)>,
}

impl ReadQuery {
    /// Rows of an answer when the client does not say.
    pub const LIMIT_DEFAULT: u32 = 100;
    /// Most rows of one answer: a page, not an export.
    pub const LIMIT_MAX: u32 = 1_000;
    /// Most rows that are passed over: they are read all the same. A cursor has no such price.
    pub const OFFSET_MAX: u32 = 10_000;
    /// Most tests: each is work for every row looked at.
    pub const TESTS_MAX: usize = 50;
    /// Bytes of all patterns together: what a row costs is the length of its text times that of the
    /// patterns, and nothing can stop it between two rows.
    pub const PATTERN_BYTES_MAX: usize = 200;
    /// Deepest nesting of conditions.
    pub const DEPTH_MAX: usize = 5;
    /// Most literals of one `in.(…)`.
    pub const IN_MAX: usize = 500;
    /// Most shard keys for which a read goes to the shards of these keys alone and looks up their
    /// rows; with more it reads all shards.
    pub const KEYS_MAX: usize = 100;
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
            offset: 0,
            after: None,
            counts: false,
            keys: Vec::new(),
        }
    }

    /// Returns, in ascending order, the shard keys of which a row must have one to meet the
    /// conditions; `None` if the conditions name none, or more than [`ReadQuery::KEYS_MAX`]. Only
    /// equality tests of the routing column that are joined by `and`, and stand below no `or` and
    /// no `not`, name keys.
    pub fn keys_named(&self) -> Option<Vec<String>> {
        let routing = self.table.routing()?;
        let mut named = None;
        self.conditions.iter().for_each(|condition| narrow(condition, routing, &mut named));
        let named = named.filter(|named: &Vec<Cow<'_, str>>| named.len() <= Self::KEYS_MAX)?;
        Some(named.into_iter().map(Cow::into_owned).collect())
    }

    /// Returns this read limited to the one key that [`ReadQuery::keys_named`] returns.
    #[must_use]
    pub fn within_key(&self) -> Self {
        let says_key = |condition: &&Condition| match condition {
            Condition::Column(column, Test::Compare(Comparison::Equal, _)) => {
                Some(*column) == self.table.routing()
            }
            Condition::Column(..) | Condition::All(_) | Condition::Any(_) | Condition::Not(_) => {
                false
            }
        };
        let conditions = self.conditions.iter().filter(|condition| !says_key(condition)).cloned();
        let after = self.after.as_ref().map(|after| {
            let keys = self.sort_keys(false).into_iter().zip(after);
            let kept = keys.filter(|(by, _)| !Table::PLACE.contains(&by.column));
            kept.map(|(_, value)| value.clone()).collect()
        });
        Self { conditions: conditions.collect(), after, ..self.clone() }
    }

    /// Converts the sort keys of a row among the rows of its shard key into those among the rows of
    /// all keys.
    pub fn sort_values(&self, slot: Slot, key: &str, within_key: &[Value]) -> Vec<Value> {
        let mut rest = within_key.iter();
        let order = self.sort_keys(false);
        let values = order.iter().filter_map(|by| match by.column {
            Table::SLOT => Some(Value::Int(i64::from(slot.number()))),
            Table::SHARD_KEY => Some(Value::Text(key.to_owned())),
            _ => rest.next().cloned(),
        });
        values.collect()
    }

    /// The full order: what was asked for, then the tie breakers. Without a options rows come in
    /// the order in which they are kept (slot, shard key, id), which costs no sorting; with one,
    /// ties are broken by shard key and id. Among the rows of one key (`keyed`) slot and shard key
    /// tell nothing apart.
    pub fn sort_keys(&self, keyed: bool) -> Vec<OrderBy> {
        let place = Table::PLACE;
        let mut keys: Vec<OrderBy> = Vec::with_capacity(self.order.len() + 3);
        keys.extend(self.order.iter().filter(|by| !(keyed && place.contains(&by.column))));
        let kept: &[usize] = match (keyed, self.order.is_empty()) {
            (true, _) => &[],
            (false, true) => &place,
            (false, false) => &place[1..],
        };
        for column in kept.iter().chain(self.table.id()).copied() {
            if keys.iter().all(|key| key.column != column) {
                keys.push(OrderBy { column, descending: false });
            }
        }
        keys
    }

    /// True if a row may cost much more than another, because patterns are matched with its texts.
    pub fn has_patterns(&self) -> bool {
        fn any(conditions: &[Condition]) -> bool {
            conditions.iter().any(|condition| match condition {
                Condition::All(list) | Condition::Any(list) => any(list),
                Condition::Not(one) => any(std::slice::from_ref(one)),
                Condition::Column(_, Test::Like(_) | Test::ILike(_)) => true,
                Condition::Column(_, Test::Compare(..) | Test::In(_) | Test::Is(_)) => false,
            })
        }
        any(&self.conditions)
    }

    /// True if one index range answers it without reading rows in vain: no conditions, and the
    /// order in which rows are kept.
    pub fn is_point_read(&self) -> bool {
        self.conditions.is_empty() && self.order.is_empty() && self.offset == 0 && !self.counts
    }
}

/// Narrows the candidate keys, in ascending order, to those that this condition allows.
fn narrow<'q>(condition: &'q Condition, routing: usize, named: &mut Option<Vec<Cow<'q, str>>>) {
    let values = match condition {
        Condition::All(list) => {
            list.iter().for_each(|condition| narrow(condition, routing, named));
            return;
        }
        Condition::Column(column, Test::Compare(Comparison::Equal, value))
            if *column == routing =>
        {
            std::slice::from_ref(value)
        }
        Condition::Column(column, Test::In(values)) if *column == routing => values,
        Condition::Column(..) | Condition::Any(_) | Condition::Not(_) => return,
    };
    let mut keys: Vec<_> = values.iter().filter_map(Value::key_text).collect();
    keys.sort_unstable();
    keys.dedup();
    if let Some(known) = named {
        known.retain(|key| keys.binary_search(key).is_ok());
    } else {
        *named = Some(keys);
    }
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Index of the column.
    pub column: usize,
    /// The member's name, when not the column's.
    pub alias: Option<String>,
}

/// Condition on a row. As in SQL a test of null is neither true nor false, and such a row does not
/// pass.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// A column must pass a test.
    Column(usize, Test),
    /// All must hold.
    All(Vec<Self>),
    /// One must hold.
    Any(Vec<Self>),
    /// The condition must be false.
    Not(Box<Self>),
}

/// Test of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// The value compares so to this one.
    Compare(Comparison, Value),
    /// The value is equal to one of these.
    In(Vec<Value>),
    /// The text matches this pattern.
    Like(Pattern),
    /// The text matches this pattern, upper and lower case of ASCII being equal.
    ILike(Pattern),
    /// The value has this state. For null, too, the test is true or false.
    Is(State),
}

/// Comparison of two values; text is compared by bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
}

/// State of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Null.
    Null,
    /// Anything else.
    NotNull,
    /// True; of boolean columns.
    True,
    /// False; of boolean columns.
    False,
}

/// Pattern that a text must match as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pattern(pub Vec<Piece>);

/// A piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These characters.
    Text(String),
    /// One character, whichever.
    One,
    /// Any characters, also none.
    Many,
}

impl Pattern {
    /// Reads `%` and `*` as any characters, `_` as one, and what follows `\` as itself; `None` if
    /// nothing follows it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let literal = match c {
                '%' | '*' => {
                    // Two of them say no more than one, and cost a multiple.
                    if pieces.last() != Some(&Piece::Many) {
                        pieces.push(Piece::Many);
                    }
                    continue;
                }
                '_' => {
                    pieces.push(Piece::One);
                    continue;
                }
                '\\' => chars.next()?,
                c => c,
            };
            match pieces.last_mut() {
                Some(Piece::Text(text)) => text.push(literal),
                Some(Piece::One | Piece::Many) | None => pieces.push(Piece::Text(literal.into())),
            }
        }
        Some(Self(pieces))
    }
}

/// One column of an order. Null is last when ascending and first when descending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderBy {
    /// Index of the column.
    pub column: usize,
    /// From high to low.
    pub descending: bool,
}
