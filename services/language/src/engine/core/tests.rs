//! The engine over a fake model: scheduling, images that come late, reuse, preemption, cancellation, accounting. No
//! candle.

mod bench;
mod continued;
mod draws;
mod fake;
mod long;
mod schedules;

use std::num::NonZeroUsize;
use std::time::Duration;

use tessera_api::ErrorKind;
use tessera_api::language::{BeamSearch, Choice, Draw, EarlyStopping, Event, FinishReason, Generator, Sampling};
use tessera_rpc::Deadline;

use super::*;
use crate::engine::sampler::seed_of_sample;
use bench::{Bench, Heard, LIMITS, about, alone, hear, hear_all, key, request};

fn drawn(seed: u64) -> Sampling {
    let draw = Draw {
        temperature: 2.0,
        top_k: None,
        top_p: 1.0,
        min_p: 0.0,
        typical_p: 1.0,
        seed,
        generator: Generator::Counter,
    };
    Sampling { choice: Choice::Draw(draw), ..Sampling::GREEDY }
}

fn top_k(count: usize) -> Sampling {
    let Choice::Draw(draw) = drawn(1).choice else { unreachable!("it is drawn") };
    Sampling { choice: Choice::Draw(Draw { top_k: NonZeroUsize::new(count), ..draw }), ..Sampling::GREEDY }
}

fn endless(tokens: usize, new: usize) -> GenerateRequest {
    GenerateRequest { end_token_ids: Vec::new(), ..request(tokens, None, new) }
}

fn samples(count: usize, request: GenerateRequest) -> GenerateRequest {
    GenerateRequest { samples: NonZeroUsize::new(count).unwrap(), ..request }
}

fn beams(beams: usize, request: GenerateRequest) -> GenerateRequest {
    let search = BeamSearch { beams, length_penalty: 1.0, early_stopping: EarlyStopping::Heuristic };
    GenerateRequest { beam_search: Some(search), ..request }
}

#[test]
fn the_text_before_an_image_is_computed_while_it_is_awaited() {
    let mut bench = Bench::new(LIMITS);
    let (_, mut events) = bench.start(request(20, Some(5..12), 3));
    bench.run();
    assert_eq!(bench.engine.runner.computed, 5);
    assert_eq!(bench.pulls.lock().unwrap()[0].image.key, key(1));
    bench.bring();
    bench.run();
    assert_eq!(hear(&mut events), alone(request(20, Some(5..12), 3))[0]);
    bench.assert_clean();
}

#[test]
fn decode_rows_go_first_and_a_long_prompt_takes_its_turn_in_chunks() {
    let mut bench = Bench::new(LIMITS);
    let (_, mut short) = bench.start(endless(4, 30));
    bench.engine.step();
    assert_eq!(hear(&mut short).tokens.len(), 1);
    let (_, mut long) = bench.start(endless(100, 1));
    let mut steps = 0;
    while hear(&mut long).end.is_none() {
        bench.engine.step();
        assert_eq!(hear(&mut short).tokens.len(), 1, "a long prompt held up a decode");
        steps += 1;
    }
    assert_eq!(steps, 100usize.div_ceil(LIMITS.step_rows - 1));
    assert_eq!(bench.engine.runner.largest_step, LIMITS.step_rows);
    bench.run();
    bench.assert_clean();
}

#[test]
fn a_second_question_about_an_image_computes_its_own_words_only() {
    let mut bench = Bench::new(LIMITS);
    let question = |tokens| about(1, tokens, Some(10..150), 2);
    let (_, mut first) = bench.start(question(170));
    bench.run_to_the_end();
    assert_eq!(hear(&mut first).reused, 0);
    let before = bench.engine.runner.computed;
    let (_, mut second) = bench.start(question(190));
    bench.run();
    // 170 positions fill five blocks, and the image lies in them: nobody asks for it again.
    let heard = hear(&mut second);
    assert_eq!((heard.reused, bench.engine.runner.computed - before), (160, 31));
    assert_eq!(heard.tokens, alone(question(190))[0].tokens);
    let counters = bench.engine.counters();
    assert_eq!((counters.prompt_positions, counters.reused_positions), (360, 160));
    bench.assert_clean();
}

