//! Tests of command lines from the documentation of other sharding systems: each works unchanged,
//! including host and port, so that a reader of that documentation can try them here.
//!
//! Only curl's configuration file differs: it replaces the host and port of every line by those of
//! the router of the test.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::client::settle;
use crate::commands::PROGRAM;
use crate::folders;
use crate::harness::{Router, bare_command, isolated};
use crate::partitions;
use crate::prerequisites::{Prerequisite, skip};

/// A command line and its expected response.
struct Line {
    /// The system, and the purpose of the line.
    name: &'static str,
    line: &'static str,
    /// Status of the response; 0 if the line sends [`MANY`] requests, each answered with 200.
    status: u16,
    /// Members of the response, by JSON pointers, as JSON; `*` stands for any value.
    says: &'static [(&'static str, &'static str)],
}

/// Number of requests of a line that sends many.
const MANY: usize = 100;

/// The documented example of a write: a command and a body of several lines each.
const WRITE_OF_USER: &str = r#"curl -X POST http://localhost:3000/api/write \
  -H "Content-Type: application/json" \
  -H "x-shard-key: user_123" \
  -d '{
    "table": "users",
    "data": {
      "user_id": "user_123",
      "name": "John Doe",
      "email": "john@example.com",
      "partition_key": "A"
    }
  }'"#;
/// The documented example of a read.
const READ_OF_USERS: &str = r#"curl "http://localhost:3000/api/read?table=users&limit=10" \
  -H "x-shard-key: user_123""#;

/// An application that shards users and orders over three databases, on port 3000.
const APPLICATION: [Line; 15] = [
    Line {
        name: "application: write a user under the key of a header",
        line: WRITE_OF_USER,
        status: 201,
        says: &[
            ("/success", "true"),
            ("/data/user_id", "\"user_123\""),
            ("/data/name", "\"John Doe\""),
            ("/data/partition_key", "\"A\""),
        ],
    },
    Line {
        name: "application: read users of a key",
        line: READ_OF_USERS,
        status: 200,
        says: &[("/success", "true"), ("/data/0/name", "\"John Doe\""), ("/count", "1")],
    },
    Line {
        name: "application: write under the key of the query",
        line: r#"curl -X POST "http://localhost:3000/api/write?shardKey=user_7" -H "Content-Type: application/json" -d '{"table":"orders","data":{"user_id":"user_7","order_id":"order_7","amount":10}}'"#,
        status: 201,
        says: &[("/success", "true"), ("/data/order_id", "\"order_7\"")],
    },
    Line {
        name: "application: write under the key of the body",
        line: r#"curl -X POST http://localhost:3000/api/write -H "Content-Type: application/json" -d '{"table":"users","shardKey":"user_8","data":{"user_id":"user_8","name":"Ann","email":"ann@example.com"}}'"#,
        status: 201,
        says: &[("/success", "true"), ("/data/user_id", "\"user_8\"")],
    },
    Line {
        name: "application: read in an order, under the key of the query",
        line: r#"curl "http://localhost:3000/api/read?table=orders&shardKey=user_7&orderBy=order_id&limit=1""#,
        status: 200,
        says: &[("/success", "true"), ("/data/0/order_id", "\"order_7\"")],
    },
    Line {
        name: "application: many records under one key",
        line: r#"curl -X POST http://localhost:3000/api/bulk-write -H "Content-Type: application/json" -H "x-shard-key: user_9" -d '{"table":"orders","records":[{"user_id":"user_9","order_id":"order_1","amount":1},{"user_id":"user_9","order_id":"order_2","amount":2}]}'"#,
        status: 201,
        says: &[("/success", "true"), ("/stored", "2")],
    },
    Line {
        name: "application: health",
        line: "curl http://localhost:3000/api/health",
        status: 200,
        says: &[("/success", "true")],
    },
    Line {
        name: "application: metrics of the last five minutes",
        line: r#"curl "http://localhost:3000/api/analytics/metrics?timeRange=300000""#,
        status: 200,
        says: &[
            ("/metrics/total", "*"),
            ("/metrics/writes", "*"),
            ("/metrics/reads", "*"),
            ("/metrics/errors", "*"),
            ("/metrics/avgLatency", "*"),
            ("/metrics/shardDistribution/shard1", "*"),
            ("/metrics/throughput", "*"),
        ],
    },
    Line {
        name: "application: metrics of the default time",
        line: "curl http://localhost:3000/api/analytics/metrics",
        status: 200,
        says: &[("/metrics/writes", "*")],
    },
    Line {
        name: "application: a write without a table",
        line: r#"curl -X POST http://localhost:3000/api/write -H "Content-Type: application/json" -H "x-shard-key: user_123" -d '{"data":{"user_id":"user_123"}}'"#,
        status: 400,
        says: &[("/code", "\"TSR101\"")],
    },
    Line {
        name: "application: a read without a table",
        line: r#"curl http://localhost:3000/api/read -H "x-shard-key: user_123""#,
        status: 400,
        says: &[("/code", "\"TSR100\"")],
    },
    Line {
        name: "application: a condition in SQL, which is refused here",
        line: r#"curl "http://localhost:3000/api/read?table=users&where=1=1&shardKey=user_123""#,
        status: 400,
        says: &[("/code", "\"TSR100\"")],
    },
    Line {
        name: "application: the last errors",
        line: r#"curl "http://localhost:3000/api/analytics/errors?count=50""#,
        status: 200,
        says: &[("/success", "true"), ("/total", "3"), ("/errors/0/code", "\"TSR100\"")],
    },
    Line {
        name: "application: the errors of the default number",
        line: "curl http://localhost:3000/api/analytics/errors",
        status: 200,
        says: &[("/errors/2/code", "\"TSR101\"")],
    },
    Line {
        name: "application: metrics of a time in letters, which is refused here",
        line: r#"curl "http://localhost:3000/api/analytics/metrics?timeRange=abc""#,
        status: 400,
        says: &[("/code", "\"TSR100\"")],
    },
];

