//! PostgreSQL: the addresses of a cluster's nodes, from variables, flags and the sections of the
//! configuration file.
//!
//! **Invariant:** no server is used for two nodes, no two shards have the same name, and no shown
//! value contains a password.
//! **Not here:** the syntax of an address (`node_address` of the shard manager), the file
//! (`config/file`).

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use analytics::settings::{Origin, Settings, within};
use shard_manager::node_address::{
    ClusterAddress, NodeAddress, NodeDefaults, Password, SYSTEM_ROOTS, ServerEngine, ShardAddress,
    Timeouts, TlsMode,
};
use shard_manager::topology::Topology;

use super::ConfigError;
use super::file::PostgresSection;
use super::sources::{Sources, name_with_origin};

/// Environment variable of libpq with the password for all nodes whose addresses contain none.
const PASSWORD_VARIABLE: &str = "PGPASSWORD";
/// Name of the setting for the maximum size of the database of each shard.
const DISK_BYTES: &str = "shard_disk_bytes";
/// Value of this setting that means that no maximum size is set.
const NONE: &str = "none";

/// Returns the engine of the PostgreSQL servers, or `None` if the configuration chooses embedded
/// shards.
pub(super) fn chosen_server_engine(
    settings: &mut Settings<'_>,
    sources: &Sources,
) -> Result<Option<ServerEngine>, ConfigError> {
    let file = sources.sections.path.display();
    let in_file = |what: &str| format!("{what} (from {file})");
    let shards = (!sources.sections.shards.is_empty()).then(|| in_file("[[shard]]"));
    let named = name_with_origin(settings, "shard_urls").or(shards);
    let engine = settings.optional(
        "engine",
        if named.is_some() { "postgres" } else { "sqlite" },
        |text| match text {
            "sqlite" => Ok(None),
            "postgres" => Ok(Some(ServerEngine::Postgres)),
            "citus" => Ok(Some(ServerEngine::Citus)),
            _ => Err("sqlite, postgres or citus".to_owned()),
        },
    )?;
    let section = sources.sections.postgres.is_some().then(|| in_file("[postgres]"));
    let needs_shards = name_with_origin(settings, "replica_urls")
        .or_else(|| name_with_origin(settings, "maindb_url"))
        .or_else(|| given_disk_bytes(settings))
        .or(section);
    match (engine, named, needs_shards) {
        (Some(None), Some(named), _) | (Some(None), None, Some(named)) => {
            let engine = name_with_origin(settings, "engine").unwrap_or_default();
            Err(ConfigError(format!(
                "{engine} is sqlite, but {named} is about servers of PostgreSQL: leave one of them out"
            )))
        }
        (Some(Some(servers)), None, _) => {
            let engine = name_with_origin(settings, "engine").unwrap_or_default();
            let name = servers.name();
            Err(ConfigError(format!(
                "{engine} is {name}, but no shard is named: set SHARD_URLS, or add [[shard]] to the file"
            )))
        }
        (None, None, Some(other)) => Err(ConfigError(format!(
            "{other} is about servers of PostgreSQL, but no shard is named: set SHARD_URLS, or add [[shard]] to the \
             file"
        ))),
        (Some(Some(servers)), Some(_), _) => Ok(Some(servers)),
        (None, Some(_), _) => Ok(Some(ServerEngine::Postgres)),
        (Some(None) | None, None, None) => Ok(None),
    }
}

