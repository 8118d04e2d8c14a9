//! Hazards: detects triggers and rules that Tessera has not created, and UNLOGGED tables.
//!
//! A row trigger may alter or discard a row, a rule may replace a statement, and a crash empties an
//! UNLOGGED table. A transaction that reads its rows before it writes them queries the hazards of
//! its tables in the same round trip; all tables of a primary are checked at the start, by the
//! doctor, and once a second by the task that watches the primary.
//!
//! **Invariant:** only the system catalogs of the server are read, which blocks no other session.
//! **Not here:** storing rows despite hazards (`triggered_tables`), the messages about them
//! (`requirements`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use engine::WriteGroup;
use model::error::Error;
use model::table::Table;

use super::node_address::NodeAddress;
use super::statement::{Bind, RowView, Statement, load};

/// Selects the hazards of the tables `$1`. Columns: name, true if the table is UNLOGGED, true if it
/// has rules, true if it has row triggers. A trigger whose function is in Tessera's schema is
/// Tessera's own.
pub(super) const OF_TABLES: &str = "SELECT name,unlogged,ruled,triggered FROM (\
    SELECT c.relname::text AS name,c.relpersistence='u' AS unlogged,\
    c.relhasrules AND EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class=c.oid AND r.ev_enabled IN ('O','A')) AS ruled,\
    c.relhastriggers AND EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid=t.tgfoid WHERE t.tgrelid=c.oid \
    AND NOT t.tgisinternal AND t.tgtype&1=1 AND t.tgenabled IN ('O','A') \
    AND p.pronamespace<>'tessera'::regnamespace) AS triggered \
    FROM pg_class c WHERE c.oid=ANY($1::text[]::regclass[])) s WHERE unlogged OR ruled OR triggered";

/// Hazards of a whole database: kind, schema, table, sequence or not, name. Tables of clients are
/// those with a shard key.
const OF_DATABASE: &str = "WITH ours AS (\
    SELECT c.oid,n.nspname,c.relname,c.relkind,c.relpersistence,c.relhasrules,c.relhastriggers \
    FROM pg_class c JOIN pg_namespace n ON n.oid=c.relnamespace \
    WHERE c.relkind IN ('r','p','S') AND (n.nspname='tessera' OR n.nspname='public' AND EXISTS (\
    SELECT FROM pg_attribute a WHERE a.attrelid=c.oid AND a.attname='shard_key' AND NOT a.attisdropped))) \
    SELECT 'unlogged',nspname::text,relname::text,relkind='S','' FROM ours WHERE relpersistence='u' \
    UNION ALL SELECT 'rule',nspname::text,relname::text,false,r.rulename::text \
    FROM ours JOIN pg_rewrite r ON r.ev_class=ours.oid AND r.ev_enabled IN ('O','A') WHERE relhasrules \
    UNION ALL SELECT 'trigger',ours.nspname::text,relname::text,false,t.tgname::text \
    FROM ours JOIN pg_trigger t ON t.tgrelid=ours.oid JOIN pg_proc p ON p.oid=t.tgfoid \
    JOIN pg_namespace f ON f.oid=p.pronamespace WHERE relhastriggers AND NOT t.tgisinternal AND t.tgtype&1=1 \
    AND t.tgenabled IN ('O','A') AND f.nspname<>'tessera' ORDER BY 2,3,1,5";

/// Hazards of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hazard {
    unlogged: bool,
    ruled: bool,
    triggered: bool,
}

/// One hazard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableHazard {
    /// UNLOGGED table, or UNLOGGED sequence of Tessera, which a crash of its server empties.
    Unlogged {
        /// Name of the table or sequence, with its schema.
        table: String,
        /// Statement that repairs it.
        remedy: String,
    },
    /// Rule or row trigger that Tessera has not created.
    Interference {
        /// Name of the table, with its schema.
        table: String,
        /// Kind and name, such as `trigger audit`.
        name: String,
    },
}

impl TableHazard {
    /// Returns true if the table of this hazard must not be written to.
    pub fn is_unlogged(&self) -> bool {
        matches!(self, Self::Unlogged { .. })
    }
}

impl fmt::Display for TableHazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlogged { table, remedy } => write!(
                f,
                "{table} is UNLOGGED: a crash of its server empties it, and no replica has it: {remedy}"
            ),
            Self::Interference { table, name } => write!(
                f,
                "{table} has the {name}, which is not Tessera's and may change or discard rows: writes to the table take \
                 longer, answer what the database makes of them, and are refused (TSR306) where it makes nothing"
            ),
        }
    }
}

/// Hazards of the tables that have any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hazards {
    tables: BTreeMap<String, Hazard>,
    found: BTreeSet<TableHazard>,
}

