//! Tests of operations: start, refusal to start and shutdown of a router, and its log.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use serde_json::json;
use tempfile::TempDir;

use crate::backend::{self, ask_primary, files_only, is_servers};
use crate::client::settle;
use crate::harness::{PATIENCE, Router, bare_command, command, eventually, refused_start};
use crate::prerequisites::{Prerequisite, skip};

/// Returns a folder with a data directory in which a router has stored one row.
fn used_directory(flags: &[&str]) -> (TempDir, PathBuf) {
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, flags);
    assert_eq!(router.write_user("ada", "Ada").status, 201);
    router.end();
    (folder, data)
}

/// Returns the error of a start that is refused.
fn refusal(command: Command) -> String {
    let (code, said) = refused_start(command);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("error: ") && !said.contains("panicked"), "{said}");
    said
}

fn with_flags(data: &Path, flags: &[&str]) -> Command {
    backend::command(data, flags)
}

/// Returns the bytes of every database file in a folder; on servers, the catalog's row about the
/// cluster.
fn databases(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    if is_servers() {
        let said = "SELECT to_json(c)::text FROM tessera.tessera_cluster AS c";
        let said = ask_primary(data, 0, said).join("\n").into_bytes();
        return BTreeMap::from([(data.to_owned(), said)]);
    }
    let files = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    let databases = files.filter(|path| path.extension().is_some_and(|end| end == "db"));
    databases.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Begins a request whose body is sent later: the router has received its head, and waits. Returns
/// the connection and the body.
fn begin_write(router: &Router, key: &str) -> (TcpStream, String) {
    let body = json!({"table": "users", "data": {"user_id": key, "name": "N", "email": "e"}});
    let body = body.to_string();
    let head = format!(
        "POST /api/write HTTP/1.1\r\nhost: localhost\r\nx-shard-key: {key}\r\n\
         content-type: application/json\r\nexpect: 100-continue\r\nx-deadline-ms: 60000\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = router.connect();
    stream.write_all(head.as_bytes()).unwrap();
    let mut line = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
    (stream, body)
}

/// Waits until the port is closed.
fn await_closed_port(router: &Router) {
    let began = Instant::now();
    while TcpStream::connect(router.address()).is_ok() {
        assert!(began.elapsed() < PATIENCE, "the router does not stop listening");
        thread::yield_now();
    }
}

#[test]
fn a_request_that_has_begun_is_answered_before_the_router_ends() {
    let (_folder, data) = used_directory(&[]);
    let mut router = Router::start_in(&data, &[]);
    let uploads: Vec<_> = (0..4).map(|n| begin_write(&router, &format!("late-{n}"))).collect();
    router.signal("TERM");
    await_closed_port(&router);
    for (mut stream, body) in uploads {
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
    }
    assert_eq!(router.wait().code(), Some(0));
    let router = Router::start_in(&data, &[]);
    assert_eq!(router.get("/api/read?table=users").json()["count"], 5);
}

#[test]
fn what_was_acknowledged_while_the_router_ended_is_there() {
    let (_folder, data) = used_directory(&[]);
    let mut router = Router::start_in(&data, &[]);
    let acknowledged: Vec<String> = thread::scope(|scope| {
        let (sender, answers) = mpsc::channel();
        let router = &router;
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let sender = sender.clone();
                scope.spawn(move || {
                    let keys = (0..).map(|n| format!("user-{client}-{n}"));
                    let data =
                        |key: &str| json!({"user_id": key, "name": "N", "email": "e"}).to_string();
                    let stored = |key: &String| {
                        let body = format!("{{\"table\":\"users\",\"data\":{}}}", data(key));
                        let headers = [("x-shard-key", &**key)];
                        let body = Some(body.as_bytes());
                        let reply = router.try_send("POST", "/api/write", &headers, body).ok();
                        let stored = reply.is_some_and(|reply| reply.status == 201);
                        let _ = sender.send(());
                        stored
                    };
                    keys.take_while(stored).collect::<Vec<_>>()
                })
            })
            .collect();
        for _ in 0..60 {
            answers.recv_timeout(PATIENCE).expect("the clients write");
        }
        router.signal("TERM");
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(router.wait().code(), Some(0));
    assert!(acknowledged.len() >= 50);
    let router = Router::start_in(&data, &[]);
    for key in acknowledged {
        assert_eq!(router.read(&key, "table=users").json()["count"], 1, "{key} is lost");
    }
}

/// Returns the first response of `/ready` that is not 200 between SIGTERM and the end, if one came.
fn last_words(router: &Router) -> Option<(u16, String)> {
    router.signal("TERM");
    loop {
        let reply = router.try_send("GET", "/ready", &[], None).ok()?;
        if reply.status != 200 {
            let live = router.try_send("GET", "/live", &[], None).ok()?;
            assert_eq!(live.status, 200, "it still serves");
            return Some((reply.status, reply.json()["status"].as_str().unwrap().to_owned()));
        }
    }
}

/// A test on a slow machine may miss that response once, but not each time.
#[test]
fn a_router_that_stops_is_not_ready_before_it_stops_listening() {
    let said = (0..5).find_map(|_| {
        let mut router = Router::start();
        let said = last_words(&router);
        assert_eq!(router.wait().code(), Some(0));
        said
    });
    assert_eq!(said, Some((503, "draining".to_owned())));
}

#[test]
fn interrupting_ends_the_router_as_well() {
    let mut router = Router::start();
    router.signal("INT");
    assert_eq!(router.wait().code(), Some(0));
}

#[test]
fn a_second_router_on_the_same_directory_is_refused_with_the_first_one() {
    files_only!(
        "the lock is a file of the data directory; any number of routers serve the same servers"
    );
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, &[]);
    let said = refusal(command(&data));
    let holder = format!("process {}", router.pid());
    assert!(said.contains(&holder) && said.contains(&*data.to_string_lossy()), "{said}");
    assert_eq!(router.write_user("ada", "Ada").status, 201, "the first one goes on");
}

#[test]
fn a_port_that_is_taken_is_found_out_before_any_file_is_touched() {
    let folder = crate::folders::temporary();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let mut command = bare_command(folder.path());
    command.args(["--bind", &taken]);
    let said = refusal(command);
    assert!(said.contains(&taken), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_lock_file_of_a_killed_router_stops_no_start() {
    files_only!(
        "the lock is a file of the data directory; any number of routers serve the same servers"
    );
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &[]);
    assert_eq!(router.write_user("ada", "Ada").status, 201);
    router.kill();
    assert!(data.join("tessera.lock").exists());
    let router = Router::start_in(&data, &[]);
    assert_eq!(router.read("ada", "table=users").json()["count"], 1);
}

#[test]
fn a_start_with_another_keyspace_is_refused_and_touches_nothing() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let (_folder, data) = used_directory(&["--weights", "50,25,25"]);
    let before = databases(&data);
    let files = if is_servers() { 1 } else { 8 };
    assert_eq!(before.len(), files, "three shards with a replica each, catalog and figures");
    let mut refused = vec![(["--keyspace", "range"], "keyspace", "hash")];
    if is_servers() {
        // These settings contradict the addresses of the servers.
        refused.push((["--shards", "5"], "says 5", "3"));
        refused.push((["--weights", "50,25"], "weights names 2 shards", "3"));
    }
    for (flags, asked, made) in refused {
        let said = refusal(with_flags(&data, &flags));
        assert!(said.contains(asked) && said.contains(made), "{flags:?}: {said}");
        assert!(databases(&data) == before, "{flags:?} changed a file");
    }
    for flags in [&[][..], &["--shards", "3"], &["--weights", "50,25,25", "--keyspace", "hash"]] {
        let mut router = Router::start_in(&data, flags);
        assert_eq!(router.read("ada", "table=users").json()["count"], 1, "{flags:?}");
        router.end();
    }
}

#[test]
fn serving_others_without_access_control_needs_a_flag() {
    let folder = crate::folders::temporary();
    let open = |address: &str| {
        let mut command = bare_command(folder.path());
        command.args(["--bind", address]);
        command
    };
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:192.0.2.1]:0"] {
        let said = refusal(open(address));
        assert!(said.contains("--insecure") && said.contains("--access on"), "{said}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let mut insecure = open("0.0.0.0:0");
    insecure.arg("--insecure");
    let router = Router::start_command(insecure);
    assert!(router.banner().contains("EVERYBODY"), "{}", router.banner());
    assert_eq!(router.get("/live").status, 200);
}

#[test]
fn a_data_directory_that_cannot_be_one_is_refused_by_name() {
    files_only!("it is about data directories");
    let folder = crate::folders::temporary();
    let file = folder.path().join("file");
    File::create(&file).unwrap();
    for path in [file.clone(), file.join("data")] {
        let mut command = bare_command(folder.path());
        command.args(["--bind", "127.0.0.1:0", "--data-dir"]).arg(&path);
        let said = refusal(command);
        assert!(said.contains(&*path.to_string_lossy()), "{said}");
    }
    let mut closed = fs::metadata(folder.path()).unwrap().permissions();
    let open = closed.clone();
    closed.set_readonly(true);
    fs::set_permissions(folder.path(), closed).unwrap();
    let data = folder.path().join("data");
    if fs::create_dir(folder.path().join("probe")).is_ok() {
        skip(Prerequisite::Unprivileged, "no directory is closed to this user, who may be root");
    } else {
        let said = refusal(command(&data));
        assert!(said.contains(&*data.to_string_lossy()), "{said}");
    }
    fs::set_permissions(folder.path(), open).unwrap();
}

#[test]
fn a_file_that_is_damaged_missing_or_anothers_is_refused_by_name() {
    files_only!("files are damaged");
    type Damage = fn(&Path, &Path);
    let damages: [(&str, Damage); 5] = [
        ("a header overwritten", |file, _| {
            let mut damaged = fs::read(file).unwrap();
            damaged[..100].fill(0xA5);
            fs::write(file, damaged).unwrap();
        }),
        ("missing", |file, _| fs::remove_file(file).unwrap()),
        ("emptied", |file, _| fs::write(file, b"").unwrap()),
        ("cut off", |file, _| fs::write(file, &fs::read(file).unwrap()[..4096]).unwrap()),
        ("another shard's", |file, data| {
            fs::copy(data.join("shard3-primary.db"), file).map(drop).unwrap();
        }),
    ];
    for (damage, harm) in damages {
        let (_folder, data) = used_directory(&[]);
        let file = data.join("shard2-primary.db");
        harm(&file, &data);
        let reported = refusal(command(&data));
        assert!(reported.contains("shard2-primary.db"), "{damage}: {reported}");
    }
}

/// Without its catalog the location of rows is unknown: a new catalog would hide them.
#[test]
fn a_catalog_that_is_damaged_or_missing_is_refused_by_name() {
    files_only!("files are damaged");
    let (_folder, data) = used_directory(&[]);
    let catalog = data.join("catalog.db");
    let whole = fs::read(&catalog).unwrap();
    let mut damaged = whole.clone();
    damaged[..100].fill(0xA5);
    fs::write(&catalog, damaged).unwrap();
    assert!(refusal(command(&data)).contains("catalog.db"));
    fs::remove_file(&catalog).unwrap();
    let reported = refusal(command(&data));
    for word in ["catalog.db", "missing", "shard1-primary.db", "Restore it"] {
        assert!(reported.contains(word), "{word}: {reported}");
    }
    assert!(!catalog.exists(), "a start that was refused leaves no catalog");
    fs::write(&catalog, whole).unwrap();
    let router = Router::start_in(&data, &[]);
    assert_eq!(router.read("ada", "table=users").json()["count"], 1, "the rows are as they were");
}

#[test]
fn a_router_that_serves_is_live_ready_and_well() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = Router::start();
    assert_eq!(router.get("/live").json(), json!({"success": true, "status": "live"}));
    assert_eq!(router.get("/ready").json(), json!({"success": true, "status": "ready"}));
    // A node that answers late is reported as down.
    let health = eventually("every node answers in time", || {
        let health = router.get("/api/health");
        assert_eq!(health.status, 200, "{}", health.text());
        let health = health.json();
        (health["status"] == "ok").then_some(health)
    });
    assert_eq!(health["success"], true);
    for shard in ["shard1", "shard2", "shard3"] {
        assert_eq!(health["health"][shard], json!({"primary": true, "replica": true}));
    }
    let nodes = health["shards"].as_array().unwrap();
    let mut all = nodes.iter().flat_map(|shard| shard["nodes"].as_array().unwrap());
    assert!(all.all(|node| node["up"] == true), "{health}");
    assert!(nodes.iter().all(|shard| shard["nodes"].as_array().unwrap().len() == 2), "{health}");
    assert!(health["uptime_s"].is_u64() && health["epoch"] == 1, "{health}");
}

