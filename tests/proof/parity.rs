//! Every tiny checkpoint on the device, in every type: how far it is from what the reference computed in f32.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tessera_tensor::{DType, Devices};
use tessera_testkit::{CASES, FAMILIES};

use super::reference::{Distance, Loaded};
use super::report::Report;
use super::{Task, options};

/// The largest errors of features and of logits that pass. Features reach 29 and logits 7, but 37 in `vicuna_layers`, whose
/// head is the embedding table.
///
/// In f32 the order of sums is the only difference: two or three times what the CPU is allowed. In f16 every number between two
/// products is rounded to 11 bits: by the same program on the CPU features are then up to 5.3e-2 away and logits up to 3.7e-2,
/// those of `vicuna_layers` up to 2.2e-1. A GPU's products and attention round in other places, so not quite twice that. In bf16
/// there are three bits less: eight times as much.
fn tolerance(family: &str, compute: DType) -> (f32, f32) {
    let bits = match compute {
        DType::F32 => return if family == "mistral_hub_fp16" { (6e-2, 3e-2) } else { (2e-4, 3e-4) },
        DType::F16 => 1.0,
        DType::BF16 => 8.0,
    };
    match family {
        "vicuna_layers" => (bits * 1e-1, bits * 4e-1),
        // The reference's own error adds up with ours.
        "mistral_hub_fp16" => (bits * 1e-1 + 6e-2, bits * 5e-2 + 3e-2),
        _ => (bits * 1e-1, bits * 5e-2),
    }
}

/// Compares all families in all types.
pub(crate) fn run(task: &Task, report: &mut Report) {
    for compute in DType::ALL {
        for family in FAMILIES {
            // One that cannot run at all must not keep the others from running.
            let compared = catch_unwind(AssertUnwindSafe(|| compare(family, compute, &task.device, report)));
            if compared.is_err() {
                report.check(&format!("{family} {compute}"), false, "did not run, see the log".into());
            }
        }
    }
}

fn compare(family: &str, compute: DType, device: &Devices, report: &mut Report) {
    let loaded = Loaded::family(family, &options(device, compute));
    let (most_features, most_logits) = tolerance(family, compute);
    let (mut features, mut logits, mut same, mut of, mut holds) = (0.0f32, 0.0f32, 0, 0, true);
    for case in CASES {
        // Either of two scores may be off by the tolerance.
        let distance: Distance = loaded.compare(family, case, 2.0 * most_logits);
        let nearest = distance.features.unwrap_or(0.0);
        // Negated, so that a distance that is not a number does not pass.
        holds &= nearest <= most_features && distance.logits <= most_logits && !distance.clear_choice_differs;
        holds &= compute != DType::F32 || distance.tokens.0 == distance.tokens.1;
        features = features.max(nearest);
        logits = logits.max(distance.logits);
        (same, of) = (same + distance.tokens.0, of + distance.tokens.1);
    }
    let found = format!(
        "features within {features:.1e} of {most_features:.1e}, logits within {logits:.1e} of {most_logits:.1e}, \
         {same} of {of} greedy tokens equal"
    );
    report.check(&format!("{family} {compute}"), holds, found);
}
