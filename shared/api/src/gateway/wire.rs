//! Conversation types from and to the wire.

use std::time::Duration;

use super::{
    Event, FinishReason, Finished, GenerateRequest, ImagePlan, MAX_STOP_STRINGS, Message, Part, Role, Settings,
    Started, Timings, Usage,
};
use crate::convert::{self, micros, missing, out_of_range};
use crate::error::{Error, Result};
use crate::proto::gateway::v1 as proto;

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl TryFrom<proto::GenerateRequest> for GenerateRequest {
    type Error = Error;

    fn try_from(request: proto::GenerateRequest) -> Result<Self> {
        if request.messages.is_empty() {
            return Err(missing("messages"));
        }
        let messages = request.messages.into_iter().enumerate().map(|(index, message)| read_message(index, message));
        Ok(Self {
            request_id: request.request_id,
            messages: messages.collect::<Result<_>>()?,
            settings: request.settings.unwrap_or_default().try_into()?,
        })
    }
}

fn read_message(index: usize, message: proto::Message) -> Result<Message> {
    let role = match message.role() {
        proto::Role::System => Role::System,
        proto::Role::User => Role::User,
        proto::Role::Assistant => Role::Assistant,
        proto::Role::Unspecified => {
            let description = format!("{} is no role: use ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT", message.role);
            return Err(Error::field("ROLE_INVALID", format!("messages[{index}].role"), description));
        }
    };
    let mut parts = Vec::with_capacity(message.parts.len());
    for (part_index, part) in message.parts.into_iter().enumerate() {
        let field = || format!("messages[{index}].parts[{part_index}]");
        parts.push(match part.content.ok_or_else(|| missing(&field()))? {
            proto::part::Content::Text(text) => Part::Text(text),
            proto::part::Content::Image(image) => match image.source {
                Some(proto::image::Source::Data(data)) if !data.is_empty() => Part::Image(data),
                Some(proto::image::Source::Data(_)) => {
                    return Err(Error::field("IMAGE_EMPTY", format!("{}.image.data", field()), "has no bytes"));
                }
                None => return Err(missing(&format!("{}.image.source", field()))),
            },
        });
    }
    Ok(Message { role, parts })
}

impl TryFrom<proto::GenerationSettings> for Settings {
    type Error = Error;

    fn try_from(settings: proto::GenerationSettings) -> Result<Self> {
        let stop = &settings.stop;
        if stop.len() > MAX_STOP_STRINGS {
            return Err(out_of_range("settings.stop", stop.len(), &format!("at most {MAX_STOP_STRINGS} strings")));
        }
        if let Some(index) = stop.iter().position(String::is_empty) {
            return Err(Error::field("STOP_EMPTY", format!("settings.stop[{index}]"), "is empty"));
        }
        if settings.max_tokens == Some(0) {
            return Err(out_of_range("settings.max_tokens", 0, "at least 1"));
        }
        if let Some(temperature) = settings.temperature
            && !(temperature >= 0.0 && temperature.is_finite())
        {
            return Err(out_of_range("settings.temperature", temperature, "0 or a number above it"));
        }
        Ok(Self {
            max_tokens: settings.max_tokens,
            temperature: settings.temperature,
            top_k: settings.top_k,
            top_p: settings.top_p,
            min_p: settings.min_p,
            repetition_penalty: settings.repetition_penalty,
            seed: settings.seed,
            stop: settings.stop,
        })
    }
}

impl From<GenerateRequest> for proto::GenerateRequest {
    fn from(request: GenerateRequest) -> Self {
        let settings = request.settings;
        Self {
            messages: request.messages.into_iter().map(Into::into).collect(),
            settings: Some(proto::GenerationSettings {
                max_tokens: settings.max_tokens,
                temperature: settings.temperature,
                top_k: settings.top_k,
                top_p: settings.top_p,
                min_p: settings.min_p,
                repetition_penalty: settings.repetition_penalty,
                seed: settings.seed,
                stop: settings.stop,
            }),
            request_id: request.request_id,
        }
    }
}

impl From<Message> for proto::Message {
    fn from(message: Message) -> Self {
        let role = match message.role {
            Role::System => proto::Role::System,
            Role::User => proto::Role::User,
            Role::Assistant => proto::Role::Assistant,
        };
        let part = |part| match part {
            Part::Text(text) => proto::part::Content::Text(text),
            Part::Image(data) => {
                proto::part::Content::Image(proto::Image { source: Some(proto::image::Source::Data(data)) })
            }
        };
        let parts = message.parts.into_iter().map(|p| proto::Part { content: Some(part(p)) });
        Self { role: role.into(), parts: parts.collect() }
    }
}

