//! Own rows: gives a run tables and keys that no other client uses, and removes its rows
//! afterwards.
//!
//! Rows are stored in [`USERS`] and [`TRANSACTIONS`]. These tables are created if they are missing,
//! and are not removed; each row names its run. Values of `/api/kv` are in a table that other
//! clients use too, so the run gives them keys that no other client uses (`keyspace`).
//!
//! **Invariant:** only rows whose `run` or whose key belongs to the load tester are removed.
//! **Not here:** the contents of the rows (`requests`, `verify`).

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::http_client::{Answer, HttpRequest, Pool};
use crate::keyspace::Names;
use crate::mix::Mix;
use crate::options::Options;
use crate::requests;
use crate::tables::{KV, TRANSACTIONS, USERS, columns, declaration};

/// Maximum number of rows of a page, which are then removed together. It is the maximum number of
/// rows that a read returns.
const PAGE: usize = 1_000;
/// Longest wait for a response.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest time for removing the rows of a run. Rows that are left after this time (ten million
/// rows take longer) can be removed with `--clean`.
const REMOVAL_MAX: Duration = Duration::from_secs(300);
/// Time after which removing is given up if the router responds to none of the requests.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Pause before the next attempt.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest wait until a router knows a table that another router has created.
const SPREAD_MAX: Duration = Duration::from_secs(30);

/// Description of the rights that a run needs, for error messages.
const NEEDED: &str = "the role of its key needs the scopes operate and tables, and read, insert, update and delete \
     of all keys of loadtest_users, loadtest_transactions and kv";

const CONSISTENCY: HeaderName = HeaderName::from_static("x-consistency");

/// Tables and keys of one run, by which the rows of the run are found.
#[derive(Debug)]
pub(crate) struct OwnRows {
    names: Arc<Names>,
    tables: &'static [&'static str],
}

#[derive(Deserialize)]
struct Rows {
    data: Vec<Value>,
}

/// Reason that a router gives for a refusal.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    detail: String,
}

/// Selection of the rows of a table that are removed.
#[derive(Clone, Copy)]
enum Whose {
    OfThisRun,
    OfAnyRun,
    OfOtherRuns,
    Foreign,
}

