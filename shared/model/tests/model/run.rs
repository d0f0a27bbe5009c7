//! Running a tiny checkpoint.

use std::{ops::Range, path::Path};

use tessera_anyres::{ImageSize, Plan};
use tessera_checkpoint::Checkpoint;
use tessera_model::{
    BLOCK_POSITIONS, Chunk, ImageEmbedding, Input, KvPool, LanguageModel, LoadOptions, Logits, OnCpu, VisionModel,
};
use tessera_tensor::{DType, HostTensor};
use tessera_testkit::{Golden, family_dir, pixels};

/// A checkpoint with both of its models.
pub(crate) struct Loaded {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) vision: VisionModel,
    pub(crate) language: LanguageModel,
}

/// A sequence in a pool.
pub(crate) struct Sequence {
    pub(crate) pool: KvPool,
    pub(crate) table: Vec<u32>,
    pub(crate) len: usize,
}

/// The features of one image.
pub(crate) struct Image {
    pub(crate) plan: Plan,
    pub(crate) features: HostTensor,
}

impl Loaded {
    pub(crate) fn family(family: &str) -> Self {
        Self::open(&family_dir(family))
    }

    pub(crate) fn open(dir: &Path) -> Self {
        Self::from_checkpoint(Checkpoint::open(dir).unwrap())
    }

    pub(crate) fn from_checkpoint(checkpoint: Checkpoint) -> Self {
        Self::with(checkpoint, &LoadOptions::default())
    }

    /// The family in both ways to compute.
    pub(crate) fn both_ways(family: &str) -> [Self; 2] {
        Self::both_ways_of(&Checkpoint::open(&family_dir(family)).unwrap())
    }

    pub(crate) fn both_ways_of(checkpoint: &Checkpoint) -> [Self; 2] {
        [Self::from_checkpoint(checkpoint.clone()), Self::with(checkpoint.clone(), &dense(DType::F32, 1))]
    }

    /// The tower computes in f32 and the CPU's own way, the decoder as is said.
    pub(crate) fn with(checkpoint: Checkpoint, options: &LoadOptions<'_>) -> Self {
        let vision = VisionModel::load(&checkpoint, &LoadOptions::default()).unwrap();
        let language = LanguageModel::load(&checkpoint, options).unwrap();
        Self { checkpoint, vision, language }
    }

    /// The images of a case, encoded from the reference's pixels.
    pub(crate) fn images(&self, case: &str, golden: &Golden) -> Vec<Image> {
        let geometry = self.checkpoint.geometry();
        let plan = |&(height, width): &(u32, u32)| geometry.plan(ImageSize { height, width });
        let plans: Vec<Plan> = golden.image_sizes.iter().map(plan).collect();
        if plans.is_empty() {
            return Vec::new();
        }
        let pixels = pixels(geometry.tile(), case).torchvision;
        let image = |(index, plan): (usize, Plan)| {
            let encoded = self.vision.encode(&tiles_of(&pixels, index, plan.tile_count())).unwrap();
            Image { features: self.vision.pack(&encoded, &plan).unwrap(), plan }
        };
        plans.into_iter().enumerate().map(image).collect()
    }

    /// What the decoder sees of the images.
    pub(crate) fn embeddings(&self, images: &[Image]) -> Vec<ImageEmbedding> {
        images.iter().map(|image| self.language.image_embedding(&image.features, &image.plan).unwrap()).collect()
    }

    /// Prompt ids as inputs: each run of image tokens becomes the next images of `embeddings`, which are used up.
    pub(crate) fn inputs<'a, 'e: 'a>(&self, ids: &'a [u32], embeddings: &mut &'e [ImageEmbedding]) -> Vec<Input<'a>> {
        let is_image = |id: &u32| *id == self.checkpoint.model.image_token_id;
        let mut inputs = Vec::new();
        let mut rest = ids;
        while let Some(first) = rest.first() {
            if is_image(first) {
                let (embedding, others) = embeddings.split_first().unwrap();
                *embeddings = others;
                inputs.push(Input::Image { embedding, rows: 0..embedding.rows() });
                assert!(rest[..embedding.rows()].iter().all(is_image));
                rest = &rest[embedding.rows()..];
            } else {
                let count = rest.iter().position(is_image).unwrap_or(rest.len());
                inputs.push(Input::Tokens(&rest[..count]));
                rest = &rest[count..];
            }
        }
        inputs
    }

    /// A sequence alone in its pool, with room for `count` positions.
    pub(crate) fn sequence(&self, count: usize) -> Sequence {
        let blocks = count.div_ceil(BLOCK_POSITIONS);
        let table = (0..u32::try_from(blocks).unwrap()).collect();
        Sequence { pool: self.language.new_pool(blocks).unwrap(), table, len: 0 }
    }

    /// Runs the next chunk of one sequence.
    pub(crate) fn step(&self, sequence: &mut Sequence, inputs: Vec<Input<'_>>, logits: Logits) -> Vec<f32> {
        let rows: usize = inputs.iter().map(Input::len).sum();
        let batch = [Chunk { blocks: &sequence.table, start: sequence.len, inputs, logits }];
        let logits = self.language.forward(&mut sequence.pool, &batch).unwrap();
        sequence.len += rows;
        logits.of(0).to_vec()
    }

    /// Continues greedily after `logits`, `count` tokens or to the end of the answer.
    pub(crate) fn greedy(&self, sequence: &mut Sequence, logits: &[f32], count: usize) -> Vec<u32> {
        let mut tokens = vec![argmax(logits)];
        while tokens.len() < count && !self.checkpoint.generation.eos_ids.contains(tokens.last().unwrap()) {
            let last = [*tokens.last().unwrap()];
            tokens.push(argmax(&self.step(sequence, vec![Input::Tokens(&last)], Logits::Last)));
        }
        tokens
    }
}

/// The program of the GPUs, on the CPU.
pub(crate) fn dense(compute: DType, devices: usize) -> LoadOptions<'static> {
    LoadOptions { compute, on_cpu: OnCpu::Dense { devices }, ..LoadOptions::default() }
}

/// Tiles `0..count` of image `image` of `[images, tiles, 3, side, side]`.
pub(crate) fn tiles_of(pixels: &HostTensor, image: usize, count: usize) -> HostTensor {
    let one = pixels.narrow(image, 1).unwrap();
    let shape = one.shape()[1..].to_vec();
    HostTensor::new(one.dtype(), shape, one.into_data()).unwrap().narrow(0, count).unwrap()
}

/// The part of `inputs` that stands at `rows`.
pub(crate) fn slice<'a>(inputs: &[Input<'a>], rows: Range<usize>) -> Vec<Input<'a>> {
    let mut start = 0;
    let mut parts = Vec::new();
    for input in inputs {
        let end = start + input.len();
        let (from, to) = (rows.start.max(start), rows.end.min(end));
        if from < to {
            parts.push(match input {
                Input::Tokens(tokens) => Input::Tokens(&tokens[from - start..to - start]),
                Input::Image { embedding, rows } => {
                    Input::Image { embedding, rows: rows.start + from - start..rows.start + to - start }
                }
            });
        }
        start = end;
    }
    parts
}

/// The first index of the largest number.
pub(crate) fn argmax(values: &[f32]) -> u32 {
    let best = values
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (index, &value)| if value > best.1 { (index, value) } else { best });
    u32::try_from(best.0).unwrap()
}
