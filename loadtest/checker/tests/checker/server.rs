//! Simulated server: has versions, lagging replicas, sessions, lost responses and banks, and
//! produces the history that a run against it would record. The property tests and the benchmark
//! use it.
//!
//! Every operation takes effect at one moment between its start and its end; an operation without a
//! response may take effect later or not at all. Effects are simulated in order, so the recorded
//! history is correct by construction. [`BrokenPromise`] breaks one promise at a time.
//!
//! **Invariant:** the same settings result in the same history.
//! **Not here:** HTTP, because only the checker is tested.

#[path = "server/effects.rs"]
mod effects;
#[path = "server/ending.rs"]
mod ending;

use std::collections::HashMap;

use checker::history::{
    BankConstants, Header, Key, Kind, Level, NodeId, Operation, OperationHistory, Role, Value,
};

const MS: u64 = 1_000_000;
const SHARDS: u64 = 3;
const HOSTS: u64 = 2;
const BANKS: u64 = 4;
const ACCOUNTS: u64 = 4;
const BALANCE: i64 = 100;
/// Maximum lag of the replicas, in nanoseconds.
const LAG: u64 = 40 * MS;
/// Staleness bound of bounded reads, in milliseconds.
pub(crate) const BOUND_MS: u32 = 10;

/// Promise that the server does not keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokenPromise {
    /// The server keeps all promises.
    Nothing,
    /// One write in a hundred is acknowledged but not stored.
    LosesWrites,
    /// Some of the refused writes are stored.
    StoresRefused,
    /// A write sent twice is applied twice.
    AppliesTwice,
    /// The response to a replay contains a new version.
    ForgetsAnswers,
    /// Two successive writes of a row get the same version.
    VersionsTwice,
    /// A value is stored in another row.
    MixesRows,
    /// Strong reads come from any replica.
    StrongFromReplica,
    /// Tokens are ignored.
    IgnoresTokens,
    /// Staleness bounds are ignored.
    IgnoresBounds,
    /// Conditions of writes are ignored.
    IgnoresConditions,
    /// A bank is read account by account.
    TearsTotals,
    /// The row of the ledger is not written in the same transaction as the counter.
    LosesLedgerRows,
    /// A deleted row reappears.
    Resurrects,
    /// A walk returns a row twice.
    WalksTwice,
}

/// Size of the simulation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) operations: usize,
    pub(crate) sessions: u32,
    pub(crate) hot: u64,
    pub(crate) cold: u64,
    pub(crate) broken: BrokenPromise,
}

/// Kind of a request. It is chosen before any operation takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Write,
    Conditional,
    Delete,
    Bulk,
    Replay,
    Transfer,
    Total,
    TokenRead,
    StrongRead,
    BoundedRead,
    EventualRead,
}

/// Fate of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// The write is stored on the primary only; the response is TSR205 and contains no version.
    LowerLevel,
    Refused,
    /// No response; `true` if the operation took effect.
    Lost(bool),
}

/// Operation that is to be simulated.
#[derive(Clone, Copy, Debug)]
struct Plan {
    ask: Ask,
    fate: Fate,
    key: Key,
    session: u32,
    request: u32,
    start: u64,
    effect: u64,
    end: u64,
}

/// State of a row from the time `from` on.
#[derive(Clone, Copy, Debug)]
struct State {
    from: u64,
    version: u64,
    value: Value,
    balance: i64,
}

const NOT_YET: State = State { from: 0, version: 0, value: Value::NONE, balance: 0 };

/// State of a session.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    acknowledged: Option<Operation>,
}

pub(crate) struct Server {
    settings: Settings,
    random: u64,
    history: OperationHistory,
    /// All states of each key, in order of time.
    states: Vec<Vec<State>>,
    counters: [u64; SHARDS as usize],
    /// Minimum version of a key that the token of a session guarantees, by session and key.
    tokens: HashMap<(u32, Key), u64>,
    kept: Vec<Kept>,
    drawn: Vec<u32>,
    ledger_rows: u64,
    transfers: [u64; 3],
}

/// Returns the history of a run against a simulated server.
pub(crate) fn run(settings: Settings) -> OperationHistory {
    let mut header = Header::new("simulated", String::new(), vec![]);
    header.hosts = (0..HOSTS).map(|host| format!("http://127.0.0.1:{}", 3000 + host)).collect();
    let accounts = ACCOUNTS as u32;
    header.bank = Some(BankConstants { total: BALANCE * ACCOUNTS as i64, accounts });
    let sessions = settings.sessions as usize + 1;
    let mut server = Server {
        settings,
        random: settings.seed,
        history: OperationHistory { header, ..OperationHistory::default() },
        states: Vec::new(),
        counters: [7_000, 100, 52_000],
        tokens: HashMap::new(),
        kept: vec![Kept::default(); sessions],
        drawn: vec![0; sessions],
        ledger_rows: 0,
        transfers: [0; 3],
    };
    server.history.operations.reserve_exact(settings.operations + settings.operations / 8);
    server.open_banks();
    let mut plans = server.plans();
    plans.sort_unstable_by_key(|plan| (plan.effect, plan.session, plan.request));
    for plan in &plans {
        server.play(plan);
    }
    let over = plans.iter().map(|plan| plan.effect.max(plan.end)).max().unwrap_or_default();
    drop(plans);
    server.read_back(over + MS);
    server.history
}

