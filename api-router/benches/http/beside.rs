//! Benchmark of this router beside another build of it, such as that of an earlier version.
//!
//! `-- beside target/old/api-router 7 2` compares them on files. Two more arguments name files with
//! the variables of two PostgreSQL clusters (the `tessera.env` of `shard-manager cluster up`): the
//! other build then serves the first cluster, and this build the second.

use std::path::Path;

use crate::pairs::{Side, compare};
use crate::servers::Router;
use crate::{read, write};

/// Rows of a bulk write.
const BULK_ROWS: u32 = 100;

/// Measures the requests of both routers; "off" is the other build.
pub(crate) fn measure(rounds: u32, seconds: u32, workers: &str) -> std::io::Result<()> {
    let after = std::env::args().skip_while(|argument| argument != "beside").skip(1);
    let mut paths = after.filter(|argument| argument.parse::<u32>().is_err());
    let other = paths.next().ok_or_else(|| std::io::Error::other("name the other router"))?;
    let other = std::fs::canonicalize(other)?;
    let variables = [variables(paths.next())?, variables(paths.next())?];
    let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
    let own = Path::new(env!("CARGO_BIN_EXE_api-router"));
    let start = |index: usize| {
        let program = [&*other, own][index];
        let flags = ["--workers", workers];
        Router::start_program(program, dirs[index].path(), &flags, &variables[index])
    };
    let routers = [start(0)?, start(1)?];
    for router in &routers {
        router.load_users()?;
    }
    let sides = routers.each_ref().map(|router| Side { router, headers: "" });
    let cases = [
        ("point write", write as Script),
        ("point read", read),
        ("read of all", read_all),
        ("bulk write", write_many),
    ];
    for (name, script) in cases {
        compare(name, script, &sides, (rounds, seconds), dirs[0].path())?;
    }
    Ok(())
}

/// Function that builds a wrk script, given the headers of its requests.
type Script = fn(&str) -> String;

/// Returns the arguments after the name of a measurement: the numbers, and the name of a file.
pub(crate) fn numbers_and_file(measurement: &str) -> (Vec<usize>, Option<String>) {
    let (mut numbers, mut file) = (Vec::new(), None);
    // Cargo adds this flag to the arguments of the user.
    let is_given = |argument: &String| argument != "--bench";
    for argument in std::env::args().skip_while(|name| name != measurement).skip(1).filter(is_given)
    {
        match argument.parse() {
            Ok(number) => numbers.push(number),
            Err(_) => file = Some(argument),
        }
    }
    (numbers, file)
}

/// Reads the variables of a file; none without a file.
pub(crate) fn variables(file: Option<String>) -> std::io::Result<Vec<(String, String)>> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(file)?;
    let lines = text.lines().map(|line| line.trim_start_matches("export "));
    let pairs = lines.filter_map(|line| line.split_once('='));
    let unquoted = |value: &str| value.trim_matches(['\'', '"']).to_owned();
    Ok(pairs.map(|(name, value)| (name.to_owned(), unquoted(value))).collect())
}

fn read_all(_headers: &str) -> String {
    r#"request = function()
             return wrk.format("GET", "/api/read?table=users&limit=10")
           end"#
        .to_owned()
}

fn write_many(_headers: &str) -> String {
    format!(
        r#"request = function()
             local rows = {{}}
             for i = 1, {BULK_ROWS} do
               local k = "user_" .. math.random(0, 9999)
               rows[i] = '{{"user_id":"' .. k .. '","name":"John Doe","email":"j@example.com"}}'
             end
             return wrk.format("POST", "/api/bulk-write", {{["content-type"] = "application/json"}},
               '{{"table":"users","records":[' .. table.concat(rows, ",") .. ']}}')
           end"#
    )
}
