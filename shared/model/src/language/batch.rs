//! One flat batch: which rows of which sequences a step computes.

use std::ops::Range;

use tessera_checkpoint::TextConfig;
use tessera_kernels::{NONE, TopScores, Wish};

use crate::{
    BLOCK_POSITIONS, ImageEmbedding, ModelError,
    attention::Span,
    device::{self, Answers},
};

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

/// Which rows of a chunk give logits, and what is wanted of these.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Logits {
    /// None: a piece of a prompt that goes on.
    None,
    /// The last row: the end of a prompt, or a decode step.
    Last,
    /// The last row, and of its scores only whose is the largest: what a greedy choice needs, and all that comes back
    /// from a GPU.
    Likeliest,
    /// The last row, and of its scores the largest: what a draw from few tokens needs. The CPU's own way gives all scores in their
    /// place, for there they are at hand.
    Top {
        /// If given, the sum of the powers of all scores is wanted too, divided by this.
        temperature: Option<f32>,
    },
    /// The last row, and of its scores only the token that is drawn by them, every token as likely as its power is large. The CPU's own way
    /// gives all scores instead.
    Draw {
        /// What scores are divided by.
        temperature: f32,
        /// From 0 to 1: where the draw falls.
        number: f64,
    },
    /// Every row, for scoring and for tests.
    All,
}

