//! `role`: defines and lists the roles of keys and tokens.
//!
//! **Not here:** the form of a role (`access::role`).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use access::role::AccessRole;
use clap::{Args, Subcommand};
use engine::access_store::AccessChange;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::super::CommandError;
use super::super::atomic_file::refused;
use super::catalog_place::CatalogArgs;
use crate::terminal::Terminal;

const APPLY_EXAMPLES: &str = "\
The file has one role as a JSON object, or an array of them. All of them are defined, replacing
roles of the same name, or none. A change is in force on all routers within a second.

Examples:
  shard-manager role apply shop.json
  echo '{\"role\":\"shop\",\"grants\":[{\"tables\":[\"users\"],\"may\":[\"read\"],\"keys\":\"$tenant\"}]}' > shop.json";

/// Maximum size of a file of roles in bytes, small enough for one request to the control socket of
/// a router.
const FILE_MAX: u64 = 2 << 20;

/// Operation on roles.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Defines the roles of a file
    #[command(after_help = APPLY_EXAMPLES)]
    Apply {
        /// File of one role, or of an array of roles, as JSON
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        catalog: CatalogArgs,
    },
    /// Lists the roles; with --json whole, as `role apply` reads them
    List(CatalogArgs),
}

/// Role as `role list --json` shows it.
#[derive(Serialize)]
struct Listed {
    built_in: bool,
    document: Box<RawValue>,
}

/// Runs the operation.
pub(crate) fn run(options: &Options, terminal: &Terminal) -> Result<(), CommandError> {
    match &options.verb {
        Verb::Apply { file, catalog } => apply(file, catalog, terminal),
        Verb::List(catalog) => list(catalog, terminal),
    }
}

fn apply(file: &Path, catalog: &CatalogArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let roles = AccessRole::parse_file(&read(file)?).map_err(|error| refused(file, &error))?;
    if roles.is_empty() {
        return Err(refused(file, &"the list has no roles"));
    }
    let names: Vec<String> = roles.iter().map(|role| role.name().to_owned()).collect();
    catalog.place()?.change(&AccessChange::PutRoles(roles), |_| "FILE")?;
    let shown =
        terminal.show(&json!({"defined": names}), |_| format!("defined: {}", names.join(", ")));
    Ok(shown?)
}

fn read(path: &Path) -> Result<String, CommandError> {
    let mut text = String::new();
    let opened = File::open(path).map_err(|error| refused(path, &error))?;
    let read = opened.take(FILE_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| refused(path, &error))?;
    if text.len() as u64 > FILE_MAX {
        return Err(refused(path, &format_args!("the file has more than {} MiB", FILE_MAX >> 20)));
    }
    Ok(text)
}

fn list(catalog: &CatalogArgs, terminal: &Terminal) -> Result<(), CommandError> {
    let state = catalog.place()?.load()?;
    let is_defined = |name: &str| state.roles.iter().any(|role| role.name() == name);
    let built_in = AccessRole::built_in().into_iter().filter(|role| !is_defined(role.name()));
    let built_in: Vec<AccessRole> = built_in.collect();
    let all = built_in.iter().map(|role| (true, role));
    let all: Vec<(bool, &AccessRole)> =
        all.chain(state.roles.iter().map(|role| (false, role))).collect();
    let listed = all.iter().map(|(built_in, role)| {
        let document = RawValue::from_string(role.to_json()).map_err(|error| error.to_string())?;
        Ok(Listed { built_in: *built_in, document })
    });
    let listed: Result<Vec<Listed>, String> = listed.collect();
    let listed = listed.map_err(CommandError::Refused)?;
    let shown = terminal.show(&listed, |terminal| {
        let rows: Vec<Vec<String>> =
            all.iter().map(|(built_in, role)| cells(*built_in, role)).collect();
        terminal.table(&["role", "defined by", "grants", "bound to keys", "scopes"], &rows)
    });
    Ok(shown?)
}

fn cells(built_in: bool, role: &AccessRole) -> Vec<String> {
    let scopes: Vec<&str> = role.scopes().iter().map(|scope| scope.name()).collect();
    vec![
        role.name().to_owned(),
        if built_in { "the program" } else { "the catalog" }.to_owned(),
        role.grants().len().to_string(),
        if role.is_bound() { "yes" } else { "no" }.to_owned(),
        if scopes.is_empty() { "-".to_owned() } else { scopes.join(",") },
    ]
}
