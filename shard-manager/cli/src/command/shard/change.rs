//! Change: lets a shard join, gives it another weight, empties it, or retires it.
//!
//! The router that `--url` names makes the change, or else the process that holds the data
//! directory. If no process holds the directory, the command opens it and makes the change itself.
//!
//! **Invariant:** no URL with a password is accepted, because other users of the machine can see
//! command lines.
//! **Not here:** the steps of a change (`cluster`).

use std::path::Path;
use std::time::{Duration, Instant};

use assembly::EmbeddedCluster;
use clap::Args;
use cluster::manager::{Manager, ShardChangeError};
use engine::cluster_spec::ClusterSpec;
use engine::new_shard::NewShard;
use engine::refusal_code::with_code;
use model::topology::Topology;
use serde_json::{Value, json};
use sqlite::control::ShardRequest;
use sqlite::control::client::{ControlError, change_shards};
use sqlite::offline_view::DirView;

use super::super::access::with_runtime;
use super::super::place_flags::PlaceFlags;
use super::super::rebalance::{self, HowArgs};
use super::super::router::Router;
use super::super::{ClusterSource, CommandError};
use crate::terminal::Terminal;

pub(super) const ADD_EXAMPLES: &str = "\
The shard has no slots at first. The command can be repeated: it goes on where it was interrupted.

Examples:
  shard-manager shard add shard4
  shard-manager shard add shard4 --database postgres://db4:5432/app --url http://127.0.0.1:3000";
pub(super) const WEIGHT_EXAMPLES: &str = "\
Example:
  shard-manager shard weight shard4 2";
pub(super) const REMOVE_EXAMPLES: &str = "\
The files or the database of the shard stay as they are. Its number is never used again.

Example:
  shard-manager shard remove shard4";

pub(super) const DRAIN_EXAMPLES: &str = "\
A router carries the drain out: `shard-manager rebalance` shows it and takes orders for it. The
shard retires when its slots are kept no longer: --keep 0 lets it retire at once.

Examples:
  shard-manager shard drain shard4 --dry-run
  shard-manager shard drain shard4 --wait --keep 0 --url http://127.0.0.1:3000";
/// Time limit for a shard to join, if this command opens the data directory itself.
const CHANGE_MAX: Duration = Duration::from_secs(60);

/// Shard that joins, on the command line.
#[derive(Args, Clone, Debug)]
pub(super) struct AddArgs {
    /// Name of the shard: a letter, then letters, digits, - and _
    name: String,
    /// Relative share of the slots, from 0
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = parse_weight)]
    weight: u32,
    /// Empty database of a PostgreSQL server, without user and password
    #[arg(long, value_name = "URL", requires = "url")]
    database: Option<String>,
    #[command(flatten)]
    source: ClusterSource,
}

/// Weight of a shard, on the command line.
#[derive(Args, Clone, Debug)]
pub(super) struct WeightArgs {
    /// Name of the shard
    name: String,
    /// Relative share of the slots, from 0
    #[arg(value_parser = parse_weight)]
    weight: u32,
    #[command(flatten)]
    source: ClusterSource,
}

/// Parses the weight of a shard.
fn parse_weight(text: &str) -> Result<u32, String> {
    let most = Topology::WEIGHT_MAX;
    let weight = text.parse::<u32>().ok().filter(|weight| *weight <= most);
    weight.ok_or_else(|| format!("weight must be a whole number from 0 to {most}"))
}

/// Shard that retires, on the command line.
#[derive(Args, Clone, Debug)]
pub(super) struct RemoveArgs {
    /// Name of the shard, which owns no slots
    name: String,
    #[command(flatten)]
    source: ClusterSource,
}

/// Shard that is emptied, on the command line.
#[derive(Args, Clone, Debug)]
pub(super) struct DrainArgs {
    /// Name of the shard
    name: String,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    source: ClusterSource,
}

