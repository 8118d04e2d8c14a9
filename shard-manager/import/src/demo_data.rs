//! Demo data: any number of users and orders, equal for equal seeds.
//!
//! Each row is a function of the plan and of its number alone: rows can be generated in any order,
//! by any number of threads, repeatedly after a failure, and without a list of them.
//!
//! Ids have the form that the cluster's keyspace requires: `user_A_17`, or `A:user_17` in a list,
//! `17` in numeric ranges, `@user_A_17:s3.example.org` in a matrix. In a keyspace by a column they
//! are `user_A_17`.
//!
//! **Invariant:** ids and e-mail addresses of users are unique; an order has the shard key of its
//! user; every id has a slot in the keyspace for which it was generated.
//! **Not here:** storing the rows (the root of this package, the command line).

use std::str::FromStr;

use model::keyspace::list::NAMES_SHOWN_MAX;
use model::keyspace::{Keyspace, ShardKey};
use model::value::{Value, push_json_number, push_json_string};

/// Column of a user's partition key.
const PARTITION_KEY: &str = "partition_key";
/// Default shares of the users of each partition key.
pub const WEIGHTS_DEFAULT: &str = "A=30,B=20,C=15,D=25,E=10";
/// Maximal number of partition keys.
const PARTS_MAX: usize = 64;
/// Maximal number of users of one plan: with their orders they are numbered in 64 bits.
pub const USERS_MAX: u64 = 1 << 40;
/// Number of servers that users have in a matrix keyspace.
const SERVERS: u64 = 100;
/// Maximal number of orders of one user.
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

/// Specification of demo data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoSpec {
    /// Number of users, at most [`USERS_MAX`].
    pub users: u64,
    /// Shares of the partition keys; default: [`WEIGHTS_DEFAULT`], or those of the keyspace.
    pub weights: Option<Weights>,
    /// Number of orders of each user.
    pub orders_per_user: u32,
    /// Seed; another seed yields other rows.
    pub seed: u64,
}

/// Shares of partition keys, such as `A=30,B=20`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights(Vec<(String, u32)>);

/// Plan of the rows for one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    parts: Vec<PartitionUsers>,
    /// Number of the first user after each part.
    ends: Vec<u64>,
    ids: Ids,
    /// Number of orders of each user.
    pub orders_per_user: u32,
    /// Seed; another seed yields other rows.
    pub seed: u64,
}

/// Form of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ids {
    /// Form `user_A_17`.
    Plain,
    /// Form `17`, numbered over all parts.
    Integer,
    /// Form `A:user_17`.
    Partition,
    /// Form `@user_A_17:s3.example.org`.
    Matrix,
}

impl Ids {
    fn of(keyspace: &Keyspace) -> Self {
        match keyspace {
            _ if keyspace.column().is_some() => Self::Plain,
            Keyspace::Hash | Keyspace::Modulo => Self::Plain,
            Keyspace::List(_) => Self::Partition,
            Keyspace::Matrix(_) => Self::Matrix,
            Keyspace::Range(_) => {
                // Ranges of text have a slot for any key.
                let plain =
                    ShardKey::parse("user_A_0").is_ok_and(|key| keyspace.slot_of(key).is_ok());
                if plain { Self::Plain } else { Self::Integer }
            }
        }
    }
}

/// Users of one partition key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionUsers {
    /// Partition key.
    pub name: String,
    /// Number of its users.
    pub users: u64,
}

/// User, with a pseudo-random number from which its names and its orders are derived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoUser<'p> {
    partition: &'p str,
    number: u64,
    /// Shard key of all its rows.
    pub id: String,
    chance: u64,
}

