//! Effects: computes the effect and the response of an operation at the moment at which it takes
//! effect.
//!
//! **Invariant:** effects are simulated in order of time.
//! **Not here:** the requests (`server`), and the end of a run (`ending`).

use checker::history::{Key, Kind, Level, Operation, Outcome, Role, Total, Value};

use super::{ACCOUNTS, Ask, BANKS, BOUND_MS, BrokenPromise, Fate, LAG, MS, Plan, Server, State};

impl Server {
    pub(super) fn play(&mut self, plan: &Plan) {
        match plan.ask {
            Ask::Write | Ask::Conditional | Ask::Delete => self.change(plan),
            Ask::Bulk => self.bulk(plan),
            Ask::Replay => self.replay(plan),
            Ask::Transfer => self.transfer(plan),
            Ask::Total => self.total(plan),
            Ask::TokenRead | Ask::StrongRead | Ask::BoundedRead | Ask::EventualRead => {
                self.read(plan);
            }
        }
    }

    /// Returns the history's record of a planned operation, with its times and outcome.
    fn operation(&mut self, plan: &Plan, kind: Kind, key: Key, role: Role) -> Operation {
        let lost = matches!(plan.fate, Fate::Lost(_));
        let mut one = Operation::new(kind, key, plan.session, plan.request);
        (one.start, one.end, one.token) = (plan.start, plan.end, true);
        one.outcome = match plan.fate {
            Fate::Answered => Outcome::Ok,
            Fate::LowerLevel if kind != Kind::Read => Outcome::Committed,
            Fate::LowerLevel => Outcome::Ok,
            Fate::Refused => Outcome::Rejected,
            Fate::Lost(_) => Outcome::Unknown,
        };
        if lost {
            one.attempts = 5;
        } else {
            one.node = self.node(key, role);
        }
        one
    }

    /// Stores a state, and returns its version.
    fn store(&mut self, plan: &Plan, key: Key, value: Value, balance: i64) -> u64 {
        let mut version = self.next_version(key);
        let from = plan.effect;
        let before = self.state_at(key, from).version;
        if self.is(BrokenPromise::VersionsTwice) && before > 0 && self.below(100) == 0 {
            version = before;
        }
        if self.is(BrokenPromise::LosesWrites) && self.below(100) == 0 {
            return version;
        }
        let mut key = key;
        if self.is(BrokenPromise::MixesRows) && self.below(1_000) == 0 {
            key = Key(key.0.saturating_sub(1));
        }
        self.states[key.0 as usize].push(State { from, version, value, balance });
        version
    }

    fn change(&mut self, plan: &Plan) {
        let kind = if plan.ask == Ask::Delete { Kind::Delete } else { Kind::Write };
        let mut one = self.operation(plan, kind, plan.key, Role::Primary);
        one.value = Value::new(plan.session, plan.request);
        let before = self.state_at(plan.key, plan.effect);
        let mut refused = plan.fate == Fate::Refused || plan.fate == Fate::Lost(false);
        if plan.ask == Ask::Conditional {
            let known = self.tokens.get(&(plan.session, plan.key)).copied().unwrap_or_default();
            one.based_on = known;
            let stale = known == 0 || known != before.version || before.value == Value::NONE;
            refused |= stale && !(self.is(BrokenPromise::IgnoresConditions) && known != 0);
        }
        refused |= plan.ask == Ask::Delete && before.value == Value::NONE;
        if refused {
            if one.outcome != Outcome::Unknown {
                one.outcome = Outcome::Rejected;
            }
            if self.is(BrokenPromise::StoresRefused) && self.below(20) == 0 {
                self.store(plan, plan.key, one.value, 0);
            }
            self.history.operations.push(one);
            return;
        }
        let stored = if kind == Kind::Delete { Value::NONE } else { one.value };
        let version = self.store(plan, plan.key, stored, 0);
        if self.is(BrokenPromise::AppliesTwice) && kind == Kind::Write && self.below(100) == 0 {
            self.store(plan, plan.key, stored, 0);
        }
        if self.is(BrokenPromise::Resurrects) && kind == Kind::Delete && self.below(4) == 0 {
            let back = State { from: plan.effect + 5 * MS, ..before };
            self.states[plan.key.0 as usize].push(back);
        }
        match plan.fate {
            Fate::Answered => one.version = version,
            Fate::LowerLevel | Fate::Refused | Fate::Lost(_) => {}
        }
        if one.is_acknowledged() {
            self.tokens.insert((plan.session, plan.key), version);
        }
        if plan.fate == Fate::Answered {
            self.kept[plan.session as usize].acknowledged = Some(one);
        }
        self.history.operations.push(one);
    }

    /// Simulates a bulk write of three rows. Each of them is refused, or is stored without a
    /// version in the response.
    fn bulk(&mut self, plan: &Plan) {
        for row in 0..3 {
            let number = self.draw(plan.session);
            let key = if row == 0 {
                plan.key
            } else {
                self.key(&format!("bulk/{}-{number}", plan.session))
            };
            let mut one = self.operation(plan, Kind::Write, key, Role::Primary);
            one.value = Value::new(plan.session, number);
            let refused = plan.fate == Fate::Refused || self.below(20) == 0;
            if refused && one.outcome != Outcome::Unknown {
                one.outcome = Outcome::Rejected;
            } else if plan.fate != Fate::Lost(false) {
                let version = self.store(plan, key, one.value, 0);
                if one.is_acknowledged() {
                    self.tokens.insert((plan.session, key), version);
                }
            }
            self.history.operations.push(one);
        }
    }

