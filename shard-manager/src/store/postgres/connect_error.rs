//! Errors of connecting: which node, what happened, and what to do.
//!
//! **Invariant:** no sentence has a secret in it: nodes are shown without user and password, and servers do not
//! repeat passwords.
//! **Not here:** connecting (`store/postgres/session`).

use std::error::Error as _;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::session::{NodeRole, VERSION_MIN};
use crate::node_address::{NodeAddress, TlsMode};

/// As tokio-postgres says it.
const PASSWORD_MISSING: &str = "password missing";

/// Why there is no session with a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens, or there is no such host or way to it.
    #[error(
        "{node} cannot be reached ({cause}): is the server running, and are host and port right?"
    )]
    Unreachable {
        /// Which node.
        node: String,
        /// What the system says.
        cause: String,
    },
    /// No answer in time.
    #[error(
        "{node} did not answer within {} ms: is the server overloaded, or does a firewall swallow what is sent to it?",
        waited.as_millis()
    )]
    TimedOut {
        /// Which node.
        node: String,
        /// How long it had.
        waited: Duration,
    },
    /// It answers, but not yet, or not to one more.
    #[error("{node} takes no connection now: {cause}")]
    Busy {
        /// Which node.
        node: String,
        /// What it says.
        cause: String,
    },
    /// It does not let us in.
    #[error("{node} does not let {user} in ({cause}): {}", remedy(*by_rule))]
    Authentication {
        /// Which node.
        node: String,
        /// As whom.
        user: String,
        /// What it says.
        cause: String,
        /// Whether a rule of the server refuses the user or the way, whatever the password is.
        by_rule: bool,
    },
    /// There is a server, but not this database.
    #[error("{node}: there is no such database on that server: create it, or correct the address")]
    NoDatabase {
        /// Which node.
        node: String,
    },
    /// The way cannot be secured as it must be.
    #[error("{node} cannot be reached by TLS with sslmode={mode}: {cause}")]
    Tls {
        /// Which node.
        node: String,
        /// What it must be.
        mode: TlsMode,
        /// What failed.
        cause: String,
    },
    /// Something else listens there.
    #[error(
        "{node} does not answer as PostgreSQL does ({cause}): is that one, and are host and port right?"
    )]
    NotPostgres {
        /// Which node.
        node: String,
        /// What it did.
        cause: String,
    },
    /// An old server.
    #[error("{node} runs PostgreSQL {found}: upgrade it to {VERSION_MIN} or later")]
    TooOld {
        /// Which node.
        node: String,
        /// What it runs.
        found: String,
    },
    /// A primary where a replica is wanted, or the other way round.
    #[error("{node} is no {wanted} now: it is {}", if *in_recovery { "in recovery" } else { "a primary" })]
    WrongRole {
        /// Which node.
        node: String,
        /// What was asked for.
        wanted: NodeRole,
        /// What it is.
        in_recovery: bool,
    },
    /// Anything else.
    #[error("{node}: {cause}")]
    Other {
        /// Which node.
        node: String,
        /// What it says.
        cause: String,
    },
    /// Each of several hosts has a reason of its own.
    #[error("none of the hosts of {node} will do: {}", sentences(tried))]
    NoneOfThem {
        /// Which node.
        node: String,
        /// Why, in the order in which they were asked.
        tried: Vec<ConnectError>,
    },
}

fn remedy(by_rule: bool) -> &'static str {
    if by_rule {
        "does that user exist, and does the server's pg_hba.conf let it in from here, in the clear or by TLS?"
    } else {
        "check the password"
    }
}

fn sentences(errors: &[ConnectError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl ConnectError {
    /// Whether the node, or one of its hosts, is there and is no such node.
    pub fn is_wrong_role(&self) -> bool {
        if let Self::NoneOfThem { tried, .. } = self {
            return tried.iter().any(Self::is_wrong_role);
        }
        matches!(self, Self::WrongRole { .. })
    }

    /// Whether it may be different in a moment without anybody changing a setting. A server that is killed closes
    /// connections as one that is no PostgreSQL does.
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

    /// What a failure to connect means.
    pub(super) fn of(address: &NodeAddress, error: &tokio_postgres::Error) -> Self {
        let node = address.to_string();
        if let Some(said) = error.as_db_error() {
            return Self::said(address, said.code(), said.message());
        }
        let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        // The kinds of errors are private to tokio-postgres: their names are all that it shows. The stories of
        // connecting hold them.
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
            let cause = "it closed the connection without a word".to_owned();
            Self::NotPostgres { node, cause }
        } else {
            Self::Other { node, cause: kind }
        }
    }

    /// What a server's refusal means.
    fn said(address: &NodeAddress, code: &SqlState, message: &str) -> Self {
        let node = address.to_string();
        let cause = message.to_owned();
        let states_of_a_while = [
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
        ];
        let by_rule = *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
        if by_rule || *code == SqlState::INVALID_PASSWORD {
            Self::Authentication { node, user: address.user.clone(), cause, by_rule }
        } else if states_of_a_while.contains(code) {
            Self::Busy { node, cause }
        } else if *code == SqlState::INVALID_CATALOG_NAME {
            Self::NoDatabase { node }
        } else if message.starts_with("unsupported startup parameter") {
            // PgBouncer and its like; what a session is set to would be the next one's too.
            let cause = format!("{cause}: name the server itself, not a pooler in front of it");
            Self::Other { node, cause }
        } else {
            Self::Other { node, cause }
        }
    }

    /// Whether a way without TLS may lead there: the server has refused the one with it.
    pub(super) fn may_be_due_to_tls(&self) -> bool {
        matches!(self, Self::Tls { .. } | Self::Authentication { by_rule: true, .. })
    }
}

fn tls_cause(cause: &str) -> String {
    if cause == "server does not support TLS" {
        return "the server does not offer TLS (or is no PostgreSQL); turn `ssl` on there, or say sslmode=disable if \
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
