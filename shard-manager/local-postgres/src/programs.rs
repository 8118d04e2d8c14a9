//! Programs: finds the installed programs of PostgreSQL.
//!
//! **Invariant:** a folder is used only if it has every program that is needed; of several folders,
//! the one with the newest version is used.
//! **Not here:** running the programs (`shared_env`).

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::LocalError;

/// Oldest supported major version of PostgreSQL.
pub const MAJOR_MIN: u32 = 15;
/// Environment variable that names the folder of the programs.
pub const VARIABLE: &str = "TESSERA_PG_BIN";
const NEEDED: [&str; 8] = [
    "postgres",
    "initdb",
    "pg_ctl",
    "pg_basebackup",
    "pg_controldata",
    "pg_rewind",
    "createdb",
    "psql",
];
/// Folders in which packages install the programs; `*` stands for a version.
const FOLDERS: [&str; 9] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/opt/local/lib/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
];

/// Programs of one installed version of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// Folder of the programs.
    pub bin: PathBuf,
    /// Major version.
    pub major: u32,
}

impl Programs {
    /// Finds the programs: in the named folder, or else in the folder that [`VARIABLE`] names, or
    /// else those of the newest installed version.
    ///
    /// # Errors
    /// [`LocalError::NoPrograms`] if they are missing, incomplete or too old.
    pub fn find(named: Option<&Path>) -> Result<Self, LocalError> {
        let set = env::var_os(VARIABLE).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        if let Some(folder) = named.map(Path::to_owned).or(set) {
            let folder = std::path::absolute(&folder).unwrap_or(folder);
            return Self::of_folder(&folder);
        }
        let found: Vec<_> = installed().iter().map(|folder| Self::of_folder(folder)).collect();
        let newest = found.iter().flatten().max_by_key(|programs| programs.major).cloned();
        let cause = || LocalError::NoPrograms {
            cause: "no programs of PostgreSQL were found".to_owned(),
            least: MAJOR_MIN,
        };
        newest
            .map_or_else(|| Err(found.into_iter().find_map(Result::err).unwrap_or_else(cause)), Ok)
    }

    /// Finds the installed programs of this major version.
    pub(super) fn find_major(major: u32) -> Option<Self> {
        installed()
            .iter()
            .filter_map(|folder| Self::of_folder(folder).ok())
            .find(|it| it.major == major)
    }

    /// Checks the programs of a folder.
    pub(super) fn of_folder(folder: &Path) -> Result<Self, LocalError> {
        let refused = |cause| Err(LocalError::NoPrograms { cause, least: MAJOR_MIN });
        let bin = folder.to_owned();
        if let Some(missing) = NEEDED.iter().find(|program| !bin.join(program).is_file()) {
            return refused(format!("{} has no program {missing}", bin.display()));
        }
        let run = Command::new(bin.join("postgres")).arg("--version").stdin(Stdio::null()).output();
        let output = run.map(|ended| String::from_utf8_lossy(&ended.stdout).trim().to_owned());
        match output.as_deref().map(major_of) {
            Ok(Some(major)) if major >= MAJOR_MIN => Ok(Self { bin, major }),
            Ok(Some(major)) => refused(format!("{} is PostgreSQL {major}, too old", bin.display())),
            Ok(None) | Err(_) => refused(format!("{} does not report its version", bin.display())),
        }
    }
}

/// Returns the major version in an output such as `postgres (PostgreSQL) 15.14 (Debian …)` or one
/// with `18beta1`.
fn major_of(output: &str) -> Option<u32> {
    let version = output.strip_prefix("postgres (PostgreSQL) ")?;
    let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..end].parse().ok()
}

/// Returns those folders that contain the server program.
fn installed() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).filter(|it| it.is_absolute()).collect();
    folders.extend(FOLDERS.iter().flat_map(|pattern| matching(pattern)));
    let mut seen = BTreeSet::new();
    folders.retain(|folder| folder.join("postgres").is_file() && seen.insert(folder.clone()));
    folders
}

/// Expands a path pattern in which one component contains a `*`.
fn matching(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![pattern.into()] };
    let (parent, start) = before.rsplit_once('/').unwrap_or(("", before));
    let Ok(entries) = fs::read_dir(format!("{parent}/")) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let fitting = names.filter(|name| name.starts_with(start));
    fitting.map(|name| PathBuf::from(format!("{parent}/{name}{after}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_every_package_writes_them() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_of("postgres (PostgreSQL) 17devel"), Some(17));
        assert_eq!(major_of("mysqld 8"), None);
    }

    #[test]
    fn a_folder_without_programs_is_refused_with_what_to_install() {
        let dir = tempfile::tempdir().unwrap();
        let error = Programs::find(Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains("has no program postgres; install PostgreSQL 15"), "{error}");
    }

    #[test]
    fn a_folder_without_one_of_the_programs_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for program in NEEDED {
            fs::write(dir.path().join(program), "").unwrap();
        }
        for program in NEEDED {
            fs::remove_file(dir.path().join(program)).unwrap();
            let error = Programs::of_folder(dir.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("has no program {program};")), "{error}");
            fs::write(dir.path().join(program), "").unwrap();
        }
        assert!(NEEDED.contains(&"pg_rewind"), "a former primary rejoins by it");
    }
}
