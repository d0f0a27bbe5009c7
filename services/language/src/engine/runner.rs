//! Rows to logits: the seam between the engine, which knows no tensor, and the model.

mod candle;

use std::ops::Range;

use tessera_api::{Error, ErrorKind};
use tessera_embedding::Artifact;

pub use self::candle::CandleRunner;
use super::sequence::SequenceId;

/// Why the model could not do its part.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RunError {
    /// Features that do not belong to this model.
    #[error("features do not fit this model: {0}")]
    Features(String),
    /// Memory or arithmetic failed.
    #[error("the model failed: {0}")]
    Model(String),
}

impl From<RunError> for Error {
    fn from(error: RunError) -> Self {
        let (kind, reason) = match error {
            RunError::Features(_) => (ErrorKind::Precondition, "FEATURES_MISMATCH"),
            RunError::Model(_) => (ErrorKind::Internal, "MODEL_FAILED"),
        };
        Self::new(kind, reason, error.to_string())
    }
}

/// Rows of one sequence in a step.
#[derive(Clone, Debug)]
pub struct Slice<'a> {
    /// Whose.
    pub id: SequenceId,
    /// Position of the first row.
    pub start: usize,
    /// What the rows are.
    pub inputs: Vec<Input<'a>>,
    /// True when the scores after the last row are needed.
    pub wants_logits: bool,
}

/// Consecutive rows.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// Token ids.
    Tokens(&'a [u32]),
    /// Rows of an image of this sequence.
    Image {
        /// Which image.
        index: usize,
        /// Its rows.
        rows: Range<usize>,
    },
}

/// Runs the model and keeps what belongs to each sequence: keys, values, image embeddings.
pub trait ModelRunner {
    /// Makes room for a sequence of at most `positions` positions and `images` images.
    ///
    /// # Errors
    /// When there is no memory.
    fn open(&mut self, id: SequenceId, positions: usize, images: usize) -> Result<(), RunError>;

    /// Takes the features of an image and makes its embedding.
    ///
    /// # Errors
    /// When they are not this model's.
    fn place(&mut self, id: SequenceId, index: usize, features: &Artifact) -> Result<(), RunError>;

    /// Lets go of an image whose rows are all computed.
    fn release(&mut self, id: SequenceId, index: usize);

    /// Computes one step: for each slice the scores after its last row, `[vocabulary]`, where it wants them.
    ///
    /// # Errors
    /// When the arithmetic fails; no slice counts as computed then.
    fn run(&mut self, step: &[Slice<'_>]) -> Result<Vec<Option<Vec<f32>>>, RunError>;

    /// Lets go of a sequence.
    fn close(&mut self, id: SequenceId);
}
