//! Scenario: a TOML file that describes a run by a list of options.
//!
//! ```toml
//! about = "95 % reads of a few popular users"
//! [options]
//! mix = "b"
//! users = 64
//! no-fill = true
//! ```
//!
//! **Invariant:** an option in a file means the same as on the command line; a file contains only
//! options and a description.

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use toml::{Table, Value};

/// Maximum number of bytes of a scenario file; scenarios are short.
const FILE_BYTES_MAX: u64 = 64 << 10;

macro_rules! scenarios {
    ($($name:literal),* $(,)?) => {
        /// Scenarios that come with the program.
        #[cfg(test)]
        pub(crate) const NAMES: &[&str] = &[$($name),*];
        const KNOWN: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../scenarios/", $name, ".toml")))),*];
    };
}

scenarios!("read-heavy", "write-heavy", "bulk-import", "hot-key", "replica-lag", "crash");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    #[serde(rename = "about")]
    _about: String,
    options: Table,
}

/// Returns the options of a scenario as arguments of the command line.
///
/// # Errors
/// Fails if there is no scenario or file of that name, or if the file is not a scenario.
pub(crate) fn arguments(name: &str) -> anyhow::Result<Vec<String>> {
    let known = KNOWN.iter().find(|(known, _)| *known == name);
    let text = match known {
        Some((_, text)) => (*text).to_owned(),
        None => read(name)?,
    };
    let scenario: Scenario =
        toml::from_str(&text).with_context(|| format!("{name} is not a scenario"))?;
    let mut arguments = Vec::new();
    for (option, value) in scenario.options {
        ensure!(option != "scenario", "{name}: a scenario cannot name another");
        push(&mut arguments, &option, value).with_context(|| format!("{name}: {option}"))?;
    }
    Ok(arguments)
}

fn read(name: &str) -> anyhow::Result<String> {
    let known: Vec<_> = KNOWN.iter().map(|(name, _)| *name).collect();
    let about = || format!("no scenario {name}: neither a file nor one of {}", known.join(", "));
    let size = std::fs::metadata(name).with_context(about)?.len();
    ensure!(size <= FILE_BYTES_MAX, "{name} is not a scenario: longer than {FILE_BYTES_MAX} bytes");
    std::fs::read_to_string(name).with_context(about)
}

fn push(arguments: &mut Vec<String>, option: &str, value: Value) -> anyhow::Result<()> {
    let text = match value {
        Value::String(text) => text,
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(true) => {
            arguments.push(format!("--{option}"));
            return Ok(());
        }
        Value::Boolean(false) => return Ok(()),
        Value::Array(values) => {
            return values.into_iter().try_for_each(|value| push(arguments, option, value));
        }
        Value::Datetime(_) | Value::Table(_) => bail!("expected a text, a number, true or false"),
    };
    arguments.push(format!("--{option}={text}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> anyhow::Result<Vec<String>> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        arguments(file.path().to_str().unwrap())
    }

    #[test]
    fn a_file_is_read_as_options_of_the_command_line() {
        let text = "about = 'x'\n[options]\nmix = 'b'\nusers = 5\nrate = 0.5\njson = true\n\
                    no-fill = false\nthreshold = ['p95<1s', 'error-rate<1%']";
        let reported = of(text).unwrap();
        let wanted = [
            "--mix=b",
            "--users=5",
            "--rate=0.5",
            "--json",
            "--threshold=p95<1s",
            "--threshold=error-rate<1%",
        ];
        assert_eq!(reported.len(), wanted.len(), "{reported:?}");
        assert!(
            wanted.iter().all(|option| reported.iter().any(|reported| reported == option)),
            "{reported:?}"
        );
    }

    #[test]
    fn a_file_that_is_no_scenario_is_named_with_the_reason() {
        for (text, reason) in [
            ("about = 'x'", "options"),
            ("[options]\nmix = 'b'", "about"),
            ("about = 'x'\nmore = 1\n[options]", "more"),
            ("about = 'x'\n[options]\nusers = {}", "users"),
            ("about = 'x'\n[options]\nscenario = 'a'", "another"),
            ("}", "not a scenario"),
        ] {
            let error = format!("{:#}", of(text).unwrap_err());
            assert!(error.contains(reason), "{text}: {error}");
        }
        let error = format!("{:#}", arguments("/nonexistent").unwrap_err());
        assert!(error.contains("read-heavy"), "{error}");
    }
}