impl OwnRows {
    /// Creates the tables that a run needs, and waits until all routers know them. Asks the user
    /// for confirmation if a table has rows of other clients.
    ///
    /// # Errors
    /// Fails if a table cannot be created, or if it has rows of other clients and the user does not
    /// agree.
    pub(crate) async fn prepare(options: &Options, pools: &[Arc<Pool>]) -> anyhow::Result<Self> {
        let tables: &'static [&'static str] = match (options.load.verify, options.load.mix) {
            (true, _) => &[USERS, TRANSACTIONS],
            (false, Mix::Kv) => &[KV],
            (false, _) => &[USERS],
        };
        let own = Self::of(&pools[0], tables).await?;
        for &table in tables.iter().filter(|&&table| table != KV) {
            make(&pools[0], table).await?;
            for pool in &pools[1..] {
                known(pool, table).await?;
            }
        }
        for &table in tables {
            if !own.page(&pools[0], table, Whose::Foreign, 1).await?.is_empty() {
                agree(options, table).await?;
            }
            if !own.page(&pools[0], table, Whose::OfOtherRuns, 1).await?.is_empty() {
                say(&format!(
                    "{table} has rows of another run, which is under way or was killed; they are left alone, \
                     and --clean removes them"
                ));
            }
        }
        Ok(own)
    }

    async fn of(pool: &Pool, tables: &'static [&'static str]) -> anyhow::Result<Self> {
        let answer = send(pool, requests::get("/api/shard-map"), "the shard map").await?;
        let names = Names::of_new_run(&answer.body)?;
        let names = if tables.contains(&KV) { names.marked() } else { names };
        Ok(Self { names: Arc::new(names), tables })
    }

    /// Returns the tables that the run writes to.
    pub(crate) fn tables(&self) -> &'static [&'static str] {
        self.tables
    }

    /// Returns the names of this run, from which the keys of its rows are made.
    pub(crate) fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// Removes the rows of this run as far as possible, and reports the rows that are left.
    pub(crate) async fn remove(&self, options: &Options, pool: &Pool) {
        if options.load.keep {
            let (run, tables) = (self.names.run(), self.tables.join(", "));
            return say(&format!(
                "the rows of run {run} are kept in {tables}; --clean removes them"
            ));
        }
        for &table in self.tables {
            if let Err(error) = self.remove_from(pool, table, Whose::OfThisRun).await {
                say(&format!(
                    "rows of this run are left in {table}: {error:#}; --clean removes them"
                ));
            }
        }
    }

    /// Prints that the rows of this run are not removed.
    pub(crate) fn report_left_rows(&self) {
        let tables = self.tables.join(" and ");
        say(&format!("the rows of this run are left in {tables}; --clean removes them"));
    }

    /// Removes rows until no more are found, and returns their number.
    async fn remove_from(&self, pool: &Pool, table: &str, whose: Whose) -> anyhow::Result<usize> {
        let began = Instant::now();
        let (mut removed, mut answered) = (0, Instant::now());
        loop {
            let step = async {
                let rows = self.page(pool, table, whose, PAGE).await?;
                let rows: Vec<Value> =
                    rows.into_iter().filter(|row| self.is_own(table, row)).collect();
                if !rows.is_empty() {
                    let placed = rows.iter().map(|row| self.placed(table, row)).collect::<Vec<_>>();
                    delete(pool, table, &placed).await?;
                }
                anyhow::Ok(rows.len())
            };
            match step.await {
                Ok(0) => return Ok(removed),
                Ok(count) => (removed, answered) = (removed + count, Instant::now()),
                Err(error) if answered.elapsed() > SILENCE_MAX => return Err(error),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
            ensure!(began.elapsed() < REMOVAL_MAX, "not all could be removed in {REMOVAL_MAX:?}");
        }
    }

    /// Returns the columns that identify a row in a request to remove it.
    fn placed(&self, table: &str, row: &Value) -> Value {
        match row["user_id"].as_str() {
            Some(id) if table == USERS => requests::placed(&self.names, id, row.clone()),
            Some(_) | None => row.clone(),
        }
    }

    /// Returns true if a row belongs to the load tester. In the table that is shared with other
    /// clients, this is decided by the key.
    fn is_own(&self, table: &str, row: &Value) -> bool {
        table != KV || row["key"].as_str().is_some_and(|key| self.names.is_own(key))
    }

    /// Reads at most `limit` rows of a table from the primaries.
    async fn page(
        &self,
        pool: &Pool,
        table: &str,
        whose: Whose,
        limit: usize,
    ) -> anyhow::Result<Vec<Value>> {
        let columns = columns(table).join(",");
        let mut path = format!("/api/read?table={table}&select={columns}&limit={limit}");
        let names = &self.names;
        let written = match (table, whose) {
            (KV, Whose::OfThisRun) => write!(path, "&key=like.*{}*", names.mark()),
            (KV, Whose::OfAnyRun) => write!(path, "&key=like.*{}*", names.mark_of_any()),
            (KV, Whose::Foreign) => write!(path, "&key=not.like.*{}*", names.mark_of_any()),
            (KV, Whose::OfOtherRuns) => write!(
                path,
                "&and=(key.like.*{}*,key.not.like.*{}*)",
                names.mark_of_any(),
                names.mark()
            ),
            (_, Whose::OfThisRun) => write!(path, "&run=eq.{}", names.run()),
            (_, Whose::OfAnyRun) => write!(path, "&run=like.v*"),
            (_, Whose::Foreign) => write!(path, "&run=not.like.v*"),
            (_, Whose::OfOtherRuns) => {
                write!(path, "&and=(run.like.v*,run.neq.{})", names.run())
            }
        };
        written.context("a path is made")?;
        let mut asked = requests::get(&path);
        if let Ok(asked) = &mut asked {
            asked.headers_mut().insert(CONSISTENCY, HeaderValue::from_static("all"));
        }
        let answer = send(pool, asked, &format!("the rows of {table}")).await?;
        let rows: Rows = serde_json::from_slice(&answer.body).context("a page without rows")?;
        Ok(rows.data)
    }
}

/// Removes the rows of all runs, also of runs that are still in progress.
///
/// # Errors
/// Fails if the router does not respond, or refuses to remove the rows.
pub(crate) async fn clean(pool: &Pool) -> anyhow::Result<()> {
    let own = OwnRows::of(pool, &[]).await?;
    for table in [USERS, TRANSACTIONS, KV] {
        let there = table == KV || is_there(pool, table).await?;
        let removed = match there {
            true => own.remove_from(pool, table, Whose::OfAnyRun).await?,
            false => 0,
        };
        say(&format!("{removed} rows removed from {table}"));
    }
    Ok(())
}

