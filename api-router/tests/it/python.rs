//! Python: runs third-party tools that test the API, in virtual environments below `target`, which
//! are created once.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Version of schemathesis; another version generates other requests.
pub(crate) const SCHEMATHESIS: &str = "4.32.5";

/// Packages that are installed together, in exactly these versions.
pub(crate) struct Environment {
    /// First part of the name of the folder; the rest is the version of the first package.
    name: &'static str,
    packages: &'static [(&'static str, &'static str)],
}

/// The tool that generates requests from the OpenAPI document, and the reference parser of the
/// metrics format.
const JUDGES: Environment = Environment {
    name: "schemathesis",
    packages: &[("schemathesis", SCHEMATHESIS), ("prometheus_client", "0.26.0")],
};

/// Tools that generate a client from the document, and check its types.
pub(crate) const GENERATORS: Environment = Environment {
    name: "openapi-python-client",
    packages: &[("openapi-python-client", "0.29.1"), ("mypy", "2.4.1")],
};

/// Returns both outputs of a program.
pub(crate) fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// Returns a program of the tools that judge the API, `python` among them.
///
/// # Errors
/// The package or tool that could not be installed.
pub(crate) fn program(name: &str) -> Result<PathBuf, String> {
    program_of(&JUDGES, name)
}

/// Returns a program of an environment, `python` among them.
///
/// # Errors
/// The package or tool that could not be installed.
pub(crate) fn program_of(environment: &Environment, name: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Two tests, perhaps of two processes, must not create it at the same time.
    let lock = File::create(folder.join("python.lock")).and_then(|file| file.lock().map(|()| file));
    let _lock = lock.map_err(|error| format!("python.lock: {error}"))?;
    let packages = environment.packages;
    let folder = folder.join(format!("{}-{}", environment.name, packages[0].1));
    if !is_whole(&folder, packages) {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "--clear"]).arg(&folder);
        let mut install = Command::new(folder.join("bin/python"));
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        install.args(packages.iter().map(|(package, version)| format!("{package}=={version}")));
        for mut step in [venv, install] {
            let output = step.output().map_err(|error| format!("{step:?}: {error}"))?;
            if !output.status.success() {
                return Err(format!("{step:?}: {}", text(&output)));
            }
        }
        if !is_whole(&folder, packages) {
            return Err(format!("{folder:?} does not work"));
        }
    }
    Ok(folder.join("bin").join(name))
}

/// Returns true if all packages are installed in these versions.
fn is_whole(folder: &Path, packages: &[(&str, &str)]) -> bool {
    const VERSIONS: &str =
        "import sys\nfrom importlib.metadata import version\nprint(*map(version, sys.argv[1:]))";
    let mut versions = Command::new(folder.join("bin/python"));
    versions.args(["-c", VERSIONS]).args(packages.iter().map(|(package, _)| package));
    let wanted: Vec<&str> = packages.iter().map(|(_, version)| *version).collect();
    versions.output().is_ok_and(|output| text(&output).trim_end() == wanted.join(" "))
}
