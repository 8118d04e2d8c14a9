//! Entry: a query result with its metadata, encoded and signed with a secret of the cluster.
//!
//! ```text
//! rows as JSON | end offset of each row | trailer | tag
//! trailer: row version, flag whether it exists, number of rows, process, monotonic clock,
//!          system clock, timeline, min_position, seen, format version
//! ```
//! The trailer has a fixed length and only the tag follows it, so that a Redis script can read it
//! at fixed distances from the end. The bytes before it become the rows without being copied. The
//! tag is a 128-bit SipHash-2-4, keyed with a secret of the cluster, of the entry's key and of all
//! bytes before the tag. An entry that was truncated or changed, or was stored by another cluster
//! or under another key, cannot be decoded.
//!
//! **Invariant:** decoding returns what was encoded, or nothing.
//! **Not here:** the check that an entry is new enough (`proof`), the script that reads the trailer
//! (`script`).

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

use super::proof::{ClockReading, EntryMetadata};
use model::result_rows::Rows;

/// Version of this encoding. The Redis key contains it as well, so that entries of other versions
/// are not found.
pub(super) const FORMAT: u8 = 1;
/// Length of the tag in bytes.
const TAG_LEN: usize = 16;
/// Length of the trailer in bytes.
const TRAILER_LEN: usize = 8 + 1 + 4 + 8 + 8 + 8 + 4 + 8 + 8 + 1;
/// Length of an entry without rows, in bytes.
pub(super) const OVERHEAD: usize = TRAILER_LEN + TAG_LEN;

/// Query result that can be cached.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The rows.
    pub rows: Rows,
    /// Facts that prove how new the rows are.
    pub metadata: EntryMetadata,
}

/// Redis key and field of an entry. An entry is valid only under the key and field for which it was
/// encoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryKey<'s> {
    /// Name of the Redis key.
    pub(super) key: &'s [u8],
    /// Name of the field in the Redis hash.
    pub(super) field: &'s [u8; 16],
}

impl EntryKey<'_> {
    fn tag(&self, secret: &[u8; 16], body: &[u8]) -> [u8; TAG_LEN] {
        let mut hasher = SipHasher24::new_with_key(secret);
        hasher.write(&(self.key.len() as u64).to_le_bytes());
        hasher.write(self.key);
        hasher.write(self.field);
        hasher.write(body);
        hasher.finish128().as_bytes()
    }
}