/// A proxy with keys and values on a ring of shards, on port 80. Its lines name no content type.
const PROXY: [Line; 10] = [
    Line {
        name: "proxy: write",
        line: r#"curl -X POST http://localhost:80/write \
  -d '{"key":"user_1","value":"Alice"}'"#,
        status: 200,
        says: &[("/message", "\"Write successful\""), ("/shard", "*")],
    },
    Line {
        name: "proxy: read",
        line: r#"curl "http://localhost:80/read?key=user_1""#,
        status: 200,
        says: &[("/key", "\"user_1\""), ("/value", "\"Alice\""), ("/shard", "*")],
    },
    Line {
        name: "proxy: the distribution",
        line: "curl http://localhost:80/stats",
        status: 200,
        says: &[("/shards/0/shard", "\"shard1\""), ("/total_rows", "1")],
    },
    Line {
        name: "proxy: write a key that may be on a new shard",
        line: r#"curl -X POST http://localhost:80/write -d '{"key":"test_new_shard","value":"data"}'"#,
        status: 200,
        says: &[("/message", "\"Write successful\""), ("/shard", "*")],
    },
    Line {
        name: "proxy: write a hundred keys",
        line: r#"for i in $(seq 1 100); do curl -X POST http://localhost:80/write -d "{\"key\":\"user_$i\",\"value\":\"data_$i\"}"; done"#,
        status: 0,
        says: &[],
    },
    Line {
        name: "proxy: the distribution of the hundred keys and the one before",
        line: "curl http://localhost:80/stats",
        status: 200,
        says: &[("/total_rows", "101")],
    },
    Line {
        name: "proxy: health",
        line: "curl http://localhost:80/health",
        status: 200,
        says: &[("/success", "true"), ("/status", "\"ok\"")],
    },
    Line {
        name: "proxy: a read without a key",
        line: "curl http://localhost:80/read",
        status: 400,
        says: &[("/code", "\"TSR100\"")],
    },
    Line {
        name: "proxy: a key that is not there",
        line: r#"curl "http://localhost:80/read?key=nobody""#,
        status: 404,
        says: &[("/code", "\"TSR302\"")],
    },
    Line {
        name: "proxy: a method that a path does not have",
        line: "curl http://localhost:80/write",
        status: 405,
        says: &[("/code", "\"TSR112\"")],
    },
];

