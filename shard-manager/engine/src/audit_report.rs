//! Audit report: the result of checking a cluster, whatever its engine.
//!
//! **Invariant:** a report without findings means that every row was checked.
//! **Not here:** the checks (`sqlite::audit`, `postgres::audit`).

use std::collections::BTreeMap;

/// A difference between the cluster and its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Discrepancy {
    /// The shard.
    pub shard: String,
    /// The node.
    pub node: String,
    /// The table, if the finding is about one.
    pub table: Option<String>,
    /// Shard key of the row, if the finding is about one.
    pub key: Option<String>,
    /// Id of the row.
    pub id: Option<String>,
    /// Contents that were found.
    pub what: String,
    /// Expected contents.
    pub expected: String,
}

/// A shard that was checked.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ShardAudit {
    /// Name of the shard.
    pub shard: String,
    /// Position at which its primary was read.
    pub position: u64,
    /// Number of rows of each table, the records of idempotency keys included, without rows of
    /// slots that have moved away or are being copied to the shard.
    pub tables: BTreeMap<String, u64>,
    /// Replicas that equal the primary.
    pub replicas: Vec<String>,
}

/// Result of an audit.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct AuditReport {
    /// Shards whose primary could be read, by name.
    pub shards: Vec<ShardAudit>,
    /// Findings: all, or the first [`AuditReport::FINDINGS_MAX`].
    pub findings: Vec<Discrepancy>,
    /// Number of findings.
    pub found: u64,
    /// Notes about checks that could not be made, without a fault.
    pub notes: Vec<String>,
    /// Number of rows that were read, those of replicas included.
    pub rows: u64,
}

impl AuditReport {
    /// Maximum number of findings in a report: a longer list is of no use.
    pub const FINDINGS_MAX: usize = 1_000;

    /// Adds a finding.
    pub fn add(&mut self, finding: Discrepancy) {
        self.found += 1;
        if self.findings.len() < Self::FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    /// Adds another report.
    pub fn unite(&mut self, other: Self) {
        let shown = other.findings.len() as u64;
        other.findings.into_iter().for_each(|finding| self.add(finding));
        self.found += other.found - shown;
        self.shards.extend(other.shards);
        self.notes.extend(other.notes);
        self.rows += other.rows;
    }
}

/// Settings of an audit.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    /// True to check the structure of every page too.
    pub deep: bool,
    /// Number of shards that are checked at the same time.
    pub threads: usize,
}
