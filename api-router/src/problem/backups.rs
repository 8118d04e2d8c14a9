//! Backups: maps each refusal of a request about backups to its problem.
//!
//! **Invariant:** the mapping is exhaustive, and no detail contains a path.
//! **Not here:** the codes, and the form of a problem (`problem`).

use shard_manager::manager::BackupsError;

use super::{Code, Problem};

/// Hint that names the setting as flag, environment variable and key of the configuration file.
const SETTING: &str =
    "start the router with --backup-dir DIR (TESSERA_BACKUP_DIR, or backup_dir in tessera.toml)";

/// Returns the problem of a router without a folder for backups.
pub fn no_backup_dir() -> Problem {
    let detail = "this router has no folder for backups: its setting backup_dir is not set";
    Problem::new(Code::TSR339, detail).outcome("rejected").hint(SETTING)
}

impl From<BackupsError> for Problem {
    fn from(error: BackupsError) -> Self {
        let detail = error.to_string();
        let problem = match error {
            BackupsError::Unsupported => Self::new(
                Code::TSR339,
                "routers do not back up Citus clusters, whose rows are on the workers",
            )
            .hint("use the backup tools of the Citus servers"),
            BackupsError::Folder(_) => Self::new(Code::TSR339, detail)
                .hint("the log of the router names the reason; correct it, and send the request again"),
            BackupsError::Closing => {
                Self::new(Code::TSR339, detail).hint("send the request again once the router has restarted")
            }
            BackupsError::Runs(id) => Self::new(Code::TSR340, detail).hint(format!(
                "wait until GET /api/backup/{id} shows its end, or cancel it with POST /api/backup/{id}/cancel"
            )),
            BackupsError::NoBackup => {
                Self::new(Code::TSR342, detail).hint("/api/backup lists the backups")
            }
            BackupsError::Ended(id) => Self::new(Code::TSR343, detail)
                .hint(format!("GET /api/backup/{id} shows its result")),
        };
        problem.outcome("rejected")
    }
}
