//! Place: the router or data directory to which a command about rebalances sends its request.
//!
//! With `--url`, the request is sent to that router over HTTP. Otherwise it is sent to the control
//! socket of the process that holds the data directory. If no process holds the directory, the
//! command reads it to show or plan rebalances, and a command that begins a rebalance, gives it an
//! order or waits for it opens the cluster and carries the rebalance out itself.
//!
//! **Not here:** the output (`rebalance`), carrying rebalances out (`own_cluster`).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assembly::EmbeddedCluster;
use cluster::manager::StoppedPlans;
use engine::cluster_spec::ClusterSpec;
use engine::rebalance_record::RebalanceId;
use engine::rebalance_view::{PlanView, RebalanceView};
use engine::refusal_code::with_code;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sqlite::control::client::{ControlError, command_rebalances};
use sqlite::control::rebalance_command::{RebalanceCommand, RebalanceWish};
use sqlite::offline_lists::{listed_rebalance, listed_rebalances};
use sqlite::offline_view::DirView;

pub(super) use sqlite::control::client::RebalanceAnswer;

use super::super::access::with_runtime;
use super::super::own_cluster::OwnCluster;
use super::super::place_flags::PlaceFlags;
use super::super::router::Router;
use super::super::{ClusterSource, CommandError};

/// Time limit for planning a rebalance of a cluster that no router serves.
const PLAN_MAX: Duration = Duration::from_secs(30);

/// Access to the rebalances of a cluster.
pub(in crate::command) struct RebalancePlace {
    source: RebalanceSource,
    flags: PlaceFlags,
    /// The opened cluster, if this process carries out its rebalances.
    own: Option<OwnCluster>,
}

enum RebalanceSource {
    /// A router, which serves the cluster.
    Router(Box<Router>),
    /// A data directory.
    Files(PathBuf),
}

impl RebalancePlace {
    /// Creates the place that the flags name.
    pub(super) fn of(source: &ClusterSource) -> Result<Self, CommandError> {
        let flags = source.flags();
        let source = match source.router() {
            Some(address) => RebalanceSource::Router(Box::new(Router::at(&address)?)),
            None => RebalanceSource::Files(source.data_dir()?),
        };
        Ok(Self { source, flags, own: None })
    }

    /// Returns the flags that named the place, for follow-up commands that messages suggest.
    pub(super) fn flags(&self) -> &PlaceFlags {
        &self.flags
    }

    /// Carries out the rebalances of a data directory in this process if no router serves it, until
    /// the place is dropped.
    ///
    /// # Errors
    /// [`CommandError`] if there is no cluster, or it cannot be opened.
    pub(super) fn serve_if_stopped(&mut self) -> Result<(), CommandError> {
        if let RebalanceSource::Files(data_dir) = &self.source {
            self.own = OwnCluster::open_unless_served(data_dir)?;
        }
        Ok(())
    }

    /// Returns true if this process carries out the rebalances.
    pub(super) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Returns the plan for a rebalance. Nothing begins.
    pub(super) fn plan(&self, wish: RebalanceWish) -> Result<PlanView, CommandError> {
        match self.send(RebalanceCommand::Plan(wish))? {
            RebalanceAnswer::Plan(plan) => Ok(*plan),
            RebalanceAnswer::Rebalances(_) => Err(unreadable(&"it is not a plan")),
        }
    }

    /// Returns the rebalance with this id.
    pub(super) fn show(&self, id: &str) -> Result<RebalanceView, CommandError> {
        self.one(RebalanceCommand::Show { id: id.to_owned() })
    }

    /// Returns the rebalance with this id, as the process that carries out rebalances shows it. If
    /// there is no such process, this is an error, because the rebalance makes no progress then.
    pub(super) fn poll(&self, id: &str) -> Result<RebalanceView, CommandError> {
        let command = RebalanceCommand::Show { id: id.to_owned() };
        first(self.request(command, |data_dir, _| Err(no_router(data_dir)))?)
    }

    /// Returns the listed rebalances.
    pub(super) fn list(&self) -> Result<Vec<RebalanceView>, CommandError> {
        match self.send(RebalanceCommand::List)? {
            RebalanceAnswer::Rebalances(views) => Ok(views),
            RebalanceAnswer::Plan(_) => Err(unreadable(&"it is a plan")),
        }
    }

    /// Sends a request about one rebalance, and returns that rebalance.
    pub(super) fn one(&self, command: RebalanceCommand) -> Result<RebalanceView, CommandError> {
        first(self.send(command)?)
    }

    /// Sends a request.
    pub(super) fn send(&self, command: RebalanceCommand) -> Result<RebalanceAnswer, CommandError> {
        self.request(command, read_stopped)
    }

    /// Sends a request to the router, or calls `stopped` if no process holds the data directory.
    fn request(
        &self,
        command: RebalanceCommand,
        stopped: impl FnOnce(&Path, &RebalanceCommand) -> Result<RebalanceAnswer, CommandError>,
    ) -> Result<RebalanceAnswer, CommandError> {
        match &self.source {
            RebalanceSource::Router(router) => through(router, command),
            RebalanceSource::Files(data_dir) => match command_rebalances(data_dir, command.clone())
            {
                Ok(answer) => Ok(answer),
                Err(ControlError::NoListener) => stopped(data_dir, &command),
                Err(error) => Err(CommandError::Refused(error.to_string())),
            },
        }
    }
}

