//! Row: one finished slot of a source, as it is kept: its frame in JSON, compressed.
//!
//! **Invariant:** what was kept by a program of another shape of frames is never read as one of ours.
//! **Not here:** where rows are (`store/sqlite`, `store/postgres`).

use std::io::{Read, Write};

use diesel::prelude::{Insertable, Queryable};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::schema::tessera_history;

/// How frames are written by this program. A change that an older program could not read, or that would make it read
/// something else, takes the next number.
pub(super) const SHAPE: i32 = 1;
/// Longest frame that is read, decompressed: a damaged row must not take the memory of the process.
const FRAME_BYTES_MAX: u64 = 16 << 20;

/// A row of the store.
#[derive(Clone, Debug, PartialEq, Eq, Insertable, Queryable)]
#[diesel(table_name = tessera_history)]
pub(super) struct Row {
    pub(super) source: String,
    pub(super) step: i32,
    pub(super) start: i64,
    pub(super) shape: i32,
    pub(super) frame: Vec<u8>,
}

/// A frame, as it is kept.
pub(super) fn packed(frame: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let json = serde_json::to_vec(frame)?;
    // The fastest: histograms in base64 lose their fourth third at any level.
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&json)?;
    encoder.finish()
}

/// The frame that is kept; `None` if it is damaged.
pub(super) fn unpacked<F: DeserializeOwned>(bytes: &[u8]) -> Option<F> {
    let mut json = Vec::new();
    let read = ZlibDecoder::new(bytes).take(FRAME_BYTES_MAX).read_to_end(&mut json);
    read.ok().and_then(|_| serde_json::from_slice(&json).ok())
}
