//! What the three services answer to more than a plain question: searches and draws as the reference's, samples, forms,
//! log-probabilities, and what the language worker need not compute again.

use std::num::NonZeroUsize;

use tessera_api::gateway::{BeamSettings, Event, FinishReason, GenerateRequest, Logprobs, Settings};
use tessera_api::language::{Constraint, Generator};
use tessera_api::proto::gateway::v1 as proto;
use tessera_checkpoint::Checkpoint;
use tessera_testkit::{CASES, FAMILIES, Golden, GoldenSampling, distance, family_dir};
use tonic::Request;

use crate::cluster::{Cluster, limited, limited_to};
use crate::conversation::{Expected, request};

/// One sample of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sample {
    text: String,
    token_ids: Vec<u32>,
    logprobs: Vec<Logprobs>,
    reason: Option<FinishReason>,
}

/// Everything that is answered: the samples, and the prompt's log-probabilities.
async fn answer(cluster: &Cluster, case: &str, settings: Settings) -> (Vec<Sample>, Vec<Logprobs>) {
    let asked: proto::GenerateRequest = GenerateRequest { settings, ..request(case, 0) }.into();
    let mut events = cluster.open(Request::new(asked)).await.unwrap();
    let (mut samples, mut prompt) = (Vec::<Sample>::new(), Vec::new());
    let mut of = |sample: usize, change: &mut dyn FnMut(&mut Sample)| {
        samples.resize(samples.len().max(sample + 1), Sample::default());
        change(&mut samples[sample]);
    };
    while let Some(event) = events.message().await.unwrap() {
        match event.try_into().unwrap() {
            Event::Started(_) => {}
            Event::PromptLogprobs(more) => prompt.extend(more),
            Event::Delta { sample, text, token_ids, logprobs } => of(sample, &mut |sample| {
                sample.text.push_str(&text);
                sample.token_ids.extend(&token_ids);
                sample.logprobs.extend(logprobs.iter().cloned());
            }),
            Event::Finished(finished) => of(finished.sample, &mut |sample| sample.reason = Some(finished.reason)),
        }
    }
    assert!(samples.iter().all(|sample| sample.reason.is_some()), "every sample ends");
    (samples, prompt)
}

fn greedy(max_tokens: u32) -> Settings {
    Settings { max_tokens: Some(max_tokens), temperature: Some(0.0), ..Settings::default() }
}

fn drawn(seed: u64, samples: usize) -> Settings {
    Settings {
        temperature: Some(1.5),
        top_k: Some(0),
        seed: Some(seed),
        samples: NonZeroUsize::new(samples),
        ..greedy(12)
    }
}

/// Golden ids up to their end; what follows is padding.
fn ended(mut ids: Vec<u32>, ends: &[u32]) -> Vec<u32> {
    if let Some(end) = ids.iter().position(|id| ends.contains(id)) {
        ids.truncate(end + 1);
    }
    ids
}

#[test]
fn searches_and_draws_are_the_references() {
    limited_to(std::time::Duration::from_secs(180), async {
        for family in FAMILIES {
            let cluster = Cluster::of(family).await;
            let ends = Checkpoint::open(&family_dir(family)).unwrap().generation.eos_ids;
            for case in CASES.into_iter().filter(|case| *case != "batch") {
                let golden = Golden::load(family, case);
                let beams = NonZeroUsize::new(3).unwrap();
                let search = BeamSettings { beams, length_penalty: None, early_stopping: None };
                let asked = Settings { beam_search: Some(search), ..greedy(8) };
                let (found, _) = answer(&cluster, case, asked).await;
                assert_eq!(found[0].token_ids, ended(golden.beam3[0].clone(), &ends), "{family} {case}: beams");

                let GoldenSampling { temperature, top_k, top_p, min_p, repetition_penalty } = golden.sampling;
                let asked = Settings {
                    temperature: Some(temperature),
                    top_k: Some(top_k as u32),
                    top_p: Some(top_p),
                    min_p: Some(min_p),
                    repetition_penalty: Some(repetition_penalty),
                    seed: Some(7),
                    generator: Generator::Torch,
                    ..greedy(16)
                };
                let (found, _) = answer(&cluster, case, asked).await;
                assert_eq!(found[0].token_ids, ended(golden.sampled_seed7[0].clone(), &ends), "{family} {case}: drawn");
            }
        }
    });
}

#[test]
fn samples_are_what_each_is_alone_and_come_together() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let (together, _) = answer(&cluster, "one_image", drawn(5, 4)).await;
        let (fewer, _) = answer(&cluster, "one_image", drawn(5, 2)).await;
        let (one, _) = answer(&cluster, "one_image", drawn(5, 1)).await;
        assert_eq!(together.len(), 4);
        assert_eq!((&together[..2], &together[..1]), (fewer.as_slice(), one.as_slice()));
        let texts: std::collections::HashSet<_> = together.iter().map(|sample| &sample.token_ids).collect();
        assert_eq!(texts.len(), 4, "samples differ");
    });
}

