//! Packed: a histogram to which nothing more is added, in the HDR V2 encoding, which contains only
//! used buckets.
//!
//! In memory, a packed histogram consists of the encoded counts only. The serialized form begins
//! with the standard HDR header, and the whole is encoded as base64.
//!
//! **Invariant:** the counts of a [`Packed`] can be decoded completely, and every bucket in them
//! exists in its layout.
//! **Not here:** quantiles. A packed histogram is added to a `LatencyHistogram`, which returns
//! them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Layout of the buckets. The first buckets form a linear part; after it, each power of two has
/// half as many buckets as the linear part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buckets {
    digits: u8,
    /// Base-2 logarithm of half of the number of buckets in the linear part.
    half_bits: u32,
    /// Number of buckets up to 60 s.
    count: usize,
}

impl Buckets {
    /// Three significant digits.
    pub(crate) const FINE: Self = Self { digits: 3, half_bits: 10, count: 17_408 };
    /// Two significant digits.
    pub(crate) const COARSE: Self = Self { digits: 2, half_bits: 7, count: 2_560 };

    /// Returns the bucket of a value of at most 60,000,000.
    #[inline]
    pub(crate) fn of(self, value: u32) -> usize {
        let linear = (2 << self.half_bits) - 1;
        let shift = 31 - self.half_bits - (value | linear).leading_zeros();
        ((shift << self.half_bits) + (value >> shift)) as usize
    }

    /// Returns the first value of a bucket, and the number of its values.
    pub(crate) fn bounds(self, bucket: usize) -> (u64, u64) {
        let bucket = bucket as u64;
        let half = 1 << self.half_bits;
        let shift = (bucket >> self.half_bits).saturating_sub(1);
        let sub = if shift == 0 { bucket } else { (bucket & (half - 1)) + half };
        (sub << shift, 1 << shift)
    }

    fn middle(self, bucket: usize) -> u32 {
        let (first, width) = self.bounds(bucket);
        (first + width / 2).min(60_000_000) as u32
    }
}

/// Maximum number of bytes of base64 that are read. The longest valid histogram, which has three
/// digits, is shorter.
const TEXT_MAX: usize = 256 << 10;
/// First bytes of an HDR V2 histogram.
const COOKIE: u32 = 0x1c84_9313;
const HEADER: usize = 40;
/// Maximum number of bytes of one encoded count: each byte holds seven of its bits, and the ninth
/// byte holds eight.
const COUNT_BYTES_MAX: usize = 9;

/// Packed histogram, to which nothing more is added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    buckets: Buckets,
    counts: Box<[u8]>,
}

/// Reason why bytes are not a valid histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    /// Another encoding.
    #[error("not an HDR histogram (V2, uncompressed, base64)")]
    Encoding,
    /// The right encoding with other bounds.
    #[error("an HDR histogram with other bounds than 1 us to 60 s at 2 or 3 digits")]
    Bounds,
    /// Counts that end early, or lie after the last bucket.
    #[error("an HDR histogram whose counts cannot be read")]
    Counts,
}

impl Packed {
    /// Maximum number of bytes of counts that
    /// [`LatencyHistogram::packed`](crate::LatencyHistogram::packed) keeps with three digits. About
    /// 3,000 different latencies fit; a wider histogram is kept with two digits.
    pub const FINE_BYTES_MAX: usize = 4_096;

    /// Packs the counts of buckets with three digits, given in the order of the buckets. If the
    /// result would be longer than [`Packed::FINE_BYTES_MAX`], it has two digits.
    pub(crate) fn of_fine(counted: impl Iterator<Item = (usize, u64)> + Clone) -> Self {
        let packed = Self::of(Buckets::FINE, counted.clone());
        if packed.counts.len() > Self::FINE_BYTES_MAX { Self::of_coarse(counted) } else { packed }
    }

    /// Packs the counts of buckets with three digits, given in the order of the buckets, into a
    /// form with two digits.
    pub(crate) fn of_coarse(counted: impl Iterator<Item = (usize, u64)>) -> Self {
        let mut coarse: Vec<(usize, u64)> = Vec::new();
        for (bucket, count) in counted {
            let (first, _) = Buckets::FINE.bounds(bucket);
            let bucket = Buckets::COARSE.of(first.min(60_000_000) as u32);
            match coarse.last_mut() {
                Some((last, sum)) if *last == bucket => *sum += count,
                Some(_) | None => coarse.push((bucket, count)),
            }
        }
        Self::of(Buckets::COARSE, coarse.into_iter())
    }

