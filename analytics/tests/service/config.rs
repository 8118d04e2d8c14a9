//! Tests of settings: flags, variables and the file, and the errors of invalid ones.

use std::fs;
use std::path::Path;

use crate::process::{command, refused};

/// Returns the output of `--print-config`.
fn shown(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = command(folder)
        .args(arguments)
        .arg("--print-config")
        .envs(variables.iter().copied())
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn line<'t>(table: &'t str, name: &str) -> &'t str {
    let mut lines = table.lines().map(str::trim);
    lines.find(|line| line.split(' ').next() == Some(name)).unwrap_or_else(|| panic!("{table}"))
}

#[test]
fn effective_settings_are_shown_with_their_origin_and_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let table = shown(folder.path(), &[], &[]);
    assert!(
        line(&table, "bind").contains("127.0.0.1:3001")
            && line(&table, "bind").ends_with("# default")
    );
    assert!(line(&table, "routers").contains("= http://127.0.0.1:3000 "));
    assert!(line(&table, "store").contains("./analytics.db"));
    fs::write(folder.path().join("word"), "Bearer hunter2\n").unwrap();
    fs::write(
        folder.path().join("analytics.toml"),
        r#"
            workers = 3
            store = "none"
            [[router]]
            name = "north"
            url = "https://north.example.com"
            [[alert]]
            name = "slow"
            kind = "p99"
            raise = 250
            clear = 200.5
            for = "2m"
            window = "5m"
            router = "north"
            [[webhook]]
            name = "oncall"
            url = "https://hooks.example.com/services/hunter2"
            authorization_file = "word"
        "#,
    )
    .unwrap();
    let secret = ("TESSERA_ANALYTICS_STORE", "postgres://me:hunter2@db.example.com/figures");
    let table = shown(folder.path(), &["--workers", "4"], &[secret]);
    assert!(line(&table, "workers").contains("= 4") && line(&table, "workers").ends_with("# flag"));
    let store = line(&table, "store");
    assert!(
        store.contains("= postgres://db.example.com:5432/figures")
            && store.ends_with("# environment")
    );
    assert!(line(&table, "routers").ends_with("# analytics.toml"), "{table}");
    assert!(line(&table, "routers").contains("north=https://north.example.com"));
    let rule = line(&table, "alert[slow]");
    assert!(rule.contains("p99 from 250 ms on, over at 200.5 ms, for 120 s, clear for 30 s, window 300 s, router north"));
    assert!(
        line(&table, "webhook[oncall]")
            .contains("https://hooks.example.com/***, authorization ***")
    );
    assert!(!table.contains("hunter2"), "{table}");
    let table =
        shown(folder.path(), &["--routers", "a=http://[::1]:1,dns+http://routers:3000"], &[]);
    assert!(
        line(&table, "routers").contains("= a=http://[::1]:1,dns+http://routers:3000 "),
        "{table}"
    );
}

#[test]
fn invalid_settings_are_refused_with_the_allowed_values() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, said) in [
        (&["--bind", "here"][..], "bind (from flag) is `here`; it must be an address and a port"),
        (&["--workers", "0"], "workers (from flag) is `0`; it must be a number from 1 to 64"),
        (
            &["--log", "loud"],
            "log (from flag) is `loud`; it must be error, warn, info, debug or trace",
        ),
        (&["--store", "redis://x:hunter2@y"], "store (from flag) must be a file, postgres://"),
        (
            &["--store", "postgres://me:hunter2@y/z?sslmode=prefer"],
            "sslmode must be disable or verify-full",
        ),
        (&["--routers", ""], "routers (from flag) must name 1 to 64 routers"),
        (
            &["--routers", "127.0.0.1:3000"],
            "routers (from flag) must be a URL such as http://127.0.0.1:3000",
        ),
        (&["--routers", "http://me:hunter2@a"], "without user name"),
        (&["--routers", "http://127.0.0.1:99999"], "a port is a number from 1 to 65535"),
        (&["--routers", "https://[::1]:0"], "a port is a number from 1 to 65535"),
        (&["--routers", "http://a/api"], "must be scheme, host and port only"),
        (
            &["--routers", "http://a,http://a"],
            "names http://a twice: its requests would count twice",
        ),
        (&["--routers", "x=http://a,x=http://b"], "calls two routers x"),
        (&["--routers", "my router=http://a"], "has a name that must be 1 to 64 letters, digits"),
        (&["--routers", "x=dns+http://a"], "leave the name out"),
        (&["--bind", "0.0.0.0:0"], "0.0.0.0:0 can be reached from other machines"),
        (&["--config", "nowhere.toml"], "nowhere.toml: No such file"),
    ] {
        let (code, stdout, stderr) = refused(folder.path(), arguments);
        assert_eq!((code, &*stdout), (Some(2), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said) && !stderr.contains("hunter2"), "{arguments:?}: {stderr}");
    }
    for (variable, said) in [
        (
            "TESSERA_ANALYTICS_BNID",
            "TESSERA_ANALYTICS_BNID (from environment) is not a setting; did you mean TESSERA_ANALYTICS_BIND?",
        ),
        (
            "TESSERA_ANALYTICS_COLOUR",
            "there are: TESSERA_ANALYTICS_BIND, TESSERA_ANALYTICS_ROUTERS, TESSERA_ANALYTICS_STORE",
        ),
        ("TESSERA_ANALYTICS_bind", "is not a setting"),
    ] {
        let output = command(folder.path()).env(variable, "x").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
    // Settings of routers in the same environment are ignored.
    let strangers = [("TESSERA_BIND", "x"), ("TESSERA_ANALYTICS", "off"), ("TESSERA_LAB", "x")];
    shown(folder.path(), &[], &strangers);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = taken.local_addr().unwrap().to_string();
    let (code, _, stderr) = refused(folder.path(), &["--bind", &bind, "--store", "none"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains(&format!("cannot serve on {bind}")), "{stderr}");
}

/// Returns the error for a configuration file with this content.
fn of_file(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("analytics.toml"), text).unwrap();
    let (code, stdout, stderr) = refused(folder.path(), &["--print-config"]);
    assert_eq!((code, &*stdout), (Some(2), ""), "{text}: {stderr}");
    assert!(!stderr.contains("hunter2"), "{stderr}");
    stderr
}