#[test]
fn other_images_and_other_tenants_share_nothing_behind_where_they_differ() {
    let mut bench = Bench::new(LIMITS);
    let question = about(1, 170, Some(40..150), 2);
    let (_, _first) = bench.start(question.clone());
    bench.run_to_the_end();
    let tenant = GenerateRequest { salt: "another".into(), ..question.clone() };
    for (request, reused) in [(about(2, 170, Some(40..150), 2), 32), (tenant, 0), (question, 160)] {
        let (_, mut events) = bench.start(request);
        bench.run_to_the_end();
        assert_eq!(hear(&mut events).reused, reused);
    }
    bench.assert_clean();
}

#[test]
fn those_who_ask_the_same_at_once_compute_it_once() {
    let mut bench = Bench::new(LIMITS);
    let all: Vec<_> = (0..4).map(|_| bench.start(request(600, None, 1)).1).collect();
    bench.run();
    // The oldest goes ahead with whole steps; the others find what it leaves.
    assert!(bench.engine.runner.computed < 600 + 4 * 64, "{} rows", bench.engine.runner.computed);
    all.into_iter().for_each(|mut events| assert_eq!(hear(&mut events).tokens, alone(request(600, None, 1))[0].tokens));
    bench.assert_clean();
}

#[test]
fn answers_are_found_by_the_conversation_that_goes_on() {
    let mut bench = Bench::new(LIMITS);
    let (_, mut events) = bench.start(endless(40, 60));
    bench.run();
    let answer = hear(&mut events).tokens;
    let mut longer = endless(40, 2);
    longer.token_ids.extend(answer);
    longer.token_ids.extend([1, 2, 3]);
    let (_, mut events) = bench.start(longer);
    bench.run();
    assert_eq!(hear(&mut events).reused, 96);
}

#[test]
fn the_youngest_gives_way_when_blocks_run_out_and_goes_on_as_if_nothing_had_happened() {
    let limits = Limits { blocks: 8, ..LIMITS };
    let mut bench = Bench::new(limits);
    let requests = [endless(60, 120), samples(2, endless(50, 60)), about(3, 70, Some(30..60), 80)];
    let events: Vec<_> = requests.iter().map(|request| bench.start(request.clone()).1).collect();
    bench.run_to_the_end();
    assert!(bench.engine.scheduler().preemptions() > 0);
    for (mut events, request) in events.into_iter().zip(requests) {
        let mut heard = hear_all(&mut events).unwrap();
        heard.iter_mut().for_each(|heard| heard.reused = 0);
        assert_eq!(heard, alone(request));
    }
    bench.assert_clean();
}

#[test]
fn samples_share_the_blocks_of_their_prompt() {
    let mut bench = Bench::new(LIMITS);
    let (_, mut events) = bench.start(samples(4, GenerateRequest { sampling: drawn(7), ..endless(70, 20) }));
    while hear_all(&mut events).unwrap().is_empty() {
        bench.engine.step();
    }
    assert_eq!(bench.engine.runner.computed, 70);
    bench.engine.step();
    // Two full blocks of the prompt for all, and for each the rest of it with what follows.
    let blocks = bench.engine.scheduler().blocks();
    assert_eq!(blocks.total() - blocks.free(), 2 + 4);
    bench.run();
    bench.assert_clean();
}

#[test]
fn each_sample_is_what_a_request_with_its_seed_gives() {
    let request = |count, seed| samples(count, GenerateRequest { sampling: drawn(seed), ..endless(45, 12) });
    let together = alone(request(5, 11));
    assert_eq!(together.len(), 5);
    for (sample, heard) in together.iter().enumerate() {
        assert_eq!(*heard, alone(request(1, seed_of_sample(Generator::Counter, 11, sample)))[0], "sample {sample}");
        assert!(together[..sample].iter().all(|other| other.tokens != heard.tokens), "samples differ");
    }
}

