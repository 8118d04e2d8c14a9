//! Settings: one value each, from the first source that has it.
//!
//! **Invariant:** every value that is asked for is shown, with where it came from, and no secret with it.
//! **Not here:** where the sources are read (`config/sources`), which settings there are (`config`).

use std::fmt::Write as _;

use shard_manager::topology::Topology;

use super::ConfigError;
use super::sources::{Layer, Origin, spelled};

pub(super) struct Settings<'l> {
    layers: &'l [Layer],
    shown: Vec<Shown>,
}

/// A line of what is in force.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    name: String,
    value: String,
    origin: Origin,
}

impl<'l> Settings<'l> {
    pub(super) fn new(layers: &'l [Layer]) -> Self {
        Self { layers, shown: Vec::new() }
    }

    pub(super) fn parse<T>(
        &mut self,
        name: &'static str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let (origin, text) = self.find(name).unwrap_or((Origin::Default, default.to_owned()));
        let parsed = parse(&text).map_err(|allowed| {
            // A URL in the wrong place may have a password.
            ConfigError(if text.contains("://") {
                format!("{name} (from {origin}) is a URL; servers are named by SHARD_URLS")
            } else {
                format!("{name} (from {origin}) is `{text}`; it must be {allowed}")
            })
        })?;
        self.show(name, text, origin);
        Ok(parsed)
    }

    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        if self.find(name).is_none() {
            self.show(name, default.to_owned(), Origin::Default);
            return Ok(None);
        }
        self.parse(name, default, parse).map(Some)
    }

    pub(super) fn find(&self, name: &str) -> Option<(Origin, String)> {
        let mut layers = self.layers.iter();
        layers.find_map(|(origin, values)| Some((origin.clone(), values.get(name)?.clone())))
    }

    /// How a setting is named to whoever gave it; `None` if nobody did.
    pub(super) fn given(&self, name: &str) -> Option<String> {
        let (origin, _) = self.find(name)?;
        Some(format!("{} (from {origin})", spelled(name, &origin)))
    }

    pub(super) fn show(&mut self, name: impl Into<String>, value: String, origin: Origin) {
        self.shown.push(Shown { name: name.into(), value, origin });
    }

    pub(super) fn shown(self) -> Vec<Shown> {
        self.shown
    }
}

/// Longer values are not lined up with.
const VALUE_USUAL: usize = 60;

/// One line each.
pub(super) fn table(shown: &[Shown]) -> String {
    let names = shown.iter().map(|line| line.name.len()).max().unwrap_or(0);
    // A list of addresses must not move the origins of all others out of sight.
    let usual = shown.iter().map(|line| line.value.len()).filter(|length| *length <= VALUE_USUAL);
    let values = usual.max().unwrap_or(0);
    let mut table = String::new();
    for Shown { name, value, origin } in shown {
        let _ = writeln!(table, "{name:<names$} = {value:<values$}  # {origin}");
    }
    table
}

pub(super) fn parse_weights(text: &str) -> Result<Vec<u32>, String> {
    let weights: Result<Vec<u32>, _> =
        text.split(',').map(|weight| weight.trim().parse()).collect();
    let ok = |weights: &Vec<u32>| {
        weights.len() <= Topology::SHARDS_MAX
            && weights.iter().all(|weight| (1..=Topology::WEIGHT_MAX).contains(weight))
    };
    weights.ok().filter(ok).ok_or_else(|| {
        format!("1 to {} numbers from 1 to {}", Topology::SHARDS_MAX, Topology::WEIGHT_MAX)
    })
}

pub(super) fn within(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("a number from {least} to {most}"))
}
