//! What streams: text in whole characters, stop strings, seeds.

use std::num::NonZeroUsize;

use tessera_api::gateway::{FinishReason, GenerateRequest, Settings};
use tessera_api::language::{Choice, Draw, Generator, Sampling};
use tessera_checkpoint::Checkpoint;
use tessera_prompt::Prompter;
use tessera_testkit::{Golden, family_dir};

use crate::cluster::{Cluster, limited, sequence};
use crate::conversation::{Expected, request};

/// A question whose answer is drawn.
fn drawn(case: &str, seed: u64, max_tokens: u32) -> GenerateRequest {
    let settings = Settings {
        max_tokens: Some(max_tokens),
        temperature: Some(1.5),
        top_k: Some(0),
        seed: Some(seed),
        ..Settings::default()
    };
    GenerateRequest { settings, ..request(case, 0) }
}

#[test]
fn streamed_text_is_the_text_of_all_tokens() {
    // One tokenizer of bytes in words, one of words in bytes.
    for family in ["mistral", "qwen2"] {
        limited(async {
            let prompter = Prompter::open(&Checkpoint::open(&family_dir(family)).unwrap()).unwrap();
            let cluster = Cluster::of(family).await;
            for seed in 0..8 {
                let reply = cluster.ask(drawn("text_only", seed, 48)).await.unwrap();
                assert_eq!(reply.text, prompter.decode(&reply.token_ids), "{family} {seed}");
                assert_eq!(reply.finished.usage.completion_tokens, reply.token_ids.len());
                assert_eq!(reply.started.seed, seed);
            }
        });
    }
}

#[test]
fn a_stop_string_ends_the_answer_in_front_of_it() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let whole = Expected::of("mistral", "one_image", 0);
        assert_eq!(whole.text, "4 m\u{fffd} o d streetistant huma huma huma huma huma huma huma huma huma");
        for (stop, text) in [
            // Inside a token, over two tokens, a whole token, the very beginning.
            ("tree", "4 m\u{fffd} o d s"),
            ("tistant hu", "4 m\u{fffd} o d stree"),
            (" huma", "4 m\u{fffd} o d streetistant"),
            ("4 m", ""),
        ] {
            let mut asked = request("one_image", 0);
            asked.settings.stop = vec!["never said".into(), stop.into()];
            let reply = cluster.ask(asked).await.unwrap();
            assert_eq!((reply.text.as_str(), reply.finished.reason), (text, FinishReason::Stop), "{stop}");
            assert_eq!(reply.token_ids, whole.token_ids[..reply.token_ids.len()], "{stop}");
            assert!(reply.token_ids.len() < whole.token_ids.len() || stop == "huma", "{stop}");
        }
        // What might have become a stop string is text after all.
        let mut asked = request("one_image", 0);
        asked.settings.stop = vec!["huma huma humans".into()];
        let reply = cluster.ask(asked).await.unwrap();
        assert_eq!((reply.text, reply.finished.reason), (whole.text, FinishReason::Length));
    });
}

#[test]
fn an_end_token_is_the_last_token_and_no_text() {
    limited(async {
        let ending = ["vicuna_layers", "llama3", "yi", "qwen2", "vicuna", "mistral"].into_iter().flat_map(|family| {
            let end = Checkpoint::open(&family_dir(family)).unwrap().generation.eos_ids;
            tessera_testkit::CASES.into_iter().filter_map(move |case| {
                let golden = Expected::of(family, case, 0);
                golden.token_ids.last().is_some_and(|last| end.contains(last)).then_some((family, case))
            })
        });
        for (family, case) in ending.collect::<Vec<_>>() {
            let reply = Cluster::of(family).await.answers_as_the_reference(family, case).await;
            assert_eq!(reply.finished.reason, FinishReason::Stop, "{family} {case}");
        }
    });
}

#[test]
fn equal_seeds_give_equal_answers() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let answers = [7, 7, 8].map(|seed| cluster.ask(drawn("one_image", seed, 24)));
        let [first, again, other] = answers;
        let (first, again, other) = tokio::join!(first, again, other);
        let (first, again, other) = (first.unwrap(), again.unwrap(), other.unwrap());
        assert_eq!(first.token_ids, again.token_ids);
        assert_ne!(first.token_ids, other.token_ids);

        // Without a seed the gateway draws one and says which.
        let mut unseeded = drawn("one_image", 0, 24);
        unseeded.settings.seed = None;
        let drawn_by_gateway = cluster.ask(unseeded).await.unwrap();
        let same = cluster.ask(drawn("one_image", drawn_by_gateway.started.seed, 24)).await.unwrap();
        assert_eq!(drawn_by_gateway.token_ids, same.token_ids);
    });
}

#[test]
fn an_answer_can_be_continued_anywhere() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let prompt = Golden::load("mistral", "text_only").unpadded_ids(0);
        let draw = Draw {
            temperature: 1.5,
            top_k: NonZeroUsize::new(50),
            top_p: 0.95,
            min_p: 0.0,
            typical_p: 1.0,
            seed: 42,
            generator: Generator::Counter,
        };
        let drawn = Sampling { repetition_penalty: 1.1, choice: Choice::Draw(draw), ..Sampling::GREEDY };
        for sampling in [Sampling::GREEDY, drawn] {
            let ask = |tokens: Vec<u32>, count| {
                let sampling = sampling.clone();
                let request = tessera_api::language::GenerateRequest { sampling, ..sequence(tokens, count) };
                cluster.continue_tokens(request)
            };
            let whole = ask(prompt.clone(), 24).await.unwrap();
            for known in [1, 8, 23] {
                let rest = ask([&prompt, &whole[..known]].concat(), 24 - known).await.unwrap();
                assert_eq!(rest, whole[known..], "after {known}");
            }
        }
    });
}