impl Entry {
    /// Encodes the entry for this key.
    pub(super) fn encode(&self, entry_key: &EntryKey<'_>, secret: &[u8; 16]) -> Vec<u8> {
        let Self { rows, metadata: EntryMetadata { timeline, min_position, seen, as_of } } = self;
        let room = rows.json().len() + 4 * rows.len() + OVERHEAD;
        let mut bytes = Vec::with_capacity(room);
        bytes.extend_from_slice(rows.json());
        for end in rows.ends() {
            bytes.extend_from_slice(&(*end as u32).to_le_bytes());
        }
        bytes.extend_from_slice(&rows.version.unwrap_or(0).to_be_bytes());
        bytes.push(u8::from(rows.version.is_some()));
        bytes.extend_from_slice(&(rows.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&as_of.process.to_be_bytes());
        bytes.extend_from_slice(&as_of.own.to_be_bytes());
        bytes.extend_from_slice(&as_of.wall.to_be_bytes());
        bytes.extend_from_slice(&timeline.to_be_bytes());
        bytes.extend_from_slice(&min_position.to_be_bytes());
        bytes.extend_from_slice(&seen.to_be_bytes());
        bytes.push(FORMAT);
        let tag = entry_key.tag(secret, &bytes);
        bytes.extend_from_slice(&tag);
        bytes
    }

    /// Decodes an entry; returns `None` if the bytes are not an entry that this cluster has encoded
    /// for this key.
    pub(super) fn decode(
        mut bytes: Vec<u8>,
        entry_key: &EntryKey<'_>,
        secret: &[u8; 16],
    ) -> Option<Self> {
        let (body, tag) = bytes.split_last_chunk::<TAG_LEN>()?;
        if entry_key.tag(secret, body) != *tag {
            return None;
        }
        let (front, trailer) = body.split_last_chunk::<TRAILER_LEN>()?;
        let mut trailer = &trailer[..];
        let version = i64::from_be_bytes(take(&mut trailer)?);
        let [has_version] = take(&mut trailer)?;
        let count = u32::from_be_bytes(take(&mut trailer)?) as usize;
        let as_of = ClockReading {
            process: u64::from_be_bytes(take(&mut trailer)?),
            own: i64::from_be_bytes(take(&mut trailer)?),
            wall: i64::from_be_bytes(take(&mut trailer)?),
        };
        let timeline = u32::from_be_bytes(take(&mut trailer)?);
        let min_position = u64::from_be_bytes(take(&mut trailer)?);
        let seen = u64::from_be_bytes(take(&mut trailer)?);
        if trailer != [FORMAT] || has_version > 1 {
            return None;
        }
        let json_len = front.len().checked_sub(count.checked_mul(4)?)?;
        let (ends, _) = front[json_len..].as_chunks::<4>();
        let ends = ends.iter().map(|end| u32::from_le_bytes(*end) as usize).collect();
        bytes.truncate(json_len);
        let mut rows = Rows::from_parts(bytes, ends)?;
        rows.version = (has_version == 1).then_some(version);
        Some(Self { rows, metadata: EntryMetadata { timeline, min_position, seen, as_of } })
    }
}

/// Returns the tag, which is in the last bytes and distinguishes the entries of one key; `None` if
/// there are too few bytes.
pub(super) fn tag_of(bytes: &[u8]) -> Option<[u8; TAG_LEN]> {
    bytes.split_last_chunk::<TAG_LEN>().map(|(_, tag)| *tag)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: [u8; 16] = [7; 16];
    const ENTRY_KEY: EntryKey<'static> = EntryKey { key: b"tessera:1:k", field: &[1; 16] };

    prop_compose! {
        fn entries()(
            texts in prop::collection::vec("[a-z]{0,40}", 0..6),
            version in prop::option::of(any::<i64>()),
            (timeline, min_position, seen) in any::<(u32, u64, u64)>(),
            (process, own, wall) in any::<(u64, i64, i64)>(),
        ) -> Entry {
            let mut rows = Rows::default();
            for text in texts {
                let pushed = rows.push(|json| {
                    json.extend_from_slice(format!("{{\"a\":\"{text}\"}}").as_bytes());
                    Ok::<(), std::convert::Infallible>(())
                });
                let Ok(()) = pushed;
            }
            rows.version = version;
            let as_of = ClockReading { process, own, wall };
            Entry { rows, metadata: EntryMetadata { timeline, min_position, seen, as_of } }
        }
    }

    proptest! {
        #[test]
        fn decoding_returns_the_encoded_entry(entry in entries()) {
            let bytes = entry.encode(&ENTRY_KEY, &SECRET);
            prop_assert_eq!(Entry::decode(bytes, &ENTRY_KEY, &SECRET), Some(entry));
        }

        #[test]
        fn a_changed_or_cut_entry_does_not_decode(
            entry in entries(), at in any::<prop::sample::Index>(), flip in 1_u8..=255, cut in any::<bool>(),
        ) {
            let mut bytes = entry.encode(&ENTRY_KEY, &SECRET);
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
            prop_assert_eq!(Entry::decode(bytes, &ENTRY_KEY, &SECRET), None);
        }

        #[test]
        fn an_entry_of_another_key_or_cluster_does_not_decode(entry in entries()) {
            let bytes = entry.encode(&ENTRY_KEY, &SECRET);
            let elsewhere = EntryKey { key: b"tessera:1:l", ..ENTRY_KEY };
            let other = EntryKey { field: &[2; 16], ..ENTRY_KEY };
            prop_assert_eq!(Entry::decode(bytes.clone(), &elsewhere, &SECRET), None);
            prop_assert_eq!(Entry::decode(bytes.clone(), &other, &SECRET), None);
            prop_assert_eq!(Entry::decode(bytes, &ENTRY_KEY, &[8; 16]), None);
        }

        #[test]
        fn foreign_bytes_do_not_decode(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Entry::decode(bytes, &ENTRY_KEY, &SECRET), None);
        }
    }
}