/// The lines of the application that name a partition, on a cluster with its five partitions. The
/// read has a key and no partition.
const PARTITIONED: [Line; 3] = [
    Line {
        name: "application: write a user of a partition",
        line: WRITE_OF_USER,
        status: 201,
        says: &[("/success", "true"), ("/data/partition_key", "\"A\""), ("/shard", "\"shard1\"")],
    },
    Line {
        name: "application: read the first ten users of a key",
        line: READ_OF_USERS,
        status: 200,
        says: &[
            ("/success", "true"),
            ("/data/0/user_id", "\"user_123\""),
            ("/data/0/partition_key", "\"A\""),
            ("/count", "1"),
        ],
    },
    Line {
        name: "application: write a user of another partition",
        line: r#"curl -X POST http://localhost:3000/api/write -H "Content-Type: application/json" -H "x-shard-key: user_124" -d '{"table":"users","data":{"user_id":"user_124","name":"Jane Doe","email":"jane@example.com","partition_key":"D"}}'"#,
        status: 201,
        says: &[("/data/partition_key", "\"D\""), ("/shard", "\"shard2\"")],
    },
];

/// Runs a line in a shell in this folder, and returns its output.
fn shell(home: &Path, line: &str) -> String {
    let mut command = isolated(Command::new("sh"), home);
    let output = command.args(["-c", line]).env("CURL_HOME", home).env("HOME", home).output();
    let output = output.unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes curl in this folder connect to a router, whatever host and port a line names.
fn lead_curl(home: &Path, router: &Router) {
    let (address, end) = (router.address(), r#""\n%{http_code}\n""#);
    let lines =
        format!("silent\nnoproxy = \"*\"\nconnect-to = \"::{address}\"\nwrite-out = {end}\n");
    std::fs::write(home.join(".curlrc"), lines).unwrap();
}

/// Runs the lines one after the other on one new router with these flags.
fn check(lines: &[Line], flags: &[&str], settle: impl Fn(&Router)) {
    if Command::new("curl").arg("--version").output().is_err() {
        return skip(Prerequisite::Curl, "curl is not installed");
    }
    let (home, router) = (folders::temporary(), Router::start_with(flags));
    lead_curl(home.path(), &router);
    for Line { name, line, status, says } in lines {
        let output = shell(home.path(), line);
        let statuses: Vec<&str> = output.lines().filter(|line| line.len() == 3).collect();
        if *status == 0 {
            assert_eq!(statuses, ["200"; MANY], "{name}: {output}");
        } else {
            assert_eq!(statuses, [status.to_string()], "{name}: {output}");
        }
        let body = output.lines().next().unwrap_or_default();
        for (pointer, expected) in *says {
            let answer: Value = serde_json::from_str(body)
                .unwrap_or_else(|error| panic!("{name}: {error}: {output}"));
            let found = answer.pointer(pointer);
            let found = found.unwrap_or_else(|| panic!("{name}: no {pointer}: {answer}"));
            assert!(
                *expected == "*" || serde_json::from_str::<Value>(expected).unwrap() == *found,
                "{name}: {pointer}: {answer}"
            );
        }
        // curl keeps no session token: the replica that the next line reads from must have the
        // rows.
        settle(&router);
    }
}

#[test]
fn the_lines_of_the_application_work_as_they_are_spelled() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are named");
    check(&APPLICATION, &[], settle);
}

#[test]
fn the_lines_of_the_application_work_as_they_are_spelled_on_its_five_partitions() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are named");
    let flags = [&partitions::FLAGS[..], &["--replicas", "0"]].concat();
    // Without replicas nothing is to be waited for.
    check(&PARTITIONED, &flags, |_| ());
}

#[test]
fn the_lines_of_the_proxy_work_as_they_are_spelled() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are named");
    // Without replicas nothing is to be waited for, so the rows that are counted are those written.
    check(&PROXY, &["--replicas", "0"], |_| ());
}

/// The variables of a laboratory that compares one database with shards.
#[test]
fn the_variables_of_the_laboratory_name_the_databases_and_the_number_of_users() {
    let folder = folders::temporary();
    let servers = [
        ("MAINDB_URL", "postgresql://user@localhost:5433/maindb"),
        (
            "SHARD_URLS",
            "postgresql://user@localhost:5434/odd,postgresql://user@localhost:5435/even",
        ),
    ];
    let mut router = bare_command(folder.path());
    let output = router.envs(servers).arg("--print-config").output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    for part in ["localhost:5433/maindb", "localhost:5434/odd", "localhost:5435/even"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let mut manager = isolated(Command::new(&*PROGRAM), folder.path());
    manager.env("MAX_GEN_USERS", "30");
    let data = folder.path().join("data");
    manager.args(["generate", "--json", "--data-dir", data.to_str().unwrap()]);
    let output = manager.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&made["stored"], &made["failed"]), (&json!(60), &json!(0)), "{made}");
}