async fn make(pool: &Pool, table: &str) -> anyhow::Result<()> {
    let body = Bytes::from(declaration(table).to_string());
    let asked = requests::plain(Method::POST, "/api/tables", body, None);
    send(pool, Ok(asked), &format!("creating the table {table}, which the load tester writes to,"))
        .await
        .map(drop)
}

/// Waits until a router knows a table that another router has created.
async fn known(pool: &Pool, table: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    while !is_there(pool, table).await? {
        let target = pool.target();
        ensure!(began.elapsed() < SPREAD_MAX, "{target} does not learn of the table {table}");
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn is_there(pool: &Pool, table: &str) -> anyhow::Result<bool> {
    let what = format!("the table {table}");
    match requests::get(&format!("/api/tables/{table}")) {
        Ok(asked) => match pool.send(asked, PATIENCE).await {
            Ok(answer) if answer.status == 200 => Ok(true),
            Ok(answer) if answer.status == 404 => Ok(false),
            Ok(answer) => Err(refusal(pool, &what, &answer)),
            Err(failure) => bail!("{what} cannot be looked up: {}", failure.detail),
        },
        Err(failure) => bail!("{what} cannot be looked up: {}", failure.detail),
    }
}

async fn delete(pool: &Pool, table: &str, rows: &[Value]) -> anyhow::Result<()> {
    let body = json!({"table": table, "op": "delete", "records": rows});
    let body = Bytes::from(body.to_string());
    let asked = requests::plain(Method::POST, "/api/bulk-write", body, None);
    let answer = send(pool, Ok(asked), &format!("removing rows of {table}")).await?;
    // A row that is not removed must be an error. Otherwise, while a shard is down, the loop would
    // find the same rows again and again and never end.
    ensure!(answer.status != 207, "a shard does not remove its rows");
    Ok(())
}

/// Sends a request that must succeed.
///
/// # Errors
/// Fails with a sentence that contains the reason for the refusal and the rights that a run needs.
pub(crate) async fn send(
    pool: &Pool,
    asked: Result<HttpRequest, crate::response_check::Failure>,
    what: &str,
) -> anyhow::Result<Answer> {
    let sent = match asked {
        Ok(asked) => pool.send(asked, PATIENCE).await,
        Err(failure) => Err(failure),
    };
    match sent {
        Ok(answer) if (200..300).contains(&answer.status) => Ok(answer),
        Ok(answer) => Err(refusal(pool, what, &answer)),
        Err(failure) => bail!("{what} was not answered: {}", failure.detail),
    }
}

fn refusal(pool: &Pool, what: &str, answer: &Answer) -> anyhow::Error {
    let Problem { code, detail } = serde_json::from_slice(&answer.body).unwrap_or_default();
    let detail = crate::response_check::printable(&detail);
    let target = pool.target();
    match (answer.status, pool.has_credential()) {
        (401, false) => {
            return anyhow::anyhow!(
                "the router at {target} has access control, and the load tester has no key: name a file with one \
                 by --key-file, or set TESSERA_KEY; {NEEDED}"
            );
        }
        (401, true) => {
            return anyhow::anyhow!(
                "the router at {target} refuses the load tester's key: {detail}"
            );
        }
        (403, _) => {
            return anyhow::anyhow!(
                "{what} was refused by the router at {target}: {detail}; {NEEDED}"
            );
        }
        _ => {}
    }
    anyhow::anyhow!("{what} was answered {} {code} {detail}", answer.status)
}

/// Asks the user at the terminal whether to go on, unless `--yes` was given.
async fn agree(options: &Options, table: &str) -> anyhow::Result<()> {
    if options.load.yes {
        return Ok(());
    }
    let found = format!("{table} has rows that are not the load tester's");
    ensure!(
        std::io::stdin().is_terminal(),
        "{found}: the run would write beside them, and remove only its own; add --yes to allow that"
    );
    let _ = write!(
        std::io::stderr(),
        "{found}. The run writes beside them, and removes only its own. Go on? [y/N] "
    );
    // The answer is read on a detached thread, so that Ctrl-C ends the program during the question.
    let (sender, reported) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        let _ = sender.send(read.map(|_| line).unwrap_or_default());
    });
    let answer = reported.await.unwrap_or_default();
    ensure!(
        ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()),
        "nothing was written: {found}"
    );
    Ok(())
}

/// Prints a line to stderr, so that it does not mix with the report on stdout.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "loadtest: {line}");
}