#[test]
fn the_commands_of_the_banner_work_as_they_are_printed() {
    let router = Router::start();
    if Command::new("curl").arg("--version").output().is_err() {
        return skip(Prerequisite::Curl, "curl is not installed");
    }
    let banner = router.banner().replace("\\\n", " ");
    let commands = banner.lines().filter_map(|line| Some(&line[line.find("curl ")?..]));
    let answers: Vec<serde_json::Value> = commands
        .map(|command| {
            let output = Command::new("sh").args(["-c", command]).env("NO_PROXY", "*").output();
            let output = output.unwrap();
            assert!(output.status.success(), "{command}");
            // curl keeps no session token: the replica that the next command reads must have all
            // rows.
            settle(&router);
            serde_json::from_slice(&output.stdout).unwrap()
        })
        .collect();
    assert_eq!(answers.len(), 2, "{banner}");
    assert_eq!(answers[0]["data"]["name"], "John Doe");
    assert_eq!(answers[1]["data"][0]["user_id"], answers[0]["data"]["user_id"]);
}

/// Starts a router whose log goes to a file, and returns both.
fn logging(folder: &Path, level: &str) -> (Router, PathBuf) {
    let log = folder.join("log");
    let command = with_flags(&folder.join("data"), &["--log", level]);
    (Router::start_logging(command, Stdio::from(File::create(&log).unwrap())), log)
}

