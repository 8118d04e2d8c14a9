//! Random roles, tenants, rows and requests for the tests of isolation between callers.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// Ends of shard keys; each case of a test puts a text of its own before them. Some begin with
/// another, or look like a key of a tenant without being one.
pub(crate) const KEYS: [&str; 8] =
    ["acme", "acme2", "acme:1", "acme:1:x", "acme;", "beta", "beta:1", "ACME"];
/// Tenants, which are also shard keys.
const TENANTS: [&str; 4] = ["acme", "beta", "acme2", "acme:1"];
/// Tables of the test, and names that may be mistaken for theirs.
pub(crate) const TABLES: [&str; 4] = ["notes", "loose", "note", "looses"];
/// Columns that requests name. The last ones do not exist.
pub(crate) const COLUMNS: [&str; 8] =
    ["owner", "id", "amount", "note", "flag", "shard_key", "amuont", "onwer"];

/// The keys of a grant.
#[derive(Clone, Debug)]
pub(crate) enum Keys {
    All,
    Tenant,
    Prefix,
    ScatteredPrefix,
    Literals(Vec<usize>),
}

#[derive(Clone, Debug)]
pub(crate) struct GrantSpec {
    pub(crate) tables: Vec<&'static str>,
    pub(crate) may: Vec<&'static str>,
    pub(crate) keys: Keys,
    pub(crate) columns: Option<Vec<&'static str>>,
}

/// A role and its tenants.
#[derive(Clone, Debug)]
pub(crate) struct CallerSpec {
    pub(crate) grants: Vec<GrantSpec>,
    pub(crate) tenants: Vec<&'static str>,
}

impl CallerSpec {
    /// Returns true if some grant is for rows of this table and key. This repeats the rule of the
    /// contract, not the code that is tested.
    pub(crate) fn may_know(&self, table: &str, key: &str) -> bool {
        // A tenant that contains the separator of some grant leaves no rights.
        let has_prefix = self
            .grants
            .iter()
            .any(|grant| matches!(grant.keys, Keys::Prefix | Keys::ScatteredPrefix));
        if has_prefix && self.tenants.iter().any(|tenant| tenant.contains(':')) {
            return false;
        }
        let is_under =
            |tenant: &&str| key.strip_prefix(*tenant).is_some_and(|rest| rest.starts_with(':'));
        self.grants.iter().filter(|grant| grant.tables.contains(&table)).any(|grant| {
            match &grant.keys {
                Keys::All => true,
                Keys::Tenant => self.tenants.contains(&key),
                Keys::Prefix | Keys::ScatteredPrefix => self.tenants.iter().any(is_under),
                Keys::Literals(keys) => keys.iter().any(|index| KEYS[*index] == key),
            }
        })
    }

    /// Returns true if some grant of the table has the column.
    pub(crate) fn may_name(&self, table: &str, column: &str) -> bool {
        self.grants
            .iter()
            .filter(|grant| grant.tables.contains(&table))
            .any(|grant| grant.columns.as_ref().is_none_or(|columns| columns.contains(&column)))
    }
}

/// A row that is stored without bounds before the requests.
#[derive(Clone, Debug)]
pub(crate) struct Seed {
    pub(crate) table: &'static str,
    pub(crate) key: usize,
    pub(crate) id: u8,
    pub(crate) values: Values,
    /// Values of columns that the caller may not know, and of rows of others, on the other side.
    pub(crate) others: Values,
    /// Sides that have the row, if it is another's.
    pub(crate) sides: [bool; 2],
}

/// Values of `amount`, `note` and `flag`; `None` is null.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    pub(crate) amount: Option<i64>,
    pub(crate) note: Option<&'static str>,
    pub(crate) flag: Option<bool>,
}

/// A condition whose columns are named.
#[derive(Clone, Debug)]
pub(crate) enum Filter {
    Column(&'static str, u8, u8),
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
}

#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) table: &'static str,
    pub(crate) key: Option<usize>,
    pub(crate) select: Option<Vec<&'static str>>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) order: Vec<(&'static str, bool)>,
    pub(crate) limit: u32,
    pub(crate) offset: u32,
    pub(crate) counts: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Singly,
    Bulk,
    Whole,
    Chunks,
}

/// A change of a row. It sets the named columns.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) table: &'static str,
    pub(crate) operation: u8,
    pub(crate) key: usize,
    pub(crate) id: u8,
    pub(crate) set: Vec<&'static str>,
    pub(crate) values: Values,
    pub(crate) precondition: u8,
    pub(crate) idempotency_key: Option<u8>,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Ask(Question),
    Change(Way, Vec<Draft>),
}

/// A caller, rows, and requests of the caller.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) caller: CallerSpec,
    pub(crate) seeds: Vec<Seed>,
    pub(crate) steps: Vec<Step>,
}

