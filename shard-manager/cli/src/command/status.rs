//! `status`: shows the shards, their nodes and a running router.

use clap::Args;
use model::keyspace::SLOT_COUNT;
use model::topology::{Role, ShardNumber};
use serde::Serialize;
use serde_json::Value;
use sqlite::offline_view::{DirView, Holder, NodeFile};

use super::http_agent::RouterAddress;
use super::router::Router;
use super::{ClusterSource, CommandError};
use crate::terminal::Terminal;

/// Options of `status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  shard-manager status
  shard-manager status --data-dir /var/lib/tessera --json
  shard-manager status --url http://127.0.0.1:3000

Exit code 1: a node is down, or its file is missing or cannot be used. In a stopped cluster a
replica that is missing or behind is not a fault but a note: the next start of the router completes
it.")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    source: ClusterSource,
}

/// State of a cluster.
#[derive(Debug, Serialize)]
struct Status {
    /// True if no node has a fault.
    ok: bool,
    /// Path of the data directory, or URL of the router.
    source: String,
    epoch: u64,
    keyspace: Option<String>,
    placement: Option<String>,
    router: RouterState,
    /// Explanation of the member `bytes` of the nodes.
    bytes_are: &'static str,
    shards: Vec<ShardStatus>,
    /// Remarks about conditions that are not faults, because the next start of a router resolves
    /// them.
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RouterState {
    running: bool,
    pid: Option<String>,
    /// True if the files were closed cleanly; null while a router runs.
    clean: Option<bool>,
}

#[derive(Debug, Serialize)]
struct ShardStatus {
    shard: String,
    /// Number of the shard, which is never given to another one.
    number: u64,
    state: String,
    weight: u64,
    slots: u64,
    nodes: Vec<NodeStatus>,
}

#[derive(Debug, Default, Serialize)]
struct NodeStatus {
    node: String,
    role: String,
    /// True if the node can be used; a node that is not up and has no fault has yet to be created.
    up: bool,
    /// Fault of the node.
    trouble: Option<String>,
    position: Option<u64>,
    /// Number of entries of the primary's change log that the node has not applied; `None` for the
    /// primary, and if a router reports the state.
    lag: Option<u64>,
    /// Time in milliseconds since the node last had all changes of the primary; only a router
    /// reports it.
    lag_ms: Option<f64>,
    rows: Option<i64>,
    bytes: Option<u64>,
}

impl NodeStatus {
    fn is_to_be_made(&self) -> bool {
        !self.up && self.trouble.is_none()
    }

    fn state(&self) -> &'static str {
        if self.is_to_be_made() {
            "to be made"
        } else if self.up {
            "up"
        } else {
            "DOWN"
        }
    }
}

/// Explanation of `bytes` if the command reads the files.
const ON_DISK: &str =
    "on the disk: the whole file and its write-ahead log; GET /api/shards counts pages of tables";
/// Explanation of `bytes` if a router reports the numbers.
const OF_TABLES: &str =
    "pages in use by all tables and their indexes; files on the disk are larger";

/// Shows the state of a cluster.
pub(super) fn run(args: &StatusArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let status = match args.source.router() {
        Some(address) => fetch(&address)?,
        None => look(&DirView::open(&args.source.data_dir()?)?)?,
    };
    let shown = terminal.show(&status, |terminal| text(&status, terminal));
    if status.ok {
        return Ok(shown?);
    }
    let nodes = status.shards.iter().flat_map(|shard| &shard.nodes);
    let down = nodes.filter(|node| node.trouble.is_some()).map(|node| &*node.node);
    let down: Vec<&str> = down.collect();
    // A cluster can have a fault although each of its nodes is up: a shard without a majority.
    let nodes = if down.is_empty() { String::new() } else { format!(": {}", down.join(", ")) };
    Err(CommandError::Found(format!("with faults{nodes}")))
}

fn look(view: &DirView) -> Result<Status, CommandError> {
    let router = match view.holder()? {
        Holder::Process { pid } => RouterState { running: true, pid: Some(pid), clean: None },
        Holder::Free => RouterState { running: false, pid: None, clean: Some(true) },
        Holder::Crashed => RouterState { running: false, pid: None, clean: Some(false) },
    };
    let (running, mut notes) = (router.running, Vec::new());
    let shards = view.map.topology().numbers();
    let shards: Vec<ShardStatus> =
        shards.map(|shard| look_at_shard(view, shard, running, &mut notes)).collect();
    Ok(Status {
        ok: shards.iter().all(|shard| shard.nodes.iter().all(|node| node.trouble.is_none())),
        source: view.path().display().to_string(),
        epoch: view.map.epoch(),
        keyspace: Some(view.map.keyspace().name().to_owned()),
        placement: Some(view.map.placement().name().to_owned()),
        router,
        bytes_are: ON_DISK,
        shards,
        notes,
    })
}

fn look_at_shard(
    view: &DirView,
    shard: ShardNumber,
    running: bool,
    notes: &mut Vec<String>,
) -> ShardStatus {
    let spec = &view.map.topology().shards()[shard.index()];
    let files = view.nodes(shard);
    // Replicas are read before their primary, which may accept writes meanwhile: otherwise a
    // replica could seem to be ahead of it.
    let mut nodes: Vec<NodeStatus> =
        files.iter().rev().map(|file| look_at_node(view, file, running)).collect();
    nodes.reverse();
    let primary = nodes[0].position;
    for node in nodes.iter_mut().skip(1) {
        node.lag = primary.zip(node.position).map(|(primary, own)| primary.saturating_sub(own));
    }
    for (file, node) in files.iter().zip(&nodes).filter(|_| !running) {
        if node.is_to_be_made() {
            notes.push(file.unmade());
        }
        notes.extend(node.lag.filter(|lag| *lag > 0).map(|lag| file.behind(lag)));
    }
    let slots = view.map.slots_of(shard).count() as u64;
    let (number, state) = (u64::from(shard.0), spec.state.name().to_owned());
    let (shard, weight) = (spec.name.clone(), u64::from(spec.weight));
    ShardStatus { shard, number, state, weight, slots, nodes }
}