#[test]
fn the_log_has_no_key_and_no_value() {
    for level in ["info", "trace"] {
        let folder = crate::folders::temporary();
        let (mut router, log) = logging(folder.path(), level);
        assert_eq!(router.write_user("canary-key", "canary-name").status, 201);
        assert_eq!(router.read("canary-key", "table=users&name=eq.canary-name").status, 200);
        let json = [("content-type", "application/json"), ("x-shard-key", "canary-key")];
        for body in [
            "{\"table\":\"users\",\"data\":{\"canary-column\":1}}",
            "{\"table\":\"canary-table\",\"data\":{\"user_id\":\"canary-key\"}}",
            "{\"canary-member\":1}",
            "canary-no-json",
            "{\"table\":\"users\",\"op\":\"insert\",\"data\":\
              {\"user_id\":\"canary-key\",\"name\":\"canary-name\",\"email\":\"e\"}}",
        ] {
            let reply = router.send("POST", "/api/write", &json, Some(body.as_bytes()));
            assert!(reply.status >= 400, "{body}: {}", reply.text());
        }
        for path in ["/api/read?canary=1", "/canary", "/api/read?table=users&name=eq.%ffcanary"] {
            assert!(router.get(path).status >= 400, "{path}");
        }
        // A response with 504 is logged.
        let head = "POST /api/write HTTP/1.1\r\nhost: localhost\r\nx-shard-key: canary-key\r\n\
                    x-request-id: the-late-one\r\nx-deadline-ms: 100\r\ncontent-length: 99\r\n\
                    connection: close\r\n\r\n{\"canary-late\":";
        let mut stream = router.connect();
        stream.write_all(head.as_bytes()).unwrap();
        let mut status = String::new();
        BufReader::new(stream).read_line(&mut status).unwrap();
        assert!(status.contains(" 504 "), "{status}");
        router.end();
        let text = fs::read_to_string(log).unwrap();
        assert!(text.contains("the-late-one"), "a server's error is logged: {text}");
        let reported: Vec<&str> = text.lines().filter(|line| line.contains("canary")).collect();
        assert!(reported.is_empty(), "--log {level} logs {reported:#?}");
    }
}

