//! Plan: the settings and the state that all users of a run share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::clients::{Client, Clients};
use crate::counters::{Counters, Operation};
use crate::http_client::Pool;
use crate::keys::KeyChooser;
use crate::mix::Mix;
use crate::options::{Options, ValueSize};
use crate::probe::Probe;
use crate::random::Random;
use crate::requests::BULK_ROWS;
use crate::tables::{KV, USERS};

pub(crate) struct Plan {
    /// Clients, which are assigned to the users in turn.
    pub(super) clients: Vec<Arc<Client>>,
    pub(crate) counters: Arc<Counters>,
    pub(super) seed: u64,
    /// Longest wait for a response.
    pub(super) patience: Duration,
    /// Number of keys at the start.
    pub(super) keys_filled: u32,
    /// True if all keys that exist at the start were written before the run.
    pub(super) filled: bool,
    /// Current number of keys, which inserts increase.
    keys: AtomicU32,
    mix: Mix,
    writes: u32,
    chooser: KeyChooser,
    value_size: ValueSize,
    /// String of which a part is used as a value.
    text: String,
}

/// Next operation of a user.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) operation: Operation,
    /// Number of the key; a bulk write also writes the keys in `more`.
    pub(super) key: u32,
    /// Further keys of a bulk write.
    pub(super) more: Vec<u32>,
    pub(super) value: String,
    /// Additional data of a probe; `None` for other operations.
    pub(super) probe: Option<ProbeStep>,
}

/// Request of a tenant for rows of another tenant.
#[derive(Clone, Debug)]
pub(super) struct ProbeStep {
    pub(super) probe: Probe,
    pub(super) table: &'static str,
    /// Key of another tenant.
    pub(super) other: String,
}

impl Plan {
    pub(crate) fn new(
        options: &Options,
        clients: &Clients,
        counters: Arc<Counters>,
    ) -> anyhow::Result<Self> {
        let load = &options.load;
        let most = load.value_size.most as usize;
        Ok(Self {
            clients: clients.of_users().to_vec(),
            counters,
            seed: load.seed,
            patience: options.patience()?,
            keys_filled: load.keys,
            filled: !load.no_fill && load.mix != Mix::Kv,
            keys: AtomicU32::new(load.keys),
            mix: load.mix,
            writes: u32::from(load.writes),
            chooser: KeyChooser::new(options.dist(), load.keys)?,
            value_size: load.value_size,
            text: "John Doe and Jane Roe live in Tessera. ".repeat(most / 39 + 1),
        })
    }

    /// Returns the client of a user.
    pub(super) fn client(&self, user: usize) -> &Arc<Client> {
        &self.clients[user % self.clients.len()]
    }

    /// Returns the connections of a user's client to the user's router.
    pub(super) fn pool(&self, user: usize) -> &Arc<Pool> {
        self.client(user).pool(user / self.clients.len())
    }

    /// Returns the next operation of the user with this random stream.
    pub(super) fn next_step(&self, random: &mut Random, user: usize) -> Step {
        if self.client(user).is_tenant() && Probe::is_due(random) {
            return self.probe(random, user);
        }
        let operation = self.mix.next(random, self.writes);
        let key = match operation {
            Operation::Insert => self.keys.fetch_add(1, Ordering::Relaxed),
            Operation::Write
            | Operation::Read
            | Operation::Scan
            | Operation::Modify
            | Operation::Bulk
            | Operation::KvPut
            | Operation::KvGet
            | Operation::Scatter
            | Operation::Delete
            | Operation::Replay
            | Operation::Transfer
            | Operation::Probe => self.draw(random),
        };
        let bulk = operation == Operation::Bulk;
        let more = if bulk { self.draw_different(random, key) } else { Vec::new() };
        Step { operation, key, more, value: self.value(random), probe: None }
    }

    /// Returns a request for a row of another tenant.
    fn probe(&self, random: &mut Random, user: usize) -> Step {
        let key = self.draw(random);
        let probe = Probe::draw(random);
        let table = if self.mix == Mix::Kv { KV } else { USERS };
        let count = self.clients.len();
        let step = 1 + random.below(count as u32 - 1) as usize;
        let other = self.clients[(user + step) % count].names().plain(key);
        let probe = Some(ProbeStep { probe, table, other });
        Step { operation: Operation::Probe, key, more: Vec::new(), value: String::new(), probe }
    }

    fn draw(&self, random: &mut Random) -> u32 {
        self.chooser.next(random, self.keys.load(Ordering::Relaxed))
    }

    /// Returns the further keys of a bulk write. All keys are different, because a bulk write must
    /// not contain a key twice.
    fn draw_different(&self, random: &mut Random, first: u32) -> Vec<u32> {
        let keys = self.keys.load(Ordering::Relaxed);
        // The keys are consecutive and not drawn one by one, because a skewed distribution would
        // draw the same ones repeatedly.
        let start = self.draw(random);
        let around = (0..keys).map(|step| (start + step) % keys).filter(|&key| key != first);
        around.take(BULK_ROWS as usize - 1).collect()
    }

    pub(super) fn value(&self, random: &mut Random) -> String {
        let ValueSize { least, most } = self.value_size;
        let size = (least + random.below(most - least + 1)) as usize;
        self.text[..size.min(self.text.len())].to_owned()
    }
}