impl Hazards {
    /// Decodes the hazards of some tables from the result rows of [`OF_TABLES`].
    pub(super) fn of_tables(rows: &[RowView]) -> Self {
        let truth = |row: &RowView, column| row.boolean(column) == Some(true);
        let hazard = |row: &RowView| {
            let (unlogged, ruled, triggered) = (truth(row, 1), truth(row, 2), truth(row, 3));
            Some((row.text(0)?, Hazard { unlogged, ruled, triggered }))
        };
        Self { tables: rows.iter().filter_map(hazard).collect(), found: BTreeSet::new() }
    }

    /// Reads the hazards of all tables of a database.
    ///
    /// # Errors
    /// The error of the query.
    pub async fn of_database(connection: &AsyncPgConnection) -> QueryResult<Self> {
        let statement = Statement { sql: OF_DATABASE, binds: &[], cached: true };
        let mut hazards = Self::default();
        for row in load(connection, statement).await? {
            let text = |column| row.text(column).unwrap_or_default();
            let (kind, table) = (text(0), format!("{}.{}", text(1), text(2)));
            let hazard = hazards.tables.entry(text(2)).or_default();
            hazards.found.insert(match kind.as_str() {
                "unlogged" => {
                    hazard.unlogged = true;
                    let kind = if row.boolean(3) == Some(true) { "SEQUENCE" } else { "TABLE" };
                    let remedy = format!("ALTER {kind} {table} SET LOGGED");
                    TableHazard::Unlogged { table, remedy }
                }
                rule_or_trigger => {
                    hazard.ruled |= rule_or_trigger == "rule";
                    hazard.triggered |= rule_or_trigger == "trigger";
                    let name = format!("{rule_or_trigger} {}", text(4));
                    TableHazard::Interference { table, name }
                }
            });
        }
        Ok(hazards)
    }

    /// Iterates over the hazards of a whole database.
    pub fn found(&self) -> impl Iterator<Item = &TableHazard> {
        self.found.iter()
    }

    /// Returns hazards that an earlier check had not found.
    pub(super) fn new_since<'h>(
        &'h self,
        before: &'h Self,
    ) -> impl Iterator<Item = &'h TableHazard> {
        self.found.difference(&before.found)
    }

    /// Returns true if no table has any hazards.
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Returns true if a table of these changes has hazards.
    pub(super) fn affects(&self, groups: &[WriteGroup<'_>]) -> bool {
        let mut rows = groups.iter().flat_map(|group| group.rows);
        !self.is_empty() && rows.any(|row| self.tables.contains_key(row.table.name()))
    }

    /// Returns the error that refuses a write, if nothing may be written to this table.
    pub(super) fn refusal(&self, table: &Table) -> Option<Error> {
        let hazard = self.tables.get(table.name())?;
        hazard.unlogged.then(|| Error::Unlogged { table: table.name().to_owned() })
    }

    /// Returns true if the database may alter rows of this table.
    pub(super) fn may_alter(&self, table: &Table) -> bool {
        self.tables.get(table.name()).is_some_and(|hazard| hazard.ruled || hazard.triggered)
    }

    /// Returns true if a rule may rewrite statements on this table.
    pub(super) fn may_rewrite(&self, table: &Table) -> bool {
        self.tables.get(table.name()).is_some_and(|hazard| hazard.ruled)
    }
}

/// Hazards of a primary's tables, as of the last check.
#[derive(Default)]
pub struct KnownHazards(ArcSwap<Hazards>);

impl KnownHazards {
    /// Returns the hazards that the last check has found.
    pub fn current(&self) -> Guard<Arc<Hazards>> {
        self.0.load()
    }

    /// Records the hazards that were found, and reported to the operator, when the cluster was
    /// opened.
    pub fn set(&self, found: Hazards) {
        self.0.store(Arc::new(found));
    }

    /// Records the hazards that a check of this node has found, and logs the differences.
    pub(super) fn record(&self, found: Hazards, (node, at): (&str, &NodeAddress)) {
        let before = self.0.load_full();
        if *before == found {
            return;
        }
        for finding in found.new_since(&before) {
            tracing::warn!(node, %at, "{finding}");
        }
        for finding in before.new_since(&found) {
            tracing::info!(node, %at, "resolved: {finding}");
        }
        self.0.store(Arc::new(found));
    }
}

/// Returns the parameter of [`OF_TABLES`]: the names of these tables, each once.
pub(super) fn names<'t>(tables: impl Iterator<Item = &'t Table>) -> Bind {
    let names: BTreeSet<&str> = tables.map(Table::name).collect();
    Bind::texts(names.into_iter())
}
