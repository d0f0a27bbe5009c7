//! What language workers answer here: a pure function of prompt, images, settings, sample and position, as the contract
//! has it. Two requests that differ in anything that should matter have different answers.

use std::collections::VecDeque;

use tessera_api::language::{Event, FinishReason, Finished, GenerateRequest, Logprobs, Timings};

/// The longest answer that no limit ends.
const LONGEST: u64 = 24;

fn mix(past: u64, input: u64) -> u64 {
    let mut x = (past ^ input.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x2545_f491_4f6c_dd1d);
    x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 29)
}

fn of_text(past: u64, text: &str) -> u64 {
    text.bytes().fold(past, |past, byte| mix(past, u64::from(byte)))
}

/// The whole answer of a sample: each token depends on the request and on all that come before it.
pub(crate) fn answer(request: &GenerateRequest, sample: usize) -> (Vec<u32>, FinishReason) {
    let settings = format!("{:?} {:?} {:?}", request.sampling, request.beam_search, request.salt);
    let mut past = of_text(sample as u64, &settings);
    past = request.token_ids.iter().fold(past, |past, &id| mix(past, u64::from(id)));
    for image in &request.images {
        past = of_text(past, &format!("{} {:?} {:?}", image.key, image.positions, image.image_size));
    }
    let length = (1 + past % LONGEST).max(request.sampling.min_new_tokens as u64) as usize;
    let mut token_ids = Vec::new();
    while token_ids.len() < length.min(request.max_new_tokens.get()) {
        past = mix(past, 1);
        let id = if token_ids.len() + 1 == length { request.end_token_ids[0] } else { 300 + (past % 250) as u32 };
        token_ids.push(id);
    }
    let reason = if token_ids.len() == length { FinishReason::Stop } else { FinishReason::Length };
    (token_ids, reason)
}

pub(crate) fn logprobs(id: u32, likeliest: usize) -> Logprobs {
    let chosen = -1.0 / id as f32;
    Logprobs { chosen, likeliest: (0..likeliest as u32).map(|rank| (id + rank, chosen * rank as f32)).collect() }
}

/// Those of a prompt's positions but the first.
pub(crate) fn of_prompt(token_ids: &[u32], likeliest: usize) -> Vec<Logprobs> {
    token_ids[1..].iter().map(|&id| logprobs(id, likeliest)).collect()
}

pub(crate) fn finished(sample: usize, reason: FinishReason) -> Event {
    Event::Finished(Finished { sample, reason, timings: Timings::default(), reused_positions: 0 })
}

/// All events of a request, so many tokens in each.
///
/// # Errors
/// When a sample is to go on behind tokens that no worker would have told.
pub(crate) fn events(request: &GenerateRequest, chunk: usize) -> Result<VecDeque<Event>, String> {
    let mut events = VecDeque::new();
    if let Some(top) = request.prompt_logprobs {
        events.push_back(Event::PromptLogprobs(of_prompt(&request.token_ids, top)));
    }
    let mut open = Vec::new();
    for sample in 0..request.samples.get() {
        let (token_ids, reason) = answer(request, sample);
        let told = match request.begun.iter().find(|begun| begun.sample == sample) {
            Some(begun) if !token_ids.starts_with(&begun.token_ids) => {
                return Err(format!("{begun:?} is no beginning of {token_ids:?}"));
            }
            Some(begun) => begun.token_ids.len(),
            None if request.begun.is_empty() => 0,
            None => continue,
        };
        open.push((sample, told, token_ids, reason));
    }
    // A search tells an answer whole; samples go on side by side.
    let chunk = if request.beam_search.is_some() { usize::MAX } else { chunk };
    while !open.is_empty() {
        open.retain_mut(|(sample, told, token_ids, reason)| {
            let end = told.saturating_add(chunk).min(token_ids.len());
            if *told < end {
                let token_ids = token_ids[*told..end].to_vec();
                let top = request.logprobs;
                let logprobs = top.map(|top| token_ids.iter().map(|&id| logprobs(id, top)).collect());
                events.push_back(Event::Tokens { sample: *sample, token_ids, logprobs: logprobs.unwrap_or_default() });
                *told = end;
            }
            let is_over = *told == token_ids.len();
            if is_over {
                events.push_back(finished(*sample, *reason));
            }
            !is_over
        });
    }
    Ok(events)
}
