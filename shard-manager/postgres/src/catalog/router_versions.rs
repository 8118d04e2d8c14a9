//! Router versions: the versions of the protocol of the routers that are connected to a catalog.
//!
//! Each router follows the catalog over one session, whose name in `pg_stat_activity` ends with the
//! version of its protocol, such as `tessera follower/1`. The name of a router of an earlier
//! program has no version.
//!
//! **Invariant:** a session whose name the server may have truncated is not counted, so it never
//! causes a refusal.
//! **Not here:** the session of a router (`catalog_follower`), the refusal of a move (`cluster`).

use model::error::Error;

use super::{Catalog, refused};
use crate::statement::{Bind, Statement, load};

/// Version of the protocol between the routers of a cluster. It is raised when a router of the
/// previous version could break a guarantee of this one.
const PROTOCOL: u32 = 1;

/// Counts the routers of earlier versions. The server truncates names to 63 bytes, so names of that
/// length are ignored.
const OLDER: &str = "SELECT count(*)::bigint FROM pg_stat_activity
    WHERE datname = current_database() AND octet_length(application_name) < 63
        AND application_name ~ '(^| )tessera follower(/[0-9]{1,9})?$'
        AND coalesce(substring(application_name FROM 'follower/([0-9]{1,9})$')::bigint, 0) < $1";

/// Returns the purpose of the session that follows a catalog.
pub fn follower_purpose() -> String {
    format!("follower/{PROTOCOL}")
}

/// Returns the number of connected routers whose version is lower than that of this program.
///
/// # Errors
/// The error of the catalog.
pub async fn older_routers(catalog: &Catalog) -> Result<u64, Error> {
    let binds = [Bind::bigint(i64::from(PROTOCOL))];
    let counted = Statement { sql: OLDER, binds: &binds, cached: false };
    let counted = load(&catalog.connection, counted).await.map_err(|error| refused(&error))?;
    let count = counted.first().and_then(|row| row.bigint(0));
    Ok(count.unwrap_or(0).max(0).cast_unsigned())
}
