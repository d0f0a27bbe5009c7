//! Answers through the services, and features and logits of the model, against the reference's.

use std::fmt::Write as _;

use futures::future::join_all;
use tessera_model::LoadOptions;
use tessera_testkit::{CASES, FAMILIES, conversations};

use crate::cluster::{Cluster, limited};
use crate::conversation::{Expected, Reply, request};
use crate::reference::{Distance, Loaded};

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
        let loaded = Loaded::family(family, &LoadOptions::default());
        for case in CASES {
            let Distance { features, logits, tokens: (same, of), clear_choice_differs } =
                loaded.compare(family, case, 0.0);
            let tokens_equal = same == of && !clear_choice_differs;
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
