//! Sessions: the face of a manager for session tokens, which hold positions and no rows.
//!
//! **Invariant:** a position that may be lost stays in a session, so that the next read reports it.
//! **Not here:** the form of a token (`token`), waiting for a position (`shard`).

use model::position::Position;
use model::token::{SessionToken, TokenError};
use model::topology::ShardNumber;

use super::Manager;

/// Face of a [`Manager`] for session tokens.
#[derive(Clone, Copy)]
pub struct Sessions<'m>(pub(super) &'m Manager);

impl Sessions<'_> {
    /// Merges the session tokens of a request.
    ///
    /// # Errors
    /// [`TokenError`] if a token is too long, or not one of this cluster.
    pub fn merge<'t>(
        self,
        tokens: impl Iterator<Item = &'t str>,
    ) -> Result<SessionToken, TokenError> {
        let mut session = SessionToken::empty();
        let shards = self.0.shards.load();
        let holds = |shard: ShardNumber, position| {
            // A shard that was removed has no position to check.
            let shard = shards.get(shard);
            shard.is_none_or(|shard| shard.replication.timeline().history().holds(position))
        };
        for token in tokens {
            session.merge(&SessionToken::parse(token, &self.0.token_key)?, holds);
        }
        Ok(session)
    }

    /// Returns the text of a session token, for the client to keep.
    pub fn token(self, session: &SessionToken) -> String {
        session.encode(&self.0.token_key)
    }

    /// Adds a position that the client has seen to its session. A position of the session that may
    /// be lost stays: the next read reports it.
    pub fn extend(self, session: &mut SessionToken, shard: ShardNumber, position: Position) {
        if let Some(known) = session.seen(shard)
            && let Some(open) = self.0.shards.load().get(shard)
            && !open.replication.timeline().history().holds(known)
        {
            return;
        }
        session.see(shard, position);
    }
}