/// Returns the addresses of the cluster from all sources, and adds them to the settings that are
/// shown.
pub(super) fn cluster(
    engine: ServerEngine,
    settings: &mut Settings<'_>,
    sources: &Sources,
) -> Result<ClusterAddress, ConfigError> {
    refuse_data_dir(settings)?;
    let section = sources.sections.postgres.as_ref();
    let (defaults, timeouts) = defaults(settings, sources, section)?;
    let shards = match (settings.find("shard_urls"), sources.sections.shards.is_empty()) {
        (Some(_), false) => {
            let given = name_with_origin(settings, "shard_urls").unwrap_or_default();
            let file = sources.sections.path.display();
            return Err(ConfigError(format!(
                "{given} and [[shard]] (from {file}) both name the shards: leave one of them out"
            )));
        }
        (Some(_), true) => list(settings, "shard_urls", &defaults)?.into_iter().map(bare).collect(),
        (None, _) => shards_of_file(settings, sources, &defaults)?,
    };
    if shards.is_empty() || shards.len() > Topology::SHARDS_MAX {
        let given =
            name_with_origin(settings, "shard_urls").unwrap_or_else(|| "[[shard]]".to_owned());
        let (most, count) = (Topology::SHARDS_MAX, shards.len());
        return Err(ConfigError(format!("{given} names {count} shards; there may be 1 to {most}")));
    }
    let replicas = list(settings, "replica_urls", &defaults)?;
    let catalog = catalog(settings, sources, &defaults)?;
    let disk_bytes = disk_bytes(settings, engine)?;
    let cluster = ClusterAddress { engine, shards, replicas, catalog, timeouts, disk_bytes };
    check_names(&cluster)?;
    check_nodes(&cluster)?;
    check_coordinator(&cluster)?;
    Ok(cluster)
}