impl Logits {
    /// The number of rows that a chunk of `rows` rows gives logits for.
    fn count(self, rows: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last | Self::Likeliest | Self::Top { .. } | Self::Draw { .. } => 1,
            Self::All => rows,
        }
    }

    /// What is to be found in these rows by the dense way.
    pub(super) fn wish(self) -> Wish {
        match self {
            Self::None => Wish::Nothing,
            Self::Last | Self::All => Wish::Scores,
            Self::Likeliest => Wish::Likeliest,
            Self::Top { temperature } => Wish::Top { temperature },
            Self::Draw { temperature, number } => Wish::Draw { temperature, number },
        }
    }

    /// What is to be found in these rows by the CPU's own way.
    pub(super) fn wish_on_cpu(self) -> Wish {
        match self.wish() {
            Wish::Top { .. } | Wish::Draw { .. } => Wish::Scores,
            other => other,
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
    /// The likeliest token, or the one that was drawn, if any score is finite.
    Token(Option<u32>),
    /// The largest scores.
    Top(TopScores),
}

impl StepLogits {
    /// Returns how many scores a row has.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Returns the scores of a chunk, row-major: of the rows that it asked for, each with one score for every token of the
    /// vocabulary. They are empty if it asked for none, or got a token or the largest scores.
    ///
    /// # Panics
    /// If the batch had no such chunk.
    #[must_use]
    pub fn of(&self, chunk: usize) -> &[f32] {
        match &self.results[chunk] {
            Given::Scores(rows) => &self.values[rows.start * self.vocabulary..rows.end * self.vocabulary],
            Given::Token(_) | Given::Top(_) => &[],
        }
    }

    /// Returns the token behind the last row of a chunk that asked for [`Logits::Likeliest`], the first of those with the largest
    /// finite score, or for [`Logits::Draw`]. It is `None` where no score is finite, and for a chunk that got something else.
    ///
    /// # Panics
    /// If the batch had no such chunk.
    #[must_use]
    pub fn token(&self, chunk: usize) -> Option<u32> {
        match self.results[chunk] {
            Given::Token(token) => token,
            Given::Scores(_) | Given::Top(_) => None,
        }
    }

    /// Returns the largest scores of the last row of a chunk that asked for [`Logits::Top`] and did not get all. Where they do not
    /// suffice, [`LanguageModel::scores`](crate::LanguageModel::scores) has the others.
    ///
    /// # Panics
    /// If the batch had no such chunk.
    #[must_use]
    pub fn top(&self, chunk: usize) -> Option<&TopScores> {
        match &self.results[chunk] {
            Given::Top(top) => Some(top),
            Given::Scores(_) | Given::Token(_) => None,
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

    /// The rows of the flat batch that give logits, by what their chunks wish for: first those whose scores are wanted, then those
    /// whose largest are, then the others; of each kind in the order of the chunks.
    pub(crate) fn wanted_rows(&self, batch: &[Chunk<'_>], wish: impl Fn(Logits) -> Wish) -> Wanted {
        let mut wanted =
            Wanted { rows: Vec::new(), wishes: Vec::new(), chunks: vec![(Wish::Nothing, 0..0); batch.len()] };
        let mut order: Vec<usize> = (0..batch.len()).collect();
        order.sort_by_key(|chunk| match wish(batch[*chunk].logits) {
            Wish::Scores => 0,
            Wish::Top { .. } => 1,
            Wish::Likeliest | Wish::Draw { .. } | Wish::Nothing => 2,
        });
        for index in order {
            let (logits, rows) = (batch[index].logits, &self.spans[index].rows);
            let (first, place) = (rows.end - logits.count(rows.len()), wanted.rows.len());
            wanted.rows.extend((first..rows.end).map(|row| row as u32));
            wanted.wishes.resize(wanted.rows.len(), wish(logits));
            wanted.chunks[index] = (wish(logits), place..wanted.rows.len());
        }
        wanted
    }
}

/// The rows of a flat batch that give logits, in the order in which their results are read.
pub(crate) struct Wanted {
    pub(crate) rows: Vec<u32>,
    /// What each of them gives.
    pub(crate) wishes: Vec<Wish>,
    /// What each chunk wants, and where its rows are among these.
    pub(crate) chunks: Vec<(Wish, Range<usize>)>,
}

impl Wanted {
    /// How many rows give scores, and how many the largest.
    pub(crate) fn counts(&self) -> device::Wanted {
        let count = |of: fn(&Wish) -> bool| self.wishes.iter().filter(|wish| of(wish)).count();
        let topped = count(|wish| matches!(wish, Wish::Top { .. }));
        device::Wanted { scored: count(|wish| matches!(wish, Wish::Scores)), topped }
    }
}

impl StepLogits {
    /// Deals out what the wanted rows gave.
    pub(super) fn new(wanted: &Wanted, vocabulary: usize, answers: Answers) -> Self {
        let Answers { tokens, top, scores: values } = answers;
        let scored = wanted.counts().scored;
        let result = |(wish, rows): &(Wish, Range<usize>)| match wish {
            Wish::Nothing => Given::Scores(0..0),
            Wish::Scores => Given::Scores(rows.clone()),
            Wish::Likeliest | Wish::Draw { .. } => Given::Token(Some(tokens[rows.start]).filter(|id| *id != NONE)),
            Wish::Top { .. } => Given::Top(top[rows.start - scored].clone()),
        };
        Self { results: wanted.chunks.iter().map(result).collect(), values, vocabulary }
    }
}

/// The first of the largest finite scores. The largest is looked for lane by lane, so that it is in vectors, and then its
/// place. [`NONE`] where no score is finite.
pub(super) fn likeliest(scores: &[f32]) -> u32 {
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
    place.map_or(NONE, |place| place as u32)
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
        assert_eq!(likeliest(&[]), NONE);
        assert_eq!(likeliest(&[nan, infinite, -infinite, infinite]), NONE);
        assert_eq!(likeliest(&[nan, -7.0, infinite, -3.0, -3.0]), 3);
        let mut scores = vec![-1.0; 100];
        assert_eq!(likeliest(&scores), 0);
        (scores[17], scores[40], scores[99]) = (5.0, infinite, 5.0);
        assert_eq!(likeliest(&scores), 17);
        scores[98] = 6.0;
        assert_eq!(likeliest(&scores), 98);
        scores[0] = 6.0;
        assert_eq!(likeliest(&scores), 0);
    }
}
