//! A tiny checkpoint run as the reference ran it, and how far the numbers are apart. Shared with the proof on a GPU.

use tessera_anyres::Plan;
use tessera_checkpoint::Checkpoint;
use tessera_image::{DecodeOptions, Preprocessor, Resizer};
use tessera_model::{
    BLOCK_POSITIONS, Chunk, ImageEmbedding, Input, LanguageModel, LoadOptions, Logits, StepLogits, VisionModel,
};
use tessera_tensor::HostTensor;
use tessera_testkit::{Golden, distance, family_dir, picture, picture_count};

/// A checkpoint with both of its models.
pub(crate) struct Loaded {
    checkpoint: Checkpoint,
    preprocessor: Preprocessor,
    vision: VisionModel,
    language: LanguageModel,
}

/// The features of one image.
struct Image {
    plan: Plan,
    features: HostTensor,
}

/// How far a case is from the reference's.
pub(crate) struct Distance {
    /// `None` where the case has no images.
    pub(crate) features: Option<f32>,
    pub(crate) logits: f32,
    /// Greedy tokens that are the reference's before the first that is not, and how many it chose: of all sequences.
    pub(crate) tokens: (usize, usize),
    /// Whether a sequence chose another first token, though the reference's was no near tie.
    pub(crate) clear_choice_differs: bool,
}

impl Loaded {
    /// Loads the checkpoint of a family.
    pub(crate) fn family(family: &str, options: &LoadOptions<'_>) -> Self {
        let checkpoint = Checkpoint::open(&family_dir(family)).unwrap();
        Self {
            preprocessor: Preprocessor::new(&checkpoint.processor.image, checkpoint.geometry(), Resizer::default()),
            vision: VisionModel::load(&checkpoint, options).unwrap(),
            language: LanguageModel::load(&checkpoint, options).unwrap(),
            checkpoint,
        }
    }

    /// The images of a case, from their files on.
    fn images(&self, case: &str) -> Vec<Image> {
        let image = |index| {
            let decoded = tessera_image::decode(&picture(case, index), &DecodeOptions::default()).unwrap();
            let tiles = self.preprocessor.run(&decoded).unwrap();
            let encoded = self.vision.encode(&tiles.pixels).unwrap();
            Image { features: self.vision.pack(&encoded, &tiles.plan).unwrap(), plan: tiles.plan }
        };
        (0..picture_count(case)).map(image).collect()
    }

    /// Prompt ids as inputs: each run of image tokens becomes the next images of `embeddings`, which are used up.
    fn inputs<'a, 'e: 'a>(&self, ids: &'a [u32], embeddings: &mut &'e [ImageEmbedding]) -> Vec<Input<'a>> {
        let is_image = |id: &u32| *id == self.checkpoint.model.image_token_id;
        let (mut inputs, mut rest) = (Vec::new(), ids);
        while let Some(first) = rest.first() {
            let count = if is_image(first) {
                let (embedding, others) = embeddings.split_first().unwrap();
                *embeddings = others;
                inputs.push(Input::Image { embedding, rows: 0..embedding.rows() });
                embedding.rows()
            } else {
                let count = rest.iter().position(is_image).unwrap_or(rest.len());
                inputs.push(Input::Tokens(&rest[..count]));
                count
            };
            rest = &rest[count..];
        }
        inputs
    }

    /// Runs a case: its sequences in one flat batch, then greedily on, again all of them a step. It is a near tie if the best
    /// score is above the second by no more than `tie`.
    pub(crate) fn compare(&self, family: &str, case: &str, tie: f32) -> Distance {
        let golden = Golden::load(family, case);
        let images = self.images(case);
        let project = |image: &Image| self.vision.project(&image.features, &image.plan).unwrap().to_f32();
        let projected: Vec<f32> = images.iter().flat_map(project).collect();
        let features = golden.packed_features.as_ref().map(|theirs| distance(&projected, &theirs.to_f32()));

        let embed = |image: &Image| self.language.image_embedding(&image.features, &image.plan).unwrap();
        let embeddings: Vec<ImageEmbedding> = images.iter().map(embed).collect();
        let ids: Vec<Vec<u32>> = (0..golden.sequences()).map(|sequence| golden.unpadded_ids(sequence)).collect();
        // Each sequence has as many blocks as the longest needs.
        let most = ids.iter().map(Vec::len).max().unwrap_or(0) + 16;
        let blocks = u32::try_from(most.div_ceil(BLOCK_POSITIONS)).unwrap();
        let table = |sequence: usize| (0..blocks).map(|block| sequence as u32 * blocks + block).collect();
        let tables: Vec<Vec<u32>> = (0..ids.len()).map(table).collect();
        let mut pool = self.language.new_pool(ids.len() * blocks as usize).unwrap();
        let mut unused = embeddings.as_slice();
        let prompts: Vec<Vec<Input<'_>>> = ids.iter().map(|ids| self.inputs(ids, &mut unused)).collect();
        let pairs = tables.iter().zip(prompts);
        let batch: Vec<Chunk<'_>> =
            pairs.map(|(blocks, inputs)| Chunk { blocks, start: 0, inputs, logits: Logits::All }).collect();
        let all = self.language.forward(&mut pool, &batch).unwrap();
        let (mut logits, mut tokens) = (0.0f32, Vec::new());
        for sequence in 0..ids.len() {
            let ours = all.of(sequence);
            let theirs = golden.logit_rows(sequence).concat();
            logits = logits.max(distance(&ours[ours.len() - theirs.len()..], &theirs));
            tokens.push(vec![argmax(&ours[ours.len() - all.vocabulary()..])]);
        }
        while tokens[0].len() < 16 {
            let last: Vec<u32> = tokens.iter().map(|tokens| tokens[tokens.len() - 1]).collect();
            let mut batch: Vec<Chunk<'_>> = Vec::new();
            for (sequence, (blocks, token)) in tables.iter().zip(last.chunks(1)).enumerate() {
                let (start, inputs) = (ids[sequence].len() + tokens[0].len() - 1, vec![Input::Tokens(token)]);
                batch.push(Chunk { blocks, start, inputs, logits: Logits::Last });
            }
            let step: StepLogits = self.language.forward(&mut pool, &batch).unwrap();
            tokens.iter_mut().enumerate().for_each(|(sequence, tokens)| tokens.push(argmax(step.of(sequence))));
        }
        let (mut equal, mut chosen, mut clear_choice_differs) = (0, 0, false);
        for (sequence, ours) in tokens.iter().enumerate() {
            let theirs = self.until_the_end(&golden.greedy[sequence]);
            equal += ours.iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
            chosen += theirs.len();
            clear_choice_differs |= ours[0] != theirs[0] && golden.margin[sequence] > tie;
        }
        Distance { features, logits, tokens: (equal, chosen), clear_choice_differs }
    }

    /// A greedy answer without the padding behind its end.
    fn until_the_end<'a>(&self, tokens: &'a [u32]) -> &'a [u32] {
        let end = tokens.iter().position(|id| self.checkpoint.generation.eos_ids.contains(id));
        &tokens[..end.map_or(tokens.len(), |end| end + 1)]
    }
}

/// The first index of the largest number.
fn argmax(values: &[f32]) -> u32 {
    let better = |best: (usize, f32), (index, value)| if value > best.1 { (index, value) } else { best };
    let best = values.iter().copied().enumerate().fold((0, f32::NEG_INFINITY), better);
    u32::try_from(best.0).unwrap()
}
