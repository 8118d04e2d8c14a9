//! Python: tools of others by which the API is judged, in a virtual environment below `target` that is made once.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Another version generates other requests.
pub(crate) const SCHEMATHESIS: &str = "4.32.5";
/// The parser of those who made the format.
const PROMETHEUS_CLIENT: &str = "0.26.0";

/// What a program said, on both its outputs.
pub(crate) fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// A program of the environment, `python` among them.
///
/// # Errors
/// What could not be had.
pub(crate) fn program(name: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Two stories, perhaps of two processes, must not make it at the same time.
    let lock = File::create(folder.join("python.lock")).and_then(|file| file.lock().map(|()| file));
    let _lock = lock.map_err(|error| format!("python.lock: {error}"))?;
    let environment = folder.join(format!("schemathesis-{SCHEMATHESIS}"));
    if !is_whole(&environment) {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "--clear"]).arg(&environment);
        let mut install = Command::new(environment.join("bin/python"));
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        install.arg(format!("schemathesis=={SCHEMATHESIS}"));
        install.arg(format!("prometheus_client=={PROMETHEUS_CLIENT}"));
        for mut step in [venv, install] {
            let output = step.output().map_err(|error| format!("{step:?}: {error}"))?;
            if !output.status.success() {
                return Err(format!("{step:?}: {}", text(&output)));
            }
        }
        if !is_whole(&environment) {
            return Err(format!("{environment:?} does not work"));
        }
    }
    Ok(environment.join("bin").join(name))
}

/// Whether all is there, in these versions.
fn is_whole(environment: &Path) -> bool {
    const VERSIONS: &str = "from importlib.metadata import version as v\nprint(v('schemathesis'), v('prometheus_client'))";
    let output = Command::new(environment.join("bin/python")).args(["-c", VERSIONS]).output();
    let wanted = format!("{SCHEMATHESIS} {PROMETHEUS_CLIENT}");
    output.is_ok_and(|output| text(&output).trim_end() == wanted)
}
