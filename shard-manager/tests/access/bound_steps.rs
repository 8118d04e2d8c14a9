//! Carries out the requests of a caller on one of two clusters that differ in other callers' rows,
//! and spells what the caller learns.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::{RawValue, to_raw_value};
use shard_manager::access::operation::RowOperations;
use shard_manager::access::rights::{CompiledRole, Rights};
use shard_manager::access::role::AccessRole;
use shard_manager::access::tenant::Tenants;
use shard_manager::cache::CacheUse;
use shard_manager::declaration::Declaration;
use shard_manager::error::{Error, Failure, Outcome};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{BulkRow, Data, Manager, ReadDone, RequestOptions, ResumeError};
use shard_manager::position::Position;
use shard_manager::query::{
    Comparison, Condition, OrderBy, Output, Pattern, ReadQuery, Test, ValueState,
};
use shard_manager::row_change::{Operation, Precondition, RowDone, RowWrite};
use shard_manager::shard_map::KeyLocation;
use shard_manager::table::{Column, Table};
use shard_manager::token::SessionToken;
use shard_manager::topology::ShardNumber;
use shard_manager::value::{ColumnType, Value};

use crate::bound_specs::{
    CallerSpec, Draft, Filter, KEYS, Keys, Question, Script, Seed, Step, TABLES, Values, Way,
};

type Outcomes = BTreeMap<usize, String>;

/// Number of reads within which an answer is usually stored in the cache.
const CACHED_SOON: usize = 500;

/// One of the two clusters.
pub(crate) struct Side<'m> {
    manager: &'m Manager,
    /// 0 or 1.
    index: usize,
    /// Text before all keys and tenants of the case.
    prefix: String,
    /// Positions that this side has reached, if a cache might return an older answer.
    session: Option<RefCell<SessionToken>>,
}

fn options() -> RequestOptions {
    RequestOptions::by(Instant::now() + Duration::from_secs(60))
}

/// Creates the tables: one whose keys stand in a column, and one without such a column.
pub(crate) async fn create_tables(manager: &Manager) {
    let column = |name: &str, kind, nullable| Column {
        name: name.to_owned(),
        kind,
        nullable,
        default: None,
    };
    let values = [
        column("id", ColumnType::Text, false),
        column("amount", ColumnType::Bigint, true),
        column("note", ColumnType::Text, true),
        column("flag", ColumnType::Boolean, true),
    ];
    let owner = column("owner", ColumnType::Text, false);
    let notes = std::iter::once(owner).chain(values.clone()).collect();
    for (name, columns, routing) in
        [(TABLES[0], notes, Some("owner".to_owned())), (TABLES[1], values.to_vec(), None)]
    {
        let name = name.to_owned();
        let declaration = Declaration { name, columns, id: vec!["id".to_owned()], routing };
        let table = declaration.check().expect("a table");
        let deadline = options().deadline;
        manager.schema(Rights::ALL).create_table(table, deadline).await.expect("created");
    }
}

/// Returns the rights of a caller.
pub(crate) fn rights(caller: &CallerSpec, prefix: &str) -> Rights {
    let grants = caller.grants.iter().map(|grant| {
        let keys = match &grant.keys {
            Keys::All => serde_json::json!("*"),
            Keys::Tenant => serde_json::json!("$tenant"),
            Keys::Prefix | Keys::ScatteredPrefix => serde_json::json!("$tenant:*"),
            Keys::Literals(keys) => {
                keys.iter().map(|key| format!("{prefix}{}", KEYS[*key])).collect()
            }
        };
        let mut members =
            serde_json::json!({"tables": grant.tables, "may": grant.may, "keys": keys});
        if matches!(grant.keys, Keys::ScatteredPrefix) {
            members["scatter"] = serde_json::json!("filter");
        }
        if let Some(columns) = &grant.columns {
            members["columns"] = serde_json::json!(columns);
        }
        members
    });
    let grants: Vec<_> = grants.collect();
    let role = serde_json::json!({"role": "random", "grants": grants}).to_string();
    let role = AccessRole::parse(&role).expect("a role");
    let tenants: Vec<String> =
        caller.tenants.iter().map(|tenant| format!("{prefix}{tenant}")).collect();
    let tenants = Tenants::parse(tenants.iter().map(String::as_str)).expect("tenants");
    Rights::of(Arc::new(CompiledRole::new(role)), tenants)
}

