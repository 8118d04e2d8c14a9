//! Row: a finished interval of a source in its stored form, which is the frame as compressed JSON.
//!
//! **Invariant:** a row that another version wrote in another format is never read as a frame.
//! **Not here:** the tables of rows (`store/sqlite`, `store/postgres`).

use std::io::{Read, Write};

use diesel::prelude::{Insertable, Queryable};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::schema::tessera_history;

/// Format of the frames that this program writes. A change that older programs cannot read, or
/// would misread, requires the next number.
pub(super) const SHAPE: i32 = 1;
/// Maximum number of bytes of a decompressed frame that is read, so that a damaged row cannot
/// exhaust the memory of the process.
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

/// Returns a frame as it is stored.
pub(super) fn packed(frame: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let json = serde_json::to_vec(frame)?;
    // Histograms in base64 would hardly get smaller with a higher compression level.
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&json)?;
    encoder.finish()
}

/// Returns a stored frame; `None` if it is damaged.
pub(super) fn unpacked<F: DeserializeOwned>(bytes: &[u8]) -> Option<F> {
    let mut json = Vec::new();
    let read = ZlibDecoder::new(bytes).take(FRAME_BYTES_MAX).read_to_end(&mut json);
    read.ok().and_then(|_| serde_json::from_slice(&json).ok())
}
