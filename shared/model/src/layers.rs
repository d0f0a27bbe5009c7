//! The layers that tower, projector and decoder are made of.

mod norm;

use std::sync::Arc;

use candle_core::Tensor;
use tessera_checkpoint::Activation;

pub(crate) use norm::{LayerNorm, RmsNorm};

use crate::{
    ModelError,
    cpu::{self, Panels, Then},
    device::{Device, kernels},
    weights::Weights,
};

/// The weights of a linear layer, `[outputs, inputs]`.
#[derive(Clone)]
pub(crate) enum Matrix {
    /// As the CPU's own kernels read them.
    Panels(Arc<Panels>),
    /// On whatever device.
    Dense(Tensor),
}

/// `x W^T + b`.
pub(crate) struct Linear {
    weight: Matrix,
    bias: Option<Vector>,
    device: Device,
}

/// The bias of a linear layer, `[outputs]`, where its weights are.
enum Vector {
    Host(Vec<f32>),
    Dense(Tensor),
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

impl Matrix {
    /// Returns the same on another device of the same kind.
    pub(crate) fn on(&self, device: &Device) -> Result<Self, ModelError> {
        Ok(match self {
            Self::Panels(panels) => Self::Panels(panels.clone()),
            Self::Dense(weight) => Self::Dense(device.hand_over(weight)?),
        })
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
        let bias = if bias == Bias::With { Some(weights.biases(parts)?) } else { None };
        let bias = match bias {
            Some(bias) if device.is_dense() => Some(Vector::Dense(bias)),
            Some(bias) => Some(Vector::Host(device.values(&bias)?)),
            None => None,
        };
        Ok(Self { weight: weights.linear(parts, inputs)?, bias, device })
    }

    /// Returns the layer without a bias that has these weights, which others may have too.
    pub(crate) fn sharing(weight: Matrix, device: &Device) -> Self {
        Self { weight, bias: None, device: device.clone() }
    }

    /// x: `[rows, in]`, result `[rows, out]`
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        self.compute(x, None, None)
    }

    /// The same through an activation.
    pub(crate) fn forward_activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor, ModelError> {
        self.compute(x, Some(activation), None)
    }

    /// The same, added to `to`: `[rows, out]`.
    pub(crate) fn forward_added(&self, x: &Tensor, to: &Tensor) -> Result<Tensor, ModelError> {
        self.compute(x, None, Some(to))
    }

    /// The same in host memory, `[rows * out]`.
    pub(crate) fn forward_values(&self, x: &Tensor) -> Result<Vec<f32>, ModelError> {
        match &self.weight {
            Matrix::Panels(panels) => self.device.read(x, |x| cpu::product(x, panels, self.then(None, None))),
            Matrix::Dense(_) => self.device.values(&self.forward(x)?),
        }
    }

    fn compute(&self, x: &Tensor, activation: Option<Activation>, to: Option<&Tensor>) -> Result<Tensor, ModelError> {
        let device = &self.device;
        match &self.weight {
            Matrix::Panels(panels) => {
                let product =
                    |to: Option<&[f32]>| device.read(x, |x| cpu::product(x, panels, self.then(activation, to)));
                let values = match to {
                    Some(to) => device.read(to, |to| product(Some(to)))?,
                    None => product(None),
                }?;
                let rows = values.len() / panels.outputs();
                device.tensor(values, &[rows, panels.outputs()])
            }
            Matrix::Dense(weight) => {
                let y = kernels::product(device, x, weight)?;
                let bias = match &self.bias {
                    Some(Vector::Dense(bias)) => Some(bias),
                    _ => None,
                };
                if bias.is_some() || activation.is_some() || to.is_some() {
                    kernels::bias_act(device, &y, bias, activation, to)?;
                }
                Ok(y)
            }
        }
    }

    /// What the CPU's own product does to complete sums.
    fn then<'a>(&'a self, activation: Option<Activation>, added: Option<&'a [f32]>) -> Then<'a> {
        let bias = match &self.bias {
            Some(Vector::Host(bias)) => Some(bias.as_slice()),
            _ => None,
        };
        Then { bias, activation, added }
    }
}

/// Returns the gate, through SiLU, times what it lets through: `[rows, width]`.
///
/// gate_up: `[rows, 2 * width]`, the gate in front
pub(crate) fn gated(device: &Device, gate_up: &Tensor) -> Result<Tensor, ModelError> {
    if device.is_dense() {
        return kernels::silu_mul(device, gate_up);
    }
    let (rows, width) = gate_up.dims2()?;
    let gated = device.read(gate_up, |gate_up| cpu::gated(gate_up, width / 2))?;
    device.tensor(gated, &[rows, width / 2])
}