fn keys_of_grant() -> impl Strategy<Value = Keys> {
    let literals = subsequence((0..KEYS.len()).collect::<Vec<_>>(), 1..4);
    prop_oneof![
        1 => Just(Keys::All),
        4 => Just(Keys::Tenant),
        2 => Just(Keys::Prefix),
        2 => Just(Keys::ScatteredPrefix),
        2 => literals.prop_map(Keys::Literals),
    ]
}

prop_compose! {
    fn grant()(
        tables in prop_oneof![
            3 => Just(vec!["notes"]),
            1 => Just(vec!["loose"]),
            3 => Just(vec!["loose", "notes"]),
        ],
        may in prop_oneof![
            5 => Just(vec!["read", "insert", "update", "delete"]),
            2 => subsequence(vec!["read", "insert", "update", "delete"], 1..4),
        ],
        keys in keys_of_grant(),
        columns in prop_oneof![
            3 => Just(None),
            1 => subsequence(COLUMNS[..6].to_vec(), 1..6).prop_map(Some),
        ],
    ) -> GrantSpec {
        GrantSpec { tables, may, keys, columns }
    }
}

prop_compose! {
    fn values()(
        amount in prop::option::of(0_i64..4),
        note in prop::option::of(select(vec!["a", "ab", "b", ""])),
        flag in prop::option::of(any::<bool>()),
    ) -> Values {
        Values { amount, note, flag }
    }
}

prop_compose! {
    fn seed()(
        table in select(TABLES[..2].to_vec()),
        key in 0..KEYS.len(),
        id in 0_u8..4,
        values in values(),
        others in values(),
        sides in any::<[bool; 2]>(),
    ) -> Seed {
        Seed { table, key, id, values, others, sides }
    }
}

fn filter() -> impl Strategy<Value = Filter> {
    let leaf = (select(COLUMNS.to_vec()), any::<u8>(), any::<u8>());
    let leaf = leaf.prop_map(|(column, test, value)| Filter::Column(column, test, value));
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Filter::All),
            vec(inner.clone(), 0..3).prop_map(Filter::Any),
            inner.prop_map(|one| Filter::Not(Box::new(one))),
        ]
    })
}

/// A table; seldom one that does not exist.
fn table() -> impl Strategy<Value = &'static str> {
    prop_oneof![19 => select(TABLES[..2].to_vec()), 1 => select(TABLES.to_vec())]
}

/// A name of a column; seldom one that does not exist.
fn column() -> impl Strategy<Value = &'static str> {
    prop_oneof![19 => select(COLUMNS[..6].to_vec()), 1 => select(COLUMNS.to_vec())]
}

prop_compose! {
    fn question()(
        table in table(),
        key in prop::option::of(0..KEYS.len()),
        select in prop::option::weighted(0.4, vec(column(), 1..4)),
        filters in prop_oneof![1 => Just(Vec::new()), 1 => vec(filter(), 1..3)],
        order in prop_oneof![1 => Just(Vec::new()), 1 => vec((column(), any::<bool>()), 1..3)],
        limit in prop_oneof![1 => Just(0), 9 => 1_u32..5],
        offset in prop_oneof![3 => Just(0), 1 => 0_u32..4],
        counts in any::<bool>(),
    ) -> Question {
        Question { table, key, select, filters, order, limit, offset, counts }
    }
}

prop_compose! {
    fn draft()(
        table in table(),
        operation in 0_u8..4,
        key in 0..KEYS.len(),
        id in 0_u8..4,
        set in prop_oneof![
            2 => Just(vec!["amount", "note", "flag"]),
            2 => subsequence(COLUMNS[..5].to_vec(), 0..4),
            1 => vec(column(), 0..3),
        ],
        values in values(),
        precondition in 0_u8..6,
        idempotency_key in prop::option::weighted(0.3, 0_u8..2),
    ) -> Draft {
        Draft { table, operation, key, id, set, values, precondition, idempotency_key }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let way = select(vec![Way::Singly, Way::Bulk, Way::Whole, Way::Chunks]);
    prop_oneof![
        3 => question().prop_map(Step::Ask),
        2 => (way, vec(draft(), 1..5)).prop_map(|(way, drafts)| Step::Change(way, drafts)),
    ]
}

/// Returns random scripts.
pub(crate) fn script() -> impl Strategy<Value = Script> {
    let tenants = prop_oneof![
        4 => subsequence(TENANTS[..3].to_vec(), 0..3),
        1 => subsequence(TENANTS.to_vec(), 1..3),
    ];
    let caller = (vec(grant(), 1..4), tenants);
    let caller = caller.prop_map(|(grants, tenants)| CallerSpec { grants, tenants });
    (caller, vec(seed(), 8..30), vec(step(), 6..12)).prop_map(|(caller, seeds, steps)| Script {
        caller,
        seeds,
        steps,
    })
}
