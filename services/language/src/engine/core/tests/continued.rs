//! Sequences that are continued elsewhere: whatever there is of each sample, the rest is what the whole one told.

use std::num::NonZeroUsize;
use std::time::Duration;

use tessera_api::ErrorKind;
use tessera_api::language::{Begun, Choice, Draw, Event, FinishReason, GenerateRequest, Generator, Sampling};
use tessera_rpc::Deadline;

use super::bench::{Bench, Heard, LIMITS, about, alone, hear, hear_all, request};
use super::{beams, drawn, endless, samples};
use crate::engine::{Command, Events, Limits};

/// The rest of an answer of which `told` tokens of each sample are there; `None` where one is over.
fn rest(whole: &GenerateRequest, heard: &[Heard], told: &[Option<usize>]) -> GenerateRequest {
    let begun = told.iter().zip(heard).enumerate().filter_map(|(sample, (told, heard))| {
        told.map(|told| Begun { sample, token_ids: heard.tokens[..told].to_vec() })
    });
    GenerateRequest { begun: begun.collect(), ..whole.clone() }
}

/// What is heard of that.
fn tails(heard: &[Heard], told: &[Option<usize>]) -> Vec<Heard> {
    let tail = |(heard, told): (&Heard, &Option<usize>)| match told {
        Some(told) => Heard {
            tokens: heard.tokens[*told..].to_vec(),
            logprobs: heard.logprobs.get(*told..).unwrap_or_default().to_vec(),
            ..heard.clone()
        },
        None => Heard::default(),
    };
    let mut tails: Vec<Heard> = heard.iter().zip(told).map(tail).collect();
    while tails.last() == Some(&Heard::default()) {
        tails.pop();
    }
    tails
}

/// Every way of choosing one of the places up to the end of each sample, or that it is over.
fn splits(heard: &[Heard]) -> Vec<Vec<Option<usize>>> {
    heard.iter().fold(vec![Vec::new()], |splits, heard| {
        let places = || (0..=heard.tokens.len()).map(Some).chain([None]);
        splits.iter().flat_map(|split| places().map(|place| [&split[..], &[place]].concat())).collect()
    })
}

fn torch(seed: u64) -> Sampling {
    let Choice::Draw(draw) = drawn(seed).choice else { unreachable!("it is drawn") };
    Sampling { choice: Choice::Draw(Draw { generator: Generator::Torch, ..draw }), ..drawn(seed) }
}

/// What there is to choose tokens by, each of which depends on what came before.
fn samplings() -> Vec<Sampling> {
    let penalties = |sampling| Sampling {
        repetition_penalty: 1.3,
        frequency_penalty: 0.5,
        presence_penalty: 0.25,
        no_repeat_ngram: NonZeroUsize::new(2),
        ..sampling
    };
    let late = |sampling| Sampling { min_new_tokens: 4, ..sampling };
    vec![penalties(Sampling::GREEDY), drawn(3), torch(3), penalties(drawn(4)), late(torch(5)), late(drawn(6))]
}

#[test]
fn an_answer_goes_on_from_any_token_as_if_it_had_never_stopped() {
    for sampling in samplings() {
        // It may end by itself, or be as long as it may be.
        let whole = GenerateRequest { sampling, logprobs: Some(1), ..request(40, None, 24) };
        let heard = alone(whole.clone());
        for told in splits(&heard) {
            if told != [None] {
                assert_eq!(alone(rest(&whole, &heard, &told)), tails(&heard, &told), "{told:?} of {whole:?}");
            }
        }
    }
}

#[test]
fn samples_go_on_each_from_where_it_was() {
    for (tokens, sampling) in [(64, drawn(3)), (45, torch(3)), (33, drawn(7))] {
        let whole = samples(3, GenerateRequest { sampling, logprobs: Some(0), ..endless(tokens, 5) });
        let heard = alone(whole.clone());
        for told in splits(&heard) {
            if told != [None; 3] {
                assert_eq!(alone(rest(&whole, &heard, &told)), tails(&heard, &told), "{told:?}");
            }
        }
    }
}

