//! Verify: the verifying workload, whose recorded history shows whether the router keeps its
//! guarantees.
//!
//! Sessions write unique values to rows with unique names, and read them at every consistency level
//! and with every guarantee that the API offers. They repeat acknowledged writes, transfer money
//! between rows of one shard key, delete rows and insert them again, and walk (iterate by cursor)
//! over rows that never change. All requests and responses are recorded; after the run all rows are
//! read once more.
//!
//! Source: the registers, sets, banks and ledgers of Jepsen's tests (Kingsbury); `checker` explains
//! why checking is cheap if the response of every write contains a version.
//!
//! **Invariant:** the outcome of a request without a response is recorded as unknown, never as
//! success or refusal. A value is written to one row only, and with one idempotency key.
//! **Not here:** checking the history (`checker`).

mod attempt;
mod bank;
mod batch;
mod fixed_rows;
mod names;
mod pacer;
mod read_back;
mod register;
mod session;
mod workload;

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use checker::history::{BankConstants, Header, Level};
use goose::prelude::*;
use loadtest::recorder::Recorder;
use tokio::sync::Mutex;

use self::fixed_rows::FixedRows;
use self::names::RowNames;
use self::pacer::Pacer;
use self::session::Session;
use crate::clients::{Client, Clients};
use crate::counters::Counters;
use crate::keys::{Dist, KeyChooser};
use crate::moving_slots::MovingSlots;
use crate::options::Options;

/// Number of rows that all sessions use often.
const HOT_ROWS: u32 = 64;
/// Number of rows that sessions use less often.
const COLD_ROWS: u32 = 100_000;
/// Exponent of the Zipf distribution over all rows, hot and cold. Row 0 is used most often.
const SKEW: f64 = 1.1;
/// Number of banks. A bank is a shard key whose rows are accounts, a counter of transfers, and a
/// ledger with an entry for each transfer.
const BANKS: u32 = 8;
/// Number of accounts of a bank.
const ACCOUNTS: u32 = 4;
/// Initial amount of each account.
const DEPOSIT: i64 = 1_000;
/// Pause of a session after an operation whose outcome stayed unknown, so that a router that is
/// down is not flooded with requests.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest wait of a session for the start of its next step if the rate is limited. After this time
/// the session returns to goose, which can then end it.
const STEP_WAIT_MAX: Duration = Duration::from_millis(250);

/// State that all sessions of a run share.
pub(crate) struct Verification {
    recorder: Arc<Recorder>,
    counters: Arc<Counters>,
    /// Client that reads all rows at the end of the run.
    owner: Arc<VerifyingClient>,
    /// Clients of the sessions, assigned to the sessions in turn.
    clients: Vec<Arc<VerifyingClient>>,
    chooser: KeyChooser,
    seed: u64,
    /// Consistency level of all writes, if `--level` names one.
    level: Option<Level>,
    fixed: FixedRows,
    moving: Arc<MovingSlots>,
    /// True if slots move during the run.
    has_moves: bool,
    /// Schedule of the requests of all users, if the run has a maximum rate.
    pacer: Option<Arc<Pacer>>,
}

/// Client whose sessions use its own rows and banks.
struct VerifyingClient {
    client: Arc<Client>,
    names: RowNames,
    transfers: [Transfers; BANKS as usize],
}

impl VerifyingClient {
    fn new(client: &Arc<Client>) -> Arc<Self> {
        let names = RowNames::new(Arc::clone(client.names()));
        Arc::new(Self { client: Arc::clone(client), names, transfers: Default::default() })
    }
}

/// Counts of the transfers within one bank.
#[derive(Debug, Default)]
struct Transfers {
    acknowledged: AtomicU64,
    /// Number of transfers that were sent, except those that were rejected.
    attempted: AtomicU64,
}

impl Verification {
    /// Creates the state of a run, and starts the clock of its history.
    pub(crate) fn new(
        options: &Options,
        clients: &Clients,
        counters: Arc<Counters>,
    ) -> anyhow::Result<Self> {
        let owner = VerifyingClient::new(clients.owner());
        let hosts = options.targets.iter().map(ToString::to_string).collect();
        let started = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let bank = BankConstants { total: DEPOSIT * i64::from(ACCOUNTS), accounts: ACCOUNTS };
        let header = Header { bank: Some(bank), ..Header::new(owner.names.run(), started, hosts) };
        // If the number of iterations is limited, there is no limit for this wait, because goose
        // would count a step without a request as an iteration.
        let step_wait_max =
            options.goose.iterations.map_or(STEP_WAIT_MAX, |_iterations| Duration::MAX);
        let pacer = options.load.rate.map(|rate| Arc::new(Pacer::new(rate, step_wait_max)));
        Ok(Self {
            recorder: Recorder::start(header),
            counters,
            clients: clients.of_users().iter().map(VerifyingClient::new).collect(),
            owner,
            chooser: KeyChooser::new(Dist::Zipf(SKEW), HOT_ROWS + COLD_ROWS)?,
            seed: options.load.seed,
            level: options.load.level,
            fixed: FixedRows::default(),
            moving: Arc::default(),
            has_moves: options.load.chaos
                && options.load.kinds().iter().any(|kind| kind.is_of_moves()),
            pacer,
        })
    }

