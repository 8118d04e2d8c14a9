//! Free connections: the number of connections that a server still accepts from the role of this
//! process, and the setting that limits it.
//!
//! **Invariant:** a CONNECTION LIMIT is not counted for a superuser, to whom it does not apply.
//! **Not here:** the limits that a router checks when it starts (`requirements`).

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use model::stats::MoverConnections;

use super::statement::{Statement, load};

/// Free connections of the server, of the role and of the database (NULL without a limit), and the
/// connections of movers with the database.
const FREE: &str = "SELECT current_setting('max_connections')::bigint
    - current_setting('superuser_reserved_connections')::bigint
    - coalesce(current_setting('reserved_connections', true)::bigint, 0)
    - (SELECT coalesce(sum(numbackends), 0) FROM pg_stat_database)::bigint,
    (SELECT r.rolconnlimit - (SELECT count(*) FROM pg_stat_activity AS a
            WHERE a.usename = session_user AND a.backend_type = 'client backend')
        FROM pg_roles AS r
        WHERE r.rolname = session_user AND r.rolconnlimit >= 0 AND NOT r.rolsuper)::bigint,
    (SELECT d.datconnlimit - s.numbackends
        FROM pg_database AS d JOIN pg_stat_database AS s ON s.datid = d.oid
        WHERE d.datname = current_database() AND d.datconnlimit >= 0
            AND NOT (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = session_user))::bigint,
    (SELECT count(*) FROM pg_stat_activity AS a
        WHERE a.datname = current_database() AND a.application_name LIKE '%tessera mover')::bigint";

/// Free connections of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FreeConnections {
    /// Free connections of the server.
    pub(super) of_server: i64,
    /// Those of the role; `None` without a limit.
    of_role: Option<i64>,
    /// Those of the database; `None` without a limit.
    of_database: Option<i64>,
    /// Connections that movers have with the database.
    of_movers: i64,
}

/// Reads the free connections of a session's server.
///
/// # Errors
/// The error of the server.
pub(super) async fn read(connection: &AsyncPgConnection) -> QueryResult<FreeConnections> {
    let rows = load(connection, Statement { sql: FREE, binds: &[], cached: false }).await?;
    let number = |column| rows.first().and_then(|row| row.bigint(column));
    Ok(FreeConnections {
        of_server: number(0).unwrap_or(0),
        of_role: number(1),
        of_database: number(2),
        of_movers: number(3).unwrap_or(0),
    })
}

impl FreeConnections {
    /// Returns the connections that movers need if they open this number at most.
    pub(super) fn for_movers(self, most: u64) -> MoverConnections {
        let limits = [
            (self.of_role, "the CONNECTION LIMIT of the role"),
            (self.of_database, "the CONNECTION LIMIT of the database"),
        ];
        let (mut free, mut limit) = (self.of_server, "max_connections");
        for (of_limit, name) in limits {
            if let Some(fewer) = of_limit.filter(|of_limit| *of_limit < free) {
                (free, limit) = (fewer, name);
            }
        }
        let count = |number: i64| number.max(0).cast_unsigned();
        let needed = most.saturating_sub(count(self.of_movers));
        MoverConnections { needed, free: count(free), limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_number_of_free_connections_counts_and_its_limit_is_named() {
        let server = FreeConnections { of_server: 9, ..FreeConnections::default() };
        let found = server.for_movers(4);
        let limit = "max_connections";
        assert_eq!(found, MoverConnections { needed: 4, free: 9, limit });
        let role = FreeConnections { of_role: Some(2), of_database: Some(3), ..server };
        let limit = "the CONNECTION LIMIT of the role";
        assert_eq!(role.for_movers(4), MoverConnections { needed: 4, free: 2, limit });
        let database = FreeConnections { of_database: Some(-1), ..role };
        let limit = "the CONNECTION LIMIT of the database";
        assert_eq!(database.for_movers(4), MoverConnections { needed: 4, free: 0, limit });
    }

    #[test]
    fn connections_that_movers_have_are_not_needed_again() {
        let held = FreeConnections { of_server: 1, of_movers: 3, ..FreeConnections::default() };
        assert_eq!(held.for_movers(4).needed, 1);
        let more = FreeConnections { of_movers: 7, ..held };
        assert_eq!(more.for_movers(4).needed, 0);
    }
}