impl<'m> Side<'m> {
    pub(crate) fn new(manager: &'m Manager, index: usize, prefix: &str) -> Self {
        let cache = manager.status().cache_stats();
        let session = cache.map(|_| RefCell::new(SessionToken::empty()));
        Self { manager, index, prefix: prefix.to_owned(), session }
    }

    /// Returns options of a request that sees all earlier ones of this side.
    fn options(&self) -> RequestOptions {
        let session = self.session.as_ref().map(|session| session.borrow().clone());
        RequestOptions { session: session.unwrap_or_else(SessionToken::empty), ..options() }
    }

    /// Records the position of a write.
    fn see(&self, shard: ShardNumber, position: Option<Position>) {
        let (Some(session), Some(position)) = (&self.session, position) else { return };
        self.manager.sessions().extend(&mut session.borrow_mut(), shard, position);
    }

    /// Replaces the positions by those of an answer, which has them and its own.
    fn continue_with(&self, answered: &SessionToken) {
        if let Some(session) = &self.session {
            session.replace(answered.clone());
        }
    }

    fn key(&self, key: usize) -> String {
        format!("{}{}", self.prefix, KEYS[key])
    }

    /// Stores the rows of this side. Rows that the caller may know are the same on both sides, but
    /// for columns that it may not know.
    pub(crate) async fn fill(&self, caller: &CallerSpec, seeds: &[Seed]) {
        for seed in seeds {
            let mut values = seed.values.clone();
            if caller.may_know(seed.table, KEYS[seed.key]) {
                let hidden = |column| self.index == 1 && !caller.may_name(seed.table, column);
                if hidden("amount") {
                    values.amount = seed.others.amount;
                }
                if hidden("note") {
                    values.note = seed.others.note;
                }
                if hidden("flag") {
                    values.flag = seed.others.flag;
                }
            } else if !seed.sides[self.index] {
                continue;
            } else if self.index == 1 {
                values = seed.others.clone();
            }
            let set = vec!["id", "amount", "note", "flag"];
            let fields = fields(&set, seed.id, "", &values);
            let table = self.manager.schema(Rights::ALL).table(seed.table).expect("a table");
            let key = self.key(seed.key);
            let key = ShardKey::parse(&key).expect("a key");
            let members: Vec<_> =
                fields.iter().map(|(name, json)| (name.clone(), &**json)).collect();
            let made = Data::prepare(&self.manager.map(), &table, Operation::Upsert, key, &members);
            let (place, row) = made.expect("a row");
            let data = self.manager.data(Rights::ALL);
            let written = data.write(place, row, &options()).await.expect("stored");
            self.see(place.shard, Some(written.receipt.position));
        }
    }

    /// Removes all rows: a caller who may know every key would see those of earlier cases.
    async fn clear(&self) {
        let data = self.manager.data(Rights::ALL);
        for name in &TABLES[..2] {
            let table = self.manager.schema(Rights::ALL).table(name).expect("a table");
            let outputs = ["shard_key", "id"]
                .map(|name| Output { column: table.find(name).expect("a column"), alias: None });
            let limit = ReadQuery::LIMIT_MAX;
            let query =
                ReadQuery { outputs: outputs.to_vec(), limit, ..ReadQuery::unselected(&table) };
            let read = data.read(query, None, &self.options()).await.expect("rows");
            assert_eq!(read.next_cursor, None, "a case stores fewer rows");
            let rows = (0..read.rows.len()).map(|index| {
                let row: BTreeMap<&str, &RawValue> =
                    serde_json::from_slice(read.rows.row(index)).expect("a row");
                let key: &str = serde_json::from_str(row["shard_key"].get()).expect("a text");
                let key = ShardKey::parse(key).expect("a key");
                let fields = [(Cow::Borrowed("id"), row["id"])];
                let map = self.manager.map();
                let made = Data::prepare(&map, &table, Operation::Delete, key, &fields);
                let (place, row) = made.expect("a row");
                BulkRow { index, place, row }
            });
            let done = data.write_bulk(rows.collect(), &self.options()).await;
            assert!(done.rows.iter().all(|row| row.outcome.is_ok()));
        }
    }

