//! Tests of options that are accepted and of options that are refused.

use super::*;

fn read(args: &[&str]) -> Result<Options, clap::Error> {
    Options::read(["loadtest"].iter().chain(args).map(OsString::from))
}

#[test]
fn limits_are_those_of_the_help() {
    for good in [
        ["--users", "1"],
        ["--users", "1000"],
        ["--run-time", "15s"],
        ["--run-time", "1h30m"],
        ["--keys", "10000000"],
        ["--writes", "0"],
        ["--writes", "100"],
        ["--value-size", "0..1048576"],
        ["--rate", "0.5"],
        ["--mix", "e"],
        ["--dist", "zipf:1.1"],
        ["--host", "http://[::1]:3000/"],
        ["--threshold", "p95<250ms"],
        ["--test-plan", "10,1s;10,5s;0,1s"],
        ["--timeout", "2.5"],
        ["--scenario", "read-heavy"],
    ] {
        assert!(read(&good).is_ok(), "{good:?}");
    }
    for bad in [
        ["--users", "0"],
        ["--users", "1001"],
        ["--keys", "0"],
        ["--keys", "10000001"],
        ["--writes", "101"],
        ["--value-size", "5..4"],
        ["--value-size", "0"],
        ["--value-size", "1048577"],
        ["--rate", "0"],
        ["--rate", "NaN"],
        ["--rate", "1e-20"],
        ["--mix", "g"],
        ["--seed", "x"],
        ["--host", "localhost:3000"],
        ["--host", "http://127.0.0.1:3000/api"],
        ["--host", "http://10.0.0.1:3000"],
        ["--timeout", "0"],
        ["--timeout", "601"],
        ["--scenario", "no-such-scenario"],
    ] {
        assert!(read(&bad).is_err(), "{bad:?}");
    }
}