#[test]
fn a_log_that_goes_to_a_file_has_no_colours() {
    let folder = crate::folders::temporary();
    let (mut router, log) = logging(folder.path(), "info");
    router.end();
    let text = fs::read_to_string(log).unwrap();
    assert!(text.contains("INFO"), "{text:?}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

/// Returns the `number`th order of these columns.
fn permuted(columns: &[&str], mut number: usize) -> String {
    let mut left = columns.to_vec();
    let mut order = Vec::new();
    while !left.is_empty() {
        order.push(left.remove(number % left.len()));
        number /= left.len() + 1;
    }
    order.join(",")
}

/// Returns the memory of the router without the pages of files, because more pages of the program
/// are loaded as more of it is run.
fn anonymous_kib(router: &Router) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", router.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn questions_of_ever_new_shapes_do_not_fill_memory() {
    const THREADS: usize = 4;
    const BATCHES: usize = 50;
    const BATCH: usize = 100;
    let router = Router::start();
    assert_eq!(router.write_user("ada", "Ada").status, 201);
    let columns =
        ["user_id", "name", "email", "partition_key", "version", "slot", "shard_key", "created_at"];
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let mut stream = router.connect();
            scope.spawn(move || {
                let mut answers = BufReader::new(stream.try_clone().unwrap());
                for batch in 0..BATCHES {
                    let requests: String = (0..BATCH)
                        .map(|n| {
                            let shape = permuted(&columns, (thread * BATCHES + batch) * BATCH + n);
                            // A filter on user_id would contradict the shard key.
                            let filter = columns[1 + n % 3];
                            format!(
                                "GET /api/read?table=users&select={shape}&{filter}=eq.{n} HTTP/1.1\r\n\
                                 host: localhost\r\nx-shard-key: key-{batch}-{n}\r\n\r\n"
                            )
                        })
                        .collect();
                    stream.write_all(requests.as_bytes()).unwrap();
                    let mut body = Vec::new();
                    for _ in 0..BATCH {
                        // Each response ends with a closing brace; bodies have no other one.
                        body.clear();
                        answers.read_until(b'}', &mut body).unwrap();
                        assert!(body.starts_with(b"HTTP/1.1 200 "), "{body:?}");
                    }
                }
            });
        }
    });
    let held = anonymous_kib(&router);
    assert!(held < 150 << 10, "{held} KiB are in use");
}
