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
    /// Every row, for scoring and for tests.
    All,
}

impl Logits {
    /// The number of rows that a chunk of `rows` rows gives logits for.
    pub(crate) fn count(self, rows: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last => 1,
            Self::All => rows,
        }
    }
}

/// The scores of a step, in one piece.
#[derive(Clone, Debug, PartialEq)]
pub struct StepLogits {
    /// `[wanted rows of all chunks, vocabulary]`
    values: Vec<f32>,
    vocabulary: usize,
    /// The wanted rows of each chunk.
    rows: Vec<Range<usize>>,
}

impl StepLogits {
    /// Returns how many scores a row has.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Returns the scores of a chunk, row-major: of the rows that it asked for, each with one score for every token of the
    /// vocabulary. They are empty if it asked for none.
    ///
    /// # Panics
    /// If the batch had no such chunk.
    #[must_use]
    pub fn of(&self, chunk: usize) -> &[f32] {
        let Range { start, end } = self.rows[chunk];
        &self.values[start * self.vocabulary..end * self.vocabulary]
    }

    /// Puts in the scores of all wanted rows.
    pub(super) fn fill(&mut self, values: Vec<f32>) {
        self.values = values;
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

    /// The rows of the flat batch that give logits, ascending.
    pub(crate) fn wanted_rows(&self, batch: &[Chunk<'_>]) -> Vec<u32> {
        let mut wanted = Vec::new();
        for (chunk, Span { rows, .. }) in batch.iter().zip(&self.spans) {
            let first = rows.end - chunk.logits.count(rows.len());
            wanted.extend((first..rows.end).map(|row| row as u32));
        }
        wanted
    }

    /// Where the chunks' scores will be, without the scores.
    pub(crate) fn logits(&self, batch: &[Chunk<'_>], vocabulary: usize) -> StepLogits {
        let mut first = 0;
        let rows = batch.iter().zip(&self.spans).map(|(chunk, span)| {
            let start = first;
            first += chunk.logits.count(span.rows.len());
            start..first
        });
        StepLogits { values: Vec::new(), vocabulary, rows: rows.collect() }
    }
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
