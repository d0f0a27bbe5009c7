//! The layers that tower, projector and decoder are made of.

mod norm;

use candle_core::Tensor;
use candle_nn::ops;
use tessera_checkpoint::Activation;

pub(crate) use norm::{LayerNorm, RmsNorm};

use crate::{ModelError, device, weights::Weights};

/// `x W^T + b`.
pub(crate) struct Linear {
    /// `[in, out]`, contiguous: matrix products of few rows read it as it is. A view of the stored `[out, in]` they would
    /// copy to this order at every call (measured on two cores, 4096 to 11264 in f32: 17 ms for two rows against 67,
    /// 38 for 16 against 79, 539 for 512 against 589).
    weight: Tensor,
    bias: Option<Tensor>,
}

/// Whether a linear layer has a bias.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bias {
    With,
    Without,
}

impl From<bool> for Bias {
    fn from(with: bool) -> Self {
        if with { Self::With } else { Self::Without }
    }
}

impl Linear {
    /// Loads `{name}.weight` and, if it has one, `{name}.bias`.
    pub(crate) fn load(
        weights: &Weights<'_>,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: Bias,
    ) -> Result<Self, ModelError> {
        Self::load_stacked(weights, &[(name, outputs)], inputs, bias)
    }

    /// Loads several layers with the same input as one, whose output is theirs side by side: one matrix product for all.
    pub(crate) fn load_stacked(
        weights: &Weights<'_>,
        parts: &[(&str, usize)],
        inputs: usize,
        bias: Bias,
    ) -> Result<Self, ModelError> {
        let bias = if bias == Bias::With { Some(weights.biases(parts)?) } else { None };
        Ok(Self { weight: weights.linear(parts, inputs)?, bias })
    }

    /// Returns the layer with this `[out, in]` weight and this `[out]` bias.
    pub(crate) fn from_tensors(weight: &Tensor, bias: Option<Tensor>) -> Result<Self, ModelError> {
        Ok(Self { weight: weight.t()?.contiguous()?, bias })
    }

    /// x: `[rows, in]`, result `[rows, out]`
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let y = device::product(x, &self.weight)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }
}

/// Applies an activation to every number.
pub(crate) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor, ModelError> {
    Ok(match activation {
        Activation::QuickGelu => (x * ops::sigmoid(&(x * 1.702)?)?)?,
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh => x.gelu()?,
    })
}