#[test]
fn samples_that_are_continued_share_the_blocks_of_their_prompt() {
    let whole = samples(4, GenerateRequest { sampling: drawn(7), ..endless(70, 20) });
    let heard = alone(whole.clone());
    let told = [Some(3), None, Some(8), Some(0)];
    let mut bench = Bench::new(LIMITS);
    let (_, mut events) = bench.start(rest(&whole, &heard, &told));
    while hear_all(&mut events).unwrap().is_empty() {
        bench.engine.step();
    }
    // The prompt once, and behind it what there is of each.
    assert!(bench.engine.runner.computed <= 70 + 3 + 8 + 1, "{} rows", bench.engine.runner.computed);
    bench.run();
    bench.assert_clean();
}

#[test]
fn what_is_continued_keeps_company_waits_for_images_and_gives_way_like_any_other() {
    let endless_about = GenerateRequest { end_token_ids: Vec::new(), ..about(1, 60, Some(10..40), 90) };
    let whole = samples(2, GenerateRequest { sampling: drawn(9), ..endless_about });
    let heard = alone(whole.clone());
    let told = [Some(50), Some(20)];
    let mut bench = Bench::new(Limits { blocks: 9, ..LIMITS });
    let (_, mut older) = bench.start(endless(60, 150));
    let (_, mut events) = bench.start(rest(&whole, &heard, &told));
    bench.run_to_the_end();
    assert!(bench.engine.scheduler().preemptions() > 0);
    let mut again = hear_all(&mut events).unwrap();
    again.iter_mut().for_each(|heard| heard.reused = 0);
    assert_eq!(again, tails(&heard, &told));
    assert_eq!(hear(&mut older), alone(endless(60, 150))[0]);
    bench.assert_clean();
}

#[test]
fn the_engine_that_had_it_before_computes_the_last_block_only() {
    let whole = endless(70, 40);
    let heard = alone(whole.clone());
    let mut bench = Bench::new(LIMITS);
    let (_, _left) = bench.start(whole.clone());
    bench.run();
    let before = bench.engine.runner.computed;
    let (_, mut events) = bench.start(rest(&whole, &heard, &[Some(30)]));
    bench.run();
    // Of a hundred positions three blocks of 32 are there; two of them hold nothing but prompt.
    let again = hear(&mut events);
    assert_eq!((again.tokens.as_slice(), again.reused), (&heard[0].tokens[30..], 70));
    assert_eq!(bench.engine.runner.computed - before, 100 - 96 + 9);
    let counters = bench.engine.counters();
    assert_eq!((counters.prompt_positions, counters.reused_positions), (140, 70));
    bench.assert_clean();
}

#[test]
fn a_sequence_that_waits_for_room_counts_what_it_finds_once() {
    let mut bench = Bench::new(Limits { blocks: 6, ..LIMITS });
    let (_, _first) = bench.start(endless(70, 1));
    bench.run();
    let (_, mut older) = bench.start(about(2, 80, Some(0..4), 80));
    bench.steps(2);
    bench.bring();
    let (_, mut events) = bench.start(endless(70, 20));
    bench.run_to_the_end();
    assert!(hear(&mut older).end.is_some());
    assert!(hear(&mut events).reused <= 64);
    bench.assert_clean();
}

#[test]
fn an_answer_that_is_complete_ends_at_once_without_a_step() {
    let whole = samples(2, GenerateRequest { sampling: drawn(3), ..endless(20, 6) });
    let heard = alone(whole.clone());
    let mut bench = Bench::new(LIMITS);
    let (_, mut events) = bench.start(rest(&whole, &heard, &[Some(6), Some(6)]));
    assert!(bench.engine.is_empty());
    assert_eq!(hear_all(&mut events).unwrap(), tails(&heard, &[Some(6), Some(6)]));
    assert!(events.is_closed());

    // By an end token as well.
    let ended = GenerateRequest { end_token_ids: vec![heard[1].tokens[2]], ..whole.clone() };
    let (_, mut events) = bench.start(rest(&ended, &heard, &[None, Some(3)]));
    assert_eq!(hear_all(&mut events).unwrap()[1].end, Some(FinishReason::Stop));
    bench.assert_clean();
}

