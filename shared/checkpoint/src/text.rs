//! The decoder's configuration (`text_config`, reference: `LlamaConfig`, `MistralConfig`, `Qwen2Config`).

use crate::CheckpointError;
use crate::json::Section;

/// A family of decoders; they differ by defaults, window and biases only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Llama 2 and 3, Vicuna, Yi.
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen 1.5 and 2.
    Qwen2,
}

/// A decoder with RMSNorm, rotary positions, grouped-query attention and a gated SiLU MLP.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// The family, as named by `model_type`.
    pub family: Family,
    /// Rows of the embedding table; may be more than the tokenizer has ids.
    pub vocab_size: usize,
    /// Channels of a hidden state.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divide `heads`.
    pub kv_heads: usize,
    /// Channels of a head; even.
    pub head_dim: usize,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Positions that the model was trained for.
    pub max_positions: usize,
    /// How many positions back a query sees, itself included; nothing if it sees everything before it.
    pub sliding_window: Option<usize>,
    /// Whether the query, key and value projections have a bias; the output projection never has one.
    pub qkv_bias: bool,
}

impl Family {
    /// Returns the `model_type` of the family.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
        }
    }

    /// Returns what the family's configuration class assumes for keys that a file leaves out.
    fn defaults(self) -> TextConfig {
        let llama = TextConfig {
            family: Self::Llama,
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            layers: 32,
            heads: 32,
            kv_heads: 32,
            head_dim: 128,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            max_positions: 2048,
            sliding_window: None,
            qkv_bias: false,
        };
        match self {
            Self::Llama => llama,
            Self::Mistral => TextConfig {
                family: self,
                intermediate_size: 14_336,
                kv_heads: 8,
                max_positions: 131_072,
                sliding_window: Some(4096),
                ..llama
            },
            Self::Qwen2 => TextConfig {
                family: self,
                vocab_size: 151_936,
                intermediate_size: 22_016,
                max_positions: 32_768,
                sliding_window: Some(4096),
                qkv_bias: true,
                ..llama
            },
        }
    }
}

impl TextConfig {
    /// Reads `text_config`, or the defaults (a Llama) if the section is missing.
    pub(crate) fn read(section: Option<&Section<'_>>) -> Result<Self, CheckpointError> {
        let Some(section) = section else { return Ok(Family::Llama.defaults()) };
        let family = match section.string("model_type")?.as_deref() {
            None | Some("llama") => Family::Llama,
            Some("mistral") => Family::Mistral,
            Some("qwen2") => Family::Qwen2,
            Some(_) => return Err(section.unsupported("model_type", "llama, mistral, qwen2")),
        };
        refuse_other_arithmetic(section)?;
        let default = family.defaults();
        let hidden_size = section.size("hidden_size")?.unwrap_or(default.hidden_size);
        let heads = section.size("num_attention_heads")?.unwrap_or(default.heads);
        let layers = section.size("num_hidden_layers")?.unwrap_or(default.layers);
        Ok(Self {
            family,
            vocab_size: section.size("vocab_size")?.unwrap_or(default.vocab_size),
            hidden_size,
            intermediate_size: section.size("intermediate_size")?.unwrap_or(default.intermediate_size),
            layers,
            heads,
            kv_heads: read_kv_heads(section, &default, heads)?,
            head_dim: read_head_dim(section, hidden_size, heads)?,
            rms_norm_eps: section.positive("rms_norm_eps")?.unwrap_or(default.rms_norm_eps),
            rope_theta: read_rope_theta(section)?.unwrap_or(default.rope_theta),
            max_positions: section.size("max_position_embeddings")?.unwrap_or(default.max_positions),
            sliding_window: match family {
                Family::Llama => None,
                Family::Mistral => section.size_or_null("sliding_window", default.sliding_window)?,
                Family::Qwen2 => read_qwen2_window(section, &default, layers)?,
            },
            qkv_bias: default.qkv_bias,
        })
    }
}