    /// Opens the banks, and writes the rows that are never changed.
    ///
    /// # Errors
    /// Fails if no router accepts the writes in time.
    pub(crate) async fn open_banks(self: &Arc<Self>) -> anyhow::Result<()> {
        for client in &self.clients {
            let mut session = Session::of(Arc::clone(self), Arc::clone(client), usize::MAX);
            bank::open(&mut session).await?;
            // In a run with tenants there are no fixed rows, because each tenant would need its
            // own.
            if !client.client.is_tenant() {
                fixed_rows::write(&mut session).await?;
                session.log.flush();
            }
        }
        Ok(())
    }

    /// Returns goose's scenario of each session.
    pub(crate) fn scenario(self: Arc<Self>) -> anyhow::Result<Scenario> {
        let enter = Transaction::new(Arc::new(move |user: &mut GooseUser| {
            self.counters.start(Instant::now());
            let session = Session::new(Arc::clone(&self), user.weighted_users_index);
            user.set_session_data(Shared(Arc::new(Mutex::new(session))));
            Box::pin(ready(Ok(())))
        }));
        Ok(Scenario::new("verify")
            .register_transaction(enter.set_name("enter").set_on_start())
            .register_transaction(transaction!(act).set_name("act"))
            .register_transaction(transaction!(leave).set_name("leave").set_on_stop()))
    }

    /// Reads all rows once more.
    ///
    /// # Errors
    /// Fails if the routers no longer respond.
    pub(crate) async fn finish(self: &Arc<Self>) -> anyhow::Result<()> {
        let owner = Arc::clone(&self.owner);
        let mut session = Session::of(Arc::clone(self), owner, usize::MAX - 1);
        let read = read_back::all(&mut session).await;
        session.log.flush();
        read
    }

    /// Writes to rows of every shard, and repeats each write until it is acknowledged.
    ///
    /// # Errors
    /// Fails if a write is not acknowledged within `patience`.
    pub(crate) async fn write_everywhere(
        self: &Arc<Self>,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let client = Arc::clone(&self.clients[0]);
        let mut session = Session::of(Arc::clone(self), client, usize::MAX - 2);
        let began = Instant::now();
        // The hot rows are spread over all shards.
        for rank in 0..HOT_ROWS {
            let row = session.client.names.register(rank);
            loop {
                let done = register::write(&mut session, &row).await;
                match done.sample.verdict {
                    Ok(()) => break,
                    Err(failure) if began.elapsed() > patience => {
                        session.log.flush();
                        anyhow::bail!(
                            "no new write is accepted after {patience:?}: {}",
                            failure.detail
                        );
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        }
        session.log.flush();
        Ok(())
    }

    /// Returns the slots that contain rows of the run, and those that are moving.
    pub(crate) fn moving(&self) -> &Arc<MovingSlots> {
        &self.moving
    }

    /// Returns the recorder of the run.
    pub(crate) fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }
}

/// Session data of a goose user. It is in an `Arc`, because goose clones it.
#[derive(Clone)]
struct Shared(Arc<Mutex<Session>>);

async fn act(user: &mut GooseUser) -> TransactionResult {
    let session = session(user)?;
    let mut session = session.lock().await;
    if !session.turns.begin_step().await {
        return Ok(());
    }
    for done in workload::next(&mut session).await {
        let pause = done.sample.verdict.as_ref().is_err_and(|failure| failure.status.is_none());
        crate::load::report_to_goose(user, done.sample.operation, &done.sample, done.status)
            .await?;
        session.of.counters.add(done.sample);
        if pause {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

async fn leave(user: &mut GooseUser) -> TransactionResult {
    session(user)?.lock().await.log.flush();
    Ok(())
}

fn session(user: &GooseUser) -> Result<Arc<Mutex<Session>>, Box<TransactionError>> {
    let shared = user.get_session_data::<Shared>();
    shared.map(|shared| Arc::clone(&shared.0)).ok_or_else(|| "a session did not enter".into())
}
