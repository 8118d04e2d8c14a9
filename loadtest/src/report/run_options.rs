//! Run options: the options that determine the load of a run, for the report and for comparing
//! runs.
//!
//! **Invariant:** two runs with the same entries have the same load. Options that do not affect the
//! load (`--seed`, `--json`) are left out.

use std::collections::BTreeMap;

use crate::options::{Load, Options};

pub(super) fn of(options: &Options) -> BTreeMap<String, String> {
    let Load { mix, writes, keys, value_size, no_fill, rate, in_flight, verify, chaos, .. } =
        &options.load;
    let Load { cluster, faults, level, .. } = &options.load;
    let is_open = options.load.open_rate().is_some();
    let faults: Vec<_> = faults.iter().map(|kind| format!("{kind:?}")).collect();
    let goose = &options.goose;
    let hosts: Vec<_> = options.targets.iter().map(ToString::to_string).collect();
    let writes = mix.has_writes_share().then(|| writes.to_string());
    let entries = [
        ("hosts", Some(hosts.join(", "))),
        ("mix", Some(mix.to_string())),
        ("tenants", options.load.tenants.map(|tenants| tenants.to_string())),
        ("verify", verify.then(|| "yes".to_owned())),
        ("chaos", chaos.then(|| "yes".to_owned())),
        ("cluster", cluster.as_ref().map(|_| "yes".to_owned())),
        ("faults", (!faults.is_empty()).then(|| faults.join(", "))),
        ("level", level.map(|level| level.name().to_owned())),
        ("writes", writes),
        ("dist", Some(options.dist().to_string())),
        ("keys", Some(keys.to_string())),
        ("value-size", Some(value_size.to_string())),
        ("no-fill", no_fill.then(|| "yes".to_owned())),
        ("rate", rate.map(|rate| rate.to_string())),
        ("in-flight", is_open.then(|| in_flight.to_string())),
        // In the open model, the number of users does not determine the load.
        ("users", goose.users.filter(|_| !is_open).map(|users| users.to_string())),
        ("run-time", goose.run_time.clone()),
        ("iterations", goose.iterations.map(|iterations| iterations.to_string())),
    ];
    entries.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
