//! Session token: for every shard that a client has used, the position in the shard's history that
//! the client has seen, and the epoch of the shard map by which its requests were routed.
//!
//! Every response contains a token, into which the tokens of the request are merged, so that a
//! client keeps only the latest. Tokens are signed, because a token with a position that was never
//! reached would make reads wait in vain, and one with an older position would lose the guarantees
//! of the session.
//!
//! ```text
//! base64url( 1 | positions | tag of 8 bytes )
//! base64url( 3 | epoch | epoch minus checked epoch | positions | tag of 8 bytes )
//! positions: for each shard: gap to the one before, timeline, position
//! ```
//! Numbers are encoded as LEB128, except the timeline, which takes four bytes. The tag is
//! SipHash-2-4 with a secret key of the cluster (Aumasson and Bernstein, "SipHash: a fast
//! short-input PRF", 2012), so a token of another cluster is refused like a forged one.
//!
//! In the first epoch of a cluster no slot has moved, so its tokens need no epoch. They have the
//! form of version 1, which routers of earlier releases understand as well, and their epoch counts
//! as 0.
//!
//! # The two epochs
//! `epoch` is the highest epoch of a map by which the client has received a response. A router
//! whose map is older must not answer by that map, because it may name a former owner for a slot
//! that the client has already read from its new owner. `checked epoch` is the highest epoch at
//! which all positions of the token were found in the histories of their shards. It matters for a
//! slot that has moved later than that. The client may have read such a slot from any of its former
//! owners, and a failover may have lost the position that it saw there, so a read of the slot
//! requires that no position of the token was lost. If all positions are in their histories, the
//! changes that the client saw were part of the copy that the new owner took over, and the checked
//! epoch may rise.
//!
//! **Invariant:** each shard occurs at most once, in ascending order; merging never loses a
//! position, and never lowers the epoch. The checked epoch is at most the epoch, and both are
//! either 0 or above 1.
//! **Not here:** waiting for a position (`shard`), the header (the router).

use std::hash::Hasher;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use siphasher::sip::SipHasher24;
use siphasher::sip128::{self, Hasher128 as _};

use crate::position::Position;
use crate::sabotage::{Mutation, is_on};
use crate::topology::ShardNumber;

/// Version byte of a token without an epoch.
const WITHOUT_EPOCH: u8 = 1;
/// Version byte of a token with an epoch.
const WITH_EPOCH: u8 = 3;
/// Epoch of the first shard map of a cluster, before any slot has moved.
const FIRST_EPOCH: u64 = 1;
/// Number of bytes that the two epochs of a token usually take.
const EPOCHS_LEN: usize = 4;
/// Length of a tag in bytes.
pub const TAG_LEN: usize = 8;

/// Secret key with which a cluster signs its tokens.
#[derive(Clone)]
pub struct TokenKey([u8; 16]);

impl TokenKey {
    /// Creates the key from a secret of the cluster.
    pub fn new(secret: [u8; 16]) -> Self {
        Self(secret)
    }

    /// Derives another secret from the key, which is different for each purpose.
    pub fn derive(&self, purpose: &[u8]) -> [u8; 16] {
        let mut hasher = sip128::SipHasher24::new_with_key(&self.0);
        hasher.write(purpose);
        hasher.finish128().as_bytes()
    }

    /// Returns the tag that signs `body`.
    pub fn tag(&self, body: &[u8]) -> [u8; TAG_LEN] {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(body);
        hasher.finish().to_le_bytes()
    }
}

/// Positions that a client has seen, and the epochs of the shard map that belong to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionToken {
    /// Highest epoch of a map by which the client has received a response; 0 if that is the first
    /// epoch, or unknown.
    epoch: u64,
    /// Highest epoch at which all positions were found in the histories of their shards; 0 if none.
    checked_epoch: u64,
    seen: Vec<(ShardNumber, Position)>,
}

impl SessionToken {
    /// Maximum length of a token in bytes, and of all tokens of a request together.
    pub const LEN_MAX: usize = 4_096;

    /// Creates the token of a new client, which has no positions.
    pub const fn empty() -> Self {
        Self { epoch: 0, checked_epoch: 0, seen: Vec::new() }
    }

    /// Returns true if the client has seen no position.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Returns the highest epoch of a map by which the client has received a response; 0 if that is
    /// the first epoch, or unknown.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns true if the checked epoch is lower than `since`, the epoch in which a slot got its
    /// owner. Then the client may have read this slot from another shard, so that any position of
    /// the token may matter to it.
    #[inline]
    pub fn predates(&self, since: u64) -> bool {
        since > self.checked_epoch.max(FIRST_EPOCH)
    }

