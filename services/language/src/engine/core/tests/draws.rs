//! Tokens that the model draws, or that are drawn from the largest scores, are those that all scores give.

use tessera_api::language::{Choice, Draw, GenerateRequest, Sampling};

use super::*;

/// Draws that take the largest scores, or nothing but a token.
fn settings() -> Vec<Draw> {
    let Choice::Draw(plain) = drawn(3).choice else { unreachable!("it is drawn") };
    let top_k = |count| Draw { top_k: NonZeroUsize::new(count), ..plain };
    vec![
        plain,
        Draw { temperature: 0.3, ..plain },
        Draw { temperature: f32::MIN_POSITIVE, ..plain },
        top_k(3),
        top_k(6),
        top_k(40),
        Draw { top_p: 0.9, ..top_k(5) },
        Draw { typical_p: 0.7, ..top_k(5) },
        Draw { top_p: 0.3, ..plain },
        Draw { top_p: 0.99, ..plain },
        Draw { min_p: 0.6, ..plain },
        Draw { min_p: 0.05, ..plain },
        Draw { top_p: 0.5, min_p: 0.3, temperature: 0.7, ..plain },
    ]
}

fn requests() -> Vec<GenerateRequest> {
    let choices = settings().into_iter().map(Choice::Draw).chain([Choice::Greedy]).enumerate();
    let mut requests: Vec<GenerateRequest> = choices
        .map(|(index, choice)| GenerateRequest {
            sampling: Sampling { choice, ..Sampling::GREEDY },
            ..endless(5 + index % 3, 12)
        })
        .collect();
    requests.extend(requests.clone().into_iter().map(|request| samples(3, request)));
    requests.push(GenerateRequest { logprobs: Some(1), ..requests[3].clone() });
    requests.push(beams(3, endless(6, 12)));
    requests
}

#[test]
fn a_token_is_the_same_whether_the_model_draws_it_or_gives_all_scores() {
    let heard = [false, true].map(|gives_all| {
        let mut bench = Bench::new(Limits { running: 16, blocks: 40, ..LIMITS });
        bench.engine.runner.gives_all = gives_all;
        let mut events: Vec<_> = requests().into_iter().map(|request| bench.start(request).1).collect();
        bench.run_to_the_end();
        bench.assert_clean();
        let (spared, asked_again) = (bench.engine.runner.spared, bench.engine.runner.asked_again);
        if gives_all {
            assert_eq!((spared, asked_again), (0, 0));
        } else {
            assert!(asked_again > 100 && spared > asked_again + 200, "{spared} spared, {asked_again} asked again");
        }
        events.iter_mut().map(|events| hear_all(events).unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(heard[0], heard[1]);
}
