//! Messages of `LanguageWorker` to domain types and back.

use std::num::NonZeroUsize;
use std::time::Duration;

use tessera_embedding::{DecoderFingerprint, KeyError};

use super::{
    Begun, Description, Event, FinishReason, Finished, GenerateRequest, ImageReference, Load, Logprobs, MAX_LOGPROBS,
    MAX_SAMPLES, Timings,
};
use crate::convert::{self, count, out_of_range};
use crate::error::{Error, Result};
use crate::proto::language::v1 as proto;
use crate::proto::language::v1::generate_response::Event as WireEvent;

impl TryFrom<proto::GenerateRequest> for GenerateRequest {
    type Error = Error;

    fn try_from(request: proto::GenerateRequest) -> Result<Self> {
        let mut token_ids = request.token_ids;
        let positions = token_ids.len();
        if positions == 0 {
            return Err(convert::missing("token_ids"));
        }
        let mut images = Vec::with_capacity(request.images.len());
        let mut free_from = 0;
        for (index, image) in request.images.into_iter().enumerate() {
            let image = image_reference(&format!("images[{index}]"), image, free_from, positions)?;
            free_from = image.positions.end;
            images.push(image);
        }
        let answer_tokens = request.answer_tokens as usize;
        if answer_tokens >= positions - free_from.min(positions - 1) {
            let range = format!("below {}, what follows the images", positions - free_from.min(positions - 1));
            return Err(out_of_range("answer_tokens", answer_tokens, &range));
        }
        let samples = NonZeroUsize::new(request.samples as usize).unwrap_or(NonZeroUsize::MIN);
        if samples.get() > MAX_SAMPLES {
            return Err(out_of_range("samples", samples, &format!("at most {MAX_SAMPLES}")));
        }
        let new = NonZeroUsize::new(request.max_new_tokens as usize)
            .ok_or_else(|| out_of_range("max_new_tokens", 0, "at least 1"))?;
        let mut begun = begun(request.begun, samples, new)?;
        if answer_tokens > 0 {
            if !begun.is_empty() {
                return Err(out_of_range("answer_tokens", answer_tokens, "0 where begun says what there is"));
            }
            let answer = token_ids.split_off(positions - answer_tokens);
            begun = (0..samples.get()).map(|sample| Begun { sample, token_ids: answer.clone() }).collect();
        }
        let beam_search =
            request.beam_search.map(|search| super::BeamSearch::from(search).check("beam_search", samples.get()));
        let logprobs = |field: &str, wanted: Option<u32>| match wanted.map(|count| count as usize) {
            Some(count) if count > MAX_LOGPROBS => Err(out_of_range(field, count, &format!("at most {MAX_LOGPROBS}"))),
            wanted => Ok(wanted),
        };
        Ok(Self {
            request_id: request.request_id,
            token_ids,
            begun,
            images,
            sampling: request.sampling.ok_or_else(|| convert::missing("sampling"))?.try_into()?,
            beam_search: beam_search.transpose()?,
            samples,
            max_new_tokens: new.saturating_add(answer_tokens),
            end_token_ids: request.end_token_ids,
            constraint: request.constraint.map(TryInto::try_into).transpose()?,
            logprobs: logprobs("logprobs", request.logprobs)?,
            prompt_logprobs: logprobs("prompt_logprobs", request.prompt_logprobs)?,
            salt: request.salt.into(),
            decoder: if request.fingerprint.is_empty() { None } else { Some(fingerprint(&request.fingerprint)?) },
        })
    }
}

fn fingerprint(bytes: &[u8]) -> Result<DecoderFingerprint> {
    let wrong = |error: KeyError| Error::field("FINGERPRINT_INVALID", "fingerprint", error.to_string());
    DecoderFingerprint::try_from(bytes).map_err(wrong)
}

