//! Audit report: the result of checking a cluster, whatever its engine.
//!
//! **Invariant:** a report without findings means that every row was checked and found correct.
//! **Not here:** the checks (`sqlite::audit`, `postgres::audit`).

use std::collections::BTreeMap;

/// A finding: a difference between the stored data and the data that the rules require.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Discrepancy {
    /// The shard.
    pub shard: String,
    /// The node.
    pub node: String,
    /// The table, if the finding is about a table.
    pub table: Option<String>,
    /// Shard key of the row, if the finding is about a row.
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
    /// Number of rows of each table, including the table of idempotency keys. Rows of slots that
    /// have moved away, or that are still being copied to the shard, are not counted.
    pub tables: BTreeMap<String, u64>,
    /// Names of the replicas whose rows equal those of the primary.
    pub replicas: Vec<String>,
}

/// Result of an audit.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct AuditReport {
    /// Shards whose primary could be read, by name.
    pub shards: Vec<ShardAudit>,
    /// The findings, at most the first [`AuditReport::FINDINGS_MAX`].
    pub findings: Vec<Discrepancy>,
    /// Number of all findings, including those that are not listed.
    pub found: u64,
    /// Remarks about checks that could not be made, although nothing is wrong.
    pub notes: Vec<String>,
    /// Number of rows that were read, including those of replicas.
    pub rows: u64,
}

impl AuditReport {
    /// Maximum number of findings that a report lists.
    pub const FINDINGS_MAX: usize = 1_000;

    /// Adds a finding.
    pub fn add(&mut self, finding: Discrepancy) {
        self.found += 1;
        if self.findings.len() < Self::FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    /// Adds the contents of another report.
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
    /// True to check the structure of every database page as well.
    pub deep: bool,
    /// Number of shards that are checked at the same time.
    pub threads: usize,
}
