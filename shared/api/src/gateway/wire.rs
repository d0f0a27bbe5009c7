//! Conversation types from and to the wire.

use std::time::Duration;

use super::{
    Event, FinishReason, Finished, GenerateRequest, ImagePlan, ImageSource, ImageUrlError, Input, Logprobs, Message,
    Part, Role, Started, Timings, TokenLogprob, Usage,
};
use crate::convert::{self, count, micros, missing};
use crate::error::{Error, Result};
use crate::proto::gateway::v1 as proto;

impl TryFrom<proto::GenerateRequest> for GenerateRequest {
    type Error = Error;

    fn try_from(request: proto::GenerateRequest) -> Result<Self> {
        Ok(Self {
            request_id: request.request_id,
            input: read_input(request.messages, request.prompt)?,
            settings: request.settings.unwrap_or_default().try_into()?,
        })
    }
}

fn read_input(messages: Vec<proto::Message>, prompt: Vec<proto::Part>) -> Result<Input> {
    match (messages.is_empty(), prompt.is_empty()) {
        (true, true) => Err(missing("messages")),
        (false, false) => {
            Err(Error::field("INPUT_CONFLICT", "prompt", "there are messages, too: a request has one or the other"))
        }
        (false, true) => {
            let messages = messages.into_iter().enumerate();
            let messages = messages.map(|(index, message)| read_message(index, message));
            Ok(Input::Conversation(messages.collect::<Result<_>>()?))
        }
        (true, false) => Ok(Input::Prompt(read_parts("prompt", prompt)?)),
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
    Ok(Message { role, parts: read_parts(&format!("messages[{index}].parts"), message.parts)? })
}

/// Reads the parts that stand in this field.
fn read_parts(field: &str, parts: Vec<proto::Part>) -> Result<Vec<Part>> {
    let parts = parts.into_iter().enumerate();
    parts.map(|(index, part)| read_part(&format!("{field}[{index}]"), part)).collect()
}

fn read_part(field: &str, part: proto::Part) -> Result<Part> {
    let image = match part.content.ok_or_else(|| missing(field))? {
        proto::part::Content::Text(text) => return Ok(Part::Text(text)),
        proto::part::Content::Image(image) => image,
    };
    let field = |name: &str| format!("{field}.image.{name}");
    let source = match image.source.ok_or_else(|| missing(&field("source")))? {
        proto::image::Source::Data(data) if data.is_empty() => {
            return Err(Error::field("IMAGE_EMPTY", field("data"), "has no bytes"));
        }
        proto::image::Source::Data(data) => ImageSource::File(data),
        proto::image::Source::Key(key) => ImageSource::Stored(convert::key(&field("key"), &key)?),
        proto::image::Source::Url(url) => {
            let wrong = |error: ImageUrlError| Error::field("URL_INVALID", field("url"), error.to_string());
            ImageSource::Url(url.parse().map_err(wrong)?)
        }
    };
    Ok(Part::Image(source))
}

impl From<GenerateRequest> for proto::GenerateRequest {
    fn from(request: GenerateRequest) -> Self {
        let (messages, prompt) = match request.input {
            Input::Conversation(messages) => (messages, Vec::new()),
            Input::Prompt(parts) => (Vec::new(), parts),
        };
        Self {
            messages: messages.into_iter().map(Into::into).collect(),
            settings: Some(request.settings.into()),
            request_id: request.request_id,
            prompt: prompt.into_iter().map(Into::into).collect(),
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
        Self { role: role.into(), parts: message.parts.into_iter().map(Into::into).collect() }
    }
}

impl From<Part> for proto::Part {
    fn from(part: Part) -> Self {
        let content = match part {
            Part::Text(text) => proto::part::Content::Text(text),
            Part::Image(image) => {
                let source = match image {
                    ImageSource::File(data) => proto::image::Source::Data(data),
                    ImageSource::Stored(key) => proto::image::Source::Key(key.as_bytes().to_vec().into()),
                    ImageSource::Url(url) => proto::image::Source::Url(url.as_url().to_string()),
                };
                proto::part::Content::Image(proto::Image { source: Some(source) })
            }
        };
        Self { content: Some(content) }
    }
}

impl From<Event> for proto::GenerateResponse {
    fn from(event: Event) -> Self {
        use proto::generate_response::Event as Wire;
        Self {
            event: Some(match event {
                Event::Started(started) => Wire::Started(started.into()),
                Event::PromptLogprobs(positions) => Wire::PromptLogprobs(proto::PromptLogprobs {
                    positions: positions.into_iter().map(Into::into).collect(),
                }),
                Event::Delta { sample, text, token_ids, logprobs } => Wire::Delta(proto::Delta {
                    text,
                    token_ids,
                    sample: count(sample),
                    logprobs: logprobs.into_iter().map(Into::into).collect(),
                }),
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
            Wire::PromptLogprobs(prompt) => Self::PromptLogprobs(read_logprobs("prompt_logprobs", prompt.positions)?),
            Wire::Delta(delta) => Self::Delta {
                sample: delta.sample as usize,
                text: delta.text,
                token_ids: delta.token_ids,
                logprobs: read_logprobs("delta.logprobs", delta.logprobs)?,
            },
            Wire::Finished(finished) => Self::Finished(finished.try_into()?),
        })
    }
}

fn read_logprobs(field: &str, places: Vec<proto::Logprobs>) -> Result<Vec<Logprobs>> {
    let read = |place: proto::Logprobs| {
        let chosen = place.chosen.ok_or_else(|| missing(&format!("{field}.chosen")))?.into();
        Ok(Logprobs { chosen, likeliest: place.likeliest.into_iter().map(Into::into).collect() })
    };
    places.into_iter().map(read).collect()
}

impl From<Logprobs> for proto::Logprobs {
    fn from(logprobs: Logprobs) -> Self {
        let likeliest = logprobs.likeliest.into_iter().map(Into::into).collect();
        Self { chosen: Some(logprobs.chosen.into()), likeliest }
    }
}

impl From<TokenLogprob> for proto::TokenLogprob {
    fn from(TokenLogprob { token_id, text, logprob }: TokenLogprob) -> Self {
        Self { token_id, text, logprob }
    }
}

impl From<proto::TokenLogprob> for TokenLogprob {
    fn from(proto::TokenLogprob { token_id, text, logprob }: proto::TokenLogprob) -> Self {
        Self { token_id, text, logprob }
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
        let Usage { prompt_tokens, image_tokens, completion_tokens, reused_tokens } = finished.usage;
        let timings = finished.timings;
        Self {
            reason: reason.into(),
            usage: Some(proto::Usage {
                prompt_tokens: count(prompt_tokens),
                image_tokens: count(image_tokens),
                completion_tokens: count(completion_tokens),
                reused_tokens: reused_tokens.map(count),
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
                continuations: count(timings.continuations),
                transfer_microseconds: micros(timings.transfer),
            }),
            sample: count(finished.sample),
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
            sample: finished.sample as usize,
            reason,
            usage: Usage {
                prompt_tokens: usage.prompt_tokens as usize,
                image_tokens: usage.image_tokens as usize,
                completion_tokens: usage.completion_tokens as usize,
                reused_tokens: usage.reused_tokens.map(|tokens| tokens as usize),
            },
            timings: Timings {
                prepare: Duration::from_micros(timings.prepare_microseconds),
                encode: Duration::from_micros(timings.encode_microseconds),
                first_token: Duration::from_micros(timings.first_token_microseconds),
                total: Duration::from_micros(timings.total_microseconds),
                images_stored_before: timings.images_stored_before as usize,
                queue: Duration::from_micros(timings.queue_microseconds),
                transfer: Duration::from_micros(timings.transfer_microseconds),
                prefill: Duration::from_micros(timings.prefill_microseconds),
                decode: Duration::from_micros(timings.decode_microseconds),
                continuations: timings.continuations as usize,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tessera_embedding::ImageKey;

    use super::super::Settings;
    use super::*;

    #[test]
    fn every_event_survives_the_wire() {
        let token = |token_id, text: &str, logprob| TokenLogprob { token_id, text: text.into(), logprob };
        let place = || Logprobs { chosen: token(3, " a", -0.5), likeliest: vec![token(4, "<0x0A>", -0.25)] };
        let usage = Usage { prompt_tokens: 9, image_tokens: 4, completion_tokens: 2, reused_tokens: Some(0) };
        let timings = Timings {
            prepare: Duration::from_micros(7),
            images_stored_before: 1,
            transfer: Duration::from_micros(11),
            continuations: 3,
            ..Timings::default()
        };
        for event in [
            Event::PromptLogprobs(vec![place(), place()]),
            Event::Delta { sample: 2, text: " a".into(), token_ids: vec![3], logprobs: vec![place()] },
            Event::Finished(Finished { sample: 2, reason: FinishReason::Deadline, usage, timings }),
        ] {
            assert_eq!(Event::try_from(proto::GenerateResponse::from(event.clone())).unwrap(), event);
        }
    }

    #[test]
    fn every_source_of_an_image_survives_the_wire() {
        use tessera_embedding::EncoderFingerprint;
        let key = ImageKey::of(b"", &EncoderFingerprint::of(&[]), b"image");
        for source in [
            ImageSource::File(Bytes::from_static(b"image")),
            ImageSource::Stored(key),
            ImageSource::Url("https://a.test/b.png?signature=c".parse().unwrap()),
        ] {
            let parts = vec![Part::Text("a".into()), Part::Image(source)];
            let message = Message { role: Role::User, parts: parts.clone() };
            for input in [Input::Conversation(vec![message]), Input::Prompt(parts)] {
                let request = GenerateRequest { request_id: "a".into(), input, settings: Settings::default() };
                assert_eq!(GenerateRequest::try_from(proto::GenerateRequest::from(request.clone())).unwrap(), request);
            }
        }
    }

    #[test]
    fn a_request_has_messages_or_a_prompt() {
        let part = || proto::Part { content: Some(proto::part::Content::Text("a".into())) };
        let message = || proto::Message { role: proto::Role::User.into(), parts: vec![part()] };
        let wrong = |messages, prompt| {
            let request = proto::GenerateRequest { messages, prompt, ..proto::GenerateRequest::default() };
            let error = GenerateRequest::try_from(request).unwrap_err();
            (error.reason.into_owned(), error.fields[0].field.clone())
        };
        assert_eq!(wrong(vec![], vec![]), ("FIELD_MISSING".into(), "messages".into()));
        assert_eq!(wrong(vec![message()], vec![part()]), ("INPUT_CONFLICT".into(), "prompt".into()));
        assert_eq!(wrong(vec![], vec![part(), proto::Part::default()]), ("FIELD_MISSING".into(), "prompt[1]".into()));
    }

    #[test]
    fn every_part_has_its_path() {
        let parts = || vec![Part::Text("a".into()), Part::Text("b".into())];
        let message = || Message { role: Role::User, parts: parts() };
        let mut conversation = Input::Conversation(vec![message(), message()]);
        let paths = |input: &mut Input| input.places_mut().map(|(place, _)| place.to_string()).collect::<Vec<_>>();
        let all = ["messages[0].parts[0]", "messages[0].parts[1]", "messages[1].parts[0]", "messages[1].parts[1]"];
        assert_eq!(paths(&mut conversation), all);
        assert_eq!((conversation.parts().count(), conversation.parts_mut().count()), (4, 4));
        let mut prompt = Input::Prompt(parts());
        assert_eq!(paths(&mut prompt), ["prompt[0]", "prompt[1]"]);
        assert_eq!((prompt.parts().count(), prompt.parts_mut().count()), (2, 2));
    }

    #[test]
    fn a_url_that_is_none_names_its_field() {
        let image = proto::Image { source: Some(proto::image::Source::Url("ftp://a.test/?secret".into())) };
        let part = proto::Part { content: Some(proto::part::Content::Image(image)) };
        let message = proto::Message { role: proto::Role::User.into(), parts: vec![part] };
        let request = proto::GenerateRequest { messages: vec![message], ..proto::GenerateRequest::default() };
        let error = GenerateRequest::try_from(request).unwrap_err();
        assert_eq!(
            (error.reason.as_ref(), error.fields[0].field.as_str()),
            ("URL_INVALID", "messages[0].parts[0].image.url")
        );
        assert!(!error.message.contains("secret"), "{error}");
    }

    #[test]
    fn a_place_without_its_token_is_refused() {
        let prompt = proto::PromptLogprobs { positions: vec![proto::Logprobs::default()] };
        let event = proto::generate_response::Event::PromptLogprobs(prompt);
        let error = Event::try_from(proto::GenerateResponse { event: Some(event) }).unwrap_err();
        assert_eq!(error.fields[0].field, "prompt_logprobs.chosen");
    }
}
