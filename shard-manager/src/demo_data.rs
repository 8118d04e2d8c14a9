//! Fake users and orders: as many as are wanted, the same ones for the same seed.
//!
//! Each row is a function of the plan and of its number alone: so they can be made in any order, by any number of
//! threads, again after a failure, and without a list of them.
//!
//! Ids are spelled as the cluster's keyspace demands: `user_A_17`, or `A:user_17` in a list, `17` in numeric ranges,
//! `@user_A_17:s3.example.org` in a matrix.
//!
//! **Invariant:** no two users have the same id or the same e-mail; an order lies under the key of its user; a keyspace
//! has a place for every id that is made for it.
//! **Not here:** where they go (`import`, the command line).

use std::str::FromStr;

use crate::keyspace::list::NAMES_SHOWN_MAX;
use crate::keyspace::{Keyspace, ShardKey};
use crate::value::{Value, push_json_number, push_json_string};

/// Shares of the users of each partition key when nobody says others.
pub const WEIGHTS_DEFAULT: &str = "A=30,B=20,C=15,D=25,E=10";
/// Partition keys of one list of weights.
const PARTS_MAX: usize = 64;
/// Users of one plan: with their orders they are numbered in 64 bits.
pub const USERS_MAX: u64 = 1 << 40;
/// Servers whose users there are in a matrix.
const SERVERS: u64 = 100;
/// Orders of one user.
pub const ORDERS_MAX: u32 = 1_000;

const FIRST_NAMES: [&str; 16] = [
    "Ada",
    "Alan",
    "Barbara",
    "Claude",
    "Donald",
    "Edsger",
    "Frances",
    "Grace",
    "Hedy",
    "Ivan",
    "John",
    "Katherine",
    "Leslie",
    "Margaret",
    "Niklaus",
    "Radia",
];
const LAST_NAMES: [&str; 16] = [
    "Lovelace",
    "Turing",
    "Liskov",
    "Shannon",
    "Knuth",
    "Dijkstra",
    "Allen",
    "Hopper",
    "Lamarr",
    "Sutherland",
    "Backus",
    "Johnson",
    "Lamport",
    "Hamilton",
    "Wirth",
    "Perlman",
];
const STATUSES: [&str; 5] = ["pending", "paid", "shipped", "delivered", "cancelled"];
/// Smallest and largest amount of an order, in cents.
const AMOUNTS: (u64, u64) = (199, 99_999);

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoSpec {
    /// How many users, at most [`USERS_MAX`].
    pub users: u64,
    /// Their shares of the partition keys; if nobody says, [`WEIGHTS_DEFAULT`], or those of the keyspace.
    pub weights: Option<Weights>,
    /// How many orders each user has.
    pub orders_per_user: u32,
    /// Another seed makes other rows.
    pub seed: u64,
}

/// Shares of partition keys, such as `A=30,B=20`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights(Vec<(String, u32)>);

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    parts: Vec<Part>,
    /// For each part the number of the first user behind it.
    ends: Vec<u64>,
    ids: Ids,
    /// How many orders each user has.
    pub orders_per_user: u32,
    /// Another seed makes other rows.
    pub seed: u64,
}

/// How ids are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ids {
    /// `user_A_17`.
    Plain,
    /// `17`, counted over all parts.
    Integer,
    /// `A:user_17`.
    Partition,
    /// `@user_A_17:s3.example.org`.
    Matrix,
}

impl Ids {
    fn of(keyspace: &Keyspace) -> Self {
        match keyspace {
            Keyspace::Hash | Keyspace::Modulo => Self::Plain,
            Keyspace::List(_) => Self::Partition,
            Keyspace::Matrix(_) => Self::Matrix,
            Keyspace::Range(_) => {
                // Ranges of text have a place for any key.
                let plain =
                    ShardKey::parse("user_A_0").is_ok_and(|key| keyspace.slot_of(key).is_ok());
                if plain { Self::Plain } else { Self::Integer }
            }
        }
    }
}

