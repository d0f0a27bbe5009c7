//! One answer of a sequence: its tokens, and the blocks that hold their keys and values.

use std::ops::Range;

use tessera_embedding::ImageKey;

use super::blocks::{BLOCK_POSITIONS, BlockId, Blocks};
use super::chain::{BlockHash, Run};
use super::guide::Guide;
use super::sampler::Sampler;

/// Where an image stands in a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    /// Which image.
    pub(super) key: ImageKey,
    /// The positions that its rows fill.
    pub(super) positions: Range<usize>,
}

/// One answer in progress. A sequence has one for each of its samples or beams.
#[derive(Debug)]
pub(super) struct Branch {
    /// Prompt, then answer.
    pub(super) tokens: Vec<u32>,
    /// Positions whose keys and values are in the cache.
    pub(super) computed: usize,
    /// Blocks that hold them, in order; the last may be partly filled.
    pub(super) table: Vec<BlockId>,
    /// Names of full blocks, as far as they were needed. They depend on the tokens alone.
    names: Vec<BlockHash>,
    /// Chooses its tokens.
    pub(super) sampler: Sampler,
    /// What its answer must be, where that was said.
    pub(super) guide: Option<Guide>,
    /// True while it waits for another branch to compute what was given to both.
    pub(super) waits: bool,
    /// True when its answer is over.
    pub(super) ended: bool,
    /// Scores after its last token, kept until those of the other beams are here.
    pub(super) scores: Option<Vec<f32>>,
}

impl Branch {
    /// Makes a branch of which nothing is computed.
    pub(super) fn new(tokens: Vec<u32>, sampler: Sampler) -> Self {
        let (table, names) = (Vec::new(), Vec::new());
        Self { tokens, computed: 0, table, names, sampler, guide: None, waits: false, ended: false, scores: None }
    }

    /// Returns blocks for another branch that has the same tokens up to `position`, and how far they are computed: full
    /// blocks are shared, one that is partly filled is copied into a new one, or computed again where there is none.
    pub(super) fn share(&self, position: usize, blocks: &mut Blocks) -> (Vec<BlockId>, usize) {
        debug_assert!(position <= self.computed, "only what is computed can be shared");
        let full = position / BLOCK_POSITIONS;
        let mut table = self.table[..full].to_vec();
        table.iter().for_each(|&id| blocks.share(id));
        if position == full * BLOCK_POSITIONS {
            return (table, position);
        }
        match blocks.allocate_copy(self.table[full]) {
            Some(id) => {
                table.push(id);
                (table, position)
            }
            None => (table, full * BLOCK_POSITIONS),
        }
    }

    /// Goes on behind the blocks that somebody computed already; returns how many positions that were. One position at
    /// least is left to compute: what follows is chosen by its scores.
    pub(super) fn reuse(&mut self, root: &BlockHash, images: &[Placed], blocks: &mut Blocks) -> usize {
        let before = self.computed;
        while self.computed == self.table.len() * BLOCK_POSITIONS
            && self.computed + BLOCK_POSITIONS < self.tokens.len()
            && let Some(id) = blocks.find(&self.name(self.table.len(), root, images))
        {
            self.table.push(id);
            self.computed += BLOCK_POSITIONS;
        }
        self.computed - before
    }

    /// Takes blocks until there is room up to `end`; returns how far there is.
    pub(super) fn grow(&mut self, end: usize, blocks: &mut Blocks) -> usize {
        while self.table.len() * BLOCK_POSITIONS < end
            && let Some(id) = blocks.allocate()
        {
            self.table.push(id);
        }
        end.min(self.table.len() * BLOCK_POSITIONS)
    }

    /// Notes that rows were computed, and names the blocks that they filled.
    pub(super) fn advance(&mut self, rows: usize, root: &BlockHash, images: &[Placed], blocks: &mut Blocks) {
        let before = self.computed / BLOCK_POSITIONS;
        self.computed += rows;
        for index in before..self.computed / BLOCK_POSITIONS {
            let name = self.name(index, root, images);
            blocks.name(self.table[index], name);
        }
    }

    /// Forgets what was computed.
    pub(super) fn release(&mut self, blocks: &mut Blocks) {
        blocks.release_all(&mut self.table);
        (self.computed, self.scores) = (0, None);
    }

    /// The name of a block that the tokens fill.
    fn name(&mut self, index: usize, root: &BlockHash, images: &[Placed]) -> BlockHash {
        while self.names.len() <= index {
            let start = self.names.len() * BLOCK_POSITIONS;
            let runs = runs(&self.tokens, images, start..start + BLOCK_POSITIONS);
            self.names.push(self.names.last().unwrap_or(root).next(runs));
        }
        self.names[index]
    }
}

/// Cuts a range of positions into runs of tokens and runs of image rows. `images`: in order of position.
pub(super) fn runs<'a>(tokens: &'a [u32], images: &[Placed], range: Range<usize>) -> Vec<Run<'a>> {
    let (mut runs, mut at) = (Vec::with_capacity(1), range.start);
    let first = images.partition_point(|image| image.positions.end <= range.start);
    for Placed { key, positions } in &images[first..] {
        let (start, end) = (positions.start.max(at), positions.end.min(range.end));
        if start >= end {
            break;
        }
        if at < start {
            runs.push(Run::Tokens(&tokens[at..start]));
        }
        runs.push(Run::Image(*key, start - positions.start..end - positions.start));
        at = end;
    }
    if at < range.end {
        runs.push(Run::Tokens(&tokens[at..range.end]));
    }
    runs
}

#[cfg(test)]
mod tests {
    use tessera_embedding::EncoderFingerprint;

    use super::*;

    #[test]
    fn a_range_is_cut_where_images_begin_and_end() {
        let key = ImageKey::of(&[], &EncoderFingerprint::of(&[]), b"");
        let images =
            [Placed { key, positions: 2..5 }, Placed { key, positions: 5..6 }, Placed { key, positions: 8..9 }];
        let tokens: Vec<u32> = (0..10).collect();
        let cut = |range| runs(&tokens, &images, range);
        assert_eq!(cut(0..2), [Run::Tokens(&[0, 1])]);
        assert_eq!(
            cut(1..10),
            [
                Run::Tokens(&[1]),
                Run::Image(key, 0..3),
                Run::Image(key, 0..1),
                Run::Tokens(&[6, 7]),
                Run::Image(key, 0..1),
                Run::Tokens(&[9]),
            ]
        );
        assert_eq!(cut(3..4), [Run::Image(key, 1..2)]);
        assert_eq!(cut(6..6), []);
    }
}
