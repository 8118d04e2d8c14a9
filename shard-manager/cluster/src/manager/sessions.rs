//! Sessions: the interface of a manager for session tokens, which contain positions but no rows.
//!
//! **Invariant:** a position that a failover may have lost stays in the session, so that the next
//! read reports it. The epoch of a session is that of the latest map with which a request of its
//! client was served.
//! **Not here:** the form of a token (`token`), waiting for a position (`shard`).

use model::position::Position;
use model::token::{SessionToken, TokenError};
use model::topology::ShardNumber;

use super::Manager;

/// Interface of a [`Manager`] for session tokens.
#[derive(Clone, Copy)]
pub struct Sessions<'m>(pub(super) &'m Manager);

impl Sessions<'_> {
    /// Merges the session tokens of a request.
    ///
    /// # Errors
    /// [`TokenError`] if a token is too long, or was not issued by this cluster.
    pub fn merge<'t>(
        self,
        tokens: impl Iterator<Item = &'t str>,
    ) -> Result<SessionToken, TokenError> {
        let mut session = SessionToken::empty();
        for token in tokens {
            let token = SessionToken::parse(token, &self.0.token_key)?;
            session.merge(&token, |shard, position| self.holds(shard, position));
        }
        Ok(session)
    }

    /// Returns false if a position is not in the history of its shard.
    fn holds(self, shard: ShardNumber, position: Position) -> bool {
        // A shard that was removed has no position to check.
        let shards = self.0.shards.load();
        let shard = shards.get(shard);
        shard.is_none_or(|shard| shard.replication.timeline().holds(position))
    }

    /// Returns a session token as the string that the client keeps.
    pub fn token(self, session: &SessionToken) -> String {
        session.encode(&self.0.token_key)
    }

    fn see(self, session: &mut SessionToken, shard: ShardNumber, position: Position) {
        if session.seen(shard).is_none_or(|known| self.holds(shard, known)) {
            session.see(shard, position);
        }
    }

    /// Adds to a session a position that the client has seen, the positions of the former owners of
    /// slots that have moved to the shard, and the epoch of the current map. A position in the
    /// session that may be lost is not replaced: the next read reports it.
    pub fn extend(self, session: &mut SessionToken, shard: ShardNumber, position: Position) {
        self.see(session, shard, position);
        if !self.0.router.follows_map() {
            // Without these positions, a lagging replica of a former owner could show the client
            // older rows than it has already seen.
            let positions = self.0.router.former_owner_positions(shard);
            positions
                .into_iter()
                .for_each(|(former, former_position)| self.see(session, former, former_position));
        }
        let epoch = self.0.map.load().epoch();
        session.see_epoch(epoch, |shard, position| self.holds(shard, position));
    }
}