/// The users of one partition key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The partition key.
    pub name: String,
    /// How many users it has.
    pub users: u64,
}

/// A user, and what its orders are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoUser<'p> {
    partition: &'p str,
    number: u64,
    /// The shard key of all its rows.
    pub id: String,
    chance: u64,
}

/// A row as columns and values.
pub type DemoRow = Vec<(&'static str, Value)>;

impl Plan {
    /// A plan for a cluster of this keyspace.
    ///
    /// # Errors
    /// [`PlanError`] if its weights are not of this keyspace.
    pub fn new(spec: &DemoSpec, keyspace: &Keyspace) -> Result<Self, PlanError> {
        let DemoSpec { users, orders_per_user, seed, .. } = *spec;
        let weights = weights_of(spec, keyspace)?;
        let total: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut parts = Vec::with_capacity(weights.len());
        let mut ends = Vec::with_capacity(weights.len());
        let (mut passed, mut given) = (0, 0);
        for (name, weight) in weights {
            passed += u64::from(weight);
            // By running sums: so the shares are exact together, and each is off by less than one.
            let until = (u128::from(users) * u128::from(passed) / u128::from(total)) as u64;
            parts.push(Part { name, users: until - given });
            ends.push(until);
            given = until;
        }
        Ok(Self { parts, ends, ids: Ids::of(keyspace), orders_per_user, seed })
    }

    /// The users of each partition key.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// How many users there are.
    pub fn users(&self) -> u64 {
        self.ends.last().copied().unwrap_or_default()
    }

    /// How many rows there are, orders included.
    pub fn rows(&self) -> u64 {
        self.users().saturating_mul(1 + u64::from(self.orders_per_user))
    }

    /// The user of this number, `0..users()`; `None` beyond.
    pub fn user(&self, number: u64) -> Option<DemoUser<'_>> {
        let index = self.ends.partition_point(|end| *end <= number);
        let Part { name, users } = self.parts.get(index)?;
        let own = number - (self.ends[index] - users);
        let chance = mix(mix(self.seed ^ mix(index as u64)) ^ own);
        let id = match self.ids {
            Ids::Plain => format!("user_{name}_{own}"),
            Ids::Integer => number.to_string(),
            Ids::Partition => format!("{name}:user_{own}"),
            Ids::Matrix => format!("@user_{name}_{own}:s{}.example.org", (chance >> 8) % SERVERS),
        };
        Some(DemoUser { partition: name, number: own, id, chance })
    }
}

impl DemoUser<'_> {
    fn names(&self) -> (&'static str, &'static str) {
        let first = FIRST_NAMES[(self.chance & 15) as usize];
        (first, LAST_NAMES[((self.chance >> 4) & 15) as usize])
    }

    /// Its row of `users`.
    pub fn row(&self) -> DemoRow {
        let (first, last) = self.names();
        vec![
            ("user_id", Value::Text(self.id.clone())),
            ("name", Value::Text(format!("{first} {last}"))),
            ("email", Value::Text(self.email())),
            ("partition_key", Value::Text(self.partition.to_owned())),
        ]
    }

    /// Numbers of a partition are its own, so that its key must be part of it, as it is written: `a` and `A` are two.
    fn email(&self) -> String {
        let (first, last) = self.names();
        let name = format!("{first}.{last}").to_ascii_lowercase();
        format!("{name}.{}.{}@example.com", self.partition, self.number)
    }

    /// Its rows of `orders`.
    pub fn orders(&self, plan: &Plan) -> impl Iterator<Item = DemoRow> {
        (0..plan.orders_per_user).map(|order| {
            let chance = mix(self.chance ^ (u64::from(order) + 1));
            let amount = AMOUNTS.0 + chance % (AMOUNTS.1 - AMOUNTS.0 + 1);
            let status = STATUSES[((chance >> 40) % STATUSES.len() as u64) as usize];
            vec![
                (
                    "order_id",
                    Value::Text(format!("order_{}_{}_{order}", self.partition, self.number)),
                ),
                ("user_id", Value::Text(self.id.clone())),
                ("amount", Value::Int(amount as i64)),
                ("status", Value::Text(status.to_owned())),
            ]
        })
    }
}