/// Refuses keys that would make this a decoder with other arithmetic.
fn refuse_other_arithmetic(section: &Section<'_>) -> Result<(), CheckpointError> {
    if section.string("hidden_act")?.is_some_and(|name| name != "silu") {
        return Err(section.unsupported("hidden_act", "silu"));
    }
    for key in ["attention_bias", "mlp_bias"] {
        if section.boolean(key)?.unwrap_or(false) {
            return Err(section.unsupported(key, "false"));
        }
    }
    Ok(())
}

/// A file that says `null` means one key head per query head; Llama files that say nothing mean the same.
fn read_kv_heads(section: &Section<'_>, default: &TextConfig, heads: usize) -> Result<usize, CheckpointError> {
    let absent = if default.family == Family::Llama { heads } else { default.kv_heads };
    let kv_heads = section.size_or_null("num_key_value_heads", Some(absent))?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(section.invalid_pair("num_key_value_heads", kv_heads, "num_attention_heads", heads));
    }
    Ok(kv_heads)
}

fn read_head_dim(section: &Section<'_>, hidden_size: usize, heads: usize) -> Result<usize, CheckpointError> {
    let Some(head_dim) = section.size("head_dim")? else {
        if !hidden_size.is_multiple_of(heads) || !(hidden_size / heads).is_multiple_of(2) {
            return Err(section.invalid(
                "num_attention_heads",
                &heads.to_string(),
                &format!("a divisor of hidden_size {hidden_size} that leaves an even head"),
            ));
        }
        return Ok(hidden_size / heads);
    };
    if !head_dim.is_multiple_of(2) {
        return Err(section.invalid("head_dim", &head_dim.to_string(), "an even number"));
    }
    Ok(head_dim)
}

/// New files say `rope_parameters: {rope_theta, rope_type}`, old ones `rope_theta` and `rope_scaling` one level up.
fn read_rope_theta(section: &Section<'_>) -> Result<Option<f64>, CheckpointError> {
    let outer = section.positive("rope_theta")?;
    let mut inner = None;
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(rope) = section.section(key)? else { continue };
        for kind in ["type", "rope_type"] {
            if rope.string(kind)?.is_some_and(|name| name != "default") {
                return Err(rope.unsupported(kind, "default"));
            }
        }
        inner = rope.positive("rope_theta")?.or(inner);
        refuse_partial_rotation(&rope)?;
    }
    refuse_partial_rotation(section)?;
    Ok(inner.or(outer))
}

fn refuse_partial_rotation(section: &Section<'_>) -> Result<(), CheckpointError> {
    if section.positive("partial_rotary_factor")?.is_some_and(|factor| factor < 1.0) {
        return Err(section.unsupported("partial_rotary_factor", "1.0"));
    }
    Ok(())
}

/// Qwen2 has a window only with `use_sliding_window`, and then on the layers from `max_window_layers` on, or on those
/// that `layer_types` names. All layers alike is supported; a mixture is refused.
fn read_qwen2_window(
    section: &Section<'_>,
    default: &TextConfig,
    layers: usize,
) -> Result<Option<usize>, CheckpointError> {
    if !section.boolean("use_sliding_window")?.unwrap_or(false) {
        return Ok(None);
    }
    let Some(window) = section.size_or_null("sliding_window", default.sliding_window)? else { return Ok(None) };
    if let Some(types) = section.strings("layer_types")? {
        let windowed = types.iter().filter(|name| *name == "sliding_attention").count();
        return match windowed {
            0 => Ok(None),
            all if all == types.len() => Ok(Some(window)),
            _ => Err(section.unsupported("layer_types", "one attention type for all layers")),
        };
    }
    match section.count("max_window_layers")?.unwrap_or(28) {
        0 => Ok(Some(window)),
        first if first >= layers => Ok(None),
        first => Err(section.unsupported_value(
            "max_window_layers",
            &first.to_string(),
            "0, or at least num_hidden_layers (one attention type for all layers)",
        )),
    }
}
