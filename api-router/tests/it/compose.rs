//! Tests of docker-compose.yml and the Kubernetes manifests: the commands of their services and
//! pods are run as local processes on loopback ports, without a container engine.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use saphyr::{LoadableYamlNode, Yaml};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::backend::files_only;
use crate::cache::{plain_read, until_hit};
use crate::commands::{ANALYTICS, PROGRAM};
use crate::free_port::free_port;
use crate::harness::{PATIENCE, Router, bare_command, eventually, isolated};
use crate::redis::Redis;

const PASSWORD_FILES: [&str; 2] = ["/run/secrets/password", "/run/secrets/tessera/password"];
/// Suffix of the name of a pod.
const HEADLESS: &str = ".postgres-headless";
const MANIFESTS: &str = "api-router/deploy/kubernetes/base";
const NODE_DIR: &str = "/var/lib/tessera/node";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the services of docker-compose.yml.
fn services() -> Map<String, Value> {
    read("docker-compose.yml")["services"].as_object().unwrap().clone()
}

/// Returns the first document of a file.
fn read(path: &str) -> Value {
    let text = fs::read_to_string(root().join(path)).unwrap();
    plain(&Yaml::load_from_str(&text).unwrap()[0])
}

/// Converts YAML to JSON without anchors: `<<` adds the members of another mapping that this one
/// does not have.
fn plain(yaml: &Yaml<'_>) -> Value {
    if let Some(members) = yaml.as_mapping() {
        let mut plain_members = Map::new();
        for (name, member) in members {
            let (name, member) = (name.as_str().unwrap(), plain(member));
            if name != "<<" {
                plain_members.insert(name.to_owned(), member);
                continue;
            }
            for (name, member) in member.as_object().unwrap().clone() {
                plain_members.entry(name).or_insert(member);
            }
        }
        return Value::Object(plain_members);
    }
    if let Some(items) = yaml.as_sequence() {
        return items.iter().map(plain).collect();
    }
    let number = yaml.as_integer().map(Value::from).or(yaml.as_floating_point().map(Value::from));
    let other = yaml.as_str().map(Value::from).or(yaml.as_bool().map(Value::from)).or(number);
    other.unwrap_or(Value::Null)
}

