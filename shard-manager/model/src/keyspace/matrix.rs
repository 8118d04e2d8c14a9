//! Matrix: keys of the form `@user:server`, the user ids of the federated network Matrix.
//!
//! Source: the sharding demo with Matrix ids, which routes by a hash of the id, and Synapse, which
//! can route by server. Mode `id` hashes the whole id: the distribution is even, but the users of
//! one server are spread over all shards. Mode `server` hashes only the part after the first `:`,
//! so that queries about one server go to one shard. But all users of a large server then share one
//! slot, which cannot be divided and may overload its shard.
//!
//! **Invariant:** user and server have at least one byte each, and are compared byte by byte, so
//! `Example.org` and `example.org` are different servers.
//! **Not here:** checks that the server exists or that its name is well formed (it may include a
//! port, or be an IPv6 address).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::KeyError;

/// Part of a key that is hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MatrixMode {
    /// The whole key.
    #[default]
    Id,
    /// The part after the first `:`, so that all users of a server share a slot.
    Server,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    mode: MatrixMode,
    seed: u64,
}

impl MatrixMode {
    /// Returns the name that the configuration and the catalog use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Server => "server",
        }
    }

    pub(super) fn parse(text: Option<&str>) -> Result<Self, String> {
        match text {
            None => Ok(Self::default()),
            Some("id") => Ok(Self::Id),
            Some("server") => Ok(Self::Server),
            Some(other) => Err(format!("`{other}` is neither id nor server")),
        }
    }

    pub(super) fn restore(parameters: &str) -> Result<Self, String> {
        let read: Result<Parameters, _> = serde_json::from_str(parameters);
        read.map(|parameters| parameters.mode).map_err(|error| error.to_string())
    }

    pub(super) fn parameters(self) -> String {
        serde_json::to_string(&Parameters { mode: self, seed: 0 }).expect("names always serialise")
    }

    /// Returns the part of the key that is hashed.
    pub(super) fn hashed_part(self, key: &str) -> Result<&str, KeyError> {
        let parts = key.strip_prefix('@').and_then(|rest| rest.split_once(':'));
        match (parts, self) {
            (None, _) => Err(KeyError::NotAMatrixId),
            (Some((user, server)), _) if user.is_empty() || server.is_empty() => {
                Err(KeyError::NotAMatrixId)
            }
            (Some(_), Self::Id) => Ok(key),
            (Some((_, server)), Self::Server) => Ok(server),
        }
    }
}

impl fmt::Display for MatrixMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "matrix:{}", self.name())
    }
}
