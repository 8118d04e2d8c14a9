//! `lab strategies`: compares every keyspace and placement on the same keys.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use ::lab::key_set::{KEYS_MAX, KeyKind, LabKeys};
use ::lab::strategies::{StrategiesOptions, run as carry_out};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use model::keyspace::{Keyspace, ShardKey};
use model::topology::Topology;

use super::Common;
use crate::command::CommandError;
use crate::command::atomic_file::refused;
use crate::command::keys::Keys;
use crate::terminal::Terminal;

pub(super) const EXAMPLES: &str = "\
Each set of keys is tried in every keyspace that has a slot for all of its keys, and with every
placement. Skew is what the fullest shard has, as a multiple of its fair share: 1 is even. Moved are
the keys that change shards when a shard is added, when the last one is removed, and when the weight
of the first one is doubled.

Examples:
  shard-manager lab strategies
  shard-manager lab strategies --set matrix --set tenants --keys 1000000
  shard-manager lab strategies --keys-file user_ids.txt --keyspace range:1000,2000 --report ./out";

#[derive(Args, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    common: Common,
    /// Number of keys of each generated set
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    keys: u64,
    /// Kind of keys to generate [default: all, or none with --keys-file]
    #[arg(long, value_name = "KIND")]
    set: Vec<Kind>,
    /// Also try the keys of this file, one per line
    #[arg(long, value_name = "FILE")]
    keys_file: Option<PathBuf>,
    /// Also try this keyspace on the keys of the file
    #[arg(long, value_name = "KEYSPACE", requires = "keys_file")]
    keyspace: Vec<Keyspace>,
    /// Number of shards
    #[arg(long, value_name = "N", default_value_t = 3, conflicts_with = "weights")]
    shards: usize,
    /// Weight of each shard
    #[arg(long, value_name = "W,W,…", value_delimiter = ',')]
    weights: Option<Vec<u32>>,
}

/// Kind of keys, on the command line.
#[derive(Clone, Copy, Debug)]
struct Kind(KeyKind);

impl ValueEnum for Kind {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Kind; 4] = [
            Kind(KeyKind::Matrix),
            Kind(KeyKind::Numeric),
            Kind(KeyKind::Tenants),
            Kind(KeyKind::HotEnd),
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self.0 {
            KeyKind::Matrix => "ids of Matrix users, most of them on a few servers",
            KeyKind::Numeric => "consecutive numbers",
            KeyKind::Tenants => "users of tenants, most of them of a few tenants",
            KeyKind::HotEnd => "numbers of a range, most of them near its end",
        };
        Some(PossibleValue::new(self.0.name()).help(help))
    }
}

pub(super) fn run(options: Options, terminal: &Terminal) -> Result<(), CommandError> {
    if options.shards > Topology::SHARDS_MAX {
        // This number is refused before a weight is stored for each shard.
        let (most, count) = (Topology::SHARDS_MAX, options.shards);
        return Err(CommandError::Refused(format!("there may be 1 to {most} shards, not {count}")));
    }
    let own_keys = options.keys_file.as_deref().map(read).transpose()?;
    let mut kinds: Vec<KeyKind> = options.set.iter().map(|kind| kind.0).collect();
    if kinds.is_empty() && own_keys.is_none() {
        kinds = KeyKind::ALL.to_vec();
    }
    let wanted = StrategiesOptions {
        kinds,
        own_keys,
        keys: options.keys,
        weights: options.weights.unwrap_or_else(|| vec![1; options.shards]),
        keyspaces: options.keyspace,
        seed: options.common.seed,
    };
    options.common.carry_out(terminal, |watcher| Ok(carry_out(&wanted, watcher)?))
}

/// Reads the keys of a file.
fn read(file: &Path) -> Result<LabKeys, CommandError> {
    let opened = File::open(file).map_err(|error| refused(file, &error))?;
    let mut lines = Keys::new(file.display(), BufReader::new(opened));
    let mut keys = Vec::new();
    while let Some(key) = lines.next()? {
        ShardKey::parse(&key).map_err(|error| lines.refused(&error))?;
        if keys.len() as u64 == KEYS_MAX {
            let line = format!("the lab accepts at most {KEYS_MAX} keys; provide fewer");
            return Err(lines.refused(&line));
        }
        keys.push(key);
    }
    if keys.is_empty() {
        return Err(refused(file, &"it holds no keys"));
    }
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    Ok(LabKeys { name, keys })
}