pub(super) fn add(args: &AddArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let AddArgs { name, weight, database, source } = args;
    let (name, weight, url) = (name.clone(), *weight, database.clone());
    let shown = (json!({"joined": name, "weight": weight}), format!("{name} has joined"));
    change(source, ShardRequest::Join { name, weight, url })?;
    Ok(terminal.show(&shown.0, |_| shown.1)?)
}

pub(super) fn weigh(args: &WeightArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let (name, weight) = (args.name.clone(), args.weight);
    let line = format!("{name} has the weight {weight}; its slots stay where they are");
    let document = json!({"shard": name, "weight": weight});
    change(&args.source, ShardRequest::Weight { name, weight })?;
    Ok(terminal.show(&document, |_| line)?)
}

pub(super) fn remove(args: &RemoveArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let name = args.name.clone();
    let (document, line) = (json!({"retired": name}), format!("{name} has retired"));
    change(&args.source, ShardRequest::Remove { name })?;
    Ok(terminal.show(&document, |_| line)?)
}

pub(super) fn drain(args: &DrainArgs, terminal: &Terminal) -> Result<(), CommandError> {
    rebalance::drain(&args.source, args.name.clone(), &args.how, terminal)
}

fn change(source: &ClusterSource, change: ShardRequest) -> Result<(), CommandError> {
    if let Some(router) = source.router() {
        return through(&Router::at(&router)?, &change, &source.flags());
    }
    let data_dir = source.data_dir()?;
    match change_shards(&data_dir, change.clone()) {
        Ok(()) => Ok(()),
        Err(ControlError::NoListener) => change_stopped(&data_dir, change),
        Err(error) => Err(CommandError::Refused(error.to_string())),
    }
}

/// Sends a change over HTTP to the router that these flags name.
fn through(router: &Router, change: &ShardRequest, flags: &PlaceFlags) -> Result<(), CommandError> {
    let answered = match change {
        ShardRequest::Join { name, weight, url } => {
            let mut shard = json!({"name": name, "weight": weight});
            if let Some(url) = url {
                shard["url"] = Value::from(url.as_str());
            }
            router.post("/api/shards", &shard)
        }
        ShardRequest::Weight { name, weight } => {
            router.patch(&path(name)?, &json!({"weight": weight}))
        }
        ShardRequest::Remove { name } => router.delete(&path(name)?),
    };
    let state = answered?["state"].clone();
    if matches!(change, ShardRequest::Join { .. }) && state != "serving" {
        let list = format!("`shard-manager shard list{flags}`");
        let line = format!("the shard is joining: {list} shows its state");
        return Err(CommandError::Refused(line));
    }
    Ok(())
}

/// Returns the URL path of a shard.
fn path(name: &str) -> Result<String, CommandError> {
    if !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    {
        return Ok(format!("/api/shards/{name}"));
    }
    Err(CommandError::Refused(format!("the cluster has no shard `{name}`")))
}

/// Changes the shards of a data directory that no router holds.
fn change_stopped(data_dir: &Path, change: ShardRequest) -> Result<(), CommandError> {
    // This fails for a folder without a cluster; `open` and `open_primaries` would create one.
    DirView::open(data_dir)?;
    let cluster = EmbeddedCluster { data_dir: data_dir.to_owned(), wanted: ClusterSpec::default() };
    let manager = assembly::open_primaries(&cluster)?;
    let changed = with_runtime(async {
        let changed = change_open(&manager, change).await;
        changed.map_err(|error| CommandError::Refused(with_code(&error, error.code())))
    });
    manager.close();
    changed
}

async fn change_open(manager: &Manager, change: ShardRequest) -> Result<(), ShardChangeError> {
    let shards = manager.shards();
    match change {
        ShardRequest::Join { name, weight, url } => {
            let shard = NewShard { name, weight, url };
            shards.join(shard, None, Instant::now() + CHANGE_MAX).await.map(drop)
        }
        ShardRequest::Weight { name, weight } => {
            shards.set_weight(&name, weight, None).await.map(drop)
        }
        ShardRequest::Remove { name } => shards.remove(&name, None).await.map(drop),
    }
}
