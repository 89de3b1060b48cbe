//! Resume tokens: how far a feed has told the changes of each shard, as text that a client keeps.
//!
//! ```text
//! base64 (URL alphabet, no padding) of:
//! version u8, checksum u32 (low half of XXH3 of what follows), feed u64, members varint, of each:
//!   shards varint, of each, ascending: number varint (less the one before), epoch varint, count varint, parts varint
//! ```
//!
//! `feed` is a hash of tables, rows and pipelines: a token is of use to the feed it is from alone. A commit is an epoch (an opening of
//! the store) and a count within it. A feed along an index tells one change in as many parts as the row has places there; `parts` are those
//! told of the first change behind the commit.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

use crate::limits;

const VERSION: u8 = 2;
/// Of a commit number: the count within its epoch.
pub const COMMIT_COUNT_BITS: u32 = 40;
/// No token of this program is longer: members and shards are bounded.
const TOKEN_BYTES_MAX: usize = 1 << 20;

/// How far the changes of a shard were told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardPlace {
    pub shard: u32,
    /// The last change that was told whole.
    pub commit: u64,
    /// Told of the next one.
    pub parts: u32,
}

/// By shard, ascending.
pub type Commits = Vec<ShardPlace>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeToken {
    pub feed: u64,
    /// In the order of the feed's members.
    pub members: Vec<Commits>,
}

/// Text that is no token of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("it is not a resume token, or it was changed")]
    Malformed,
    #[error("it was made by another version of PhotonDB")]
    Version,
}

fn put(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part.leading_zeros() < shift {
            return None;
        }
        value |= part << shift;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

impl ResumeToken {
    pub fn encode(&self) -> String {
        let mut body = Vec::with_capacity(16 + 8 * self.members.iter().map(Vec::len).sum::<usize>());
        body.extend_from_slice(&self.feed.to_le_bytes());
        put(self.members.len() as u64, &mut body);
        for commits in &self.members {
            put(commits.len() as u64, &mut body);
            let mut before = 0;
            for ShardPlace { shard, commit, parts } in commits {
                put(u64::from(shard - before), &mut body);
                put(commit >> COMMIT_COUNT_BITS, &mut body);
                put(commit & ((1 << COMMIT_COUNT_BITS) - 1), &mut body);
                put(u64::from(*parts), &mut body);
                before = *shard;
            }
        }
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&(xxh3_64(&body) as u32).to_le_bytes());
        bytes.extend_from_slice(&body);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// # Errors
    /// It is not what [`ResumeToken::encode`] made.
    pub fn decode(text: &str) -> Result<ResumeToken, TokenError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)?;
        let (version, rest) = bytes.split_first().ok_or(TokenError::Malformed)?;
        if *version != VERSION {
            return Err(TokenError::Version);
        }
        let (sum, body) = rest.split_first_chunk::<4>().ok_or(TokenError::Malformed)?;
        if u32::from_le_bytes(*sum) != xxh3_64(body) as u32 {
            return Err(TokenError::Malformed);
        }
        ResumeToken::decode_body(body).ok_or(TokenError::Malformed)
    }

    fn decode_body(body: &[u8]) -> Option<ResumeToken> {
        let (feed, mut rest) = body.split_first_chunk::<8>()?;
        let rest = &mut rest;
        let mut members = Vec::new();
        for _ in 0..take(rest)? {
            let shards = take(rest).filter(|shards| *shards <= u64::from(limits::SHARDS_MAX))?;
            let mut commits = Commits::new();
            let mut before = 0u32;
            for _ in 0..shards {
                let shard = before.checked_add(u32::try_from(take(rest)?).ok()?)?;
                let (epoch, count) = (take(rest)?, take(rest)?);
                if epoch >> (u64::BITS - COMMIT_COUNT_BITS) != 0 || count >> COMMIT_COUNT_BITS != 0 {
                    return None;
                }
                let parts = u32::try_from(take(rest)?).ok()?;
                commits.push(ShardPlace { shard, commit: epoch << COMMIT_COUNT_BITS | count, parts });
                before = shard;
            }
            members.push(commits);
        }
        rest.is_empty().then_some(ResumeToken { feed: u64::from_le_bytes(*feed), members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> ResumeToken {
        let place = |shard: u32, epoch: u64, count: u64, parts: u32| {
            let commit = epoch << COMMIT_COUNT_BITS | count;
            ShardPlace { shard, commit, parts }
        };
        ResumeToken {
            feed: 0x1122_3344_5566_7788,
            members: vec![vec![place(16, 3, 0, 0), place(17, 3, 300, 2), place(500, 1 << 23, 1, 0)], vec![]],
        }
    }

    #[test]
    fn golden_text_of_a_token() {
        let text = token().encode();
        assert_eq!(text, "AouNB_mId2ZVRDMiEQIDEAMAAAEDrAIC4wOAgIAEAQAA");
        assert_eq!(ResumeToken::decode(&text), Ok(token()));
    }

    #[test]
    fn a_token_that_was_cut_or_changed_is_refused() {
        let text = token().encode();
        for end in 0..text.len() {
            assert!(ResumeToken::decode(&text[..end]).is_err(), "{end}");
        }
        for place in 0..text.len() {
            let other = if text.as_bytes()[place] == b'A' { "B" } else { "A" };
            let changed = format!("{}{other}{}", &text[..place], &text[place + 1..]);
            assert!(ResumeToken::decode(&changed).is_err(), "{changed}");
        }
        for garbage in ["", "garbage", "é", "AAAA", "Aw", "////"] {
            assert!(ResumeToken::decode(garbage).is_err(), "{garbage}");
        }
        assert_eq!(ResumeToken::decode("AwAAAAAA"), Err(TokenError::Version));
    }
}
