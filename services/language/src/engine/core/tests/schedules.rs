//! Whatever comes when, and whoever leaves: each answer is the one of the request alone, and nothing leaks.

use proptest::prelude::*;

use super::bench::{Bench, LIMITS, about, alone, hear_all};
use super::{beams, drawn, samples};
use crate::engine::{Events, Limits};
use tessera_api::language::{GenerateRequest, Sampling};

/// Something that happens between two steps.
#[derive(Clone, Debug)]
enum Happening {
    Start(Box<GenerateRequest>),
    Leave(usize),
    Bring,
    Steps(usize),
}

fn asked() -> impl Strategy<Value = GenerateRequest> {
    let image = prop::option::of((1u32..3, 0usize..60));
    let sampling = prop_oneof![
        2 => Just(Sampling::GREEDY),
        2 => (0u64..3).prop_map(drawn),
        1 => Just(Sampling { repetition_penalty: 1.2, no_repeat_ngram: std::num::NonZeroUsize::new(2), ..Sampling::GREEDY }),
    ];
    let form = prop_oneof![3 => Just((1, false)), 1 => Just((2, false)), 1 => Just((3, false)), 1 => Just((2, true))];
    // Few lengths, so that prompts often share their prefixes.
    (prop_oneof![3usize..20, 60usize..70, 90usize..130], image, 1usize..50, sampling, form, any::<bool>()).prop_map(
        |(tokens, image, new, sampling, (width, searches), other_tenant)| {
            let (image, positions) = image.unwrap_or((1, usize::MAX));
            let positions = (positions < tokens / 2).then(|| positions..positions + tokens / 3);
            let request = about(image, tokens, positions, new);
            let salt = if other_tenant { "another".into() } else { "".into() };
            if searches {
                GenerateRequest { salt, ..beams(width, request) }
            } else {
                GenerateRequest { salt, sampling, ..samples(width, request) }
            }
        },
    )
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => asked().prop_map(|request| Happening::Start(Box::new(request))),
        1 => (0usize..100).prop_map(Happening::Leave),
        3 => Just(Happening::Bring),
        5 => (1usize..9).prop_map(Happening::Steps),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn answers_do_not_depend_on_the_schedule(
        happenings in prop::collection::vec(happening(), 1..50),
        step_rows in 1usize..80,
        running in 3usize..8,
        blocks in 5usize..24,
    ) {
        let limits = Limits { step_rows, running, blocks, ..LIMITS };
        let mut bench = Bench::new(limits);
        let mut open: Vec<(GenerateRequest, Option<Events>)> = Vec::new();
        for happening in happenings {
            match happening {
                Happening::Start(request) if limits.check(&request).is_ok() => {
                    let (_, events) = bench.start((*request).clone());
                    open.push((*request, Some(events)));
                }
                Happening::Leave(n) if !open.is_empty() => {
                    let n = n % open.len();
                    open[n].1 = None;
                }
                Happening::Bring => bench.bring(),
                Happening::Steps(n) => bench.steps(n),
                _ => {}
            }
        }
        bench.run_to_the_end();
        bench.assert_clean();
        for (request, events) in open {
            if let Some(mut events) = events {
                let mut heard = hear_all(&mut events).unwrap();
                heard.iter_mut().for_each(|heard| heard.reused = 0);
                prop_assert_eq!(heard, alone(request));
            }
        }
    }
}