    fn of(buckets: Buckets, counted: impl Iterator<Item = (usize, u64)>) -> Self {
        let (mut counts, mut next) = (Vec::new(), 0);
        for (bucket, count) in counted {
            match bucket - next {
                0 => {}
                1 => counts.push(0),
                // A run of zeros is encoded as its negative length, which is odd in zigzag
                // encoding.
                zeros => put(&mut counts, 2 * zeros as u64 - 1),
            }
            put(&mut counts, count.min(i64::MAX as u64) << 1);
            next = bucket + 1;
        }
        Self { buckets, counts: counts.into() }
    }

    /// Calls `take` for each used bucket, with the index of the corresponding bucket of three
    /// digits and the count.
    pub(crate) fn each(&self, mut take: impl FnMut(usize, u64)) {
        let mut rest = &*self.counts;
        let mut bucket = 0;
        while let Some(number) = get(&mut rest) {
            if number & 1 == 1 {
                bucket += (number / 2 + 1) as usize;
                continue;
            }
            if number > 0 {
                let fine = self.buckets == Buckets::FINE;
                let of = if fine { bucket } else { Buckets::FINE.of(self.buckets.middle(bucket)) };
                take(of, number / 2);
            }
            bucket += 1;
        }
    }

    /// Returns the number of significant digits: 3 or 2.
    pub fn digits(&self) -> u8 {
        self.buckets.digits
    }

    /// Returns the number of bytes that the counts take.
    pub fn size_bytes(&self) -> usize {
        self.counts.len()
    }

    /// Returns the whole HDR V2 encoding.
    pub fn to_hdr(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.counts.len());
        bytes.extend(COOKIE.to_be_bytes());
        bytes.extend((self.counts.len() as u32).to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
        bytes.extend(u32::from(self.buckets.digits).to_be_bytes());
        bytes.extend(1_u64.to_be_bytes());
        bytes.extend(60_000_000_u64.to_be_bytes());
        bytes.extend(1.0_f64.to_be_bytes());
        bytes.extend(&*self.counts);
        bytes
    }

    /// Reads the whole HDR V2 encoding, which may come from an untrusted source.
    ///
    /// # Errors
    /// Fails if the bytes are not HDR V2, have other bounds, or are incomplete.
    pub fn of_hdr(bytes: &[u8]) -> Result<Self, PackedError> {
        let (header, counts) = bytes.split_at_checked(HEADER).ok_or(PackedError::Encoding)?;
        let word =
            |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap_or_default());
        if word(0) != COOKIE || word(4) as usize != counts.len() {
            return Err(PackedError::Encoding);
        }
        let buckets = match word(12) {
            3 => Buckets::FINE,
            2 => Buckets::COARSE,
            _ => return Err(PackedError::Bounds),
        };
        let packed = Self { buckets, counts: counts.into() };
        if packed.to_hdr()[..HEADER] != *header {
            return Err(PackedError::Bounds);
        }
        packed.check()?;
        Ok(packed)
    }

    fn check(&self) -> Result<(), PackedError> {
        let mut rest = &*self.counts;
        let mut bucket: u64 = 0;
        let mut sum: u64 = 0;
        while !rest.is_empty() {
            let number = get(&mut rest).ok_or(PackedError::Counts)?;
            let zeros = number & 1 == 1;
            bucket = bucket.saturating_add(if zeros { number / 2 + 1 } else { 1 });
            sum = sum.checked_add(if zeros { 0 } else { number / 2 }).ok_or(PackedError::Counts)?;
            if bucket > self.buckets.count as u64 {
                return Err(PackedError::Counts);
            }
        }
        Ok(())
    }
}

impl Serialize for Packed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.to_hdr()))
    }
}

impl<'de> Deserialize<'de> for Packed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let short = text.len() <= TEXT_MAX;
        let bytes = short.then(|| STANDARD.decode(text).ok()).flatten();
        let bytes = bytes.ok_or(PackedError::Encoding).map_err(de::Error::custom)?;
        Self::of_hdr(&bytes).map_err(de::Error::custom)
    }
}

/// Appends a number as bytes of seven bits each, the lowest bits first; a ninth byte holds eight
/// bits.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    for _ in 1..COUNT_BYTES_MAX {
        if number < 0x80 {
            break;
        }
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn get(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..COUNT_BYTES_MAX {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if place == COUNT_BYTES_MAX - 1 {
            return Some(number | u64::from(byte) << (7 * place));
        }
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}
