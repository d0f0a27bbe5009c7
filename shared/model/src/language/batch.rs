//! One flat batch: which rows of which sequences a step computes.

use std::ops::Range;

use tessera_checkpoint::TextConfig;

use crate::{BLOCK_POSITIONS, ImageEmbedding, ModelError, attention::Span};

/// The rows of one sequence in a batch: the next positions of its prompt, or its last token.
pub struct Chunk<'a> {
    /// The blocks of the sequence: block k of this table holds the positions from k times
    /// [`BLOCK_POSITIONS`](crate::BLOCK_POSITIONS) on. There are enough for the positions before this chunk, whose keys and
    /// values are in the pool already, and for its own.
    pub blocks: &'a [u32],
    /// Position of the first row.
    pub start: usize,
    /// What stands at these positions, in order.
    pub inputs: Vec<Input<'a>>,
    /// Which rows' logits are wanted.
    pub logits: Logits,
}

/// Consecutive rows of a chunk.
#[derive(Clone)]
pub enum Input<'a> {
    /// One row per token.
    Tokens(&'a [u32]),
    /// Rows of an image.
    Image {
        /// The image.
        embedding: &'a ImageEmbedding,
        /// Which of its rows.
        rows: Range<usize>,
    },
}

impl Input<'_> {
    /// Returns the number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Tokens(tokens) => tokens.len(),
            Self::Image { rows, .. } => rows.len(),
        }
    }

    /// Tells whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which rows of a chunk give logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: a piece of a prompt that goes on.
    None,
    /// The last row: the end of a prompt, or a decode step.
    Last,
    /// The last row, and of its scores only whose is the largest: what a greedy choice needs, and all that comes back
    /// from a GPU.
    Likeliest,
    /// Every row, for scoring and for tests.
    All,
}

impl Logits {
    /// The number of rows that a chunk of `rows` rows gives logits for.
    pub(crate) fn count(self, rows: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last | Self::Likeliest => 1,
            Self::All => rows,
        }
    }
}

/// What a step gives.
#[derive(Clone, Debug, PartialEq)]
pub struct StepLogits {
    /// `[rows that want scores, vocabulary]`
    values: Vec<f32>,
    vocabulary: usize,
    /// What each chunk gets.
    results: Vec<Given>,
}

/// What a chunk gets.
#[derive(Clone, Debug, PartialEq)]
enum Given {
    /// The scores of these rows of the values.
    Scores(Range<usize>),
    /// The likeliest token, if any score is finite.
    Likeliest(Option<u32>),
}

impl StepLogits {
    /// Returns how many scores a row has.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Returns the scores of a chunk, row-major: of the rows that it asked for, each with one score for every token of the
    /// vocabulary. They are empty if it asked for none, or for [`Logits::Likeliest`].
    ///
    /// # Panics
    /// If the batch had no such chunk.
    #[must_use]
    pub fn of(&self, chunk: usize) -> &[f32] {
        match &self.results[chunk] {
            Given::Scores(rows) => &self.values[rows.start * self.vocabulary..rows.end * self.vocabulary],
            Given::Likeliest(_) => &[],
        }
    }

    /// Returns the likeliest token of the last row of a chunk that asked for [`Logits::Likeliest`]: the first of the
    /// largest finite scores. It is `None` where no score is finite, and for a chunk that asked for something else.
    ///
    /// # Panics
    /// If the batch had no such chunk.
    #[must_use]
    pub fn likeliest(&self, chunk: usize) -> Option<u32> {
        match self.results[chunk] {
            Given::Likeliest(token) => token,
            Given::Scores(_) => None,
        }
    }
}

/// Where the chunks' rows stand in the flat batch. Its existence says that the batch is valid.
pub(crate) struct Layout<'a> {
    /// The rows of each chunk, and where their keys and values stand.
    pub(crate) spans: Vec<Span<'a>>,
    /// The position in its sequence of each row.
    pub(crate) positions: Vec<u32>,
}

