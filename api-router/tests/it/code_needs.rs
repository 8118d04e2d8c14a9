//! Code needs: codes of problems that need more than the requests of one client, and the sources of
//! the tests that produce them.

use std::collections::BTreeSet;

use crate::backend::is_citus;

/// Codes of access control, which `access` produces.
const NEED_ACCESS: [&str; 4] = ["TSR006", "TSR401", "TSR409", "TSR429"];
/// Codes that no single client can cause: `faults` (and `lab`, for a full lane; the tests of
/// servers, for TSR202) produces each.
const NEED_A_FAULT: [&str; 11] = [
    "TSR003", "TSR005", "TSR201", "TSR202", "TSR203", "TSR204", "TSR205", "TSR304", "TSR305",
    "TSR306", "TSR500",
];

/// Codes that need moves of slots, which Citus does not have.
const NEED_MOVES: [&str; 4] = ["TSR332", "TSR333", "TSR337", "TSR338"];

/// Codes that need a folder for backups.
const NEED_BACKUPS: [&str; 3] = ["TSR340", "TSR342", "TSR343"];

/// Codes that need indexes, or an engine that does not build them.
const NEED_INDEXES: [&str; 4] = ["TSR344", "TSR345", "TSR346", "TSR347"];

/// Codes that need a lab experiment.
const NEED_EXPERIMENTS: [&str; 2] = ["TSR348", "TSR349"];
/// Codes that need a keyspace by a column.
const NEED_PARTITIONS: [&str; 3] = ["TSR355", "TSR356", "TSR357"];

/// Codes that need PostgreSQL servers, or Citus.
const NEED_SERVERS: [&str; 6] = ["TSR322", "TSR323", "TSR324", "TSR325", "TSR329", "TSR341"];

/// Returns all of these codes.
pub(crate) fn needing_more() -> BTreeSet<&'static str> {
    let needs = NEED_A_FAULT.into_iter().chain(NEED_ACCESS).chain(NEED_SERVERS);
    let needs = needs.chain(NEED_BACKUPS).chain(NEED_INDEXES).chain(NEED_EXPERIMENTS);
    let needs = needs.chain(NEED_PARTITIONS);
    needs.chain(NEED_MOVES.into_iter().filter(|_| is_citus())).collect()
}

/// Returns the sources of the tests that produce them.
pub(crate) fn tests_of_them() -> String {
    [
        include_str!("access/catalog_keys.rs"),
        include_str!("access/credentials.rs"),
        include_str!("access/files.rs"),
        include_str!("backups.rs"),
        include_str!("faults.rs"),
        include_str!("indexes.rs"),
        include_str!("lab.rs"),
        include_str!("lab_page.rs"),
        include_str!("partitions.rs"),
        include_str!("../../../shard-manager/tests/postgres/failover.rs"),
        include_str!("../../src/problem/changes.rs"),
    ]
    .concat()
}