impl Server {
    /// Returns a random number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// Returns a random rank below `bound`, approximately by Zipf's law: each doubling of the rank
    /// is equally likely.
    fn rank(&mut self, bound: u64) -> u64 {
        let even = self.below(1 << 32) as f64 / f64::from(u32::MAX);
        ((bound as f64).powf(even) as u64 - 1).min(bound - 1)
    }

    fn key(&mut self, name: &str) -> Key {
        let key = self.history.keys.intern(name);
        if key.0 as usize == self.states.len() {
            self.states.push(Vec::new());
        }
        key
    }

    fn node(&mut self, key: Key, role: Role) -> NodeId {
        let shard = format!("shard{}", u64::from(key.0) % SHARDS + 1);
        let host = self.below(HOSTS) as u16;
        self.history.nodes.intern(&shard, role, host)
    }

    fn draw(&mut self, session: u32) -> u32 {
        self.drawn[session as usize] += 1;
        self.drawn[session as usize]
    }

    /// Returns the next version of the key's shard. Some versions are skipped, as if other rows had
    /// taken them.
    fn next_version(&mut self, key: Key) -> u64 {
        let step = 1 + self.below(3);
        let counter = &mut self.counters[(u64::from(key.0) % SHARDS) as usize];
        *counter += step;
        *counter
    }

    fn account(&mut self, bank: u64, account: u64) -> Key {
        self.key(&format!("accounts/bank-{bank}/{account}"))
    }

    /// Creates all accounts with their balances, by acknowledged writes that precede all other
    /// operations.
    fn open_banks(&mut self) {
        for bank in 0..BANKS {
            for account in 0..ACCOUNTS {
                let key = self.account(bank, account);
                let request = self.draw(1);
                let version = self.next_version(key);
                let value = Value::new(1, request);
                self.states[key.0 as usize].push(State {
                    from: 1,
                    version,
                    value,
                    balance: BALANCE,
                });
                let node = self.node(key, Role::Primary);
                let write = Operation::new(Kind::Write, key, 1, request);
                let write = Operation { value, version, node, end: 2, ..write };
                self.history.operations.push(write);
            }
        }
    }

    /// Plans the requests of all sessions, each of which sends one after the other.
    fn plans(&mut self) -> Vec<Plan> {
        let each = self.settings.operations / self.settings.sessions as usize;
        let mut plans = Vec::with_capacity(each * self.settings.sessions as usize);
        for session in 1..=self.settings.sessions {
            let mut now = MS + self.below(MS);
            for _ in 0..each {
                let plan = self.plan(session, now);
                now = plan.end + self.below(MS / 10);
                plans.push(plan);
            }
        }
        plans
    }

    fn plan(&mut self, session: u32, now: u64) -> Plan {
        let ask = match self.below(100) {
            0..28 => Ask::Write,
            28..32 => Ask::Conditional,
            32..36 => Ask::Delete,
            36..38 => Ask::Bulk,
            38..48 => Ask::Replay,
            48..50 => Ask::Transfer,
            50..52 => Ask::Total,
            52..68 => Ask::TokenRead,
            68..84 => Ask::StrongRead,
            84..94 => Ask::BoundedRead,
            _ => Ask::EventualRead,
        };
        let fate = match self.below(200) {
            0..4 => Fate::Refused,
            4..6 => Fate::Lost(true),
            6..8 => Fate::Lost(false),
            8..10 => Fate::LowerLevel,
            _ => Fate::Answered,
        };
        let key = if self.below(2) == 0 {
            let rank = self.rank(self.settings.hot);
            self.key(&format!("kv/hot-{rank}"))
        } else {
            let rank = self.rank(self.settings.cold);
            self.key(&format!("kv/cold-{rank}"))
        };
        let effect = now + 1 + self.below(MS);
        let end = effect + 1 + self.below(MS);
        // An operation without a response may take effect after the session has given up.
        let late = if fate == Fate::Lost(true) { self.below(20 * MS) } else { 0 };
        let request = self.draw(session);
        Plan { ask, fate, key, session, request, start: now, effect: effect + late, end }
    }

    /// Returns the last state at or before a moment.
    fn state_at(&self, key: Key, moment: u64) -> State {
        let states = &self.states[key.0 as usize];
        let after = states.partition_point(|state| state.from <= moment);
        after.checked_sub(1).map_or(NOT_YET, |last| states[last])
    }

    fn is(&self, broken: BrokenPromise) -> bool {
        self.settings.broken == broken
    }

    fn level(&mut self) -> Level {
        [Level::Quorum, Level::All][self.below(2) as usize]
    }
}
