//! From features to the rows that the decoder sees: two linear layers, then a newline vector after each grid row.

use std::ops::Range;

use candle_core::{D, Tensor};
use tessera_anyres::{EmbeddingRow, Plan};
use tessera_checkpoint::{Activation, ModelConfig};
use tessera_tensor::HostTensor;

use crate::{
    ModelError,
    device::Device,
    layers::{Bias, Linear},
    weights::{Weights, names},
};

/// The projector and the newline vector.
pub(crate) struct Projector {
    inputs: usize,
    linear_1: Linear,
    activation: Activation,
    linear_2: Linear,
    /// `[1, hidden_size]`
    newline: Tensor,
}

/// The rows that the decoder sees of one image, on the device of the model that made them.
#[derive(Clone)]
pub struct ImageEmbedding {
    /// `[image_tokens, hidden_size]`
    rows: Tensor,
}

impl Projector {
    pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig) -> Result<Self, ModelError> {
        let inputs = config.feature_channels();
        let width = config.text.hidden_size;
        let bias = Bias::from(config.projector_bias);
        Ok(Self {
            inputs,
            linear_1: Linear::load(weights, names::PROJECTOR_1, inputs, width, bias)?,
            activation: config.projector_activation,
            linear_2: Linear::load(weights, names::PROJECTOR_2, width, width, bias)?,
            newline: weights.vector(names::NEWLINE, width)?.unsqueeze(0)?,
        })
    }

    /// features: `[plan.feature_rows(), channels]`, packed; result: `plan.image_tokens()` rows
    pub(crate) fn image_embedding(
        &self,
        device: &Device,
        features: &HostTensor,
        plan: &Plan,
    ) -> Result<ImageEmbedding, ModelError> {
        let newline = plan.feature_rows();
        if features.shape() != [newline, self.inputs] {
            let wanted = format!("[{newline}, {}]", self.inputs);
            return Err(ModelError::Input { what: "features", wanted, found: features.shape().to_vec() });
        }
        let projected = self.linear_1.forward_activated(&device.upload(features)?, self.activation)?;
        let projected = self.linear_2.forward(&projected)?;
        let rows: Vec<u32> = plan
            .embedding_rows()
            .map(|row| match row {
                EmbeddingRow::Feature(feature) => feature as u32,
                EmbeddingRow::Newline => newline as u32,
            })
            .collect();
        let rows = Tensor::cat(&[&projected, &self.newline], 0)?.index_select(&device.indices(&rows)?, 0)?;
        Ok(ImageEmbedding { rows })
    }
}

impl ImageEmbedding {
    /// Returns the number of rows: the image tokens of the plan.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.dims().first().copied().unwrap_or(0)
    }

    /// Returns the bytes that the rows take.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.rows.elem_count() * self.rows.dtype().size_in_bytes()
    }

    /// The width of a row.
    pub(crate) fn width(&self) -> usize {
        self.rows.dim(D::Minus1).unwrap_or(0)
    }

    /// All rows, contiguous: `[image_tokens, hidden_size]`.
    pub(crate) fn tensor(&self) -> &Tensor {
        &self.rows
    }

    /// Some of the rows, which the caller has checked to exist.
    pub(crate) fn narrow(&self, rows: &Range<usize>) -> Result<Tensor, ModelError> {
        Ok(self.rows.narrow(0, rows.start, rows.len())?)
    }

    /// The rows in host memory, in the compute type.
    pub(crate) fn to_host(&self, device: &Device) -> Result<HostTensor, ModelError> {
        device.download(&self.rows)
    }
}