    /// Repeats the session's last acknowledged change. If there is none, simulates a read instead.
    fn replay(&mut self, plan: &Plan) {
        let Some(first) = self.kept[plan.session as usize].acknowledged else {
            return self.read(&Plan { ask: Ask::EventualRead, ..*plan });
        };
        let mut one = self.operation(plan, Kind::Replay, first.key, Role::Primary);
        (one.value, one.token) = (first.value, false);
        if plan.fate == Fate::Answered {
            one.version = first.version;
            if self.is(BrokenPromise::ForgetsAnswers) && self.below(100) == 0 {
                one.version = self.next_version(first.key);
            }
        }
        self.history.operations.push(one);
    }

    /// Moves money between two accounts of one bank, if neither changed since they were read.
    fn transfer(&mut self, plan: &Plan) {
        let bank = self.below(BANKS);
        let from = self.below(ACCOUNTS);
        let to = (from + 1 + self.below(ACCOUNTS - 1)) % ACCOUNTS;
        let amount = self.below(10) as i64;
        // In one of five transfers, another change happens after the versions were read.
        let stale = self.below(5) == 0 && !self.is(BrokenPromise::IgnoresConditions);
        let happens = !stale && plan.fate != Fate::Refused && plan.fate != Fate::Lost(false);
        for (account, sign) in [(from, -1), (to, 1)] {
            let key = self.account(bank, account);
            let before = self.state_at(key, plan.effect);
            let number = self.draw(plan.session);
            let mut one = self.operation(plan, Kind::Write, key, Role::Primary);
            one.value = Value::new(plan.session, number);
            one.based_on = before.version;
            if happens {
                let version = self.store(plan, key, one.value, before.balance + sign * amount);
                if one.is_acknowledged() {
                    self.tokens.insert((plan.session, key), version);
                }
            } else if one.outcome != Outcome::Unknown {
                one.outcome = Outcome::Rejected;
            }
            self.history.operations.push(one);
        }
        let [acknowledged, attempted, happened] = &mut self.transfers;
        *happened += u64::from(happens);
        *acknowledged += u64::from(happens && !matches!(plan.fate, Fate::Lost(_)));
        *attempted += u64::from(happens || matches!(plan.fate, Fate::Lost(_)));
        let loses = self.is(BrokenPromise::LosesLedgerRows) && self.below(100) == 0;
        self.ledger_rows += u64::from(happens && !loses);
    }

    /// Reads all accounts of a bank from a replica, in its state at one moment.
    fn total(&mut self, plan: &Plan) {
        if plan.fate != Fate::Answered {
            return;
        }
        let bank = self.below(BANKS);
        let lag = self.below(LAG);
        let mut moment = plan.effect.saturating_sub(lag).max(2);
        let (mut sum, mut node) = (0, checker::history::NodeId::NONE);
        for account in 0..ACCOUNTS {
            let key = self.account(bank, account);
            let state = self.state_at(key, moment);
            sum += state.balance;
            let mut one = self.operation(plan, Kind::Read, key, Role::Replica);
            (one.value, one.version, one.token) = (state.value, state.version, false);
            node = one.node;
            self.history.operations.push(one);
            if self.is(BrokenPromise::TearsTotals) {
                moment = (moment + self.below(10 * MS)).min(plan.effect);
            }
        }
        self.history.totals.push(Total {
            bank: format!("bank-{bank}"),
            session: plan.session,
            request: plan.request,
            start: plan.start,
            end: plan.end,
            node,
            level: Level::One,
            sum,
            accounts: ACCOUNTS as u32,
        });
    }

    fn read(&mut self, plan: &Plan) {
        let strong = plan.ask == Ask::StrongRead;
        let role = if strong { Role::Primary } else { Role::Replica };
        let mut one = self.operation(plan, Kind::Read, plan.key, role);
        one.token = plan.ask == Ask::TokenRead || strong && plan.session.is_multiple_of(2);
        if strong {
            one.level = self.level();
        }
        if plan.ask == Ask::BoundedRead {
            one.bound_ms = BOUND_MS;
        }
        if one.outcome == Outcome::Ok {
            let state = self.seen(plan, one.token);
            one.value = state.value;
            // A read that finds no row does not return the version of the delete.
            one.version = if state.value == Value::NONE { 0 } else { state.version };
            if one.token {
                self.tokens.insert((plan.session, plan.key), state.version);
            }
        }
        self.history.operations.push(one);
    }

    /// Returns the state that a read finds: that of the primary, or that of a replica that is new
    /// enough.
    fn seen(&mut self, plan: &Plan, token: bool) -> State {
        let now = self.state_at(plan.key, plan.effect);
        let lag = self.below(LAG);
        let mut moment = plan.effect.saturating_sub(lag);
        if plan.ask == Ask::BoundedRead && !self.is(BrokenPromise::IgnoresBounds) {
            moment = moment.max(plan.start.saturating_sub(u64::from(BOUND_MS) * MS));
        }
        if plan.ask == Ask::StrongRead && !self.is(BrokenPromise::StrongFromReplica) {
            moment = plan.effect;
        }
        let state = self.state_at(plan.key, moment);
        let known = self.tokens.get(&(plan.session, plan.key)).copied().unwrap_or_default();
        let too_old = token && state.version < known && !self.is(BrokenPromise::IgnoresTokens);
        if too_old { now } else { state }
    }
}
