//! Cluster: the servers of a local cluster, each behind a proxy. `shard-manager cluster` creates,
//! stops and promotes them.
//!
//! **Invariant:** at most one node is faulty at a time, and a node is stopped, frozen or cut off
//! only in shards of three or more nodes. If this process or a command ends early, the nodes keep
//! running.
//! **Not here:** stopping and promoting nodes, which `shard-manager cluster` does.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;

use super::new_databases::ShardServers;
use super::proxy::{Proxy, ProxyState};
use super::schedule::FaultAction;
use super::urls::{endpoints, rewritten};
use crate::fault_kind::FaultKind;

/// Minimum number of nodes of a shard: with fewer, one node that is down would leave no majority.
const NODES_MIN: usize = 3;
/// Maximum number of attempts to start or thaw all nodes if this program ends during a fault.
const MENDS_MAX: u32 = 20;
const MEND_PAUSE: Duration = Duration::from_millis(250);
/// Name of the file in the cluster's directory that contains the environment variables for a
/// router.
const ENVIRONMENT: &str = "tessera.env";

/// Failure to inject or to end a fault in the cluster. It is a failure of the tester and proves
/// nothing about the router.
#[derive(Debug)]
pub(crate) struct ClusterError(String);

impl ClusterError {
    /// Creates the error with this message.
    pub(super) fn new(reason: String) -> Self {
        Self(reason)
    }
}

impl std::fmt::Display for ClusterError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for ClusterError {}

/// The servers of a local cluster.
pub(super) struct Cluster {
    commands: Commands,
    /// Names of the nodes, and the proxies in front of them.
    pub(super) names: Vec<String>,
    proxies: Vec<Proxy>,
    pub(super) shards: Vec<String>,
    environment: Vec<(String, String)>,
    /// Servers of each shard.
    servers: Vec<ShardServers>,
    is_broken: bool,
}

/// Program that created the cluster (`shard-manager`), and the cluster's directory.
#[derive(Clone)]
struct Commands {
    program: PathBuf,
    dir: PathBuf,
}

/// Members of the cluster's status that are used here.
#[derive(Deserialize)]
struct Shown {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    node: String,
    role: String,
    state: String,
    port: u16,
}

impl Node {
    /// Returns the name of the node's shard, such as `shard1` for the node `shard1-replica2`.
    fn shard(&self) -> &str {
        self.node.split('-').next().unwrap_or_default()
    }

    fn is_primary(&self) -> bool {
        self.role == "primary"
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_broken {
            // A frozen server would stay frozen after the end of this program, so all nodes are
            // repaired first. The attempt is repeated, because another command may still be running
            // and must end first.
            for _ in 0..MENDS_MAX {
                if self.commands.mend().is_ok() {
                    return;
                }
                std::thread::sleep(MEND_PAUSE);
            }
        }
    }
}

impl Cluster {
    /// Opens a running cluster, and puts a proxy in front of each node.
    ///
    /// # Errors
    /// Fails if the cluster is not running, or is too small for these faults.
    pub(super) async fn open(
        program: PathBuf,
        dir: &Path,
        kinds: &[FaultKind],
    ) -> anyhow::Result<Self> {
        let dir = std::fs::canonicalize(dir)
            .with_context(|| format!("there is no cluster in {}", dir.display()))?;
        let commands = Commands { program, dir };
        let nodes = commands.nodes()?;
        if let Some(down) = nodes.iter().find(|node| node.state != "running") {
            anyhow::bail!(
                "{} is {}: the cluster must be up before it is broken; `shard-manager cluster up --dir {}`",
                down.node,
                down.state,
                commands.dir.display()
            );
        }
        let mut shards: Vec<String> = nodes.iter().map(|node| node.shard().to_owned()).collect();
        shards.dedup();
        for shard in &shards {
            let count = nodes.iter().filter(|node| node.shard() == shard).count();
            anyhow::ensure!(
                count >= NODES_MIN || !kinds.iter().any(|kind| kind.breaks_a_node()),
                "{shard} has {count} nodes, so one of them is not a minority: make the cluster with --replicas 2, or \
                 choose other --faults"
            );
        }
        let path = commands.dir.join(ENVIRONMENT);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let mut proxies = Vec::with_capacity(nodes.len());
        for node in &nodes {
            let server = SocketAddr::from((Ipv4Addr::LOCALHOST, node.port));
            proxies.push(Proxy::open(server).await?);
        }
        let other = |port: u16| {
            let at = nodes.iter().position(|node| node.port == port)?;
            Some(proxies[at].port())
        };
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let mut environment = Vec::new();
        for (name, value) in lines {
            let value = value.trim_matches(['\'', '"']);
            for (host, port) in endpoints(value) {
                anyhow::ensure!(
                    other(port).is_some(),
                    "{}: {host}:{port} is not a node of this cluster",
                    path.display()
                );
            }
            environment.push((name.to_owned(), rewritten(value, |_, port| other(port))));
        }
        let servers = servers(&shards, &nodes, &proxies, &text);
        let names = nodes.into_iter().map(|node| node.node).collect();
        Ok(Self { commands, names, proxies, shards, environment, servers, is_broken: false })
    }

