//! Session token: the positions that a client has seen, of every shard that it has used, and the
//! epoch of the shard map by which it saw them.
//!
//! Every response returns a token, merged with the tokens of the request, so that a client keeps
//! only one. Clients cannot forge a token. A forged token with a future position would make reads
//! wait, and one with a past position would lose the client's guarantees.
//!
//! ```text
//! base64url( 1 | positions | tag of 8 bytes )
//! base64url( 3 | epoch | epoch minus checked epoch | positions | tag of 8 bytes )
//! positions: for each shard: gap to the one before, timeline, position
//! ```
//! Numbers are LEB128 except the timeline, which is four bytes. The tag is SipHash-2-4 under a key
//! of the cluster (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), so a token of
//! another cluster is refused like a forged one.
//!
//! No slot has moved at the first epoch, so a token of that epoch needs no epoch: it has the form
//! of version 1, which routers of earlier releases know as well, and its epoch is 0.
//!
//! # The two epochs
//! A router whose map is older than `epoch` must not answer by that map: a slot that the client has
//! read from its new owner may have another owner in that map. A position of a shard covers the
//! slots that the shard owned up to `checked epoch`. If a slot has moved since, the client may have
//! read it from any of the earlier owners, so a read of the slot requires that no position of the
//! token was lost. The checked epoch therefore rises only while every position is in its shard's
//! history: the changes of a slot that moved are then in the copy that its new owner took over.
//!
//! **Invariant:** shards are in ascending order, each once; merging never loses a position, and
//! never lowers the epoch. The checked epoch is not above the epoch, and neither is 1.
//! **Not here:** waiting for a position (`shard`), the header (the router).

use std::hash::Hasher;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use siphasher::sip::SipHasher24;
use siphasher::sip128::{self, Hasher128 as _};

use crate::position::Position;
use crate::sabotage::{Mutation, is_on};
use crate::topology::ShardNumber;

/// Version of a token without an epoch.
const WITHOUT_EPOCH: u8 = 1;
/// Version of a token with an epoch.
const WITH_EPOCH: u8 = 3;
/// Epoch of the first shard map of a cluster, before any slot has moved.
const FIRST_EPOCH: u64 = 1;
/// Usual number of bytes of the epochs of a token.
const EPOCHS_LEN: usize = 4;
/// Bytes of a tag.
pub const TAG_LEN: usize = 8;

/// Key with which a cluster signs its tokens.
#[derive(Clone)]
pub struct TokenKey([u8; 16]);

impl TokenKey {
    /// Creates the key from these bytes, which are a secret of the cluster.
    pub fn new(secret: [u8; 16]) -> Self {
        Self(secret)
    }

    /// Derives a secret of the cluster for another purpose.
    pub fn derive(&self, purpose: &[u8]) -> [u8; 16] {
        let mut hasher = sip128::SipHasher24::new_with_key(&self.0);
        hasher.write(purpose);
        hasher.finish128().as_bytes()
    }

    /// Returns the tag of a body, under the key of the cluster.
    pub fn tag(&self, body: &[u8]) -> [u8; TAG_LEN] {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(body);
        hasher.finish().to_le_bytes()
    }
}

/// Positions that a client has seen, and the epoch of the shard map by which it saw them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionToken {
    /// 0 if no router that has responded knew a later epoch than the first.
    epoch: u64,
    /// Epoch up to which the position of a shard covers the slots that the shard owned.
    checked_epoch: u64,
    seen: Vec<(ShardNumber, Position)>,
}

impl SessionToken {
    /// Highest length of a token, and of all tokens of a request together.
    pub const LEN_MAX: usize = 4_096;

    /// Creates an empty token: that of a new client.
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

    /// Returns true if the positions were last checked before this epoch. A position of any shard
    /// may then cover a slot that got its owner in this epoch.
    #[inline]
    pub fn predates(&self, since: u64) -> bool {
        since > self.checked_epoch.max(FIRST_EPOCH)
    }

    /// Returns all positions, in the order of the shards.
    pub fn positions(&self) -> impl Iterator<Item = (ShardNumber, Position)> + '_ {
        self.seen.iter().copied()
    }

    /// Adds the epoch of the map by which a response was made. `holds` returns false for a position
    /// that is not in the history of its shard.
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

    /// Returns the position of a shard that the client has seen.
    pub fn seen(&self, shard: ShardNumber) -> Option<Position> {
        let found = self.seen.binary_search_by_key(&shard, |(shard, _)| *shard);
        found.ok().map(|index| self.seen[index].1)
    }

    /// Adds the position of a response, of a shard whose history contains the position seen before:
    /// the later position counts.
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

    /// Adds all positions of another token. The later position counts, but a position that is not
    /// in its shard's history stays, whatever its number: lost changes must remain detectable. The
    /// higher epoch counts; the higher checked epoch only if it holds for both tokens.
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

    /// Returns the text for a client.
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

    /// Parses a token that this cluster made.
    ///
    /// # Errors
    /// [`TokenError`] if it is too long, or not a token of this cluster.
    pub fn parse(text: &str, key: &TokenKey) -> Result<Self, TokenError> {
        if text.len() > Self::LEN_MAX {
            return Err(TokenError::TooLong);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Foreign)?;
        let (body, tag) = bytes.split_last_chunk::<TAG_LEN>().ok_or(TokenError::Foreign)?;
        // The comparison need not take constant time: guessing a tag byte by byte would require
        // measuring the comparison over a network.
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

/// Reason why a text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is longer than [`SessionToken::LEN_MAX`].
    #[error("a session token has at most {} bytes", SessionToken::LEN_MAX)]
    TooLong,
    /// The token was not made by this cluster, or is incomplete.
    #[error("this is not a session token of this cluster")]
    Foreign,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Bodies of both versions and of none, signed like those of the cluster.
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
