//! Place: the router or the catalog to which a request about moves goes.
//!
//! The router that `--url` names receives the request over HTTP, and the router that holds the data
//! directory through its socket. Without a router, the moves in the data directory are shown and
//! take orders, and a command that begins a move or waits for one carries it out itself.
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

/// Moves of a cluster.
pub(super) struct MovePlace {
    source: MoveSource,
    flags: PlaceFlags,
    /// The cluster, if this process carries out its moves.
    own: Option<OwnCluster>,
}

enum MoveSource {
    /// Moves of the cluster that a router serves.
    Router(Box<Router>),
    /// Moves in a data directory.
    Files(PathBuf),
}

impl MovePlace {
    /// Returns the place that the flags name.
    pub(super) fn of(source: &ClusterSource) -> Result<Self, CommandError> {
        let flags = source.flags();
        let source = match source.router() {
            Some(address) => MoveSource::Router(Box::new(Router::at(&address)?)),
            None => MoveSource::Files(source.data_dir()?),
        };
        Ok(Self { source, flags, own: None })
    }

    /// Returns the flags that named the place.
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

    /// Returns the effect of a command that waits for a move, as the end of a sentence.
    pub(super) fn effect_of_waiting(&self) -> &'static str {
        if self.is_own() {
            "carries the move out, or the next router does"
        } else {
            "waits for them"
        }
    }

    /// Returns a move.
    pub(super) fn show(&self, id: &str) -> Result<MoveView, CommandError> {
        self.one(MoveCommand::Show { id: id.to_owned() })
    }

    /// Returns a move as shown by the process that carries moves out. A stopped cluster is an
    /// error, because no move in it goes on.
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

    /// Sends a request to the router, or calls `stopped` if the cluster has none.
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

/// Sends a request to a router by HTTP.
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

/// Returns the path of a move, or of an order for it.
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
    /// Returns the request; `None` if only a router can carry it out.
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

/// Reads the moves of a data directory that no router holds, or stores an order for one. Only an
/// order opens the shards, which begins a timeline of each.
fn answer_stopped(data_dir: &Path, command: &MoveCommand) -> Result<Vec<MoveView>, CommandError> {
    // Opening a folder without a cluster would create one.
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