    /// Carries out a step, and returns all that the caller learns.
    pub(crate) async fn take(&self, rights: &Rights, step: &Step) -> Vec<String> {
        match step {
            Step::Ask(question) => self.ask(rights, question).await,
            Step::Change(way, drafts) => self.change(rights, *way, drafts).await,
        }
    }

    async fn ask(&self, rights: &Rights, question: &Question) -> Vec<String> {
        let mut query = match self.query(rights, question) {
            Ok(query) => query,
            Err(error) => return vec![error],
        };
        let text = question.key.map(|key| self.key(key));
        let key = text.as_deref().map(|text| ShardKey::parse(text).expect("a key"));
        let data = self.manager.data(rights);
        let mut learnt = vec![format!("all shards {}", data.is_scatter_read(&query, None))];
        for _ in 0..4 {
            let others = self.query(Rights::ALL, question);
            let others = others.map(|others| ReadQuery { after: query.after.clone(), ..others });
            let read = self.read(rights, (&query, key), others.ok()).await;
            learnt.push(read_outcome(&read));
            let Ok(read) = read else { break };
            let Some(cursor) = read.next_cursor else { break };
            match data.resume(&query, key, &cursor) {
                Ok(after) => query.after = Some(after),
                Err(ResumeError::Cursor(error)) => panic!("{question:?}: {error}"),
                Err(ResumeError::Refused(error)) => panic!("{question:?}: {error}"),
            }
            query.offset = 0;
        }
        learnt
    }