    /// Returns all positions, in the order of the shards.
    pub fn positions(&self) -> impl Iterator<Item = (ShardNumber, Position)> + '_ {
        self.seen.iter().copied()
    }

    /// Adds the epoch of the map by which a request was answered. `holds` must return true if a
    /// position is in the history of its shard.
    pub fn see_epoch(&mut self, epoch: u64, holds: impl Fn(ShardNumber, Position) -> bool) {
        if epoch <= FIRST_EPOCH || is_on(Mutation::TokenWithoutEpoch) {
            return;
        }
        self.epoch = self.epoch.max(epoch);
        if self.checked_epoch < epoch && self.is_held(holds) {
            self.checked_epoch = epoch;
        }
    }

    fn is_held(&self, holds: impl Fn(ShardNumber, Position) -> bool) -> bool {
        self.positions().all(|(shard, position)| holds(shard, position))
    }

    /// Returns the position in the history of a shard that the client has seen; `None` if it has
    /// not used the shard.
    pub fn seen(&self, shard: ShardNumber) -> Option<Position> {
        let found = self.seen.binary_search_by_key(&shard, |(shard, _)| *shard);
        found.ok().map(|index| self.seen[index].1)
    }

    /// Adds the position that a response of a shard has shown. The higher position is kept, which
    /// is correct only if the position that the client saw before is in the history of the shard.
    pub fn see(&mut self, shard: ShardNumber, position: Position) {
        match self.seen.binary_search_by_key(&shard, |(shard, _)| *shard) {
            Ok(index) => {
                let known = &mut self.seen[index].1;
                if known.sequence <= position.sequence {
                    *known = position;
                }
            }
            Err(index) => self.seen.insert(index, (shard, position)),
        }
    }

    /// Adds all positions of another token. For each shard the higher position is kept, unless one
    /// of the two is not in the history of the shard: then that one is kept, whatever its number,
    /// because lost changes must remain detectable. The higher epoch is kept. The higher checked
    /// epoch is kept only if all positions of the token with the lower one are in the histories of
    /// their shards.
    pub fn merge(&mut self, other: &Self, holds: impl Fn(ShardNumber, Position) -> bool) {
        let (lower, higher) = if self.checked_epoch < other.checked_epoch {
            (&*self, other)
        } else {
            (other, &*self)
        };
        let is_checked = lower.checked_epoch == higher.checked_epoch || lower.is_held(&holds);
        self.checked_epoch = if is_checked { higher } else { lower }.checked_epoch;
        self.epoch = self.epoch.max(other.epoch);
        for (shard, position) in &other.seen {
            match self.seen(*shard) {
                Some(known) if !holds(*shard, known) => {}
                Some(_) if !holds(*shard, *position) => self.replace(*shard, *position),
                Some(_) | None => self.see(*shard, *position),
            }
        }
    }

    fn replace(&mut self, shard: ShardNumber, position: Position) {
        self.seen.retain(|(known, _)| *known != shard);
        self.see(shard, position);
    }

    /// Encodes the token as a string for a client.
    pub fn encode(&self, key: &TokenKey) -> String {
        let mut bytes = Vec::with_capacity(1 + EPOCHS_LEN + self.seen.len() * 10 + TAG_LEN);
        if self.epoch == 0 {
            bytes.push(WITHOUT_EPOCH);
        } else {
            bytes.push(WITH_EPOCH);
            push_number(&mut bytes, self.epoch);
            push_number(&mut bytes, self.epoch - self.checked_epoch);
        }
        let mut next = 0;
        for (shard, position) in &self.seen {
            push_number(&mut bytes, u64::from(shard.0 - next));
            next = shard.0 + 1;
            bytes.extend_from_slice(&position.timeline.to_le_bytes());
            push_number(&mut bytes, position.sequence);
        }
        let tag = key.tag(&bytes);
        bytes.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Parses a token that a router of this cluster created.
    ///
    /// # Errors
    /// [`TokenError`] if the text is too long, or is not a token of this cluster.
    pub fn parse(text: &str, key: &TokenKey) -> Result<Self, TokenError> {
        if text.len() > Self::LEN_MAX {
            return Err(TokenError::TooLong);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Foreign)?;
        let (body, tag) = bytes.split_last_chunk::<TAG_LEN>().ok_or(TokenError::Foreign)?;
        // The comparison need not take constant time: to guess a tag byte by byte, an attacker
        // would have to measure the duration of this comparison over a network.
        if key.tag(body) != *tag {
            return Err(TokenError::Foreign);
        }
        decode(body).ok_or(TokenError::Foreign)
    }
}

fn decode(body: &[u8]) -> Option<SessionToken> {
    let (version, mut rest) = body.split_first()?;
    let (epoch, checked_epoch) = match *version {
        WITHOUT_EPOCH => (0, 0),
        WITH_EPOCH => {
            let epoch = take_number(&mut rest)?;
            (epoch, epoch.checked_sub(take_number(&mut rest)?)?)
        }
        _ => return None,
    };
    let mut seen = Vec::new();
    let mut next: u64 = 0;
    while !rest.is_empty() {
        let shard = next.checked_add(take_number(&mut rest)?)?;
        let (timeline, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        let sequence = take_number(&mut rest)?;
        let position = Position { timeline: u32::from_le_bytes(*timeline), sequence };
        seen.push((ShardNumber(u16::try_from(shard).ok()?), position));
        next = shard + 1;
    }
    Some(SessionToken { epoch, checked_epoch, seen })
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number: u64 = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        number |= bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Reason why a string is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is longer than [`SessionToken::LEN_MAX`].
    #[error("a session token has at most {} bytes", SessionToken::LEN_MAX)]
    TooLong,
    /// The token was not created by this cluster, or is incomplete.
    #[error("this is not a session token of this cluster")]
    Foreign,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Random bodies, with both known version bytes and unknown ones, are signed with the key
        /// of the cluster.
        #[test]
        fn a_signed_body_is_refused_or_survives(
            version in 0..4_u8, body in proptest::collection::vec(any::<u8>(), 0..60)
        ) {
            let key = TokenKey::new([7; 16]);
            let mut bytes = [&[version], &*body].concat();
            let tag = key.tag(&bytes);
            bytes.extend_from_slice(&tag);
            if let Ok(token) = SessionToken::parse(&URL_SAFE_NO_PAD.encode(bytes), &key) {
                prop_assert!([WITHOUT_EPOCH, WITH_EPOCH].contains(&version));
                prop_assert_eq!(SessionToken::parse(&token.encode(&key), &key), Ok(token));
            }
        }
    }
}
