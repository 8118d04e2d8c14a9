//! Session token: the positions that a client has seen, of every shard that it has used.
//!
//! Every response returns a token, merged with the tokens of the request, so that a client keeps
//! only one. Clients cannot forge a token. A forged token with a future position would make reads
//! wait, and one with a past position would lose the client's guarantees.
//!
//! ```text
//! base64url( 1 | for each shard: gap to the one before, timeline, position | tag of 8 bytes )
//! ```
//! Numbers are LEB128 except the timeline, which is four bytes. The tag is SipHash-2-4 under a key
//! of the cluster (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), so a token of
//! another cluster is refused like a forged one.
//!
//! **Invariant:** shards are in ascending order, each once; merging never loses a position.
//! **Not here:** waiting for a position (`shard`), the header (the router).

use std::hash::Hasher;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use siphasher::sip::SipHasher24;
use siphasher::sip128::{self, Hasher128 as _};

use crate::position::Position;
use crate::topology::ShardNumber;

const VERSION: u8 = 1;
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

/// Positions that a client has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionToken {
    seen: Vec<(ShardNumber, Position)>,
}

impl SessionToken {
    /// Highest length of a token, and of all tokens of a request together.
    pub const LEN_MAX: usize = 4_096;

    /// Creates an empty token: that of a new client.
    pub const fn empty() -> Self {
        Self { seen: Vec::new() }
    }

    /// Returns the position that was seen of a shard.
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
    /// in its shard's history stays, whatever its number: lost changes must remain detectable.
    pub fn merge(&mut self, other: &Self, holds: impl Fn(ShardNumber, Position) -> bool) {
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
        let mut bytes = Vec::with_capacity(1 + self.seen.len() * 10 + TAG_LEN);
        bytes.push(VERSION);
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
        // The comparison need not take constant time: finding a tag byte by byte would need its
        // duration over a network.
        if key.tag(body) != *tag {
            return Err(TokenError::Foreign);
        }
        decode(body).ok_or(TokenError::Foreign)
    }
}

fn decode(body: &[u8]) -> Option<SessionToken> {
    let (&VERSION, mut rest) = body.split_first()? else { return None };
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
    Some(SessionToken { seen })
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
