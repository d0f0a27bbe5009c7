//! Answers through the services, and features and logits of the model, against the reference's.

use std::fmt::Write as _;

use futures::future::join_all;
use tessera_anyres::Plan;
use tessera_checkpoint::Checkpoint;
use tessera_image::{DecodeOptions, Preprocessor, Resizer};
use tessera_model::{
    BLOCK_POSITIONS, Chunk, ImageEmbedding, Input, LanguageModel, LoadOptions, Logits, StepLogits, VisionModel,
};
use tessera_tensor::HostTensor;
use tessera_testkit::{CASES, FAMILIES, Golden, conversations, distance, family_dir, picture, picture_count};

use crate::cluster::{Cluster, limited};
use crate::conversation::{Expected, Reply, request};

/// Checks a reply against the reference's. All tokens must be equal, those of `mistral_hub_fp16` too: its reference ran
/// in half precision and we do not, but no choice on its way was so close that this decides it.
fn check(family: &str, case: &str, sequence: usize, reply: &Reply) {
    let name = format!("{family} {case} {sequence}");
    let golden = Expected::of(family, case, sequence);
    let same = reply.token_ids.iter().zip(&golden.token_ids).take_while(|(ours, theirs)| ours == theirs).count();
    assert_eq!(reply.token_ids, golden.token_ids, "{name}: {same} are equal, the first margin is {}", golden.margin);
    assert_eq!(reply.text, golden.text, "{name}");
    assert_eq!(reply.started.prompt_tokens, golden.prompt_tokens, "{name}");
    let image_tokens: usize = reply.started.images.iter().map(|image| image.image_tokens).sum();
    assert_eq!(image_tokens, golden.image_tokens, "{name}");
    let usage = reply.finished.usage;
    let counts = (usage.prompt_tokens, usage.image_tokens, usage.completion_tokens);
    assert_eq!(counts, (golden.prompt_tokens, golden.image_tokens, golden.token_ids.len()), "{name}");
}

#[test]
fn every_family_answers_every_case_as_the_reference() {
    for family in FAMILIES {
        limited(async {
            let cluster = Cluster::of(family).await;
            for case in CASES {
                // The sequences of a case are asked at once.
                let sequences = 0..conversations(case).len();
                let replies = join_all(sequences.map(|sequence| cluster.ask(request(case, sequence)))).await;
                for (sequence, reply) in replies.into_iter().enumerate() {
                    let reply = reply.unwrap_or_else(|error| panic!("{family} {case} {sequence}: {error}"));
                    check(family, case, sequence, &reply);
                }
            }
        });
    }
}

#[test]
fn all_cases_at_once_are_answered_as_each_alone() {
    limited(async {
        let cluster = Cluster::start("mistral", |settings| settings.language.engine.step_rows = 48).await;
        let asked = CASES.iter().flat_map(|case| (0..conversations(case).len()).map(move |sequence| (*case, sequence)));
        let asked: Vec<_> = asked.collect();
        let replies = join_all(asked.iter().map(|(case, sequence)| cluster.ask(request(case, *sequence)))).await;
        for ((case, sequence), reply) in asked.into_iter().zip(replies) {
            check("mistral", case, sequence, &reply.unwrap());
        }
    });
}

/// A checkpoint with both of its models.
struct Loaded {
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

/// How far a case is from the reference's: `None` where it has no images.
struct Distance {
    features: Option<f32>,
    logits: f32,
    tokens_equal: bool,
}

impl Loaded {
    fn family(family: &str) -> Self {
        let checkpoint = Checkpoint::open(&family_dir(family)).unwrap();
        Self {
            preprocessor: Preprocessor::new(&checkpoint.processor.image, checkpoint.geometry(), Resizer::default()),
            vision: VisionModel::load(&checkpoint, &LoadOptions::default()).unwrap(),
            language: LanguageModel::load(&checkpoint, &LoadOptions::default()).unwrap(),
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

    /// Runs a case: its sequences in one flat batch, then greedily on, again all of them a step.
    fn compare(&self, family: &str, case: &str) -> Distance {
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
        let equal = |(sequence, tokens): (usize, &Vec<u32>)| {
            let theirs = Expected::of(family, case, sequence).token_ids;
            tokens[..theirs.len()] == theirs
        };
        Distance { features, logits, tokens_equal: tokens.iter().enumerate().all(equal) }
    }
}

/// The first index of the largest number.
fn argmax(values: &[f32]) -> u32 {
    let better = |best: (usize, f32), (index, value)| if value > best.1 { (index, value) } else { best };
    let best = values.iter().copied().enumerate().fold((0, f32::NEG_INFINITY), better);
    u32::try_from(best.0).unwrap()
}

/// The largest errors of features and logits that pass.
fn tolerance(family: &str, case: &str) -> (f32, f32) {
    match (family, case) {
        // The reference ran in half precision: eleven bits of features up to 29 and of logits up to 7.
        ("mistral_hub_fp16", _) => (6e-2, 3e-2),
        // Its head is the embedding table: logits reach 37. From the model computed in f64, ours are up to 7.5e-5 away and
        // the reference's up to 8.8e-5; both roundings add up, to 1.25e-4 at most.
        ("vicuna_layers", "batch" | "portrait") => (1e-4, 1.5e-4),
        _ => (1e-4, 1e-4),
    }
}

#[test]
fn features_and_logits_from_image_files_are_the_references() {
    let mut table = String::from("| family | case | max feature error | max logit error | tokens equal |\n");
    table.push_str("| --- | --- | --- | --- | --- |\n");
    let mut beyond = Vec::new();
    for family in FAMILIES {
        let loaded = Loaded::family(family);
        for case in CASES {
            let Distance { features, logits, tokens_equal } = loaded.compare(family, case);
            let shown = features.map_or("no images".into(), |features| format!("{features:.1e}"));
            let equal = if tokens_equal { "yes" } else { "no" };
            writeln!(table, "| {family} | {case} | {shown} | {logits:.1e} | {equal} |").unwrap();
            let (most_features, most_logits) = tolerance(family, case);
            // Negated, so that a distance that is not a number does not pass.
            if !(features.unwrap_or(0.0) <= most_features && logits <= most_logits && tokens_equal) {
                beyond.push(format!("{family} {case}"));
            }
        }
    }
    println!("{table}");
    assert_eq!(beyond, [""; 0]);
}
