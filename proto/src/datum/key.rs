//! Order-preserving key bytes: `memcmp` of two keys is ReQL's order of the values.

use super::Datum;
use crate::error::QueryError;

/// Encoded bytes of a primary key or of a bound. Not RethinkDB's text: shorter, and decodable.
pub type Key = Vec<u8>;

/// The key of a document. Errors: wrong type (census: `Primary keys must be either …`), too long, NUL in a string.
pub fn primary(datum: &Datum) -> Result<Key, QueryError> {
    let _ = datum;
    todo!()
}

/// Any indexable value or bound (`MinVal`, `MaxVal` and arrays of them allowed), without length limit.
/// Array bounds with minval/maxval inside compare as ReQL compares.
pub fn bound(datum: &Datum) -> Result<Key, QueryError> {
    let _ = datum;
    todo!()
}

/// The value of a key made by [`primary`] or [`bound`].
pub fn decode(key: &[u8]) -> Option<Datum> {
    let _ = key;
    todo!()
}

/// The shard (of a power of two of them) that holds `key`: low bits of XXH3-64 of the encoded key.
pub fn shard_of(key: &[u8], shards: u16) -> u16 {
    debug_assert!(shards.is_power_of_two());
    (xxhash_rust::xxh3::xxh3_64(key) & u64::from(shards - 1)) as u16
}
