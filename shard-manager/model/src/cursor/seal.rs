//! Seal: encrypts the values of a cursor with AES-128-GCM.
//!
//! ```text
//! nonce of 12 bytes | ciphertext of the values, padded | tag of 16 bytes
//! ```
//! The keys for the cipher and for the nonce are derived from the cluster's token key, so every
//! router can decrypt the cursors of the others. The head of a cursor is the part before the sealed
//! values. The nonce is a keyed hash of the head and the padded values, as with synthetic
//! initialisation vectors (RFC 5297), so that only identical cursors have the same nonce. The
//! padding hides the length of short values.
//!
//! **Invariant:** only what this cluster has sealed can be opened, and only together with its
//! original head.
//! **Not here:** the encoding of the values (`cursor`).

use std::hash::Hasher as _;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::token::TokenKey;

/// Byte with which the values are padded.
pub(super) const PADDING: u8 = 0;
/// Values are padded to a multiple of this many bytes.
const PADDED_TO: usize = 64;

/// Returns the sealed form of encoded values. It can be opened only with the same head.
pub(super) fn seal(mut values: Vec<u8>, head: &[u8], secret: &TokenKey) -> Vec<u8> {
    values.resize(values.len().next_multiple_of(PADDED_TO), PADDING);
    let nonce = nonce(&values, head, secret);
    let sealed = cipher(secret).seal_in_place_append_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(head),
        &mut values,
    );
    sealed.expect("a cursor is far shorter than the longest message of the cipher");
    [nonce.as_slice(), &values].concat()
}

/// Returns the encoded values of a sealed form, followed by their padding; `None` if they were not
/// sealed with this head and this key.
pub(super) fn open(sealed: &[u8], head: &[u8], secret: &TokenKey) -> Option<Vec<u8>> {
    let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut values = ciphertext.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let opened = cipher(secret).open_in_place(nonce, Aad::from(head), &mut values);
    let length = opened.ok()?.len();
    values.truncate(length);
    Some(values)
}

fn cipher(secret: &TokenKey) -> LessSafeKey {
    let key = UnboundKey::new(&AES_128_GCM, &secret.derive(b"cursor: cipher"));
    LessSafeKey::new(key.expect("a derived key has the length of the cipher's keys"))
}

fn nonce(values: &[u8], head: &[u8], secret: &TokenKey) -> [u8; NONCE_LEN] {
    let mut hasher = SipHasher24::new_with_key(&secret.derive(b"cursor: nonce"));
    // No separator is needed between head and values, because the head always has the same length.
    hasher.write(head);
    hasher.write(values);
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&hasher.finish128().as_bytes()[..NONCE_LEN]);
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_text_is_opened_by_its_cluster_with_its_beginning() {
        let (one, other) = (TokenKey::new([1; 16]), TokenKey::new([2; 16]));
        let sealed = seal(b"secret id".to_vec(), b"head", &one);
        let opened = open(&sealed, b"head", &one).expect("it is opened");
        assert!(opened.starts_with(b"secret id\0"));
        assert_eq!(open(&sealed, b"heaD", &one), None);
        assert_eq!(open(&sealed, b"head", &other), None);
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert_eq!(open(&changed, b"head", &one), None, "byte {index}");
            assert_eq!(open(&sealed[..index], b"head", &one), None, "{index} bytes");
        }
    }

    #[test]
    fn a_sealed_text_shows_neither_its_values_nor_the_length_of_short_ones() {
        let key = TokenKey::new([1; 16]);
        let [long, short] = [b"a long identifier".as_slice(), b"identifier"].map(|text| {
            let sealed = seal(text.to_vec(), b"head", &key);
            assert!(!sealed.windows(text.len()).any(|part| part == text));
            sealed
        });
        assert_eq!(long.len(), short.len());
        assert_ne!(long[..NONCE_LEN], short[..NONCE_LEN]);
    }
}
