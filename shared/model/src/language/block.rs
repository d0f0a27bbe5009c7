//! One decoder layer, the same for every family: what differs is in the configuration.

use candle_core::Tensor;
use tessera_checkpoint::TextConfig;

use super::batch::{Chunk, Layout};
use crate::{
    ModelError,
    layers::{Bias, Linear, RmsNorm},
    rope::Angles,
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
    kv_heads: usize,
    head_dim: usize,
    intermediate: usize,
    window: Option<usize>,
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
            kv_heads,
            head_dim,
            intermediate: intermediate_size,
            window: config.sliding_window,
        })
    }

    /// hidden: `[rows, hidden_size]` of all chunks; appends to layer `layer` of every chunk's cache.
    pub(super) fn forward(
        &self,
        hidden: &Tensor,
        layer: usize,
        layout: &Layout,
        batch: &mut [Chunk<'_>],
        angles: &Angles,
    ) -> Result<Tensor, ModelError> {
        let attended = self.attention(&self.input_norm.forward(hidden)?, layer, layout, batch, angles)?;
        let hidden = (hidden + self.out.forward(&attended)?)?;
        let fed = self.feed_forward(&self.post_norm.forward(&hidden)?)?;
        Ok((hidden + fed)?)
    }

    /// x: `[rows, hidden_size]`; result: `[rows, heads * head_dim]`
    fn attention(
        &self,
        x: &Tensor,
        layer: usize,
        layout: &Layout,
        batch: &mut [Chunk<'_>],
        angles: &Angles,
    ) -> Result<Tensor, ModelError> {
        let qkv = self.qkv.forward(x)?;
        let (rows, _) = qkv.dims2()?;
        let (heads, kv_heads, head_dim) = (self.heads, self.kv_heads, self.head_dim);
        let turned = (heads + kv_heads) * head_dim;
        let qk = angles.apply(&qkv.narrow(1, 0, turned)?.reshape((rows, heads + kv_heads, head_dim))?)?;
        let values = qkv.narrow(1, turned, kv_heads * head_dim)?.reshape((rows, kv_heads, head_dim))?;
        let (queries, keys) = (qk.narrow(1, 0, heads)?, qk.narrow(1, heads, kv_heads)?);

        let mut outputs = Vec::with_capacity(batch.len());
        for (chunk, rows) in batch.iter_mut().zip(&layout.rows) {
            let of_chunk = |tensor: &Tensor| tensor.narrow(0, rows.start, rows.len());
            let (queries, keys, values) = (of_chunk(&queries)?, of_chunk(&keys)?, of_chunk(&values)?);
            outputs.push(chunk.cache.attend(layer, &queries, &keys, &values, self.window)?);
        }
        Ok(if let [output] = outputs.as_slice() { output.clone() } else { Tensor::cat(&outputs, 0)? })
    }

    /// x: `[rows, hidden_size]`, and so the result
    fn feed_forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let gate_up = self.gate_up.forward(x)?;
        let gate = gate_up.narrow(1, 0, self.intermediate)?.contiguous()?.silu()?;
        let up = gate_up.narrow(1, self.intermediate, self.intermediate)?.contiguous()?;
        self.down.forward(&(gate * up)?)
    }
}
