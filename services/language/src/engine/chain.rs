//! Names of full blocks: a hash of everything up to their end.

use std::ops::Range;

use tessera_embedding::ImageKey;

/// Context of the key derivation: changing it changes every name.
const CONTEXT: &str = "tessera 2026 kv block v1";

/// The name of a full block: two are equal only where the salt, every token, and at image positions the image and the row
/// are equal from the first position on. 256 bits, compared whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockHash([u8; 32]);

/// Consecutive positions of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run<'a> {
    /// Token ids.
    Tokens(&'a [u32]),
    /// Rows of an image.
    Image(ImageKey, Range<usize>),
}

impl BlockHash {
    /// What the first block follows. Sequences of different salts have no block in common.
    pub fn root(salt: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(salt);
        Self(*hasher.finalize().as_bytes())
    }

    /// The name of the block that follows this one and holds these positions.
    #[must_use]
    pub fn next<'a>(&self, runs: impl IntoIterator<Item = Run<'a>>) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        // Each run says its kind and its length, so that no two lists of runs read the same.
        for run in runs {
            match run {
                Run::Tokens(ids) => {
                    hasher.update(&[0]).update(&(ids.len() as u64).to_le_bytes());
                    for id in ids {
                        hasher.update(&id.to_le_bytes());
                    }
                }
                Run::Image(key, rows) => {
                    hasher.update(&[1]).update(&(rows.len() as u64).to_le_bytes());
                    hasher.update(key.as_bytes()).update(&(rows.start as u64).to_le_bytes());
                }
            }
        }
        Self(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use tessera_embedding::EncoderFingerprint;

    use super::*;

    fn key(n: u8) -> ImageKey {
        ImageKey::of(&[], &EncoderFingerprint::of(&[]), &[n])
    }

    #[test]
    fn names_differ_by_salt_past_tokens_image_and_row() {
        let root = BlockHash::root(b"");
        let names = [
            root.next([Run::Tokens(&[1, 2, 3])]),
            BlockHash::root(b"tenant").next([Run::Tokens(&[1, 2, 3])]),
            root.next([Run::Tokens(&[0])]).next([Run::Tokens(&[1, 2, 3])]),
            root.next([Run::Tokens(&[1, 2, 4])]),
            root.next([Run::Tokens(&[1, 2]), Run::Tokens(&[3])]),
            root.next([Run::Image(key(1), 0..3)]),
            root.next([Run::Image(key(2), 0..3)]),
            root.next([Run::Image(key(1), 1..4)]),
            root.next([Run::Image(key(1), 0..1), Run::Tokens(&[2, 3])]),
        ];
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{index}");
        }
        assert_eq!(names[0], root.next([Run::Tokens(&[1, 2, 3])]));
    }
}
