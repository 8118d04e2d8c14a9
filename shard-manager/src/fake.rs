//! Fake users and orders: as many as are wanted, the same ones for the same seed.
//!
//! Each row is a function of the plan and of its number alone: so they can be made in any order, by any number of
//! threads, again after a failure, and without a list of them.
//!
//! **Invariant:** no two users have the same id or the same e-mail; an order lies under the key of its user.
//! **Not here:** where they go (`fill`, the command line).

use crate::value::{Value, push_json_number, push_json_string};

/// Shares of the users of each partition key when nobody says others.
pub const WEIGHTS_DEFAULT: &str = "A=30,B=20,C=15,D=25,E=10";
/// Partition keys of one plan.
const PARTS_MAX: usize = 64;
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

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    parts: Vec<Part>,
    /// How many orders each user has.
    pub orders_per_user: u32,
    /// Another seed makes other rows.
    pub seed: u64,
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
pub struct FakeUser<'p> {
    partition: &'p str,
    number: u64,
    /// `user_A_17`: the shard key of all its rows.
    pub id: String,
    chance: u64,
}

/// A row as columns and values.
pub type FakeRow = Vec<(&'static str, Value)>;

impl Plan {
    /// A plan for so many users, shared out by weights such as `A=30,B=20`.
    ///
    /// # Errors
    /// [`PlanError`] names what is wrong with the weights.
    pub fn new(
        users: u64,
        weights: &str,
        orders_per_user: u32,
        seed: u64,
    ) -> Result<Self, PlanError> {
        let weights = parse_weights(weights)?;
        let total: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut parts = Vec::with_capacity(weights.len());
        let (mut passed, mut given) = (0, 0);
        for (name, weight) in weights {
            passed += u64::from(weight);
            // By running sums: so the shares are exact together, and each is off by less than one.
            let until = (u128::from(users) * u128::from(passed) / u128::from(total)) as u64;
            parts.push(Part { name, users: until - given });
            given = until;
        }
        Ok(Self { parts, orders_per_user, seed })
    }

    /// The users of each partition key.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// How many users there are.
    pub fn users(&self) -> u64 {
        self.parts.iter().map(|part| part.users).sum()
    }

    /// How many rows there are, orders included.
    pub fn rows(&self) -> u64 {
        self.users() * (1 + u64::from(self.orders_per_user))
    }

    /// The user of this number, `0..users()`; `None` beyond.
    pub fn user(&self, number: u64) -> Option<FakeUser<'_>> {
        let mut number = number;
        for (index, part) in (0_u64..).zip(&self.parts) {
            if number < part.users {
                let chance = mix(mix(self.seed ^ mix(index)) ^ number);
                let id = format!("user_{}_{number}", part.name);
                return Some(FakeUser { partition: &part.name, number, id, chance });
            }
            number -= part.users;
        }
        None
    }
}

impl FakeUser<'_> {
    fn names(&self) -> (&'static str, &'static str) {
        let first = FIRST_NAMES[(self.chance & 15) as usize];
        (first, LAST_NAMES[((self.chance >> 4) & 15) as usize])
    }

    /// Its row of `users`.
    pub fn row(&self) -> FakeRow {
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
    pub fn orders(&self, plan: &Plan) -> impl Iterator<Item = FakeRow> {
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
pub fn push_line(out: &mut Vec<u8>, row: &FakeRow) {
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
    /// More than a plan has.
    #[error("{count} partition keys are more than {PARTS_MAX}")]
    TooMany {
        /// How many were given.
        count: usize,
    },
}
