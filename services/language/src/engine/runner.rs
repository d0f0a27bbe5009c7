//! Rows to scores: the seam between the engine, which knows no tensor, and the model.

mod candle;

use std::ops::Range;

use tessera_api::{Error, ErrorKind};
use tessera_embedding::{ImageFeatures, ImageKey};
use tessera_kernels::TopScores;

pub use self::candle::CandleRunner;
use super::blocks::BlockId;
use super::chain::Run;
use super::scheduler::Wanted;

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

/// Rows of one branch in a step.
#[derive(Clone, Debug)]
pub struct Slice<'a> {
    /// The blocks of its positions, these rows' included.
    pub blocks: &'a [BlockId],
    /// What the rows are.
    pub runs: Vec<Run<'a>>,
    /// Their positions.
    pub positions: Range<usize>,
    /// What is wanted of their scores.
    pub scores: Wanted,
}

/// The scores of one step, or as much of them as was wanted.
pub trait Scores {
    /// The scores that a slice wanted, `[wanted rows * vocabulary]`. Empty where it wanted none, or got less than all.
    fn of(&self, slice: usize) -> &[f32];

    /// The token after the last row of a slice that wanted no more than that: the first of the ids with the largest finite
    /// score, or the one that was drawn; `None` where no score is finite.
    fn token(&self, slice: usize) -> Option<u32>;

    /// The largest scores after the last row of a slice that wanted these; `None` where it got all.
    fn top(&self, slice: usize) -> Option<&TopScores>;
}

/// Runs the model; keeps keys and values in blocks, and the embeddings of images that are being computed.
pub trait ModelRunner {
    /// What a step gives.
    type Scores: Scores;

    /// Takes the features of an image and makes its embedding. An image that several sequences need is placed by each.
    ///
    /// # Errors
    /// When they are not this model's.
    fn place(&mut self, key: ImageKey, features: &ImageFeatures) -> Result<(), RunError>;

    /// Lets go of an image, as often as it was placed.
    fn release(&mut self, key: ImageKey);

    /// Copies the content of a block into another one.
    ///
    /// # Errors
    /// When the arithmetic fails.
    fn copy(&mut self, from: BlockId, to: BlockId) -> Result<(), RunError>;

    /// Computes one step and writes its keys and values into the slices' blocks.
    ///
    /// # Errors
    /// When the arithmetic fails; no slice counts as computed then.
    fn run(&mut self, step: &[Slice<'_>]) -> Result<Self::Scores, RunError>;

    /// All scores after the last row of a slice of the last step that got the largest.
    ///
    /// # Errors
    /// When there is no such slice, or they cannot be had.
    fn scores(&mut self, slice: usize) -> Result<Vec<f32>, RunError>;
}