#[test]
fn log_probabilities_come_with_the_tokens_and_with_the_prompt() {
    let asked = GenerateRequest { logprobs: Some(2), prompt_logprobs: Some(1), ..endless(150, 4) };
    let mut bench = Bench::new(LIMITS);
    // What is in the cache has no scores: a prompt whose scores are wanted is computed.
    let (_, _first) = bench.start(endless(150, 1));
    bench.run();
    let (_, mut events) = bench.start(asked.clone());
    bench.run();
    let Ok(Event::PromptLogprobs(prompt)) = events.try_recv().unwrap() else { panic!("the prompt's come first") };
    assert_eq!(prompt.len(), 149);
    assert!(prompt.iter().all(|at| at.likeliest.len() == 1 && at.likeliest[0].1 >= at.chosen && at.chosen < 0.0));
    let heard = hear(&mut events);
    assert_eq!((heard.logprobs.len(), heard.reused), (4, 0));
    // Chosen by scores as by the model itself.
    assert_eq!(heard.tokens, alone(endless(150, 4))[0].tokens);
    bench.assert_clean();
}

#[test]
fn scores_are_wanted_only_where_they_are_looked_at() {
    let greedy = || endless(10, 4);
    let sampling = |sampling| GenerateRequest { sampling, ..greedy() };
    let cases = [
        (greedy(), Wanted::Likeliest),
        (samples(3, greedy()), Wanted::Likeliest),
        (endless(40, 4), Wanted::None),
        (sampling(drawn(1)), Wanted::Draw { temperature: 2.0, number: 0.243_906_195_515_733_56 }),
        (samples(2, sampling(drawn(1))), Wanted::Last),
        (samples(2, sampling(top_k(3))), Wanted::Top { temperature: None }),
        (GenerateRequest { logprobs: Some(0), ..sampling(top_k(3)) }, Wanted::Last),
        (sampling(Sampling { min_new_tokens: 2, ..Sampling::GREEDY }), Wanted::Last),
        (sampling(Sampling { presence_penalty: 0.5, ..Sampling::GREEDY }), Wanted::Last),
        (GenerateRequest { logprobs: Some(0), ..greedy() }, Wanted::Last),
        (GenerateRequest { prompt_logprobs: Some(0), ..greedy() }, Wanted::All),
        (beams(2, greedy()), Wanted::Last),
    ];
    for (request, wanted) in cases {
        let mut bench = Bench::new(LIMITS);
        let (_, _events) = bench.start(request.clone());
        assert_eq!(bench.engine.scheduler.plan().rows[0].scores, wanted, "{request:?}");
    }
}

#[test]
fn a_search_does_not_depend_on_company_or_on_being_preempted() {
    let mut bench = Bench::new(Limits { blocks: 7, ..LIMITS });
    let search = samples(2, beams(3, endless(50, 40)));
    let (_, mut older) = bench.start(endless(30, 100));
    let (_, mut found) = bench.start(search.clone());
    bench.run();
    assert!(bench.engine.scheduler().preemptions() > 0);
    let mut heard = hear_all(&mut found).unwrap();
    heard.iter_mut().for_each(|heard| heard.reused = 0);
    assert_eq!((heard.len(), heard), (2, alone(search)));
    assert_eq!(hear(&mut older), alone(endless(30, 100))[0]);
    bench.assert_clean();
}

#[test]
fn beams_of_a_prompt_shorter_than_a_block_go_on_when_there_is_no_block_for_a_copy() {
    let mut bench = Bench::new(Limits { blocks: 3, step_rows: 100, ..LIMITS });
    let (_, mut older) = bench.start(endless(20, 40));
    let search = samples(3, beams(3, endless(10, 20)));
    let (_, mut found) = bench.start(search.clone());
    bench.run_to_the_end();
    assert_eq!(hear(&mut older), alone(endless(20, 40))[0]);
    assert_eq!(hear_all(&mut found).unwrap(), alone(search));
    bench.assert_clean();
}

