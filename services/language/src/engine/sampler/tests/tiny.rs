//! Sampler and beams on the tiny checkpoints, token for token against what the reference drew and searched there.

use std::num::NonZeroUsize;

use tessera_anyres::{ImageSize, Plan};
use tessera_api::language::{BeamSearch, EarlyStopping, Generator};
use tessera_checkpoint::Checkpoint;
use tessera_model::{
    BLOCK_POSITIONS, Chunk, ImageEmbedding, Input, KvPool, LanguageModel, LoadOptions, Logits, VisionModel,
};
use tessera_tensor::HostTensor;
use tessera_testkit::{CASES, FAMILIES, Golden, GoldenSampling, family_dir, pixels};

use super::super::super::beams::{Beams, Step};
use super::super::*;

/// A checkpoint with both of its models.
struct Tiny {
    checkpoint: Checkpoint,
    vision: VisionModel,
    language: LanguageModel,
}

/// A prompt that the model has seen.
struct Prompt<'t> {
    tiny: &'t Tiny,
    ids: Vec<u32>,
    pool: KvPool,
    /// Scores after its last id.
    logits: Vec<f32>,
}

impl Tiny {
    fn load(family: &str) -> Self {
        let checkpoint = Checkpoint::open(&family_dir(family)).unwrap();
        let vision = VisionModel::load(&checkpoint, &LoadOptions::default()).unwrap();
        let language = LanguageModel::load(&checkpoint, &LoadOptions::default()).unwrap();
        Self { checkpoint, vision, language }
    }

    /// The images of a case, encoded from the reference's pixels.
    fn images(&self, case: &str, golden: &Golden) -> Vec<ImageEmbedding> {
        let geometry = self.checkpoint.geometry();
        let plan = |&(height, width): &(u32, u32)| geometry.plan(ImageSize { height, width });
        let plans: Vec<Plan> = golden.image_sizes.iter().map(plan).collect();
        if plans.is_empty() {
            return Vec::new();
        }
        let pixels = pixels(geometry.tile(), case).torchvision;
        let embedding = |(index, plan): (usize, &Plan)| {
            let one = pixels.narrow(index, 1).unwrap();
            let shape = one.shape()[1..].to_vec();
            let one = HostTensor::new(one.dtype(), shape, one.into_data()).unwrap();
            let encoded = self.vision.encode(&one.narrow(0, plan.tile_count()).unwrap()).unwrap();
            self.language.image_embedding(&self.vision.pack(&encoded, plan).unwrap(), plan).unwrap()
        };
        plans.iter().enumerate().map(embedding).collect()
    }

    /// The prompts of a case, with its images in them: each takes the next of those that the case shows.
    fn prompts(&self, case: &str, golden: &Golden) -> Vec<Prompt<'_>> {
        let images = self.images(case, golden);
        let mut unused = images.iter();
        let prompt = |sequence: usize| {
            let ids = golden.unpadded_ids(sequence);
            let is_image = |id: &u32| *id == self.checkpoint.model.image_token_id;
            let mut inputs = Vec::new();
            let mut rest = ids.as_slice();
            while let Some(first) = rest.first() {
                let length = if is_image(first) {
                    let embedding = unused.next().unwrap();
                    inputs.push(Input::Image { embedding, rows: 0..embedding.rows() });
                    embedding.rows()
                } else {
                    let length = rest.iter().position(is_image).unwrap_or(rest.len());
                    inputs.push(Input::Tokens(&rest[..length]));
                    length
                };
                rest = &rest[length..];
            }
            let mut pool = self.language.new_pool((ids.len() + 16).div_ceil(BLOCK_POSITIONS)).unwrap();
            let logits = self.forward(&mut pool, 0, inputs);
            Prompt { tiny: self, ids, pool, logits }
        };
        (0..golden.sequences()).map(prompt).collect()
    }

    /// The one place that calls the model: the scores after the last of the inputs, which stand from `start` on.
    fn forward(&self, pool: &mut KvPool, start: usize, inputs: Vec<Input<'_>>) -> Vec<f32> {
        let blocks: Vec<u32> = (0..pool.blocks() as u32).collect();
        let chunk = Chunk { blocks: &blocks, start, inputs, logits: Logits::Last };
        self.language.forward(pool, &[chunk]).unwrap().of(0).to_vec()
    }

    fn end_token_ids(&self) -> Arc<[u32]> {
        self.checkpoint.generation.eos_ids.clone().into()
    }
}