/// Samples that are continued: each once, in order, and none longer than it may become.
fn begun(samples: Vec<proto::Begun>, count: NonZeroUsize, longest: NonZeroUsize) -> Result<Vec<Begun>> {
    let mut free_from = 0;
    let check = |(index, proto::Begun { sample, token_ids }): (usize, proto::Begun)| {
        let (sample, tokens) = (sample as usize, token_ids.len());
        if !(free_from..count.get()).contains(&sample) {
            let range = format!("in {free_from}..{count}");
            return Err(out_of_range(&format!("begun[{index}].sample"), sample, &range));
        }
        if tokens > longest.get() {
            let range = format!("at most the {longest} of max_new_tokens");
            return Err(out_of_range(&format!("begun[{index}].token_ids"), tokens, &range));
        }
        free_from = sample + 1;
        Ok(Begun { sample, token_ids })
    };
    samples.into_iter().enumerate().map(check).collect()
}

fn image_reference(
    field: &str,
    image: proto::ImageReference,
    free_from: usize,
    prompt_tokens: usize,
) -> Result<ImageReference> {
    let start = image.start as usize;
    let positions = start..start + image.image_tokens as usize;
    if start < free_from || positions.end > prompt_tokens || positions.is_empty() {
        let range = format!("a free range of positions in {free_from}..{prompt_tokens}");
        return Err(out_of_range(&format!("{field}.start"), format!("{positions:?}"), &range));
    }
    Ok(ImageReference {
        key: convert::key(&format!("{field}.key"), &image.key)?,
        positions,
        image_size: convert::image_size(&format!("{field}.image_size"), image.image_size)?,
        store: image.store,
        is_stored: image.is_stored,
    })
}

impl From<ImageReference> for proto::ImageReference {
    fn from(image: ImageReference) -> Self {
        Self {
            key: image.key.as_bytes().to_vec().into(),
            start: count(image.positions.start),
            image_tokens: count(image.positions.len()),
            image_size: Some(image.image_size.into()),
            store: image.store,
            is_stored: image.is_stored,
        }
    }
}

impl From<GenerateRequest> for proto::GenerateRequest {
    fn from(request: GenerateRequest) -> Self {
        Self {
            request_id: request.request_id,
            token_ids: request.token_ids,
            answer_tokens: 0,
            begun: request.begun.into_iter().map(Into::into).collect(),
            images: request.images.into_iter().map(Into::into).collect(),
            sampling: Some(request.sampling.into()),
            beam_search: request.beam_search.map(Into::into),
            samples: count(request.samples.get()),
            max_new_tokens: count(request.max_new_tokens.get()),
            end_token_ids: request.end_token_ids,
            constraint: request.constraint.map(Into::into),
            logprobs: request.logprobs.map(count),
            prompt_logprobs: request.prompt_logprobs.map(count),
            salt: request.salt.into(),
            fingerprint: request.decoder.map(|decoder| decoder.as_bytes().to_vec().into()).unwrap_or_default(),
        }
    }
}

impl From<Begun> for proto::Begun {
    fn from(begun: Begun) -> Self {
        Self { sample: count(begun.sample), token_ids: begun.token_ids }
    }
}

impl From<Logprobs> for proto::Logprobs {
    fn from(logprobs: Logprobs) -> Self {
        let likeliest = logprobs.likeliest.into_iter();
        Self {
            chosen: logprobs.chosen,
            likeliest: likeliest.map(|(token_id, logprob)| proto::TokenLogprob { token_id, logprob }).collect(),
        }
    }
}

impl From<proto::Logprobs> for Logprobs {
    fn from(logprobs: proto::Logprobs) -> Self {
        let likeliest = logprobs.likeliest.into_iter();
        Self { chosen: logprobs.chosen, likeliest: likeliest.map(|token| (token.token_id, token.logprob)).collect() }
    }
}