impl From<Event> for proto::GenerateResponse {
    fn from(event: Event) -> Self {
        use proto::generate_response::Event as Wire;
        Self {
            event: Some(match event {
                Event::Started(started) => Wire::Started(started.into()),
                Event::Delta { text, token_ids } => Wire::Delta(proto::Delta { text, token_ids }),
                Event::Finished(finished) => Wire::Finished(finished.into()),
            }),
        }
    }
}

impl TryFrom<proto::GenerateResponse> for Event {
    type Error = Error;

    fn try_from(response: proto::GenerateResponse) -> Result<Self> {
        use proto::generate_response::Event as Wire;
        Ok(match response.event.ok_or_else(|| missing("event"))? {
            Wire::Started(started) => Self::Started(started.try_into()?),
            Wire::Delta(delta) => Self::Delta { text: delta.text, token_ids: delta.token_ids },
            Wire::Finished(finished) => Self::Finished(finished.try_into()?),
        })
    }
}

impl From<Started> for proto::Started {
    fn from(started: Started) -> Self {
        Self {
            request_id: started.request_id,
            prompt_tokens: count(started.prompt_tokens),
            images: started.images.into_iter().map(Into::into).collect(),
            seed: started.seed,
        }
    }
}

impl TryFrom<proto::Started> for Started {
    type Error = Error;

    fn try_from(started: proto::Started) -> Result<Self> {
        Ok(Self {
            request_id: started.request_id,
            prompt_tokens: started.prompt_tokens as usize,
            images: started.images.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            seed: started.seed,
        })
    }
}

impl From<ImagePlan> for proto::ImagePlan {
    fn from(plan: ImagePlan) -> Self {
        Self {
            key: plan.key.as_bytes().to_vec().into(),
            image_size: Some(plan.image_size.into()),
            grid: Some(plan.grid.into()),
            tiles: count(plan.tiles),
            image_tokens: count(plan.image_tokens),
        }
    }
}

impl TryFrom<proto::ImagePlan> for ImagePlan {
    type Error = Error;

    fn try_from(plan: proto::ImagePlan) -> Result<Self> {
        Ok(Self {
            key: convert::key("images.key", &plan.key)?,
            image_size: convert::image_size("images.image_size", plan.image_size)?,
            grid: convert::image_size("images.grid", plan.grid)?,
            tiles: plan.tiles as usize,
            image_tokens: plan.image_tokens as usize,
        })
    }
}

impl From<Finished> for proto::Finished {
    fn from(finished: Finished) -> Self {
        let reason = match finished.reason {
            FinishReason::Stop => proto::FinishReason::Stop,
            FinishReason::Length => proto::FinishReason::Length,
            FinishReason::Deadline => proto::FinishReason::Deadline,
        };
        let Usage { prompt_tokens, image_tokens, completion_tokens } = finished.usage;
        let timings = finished.timings;
        Self {
            reason: reason.into(),
            usage: Some(proto::Usage {
                prompt_tokens: count(prompt_tokens),
                image_tokens: count(image_tokens),
                completion_tokens: count(completion_tokens),
            }),
            timings: Some(proto::Timings {
                prepare_microseconds: micros(timings.prepare),
                encode_microseconds: micros(timings.encode),
                first_token_microseconds: micros(timings.first_token),
                total_microseconds: micros(timings.total),
                images_stored_before: count(timings.images_stored_before),
                queue_microseconds: micros(timings.queue),
                prefill_microseconds: micros(timings.prefill),
                decode_microseconds: micros(timings.decode),
            }),
        }
    }
}

impl TryFrom<proto::Finished> for Finished {
    type Error = Error;

    fn try_from(finished: proto::Finished) -> Result<Self> {
        let reason = match finished.reason() {
            proto::FinishReason::Stop => FinishReason::Stop,
            proto::FinishReason::Length => FinishReason::Length,
            proto::FinishReason::Deadline => FinishReason::Deadline,
            proto::FinishReason::Unspecified => return Err(missing("finished.reason")),
        };
        let usage = finished.usage.unwrap_or_default();
        let timings = finished.timings.unwrap_or_default();
        Ok(Self {
            reason,
            usage: Usage {
                prompt_tokens: usage.prompt_tokens as usize,
                image_tokens: usage.image_tokens as usize,
                completion_tokens: usage.completion_tokens as usize,
            },
            timings: Timings {
                prepare: Duration::from_micros(timings.prepare_microseconds),
                encode: Duration::from_micros(timings.encode_microseconds),
                first_token: Duration::from_micros(timings.first_token_microseconds),
                total: Duration::from_micros(timings.total_microseconds),
                images_stored_before: timings.images_stored_before as usize,
                queue: Duration::from_micros(timings.queue_microseconds),
                prefill: Duration::from_micros(timings.prefill_microseconds),
                decode: Duration::from_micros(timings.decode_microseconds),
            },
        })
    }
}
