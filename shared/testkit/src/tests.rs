use tessera_tensor::DType;

use crate::{CASES, FAMILIES, Golden, conversations, family_dir, picture, picture_count, pixels};

#[test]
fn every_family_has_a_checkpoint_and_every_case() {
    for family in FAMILIES {
        assert!(family_dir(family).join("config.json").is_file(), "{family}");
        for case in CASES {
            let golden = Golden::load(family, case);
            let sequences = conversations(case).len();
            assert_eq!(golden.sequences(), sequences, "{family} {case}");
            assert_eq!(
                (golden.prompts.len(), golden.greedy.len(), golden.margin.len()),
                (sequences, sequences, sequences)
            );
            assert_eq!((golden.greedy_text.len(), golden.image_tokens.len()), (sequences, sequences));
            assert_eq!(golden.image_sizes.len(), picture_count(case), "{family} {case}");
            assert_eq!(golden.logits.shape()[0], sequences);
            let rows = golden.packed_features.as_ref().map_or(0, |tensor| tensor.shape()[0]);
            assert_eq!(rows, golden.image_tokens.iter().sum::<usize>(), "{family} {case}");
        }
    }
}

#[test]
fn logits_predict_the_first_greedy_token() {
    for family in FAMILIES {
        for case in CASES {
            let golden = Golden::load(family, case);
            for sequence in 0..golden.sequences() {
                let rows = golden.logit_rows(sequence);
                let real = golden.unpadded_ids(sequence).len();
                let stored = match (family, case) {
                    ("siglip_full", _) => 8,
                    (_, "batch") => 64,
                    _ => real,
                };
                assert_eq!(rows.len(), real.min(stored), "{family} {case}");
                let last = rows.last().expect("a prompt is not empty");
                let best =
                    last.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("a vocabulary is not empty").0;
                assert_eq!(best, golden.greedy[sequence][0] as usize, "{family} {case} {sequence}");
            }
        }
    }
}

#[test]
fn weights_in_sixteen_bits_have_goldens_in_sixteen_bits() {
    assert_eq!(Golden::load("mistral", "one_image").logits.dtype(), DType::F32);
    assert_eq!(Golden::load("mistral_hub_fp16", "one_image").logits.dtype(), DType::F16);
}

#[test]
fn one_case_in_sixteen_bits_has_goldens_in_f32_too() {
    for family in FAMILIES {
        for case in CASES {
            let golden = Golden::load(family, case);
            let both = (golden.logits_f32.as_ref(), golden.packed_features_f32.as_ref());
            if (family, case) == ("mistral_hub_fp16", "one_image") {
                let (Some(logits), Some(features)) = both else { panic!("{family} {case} has none") };
                assert_eq!((logits.dtype(), features.dtype()), (DType::F32, DType::F32));
                assert_eq!(logits.shape(), golden.logits.shape());
                assert_eq!(Some(features.shape()), golden.packed_features.as_ref().map(|tensor| tensor.shape()));
            } else {
                assert!(both.0.is_none() && both.1.is_none(), "{family} {case}");
            }
        }
    }
}

#[test]
fn every_image_is_there_with_its_pixels() {
    for case in CASES {
        let count = picture_count(case);
        for index in 0..count {
            assert!(picture(case, index).starts_with(b"\x89PNG"), "{case} {index}");
        }
        for tile in [56, 42] {
            if count > 0 {
                let pixels = pixels(tile, case);
                assert_eq!(pixels.torchvision.shape(), pixels.pillow.shape());
                let [images, _, 3, height, width] = *pixels.pillow.shape() else {
                    panic!("{:?}", pixels.pillow.shape())
                };
                assert_eq!((images, height, width), (count, tile as usize, tile as usize));
            }
        }
    }
}

#[test]
#[should_panic(expected = "llama4 is not one of")]
fn an_unknown_family_is_named() {
    family_dir("llama4");
}