impl Prompt<'_> {
    /// The scores after an answer to the prompt.
    fn scores(&mut self, answer: &[u32]) -> Vec<f32> {
        if answer.is_empty() {
            return self.logits.clone();
        }
        self.tiny.forward(&mut self.pool, self.ids.len(), vec![Input::Tokens(answer)])
    }

    /// Draws an answer. The reference draws once for every sequence of a batch, in order: the answers of a batch are those
    /// of a generator that has drawn `batch` times as often.
    fn drawn(&mut self, settings: &Arc<Sampling>, row: usize, batch: usize) -> Vec<u32> {
        let ends = self.tiny.end_token_ids();
        let mut sampler = Sampler::new(settings.clone(), ends.clone(), 0);
        let mut history = self.ids.clone();
        for answered in 0..16 {
            let mut scores = self.scores(&history[self.ids.len()..]);
            let token = if batch == 1 {
                sampler.choose(&scores, &history, self.ids.len(), None).unwrap()
            } else {
                let Sampler { processors, drawing } = &mut sampler;
                processors.apply(&mut scores, &history, self.ids.len(), None);
                let Drawing { settings, tail, numbers } = drawing.as_mut().unwrap();
                let place = Place { position: 0, answered: answered * batch + row, vocabulary: scores.len() };
                numbers.draw(&cuts::candidates(&scores, settings, *tail), place).unwrap()
            };
            history.push(token);
            if ends.contains(&token) {
                break;
            }
        }
        history.split_off(self.ids.len())
    }

    /// Searches with 3 beams.
    fn searched(&mut self) -> Vec<u32> {
        let search = BeamSearch { beams: 3, length_penalty: 1.0, early_stopping: EarlyStopping::Heuristic };
        let ends = self.tiny.end_token_ids();
        let mut beams = Beams::new(search, 1, Arc::new(Sampling::GREEDY), ends, 8, &self.ids);
        let mut running = vec![Vec::new()];
        loop {
            let scores: Vec<Vec<f32>> = running.iter().map(|answer| self.scores(answer)).collect();
            let scores: Vec<&[f32]> = scores.iter().map(Vec::as_slice).collect();
            let Step::Go(next) = beams.advance(&scores).unwrap() else { break };
            running = next.into_iter().map(|(beam, token)| [running[beam].as_slice(), &[token]].concat()).collect();
        }
        beams.finish().remove(0).token_ids
    }
}

fn settings(golden: &Golden) -> Sampling {
    let GoldenSampling { temperature, top_k, top_p, min_p, repetition_penalty } = golden.sampling;
    let draw = Draw {
        temperature,
        top_k: NonZeroUsize::new(top_k),
        top_p,
        min_p,
        typical_p: 1.0,
        seed: 7,
        generator: Generator::Torch,
    };
    Sampling { repetition_penalty, choice: Choice::Draw(draw), ..Sampling::GREEDY }
}

#[test]
fn drawn_and_searched_answers_are_the_references() {
    let (mut compared, mut wrong) = (0, Vec::new());
    for family in FAMILIES {
        let tiny = Tiny::load(family);
        for case in CASES {
            let golden = Golden::load(family, case);
            let settings = Arc::new(settings(&golden));
            for (row, prompt) in tiny.prompts(case, &golden).iter_mut().enumerate() {
                let drawn = prompt.drawn(&settings, row, golden.sequences());
                let searched = prompt.searched();
                for (what, ours, theirs) in
                    [("drawn", drawn, &golden.sampled_seed7[row]), ("searched", searched, &golden.beam3[row])]
                {
                    compared += 1;
                    if ours != theirs[..ours.len()] {
                        wrong.push(format!("{family}/{case}[{row}] {what}: {ours:?}, reference {theirs:?}"));
                    }
                }
            }
        }
    }
    println!("{} of {compared} answers are equal", compared - wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
