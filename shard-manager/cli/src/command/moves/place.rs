//! Place: the router or data directory to which a command about moves sends its request.
//!
//! With `--url`, the request is sent to that router over HTTP. Otherwise it is sent to the control
//! socket of the process that holds the data directory. If no process holds the directory, the
//! command reads the moves in its catalog or stores an order there, and a command that begins a
//! move or waits for one opens the cluster and carries the move out itself.
//!
//! **Not here:** the output (`moves`), carrying moves out (`own_cluster`).

use std::path::{Path, PathBuf};

use assembly::EmbeddedCluster;
use engine::cluster_spec::ClusterSpec;
use engine::move_record::{MoveOrder, parse_move_name};
use engine::move_view::MoveView;
use engine::refusal_code::with_code;
use moves::identity::MoveId;
use serde_json::{Value, json};
use sqlite::control::client::{ControlError, command_moves};
use sqlite::control::move_command::MoveCommand;
use sqlite::offline_lists::{listed_move, listed_moves};
use sqlite::offline_view::DirView;

use super::super::access::with_runtime;
use super::super::own_cluster::OwnCluster;
use super::super::place_flags::PlaceFlags;
use super::super::router::Router;
use super::super::{ClusterSource, CommandError};

/// Access to the moves of a cluster.
pub(super) struct MovePlace {
    source: MoveSource,
    flags: PlaceFlags,
    /// The opened cluster, if this process carries out its moves.
    own: Option<OwnCluster>,
}

enum MoveSource {
    /// A router, which serves the cluster.
    Router(Box<Router>),
    /// A data directory.
    Files(PathBuf),
}

impl MovePlace {
    /// Creates the place that the flags name.
    pub(super) fn of(source: &ClusterSource) -> Result<Self, CommandError> {
        let flags = source.flags();
        let source = match source.router() {
            Some(address) => MoveSource::Router(Box::new(Router::at(&address)?)),
            None => MoveSource::Files(source.data_dir()?),
        };
        Ok(Self { source, flags, own: None })
    }

    /// Returns the flags that named the place, for follow-up commands that messages suggest.
    pub(super) fn flags(&self) -> &PlaceFlags {
        &self.flags
    }

    /// Carries out the moves of a data directory in this process if no router serves it, until the
    /// place is dropped.
    ///
    /// # Errors
    /// [`CommandError`] if there is no cluster, or it cannot be opened.
    pub(super) fn serve_if_stopped(&mut self) -> Result<(), CommandError> {
        if let MoveSource::Files(data_dir) = &self.source {
            self.own = OwnCluster::open_unless_served(data_dir)?;
        }
        Ok(())
    }

    /// Returns true if this process carries out the moves.
    pub(super) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Returns the effect that `move wait` has, as the end of a sentence about that command.
    pub(super) fn effect_of_waiting(&self) -> &'static str {
        if self.is_own() {
            "carries the move out, or the next router does"
        } else {
            "waits for them"
        }
    }

    /// Returns the move with this id.
    pub(super) fn show(&self, id: &str) -> Result<MoveView, CommandError> {
        self.one(MoveCommand::Show { id: id.to_owned() })
    }

    /// Returns the move with this id, as the process that carries out moves shows it. If there is
    /// no such process, this is an error, because the move makes no progress then.
    pub(super) fn poll(&self, id: &str) -> Result<MoveView, CommandError> {
        let command = MoveCommand::Show { id: id.to_owned() };
        let moves = self.request(command, |data_dir, _| Err(no_router(data_dir)))?;
        moves.into_iter().next().ok_or_else(no_move)
    }

    /// Sends a request about one move, and returns that move.
    pub(super) fn one(&self, command: MoveCommand) -> Result<MoveView, CommandError> {
        self.send(command)?.into_iter().next().ok_or_else(no_move)
    }

    /// Sends a request, and returns the moves that it concerns.
    pub(super) fn send(&self, command: MoveCommand) -> Result<Vec<MoveView>, CommandError> {
        self.request(command, answer_stopped)
    }

    /// Sends a request to the router, or calls `stopped` if no process holds the data directory.
    fn request(
        &self,
        command: MoveCommand,
        stopped: impl FnOnce(&Path, &MoveCommand) -> Result<Vec<MoveView>, CommandError>,
    ) -> Result<Vec<MoveView>, CommandError> {
        match &self.source {
            MoveSource::Router(router) => through(router, command),
            MoveSource::Files(data_dir) => match command_moves(data_dir, command.clone()) {
                Ok(moves) => Ok(moves),
                Err(ControlError::NoListener) => stopped(data_dir, &command),
                Err(error) => Err(CommandError::Refused(error.to_string())),
            },
        }
    }
}