fn look_at_node(view: &DirView, file: &NodeFile, running: bool) -> NodeStatus {
    let node = NodeStatus {
        node: file.node.clone(),
        role: file.role.name().to_owned(),
        bytes: file.bytes(),
        ..NodeStatus::default()
    };
    let is_no_loss = file.role == Role::Replica || !view.is_made(file.shard);
    let is_expected = running && !view.is_joining(file.shard);
    if node.bytes.is_none() && is_no_loss && !is_expected {
        return node;
    }
    match view.node(file).and_then(|mut node| node.file_state()) {
        Ok(state) => NodeStatus {
            up: true,
            position: Some(state.position.sequence),
            rows: Some(state.rows()),
            ..node
        },
        Err(error) => NodeStatus { trouble: Some(error.to_string()), ..node },
    }
}

fn fetch(address: &RouterAddress) -> Result<Status, CommandError> {
    let router = Router::at(address)?;
    let health = router.get("/api/health", &[])?;
    let shards = router.get("/api/shards", &[])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let shards = list(&shards["shards"]).into_iter().map(|shard| {
        let tables = shard["tables"].as_array();
        let sum = |member: &str| {
            let numbers = tables?.iter().filter_map(|table| table[member].as_i64());
            Some(numbers.sum::<i64>())
        };
        let nodes = list(&shard["nodes"]).into_iter().map(|node| {
            let is_primary = node["role"] == Role::Primary.name();
            let up = node["up"] == true;
            NodeStatus {
                node: text(&node["node"]),
                role: text(&node["role"]),
                up,
                trouble: (!up).then(|| why(&node["reasons"])),
                lag_ms: node["lag"].as_f64(),
                rows: sum("rows").filter(|_| is_primary),
                bytes: sum("bytes").filter(|_| is_primary).map(|bytes| bytes as u64),
                ..NodeStatus::default()
            }
        });
        ShardStatus {
            shard: text(&shard["shard"]),
            number: shard["number"].as_u64().unwrap_or_default(),
            state: text(&shard["state"]),
            weight: shard["weight"].as_u64().unwrap_or_default(),
            slots: shard["slots"].as_u64().unwrap_or_default(),
            nodes: nodes.collect(),
        }
    });
    Ok(Status {
        ok: health["status"] == "ok",
        source: address.url.clone(),
        epoch: health["epoch"].as_u64().unwrap_or_default(),
        keyspace: None,
        placement: None,
        router: RouterState { running: true, pid: None, clean: None },
        bytes_are: OF_TABLES,
        shards: shards.collect(),
        notes: Vec::new(),
    })
}

/// Returns the reasons for which a router considers a node down.
fn why(reasons: &Value) -> String {
    let reported = reasons.as_array().into_iter().flatten();
    let reported: Vec<&str> = reported.filter_map(|reason| reason["detail"].as_str()).collect();
    if reported.is_empty() { "it does not answer".to_owned() } else { reported.join("; ") }
}

fn text(status: &Status, terminal: &Terminal) -> String {
    let router = match &status.router {
        RouterState { running: true, pid: Some(pid), .. } => format!("process {pid} serves it"),
        RouterState { running: true, pid: None, .. } => "serves it".to_owned(),
        RouterState { clean: Some(false), .. } => {
            "none, and the last one did not close its files: the next start checks them".to_owned()
        }
        RouterState { .. } => "none".to_owned(),
    };
    let mut lines = vec![format!("cluster   {}", status.source), format!("router    {router}")];
    if let (Some(keyspace), Some(placement)) = (&status.keyspace, &status.placement) {
        lines.push(format!("keyspace  {keyspace}, placement {placement}"));
    }
    lines.push(format!("epoch     {}", status.epoch));
    lines.push(format!("bytes     {}", status.bytes_are));
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let mut rows = Vec::new();
    let all = slots_of_groups(status.shards.iter().map(|shard| shard.slots).sum());
    for shard in &status.shards {
        let share = 100.0 * shard.slots as f64 / all;
        for node in &shard.nodes {
            let lag = node.lag.map(|entries| entries.to_string());
            let lag = lag.or_else(|| node.lag_ms.map(|lag| format!("{lag} ms")));
            rows.push(vec![
                node.node.clone(),
                node.state().to_owned(),
                format!("{} ({share:.1} %)", shard.slots),
                number(node.position),
                lag.unwrap_or_else(|| "-".to_owned()),
                node.rows.map_or_else(|| "-".to_owned(), |rows| rows.to_string()),
                number(node.bytes),
            ]);
        }
    }
    lines.push(
        terminal.table(&["node", "state", "slots", "position", "lag", "rows", "bytes"], &rows),
    );
    let nodes = status.shards.iter().flat_map(|shard| &shard.nodes);
    lines.extend(
        nodes.filter_map(|node| Some(format!("{}: {}", node.node, node.trouble.as_ref()?))),
    );
    lines.extend(status.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n")
}

/// Returns the number of slots of all table groups, given the number of slots that the listed
/// shards own: that number, rounded up to a multiple of `SLOT_COUNT`, which is the number of slots
/// in one group.
pub(super) fn slots_of_groups(owned: u64) -> f64 {
    let group = u64::from(SLOT_COUNT);
    owned.max(1).next_multiple_of(group) as f64
}
