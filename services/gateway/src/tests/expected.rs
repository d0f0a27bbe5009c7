//! What a client must be told, and what it is told: every event is held against the answer that no fault disturbs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tessera_api::gateway::{
    Event, FinishReason, Finished, GenerateRequest, ImageSource, Input, Logprobs, Message, Part, Role, Started,
};
use tessera_api::language::{self, ImageReference};
use tessera_embedding::{ImageKey, Salt};
use tessera_testkit::fixtures_dir;

use super::answers;
use super::schedule::Asked;
use super::vision::fingerprint;
use crate::prepare::{Pools, Preparer};
use crate::sample::{Piece, Sample, Stops};
use crate::tenant::{Tenant, TenantSettings};

/// A request, and what must come of it.
pub(crate) struct Expected {
    pub(crate) request: GenerateRequest,
    preparer: Arc<Preparer>,
    /// What the language worker is to be asked.
    asked: language::GenerateRequest,
    pub(crate) keys: Vec<ImageKey>,
    stops: Arc<Stops>,
    samples: Vec<(Vec<u32>, FinishReason)>,
}

/// What a client was told so far.
pub(crate) struct Heard<'a> {
    expected: &'a Expected,
    has_started: bool,
    prompt: Vec<Logprobs>,
    samples: Vec<HeardSample>,
    pub(crate) continuations: usize,
}

#[derive(Clone, Default)]
struct HeardSample {
    token_ids: Vec<u32>,
    text: String,
    end: Option<FinishReason>,
}

/// The file of an image by its number.
pub(crate) fn image(number: usize) -> Bytes {
    let mut file = std::fs::read(fixtures_dir().join("images/one_pixel.png")).unwrap();
    file.push(number as u8);
    file.into()
}

/// Whose all requests are.
fn everybody() -> Tenant {
    Tenant::new(&Salt::default(), "", &TenantSettings::default())
}

impl Expected {
    pub(crate) fn of(preparer: &Arc<Preparer>, asked: &Asked) -> Self {
        let images = asked.images.iter().map(|&number| Part::Image(ImageSource::File(image(number))));
        let parts = images.chain([Part::Text(format!("What is {} about?", asked.id))]).collect();
        let input = Input::Conversation(vec![Message { role: Role::User, parts }]);
        let mut request = GenerateRequest { request_id: asked.id.clone(), input, settings: asked.settings.clone() };
        let expected = Self::of_request(preparer, request.clone());
        let text = expected.told(0, usize::MAX, true).text;
        let places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
        if !asked.stops || asked.settings.beam_search.is_some() || places.len() < 5 {
            return expected;
        }
        request.settings.stop = vec![text[places[places.len() / 2]..places[places.len() * 3 / 4 + 1]].to_owned()];
        Self::of_request(preparer, request)
    }

    fn of_request(preparer: &Arc<Preparer>, request: GenerateRequest) -> Self {
        let pools = Pools { fingerprint: Some(fingerprint()), context: 4096, stored: Vec::new() };
        let prepared = preparer.prepare(&everybody(), request.clone(), &pools).unwrap();
        let (generation, prompt) = (prepared.generation, prepared.prompt);
        let images = prepared.images.iter().zip(&prompt.images).map(|(image, positions)| ImageReference {
            key: image.key,
            positions: positions.clone(),
            image_size: image.plan.image,
            store: String::new(),
            is_stored: true,
        });
        let asked = language::GenerateRequest {
            images: images.collect(),
            sampling: language::Sampling { min_new_tokens: prepared.lengths.min, ..generation.sampling },
            beam_search: generation.beam_search,
            samples: generation.samples,
            end_token_ids: generation.end_token_ids,
            salt: everybody().salt,
            ..language::GenerateRequest::greedy(prompt.ids, prepared.lengths.max)
        };
        let mut expected = Self {
            preparer: preparer.clone(),
            keys: prepared.images.iter().map(|image| image.key).collect(),
            stops: Arc::new(Stops::new(request.settings.clone())),
            samples: (0..asked.samples.get()).map(|sample| answers::answer(&asked, sample)).collect(),
            request,
            asked,
        };
        for sample in 0..expected.samples.len() {
            let whole = expected.told(sample, usize::MAX, true);
            let (token_ids, reason) = &mut expected.samples[sample];
            token_ids.truncate(whole.tokens);
            *reason = if whole.stopped { FinishReason::Stop } else { *reason };
        }
        expected
    }

    /// What the first tokens of a sample come to, all at once.
    fn told(&self, sample: usize, tokens: usize, is_end: bool) -> Piece {
        let (token_ids, _) = &self.samples[sample];
        let mut whole = Sample::new(self.preparer.prompter.detokenizer(), self.stops.clone());
        let mut piece = whole.push(&token_ids[..tokens.min(token_ids.len())], Duration::ZERO);
        if is_end && !piece.stopped {
            let rest = whole.finish();
            piece.text.push_str(&rest.text);
            piece.stopped = rest.stopped;
        }
        piece
    }
}

impl<'a> Heard<'a> {
    pub(crate) fn new(expected: &'a Expected) -> Self {
        let samples = vec![HeardSample::default(); expected.samples.len()];
        Self { expected, has_started: false, prompt: Vec::new(), samples, continuations: 0 }
    }