#[test]
fn a_bad_file_is_refused_with_the_place_and_the_member() {
    for (text, said) in [
        ("bind = ", "analytics.toml: line 1: "),
        ("bnid = \"x\"", "bnid (from analytics.toml) is not a setting; did you mean bind?"),
        ("alert = 1", "alert (from analytics.toml) must be a list of at most 100: write [[alert]]"),
        ("routers = [\"http://a\"]\n[[router]]\nurl = \"http://b\"", "stands beside routers"),
        ("[[router]]\nname = \"a\"", "router[a].url (from analytics.toml) is missing"),
        ("[[router]]\nurl = 7", "router[1].url (from analytics.toml) must be a text"),
        (
            "[[router]]\nurl = \"http://a\"\ncolour = 1",
            "router[1].colour (from analytics.toml) is not a setting",
        ),
        (
            "[[webhook]]\nname = \"a\"",
            "webhook[a].url (from analytics.toml) is missing, and so is url_file",
        ),
        (
            "[[webhook]]\nname = \"a\"\nurl = \"ftp://hunter2\"",
            "webhook[a].url (from analytics.toml) must be a URL",
        ),
        (
            "[[webhook]]\nname = \"a\"\nurl = \"http://a\"\nauthorization_env = \"NOT_THERE\"",
            "names a variable that is not set",
        ),
        (
            "[[webhook]]\nname = \"a\"\nurl = \"http://a\"\nauthorization_file = \"no\"",
            "authorization_file (from analytics.toml) names no: ",
        ),
    ] {
        let stderr = of_file(text);
        assert!(stderr.contains(said), "{text}: {stderr}");
    }
}

/// Invalid rules, each as the members of the rule and the expected error.
const BAD_RULES: &[(&str, &str)] = &[
    ("kind = \"p98\"", "alert[x].kind (from analytics.toml) must be one of p99, error_rate, lag"),
    (
        "kind = \"p99\"",
        "alert[x].raise (from analytics.toml) is missing: it must be a number from 0.001 to 60000 (ms)",
    ),
    ("kind = \"p99\"\nraise = \"slow\"", "alert[x].raise (from analytics.toml) must be a number"),
    (
        "kind = \"p99\"\nraise = 70000",
        "alert[x].raise (from analytics.toml) must be a number from 0.001 to 60000",
    ),
    (
        "kind = \"error_rate\"\nraise = 5",
        "alert[x].raise (from analytics.toml) must be a number from 0.000001 to 1",
    ),
    (
        "kind = \"p99\"\nraise = 5\nclear = 6",
        "alert[x].clear (from analytics.toml) must be from 0 to raise",
    ),
    (
        "kind = \"skew\"\nraise = 2\nclear = 0.5",
        "alert[x].clear (from analytics.toml) must be at least 1",
    ),
    ("kind = \"p99\"\nraise = nan", "alert[x].raise (from analytics.toml) must be a number from"),
    (
        "kind = \"p99\"\nraise = 5\nfor = \"soon\"",
        "alert[x].for (from analytics.toml) must be a time such as 30s",
    ),
    ("kind = \"p99\"\nraise = 5\nfor = 30", "alert[x].for (from analytics.toml) must be a text"),
    (
        "kind = \"p99\"\nraise = 5\nclear_for = \"25h\"",
        "alert[x].clear_for (from analytics.toml) must be a time",
    ),
    (
        "kind = \"p99\"\nraise = 5\nwindow = \"6h\"",
        "alert[x].window (from analytics.toml) must be one of 1m, 5m, 15m, 1h",
    ),
    (
        "kind = \"lag\"\nraise = 5\nwindow = \"1m\"",
        "alert[x].window (from analytics.toml) has no meaning for lag",
    ),
    (
        "kind = \"shard_down\"\nraise = 1",
        "alert[x].raise (from analytics.toml) has no meaning for shard_down",
    ),
    (
        "kind = \"rebalance_failed\"\nshard = \"a\"",
        "alert[x].shard (from analytics.toml) has no meaning for rebalance_failed: leave it out",
    ),
    (
        "kind = \"router_down\"\nshard = \"a\"",
        "alert[x].shard (from analytics.toml) has no meaning for router_down",
    ),
    (
        "kind = \"router_down\"\nrouter = \"a\"",
        "alert[x].router (from analytics.toml) must be the name of a router",
    ),
    (
        "kind = \"router_down\"\nfro = \"1s\"",
        "alert[1].fro (from analytics.toml) is not a setting; did you mean for?",
    ),
    (
        "kind = \"shard_down\"\n[[alert]]\nname = \"x\"\nkind = \"lag\"\nraise = 1",
        "alert[x].name (from analytics.toml) is that of another rule",
    ),
];

#[test]
fn a_rule_that_could_never_fire_or_never_end_is_refused_with_its_name_and_member() {
    for (members, said) in BAD_RULES {
        let stderr = of_file(&format!("[[alert]]\nname = \"x\"\n{members}\n"));
        assert!(stderr.contains(said), "{members}: {stderr}");
    }
}