#[test]
fn log_probabilities_are_those_of_the_references_logits() {
    limited(async {
        for family in ["mistral", "qwen2"] {
            let cluster = Cluster::of(family).await;
            let golden = Golden::load(family, "one_image");
            let asked = Settings { logprobs: Some(3), prompt_logprobs: Some(1), ..greedy(4) };
            let (samples, prompt) = answer(&cluster, "one_image", asked).await;
            let (ids, rows) = (golden.unpadded_ids(0), golden.logit_rows(0));
            let of = |row: &[f32], id: u32| {
                let total: f64 = row.iter().map(|score| f64::from(*score).exp()).sum();
                (f64::from(row[id as usize]) - total.ln()) as f32
            };
            let expected: Vec<f32> = ids[1..].iter().zip(&rows).map(|(&id, row)| of(row, id)).collect();
            let found: Vec<f32> = prompt.iter().map(|logprobs| logprobs.chosen.logprob).collect();
            let worst = distance(&found, &expected);
            assert!(worst <= 1e-4, "{family}: {worst}");
            let first = &samples[0].logprobs[0];
            assert!((first.chosen.logprob - of(&rows[rows.len() - 1], samples[0].token_ids[0])).abs() <= 1e-4);
            assert_eq!((samples[0].logprobs.len(), first.likeliest.len()), (samples[0].token_ids.len(), 3));
            assert_eq!((&first.likeliest[0], first.chosen.token_id), (&first.chosen, samples[0].token_ids[0]));
        }
    });
}

#[test]
fn an_answer_has_the_form_that_was_asked_for() {
    limited(async {
        for family in ["mistral", "llama3"] {
            let cluster = Cluster::of(family).await;
            for seed in 0..4 {
                let held =
                    |constraint| Settings { constraint: Some(constraint), max_tokens: Some(200), ..drawn(seed, 2) };
                let schema = r#"{"type": "object", "properties": {"n": {"enum": [1, 22, 333]}, "yes": {"type": "boolean"}},
                    "required": ["n", "yes"], "additionalProperties": false}"#;
                let (samples, _) = answer(&cluster, "one_image", held(Constraint::JsonSchema(schema.into()))).await;
                for Sample { text, reason, .. } in samples {
                    assert_eq!(reason, Some(FinishReason::Stop), "{family}: {text}");
                    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                    assert!(
                        [1, 22, 333].contains(&value["n"].as_i64().unwrap()) && value["yes"].is_boolean(),
                        "{text}"
                    );
                }
                let choices = ["yes".to_owned(), "no".to_owned(), "perhaps not".to_owned()];
                let (samples, _) = answer(&cluster, "text_only", held(Constraint::Choices(choices.to_vec()))).await;
                assert!(samples.iter().all(|sample| choices.contains(&sample.text)), "{family}: {samples:?}");
                let (samples, _) = answer(&cluster, "text_only", held(Constraint::Regex("[0-9]{3}".into()))).await;
                let three_digits = |text: &str| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
                assert!(samples.iter().all(|sample| three_digits(&sample.text)), "{family}: {samples:?}");
            }
        }
    });
}

#[test]
fn a_form_that_cannot_be_compiled_is_refused_with_the_reason() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let settings = Settings { constraint: Some(Constraint::Regex("(".into())), ..greedy(4) };
        let asked = GenerateRequest { settings, ..request("text_only", 0) };
        let error = cluster.ask(asked).await.unwrap_err();
        assert_eq!(
            (error.reason.as_ref(), error.fields[0].field.as_str()),
            ("CONSTRAINT_INVALID", "settings.constraint.regex")
        );
        cluster.answers_as_the_reference("mistral", "text_only").await;
    });
}

#[test]
fn a_second_question_about_an_image_does_not_compute_it_again() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let first = cluster.answers_as_the_reference("mistral", "one_image").await;
        assert_eq!(first.finished.usage.reused_tokens, Some(0));
        let prompt = Expected::of("mistral", "one_image", 0).prompt_tokens;
        for _ in 0..2 {
            // The answer is the same to the token, and full blocks of the prompt are there.
            let again = cluster.answers_as_the_reference("mistral", "one_image").await;
            assert_eq!(again.finished.usage.reused_tokens, Some((prompt - 1) / 32 * 32));
        }
    });
}

#[test]
fn many_at_once_with_little_room_are_answered_as_the_reference_answers_each() {
    limited_to(std::time::Duration::from_secs(120), async {
        // A dozen blocks: most of the sequences give way to older ones again and again.
        let small = |settings: &mut crate::cluster::ClusterSettings| {
            let position = 2 * 3 * 2 * 16 * size_of::<f32>();
            settings.language.engine.kv_cache = tessera_config::ByteSize::bytes((12 * 32 * position) as u64).into();
            settings.language.engine.step_rows = 48;
        };
        let cluster = Cluster::start("mistral", small).await;
        let cases = ["one_image", "two_images", "two_turns", "text_only", "portrait"];
        let asked = (0..20).map(|n| cluster.answers_as_the_reference("mistral", cases[n % cases.len()]));
        futures::future::join_all(asked).await;
    });
}