    /// Reads a page. If there is a cache, a caller without bounds reads the same at the same time.
    /// The caller reads twice at once, and then until the cache answers, if it does soon.
    async fn read(
        &self,
        rights: &Rights,
        (query, key): (&ReadQuery, Option<ShardKey<'_>>),
        others: Option<ReadQuery>,
    ) -> Result<ReadDone, Failure> {
        let options = self.options();
        let read = || self.manager.data(rights).read(query.clone(), key, &options);
        if self.session.is_none() {
            return read().await;
        }
        let read_others = async || {
            let others = others.clone()?;
            self.manager.data(Rights::ALL).read(others, key, &options).await.ok()
        };
        let (_, first, mut last, _) = tokio::join!(read_others(), read(), read(), read_others());
        assert_eq!(read_outcome(&last), read_outcome(&first), "{query:?}");
        for _ in 0..CACHED_SOON {
            let is_missing = last.as_ref().is_ok_and(|read| read.cache == Some(CacheUse::Miss));
            if !is_missing {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            last = read().await;
            assert_eq!(read_outcome(&last), read_outcome(&first), "{query:?}");
        }
        if let Ok(read) = &last {
            self.continue_with(&read.session);
        }
        last
    }

    fn query(&self, rights: &Rights, question: &Question) -> Result<ReadQuery, String> {
        let table = self.usable(rights, question.table, RowOperations::READ);
        let table = table.map_err(|error| format!("{error:?}"))?;
        let mut query = ReadQuery::unselected(&table);
        if let Some(names) = &question.select {
            let outputs = names.iter().zip('a'..).map(|(name, alias)| {
                let column = find(&table, name)?;
                Ok(Output { column, alias: Some(alias.to_string()) })
            });
            query.outputs = outputs.collect::<Result<_, String>>()?;
        }
        let conditions = question.filters.iter().map(|filter| self.condition(&table, filter));
        query.conditions = conditions.collect::<Result<_, _>>()?;
        let order = question.order.iter().map(|(name, descending)| {
            Ok(OrderBy { column: find(&table, name)?, descending: *descending })
        });
        query.order = order.collect::<Result<_, String>>()?;
        query.order.dedup_by_key(|by| by.column);
        (query.limit, query.offset, query.counts) =
            (question.limit, question.offset, question.counts);
        Ok(query)
    }

    fn condition(&self, table: &Table, filter: &Filter) -> Result<Condition, String> {
        let list = |list: &[Filter]| -> Result<Vec<_>, String> {
            list.iter().map(|filter| self.condition(table, filter)).collect()
        };
        Ok(match filter {
            Filter::All(filters) => Condition::All(list(filters)?),
            Filter::Any(filters) => Condition::Any(list(filters)?),
            Filter::Not(one) => Condition::Not(Box::new(self.condition(table, one)?)),
            Filter::Column(name, test, value) => {
                let column = find(table, name)?;
                Condition::Column(column, self.test(table.column(column), *test, *value))
            }
        })
    }

    fn test(&self, column: &Column, test: u8, value: u8) -> Test {
        let is_key = ["owner", "shard_key"].contains(&column.name.as_str());
        let literal = |value: u8| {
            if column.kind == ColumnType::Bigint {
                return Value::Int(i64::from(value % 4));
            }
            if column.kind == ColumnType::Boolean {
                return Value::Bool(value.is_multiple_of(2));
            }
            let text = ["a", "ab", "b", "0", "1"][usize::from(value) % 5];
            let key = || self.key(usize::from(value) % KEYS.len());
            Value::Text(if is_key { key() } else { text.to_owned() })
        };
        let comparisons =
            [Comparison::Equal, Comparison::NotEqual, Comparison::Less, Comparison::GreaterOrEqual];
        let is_text = column.kind == ColumnType::Text;
        match test % 8 {
            0..4 => Test::Compare(comparisons[usize::from(test % 4)], literal(value)),
            4 | 5 => Test::In(vec![literal(value), literal(value / 5)]),
            6 if is_text => Test::Like(Pattern::parse("%a%").expect("a pattern")),
            _ => Test::Is([ValueState::Null, ValueState::NotNull][usize::from(value % 2)]),
        }
    }

    fn usable(
        &self,
        rights: &Rights,
        table: &str,
        operations: RowOperations,
    ) -> Result<Arc<Table>, Error> {
        let schema = self.manager.schema(rights);
        schema.usable_for(schema.table(table)?, operations)
    }

    fn prepare(&self, rights: &Rights, draft: &Draft) -> Result<(KeyLocation, RowWrite), Error> {
        let operation = Operation::ALL[usize::from(draft.operation)];
        let table = self.usable(rights, draft.table, operation.into())?;
        let text = self.key(draft.key);
        let key = ShardKey::parse(&text)?;
        let set: Vec<&str> = match operation {
            Operation::Delete => vec!["id"],
            Operation::Upsert | Operation::Insert | Operation::Update => {
                let named = draft.set.iter().copied().filter(|name| *name != "id");
                std::iter::once("id").chain(named).collect()
            }
        };
        let fields = fields(&set, draft.id, &text, &draft.values);
        let members: Vec<_> = fields.iter().map(|(name, json)| (name.clone(), &**json)).collect();
        let (place, mut row) =
            Data::prepare(&self.manager.map(), &table, operation, key, &members)?;
        row.precondition = match draft.precondition {
            0 => Some(Precondition::Absent),
            1 => Some(Precondition::Present),
            _ => None,
        };
        row.idempotency_key = draft.idempotency_key.map(|key| format!("once {key}"));
        Ok((place, row))
    }

    async fn change(&self, rights: &Rights, way: Way, drafts: &[Draft]) -> Vec<String> {
        let mut learnt = Outcomes::new();
        let mut rows = Vec::new();
        for (index, draft) in drafts.iter().enumerate() {
            match self.prepare(rights, draft) {
                Ok((place, row)) => rows.push(BulkRow { index, place, row }),
                Err(error) => drop(learnt.insert(index, format!("{error:?}"))),
            }
        }
        let data = self.manager.data(rights);
        match way {
            Way::Singly => {
                for BulkRow { index, place, row } in rows {
                    let written = data.write(place, row, &self.options()).await;
                    let position = written.as_ref().ok().map(|written| written.receipt.position);
                    self.see(place.shard, position);
                    let outcome = written.map(|receipt| receipt.row);
                    let outcome = outcome.map_err(|failure| (failure.error, failure.outcome));
                    learnt.insert(index, shown(&outcome));
                }
            }
            Way::Bulk | Way::Whole => {
                let options = self.options();
                let done = match way {
                    Way::Whole => data.write_bulk_atomic(rows, &options).await,
                    Way::Singly | Way::Bulk | Way::Chunks => data.write_bulk(rows, &options).await,
                };
                self.continue_with(&done.session);
                learnt.extend(done.rows.iter().map(|row| (row.index, shown(&row.outcome))));
            }
            Way::Chunks => {
                let mut shards: BTreeMap<ShardNumber, Vec<BulkRow>> = BTreeMap::new();
                for row in rows {
                    shards.entry(row.place.shard).or_default().push(row);
                }
                for (shard, rows) in shards {
                    for (shard, part) in data.write_chunk(shard, rows, &self.options()).await {
                        self.see(shard, part.seen);
                        let rows = part.rows.iter();
                        learnt.extend(rows.map(|row| (row.index, shown(&row.outcome))));
                    }
                }
            }
        }
        learnt.into_values().collect()
    }
}

/// Returns the members of a row.
fn fields(
    set: &[&'static str],
    id: u8,
    owner: &str,
    values: &Values,
) -> Vec<(Cow<'static, str>, Box<RawValue>)> {
    let json = |name: &str| match name {
        "id" => to_raw_value(&id.to_string()),
        "amount" | "amuont" => to_raw_value(&values.amount),
        "note" => to_raw_value(&values.note),
        "flag" => to_raw_value(&values.flag),
        _ => to_raw_value(owner),
    };
    set.iter().map(|name| (Cow::Borrowed(*name), json(name).expect("JSON"))).collect()
}

/// Spells the outcome of a read without the node that answered and the times.
fn read_outcome(read: &Result<ReadDone, Failure>) -> String {
    match read {
        Ok(read) => {
            let rows = (0..read.rows.len()).map(|row| stripped(read.rows.row(row)));
            let rows: Vec<String> = rows.collect();
            let (total, shards, place) = (read.rows.total, &read.shards, read.place);
            format!("{rows:?} {total:?} {shards:?} {:?} {place:?}", read.missing)
        }
        Err(failure) => format!("{:?} {:?}", failure.error, failure.place),
    }
}

fn find(table: &Table, name: &str) -> Result<usize, String> {
    table
        .find(name)
        .ok_or_else(|| format!("no {name}; {:?} is meant", table.visible().suggest(name)))
}

/// Spells the outcome of a change without its version and times, which reveal the load of a shard.
fn shown(outcome: &Result<RowDone, (Error, Outcome)>) -> String {
    match outcome {
        Ok(done) if done.json.is_empty() => format!("{:?} {}", done.change, done.replayed),
        Ok(done) => format!("{:?} {} {}", done.change, done.replayed, stripped(&done.json)),
        Err((error, outcome)) => format!("{error:?} {}", outcome.name()),
    }
}

fn stripped(json: &[u8]) -> String {
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_slice(json).expect("a row");
    members.retain(|name, _| !["version", "created_at", "updated_at"].contains(&name.as_str()));
    format!("{members:?}")
}

/// Carries out a script on both clusters; returns what the caller learnt on each, step by step.
pub(crate) async fn learnt_on_both(
    managers: [&Manager; 2],
    script: &Script,
    prefix: &str,
) -> Vec<[Vec<String>; 2]> {
    let rights = rights(&script.caller, prefix);
    let [one, other] = [0, 1].map(|index| Side::new(managers[index], index, prefix));
    one.fill(&script.caller, &script.seeds).await;
    other.fill(&script.caller, &script.seeds).await;
    let mut learnt = Vec::with_capacity(script.steps.len());
    for step in &script.steps {
        learnt.push([one.take(&rights, step).await, other.take(&rights, step).await]);
    }
    one.clear().await;
    other.clear().await;
    learnt
}