    /// Returns the environment variables for a router, which reaches the servers through the
    /// proxies.
    pub(super) fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Returns the servers of each shard, with the user and password to connect to them.
    pub(super) fn servers(&self) -> Vec<ShardServers> {
        self.servers.clone()
    }

    /// Injects a fault into a node, and ends the fault after `lasts`.
    pub(super) async fn break_node(
        &mut self,
        node: usize,
        action: FaultAction,
        lasts: Duration,
    ) -> anyhow::Result<()> {
        self.is_broken = true;
        let proxy = &self.proxies[node];
        let state = match action {
            FaultAction::Stop | FaultAction::Freeze => None,
            FaultAction::Cut => Some(ProxyState::Cut),
            FaultAction::HalfOpen => Some(ProxyState::HalfOpen),
            FaultAction::Slow(by) => Some(ProxyState::Slow(by)),
        };
        if let Some(state) = state {
            proxy.set(state);
            tokio::time::sleep(lasts).await;
            proxy.set(ProxyState::Open);
        } else {
            let name = self.names[node].clone();
            self.make_unavailable(&name, action).await?;
            tokio::time::sleep(lasts).await;
            let verb = if action == FaultAction::Freeze { "thaw" } else { "start" };
            self.run(&[verb, &name]).await?;
        }
        self.is_broken = false;
        Ok(())
    }

    /// Makes the proxy of a shard's primary lose responses, and returns in words how many were
    /// lost.
    pub(super) async fn lose_answers(
        &mut self,
        shard: usize,
        count: u32,
        lasts: Duration,
    ) -> anyhow::Result<String> {
        let primary = self.primary(shard).await?;
        let at = self.names.iter().position(|name| *name == primary).unwrap_or_default();
        let proxy = &self.proxies[at];
        proxy.lose(count);
        tokio::time::sleep(lasts).await;
        proxy.set(ProxyState::Open);
        Ok(format!("{} lost", count - proxy.left_to_lose()))
    }

    /// Stops or freezes the primary of a shard, promotes the best replica after half of `lasts`,
    /// and lets the old primary rejoin when `lasts` has passed. Returns a sentence with the names
    /// of both primaries.
    pub(super) async fn promote(
        &mut self,
        shard: usize,
        gone: FaultAction,
        lasts: Duration,
    ) -> anyhow::Result<String> {
        self.is_broken = true;
        let old = self.primary(shard).await?;
        self.make_unavailable(&old, gone).await?;
        tokio::time::sleep(lasts / 2).await;
        let name = self.shards[shard].clone();
        self.run(&["promote", "--best", &name]).await?;
        let new = self.primary(shard).await?;
        tokio::time::sleep(lasts / 2).await;
        self.run(&["rejoin", &old]).await?;
        self.is_broken = false;
        Ok(format!("{new} took over from {old}, which follows it"))
    }

    /// Repairs all nodes after any kind of fault: afterwards they run, and replicas follow their
    /// primary.
    pub(super) async fn mend(&mut self) -> anyhow::Result<()> {
        for proxy in &self.proxies {
            proxy.set(ProxyState::Open);
        }
        let commands = self.commands.clone();
        tokio::task::spawn_blocking(move || commands.mend()).await??;
        self.is_broken = false;
        Ok(())
    }