fn no_move() -> CommandError {
    CommandError::Refused("there is no such move (TSR331)".to_owned())
}

fn no_router(data_dir: &Path) -> CommandError {
    let dir = data_dir.display();
    CommandError::Refused(format!("no router serves {dir}: start one, which carries moves out"))
}

/// Sends a request to a router over HTTP.
fn through(router: &Router, command: MoveCommand) -> Result<Vec<MoveView>, CommandError> {
    let none = json!({});
    let answer = match command {
        MoveCommand::Begin { slots, key, table, partition, from, to, rate, keep } => {
            let mut body = json!({"to": to});
            let given = [
                ("slots", slots.map(Value::from)),
                ("key", key.map(Value::from)),
                ("table", table.map(Value::from)),
                ("partition", partition.map(Value::from)),
                ("from", from.map(Value::from)),
                ("rate", rate.map(Value::from)),
                ("keep", keep.map(Value::from)),
            ];
            for (member, value) in given {
                if let Some(value) = value {
                    body[member] = value;
                }
            }
            router.post("/api/moves", &body)
        }
        MoveCommand::Order { id, order } => router.post(&path(&id, &order)?, &none),
        MoveCommand::Retry { id } => router.post(&path(&id, "retry")?, &none),
        MoveCommand::Show { id } => router.get(&path(&id, "")?, &[]),
        MoveCommand::List => router.get("/api/moves", &[]),
    }?;
    let moves = match answer.get("moves") {
        Some(moves) => moves.clone(),
        None => Value::Array(vec![answer]),
    };
    serde_json::from_value(moves).map_err(|error| {
        CommandError::Refused(format!("this is not the response of a router: {error}"))
    })
}

/// Returns the URL path of a move or, unless `order` is empty, of that order for the move.
fn path(id: &str, order: &str) -> Result<String, CommandError> {
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
        return Err(no_move());
    }
    Ok(if order.is_empty() {
        format!("/api/moves/{id}")
    } else {
        format!("/api/moves/{id}/{order}")
    })
}

/// Request about the moves of a data directory that no router holds.
enum StoppedRequest {
    List,
    Show(MoveId),
    Order(MoveId, MoveOrder),
}

impl StoppedRequest {
    /// Converts a command to such a request; returns `None` if only a process that carries out
    /// moves can do it.
    fn of(command: &MoveCommand) -> Result<Option<Self>, CommandError> {
        let identity = |id: &String| parse_move_name(id).ok_or_else(no_move);
        Ok(match command {
            MoveCommand::List => Some(Self::List),
            MoveCommand::Show { id } => Some(Self::Show(identity(id)?)),
            MoveCommand::Order { id, order } => {
                let identity = identity(id)?;
                MoveOrder::parse(order).map(|order| Self::Order(identity, order))
            }
            MoveCommand::Begin { .. } | MoveCommand::Retry { .. } => None,
        })
    }
}

/// Reads the moves of a data directory that no router holds, or stores an order for a move. The
/// shards are opened only for an order, because opening a shard begins a new timeline of it.
fn answer_stopped(data_dir: &Path, command: &MoveCommand) -> Result<Vec<MoveView>, CommandError> {
    // This fails for a folder without a cluster; `open` and `open_primaries` would create one.
    let view = DirView::open(data_dir)?;
    match StoppedRequest::of(command)? {
        None => Err(no_router(data_dir)),
        Some(StoppedRequest::List) => Ok(listed_moves(&view)?),
        Some(StoppedRequest::Show(id)) => Ok(listed_move(&view, id)?.into_iter().collect()),
        Some(StoppedRequest::Order(id, order)) => Ok(vec![order_stopped(data_dir, id, order)?]),
    }
}

/// Stores an order for a move of a data directory that no router holds.
fn order_stopped(data_dir: &Path, id: MoveId, order: MoveOrder) -> Result<MoveView, CommandError> {
    let cluster = EmbeddedCluster { data_dir: data_dir.to_owned(), wanted: ClusterSpec::default() };
    let manager = assembly::open_primaries(&cluster)?;
    let ordered = with_runtime(async {
        let ordered = manager.moves().order(id, order).await;
        let shown = ordered.map(|record| manager.moves().view(&record));
        shown.map_err(|error| CommandError::Refused(with_code(&error, error.code())))
    });
    manager.close();
    ordered
}
