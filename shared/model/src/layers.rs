//! The layers that tower, projector and decoder are made of.

mod norm;

use std::sync::Arc;

use candle_core::Tensor;
use tessera_checkpoint::Activation;

pub(crate) use norm::{LayerNorm, RmsNorm};

use crate::{
    ModelError,
    cpu::{self, Panels, Then},
    device::Device,
    weights::Weights,
};

/// `x W^T + b`.
pub(crate) struct Linear {
    weight: Arc<Panels>,
    /// `[outputs]`
    bias: Option<Vec<f32>>,
    device: Device,
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
        let device = weights.device().clone();
        let bias = if bias == Bias::With { Some(device.values(&weights.biases(parts)?)?) } else { None };
        Ok(Self { weight: Arc::new(weights.linear(parts, inputs)?), bias, device })
    }

    /// Returns the layer without a bias that has these weights, which others may have too.
    pub(crate) fn sharing(weight: Arc<Panels>, device: &Device) -> Self {
        Self { weight, bias: None, device: device.clone() }
    }

    /// x: `[rows, in]`, result `[rows, out]`
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        self.tensor(self.product(x, Then::default())?)
    }

    /// The same through an activation.
    pub(crate) fn forward_activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor, ModelError> {
        self.tensor(self.product(x, Then { activation: Some(activation), ..Then::default() })?)
    }

    /// The same, added to `to`: `[rows, out]`.
    pub(crate) fn forward_added(&self, x: &Tensor, to: &Tensor) -> Result<Tensor, ModelError> {
        let sums = self.device.read(to, |to| self.product(x, Then { added: Some(to), ..Then::default() }))??;
        self.tensor(sums)
    }

    /// The same in host memory, `[rows * out]`.
    pub(crate) fn forward_values(&self, x: &Tensor) -> Result<Vec<f32>, ModelError> {
        self.product(x, Then::default())
    }

    fn product(&self, x: &Tensor, then: Then<'_>) -> Result<Vec<f32>, ModelError> {
        let then = Then { bias: self.bias.as_deref(), ..then };
        self.device.read(x, |x| cpu::product(x, &self.weight, then))
    }

    fn tensor(&self, values: Vec<f32>) -> Result<Tensor, ModelError> {
        let outputs = self.weight.outputs();
        let rows = values.len() / outputs;
        self.device.tensor(values, &[rows, outputs])
    }
}

/// Returns the gate, through SiLU, times what it lets through: `[rows, width]`.
///
/// gate_up: `[rows, 2 * width]`, the gate in front
pub(crate) fn gated(device: &Device, gate_up: &Tensor) -> Result<Tensor, ModelError> {
    let (rows, width) = gate_up.dims2()?;
    let gated = device.read(gate_up, |gate_up| cpu::gated(gate_up, width / 2))?;
    device.tensor(gated, &[rows, width / 2])
}