    async fn make_unavailable(&self, node: &str, action: FaultAction) -> anyhow::Result<()> {
        match action {
            FaultAction::Freeze => self.run(&["freeze", node]).await,
            FaultAction::Stop | FaultAction::Cut | FaultAction::HalfOpen | FaultAction::Slow(_) => {
                self.run(&["stop", node, "--immediate"]).await
            }
        }
    }

    async fn primary(&self, shard: usize) -> anyhow::Result<String> {
        let commands = self.commands.clone();
        let nodes = tokio::task::spawn_blocking(move || commands.nodes()).await??;
        let name = &self.shards[shard];
        let primary = nodes.into_iter().find(|node| node.shard() == name && node.is_primary());
        primary
            .map(|node| node.node)
            .with_context(|| ClusterError(format!("{name} has no primary")))
    }

    async fn run(&self, words: &[&str]) -> anyhow::Result<()> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let commands = self.commands.clone();
        tokio::task::spawn_blocking(move || {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            commands.run(&words).map(drop)
        })
        .await?
    }
}

impl Commands {
    fn call(&self, words: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.program);
        command.arg("cluster").args(words).args(["--json", "--dir"]).arg(&self.dir);
        command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("{} cannot be started", self.program.display()))
    }

    fn run(&self, words: &[&str]) -> anyhow::Result<Output> {
        let ended = self.call(words)?;
        let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
        let what = || format!("shard-manager cluster {}: {said}", words.join(" "));
        anyhow::ensure!(ended.status.success(), ClusterError(what()));
        Ok(ended)
    }

    fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        // The command fails if a node does not run, but it prints the JSON document in any case.
        let ended = self.call(&["status"])?;
        let shown: Result<Shown, _> = serde_json::from_slice(&ended.stdout);
        let said = || ClusterError(String::from_utf8_lossy(&ended.stderr).trim().to_owned());
        Ok(shown.with_context(said)?.nodes)
    }

    /// Starts or thaws all nodes, and lets replicas rejoin; primaries are started first, because
    /// replicas need a primary to follow.
    fn mend(&self) -> anyhow::Result<()> {
        let mut nodes = self.nodes()?;
        nodes.sort_by_key(|node| !node.is_primary());
        for node in &nodes {
            match (node.is_primary(), &*node.state) {
                (true, "running") => {}
                (true, _) => self.run(&["start", &node.node]).map(drop)?,
                // If the node follows its primary already, the command only checks this.
                (false, _) => self.run(&["rejoin", &node.node]).map(drop)?,
            }
        }
        Ok(())
    }
}

/// Returns the servers of each shard, with the user and password that the environment variables
/// contain.
fn servers(
    shards: &[String],
    nodes: &[Node],
    proxies: &[Proxy],
    environment: &str,
) -> Vec<ShardServers> {
    let after_scheme = environment.split("://").nth(1).unwrap_or_default();
    let credentials = after_scheme.split('@').next().unwrap_or_default().to_owned();
    let servers = shards.iter().map(|shard| {
        let mut own: Vec<(&Node, &Proxy)> =
            nodes.iter().zip(proxies).filter(|(node, _)| node.shard() == shard).collect();
        own.sort_by_key(|(node, _)| !node.is_primary());
        let hosts = own.iter().map(|(_, proxy)| format!("127.0.0.1:{}", proxy.port()));
        let direct = own.iter().map(|(node, _)| format!("127.0.0.1:{}", node.port));
        ShardServers {
            credentials: credentials.clone(),
            hosts: hosts.collect(),
            direct: direct.collect(),
        }
    });
    servers.collect()
}

/// Returns the path of `shard-manager`: the given path, or a program beside this one, or one in
/// `PATH`.
///
/// # Errors
/// Fails if the program does not exist.
pub(super) fn program(given: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    const NAME: &str = "shard-manager";
    let own = std::env::current_exe().context("the path of this program is unknown")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::iter::once(own.with_file_name(NAME))
        .chain(std::env::split_paths(&path).map(|folder| folder.join(NAME)));
    let found = match given {
        Some(given) => Some(given.clone()).filter(|path| path.is_file()),
        None => places.into_iter().find(|path| path.is_file()),
    };
    found.with_context(|| {
        let named = given.map_or_else(String::new, |given| format!(" at {}", given.display()));
        format!(
            "there is no {NAME}{named}: build one with `cargo build --release -p {NAME}`, or name it with --{NAME}"
        )
    })
}
