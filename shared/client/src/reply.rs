//! A whole answer.

use tessera_api::gateway::{Event, Finished, Logprobs, Started};
use tessera_api::language::MAX_SAMPLES;
use tessera_api::{Error, ErrorKind, Result};

/// A whole answer: all samples, and what was told of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// How the request was understood: the seed, the prompt's length, the images with their handles.
    pub started: Started,
    /// Log-probabilities of the prompt's positions but the first, if they were asked for.
    pub prompt_logprobs: Vec<Logprobs>,
    /// At least one; several where they were asked for, or where the checkpoint makes several.
    pub samples: Vec<Sample>,
}

/// One of the answers to a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What it says.
    pub text: String,
    /// Its tokens, special ones included.
    pub token_ids: Vec<u32>,
    /// As many as tokens, or none when they were not asked for.
    pub logprobs: Vec<Logprobs>,
    /// Why it ended, what it used, where the time went.
    pub finished: Finished,
}

impl Reply {
    /// The text of the first answer.
    pub fn text(&self) -> &str {
        self.samples.first().map_or("", |sample| &sample.text)
    }
}

/// What was heard of an answer so far.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    prompt_logprobs: Vec<Logprobs>,
    samples: Vec<Partial>,
}

#[derive(Debug, Default)]
struct Partial {
    text: String,
    token_ids: Vec<u32>,
    logprobs: Vec<Logprobs>,
    finished: Option<Finished>,
}

impl Heard {
    /// Takes the next event.
    ///
    /// # Errors
    /// `Internal` when it cannot come here.
    pub(crate) fn take(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Started(_) => return Err(broken("an answer begins twice")),
            Event::PromptLogprobs(positions) => self.prompt_logprobs.extend_from_slice(positions),
            Event::Delta { sample, text, token_ids, logprobs } => {
                let sample = self.sample(*sample)?;
                sample.text.push_str(text);
                sample.token_ids.extend(token_ids);
                sample.logprobs.extend_from_slice(logprobs);
            }
            Event::Finished(finished) => self.sample(finished.sample)?.finished = Some(*finished),
        }
        Ok(())
    }

    fn sample(&mut self, index: usize) -> Result<&mut Partial> {
        if index >= MAX_SAMPLES {
            return Err(broken("an answer has more samples than there can be"));
        }
        if index >= self.samples.len() {
            self.samples.resize_with(index + 1, Partial::default);
        }
        let sample = &mut self.samples[index];
        if sample.finished.is_some() { Err(broken("an answer goes on behind its end")) } else { Ok(sample) }
    }

    /// True when there is an answer and none is cut off.
    pub(crate) fn is_whole(&self) -> bool {
        !self.samples.is_empty() && self.samples.iter().all(|sample| sample.finished.is_some())
    }

    /// What was heard, once it is whole.
    pub(crate) fn into_reply(self, started: Started) -> Option<Reply> {
        let whole = |sample: Partial| {
            let Partial { text, token_ids, logprobs, finished } = sample;
            finished.map(|finished| Sample { text, token_ids, logprobs, finished })
        };
        let samples = self.samples.into_iter().map(whole).collect::<Option<Vec<_>>>()?;
        (!samples.is_empty()).then_some(Reply { started, prompt_logprobs: self.prompt_logprobs, samples })
    }
}

/// The error of a gateway that does not keep to the contract.
pub(crate) fn broken(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Internal, "CONTRACT_BROKEN", why)
}

#[cfg(test)]
mod tests {
    use tessera_api::gateway::{FinishReason, Timings, Usage};

    use super::*;

    fn delta(sample: usize, text: &str, id: u32) -> Event {
        Event::Delta { sample, text: text.into(), token_ids: vec![id], logprobs: Vec::new() }
    }

    fn finished(sample: usize) -> Event {
        let (usage, timings) = (Usage::default(), Timings::default());
        Event::Finished(Finished { sample, reason: FinishReason::Length, usage, timings })
    }

    fn heard(events: &[Event]) -> Heard {
        let mut heard = Heard::default();
        events.iter().for_each(|event| heard.take(event).unwrap());
        heard
    }

    fn started() -> Started {
        Started { request_id: String::new(), prompt_tokens: 1, images: Vec::new(), seed: 1 }
    }

    #[test]
    fn answers_that_come_mixed_are_put_in_order() {
        let mut events = vec![delta(1, "b", 7), delta(0, "a", 5), finished(1), delta(0, "c", 6)];
        assert!(!heard(&events).is_whole() && !Heard::default().is_whole());
        assert_eq!(heard(&events).into_reply(started()), None);
        events.push(finished(0));
        assert!(heard(&events).is_whole());
        let reply = heard(&events).into_reply(started()).unwrap();
        let texts: Vec<(&str, &[u32])> = reply.samples.iter().map(|s| (s.text.as_str(), &s.token_ids[..])).collect();
        assert_eq!(texts, [("ac", &[5, 6][..]), ("b", &[7])]);
        assert_eq!(reply.text(), "ac");
    }

    #[test]
    fn events_out_of_place_are_errors() {
        for wrong in [Event::Started(started()), delta(0, "more", 1), finished(0), delta(MAX_SAMPLES, "far", 1)] {
            let mut heard = heard(&[delta(0, "a", 5), finished(0)]);
            assert_eq!(heard.take(&wrong).unwrap_err().reason, "CONTRACT_BROKEN", "{wrong:?}");
        }
    }
}
