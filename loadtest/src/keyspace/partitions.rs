//! Partitions: the partitions of users in a cluster that places rows by a column.
//!
//! **Invariant:** the user with a given key is always in the same partition, so that every request
//! for the user can name the partition.

use super::{Names, ShardMap, is_plain};
use crate::tables::{PARTITION_KEY, TRANSACTIONS, USERS, declaration};

/// Values of the partition column of users, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UserPartitions(Vec<String>);

impl UserPartitions {
    /// Returns the partitions of a cluster; `None` if keys alone determine the shard of a user.
    ///
    /// # Errors
    /// Fails if the values of the tester's rows in the cluster's column are not its partitions, or
    /// if no partition has a name that the tester can use.
    pub(super) fn of(map: &ShardMap) -> anyhow::Result<Option<Self>> {
        let Some(column) = map.parameters["column"].as_str() else { return Ok(None) };
        if column != PARTITION_KEY {
            let tables = [USERS, TRANSACTIONS].map(declaration);
            let columns = tables.iter().filter_map(|table| table["columns"].as_array()).flatten();
            let is_ours = columns.into_iter().any(|own| own["name"] == column);
            anyhow::ensure!(
                !is_ours,
                "the cluster places rows by the column {column}, where the load tester's rows have other values"
            );
            return Ok(None);
        }
        let member = if map.keyspace == "list" { "partitions" } else { "splits" };
        let names = map.texts(member).into_iter().filter(|name| name.bytes().all(is_plain));
        let names: Vec<String> = names.map(str::to_owned).collect();
        anyhow::ensure!(
            !names.is_empty(),
            "no partition has a name of ASCII letters and digits, which the load tester needs"
        );
        Ok(Some(Self(names)))
    }
}

impl Names {
    /// Returns the partition of the user of this key, always the same; `None` if keys alone
    /// determine the shard of a user.
    pub(crate) fn partition(&self, key: &str) -> Option<&str> {
        let UserPartitions(names) = self.partitions.as_ref()?;
        // FNV-1a.
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        names.get((hash % names.len() as u64) as usize).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(map: &str) -> anyhow::Result<Names> {
        Names::of_run(map.as_bytes(), 7_000_000_000_123_456_789)
    }

    #[test]
    fn users_are_spread_over_the_partitions_of_the_cluster_and_keep_theirs() {
        let list = r#"{"keyspace":"list","parameters":{"partitions":[["A",2],["B",1],["Ω",1]],"column":"partition_key"}}"#;
        let range = r#"{"keyspace":"range","parameters":{"order":"numeric","splits":["-5","70"],"column":"partition_key"}}"#;
        for (map, expected) in [(list, ["A", "B"]), (range, ["-5", "70"])] {
            let names = names(map).unwrap();
            let keys: Vec<String> = (0..100).map(|number| names.plain(number)).collect();
            assert!(keys.iter().all(|key| key.starts_with("loadtest-")), "keys are free");
            let found: BTreeSet<_> = keys.iter().filter_map(|key| names.partition(key)).collect();
            assert_eq!(found, BTreeSet::from(expected));
            assert_eq!(names.partition(&keys[7]), names.clone().partition(&keys[7]));
        }
    }

    #[test]
    fn a_column_of_the_testers_own_rows_is_refused_and_one_of_others_ignored() {
        let map = |column: &str| {
            let parameters = format!(r#"{{"partitions":[["A",1]],"column":"{column}"}}"#);
            format!(r#"{{"keyspace":"list","parameters":{parameters}}}"#)
        };
        let error = names(&map("email")).unwrap_err();
        assert!(error.to_string().contains("by the column email"), "{error}");
        assert_eq!(names(&map("region")).unwrap().partition("loadtest-1"), None);
        let hash = names(r#"{"keyspace":"hash","parameters":{"seed":0}}"#).unwrap();
        assert_eq!(hash.partition("loadtest-1"), None);
    }
}