#[test]
fn a_caller_who_leaves_frees_everything_within_one_step() {
    let mut bench = Bench::new(LIMITS);
    let (_, running) = bench.start(samples(2, request(40, None, 50)));
    let (_, awaiting) = bench.start(request(40, Some(0..9), 50));
    let (_, searching) = bench.start(beams(2, request(20, None, 50)));
    bench.steps(5);
    drop((running, awaiting, searching));
    bench.engine.step();
    bench.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_sequence_with_what_it_has() {
    let mut bench = Bench::new(Limits { running: 1, ..LIMITS });
    let deadline = Deadline::default().within(Duration::from_secs(1));
    let (_, mut first) = bench.start_within(endless(10, 50), deadline);
    // Its image never comes: it has nothing to tell.
    let (_, mut second) = bench.start_within(request(10, Some(2..5), 50), deadline);
    bench.steps(3);
    tokio::time::advance(Duration::from_millis(990)).await;
    bench.engine.step();
    let heard = hear(&mut first);
    assert_eq!((heard.tokens.len(), heard.end), (3, Some(FinishReason::Deadline)));
    assert!(!second.is_closed() && hear(&mut second) == Heard::default());
    tokio::time::advance(Duration::from_millis(10)).await;
    bench.engine.step();
    assert_eq!(hear_all(&mut second), Err(Error::deadline("generating")));
    bench.assert_clean();
}

#[test]
fn features_that_fail_or_do_not_fit_end_only_their_sequence() {
    let mut bench = Bench::new(LIMITS);
    let image = Some(2..5);
    let (first, mut lost) = bench.start(request(10, image.clone(), 3));
    let (second, mut misfit) = bench.start(request(10, image.clone(), 3));
    let (third, mut fine) = bench.start(request(10, image, 3));
    bench.engine.step();
    let gone = Error::new(ErrorKind::NotFound, "EMBEDDING_NOT_FOUND", "gone");
    bench.engine.take(Command::Image { id: first, index: 0, features: Err(gone.clone()) });
    bench.image(second, 0, 999);
    bench.image(third, 0, 4);
    bench.run();
    assert_eq!(hear_all(&mut lost), Err(gone));
    assert_eq!(hear_all(&mut misfit).unwrap_err().reason, "FEATURES_MISMATCH");
    assert!(hear(&mut fine).end.is_some());
    // Features for a sequence that is gone are let go.
    bench.image(first, 0, 4);
    bench.assert_clean();
}

#[test]
fn a_step_that_fails_ends_the_sequences_in_it_and_no_others() {
    let mut bench = Bench::new(LIMITS);
    let (_, mut events) = bench.start(samples(2, request(20, None, 9)));
    let (_, awaiting) = bench.start(request(20, Some(0..9), 9));
    bench.engine.step();
    bench.engine.runner.fails = true;
    bench.steps(3);
    assert_eq!(hear_all(&mut events).unwrap_err().reason, "MODEL_FAILED");
    assert!(!awaiting.is_closed() && !bench.engine.is_empty());
    bench.engine.runner.fails = false;
    bench.bring();
    bench.run();
    bench.assert_clean();
}

#[test]
fn what_can_never_fit_is_refused_with_the_numbers() {
    let error = LIMITS.check(&request(2000, None, 100)).unwrap_err();
    assert_eq!(error.reason, "SEQUENCE_TOO_LONG");
    assert_eq!(error.metadata.iter().find(|(name, _)| name == "positions").unwrap().1, "2048");
    let wide = LIMITS.check(&samples(4, request(1000, None, 600))).unwrap_err();
    assert_eq!((wide.reason.as_ref(), wide.fields[0].field.as_str()), ("SEQUENCE_TOO_LARGE", "samples"));
    let many = LIMITS.check(&samples(5, request(10, None, 6))).unwrap_err();
    assert_eq!(many.reason, "SEQUENCE_TOO_LARGE");
    let both = LIMITS.check(&beams(2, GenerateRequest { sampling: drawn(1), ..request(10, None, 6) })).unwrap_err();
    assert_eq!(both.reason, "COMBINATION_UNSUPPORTED");
    let mut unknown = request(3, None, 1);
    unknown.token_ids[2] = 97;
    assert_eq!(LIMITS.check(&unknown).unwrap_err().fields[0].field, "token_ids[2]");
}
