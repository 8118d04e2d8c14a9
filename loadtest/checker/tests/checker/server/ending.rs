//! Ending: the end of a simulated run, which reads every row back, iterates over the tables, and
//! counts the rows of the ledgers.
//!
//! **Invariant:** no further operation takes effect after the end of the run.
//! **Not here:** the operations of the run (`effects`).

use checker::history::{Key, Kind, Ledger, Level, NodeId, Operation, Page, Role, Value};

use super::{BrokenPromise, MS, Server};

/// Number of rows of a page.
const PAGE: usize = 1_000;

impl Server {
    pub(super) fn read_back(&mut self, over: u64) {
        let keys: Vec<Key> = (0..self.states.len() as u32).map(Key).collect();
        let mut present = Vec::new();
        for &key in &keys {
            let state = self.state_at(key, over);
            let session = key.0 % self.settings.sessions + 1;
            let request = self.draw(session);
            let mut one = Operation::new(Kind::Read, key, session, request);
            (one.start, one.end) = (over + u64::from(key.0), over + u64::from(key.0) + MS);
            (one.value, one.last, one.level) = (state.value, true, Level::Quorum);
            one.version = if state.value == Value::NONE { 0 } else { state.version };
            one.node = self.node(key, Role::Primary);
            self.history.operations.push(one);
            if state.value != Value::NONE {
                present.push(key);
            }
        }
        let over = over + keys.len() as u64 + 2 * MS;
        for table in ["accounts", "bulk", "kv"] {
            self.walk(table, &present, over);
        }
        let [acknowledged, attempted, counter] = self.transfers;
        let request = self.draw(1);
        self.history.ledgers.push(Ledger {
            bank: "all".to_owned(),
            session: 1,
            request,
            start: over,
            end: over + MS,
            node: NodeId::NONE,
            counter,
            rows: self.ledger_rows,
            acknowledged,
            attempted,
        });
    }

    fn walk(&mut self, table: &str, present: &[Key], over: u64) {
        let prefix = format!("{table}/");
        let covered = |key: &&Key| self.history.keys.name(**key).starts_with(&prefix);
        let mut rows: Vec<Key> = present.iter().filter(covered).copied().collect();
        if self.is(BrokenPromise::WalksTwice)
            && let Some(&row) = rows.first()
        {
            rows.push(row);
        }
        let pages = rows.chunks(PAGE).count();
        for (number, keys) in rows.chunks(PAGE).enumerate() {
            let start = over + number as u64 * MS;
            let request = self.draw(1);
            self.history.pages.push(Page {
                table: table.to_owned(),
                session: 1,
                request,
                start,
                end: start + MS / 2,
                keys: keys.to_vec(),
                complete: number + 1 == pages,
            });
        }
    }
}
