//! The 32-bit hash that names a feature's field in a Redis hash.
//!
//! *Source*: `MurmurHash3_x86_32` (Austin Appleby, public domain), seed 0, as Python's `mmh3.hash` computes it.

const C1: u32 = 0xcc9e_2d51;
const C2: u32 = 0x1b87_3593;

/// Computes murmur3 (x86, 32 bit) of `bytes`.
#[must_use]
pub fn murmur3_x86_32(bytes: &[u8], seed: u32) -> u32 {
    let mut hash = seed;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let word = word.iter().rev().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        hash ^= scramble(word);
        hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let tail = words.remainder();
    if !tail.is_empty() {
        hash ^= scramble(tail.iter().rev().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)));
    }
    #[expect(clippy::cast_possible_truncation, reason = "the algorithm takes the length modulo 2^32")]
    let length = bytes.len() as u32;
    hash ^= length;
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

fn scramble(word: u32) -> u32 {
    word.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2)
}

/// Gives the Redis hash field of a feature: the hash of `view:feature`, little-endian.
#[must_use]
pub fn field_hash(view: &str, feature: &str) -> [u8; 4] {
    murmur3_x86_32(format!("{view}:{feature}").as_bytes(), 0).to_le_bytes()
}