impl From<Event> for proto::GenerateResponse {
    fn from(event: Event) -> Self {
        let into_wire = |logprobs: Vec<Logprobs>| logprobs.into_iter().map(Into::into).collect();
        let event = match event {
            Event::PromptLogprobs(positions) => {
                WireEvent::PromptLogprobs(proto::PromptLogprobs { positions: into_wire(positions) })
            }
            Event::Tokens { sample, token_ids, logprobs } => {
                WireEvent::Tokens(proto::Tokens { token_ids, sample: count(sample), logprobs: into_wire(logprobs) })
            }
            Event::Finished(Finished { sample, reason, timings, reused_positions }) => {
                let reason = match reason {
                    FinishReason::Stop => proto::FinishReason::Stop,
                    FinishReason::Length => proto::FinishReason::Length,
                    FinishReason::Deadline => proto::FinishReason::Deadline,
                };
                let timings = proto::Timings {
                    queue_microseconds: convert::micros(timings.queue),
                    features_microseconds: convert::micros(timings.features),
                    prefill_microseconds: convert::micros(timings.prefill),
                    decode_microseconds: convert::micros(timings.decode),
                };
                WireEvent::Finished(proto::Finished {
                    reason: reason.into(),
                    timings: Some(timings),
                    sample: count(sample),
                    reused_positions: count(reused_positions),
                })
            }
        };
        Self { event: Some(event) }
    }
}

impl TryFrom<proto::GenerateResponse> for Event {
    type Error = Error;

    fn try_from(response: proto::GenerateResponse) -> Result<Self> {
        let from_wire = |logprobs: Vec<proto::Logprobs>| logprobs.into_iter().map(Into::into).collect();
        match response.event.ok_or_else(|| convert::missing("event"))? {
            WireEvent::PromptLogprobs(prompt) => Ok(Self::PromptLogprobs(from_wire(prompt.positions))),
            WireEvent::Tokens(proto::Tokens { token_ids, sample, logprobs }) => {
                Ok(Self::Tokens { sample: sample as usize, token_ids, logprobs: from_wire(logprobs) })
            }
            WireEvent::Finished(finished) => {
                let reason = match finished.reason() {
                    proto::FinishReason::Stop => FinishReason::Stop,
                    proto::FinishReason::Length => FinishReason::Length,
                    proto::FinishReason::Deadline => FinishReason::Deadline,
                    proto::FinishReason::Unspecified => return Err(convert::missing("finished.reason")),
                };
                let timings = finished.timings.unwrap_or_default();
                let timings = Timings {
                    queue: Duration::from_micros(timings.queue_microseconds),
                    features: Duration::from_micros(timings.features_microseconds),
                    prefill: Duration::from_micros(timings.prefill_microseconds),
                    decode: Duration::from_micros(timings.decode_microseconds),
                };
                let (sample, reused_positions) = (finished.sample as usize, finished.reused_positions as usize);
                Ok(Self::Finished(Finished { sample, reason, timings, reused_positions }))
            }
        }
    }
}

impl From<Description> for proto::DescribeResponse {
    fn from(description: Description) -> Self {
        Self {
            max_positions: count(description.max_positions),
            vocabulary: count(description.vocabulary),
            image_token_id: description.image_token_id,
            version: description.version,
            fingerprint: description.fingerprint.as_bytes().to_vec().into(),
        }
    }
}

impl TryFrom<proto::DescribeResponse> for Description {
    type Error = Error;

    fn try_from(response: proto::DescribeResponse) -> Result<Self> {
        Ok(Self {
            max_positions: response.max_positions as usize,
            vocabulary: response.vocabulary as usize,
            image_token_id: response.image_token_id,
            version: response.version,
            fingerprint: fingerprint(&response.fingerprint)?,
        })
    }
}

impl From<Load> for proto::LoadResponse {
    fn from(load: Load) -> Self {
        Self {
            total_blocks: count(load.total_blocks),
            free_blocks: count(load.free_blocks),
            waiting: count(load.waiting),
            running: count(load.running),
            tokens_per_second: load.tokens_per_second,
            prefix_hit_rate: load.prefix_hit_rate,
            new_tokens: load.new_tokens,
        }
    }
}

impl From<proto::LoadResponse> for Load {
    fn from(load: proto::LoadResponse) -> Self {
        Self {
            total_blocks: load.total_blocks as usize,
            free_blocks: load.free_blocks as usize,
            waiting: load.waiting as usize,
            running: load.running as usize,
            tokens_per_second: load.tokens_per_second,
            prefix_hit_rate: load.prefix_hit_rate,
            new_tokens: load.new_tokens,
        }
    }
}
