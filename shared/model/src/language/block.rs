//! One decoder layer, the same for every family: what differs is in the configuration.

use candle_core::Tensor;
use tessera_checkpoint::TextConfig;

use crate::{
    KvPool, ModelError,
    attention::Rows,
    device::{Device, Phase},
    layers::{self, Bias, Linear, RmsNorm},
    rope::Rope,
    weights::{Weights, names},
};

/// Attention and gated feed-forward network, each behind a norm and added to what came in.
pub(super) struct Block {
    input_norm: RmsNorm,
    /// Queries, keys and values in one product.
    qkv: Linear,
    out: Linear,
    post_norm: RmsNorm,
    /// Gate and up in one product.
    gate_up: Linear,
    down: Linear,
    heads: usize,
    window: Option<usize>,
    device: Device,
}

impl Block {
    pub(super) fn load(weights: &Weights<'_>, config: &TextConfig, layer: usize) -> Result<Self, ModelError> {
        let TextConfig { hidden_size, intermediate_size, heads, kv_heads, head_dim, rms_norm_eps, .. } = *config;
        let name = |part: &str| names::decoder_layer(layer, part);
        let norm = |part: &str| RmsNorm::load(weights, &name(part), hidden_size, rms_norm_eps);
        let (q, k, v) = (name("self_attn.q_proj"), name("self_attn.k_proj"), name("self_attn.v_proj"));
        let (gate, up) = (name("mlp.gate_proj"), name("mlp.up_proj"));
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        Ok(Self {
            input_norm: norm("input_layernorm.weight")?,
            qkv: Linear::load_stacked(
                weights,
                &[(&q, queries), (&k, keys), (&v, keys)],
                hidden_size,
                Bias::from(config.qkv_bias),
            )?,
            out: Linear::load(weights, &name("self_attn.o_proj"), queries, hidden_size, Bias::Without)?,
            post_norm: norm("post_attention_layernorm.weight")?,
            gate_up: Linear::load_stacked(
                weights,
                &[(&gate, intermediate_size), (&up, intermediate_size)],
                hidden_size,
                Bias::Without,
            )?,
            down: Linear::load(weights, &name("mlp.down_proj"), intermediate_size, hidden_size, Bias::Without)?,
            heads,
            window: config.sliding_window,
            device: weights.device().clone(),
        })
    }

    /// hidden: `[rows, hidden_size]`; writes layer `layer` of the blocks of the rows' sequences.
    pub(super) fn forward(
        &self,
        hidden: &Tensor,
        layer: usize,
        pool: &mut KvPool,
        rows: Rows<'_>,
        rope: &Rope,
    ) -> Result<Tensor, ModelError> {
        let device = &self.device;
        pool.enter(Phase::Pointwise, device)?;
        let normed = self.input_norm.forward(hidden)?;
        pool.enter(Phase::Products, device)?;
        let qkv = self.qkv.forward(&normed)?;
        pool.enter(Phase::Attention, device)?;
        let attended = pool.attend(layer, &qkv, self.heads, rows, rope, self.window)?;
        pool.enter(Phase::Products, device)?;
        let hidden = self.out.forward_added(&attended, hidden)?;
        pool.enter(Phase::Pointwise, device)?;
        let normed = self.post_norm.forward(&hidden)?;
        pool.enter(Phase::Products, device)?;
        let gate_up = self.gate_up.forward(&normed)?;
        pool.enter(Phase::Pointwise, device)?;
        let gated = layers::gated(device, &gate_up)?;
        pool.enter(Phase::Products, device)?;
        self.down.forward_added(&gated, &hidden)
    }
}