/// Checks that exactly one address is given for a Citus cluster: that of its coordinator, which
/// knows all other nodes.
fn check_coordinator(cluster: &ClusterAddress) -> Result<(), ConfigError> {
    if cluster.engine != ServerEngine::Citus {
        return Ok(());
    }
    let count = cluster.shards.len();
    let hosts = cluster.shards.first().map_or(0, |shard| shard.primary.hosts.len());
    if count != 1 || hosts != 1 {
        let named = if count == 1 { format!("{hosts} hosts") } else { format!("{count} shards") };
        return Err(ConfigError(format!(
            "engine is citus, and {named} are named: name the coordinator alone; it knows its workers"
        )));
    }
    let own = cluster.shards.iter().any(|shard| !shard.replicas.is_empty());
    if own || !cluster.replicas.is_empty() {
        return Err(ConfigError(
            "engine is citus, and replicas are named: leave them out; what a coordinator's replica shows is older than \
             what the workers hold"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Returns the name of the setting `shard_disk_bytes` with its origin; `None` if it sets no size.
fn given_disk_bytes(settings: &Settings<'_>) -> Option<String> {
    let is_size = settings.find(DISK_BYTES).is_some_and(|(_, text)| text != NONE);
    is_size.then(|| name_with_origin(settings, DISK_BYTES)).flatten()
}

/// Returns the maximum size of the database of each shard, in bytes; `None` if it is not set. With
/// Citus, which places rows itself, a size would have no effect, so it is refused.
fn disk_bytes(
    settings: &mut Settings<'_>,
    engine: ServerEngine,
) -> Result<Option<u64>, ConfigError> {
    match (engine, given_disk_bytes(settings)) {
        (ServerEngine::Citus, Some(given)) => Err(ConfigError(format!(
            "engine is citus, and {given} is set: leave it out; Citus places rows itself"
        ))),
        (ServerEngine::Citus, None) | (ServerEngine::Postgres, _) => {
            let least = ClusterAddress::DISK_BYTES_LEAST as usize;
            let most = ClusterAddress::DISK_BYTES_MOST as usize;
            settings.parse(DISK_BYTES, NONE, |text| match text {
                NONE => Ok(None),
                _ => within(text, least, most)
                    .map(|bytes| Some(bytes as u64))
                    .map_err(|allowed| format!("{allowed}, or none")),
            })
        }
    }
}

fn bare(primary: NodeAddress) -> ShardAddress {
    ShardAddress { name: None, weight: None, primary, replicas: Vec::new() }
}

fn refuse_data_dir(settings: &Settings<'_>) -> Result<(), ConfigError> {
    let Some(given) = name_with_origin(settings, "data_dir") else { return Ok(()) };
    let urls = name_with_origin(settings, "shard_urls").unwrap_or_else(|| "[[shard]]".to_owned());
    Err(ConfigError(format!(
        "{given} is a folder of embedded shards, {urls} names servers of PostgreSQL: leave one of them out"
    )))
}

/// Returns the settings that apply to all nodes, from `[postgres]`, with the password from a file
/// or an environment variable.
fn defaults(
    settings: &mut Settings<'_>,
    sources: &Sources,
    section: Option<&PostgresSection>,
) -> Result<(NodeDefaults, Timeouts), ConfigError> {
    let file = || Origin::File(sources.sections.path.clone());
    let text = |name: &str| section.and_then(|section| section.texts.get(name).cloned());
    let mut timeouts = Timeouts::default();
    let given = section.and_then(|section| section.connect_timeout_ms);
    timeouts.connect = given.map_or(timeouts.connect, Duration::from_millis);
    let mut show = |name: &str, value: Option<String>, default: &str| {
        let origin = if value.is_some() { file() } else { Origin::Default };
        let value = value.unwrap_or_else(|| default.to_owned());
        settings.show(format!("postgres.{name}"), value, origin);
    };
    let wait = timeouts.connect.as_millis().to_string();
    show("connect_timeout_ms", given.map(|given| given.to_string()), &wait);
    show("user", text("user"), "that of the URL");
    let password = match (text("password_file"), text("password_env")) {
        (Some(_), Some(_)) => {
            return Err(ConfigError(format!(
                "postgres.password_file and postgres.password_env (from {}): leave one of them out",
                file()
            )));
        }
        (Some(path), None) => {
            let read = Password::from_file(Path::new(&path));
            show("password_file", Some(path), "");
            let bad =
                |error| ConfigError(format!("postgres.password_file (from {}): {error}", file()));
            Some(read.map_err(bad)?)
        }
        (None, Some(name)) => {
            let value = sources.variable(&name).ok_or_else(|| {
                ConfigError(format!(
                    "postgres.password_env (from {}) is `{name}`, a variable that is not set",
                    file()
                ))
            })?;
            show("password_env", Some(name), "");
            Some(Password::new(value))
        }
        (None, None) => {
            let value = sources.variable(PASSWORD_VARIABLE);
            let state = if value.is_some() { "set" } else { "not set" };
            show("password_env", None, &format!("{PASSWORD_VARIABLE} ({state})"));
            value.map(Password::new)
        }
    };
    let is_system = text("sslrootcert").is_some_and(|path| path == SYSTEM_ROOTS);
    let tls = text("sslmode").map(|name| tls_mode(&name, is_system, &file())).transpose()?;
    let default = if is_system { "verify-full" } else { "verify-full; on this machine prefer" };
    show("sslmode", text("sslmode"), default);
    show("sslrootcert", text("sslrootcert"), "those of the system");
    let root_certificates = text("sslrootcert").map(Into::into);
    Ok((NodeDefaults { user: text("user"), password, tls, root_certificates }, timeouts))
}

/// Returns the TLS mode that `postgres.sslmode` names. `is_system` is true if
/// `postgres.sslrootcert` names the root certificates of the operating system. Modes that do not
/// always verify the server, and would thus not use these certificates, are then refused.
fn tls_mode(name: &str, is_system: bool, origin: &Origin) -> Result<TlsMode, ConfigError> {
    let bad =
        |allowed: &str| ConfigError(format!("postgres.sslmode (from {origin}) must be {allowed}"));
    let modes = || format!("one of {}", TlsMode::ALL.map(TlsMode::name).join(", "));
    let tls = TlsMode::find(name).ok_or_else(|| bad(&modes()))?;
    if is_system && !tls.always_verifies() {
        return Err(bad("verify-ca or verify-full where postgres.sslrootcert is system"));
    }
    Ok(tls)
}

/// Parses a list of addresses that are separated by commas. The hosts within one address are
/// separated by commas too.
fn list(
    settings: &mut Settings<'_>,
    name: &'static str,
    defaults: &NodeDefaults,
) -> Result<Vec<NodeAddress>, ConfigError> {
    let Some((origin, text)) = settings.find(name) else {
        if name != "shard_urls" {
            settings.show(name, "none".to_owned(), Origin::Default);
        }
        return Ok(Vec::new());
    };
    let given = name_with_origin(settings, name).unwrap_or_default();
    let mut addresses = Vec::new();
    for (number, url) in (1..).zip(split(&text)) {
        let address = NodeAddress::parse(url, defaults);
        let bad = |error| ConfigError(format!("{given}, the address number {number}: {error}"));
        addresses.push(address.map_err(bad)?);
    }
    settings.show(name, spelled(&addresses), origin);
    Ok(addresses)
}

/// Splits a list at the commas that are followed by an address.
fn split(text: &str) -> Vec<&str> {
    let begins = |rest: &str| rest.starts_with("postgres://") || rest.starts_with("postgresql://");
    let mut parts = Vec::new();
    let mut start = 0;
    for (comma, _) in text.match_indices(',') {
        if begins(text[comma + 1..].trim_start()) {
            parts.push(text[start..comma].trim());
            start = comma + 1;
        }
    }
    parts.push(text[start..].trim().trim_end_matches(','));
    parts.retain(|part| !part.is_empty());
    parts
}

fn spelled(addresses: &[NodeAddress]) -> String {
    match addresses {
        [] => "none".to_owned(),
        some => some.iter().map(NodeAddress::redacted).collect::<Vec<_>>().join(","),
    }
}

fn shards_of_file(
    settings: &mut Settings<'_>,
    sources: &Sources,
    defaults: &NodeDefaults,
) -> Result<Vec<ShardAddress>, ConfigError> {
    let origin = Origin::File(sources.sections.path.clone());
    let parse = |at: String, url: &str| {
        let bad = |error| ConfigError(format!("{at} (from {origin}): {error}"));
        NodeAddress::parse(url, defaults).map_err(bad)
    };
    let mut shards = Vec::new();
    for (number, section) in (1..).zip(&sources.sections.shards) {
        let at = format!("shard[{number}]");
        let primary = parse(format!("{at}.primary"), &section.primary)?;
        let mut replicas = Vec::new();
        for (number, url) in (1..).zip(&section.replicas) {
            replicas.push(parse(format!("{at}.replicas[{number}]"), url)?);
        }
        if replicas.len() > Topology::REPLICAS_MAX {
            let most = Topology::REPLICAS_MAX;
            return Err(ConfigError(format!(
                "{at}.replicas (from {origin}) must be at most {most}"
            )));
        }
        let name_origin = if section.name.is_some() { origin.clone() } else { Origin::Default };
        let weight_origin = if section.weight.is_some() { origin.clone() } else { Origin::Default };
        let name = section.name.clone().unwrap_or_else(|| format!("shard{number}"));
        settings.show(format!("{at}.name"), name, name_origin);
        settings.show(
            format!("{at}.weight"),
            section.weight.unwrap_or(1).to_string(),
            weight_origin,
        );
        settings.show(format!("{at}.primary"), primary.redacted(), origin.clone());
        settings.show(format!("{at}.replicas"), spelled(&replicas), origin.clone());
        let (name, weight) = (section.name.clone(), section.weight);
        shards.push(ShardAddress { name, weight, primary, replicas });
    }
    Ok(shards)
}

fn catalog(
    settings: &mut Settings<'_>,
    sources: &Sources,
    defaults: &NodeDefaults,
) -> Result<Option<NodeAddress>, ConfigError> {
    let section = sources.sections.postgres.as_ref();
    let in_file = section.and_then(|section| section.catalog.clone());
    let name = "maindb_url";
    let (origin, text, what) = match (settings.find(name), in_file) {
        (Some((Origin::File(path), _)), Some(_)) => {
            return Err(ConfigError(format!(
                "{name} and postgres.catalog (from {}): leave one of them out",
                path.display()
            )));
        }
        (Some((origin, text)), _) => {
            (origin, text, name_with_origin(settings, name).unwrap_or_default())
        }
        (None, Some(text)) => {
            let origin = Origin::File(sources.sections.path.clone());
            let what = format!("postgres.catalog.url (from {origin})");
            (origin, text, what)
        }
        (None, None) => {
            settings.show(name, "that of the first shard".to_owned(), Origin::Default);
            return Ok(None);
        }
    };
    let address = NodeAddress::parse(&text, defaults)
        .map_err(|error| ConfigError(format!("{what}: {error}")))?;
    settings.show(name, address.redacted(), origin);
    Ok(Some(address))
}

fn check_names(cluster: &ClusterAddress) -> Result<(), ConfigError> {
    let mut names = HashSet::new();
    for (number, shard) in (1..).zip(&cluster.shards) {
        let name = shard.name.clone().unwrap_or_else(|| format!("shard{number}"));
        if let Some(name) = names.replace(name) {
            return Err(ConfigError(format!("two shards are called {name}")));
        }
    }
    Ok(())
}

/// Refuses a server that is named twice. The only exception: if the address of a primary has
/// several hosts, a replica of the shard may be one of them, because only one host is the primary
/// at a time.
fn check_nodes(cluster: &ClusterAddress) -> Result<(), ConfigError> {
    let mut nodes: Vec<(Option<usize>, bool, &NodeAddress)> = Vec::new();
    for (index, shard) in cluster.shards.iter().enumerate() {
        nodes.push((Some(index), true, &shard.primary));
        nodes.extend(shard.replicas.iter().map(|replica| (Some(index), false, replica)));
    }
    nodes.extend(cluster.replicas.iter().map(|replica| (None, false, replica)));
    for (place, (shard, is_primary, node)) in nodes.iter().enumerate() {
        for (other_shard, other_is_primary, other) in &nodes[..place] {
            let same_shard = shard == other_shard || shard.is_none() || other_shard.is_none();
            let primary = [(is_primary, node), (other_is_primary, other)]
                .into_iter()
                .find_map(|(is_primary, node)| is_primary.then_some(node));
            let may_be = same_shard
                && is_primary != other_is_primary
                && primary.is_some_and(|primary| primary.hosts.len() > 1);
            if node.overlaps(other) && !may_be {
                return Err(ConfigError(format!("{node} and {other} are one server, named twice")));
            }
        }
    }
    Ok(())
}

/// Refuses settings for the number of shards or replicas that differ from the number of addresses.
pub(super) fn check_counts(
    settings: &Settings<'_>,
    cluster: &ClusterAddress,
    shards: Option<usize>,
    replicas: Option<usize>,
) -> Result<(), ConfigError> {
    let count = cluster.shards.len();
    let refuse = |name: &str, number: usize, found: usize, what: &str| {
        let given = name_with_origin(settings, name).unwrap_or_default();
        ConfigError(format!("{given} says {number}, but {found} {what} are named: leave it out"))
    };
    if let Some(said) = shards.filter(|said| *said != count) {
        return Err(refuse("shards", said, count, "shards"));
    }
    let own: usize = cluster.shards.iter().map(|shard| shard.replicas.len()).sum();
    let found = own + cluster.replicas.len();
    match replicas {
        Some(said) if said * count != found => Err(refuse("replicas", said, found, "replicas")),
        Some(_) | None => Ok(()),
    }
}

/// Returns the weights of the shards, 1 for a shard without one; `None` if no shard has a weight.
pub(super) fn weights(
    settings: &Settings<'_>,
    cluster: &ClusterAddress,
) -> Result<Option<Vec<u32>>, ConfigError> {
    let weights = cluster.shards.iter().map(|shard| shard.weight);
    if weights.clone().all(|weight| weight.is_none()) {
        return Ok(None);
    }
    if let Some(given) = name_with_origin(settings, "weights") {
        return Err(ConfigError(format!(
            "{given} and the weights of [[shard]] say the same thing: leave one of them out"
        )));
    }
    Ok(Some(weights.map(|weight| weight.unwrap_or(1)).collect()))
}