fn words(value: &Value) -> Vec<String> {
    let words = value.as_array().unwrap_or_else(|| panic!("{value} is not a list"));
    words.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// Returns this instruction of a stage of the Dockerfile.
fn line_of_stage(stage: &str, instruction: &str) -> String {
    let text = fs::read_to_string(root().join("api-router/Dockerfile")).unwrap();
    let mut lines = text.lines().skip_while(|line| !line.ends_with(&format!(" AS {stage}")));
    let line = lines.find_map(|line| line.strip_prefix(&format!("{instruction} ")));
    line.unwrap().to_owned()
}

/// Returns the value of this instruction of a stage, which must be a list.
fn of_stage(stage: &str, instruction: &str) -> Vec<String> {
    serde_json::from_str(&line_of_stage(stage, instruction)).unwrap()
}

/// Command and environment of a node.
struct NodeCommand {
    /// Arguments after the entry point of its image.
    arguments: Vec<String>,
    /// Command of its health check.
    health: Vec<String>,
}

/// Nodes of a file, as processes of this machine.
struct Nodes {
    folder: TempDir,
    commands: BTreeMap<String, NodeCommand>,
    ports: BTreeMap<String, u16>,
    processes: BTreeMap<String, Child>,
}

impl Nodes {
    fn start(commands: BTreeMap<String, NodeCommand>) -> Self {
        let folder = crate::folders::temporary();
        // If root runs the tests, the servers run as another user, who must have access to the
        // folder.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut file = fs::File::options();
        let file = file.write(true).create_new(true).mode(0o600).open(folder.path().join("word"));
        writeln!(file.unwrap(), "it's a secret").unwrap();
        let ports = commands.keys().map(|name| (name.clone(), free_port())).collect();
        let mut nodes = Self { folder, commands, ports, processes: BTreeMap::new() };
        for name in nodes.commands.keys().cloned().collect::<Vec<_>>() {
            let process = nodes.run(&name);
            nodes.processes.insert(name, process);
        }
        nodes.await_health();
        nodes
    }

    /// Replaces paths, names and ports by those of this machine.
    fn here(&self, text: &str) -> String {
        let word = self.folder.path().join("word").display().to_string();
        let mut text =
            PASSWORD_FILES.iter().fold(text.to_owned(), |text, file| text.replace(file, &word));
        for (name, port) in &self.ports {
            let here = format!("127.0.0.1:{port}");
            for spelled in [
                format!("{name}{HEADLESS}:5432"),
                format!("{name}{HEADLESS}"),
                format!("{name}:5432"),
            ] {
                text = text.replace(&spelled, &here);
            }
        }
        text
    }

    fn dir(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Returns the command for the program of the image.
    fn program(&self, words: &[String]) -> Command {
        assert_eq!(words[0], "shard-manager");
        let mut command = isolated(Command::new(&*PROGRAM), self.folder.path());
        command.args(&words[1..]).stdin(Stdio::null());
        command
    }

    fn run(&self, name: &str) -> Child {
        let mut all = of_stage("node", "ENTRYPOINT");
        for word in &self.commands[name].arguments {
            let word = self.here(word).replace(NODE_DIR, &self.dir(name));
            // Only this machine may connect to it.
            all.push(word.replace("--listen=0.0.0.0", "--listen=127.0.0.1"));
        }
        all.extend(["--set=fsync=off".to_owned(), format!("--port={}", self.ports[name])]);
        let log = fs::File::create(self.folder.path().join(format!("{name}.log"))).unwrap();
        self.program(&all).stderr(log).spawn().unwrap()
    }

    /// Waits until the health check of each node succeeds.
    fn await_health(&mut self) {
        let began = Instant::now();
        for (name, command) in &self.commands {
            let health = command.health.iter().map(|word| word.replace(NODE_DIR, &self.dir(name)));
            let health: Vec<_> = health.collect();
            let log = self.folder.path().join(format!("{name}.log"));
            while !self.program(&health).output().unwrap().status.success() {
                let ended = self.processes.get_mut(name).unwrap().try_wait().unwrap();
                let said = || fs::read_to_string(&log).unwrap();
                assert!(ended.is_none() && began.elapsed() < 6 * PATIENCE, "{name}: {}", said());
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Ends all nodes with the signal of their image, and returns their exit codes.
    fn stop(&mut self) -> Vec<Option<i32>> {
        let signal = line_of_stage("node", "STOPSIGNAL");
        for process in self.processes.values() {
            let pid = process.id().to_string();
            let sent = Command::new("kill").args(["-s", &signal[3..], &pid]).status().unwrap();
            assert!(sent.success());
        }
        let processes = std::mem::take(&mut self.processes).into_values();
        processes.map(|mut process| process.wait().unwrap().code()).collect()
    }

    /// Returns a router over these nodes; its password is that of the nodes.
    fn router(&self, reported: &BTreeMap<&str, String>) -> Router {
        let mut command = bare_command(self.folder.path());
        command.envs(reported.iter().map(|(variable, value)| (variable, self.here(value))));
        command.env("TESSERA_BIND", "127.0.0.1:0");
        Router::start_command(command)
    }
}

/// Checks that both accept writes, each sees the writes of the other, and each shard has a replica
/// that follows.
fn check_routers(routers: &[Router; 2]) {
    for (number, router) in routers.iter().enumerate() {
        assert_eq!(router.get("/ready").status, 200);
        let stored = router.write_user(&format!("user_{number}"), "Ada");
        assert_eq!(stored.status, 201, "{}", stored.text());
    }
    let level = [("x-consistency", "all")];
    let query = "/api/read?table=users&select=user_id&order=user_id&limit=2";
    for router in routers {
        let began = Instant::now();
        let well = json!({"primary": true, "replica": true});
        let all = json!({"shard1": well, "shard2": well, "shard3": well});
        while router.get("/api/health").json()["health"] != all {
            assert!(began.elapsed() < PATIENCE, "{}", router.get("/api/health").text());
        }
        // At the level `all`, the configured replicas answer as well.
        let read = router.send("GET", query, &level, None);
        assert_eq!(read.json()["data"], json!([{"user_id": "user_0"}, {"user_id": "user_1"}]));
        // The level `quorum` needs the disks of two nodes, so the configured replicas follow.
        let row = json!({"user_id": "user_2", "name": "Alan", "email": "alan@example.com"});
        let headers = [("x-shard-key", "user_2"), ("x-consistency", "quorum")];
        let stored = router.post("/api/write", &headers, &json!({"table": "users", "data": row}));
        assert!(stored.status < 300, "{}", stored.text());
    }
}

/// Returns the commands of the nodes of docker-compose.yml.
fn composed(services: &Map<String, Value>) -> BTreeMap<String, NodeCommand> {
    let nodes = services.iter().filter(|(name, _)| name.starts_with("shard"));
    let reported = nodes.map(|(name, service)| {
        let test = words(&service["healthcheck"]["test"]);
        assert_eq!(test[0], "CMD");
        assert_eq!(service["stop_signal"], line_of_stage("node", "STOPSIGNAL"));
        let arguments = words(&service["command"]);
        (name.clone(), NodeCommand { arguments, health: test[1..].to_vec() })
    });
    reported.collect()
}

/// Returns the commands of the pods of these manifests.
fn podded() -> BTreeMap<String, NodeCommand> {
    let mut reported = BTreeMap::new();
    for file in ["primaries.yaml", "replicas.yaml"] {
        let set = read(&format!("{MANIFESTS}/{file}"));
        let container = &set["spec"]["template"]["spec"]["containers"][0];
        for ordinal in 0..set["spec"]["replicas"].as_u64().unwrap() {
            let name = format!("{}-{ordinal}", set["metadata"]["name"].as_str().unwrap());
            let known = |word: &String| {
                word.replace("$(POD_NAME)", &name).replace("$(ORDINAL)", &ordinal.to_string())
            };
            let arguments = words(&container["args"]).iter().map(known).collect();
            let health = words(&container["readinessProbe"]["exec"]["command"]);
            reported.insert(name, NodeCommand { arguments, health });
        }
    }
    reported
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for process in self.processes.values_mut() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[test]
fn the_commands_of_services_make_nodes_that_replicate_and_routers_that_serve() {
    files_only!("it has servers of its own");
    let services = services();
    let mut nodes = Nodes::start(composed(&services));
    let redis = cache(&services["redis"]);
    let routers = ["router1", "router2"].map(|name| {
        let environment = services[name]["environment"].as_object().unwrap();
        let reported = environment.iter().map(|(name, value)| {
            let here = value.as_str().unwrap().replace("redis://redis:6379", &redis.url());
            (&**name, here)
        });
        nodes.router(&reported.collect())
    });
    check_routers(&routers);
    for router in &routers {
        until_hit(|| plain_read(router, "user_0"));
        eventually("the cache is used", || {
            plain_read(router, "user_0");
            (router.get("/api/health").json()["cache"] == "ok").then_some(())
        });
    }
    check_analytics(&services["analytics"], &routers);
    drop(routers);
    assert_eq!(nodes.stop(), [Some(0); 6]);
}

/// Returns a Redis with the command of this service; the command must make it evict entries.
fn cache(service: &Value) -> Redis {
    let command = words(&service["command"]);
    assert_eq!(command[0], "redis-server");
    let flags: Vec<&str> = command[1..].iter().map(String::as_str).collect();
    let redis = Redis::start_with(&flags);
    let report = |name| redis.ask(&["CONFIG", "GET", name])[1].clone();
    assert_eq!((report("maxmemory-policy"), report("save")), ("allkeys-lfu".into(), String::new()));
    assert_ne!(report("maxmemory"), "0");
    redis
}

/// Checks that the analytics service, with this command, finds both routers, passes the health
/// check of its image, and counts the requests of the routers.
fn check_analytics(service: &Value, routers: &[Router; 2]) {
    let folder = crate::folders::temporary();
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let here = |text: &str| {
        let local = text.replace("0.0.0.0:3001", &bind.to_string());
        let local = local.replace("router1:3000", &routers[0].address().to_string());
        local.replace("router2:3000", &routers[1].address().to_string())
    };
    let command = || {
        let mut command = isolated(Command::new(&*ANALYTICS), folder.path());
        let variables = service["environment"].as_object().unwrap().iter();
        command.envs(variables.map(|(name, value)| (name, here(value.as_str().unwrap()))));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    let mut process = command().spawn().unwrap();
    let began = Instant::now();
    let test = words(&service["healthcheck"]["test"]);
    assert_eq!([&test[0], &test[1]], ["CMD", &*of_stage("analytics", "ENTRYPOINT")[0]]);
    while !command().args(&test[2..]).stderr(Stdio::null()).status().unwrap().success() {
        assert!(process.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(50));
    }
    let counted = || -> Value {
        let url = format!("http://{bind}/api/analytics/metrics?window=15m");
        ureq::get(&url).call().unwrap().body_mut().read_json().unwrap()
    };
    loop {
        let metrics = counted()["metrics"].clone();
        let up = |router: &Value| router["up"] == true;
        let found = metrics["routers"].as_array().unwrap().iter().filter(|router| up(router));
        // Each router has stored at least one row.
        if found.count() == 2 && metrics["writes"].as_u64() >= Some(2) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{metrics}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let signal = line_of_stage("analytics", "STOPSIGNAL");
    assert_eq!(service["stop_signal"], signal);
    let pid = process.id().to_string();
    assert!(Command::new("kill").args(["-s", &signal[3..], &pid]).status().unwrap().success());
    assert_eq!(process.wait().unwrap().code(), Some(0));
}

#[test]
fn the_commands_of_pods_make_nodes_that_replicate_and_routers_that_serve() {
    files_only!("it has servers of its own");
    let mut nodes = Nodes::start(podded());
    let file = nodes.folder.path().join("routers.toml");
    let text = fs::read_to_string(root().join(MANIFESTS).join("tessera.toml")).unwrap();
    fs::write(&file, nodes.here(&text)).unwrap();
    let reported = BTreeMap::from([("TESSERA_CONFIG", file.display().to_string())]);
    let routers = [nodes.router(&reported), nodes.router(&reported)];
    check_routers(&routers);
    drop(routers);
    assert_eq!(nodes.stop(), [Some(0); 6]);
}

#[test]
fn the_file_of_the_service_is_taken() {
    let folder = crate::folders::temporary();
    let path = root().join("api-router/deploy/systemd/tessera.toml");
    let text = fs::read_to_string(path).unwrap();
    let word = folder.path().join("word");
    let file = fs::File::options().write(true).create_new(true).mode(0o600).open(&word);
    writeln!(file.unwrap(), "it's a secret").unwrap();
    let unit =
        fs::read_to_string(root().join("api-router/deploy/systemd/tessera.service")).unwrap();
    assert!(unit.contains("\nLoadCredential=password:/etc/tessera/password\n"));
    let text = text.replace("/run/credentials/tessera.service/password", word.to_str().unwrap());
    fs::write(folder.path().join("service.toml"), text).unwrap();
    let mut command = bare_command(folder.path());
    let ended = command.args(["--config", "service.toml", "--print-config"]).output().unwrap();
    let shown = String::from_utf8(ended.stdout).unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(shown.contains("engine") && !shown.contains("secret"), "{shown}");
    assert_eq!(shown.matches("sslmode=verify-full").count(), 3, "{shown}");
}

#[test]
fn the_file_of_the_analytics_service_is_taken_and_pods_find_the_routers_by_a_name() {
    let folder = crate::folders::temporary();
    let shown = |command: &mut Command| {
        let ended = command.arg("--print-config").output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).unwrap()
    };
    let command = || isolated(Command::new(&*ANALYTICS), folder.path());
    let file = root().join("api-router/deploy/systemd/analytics.toml");
    let table = shown(command().arg("--config").arg(file));
    assert_eq!(table.matches("alert[").count(), 8, "{table}");
    assert!(table.contains("router1=http://127.0.0.1:3000"), "{table}");
    let set = read(&format!("{MANIFESTS}/analytics.yaml"));
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let mut analytics = command();
    for variable in container["env"].as_array().unwrap() {
        analytics.env(variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
    }
    assert!(shown(&mut analytics).contains("dns+http://tessera-routers:3000"));
    let network = fs::read_to_string(root().join(MANIFESTS).join("network.yaml")).unwrap();
    assert!(network.contains("\n  name: tessera-routers\n"));
}

#[test]
fn a_router_is_probed_by_the_command_of_its_image() {
    let test = words(&services()["router1"]["healthcheck"]["test"]);
    let program = of_stage("router", "ENTRYPOINT");
    assert_eq!([&test[0], &test[1]], ["CMD", &*program[0]]);
    let folder = crate::folders::temporary();
    let probe = |bind: &str| {
        let mut command = bare_command(folder.path());
        command.args(&test[2..]).env("TESSERA_BIND", bind).env("TESSERA_INSECURE", "true");
        let ended = command.output().unwrap();
        (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
    };
    let mut router = Router::start();
    let bind = router.address().to_string();
    assert_eq!(probe(&bind), (Some(0), String::new()));
    let everywhere = format!("0.0.0.0:{}", router.address().port());
    assert_eq!(probe(&everywhere), (Some(0), String::new()));
    router.signal("TERM");
    let began = Instant::now();
    while probe(&bind).0 == Some(0) {
        assert!(began.elapsed() < PATIENCE, "it never says that it ends");
    }
    router.wait();
    let (code, said) = probe(&bind);
    assert_eq!(code, Some(1));
    assert!(said.starts_with(&format!("{bind} does not answer: ")), "{said}");
}

#[test]
fn every_service_has_no_more_than_it_needs() {
    for (name, service) in services() {
        let is =
            |member: &str, wanted: Value| assert_eq!(service[member], wanted, "{name}: {member}");
        is("read_only", json!(true));
        is("cap_drop", json!(["ALL"]));
        is("security_opt", json!(["no-new-privileges:true"]));
        is("restart", json!("unless-stopped"));
        for member in ["mem_limit", "cpus", "stop_grace_period", "networks"] {
            assert!(!service[member].is_null(), "{name} has no {member}");
        }
        assert_eq!(service["healthcheck"]["test"][0], "CMD", "{name}");
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name}: {port}");
        }
        for forbidden in ["privileged", "cap_add", "network_mode", "pid", "devices"] {
            assert!(service[forbidden].is_null(), "{name} has {forbidden}");
        }
    }
}

#[test]
fn the_ports_are_those_that_were_agreed() {
    let mut ports: Vec<String> = services()
        .values()
        .flat_map(|service| service["ports"].as_array().cloned().unwrap_or_default())
        .map(|port| port.as_str().unwrap().split(':').nth(1).unwrap().to_owned())
        .collect();
    ports.sort();
    assert_eq!(ports, ["3000", "3001", "5432", "5433", "5434", "5435", "5436", "5437"]);
}
