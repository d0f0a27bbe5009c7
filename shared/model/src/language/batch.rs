//! One flat batch: which rows of which sequences a step computes.

use std::ops::Range;

use tessera_checkpoint::TextConfig;

use crate::{ImageEmbedding, KvCache, ModelError};

/// The rows of one sequence in a batch: the next positions of its prompt, or its last token.
pub struct Chunk<'a> {
    /// Keys and values of the positions before this chunk; those of the chunk are appended.
    pub cache: &'a mut KvCache,
    /// Position of the first row. Always the length of the cache: said twice so that a scheduler that lost count is
    /// noticed.
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

/// Where the chunks' rows stand in the flat batch. Its existence says that the batch is valid.
pub(crate) struct Layout {
    /// The rows of each chunk.
    pub(crate) rows: Vec<Range<usize>>,
    /// The position in its sequence of each row.
    pub(crate) positions: Vec<u32>,
}

impl Layout {
    pub(crate) fn new(batch: &[Chunk<'_>], config: &TextConfig) -> Result<Self, ModelError> {
        let mut layout = Self { rows: Vec::with_capacity(batch.len()), positions: Vec::new() };
        for (index, chunk) in batch.iter().enumerate() {
            let rows = check(chunk, config).map_err(|problem| ModelError::Chunk { index, problem })?;
            let first = layout.positions.len();
            layout.rows.push(first..first + rows);
            // Positions are below `max_positions`, which a position table in memory keeps far below 2^32.
            layout.positions.extend((chunk.start..chunk.start + rows).map(|position| position as u32));
        }
        Ok(layout)
    }

    /// The rows of the flat batch that give logits, ascending.
    pub(crate) fn wanted_rows(&self, batch: &[Chunk<'_>]) -> Vec<u32> {
        let mut wanted = Vec::new();
        for (chunk, rows) in batch.iter().zip(&self.rows) {
            let first = rows.end - chunk.logits.count(rows.len());
            wanted.extend((first..rows.end).map(|row| row as u32));
        }
        wanted
    }
}

/// The number of rows of a valid chunk, or what is wrong with it.
fn check(chunk: &Chunk<'_>, config: &TextConfig) -> Result<usize, String> {
    let rows: usize = chunk.inputs.iter().map(Input::len).sum();
    if rows == 0 {
        return Err("has no rows".to_owned());
    }
    let cache = &*chunk.cache;
    if !cache.fits(config) {
        return Err("has the cache of another model".to_owned());
    }
    if chunk.start != cache.len() {
        return Err(format!("starts at position {}, its cache ends at {}", chunk.start, cache.len()));
    }
    if rows > cache.capacity() - cache.len() {
        let room = cache.capacity() - cache.len();
        return Err(format!("has {rows} rows, its cache has room for {room} of {}", cache.capacity()));
    }
    for input in &chunk.inputs {
        match input {
            Input::Tokens(tokens) => {
                if let Some(token) = tokens.iter().find(|&&token| token as usize >= config.vocab_size) {
                    return Err(format!("has token {token}, the vocabulary has {}", config.vocab_size));
                }
            }
            Input::Image { embedding, rows } => {
                if rows.start > rows.end || rows.end > embedding.rows() {
                    return Err(format!("asks for image rows {rows:?}, there are {}", embedding.rows()));
                }
                if embedding.width() != config.hidden_size {
                    let (found, width) = (embedding.width(), config.hidden_size);
                    return Err(format!("has an image embedding of width {found}, the decoder has {width}"));
                }
            }
        }
    }
    Ok(rows)
}
