//! `route`: where keys live.

use std::io::{BufRead, BufWriter, Write};

use clap::Args;
use serde::Serialize;
use shard_manager::keyspace::ShardKey;
use shard_manager::store::sqlite::view::DirView;

use super::router::Router;
use super::{Source, Trouble};
use crate::screen::{Screen, Unwritten};

/// Which keys.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  shard-manager route user_123 user_124
  cut -d, -f1 users.csv | shard-manager route -
  shard-manager route user_123 --url http://127.0.0.1:3000 --json")]
pub(super) struct RouteArgs {
    /// Shard keys; `-` reads them from standard input, one a line
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    #[command(flatten)]
    source: Source,
}

/// Where a key lives.
#[derive(Debug, Serialize)]
struct Routed {
    key: String,
    slot: u64,
    shard: String,
    primary: String,
    replicas: Vec<String>,
    epoch: u64,
}

enum Map {
    Files(DirView),
    Router(Router),
}

/// Tells where keys live.
pub(super) fn run(args: &RouteArgs, screen: &Screen) -> Result<(), Trouble> {
    let map = match &args.source.url {
        Some(url) => Map::Router(Router::at(url)),
        None => Map::Files(DirView::open(&args.source.place.data_dir)?),
    };
    if args.keys.iter().any(|key| key == "-") {
        return stream(&map, &args.keys, screen);
    }
    let routed: Result<Vec<Routed>, Trouble> = args.keys.iter().map(|key| map.route(key)).collect();
    let routed = routed?;
    let shown = screen.show(&routed, |screen| {
        let rows: Vec<Vec<String>> = routed.iter().map(Routed::cells).collect();
        screen.table(&HEADS, &rows)
    });
    Ok(shown?)
}

/// There may be any number of keys: each is told as it comes.
fn stream(map: &Map, keys: &[String], screen: &Screen) -> Result<(), Trouble> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut told = 0_u64;
    let mut tell = |routed: &Routed| {
        let json = screen.is_json();
        let written = match (json, told) {
            (true, 0) => out.write_all(b"["),
            (true, _) => out.write_all(b",\n"),
            (false, 0) => writeln!(out, "{}", HEADS.join("\t")),
            (false, _) => Ok(()),
        };
        told += 1;
        let line = if json {
            serde_json::to_string(routed).unwrap_or_default()
        } else {
            routed.cells().join("\t") + "\n"
        };
        Ok::<(), Trouble>(written.and_then(|()| out.write_all(line.as_bytes())).map_err(Unwritten)?)
    };
    for key in keys {
        if key != "-" {
            tell(&map.route(key)?)?;
            continue;
        }
        for line in std::io::stdin().lock().lines() {
            let line =
                line.map_err(|error| Trouble::Refused(format!("standard input: {error}")))?;
            let key = line.strip_suffix('\r').unwrap_or(&line);
            if !key.is_empty() {
                tell(&map.route(key)?)?;
            }
        }
    }
    let end: &[u8] = match (screen.is_json(), told) {
        (true, 0) => b"[]\n",
        (true, _) => b"]\n",
        (false, _) => b"",
    };
    Ok(out.write_all(end).and_then(|()| out.flush()).map_err(Unwritten)?)
}

const HEADS: [&str; 5] = ["key", "slot", "shard", "primary", "replicas"];

impl Routed {
    fn cells(&self) -> Vec<String> {
        let Self { key, slot, shard, primary, replicas, .. } = self;
        let replicas = if replicas.is_empty() { "-".to_owned() } else { replicas.join(",") };
        vec![key.clone(), slot.to_string(), shard.clone(), primary.clone(), replicas]
    }
}

impl Map {
    fn route(&self, key: &str) -> Result<Routed, Trouble> {
        let told = |error: &dyn std::fmt::Display| {
            Trouble::Refused(format!("key `{}`: {error}", key.escape_debug()))
        };
        let parsed = ShardKey::parse(key).map_err(|error| told(&error))?;
        match self {
            Self::Files(view) => {
                let place = view.map.place(parsed).map_err(|error| told(&error))?;
                let mut nodes = view.nodes(place.shard).into_iter().map(|file| file.node);
                Ok(Routed {
                    key: key.to_owned(),
                    slot: u64::from(place.slot.number()),
                    shard: view.map.topology().name(place.shard).to_owned(),
                    primary: nodes.next().unwrap_or_default(),
                    replicas: nodes.collect(),
                    epoch: place.epoch,
                })
            }
            Self::Router(router) => {
                let answer = router.get("/api/route", &[("key", key)])?;
                let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
                let named = |member: &str| text(&answer[member]).unwrap_or_default();
                let replicas = answer["replicas"].as_array().into_iter().flatten();
                Ok(Routed {
                    key: key.to_owned(),
                    slot: answer["slot"].as_u64().unwrap_or_default(),
                    shard: named("shard"),
                    primary: named("primary"),
                    replicas: replicas.filter_map(text).collect(),
                    epoch: answer["epoch"].as_u64().unwrap_or_default(),
                })
            }
        }
    }
}