/// Returns the error for an id that no rebalance has.
pub(super) fn no_rebalance() -> CommandError {
    CommandError::Refused("there is no such rebalance (TSR336)".to_owned())
}

fn no_router(data_dir: &Path) -> CommandError {
    let dir = data_dir.display();
    CommandError::Refused(format!(
        "no router serves {dir}: start one, which carries rebalances out"
    ))
}

/// Returns the first rebalance of a response.
fn first(answer: RebalanceAnswer) -> Result<RebalanceView, CommandError> {
    match answer {
        RebalanceAnswer::Rebalances(views) => views.into_iter().next().ok_or_else(no_rebalance),
        RebalanceAnswer::Plan(_) => Err(unreadable(&"it is a plan")),
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> CommandError {
    CommandError::Refused(format!("this is not the response of a router: {error}"))
}

fn read<T: DeserializeOwned>(answer: Value) -> Result<T, CommandError> {
    serde_json::from_value(answer).map_err(|error| unreadable(&error))
}

/// Sends a request to a router over HTTP.
fn through(router: &Router, command: RebalanceCommand) -> Result<RebalanceAnswer, CommandError> {
    let one = |answer: Value| Ok(RebalanceAnswer::Rebalances(vec![read(answer)?]));
    match command {
        RebalanceCommand::Plan(wish) => {
            let answer = router.post(&path_of(&wish)?, &body(&wish, true))?;
            Ok(RebalanceAnswer::Plan(read(answer)?))
        }
        RebalanceCommand::Begin(wish) => {
            let (path, body) = (path_of(&wish)?, body(&wish, false));
            let answer = match wish.epoch {
                Some(epoch) => router.post_if(&path, &body, &format!("\"{epoch}\""))?,
                None => router.post(&path, &body)?,
            };
            // If no slot has to move, nothing begins, and the response is the plan.
            if answer.get("id").is_none() {
                return Ok(RebalanceAnswer::Plan(read(answer)?));
            }
            one(answer)
        }
        RebalanceCommand::Order { id, order } => {
            one(router.post(&format!("{}/{order}", path(&id)?), &json!({}))?)
        }
        RebalanceCommand::Show { id } => one(router.get(&path(&id)?, &[])?),
        RebalanceCommand::List => {
            let answer = router.get("/api/rebalance", &[])?;
            Ok(RebalanceAnswer::Rebalances(read(answer["rebalances"].clone())?))
        }
    }
}

/// Returns the URL path of a request that plans or begins a rebalance.
fn path_of(wish: &RebalanceWish) -> Result<String, CommandError> {
    match &wish.drain {
        None => Ok("/api/rebalance".to_owned()),
        Some(name) if is_name(name) => Ok(format!("/api/shards/{name}/drain")),
        Some(name) => {
            Err(CommandError::Refused(format!("the cluster has no shard `{name}` (TSR320)")))
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn body(wish: &RebalanceWish, dry_run: bool) -> Value {
    let mut body = json!({"dry_run": dry_run});
    let given = [
        ("by", wish.by.clone().map(Value::from)),
        ("placement", wish.placement.clone().map(Value::from)),
        ("group", wish.group.clone().map(Value::from)),
        ("rate", wish.rate.map(Value::from)),
        ("keep", wish.keep.map(Value::from)),
    ];
    for (member, value) in given {
        if let Some(value) = value {
            body[member] = value;
        }
    }
    body
}

/// Returns the URL path of a rebalance.
fn path(id: &str) -> Result<String, CommandError> {
    if !is_name(id) {
        return Err(no_rebalance());
    }
    Ok(format!("/api/rebalance/{id}"))
}

/// Reads the rebalances of a data directory that no router holds, or plans a rebalance. The shards
/// are opened only for a plan, because opening a shard begins a new timeline of it.
fn read_stopped(
    data_dir: &Path,
    command: &RebalanceCommand,
) -> Result<RebalanceAnswer, CommandError> {
    // This fails for a folder without a cluster; `open` and `open_primaries` would create one.
    let view = DirView::open(data_dir)?;
    let views = match command {
        RebalanceCommand::Begin(_) | RebalanceCommand::Order { .. } => {
            return Err(no_router(data_dir));
        }
        RebalanceCommand::Plan(wish) => return plan_stopped(data_dir, wish),
        RebalanceCommand::List => listed_rebalances(&view)?,
        RebalanceCommand::Show { id } => match RebalanceId::parse(id) {
            Some(id) => listed_rebalance(&view, id)?.into_iter().collect(),
            None => Vec::new(),
        },
    };
    Ok(RebalanceAnswer::Rebalances(views))
}

/// Plans a rebalance of a data directory that no router holds.
fn plan_stopped(data_dir: &Path, wish: &RebalanceWish) -> Result<RebalanceAnswer, CommandError> {
    let draft = wish.draft().map_err(CommandError::Refused)?;
    let cluster = EmbeddedCluster { data_dir: data_dir.to_owned(), wanted: ClusterSpec::default() };
    let manager = assembly::open_primaries(&cluster)?;
    let plan = with_runtime(async {
        let plans = StoppedPlans::of(&manager);
        let plan = plans.plan(&draft, wish.epoch, Instant::now() + PLAN_MAX).await;
        plan.map_err(|error| CommandError::Refused(with_code(&error, error.code())))
    });
    manager.close();
    Ok(RebalanceAnswer::Plan(Box::new(plan?)))
}
