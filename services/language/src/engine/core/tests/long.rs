//! Very many steps with too few blocks: nothing leaks, nobody starves.

use super::bench::{Bench, LIMITS, about};
use super::{beams, drawn, samples};
use crate::engine::{Events, Limits};
use tessera_api::language::GenerateRequest;

/// Numbers that only have to be spread.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

fn any_request(numbers: &mut Numbers) -> GenerateRequest {
    let tokens = 3 + numbers.below(90);
    let positions = (numbers.below(3) == 0 && tokens > 30).then(|| 4..4 + tokens / 2);
    let request = about(numbers.below(4) as u32, tokens, positions, 1 + numbers.below(40));
    match numbers.below(8) {
        0 => samples(1 + numbers.below(3), GenerateRequest { sampling: drawn(numbers.below(9) as u64), ..request }),
        1 => beams(2, request),
        _ => request,
    }
}

#[test]
fn two_million_steps_leak_nothing_and_nobody_waits_for_ever() {
    const STEPS: usize = 2_000_000;
    let limits = Limits { blocks: 9, running: 4, step_rows: 24, ..LIMITS };
    let mut bench = Bench::new(limits);
    bench.engine.runner.checked = 2;
    let mut numbers = Numbers(1);
    let mut open: Vec<(usize, Events)> = Vec::new();
    let (mut ended, mut left, mut longest) = (0u32, 0u32, 0);
    for step in 0..STEPS {
        if open.len() < 8 && numbers.below(6) == 0 {
            let request = any_request(&mut numbers);
            if limits.check(&request).is_ok() {
                open.push((step, bench.start(request).1));
            }
        }
        if numbers.below(200) == 0 && !open.is_empty() {
            open.swap_remove(numbers.below(open.len()));
            left += 1;
        }
        bench.engine.step();
        bench.bring();
        open.retain_mut(|(since, events)| {
            let over = loop {
                match events.try_recv() {
                    Ok(event) => drop(event.unwrap()),
                    Err(error) => break error == tokio::sync::mpsc::error::TryRecvError::Disconnected,
                }
            };
            if over {
                ended += 1;
                longest = longest.max(step - *since);
            }
            !over
        });
    }
    open.clear();
    bench.engine.step();
    bench.assert_clean();
    println!("{ended} ended, {left} left, {} preemptions", bench.engine.scheduler().preemptions());
    assert!(ended > 50_000 && left > 1000 && bench.engine.scheduler().preemptions() > 1000);
    assert!(longest < 2000, "somebody waited {longest} steps");
}
