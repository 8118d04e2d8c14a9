//! Connect error: the node, the failure, and the remedy.
//!
//! **Invariant:** no message contains a secret: nodes are shown without user and password, and
//! servers do not repeat passwords.
//! **Not here:** connecting (`session`).

use std::error::Error as _;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::node_address::{NodeAddress, TlsMode};
use super::node_role::NodeRole;

/// Oldest supported major version of PostgreSQL.
pub(super) const VERSION_MIN: u32 = 15;

/// Message of tokio-postgres if the server requires a password and the address has none.
const PASSWORD_MISSING: &str = "password missing";

/// Reason why there is no session with a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The host does not exist, cannot be reached, or refuses the connection.
    #[error(
        "{node} cannot be reached ({cause}): is the server running, and are host and port right?"
    )]
    Unreachable {
        /// Name of the node.
        node: String,
        /// Error of the system.
        cause: String,
    },
    /// The node did not answer in time.
    #[error(
        "{node} did not answer within {} ms: is the server overloaded, or does a firewall drop the packets?",
        waited.as_millis()
    )]
    TimedOut {
        /// Name of the node.
        node: String,
        /// Duration of the wait.
        waited: Duration,
    },
    /// The node is starting, shutting down, or has no free connection.
    #[error("{node} accepts no connections now: {cause}")]
    Busy {
        /// Name of the node.
        node: String,
        /// Message of the node.
        cause: String,
    },
    /// The node refuses the user.
    #[error("{node} does not let {user} in ({cause}): {}", remedy(*by_rule))]
    Authentication {
        /// Name of the node.
        node: String,
        /// User of the attempt.
        user: String,
        /// Message of the node.
        cause: String,
        /// True if a rule of the server refuses the user or the connection, whatever the password
        /// is.
        by_rule: bool,
    },
    /// The server has no such database.
    #[error("{node}: there is no such database on that server: create it, or correct the address")]
    NoDatabase {
        /// Name of the node.
        node: String,
    },
    /// The connection cannot be encrypted as required.
    #[error("{node} cannot be reached by TLS with sslmode={mode}: {cause}")]
    Tls {
        /// Name of the node.
        node: String,
        /// Required TLS mode.
        mode: TlsMode,
        /// The failure.
        cause: String,
    },
    /// The peer does not speak the protocol of PostgreSQL.
    #[error(
        "{node} does not answer as PostgreSQL does ({cause}): is that one, and are host and port right?"
    )]
    NotPostgres {
        /// Name of the node.
        node: String,
        /// Behaviour of the peer.
        cause: String,
    },
    /// The version of the server is too old.
    #[error("{node} runs PostgreSQL {found}: upgrade it to {VERSION_MIN} or later")]
    TooOld {
        /// Name of the node.
        node: String,
        /// Version of the server.
        found: String,
    },
    /// The node is a primary and a replica is needed, or the other way round.
    #[error("{node} is not a {wanted} now: it is {}", if *in_recovery { "in recovery" } else { "a primary" })]
    WrongRole {
        /// Name of the node.
        node: String,
        /// Required role.
        wanted: NodeRole,
        /// True if the node is a replica.
        in_recovery: bool,
    },
    /// Anything else.
    #[error("{node}: {cause}")]
    Other {
        /// Name of the node.
        node: String,
        /// Message of the node.
        cause: String,
    },
    /// None of several hosts can be used, each for its own reason.
    #[error("none of the hosts of {node} can be used: {}", sentences(tried))]
    NoneOfThem {
        /// Name of the node.
        node: String,
        /// Reasons, in the order of the attempts.
        tried: Vec<ConnectError>,
    },
}

fn remedy(by_rule: bool) -> &'static str {
    if by_rule {
        "does that user exist, and does the server's pg_hba.conf allow it from this host, with or without TLS?"
    } else {
        "check the password"
    }
}

fn sentences(errors: &[ConnectError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl ConnectError {
    /// Returns true if the node, or one of its hosts, was reached and has another role.
    pub fn is_wrong_role(&self) -> bool {
        if let Self::NoneOfThem { tried, .. } = self {
            return tried.iter().any(Self::is_wrong_role);
        }
        matches!(self, Self::WrongRole { .. })
    }

    /// Returns true if a retry may succeed without a change of settings. A server that is killed
    /// closes connections in the same way as a peer that is not a PostgreSQL server.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Busy { .. }
            | Self::WrongRole { .. }
            | Self::NotPostgres { .. }
            | Self::Other { .. } => true,
            Self::Authentication { .. }
            | Self::NoDatabase { .. }
            | Self::Tls { .. }
            | Self::TooOld { .. } => false,
            Self::NoneOfThem { tried, .. } => tried.iter().any(Self::is_transient),
        }
    }

    /// Converts an error of tokio-postgres.
    pub(super) fn of(address: &NodeAddress, error: &tokio_postgres::Error) -> Self {
        let node = address.to_string();
        if let Some(refusal) = error.as_db_error() {
            return Self::of_refusal(address, refusal.code(), refusal.message());
        }
        let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        // The kinds of errors are private to tokio-postgres; only their names are visible. The
        // tests of connecting pin them.
        let kind = error.to_string();
        let is = |name: &str| kind.starts_with(name);
        if is("error connecting to server") {
            Self::Unreachable { node, cause }
        } else if is("error performing TLS handshake") {
            Self::Tls { node, mode: address.tls, cause: tls_cause(&cause) }
        } else if is("authentication error") || cause == PASSWORD_MISSING {
            let cause = method_cause(&cause);
            Self::Authentication { node, user: address.user.clone(), cause, by_rule: false }
        } else if is("error parsing response") || is("unexpected message") || is("error encoding") {
            Self::NotPostgres { node, cause }
        } else if is("connection closed") || is("error communicating") {
            let cause = "it closed the connection without an error message".to_owned();
            Self::NotPostgres { node, cause }
        } else {
            Self::Other { node, cause: kind }
        }
    }

    /// Converts the refusal of a server.
    fn of_refusal(address: &NodeAddress, code: &SqlState, message: &str) -> Self {
        let node = address.to_string();
        let cause = message.to_owned();
        let temporary_states = [
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
        ];
        let by_rule = *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
        if by_rule || *code == SqlState::INVALID_PASSWORD {
            Self::Authentication { node, user: address.user.clone(), cause, by_rule }
        } else if temporary_states.contains(code) {
            Self::Busy { node, cause }
        } else if *code == SqlState::INVALID_CATALOG_NAME {
            Self::NoDatabase { node }
        } else if message.starts_with("unsupported startup parameter") {
            // PgBouncer and other poolers: settings of this session would leak into the next one.
            let cause = format!("{cause}: name the server itself, not a pooler in front of it");
            Self::Other { node, cause }
        } else {
            Self::Other { node, cause }
        }
    }

    /// Returns true if a connection without TLS may succeed: the server has refused the one with
    /// TLS.
    pub(super) fn may_be_due_to_tls(&self) -> bool {
        matches!(self, Self::Tls { .. } | Self::Authentication { by_rule: true, .. })
    }
}

fn tls_cause(cause: &str) -> String {
    if cause == "server does not support TLS" {
        return "the server does not offer TLS (or is not PostgreSQL); turn `ssl` on there, or say sslmode=disable if \
                you trust everybody on the way"
            .to_owned();
    }
    format!(
        "{cause}; the certificate must be of an authority in the file of sslrootcert, or of the system's"
    )
}

fn method_cause(cause: &str) -> String {
    if cause == PASSWORD_MISSING {
        "it asks for a password, and there is none".to_owned()
    } else {
        cause.to_owned()
    }
}