impl<'a> Layout<'a> {
    /// Checks the batch for a pool of so many blocks.
    pub(crate) fn new(batch: &[Chunk<'a>], config: &TextConfig, blocks: usize) -> Result<Self, ModelError> {
        let mut layout = Self { spans: Vec::with_capacity(batch.len()), positions: Vec::new() };
        for (index, chunk) in batch.iter().enumerate() {
            let rows = check(chunk, config, blocks).map_err(|problem| ModelError::Chunk { index, problem })?;
            let first = layout.positions.len();
            layout.spans.push(Span { table: chunk.blocks, start: chunk.start, rows: first..first + rows });
            // Positions are below `max_positions`, which a position table in memory keeps far below 2^32.
            layout.positions.extend((chunk.start..chunk.start + rows).map(|position| position as u32));
        }
        layout.check_owners(blocks)?;
        Ok(layout)
    }

    /// Checks that no chunk writes a block that another one writes or reads.
    fn check_owners(&self, blocks: usize) -> Result<(), ModelError> {
        let fail = |index, problem| Err(ModelError::Chunk { index, problem });
        let mut writers: Vec<Option<(usize, usize)>> = vec![None; blocks];
        for (index, span) in self.spans.iter().enumerate() {
            for place in written(span) {
                let block = span.table[place];
                if let Some((other, _)) = writers[block as usize].replace((index, place)) {
                    return fail(index, format!("writes block {block}, which chunk {other} writes"));
                }
            }
        }
        for (index, span) in self.spans.iter().enumerate() {
            for (place, &block) in span.table[..span.start.div_ceil(BLOCK_POSITIONS)].iter().enumerate() {
                match writers[block as usize] {
                    Some(writer) if writer != (index, place) => {
                        return fail(index, format!("reads block {block}, which chunk {} writes", writer.0));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The rows of the flat batch that give logits: in the order of the chunks, first those whose scores are wanted, then
    /// those of which only the likeliest token is.
    pub(crate) fn wanted_rows(&self, batch: &[Chunk<'_>]) -> Wanted {
        let mut wanted = Wanted { rows: Vec::new(), scored: 0 };
        let mut likeliest = Vec::new();
        for (chunk, Span { rows, .. }) in batch.iter().zip(&self.spans) {
            let first = rows.end - chunk.logits.count(rows.len());
            let rows = (first..rows.end).map(|row| row as u32);
            if chunk.logits == Logits::Likeliest { likeliest.extend(rows) } else { wanted.rows.extend(rows) }
        }
        wanted.scored = wanted.rows.len();
        wanted.rows.append(&mut likeliest);
        wanted
    }
}

/// The rows of a flat batch that give logits.
pub(crate) struct Wanted {
    pub(crate) rows: Vec<u32>,
    /// The scores of so many of them are wanted, of the others only the likeliest token.
    pub(crate) scored: usize,
}

impl StepLogits {
    /// Deals out what the wanted rows gave.
    ///
    /// scores: `[scored rows, vocabulary]`; likeliest: one for each of the other rows
    pub(super) fn new(
        batch: &[Chunk<'_>],
        vocabulary: usize,
        scores: Vec<f32>,
        likeliest: impl IntoIterator<Item = Option<u32>>,
    ) -> Self {
        let (mut first, mut likeliest) = (0, likeliest.into_iter());
        let result = |chunk: &Chunk<'_>| match chunk.logits {
            Logits::Likeliest => Given::Likeliest(likeliest.next().flatten()),
            logits => {
                let start = first;
                first += logits.count(chunk.inputs.iter().map(Input::len).sum());
                Given::Scores(start..first)
            }
        };
        Self { results: batch.iter().map(result).collect(), values: scores, vocabulary }
    }
}

/// The first of the largest finite scores. The largest is looked for lane by lane, so that it is in vectors, and then its
/// place.
pub(super) fn likeliest(scores: &[f32]) -> Option<u32> {
    const LANES: usize = 16;
    // What is not a number is never greater, and infinity is no score.
    let greater = |top: f32, score: f32| if score > top && score < f32::INFINITY { score } else { top };
    let (chunks, rest) = scores.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &score) in lanes.iter_mut().zip(chunk) {
            *lane = greater(*lane, score);
        }
    }
    let top = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, greater);
    let place = scores.iter().position(|&score| score == top && top > f32::NEG_INFINITY);
    place.map(|place| place as u32)
}

/// The places in its table of the blocks that a span writes.
fn written(span: &Span<'_>) -> Range<usize> {
    span.start / BLOCK_POSITIONS..(span.start + span.rows.len()).div_ceil(BLOCK_POSITIONS)
}

/// The number of rows of a valid chunk, or what is wrong with it.
fn check(chunk: &Chunk<'_>, config: &TextConfig, blocks: usize) -> Result<usize, String> {
    let rows: usize = chunk.inputs.iter().map(Input::len).sum();
    if rows == 0 {
        return Err("has no rows".to_owned());
    }
    let (start, limit) = (chunk.start, config.max_positions);
    let end = start.saturating_add(rows);
    if end > limit {
        return Err(format!("has {rows} rows from position {start} on, the model has {limit} positions"));
    }
    let needed = end.div_ceil(BLOCK_POSITIONS);
    if chunk.blocks.len() < needed {
        let found = chunk.blocks.len();
        return Err(format!(
            "has {rows} rows from position {start} on and a table of {found} blocks, {needed} are needed"
        ));
    }
    if let Some(block) = chunk.blocks[..needed].iter().find(|&&block| block as usize >= blocks) {
        return Err(format!("names block {block}, the pool has {blocks}"));
    }
    chunk.inputs.iter().try_for_each(|input| check_input(input, config))?;
    Ok(rows)
}

fn check_input(input: &Input<'_>, config: &TextConfig) -> Result<(), String> {
    match input {
        Input::Tokens(tokens) => match tokens.iter().find(|&&token| token as usize >= config.vocab_size) {
            Some(token) => Err(format!("has token {token}, the vocabulary has {}", config.vocab_size)),
            None => Ok(()),
        },
        Input::Image { embedding, rows } => {
            if rows.start > rows.end || rows.end > embedding.rows() {
                return Err(format!("asks for image rows {rows:?}, there are {}", embedding.rows()));
            }
            if embedding.width() != config.hidden_size {
                let (found, width) = (embedding.width(), config.hidden_size);
                return Err(format!("has an image embedding of width {found}, the decoder has {width}"));
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_is_the_first_of_the_largest_finite_scores() {
        let (nan, infinite) = (f32::NAN, f32::INFINITY);
        assert_eq!(likeliest(&[]), None);
        assert_eq!(likeliest(&[nan, infinite, -infinite, infinite]), None);
        assert_eq!(likeliest(&[nan, -7.0, infinite, -3.0, -3.0]), Some(3));
        let mut scores = vec![-1.0; 100];
        assert_eq!(likeliest(&scores), Some(0));
        (scores[17], scores[40], scores[99]) = (5.0, infinite, 5.0);
        assert_eq!(likeliest(&scores), Some(17));
        scores[98] = 6.0;
        assert_eq!(likeliest(&scores), Some(98));
        scores[0] = 6.0;
        assert_eq!(likeliest(&scores), Some(0));
    }
}