#[test]
fn several_hosts_may_be_given_and_each_must_be_this_machine() {
    let options =
        read(&["--host", "http://127.0.0.1:1,http://127.0.0.1:2", "-H", "http://127.0.0.1:3"]);
    let reported: Vec<_> = options.unwrap().targets.iter().map(ToString::to_string).collect();
    assert_eq!(reported, ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"]);
    let refused = read(&["--host", "http://127.0.0.1:1,http://10.0.0.1:2"]).err().unwrap();
    assert!(refused.to_string().contains("http://10.0.0.1:2 is not this machine"), "{refused}");
    assert!(read(&["--host", "http://10.0.0.1:2", "--allow-remote"]).is_ok());
}

#[test]
fn the_command_line_overrides_the_scenario() {
    let plain = read(&["--scenario", "read-heavy"]).unwrap();
    assert_eq!(plain.load.mix, Mix::B);
    let other = read(&["--mix", "c", "--scenario", "read-heavy", "--users", "3"]).unwrap();
    assert_eq!((other.load.mix, other.goose.users), (Mix::C, Some(3)));
}

#[test]
fn a_scenario_can_be_completed_on_the_command_line() {
    let options = read(&["--scenario", "crash", "--router", "/r", "--history", "h"]).unwrap();
    assert!(options.load.chaos && options.load.history.is_some());
    assert!(read(&["--router", "/r"]).is_err());
    assert!(read(&["--scenario", "crash", "--host", "http://127.0.0.1:1"]).is_err());
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "about = 'x'\n[options]\nhost = 'http://127.0.0.1:9'\nusers = 2";
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_str().unwrap();
    let first_target = |args: &[&str]| read(args).unwrap().targets[0].to_string();
    assert_eq!(first_target(&["--scenario", path]), "http://127.0.0.1:9");
    let other = read(&["--scenario", path, "--host", "http://127.0.0.1:10"]).unwrap();
    assert_eq!(other.targets.len(), 1);
    assert_eq!(other.targets[0].to_string(), "http://127.0.0.1:10");
}

#[test]
fn every_scenario_that_comes_with_it_can_be_read() {
    for name in scenario::NAMES {
        read(&["--scenario", name]).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn times_are_read_as_goose_reads_them() {
    for (text, seconds) in [("15", 15), ("15s", 15), ("2m30s", 150), ("1h", 3_600)] {
        assert_eq!(parse_time(text), Some(Duration::from_secs(seconds)), "{text}");
    }
    for text in ["x", "1d", "5m3"] {
        assert_eq!(parse_time(text), None, "{text}");
    }
}

#[test]
fn faults_of_nodes_need_a_cluster_and_a_promotion_a_level_that_survives_it() {
    let chaos = |more: &[&str]| read(&[&["--verify", "--chaos"], more].concat());
    assert_eq!(chaos(&[]).unwrap().load.kinds(), FaultKind::OF_ROUTER);
    let kinds = chaos(&["--faults", "router-kill,router-restart"]).unwrap().load.kinds();
    assert_eq!(kinds, [FaultKind::RouterKill, FaultKind::RouterRestart]);
    let kinds = chaos(&["--faults", "move,rollback"]).unwrap().load.kinds();
    assert_eq!(kinds, [FaultKind::Move, FaultKind::Rollback]);
    for bad in [
        &["--faults", "stop"][..],
        &["--faults", "fire"],
        &["--faults", "rollback"],
        &["--shard-manager", "/m"],
    ] {
        assert!(chaos(bad).is_err(), "{bad:?}");
    }
    assert!(read(&["--verify", "--cluster", "c"]).is_err());
    let all = chaos(&["--cluster", "c", "--level", "quorum"]).unwrap().load.kinds();
    assert!(all.contains(&FaultKind::LostAnswer) && all.contains(&FaultKind::Promote));
    for weak in [&["--cluster", "c"][..], &["--cluster", "c", "--level", "one"]] {
        let some = chaos(weak).unwrap().load.kinds();
        assert!(
            some.contains(&FaultKind::LostAnswer) && !some.contains(&FaultKind::Promote),
            "{weak:?}"
        );
    }
    let one = chaos(&["--cluster", "c", "--faults", "promote"]).unwrap().load.kinds();
    assert_eq!(one, [FaultKind::Promote]);
    assert!(read(&["--level", "quorum"]).is_err());
}

#[test]
fn a_cache_is_broken_if_there_is_one() {
    let chaos = |more: &[&str]| read(&[&["--verify", "--chaos"], more].concat());
    let kinds = chaos(&["--cache"]).unwrap().load.kinds();
    assert_eq!(kinds, [&FaultKind::OF_ROUTER[..], &FaultKind::OF_CACHE].concat());
    let one = chaos(&["--cache", "--faults", "redis-kill,router-kill"]).unwrap().load.kinds();
    assert_eq!(one, [FaultKind::RedisKill, FaultKind::RouterKill]);
    for bad in [&["--faults", "redis-flush"][..], &["--redis-server", "/r"]] {
        assert!(chaos(bad).is_err(), "{bad:?}");
    }
    assert!(read(&["--verify", "--cache"]).is_err());
}

#[test]
fn each_tenant_has_a_user() {
    assert_eq!(read(&["--tenants", "3"]).unwrap().load.tenants, Some(3));
    assert!(read(&["--tenants", "64", "--users", "64", "--verify"]).is_ok());
    assert!(read(&["--tenants", "64", "--rate", "10"]).is_ok());
    for bad in [
        &["--tenants", "1"][..],
        &["--tenants", "65", "--users", "65"],
        &["--tenants", "4", "--users", "3"],
        &["--tenants", "2", "--verify", "--chaos"],
    ] {
        assert!(read(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn the_rate_of_a_verified_run_is_a_maximum_and_other_rates_are_those_of_the_open_model() {
    for more in [&["--yes"][..], &["--chaos"], &["--tenants", "20"]] {
        let args = [&["--verify", "--rate", "500"], more].concat();
        let options = read(&args).unwrap();
        assert_eq!((options.load.rate, options.load.open_rate()), (Some(500.0), None), "{args:?}");
        let description = options.description();
        assert!(description.starts_with("20 users, at most 500 requests/s, 15s"), "{description}");
    }
    assert!(read(&["--verify", "--rate", "1", "--users", "1000"]).is_ok());
    let open = read(&["--rate", "500", "--in-flight", "10"]).unwrap();
    assert_eq!(open.load.open_rate(), Some(500.0));
    assert!(open.description().starts_with("500 requests/s, 15s"), "{}", open.description());
    for bad in [
        &["--rate", "0.5"][..],
        &["--in-flight", "10"],
        &["--rate", "500", "--in-flight", "10"],
        &["--rate", "500", "--mix", "a"],
        &["--rate", "500", "--tenants", "4", "--users", "3"],
    ] {
        assert!(read(&[&["--verify"], bad].concat()).is_err(), "{bad:?}");
    }
}

#[test]
fn options_of_goose_without_effect_are_refused_and_not_listed() {
    let help = command().render_long_help().to_string();
    for (args, why) in [
        (&["--accept-invalid-certs"][..], "SSL_CERT_FILE"),
        (&["--no-gzip"], "compressed"),
        (&["--sticky-follow"], "redirects"),
        (&["--telnet-port", "5116"], "telnet"),
        (&["--telnet-host", "127.0.0.1"], "telnet"),
    ] {
        let refused = read(args).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.contains(args[0]) && refused.contains(why), "{refused}");
        assert!(!help.contains(&format!("      {}", args[0])), "{}", args[0]);
    }
    assert!(read(&["--no-telnet"]).is_ok(), "it is always so");
}

#[test]
fn the_help_names_the_defaults_of_the_load_tester() {
    let help = command().render_long_help().to_string();
    for said in
        ["Concurrent users [default: 20]", "[default: 15s,", "[default: 10]", "Print version"]
    {
        assert!(help.contains(said), "{said}");
    }
    assert!(!help.contains("one per CPU") && !help.contains("Goose library"), "{help}");
}
