//! Which beginnings of prompts a language worker may still have in its cache: what this gateway sent it lately.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use tessera_api::language::GenerateRequest;

use super::recent::Recent;

/// The shortest beginning that is remembered, in positions.
const SHORTEST: usize = 64;
/// Positions that a worker is taken to keep while it has not said how many blocks it has.
const UNKNOWN_ROOM: usize = 64 << 10;
/// Positions of one block of a worker's cache.
const BLOCK: usize = 32;
/// Beginnings that are remembered of one worker, at most twice as many.
const BEGINNINGS: usize = 16 << 10;

/// The beginning of a prompt: so many positions, and what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    pub(super) positions: usize,
    hash: u64,
}

/// The beginnings of the prompts that one worker was sent lately.
#[derive(Debug)]
pub(super) struct Prefixes {
    sent: Recent<u64, ()>,
    /// Positions that the worker had to compute for the younger half of them.
    computed: usize,
}

impl Default for Prefixes {
    fn default() -> Self {
        Self { sent: Recent::new(BEGINNINGS), computed: 0 }
    }
}

impl Prefixes {
    /// How many positions of a prompt with these beginnings the worker may have in its cache.
    pub(super) fn expected(&self, beginnings: &[Beginning]) -> usize {
        let known = beginnings.iter().rev().find(|beginning| self.sent.get(&beginning.hash).is_some());
        known.map_or(0, |beginning| beginning.positions)
    }

    /// Takes note of a prompt that the worker is sent, of which `missing` positions are new to it. Once these are more
    /// than half of what fits into its `blocks`, what was sent before is older; what is older than that is forgotten,
    /// as it is there.
    pub(super) fn note(&mut self, beginnings: &[Beginning], missing: usize, blocks: Option<usize>) {
        for beginning in beginnings {
            self.sent.note(beginning.hash, ());
        }
        self.computed += missing;
        if self.computed > blocks.map_or(UNKNOWN_ROOM, |blocks| blocks * BLOCK) / 2 {
            self.sent.turn();
            self.computed = 0;
        }
    }

    /// Forgets everything: the worker started anew.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The beginnings of a prompt by which it is compared with others, shortest first: at lengths that grow by half each
/// time, so that two prompts with a long common beginning have at least two thirds of it in common here, and behind
/// every image, which counts by its key.
pub(super) fn beginnings(request: &GenerateRequest, state: &RandomState) -> Vec<Beginning> {
    let mut hasher = state.build_hasher();
    request.salt.hash(&mut hasher);
    let (mut all, mut at, mut next) = (Vec::new(), 0, SHORTEST);
    let ends = request.images.iter().map(|image| (image.positions.clone(), Some(image.key)));
    let end = request.token_ids.len();
    for (image, key) in ends.chain([(end..end, None)]) {
        for &id in request.token_ids.get(at..image.start).unwrap_or_default() {
            hasher.write_u32(id);
            at += 1;
            if at == next {
                all.push(Beginning { positions: at, hash: hasher.finish() });
                next = longer(next);
            }
        }
        if let Some(key) = key {
            key.as_bytes().hash(&mut hasher);
            at = image.end;
            all.push(Beginning { positions: at, hash: hasher.finish() });
            while next <= at {
                next = longer(next);
            }
        }
    }
    all
}

/// The next length, in whole blocks.
fn longer(positions: usize) -> usize {
    (positions + positions / 2).next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use tessera_anyres::ImageSize;
    use tessera_api::language::ImageReference;
    use tessera_embedding::{EncoderFingerprint, ImageKey};

    use super::*;

    /// Words, an image of 1000 positions if there is one, and more words.
    fn prompt(before: usize, image: Option<&[u8]>, after: &[u32]) -> GenerateRequest {
        let mut ids: Vec<u32> = (0..before as u32).collect();
        let images = image.map(|file| ImageReference {
            key: ImageKey::of(b"", &EncoderFingerprint::of(&[]), file),
            positions: before..before + 1000,
            image_size: ImageSize { height: 1, width: 1 },
            store: String::new(),
            is_stored: false,
        });
        ids.resize(before + if images.is_some() { 1000 } else { 0 }, 7);
        ids.extend(after);
        let images = images.into_iter().collect();
        GenerateRequest { images, ..GenerateRequest::greedy(ids, NonZeroUsize::MIN) }
    }

    #[test]
    fn prompts_have_in_common_what_they_begin_with() {
        let state = RandomState::new();
        let of = |request: &GenerateRequest| beginnings(request, &state);
        let mut prefixes = Prefixes::default();
        let first = prompt(40, Some(b"cat"), &[1; 500]);
        prefixes.note(&of(&first), 1540, Some(1000));
        assert_eq!(prefixes.expected(&of(&first)), 1312, "the longest of the lengths that it has");
        assert_eq!(prefixes.expected(&of(&prompt(40, Some(b"cat"), &[2; 500]))), 1040, "another question");
        assert_eq!(prefixes.expected(&of(&prompt(40, Some(b"dog"), &[1; 500]))), 0, "another image");
        let other = GenerateRequest { salt: "another tenant".into(), ..first };
        assert_eq!(prefixes.expected(&of(&other)), 0);
        let long = of(&prompt(30_000, None, &[]));
        assert!(long.len() < 20 && long.iter().all(|beginning| beginning.positions % BLOCK == 0), "{long:?}");
        assert!(long.windows(2).all(|pair| pair[1].positions * 2 <= pair[0].positions * 3 + 2 * BLOCK));
        assert_eq!(of(&prompt(10, None, &[])), []);
    }

    #[test]
    fn what_a_worker_has_no_room_for_is_forgotten() {
        let state = RandomState::new();
        let of = |name: u32| beginnings(&prompt(40, Some(&name.to_le_bytes()), &[]), &state);
        let mut prefixes = Prefixes::default();
        // Room for 20 of them.
        let blocks = Some(20 * 1040 / BLOCK);
        for name in 0..1000 {
            prefixes.note(&of(name), 1040, blocks);
        }
        let known = (0..1000).filter(|&name| prefixes.expected(&of(name)) > 0).count();
        assert!((10..=22).contains(&known), "{known}");
        prefixes.clear();
        assert_eq!(prefixes.expected(&of(999)), 0);
    }
}