/// Appends a row as a line of JSON.
pub fn push_line(out: &mut Vec<u8>, row: &DemoRow) {
    for (index, (column, value)) in row.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"{\"" } else { b",\"" });
        out.extend_from_slice(column.as_bytes());
        out.extend_from_slice(b"\":");
        match value {
            Value::Text(text) => push_json_string(out, text),
            Value::Int(number) => push_json_number(out, *number),
            Value::Double(number) => push_json_number(out, *number),
            Value::Bool(truth) => out.extend_from_slice(truth.to_string().as_bytes()),
            Value::Null => out.extend_from_slice(b"null"),
        }
    }
    out.extend_from_slice(b"}\n");
}

/// The finisher of SplitMix64 (Steele, Lea and Flood, 2014): neighbours in, strangers out.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The shares that were asked for, if the keyspace has these partitions, or else its own.
fn weights_of(spec: &DemoSpec, keyspace: &Keyspace) -> Result<Vec<(String, u32)>, PlanError> {
    let given = spec.weights.as_ref().map(|Weights(weights)| weights.clone());
    let Keyspace::List(list) = keyspace else {
        return given.map_or_else(|| parse_weights(WEIGHTS_DEFAULT), Ok);
    };
    let own = list.partitions().iter().map(|part| (part.name.to_string(), part.weight));
    let Some(given) = given else { return Ok(own.collect()) };
    let known: Vec<String> = own.map(|(name, _)| name).collect();
    match given.iter().find(|(name, _)| !known.contains(name)) {
        Some((name, _)) => {
            let shown = &known[..known.len().min(NAMES_SHOWN_MAX)];
            Err(PlanError::NoSuchPartition { name: name.clone(), known: shown.join(", ") })
        }
        None => Ok(given),
    }
}

impl FromStr for Weights {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        parse_weights(text).map(Self)
    }
}

fn parse_weights(text: &str) -> Result<Vec<(String, u32)>, PlanError> {
    let mut weights: Vec<(String, u32)> = Vec::new();
    for part in text.split(',') {
        let bad = || PlanError::Weight { part: part.chars().take(40).collect() };
        let (name, weight) = part.split_once('=').ok_or_else(bad)?;
        let (name, weight) = (name.trim(), weight.trim().parse::<u32>().map_err(|_| bad())?);
        let fits =
            (1..=10).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !fits || weight == 0 {
            return Err(bad());
        }
        if weights.iter().any(|(other, _)| other == name) {
            return Err(PlanError::Twice { name: name.to_owned() });
        }
        weights.push((name.to_owned(), weight));
    }
    if weights.len() > PARTS_MAX {
        return Err(PlanError::TooMany { count: weights.len() });
    }
    Ok(weights)
}

/// Why weights make no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not `A=30`.
    #[error(
        "`{part}` is no share: write a key of 1 to 10 letters or digits, `=`, and a whole number above 0"
    )]
    Weight {
        /// What was given.
        part: String,
    },
    /// The same key twice.
    #[error("{name} is given two shares")]
    Twice {
        /// The key.
        name: String,
    },
    /// A key that no user can have.
    #[error("the cluster's keyspace has no partition {name}; there are: {known}")]
    NoSuchPartition {
        /// The key.
        name: String,
        /// Those that there are, as many as an error lists.
        known: String,
    },
    /// More than a plan has.
    #[error("{count} partition keys are more than {PARTS_MAX}")]
    TooMany {
        /// How many were given.
        count: usize,
    },
}
