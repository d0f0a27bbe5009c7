//! What the reference answered.

use serde::Deserialize;
use tessera_tensor::HostTensor;

use crate::{family_dir, read, tensors::TensorFile};

/// The reference's run of one case with one checkpoint, in the checkpoint's own dtype. The sequences of a case are
/// padded on the left to one length.
#[derive(Clone, Debug)]
pub struct Golden {
    /// The rendered prompts, one a sequence, with one `<image>` an image.
    pub prompts: Vec<String>,
    /// Token ids, expanded and padded: `[sequences][positions]`.
    pub ids: Vec<Vec<u32>>,
    /// 0 where `ids` is padding, 1 elsewhere.
    pub mask: Vec<Vec<u8>>,
    /// The images' (height, width), through all sequences.
    pub image_sizes: Vec<(u32, u32)>,
    /// Image tokens in each sequence.
    pub image_tokens: Vec<usize>,
    /// 16 greedily chosen ids a sequence; after the end of an answer, padding.
    pub greedy: Vec<Vec<u32>>,
    /// `greedy` as text, special tokens skipped.
    pub greedy_text: Vec<String>,
    /// The best of 3 beams, 8 ids a sequence; after the end of an answer, padding.
    pub beam3: Vec<Vec<u32>>,
    /// 16 ids a sequence that were drawn with `sampling` after seed 7, all sequences in one batch; after the end of an
    /// answer, padding.
    pub sampled_seed7: Vec<Vec<u32>>,
    /// How `sampled_seed7` was drawn.
    pub sampling: GoldenSampling,
    /// How far the best logit after the prompt is above the second best, one a sequence.
    pub margin: Vec<f32>,
    /// `[sequences, positions, vocabulary]`; of `batch` the last 64 positions alone, of all cases of `siglip_full` the
    /// last 8.
    pub logits: HostTensor,
    /// `[image tokens, hidden]`, through all images: projected features with newlines. `None` without images.
    pub packed_features: Option<HostTensor>,
    /// `logits`, computed in f32 from weights stored in f16. Of `one_image` of `mistral_hub_fp16` alone.
    pub logits_f32: Option<HostTensor>,
    /// `packed_features`, computed in f32 from weights stored in f16. Of `one_image` of `mistral_hub_fp16` alone.
    pub packed_features_f32: Option<HostTensor>,
}

/// Settings of a draw, by the reference's names.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct GoldenSampling {
    /// Divides the scores.
    pub temperature: f32,
    /// So many of the likeliest are kept.
    pub top_k: usize,
    /// The likeliest are kept until they have this probability.
    pub top_p: f32,
    /// Share of the likeliest one's probability that is needed.
    pub min_p: f32,
    /// Divides the scores of what occurred.
    pub repetition_penalty: f32,
}

#[derive(Deserialize)]
struct Record {
    prompts: Vec<String>,
    input_ids: Vec<Vec<u32>>,
    attention_mask: Vec<Vec<u8>>,
    image_sizes: Vec<(u32, u32)>,
    image_tokens: Vec<usize>,
    greedy: Vec<Vec<u32>>,
    greedy_text: Vec<String>,
    beam3: Vec<Vec<u32>>,
    sampled_seed7: Vec<Vec<u32>>,
    sampling: GoldenSampling,
    margin: Vec<f32>,
}

impl Golden {
    /// Reads the golden files of a case of a family.
    ///
    /// # Panics
    /// If there are none.
    pub fn load(family: &str, case: &str) -> Self {
        let path = family_dir(family).join("golden").join(format!("{case}.json"));
        let record: Record =
            serde_json::from_slice(&read(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let tensors = TensorFile::open(&path.with_extension("safetensors"));
        Self {
            prompts: record.prompts,
            ids: record.input_ids,
            mask: record.attention_mask,
            image_sizes: record.image_sizes,
            image_tokens: record.image_tokens,
            greedy: record.greedy,
            greedy_text: record.greedy_text,
            beam3: record.beam3,
            sampled_seed7: record.sampled_seed7,
            sampling: record.sampling,
            margin: record.margin,
            logits: tensors.require("logits"),
            packed_features: tensors.get("packed_features"),
            logits_f32: tensors.get("logits_f32"),
            packed_features_f32: tensors.get("packed_features_f32"),
        }
    }

    /// How many sequences the case has.
    pub fn sequences(&self) -> usize {
        self.ids.len()
    }

    /// The ids of a sequence without its padding.
    pub fn unpadded_ids(&self, sequence: usize) -> Vec<u32> {
        let pairs = self.ids[sequence].iter().zip(&self.mask[sequence]);
        pairs.filter(|(_, mask)| **mask == 1).map(|(id, _)| *id).collect()
    }

    /// The stored logits of a sequence that belong to no padding, f32: one `[vocabulary]` for each of its last
    /// positions. These are all its positions, but for `batch` and `siglip_full`; see [`Self::logits`].
    pub fn logit_rows(&self, sequence: usize) -> Vec<Vec<f32>> {
        let [_, stored, vocabulary] = *self.logits.shape() else { panic!("logits are {:?}", self.logits.shape()) };
        let kept = stored.min(self.unpadded_ids(sequence).len());
        let values = self.logits.to_f32();
        let end = (sequence + 1) * stored * vocabulary;
        values[end - kept * vocabulary..end].chunks(vocabulary).map(<[f32]>::to_vec).collect()
    }
}