/// Row as columns and values.
pub type DemoRow = Vec<(&'static str, Value)>;

impl Plan {
    /// Creates a plan for a cluster of this keyspace.
    ///
    /// # Errors
    /// [`PlanError`] if the weights do not fit the keyspace.
    pub fn new(spec: &DemoSpec, keyspace: &Keyspace) -> Result<Self, PlanError> {
        let DemoSpec { users, orders_per_user, seed, .. } = *spec;
        let weights = weights_of(spec, keyspace)?;
        let total: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut parts = Vec::with_capacity(weights.len());
        let mut ends = Vec::with_capacity(weights.len());
        let (mut passed, mut given) = (0, 0);
        for (name, weight) in weights {
            passed += u64::from(weight);
            // Running sums: the total is exact, and each share is off by less than one.
            let until = (u128::from(users) * u128::from(passed) / u128::from(total)) as u64;
            parts.push(PartitionUsers { name, users: until - given });
            ends.push(until);
            given = until;
        }
        Ok(Self { parts, ends, ids: Ids::of(keyspace), orders_per_user, seed })
    }

    /// Returns the users of each partition key.
    pub fn parts(&self) -> &[PartitionUsers] {
        &self.parts
    }

    /// Returns the number of users.
    pub fn users(&self) -> u64 {
        self.ends.last().copied().unwrap_or_default()
    }

    /// Returns the number of rows, orders included.
    pub fn rows(&self) -> u64 {
        self.users().saturating_mul(1 + u64::from(self.orders_per_user))
    }

    /// Returns the user with this number, `0..users()`; `None` if there are fewer users.
    pub fn user(&self, number: u64) -> Option<DemoUser<'_>> {
        let index = self.ends.partition_point(|end| *end <= number);
        let PartitionUsers { name, users } = self.parts.get(index)?;
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

    /// Returns the user's row in the table `users`.
    pub fn row(&self) -> DemoRow {
        let (first, last) = self.names();
        vec![
            ("user_id", Value::Text(self.id.clone())),
            ("name", Value::Text(format!("{first} {last}"))),
            ("email", Value::Text(self.email())),
            (PARTITION_KEY, Value::Text(self.partition.to_owned())),
        ]
    }

    /// Returns the user's e-mail address. Users are numbered per partition, so the address contains
    /// the partition key with its case: `a` and `A` differ.
    fn email(&self) -> String {
        let (first, last) = self.names();
        let name = format!("{first}.{last}").to_ascii_lowercase();
        format!("{name}.{}.{}@example.com", self.partition, self.number)
    }

    /// Returns the user's rows in the table `orders`.
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

/// Mixes a number with the finaliser of SplitMix64 (Steele, Lea and Flood, 2014): similar inputs
/// give unrelated outputs.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Returns the requested shares, or by default the weights of the partitions of a `list` keyspace,
/// and elsewhere [`WEIGHTS_DEFAULT`]. In a `list` keyspace, only its partitions can be requested.
fn weights_of(spec: &DemoSpec, keyspace: &Keyspace) -> Result<Vec<(String, u32)>, PlanError> {
    let given = spec.weights.as_ref().map(|Weights(weights)| weights.clone());
    // The partition of a user is named by its id, or by this column.
    let names_users = |column: &str| column == PARTITION_KEY;
    let list = match keyspace {
        Keyspace::List(list) if keyspace.column().is_none_or(names_users) => list,
        Keyspace::Hash
        | Keyspace::Modulo
        | Keyspace::Range(_)
        | Keyspace::List(_)
        | Keyspace::Matrix(_) => {
            return given.map_or_else(|| parse_weights(WEIGHTS_DEFAULT), Ok);
        }
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

/// Reason why no plan can be created from the weights.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A share is not of the form `A=30`.
    #[error(
        "`{part}` is not a share: write a key of 1 to 10 letters or digits, `=`, and a whole number above 0"
    )]
    Weight {
        /// Text of the share.
        part: String,
    },
    /// A key has two shares.
    #[error("{name} is given two shares")]
    Twice {
        /// Partition key.
        name: String,
    },
    /// The keyspace has no such partition.
    #[error("the cluster's keyspace has no partition {name}; there are: {known}")]
    NoSuchPartition {
        /// Partition key.
        name: String,
        /// Partitions of the keyspace, as many as an error lists.
        known: String,
    },
    /// There are too many partition keys.
    #[error("{count} partition keys are more than {PARTS_MAX}")]
    TooMany {
        /// Number of partition keys.
        count: usize,
    },
}