    /// Tokens of all samples.
    pub(crate) fn tokens(&self) -> usize {
        self.samples.iter().map(|sample| sample.token_ids.len()).sum()
    }

    /// Takes an event.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn hear(&mut self, event: Event) -> Result<(), String> {
        if matches!(event, Event::Started(_)) == self.has_started {
            return Err(format!("this begins twice, or not at all: {event:?}"));
        }
        match event {
            Event::Started(started) => self.start(&started),
            Event::PromptLogprobs(more) => {
                self.prompt.extend(more);
                if self.tokens() > 0 { Err("the prompt comes behind the answer".into()) } else { Ok(()) }
            }
            Event::Delta { sample, text, token_ids, logprobs } => self.delta(sample, &text, &token_ids, &logprobs),
            Event::Finished(finished) => self.finish(finished),
        }
    }

    fn start(&mut self, started: &Started) -> Result<(), String> {
        self.has_started = true;
        let Expected { asked, keys, request, .. } = self.expected;
        let found: Vec<ImageKey> = started.images.iter().map(|image| image.key).collect();
        let is_right = started.prompt_tokens == asked.token_ids.len()
            && found == *keys
            && Some(started.seed) == request.settings.seed
            && started.request_id == request.request_id;
        if is_right { Ok(()) } else { Err(format!("it begins as another one: {started:?}")) }
    }

    fn delta(&mut self, sample: usize, text: &str, ids: &[u32], logprobs: &[Logprobs]) -> Result<(), String> {
        let expected = self.expected;
        let told = self.samples.get_mut(sample).ok_or("a sample that nobody asked for")?;
        if told.end.is_some() {
            return Err(format!("more of sample {sample} behind its end"));
        }
        let (whole, _) = &expected.samples[sample];
        let from = told.token_ids.len();
        told.token_ids.extend(ids);
        told.text.push_str(text);
        if !whole.starts_with(&told.token_ids) {
            return Err(format!("sample {sample} is {:?} and should be {whole:?}", told.token_ids));
        }
        // What is held back until the end brings no ids.
        let top = expected.request.settings.logprobs.filter(|_| !ids.is_empty());
        let right: Vec<_> = top.map_or(Vec::new(), |top| ids.iter().map(|&id| answers::logprobs(id, top)).collect());
        if plain(logprobs) != right {
            return Err(format!("log-probabilities of sample {sample} from {from} on: {logprobs:?}"));
        }
        Ok(())
    }

    fn finish(&mut self, finished: Finished) -> Result<(), String> {
        let Finished { sample, reason, usage, timings } = finished;
        let expected = self.expected;
        self.continuations = self.continuations.max(timings.continuations);
        let told = self.samples.get_mut(sample).ok_or("a sample that nobody asked for")?;
        if told.end.replace(reason).is_some() {
            return Err(format!("sample {sample} ends twice"));
        }
        let (whole, right) = &expected.samples[sample];
        let tokens = told.token_ids.len();
        let is_late = reason == FinishReason::Deadline;
        if !is_late && (reason != *right || tokens != whole.len()) {
            return Err(format!("sample {sample} ends with {reason:?} behind {tokens} tokens of {}", whole.len()));
        }
        let text = expected.told(sample, tokens, true).text;
        if told.text != text {
            return Err(format!("the text of sample {sample} is {:?} and should be {text:?}", told.text));
        }
        let fill: usize = expected.asked.images.iter().map(|image| image.positions.len()).sum();
        let right = (expected.asked.token_ids.len(), fill, tokens);
        let found = (usage.prompt_tokens, usage.image_tokens, usage.completion_tokens);
        if found != right {
            return Err(format!("the usage of sample {sample} is {found:?} and should be {right:?}"));
        }
        Ok(())
    }

    /// Looks at an answer that ended without an error; returns whether its time was over before it was complete.
    ///
    /// # Errors
    /// Says what is missing.
    pub(crate) fn complete(&self) -> Result<bool, String> {
        if self.samples.iter().any(|sample| sample.end.is_none()) {
            return Err("the stream ends before its samples".into());
        }
        let is_late = self.samples.iter().any(|sample| sample.end == Some(FinishReason::Deadline));
        let top = self.expected.request.settings.prompt_logprobs;
        let right = top.map_or(Vec::new(), |top| answers::of_prompt(&self.expected.asked.token_ids, top));
        if plain(&self.prompt) != right && !(is_late && self.prompt.is_empty()) {
            return Err("the log-probabilities of the prompt are others".into());
        }
        Ok(is_late)
    }

    /// Looks at an answer that an error ended.
    ///
    /// # Errors
    /// Says which text is not that of its tokens.
    pub(crate) fn broken_off(&self) -> Result<(), String> {
        for (index, sample) in self.samples.iter().enumerate().filter(|(_, sample)| sample.end.is_none()) {
            let text = self.expected.told(index, sample.token_ids.len(), false).text;
            if text != sample.text {
                return Err(format!("the text of sample {index} is {:?} and should be {text:?}", sample.text));
            }
        }
        Ok(())
    }
}

/// As a language worker tells them.
fn plain(places: &[Logprobs]) -> Vec<language::Logprobs> {
    let place = |place: &Logprobs| language::Logprobs {
        chosen: place.chosen.logprob,
        likeliest: place.likeliest.iter().map(|token| (token.token_id, token.logprob)).collect(),
    };
    places.iter().map(place).collect()
}