#[test]
fn the_log_probabilities_of_a_prompt_are_those_of_the_prompt_alone() {
    let whole = GenerateRequest { prompt_logprobs: Some(1), ..endless(70, 40) };
    let told = |request: GenerateRequest| {
        let mut bench = Bench::new(LIMITS);
        let (_, mut events) = bench.start(request);
        bench.run();
        let Ok(Event::PromptLogprobs(prompt)) = events.try_recv().unwrap() else { panic!("the prompt's come first") };
        (prompt, hear(&mut events).tokens)
    };
    let (prompt, tokens) = told(whole.clone());
    let heard = [Heard { tokens: tokens.clone(), ..Heard::default() }];
    assert_eq!(told(rest(&whole, &heard, &[Some(33)])), (prompt, tokens[33..].to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_what_was_told_elsewhere_as_it_ends_what_was_told_here() {
    let whole = about(1, 20, Some(2..9), 30);
    let heard = alone(whole.clone());
    let mut bench = Bench::new(LIMITS);
    let deadline = Deadline::default().within(Duration::from_secs(1));
    // Its image does not come: it has nothing new to tell.
    let (_, mut events) = bench.start_within(rest(&whole, &heard, &[Some(1)]), deadline);
    bench.steps(3);
    tokio::time::advance(Duration::from_secs(1)).await;
    bench.engine.step();
    assert_eq!(hear(&mut events).end, Some(FinishReason::Deadline));
    bench.assert_clean();
}

/// The tokens of two samples before they were handed over.
fn until_handed_over(mut events: Events) -> [Vec<u32>; 2] {
    let mut tokens = [const { Vec::new() }; 2];
    loop {
        match events.try_recv().unwrap() {
            Ok(Event::Tokens { sample, token_ids, .. }) => tokens[sample].extend(token_ids),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unavailable, "HANDED_OVER"));
                return tokens;
            }
        }
    }
}

#[test]
fn sequences_are_handed_over_behind_their_tokens() {
    let mut bench = Bench::new(Limits { running: 3, ..LIMITS });
    let whole = samples(2, GenerateRequest { sampling: drawn(3), ..endless(20, 30) });
    let (_, running) = bench.start(whole.clone());
    let (_, awaiting) = bench.start(about(1, 20, Some(2..9), 30));
    let (_, waiting) = bench.start(samples(3, whole.clone()));
    bench.steps(7);
    bench.engine.take(Command::HandOver);
    bench.assert_clean();

    let told = until_handed_over(running);
    for events in [awaiting, waiting] {
        assert!(until_handed_over(events).iter().all(Vec::is_empty));
    }
    // Another engine goes on.
    let heard = alone(whole.clone());
    assert!(told.iter().zip(&heard).all(|(told, heard)| !told.is_empty() && heard.tokens.starts_with(told)));
    let told: Vec<_> = told.iter().map(|told| Some(told.len())).collect();
    assert_eq!(alone(rest(&whole, &heard, &told)), tails(&heard, &told));
}

#[test]
fn what_cannot_be_continued_is_refused() {
    let begun = |token_ids: &[u32]| vec![Begun { sample: 0, token_ids: token_ids.to_vec() }];
    let search = GenerateRequest { begun: begun(&[1]), ..beams(2, request(10, None, 6)) };
    assert_eq!(LIMITS.check(&search).unwrap_err().reason, "COMBINATION_UNSUPPORTED");
    let unknown = GenerateRequest { begun: begun(&[1, 97]), ..request(10, None, 6) };
    assert_eq!(LIMITS.check(&unknown).unwrap_err().fields[0].field, "begun[0].token_ids[1]");
}
