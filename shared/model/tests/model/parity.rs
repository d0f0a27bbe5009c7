//! Features, logits and tokens of every family and case against the reference's.

use tessera_checkpoint::Checkpoint;
use tessera_model::Logits;
use tessera_tensor::DType;
use tessera_testkit::{CASES, FAMILIES, Golden, distance, family_dir};

use crate::run::{Loaded, dense};

/// How far features and logits may be from the reference's.
struct Tolerance {
    features: f32,
    logits: f32,
}

impl Tolerance {
    fn of(family: &str, case: &str) -> Self {
        match (family, case) {
            // The reference ran in half precision, which keeps 11 bits: features reach 29, logits 7. Computed in f64 the
            // distances are the same to three digits, so they are the reference's rounding alone; the last test here
            // compares with what it makes of the same weights in f32.
            ("mistral_hub_fp16", _) => Self { features: 6e-2, logits: 3e-2 },
            // The tied head makes logits of 37, five times the others'. From the model computed in f64, those of `batch`
            // are 7.5e-5 away (root mean square 7.0e-6), the reference's 8.8e-5 (1.1e-5); of `portrait` 5.6e-5 and 8.7e-5.
            // Both roundings add up: ours are 1.25e-4 and 1.11e-4 away from the reference's.
            ("vicuna_layers", "batch" | "portrait") => Self { features: 1e-4, logits: 1.5e-4 },
            _ => Self { features: 1e-4, logits: 1e-4 },
        }
    }
}

/// The comparison of one case.
struct Outcome {
    features: f32,
    logits: f32,
    /// Sequences whose greedy tokens all agree, of all.
    equal: (usize, usize),
}

fn compare(loaded: &Loaded, case: &str, golden: &Golden) -> Outcome {
    let images = loaded.images(case, golden);
    let projected: Vec<f32> =
        images.iter().flat_map(|image| loaded.vision.project(&image.features, &image.plan).unwrap().to_f32()).collect();
    let expected = golden.packed_features.as_ref().map_or_else(Vec::new, |features| features.to_f32());
    let features = distance(&projected, &expected);

    let embeddings = loaded.embeddings(&images);
    let mut unused = embeddings.as_slice();
    let (mut logits, mut equal) = (0.0f32, 0);
    for sequence in 0..golden.sequences() {
        let ids = golden.unpadded_ids(sequence);
        let inputs = loaded.inputs(&ids, &mut unused);
        let mut running = loaded.sequence(ids.len() + 16);
        let all = loaded.step(&mut running, inputs, Logits::All);
        let expected = golden.logit_rows(sequence).concat();
        logits = logits.max(distance(&all[all.len() - expected.len()..], &expected));
        let last = &all[all.len() - loaded.language.config().vocab_size..];
        let greedy = loaded.greedy(&mut running, last, 16);
        equal += usize::from(golden.greedy[sequence][..greedy.len()] == greedy);
    }
    assert!(unused.is_empty());
    Outcome { features, logits, equal: (equal, golden.sequences()) }
}

#[test]
fn features_logits_and_tokens_are_the_references() {
    check_all(Loaded::family);
}

#[test]
fn the_program_of_the_gpus_gives_the_references_logits_and_tokens() {
    check_all(|family| Loaded::with(Checkpoint::open(&family_dir(family)).unwrap(), &dense(DType::F32, 1)));
}

fn check_all(load: impl Fn(&str) -> Loaded) {
    println!("family            case        features   logits     equal tokens");
    let mut failures = Vec::new();
    for family in FAMILIES {
        let loaded = load(family);
        for case in CASES {
            let Outcome { features, logits, equal } = compare(&loaded, case, &Golden::load(family, case));
            println!("{family:17} {case:11} {features:<10.2e} {logits:<10.2e} {} of {}", equal.0, equal.1);
            let tolerance = Tolerance::of(family, case);
            if !(features <= tolerance.features && logits <= tolerance.logits && equal.0 == equal.1) {
                failures.push(format!("{family}/{case}"));
            }
        }
    }
    assert_eq!(failures, [""; 0], "beyond the tolerance");
}

#[test]
fn weights_in_sixteen_bits_are_computed_in_f32_as_by_the_reference() {
    let mut golden = Golden::load("mistral_hub_fp16", "one_image");
    golden.logits = golden.logits_f32.take().unwrap();
    golden.packed_features = golden.packed_features_f32.take();
    assert!(golden.packed_features.is_some());
    let Outcome { features, logits, equal } = compare(&Loaded::family("mistral_hub_fp16"), "one_image", &golden);
    println!("features {features:.2e}, logits {logits:.2e}");
    assert!(features <= 1e-4 && logits <= 1e-4, "features {features:.2e}, logits {logits:.2e}");
    assert_eq!(equal, (1, 1));
}
