//! Everything that is told of an answer but times, and how it differs from another one.

use tessera_api::gateway::{Event, FinishReason, Finished, Logprobs, Started};

/// An answer as far as it was told.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Told {
    /// Tokens of the prompt, and the seed.
    started: Option<(usize, u64)>,
    prompt: Vec<Logprobs>,
    samples: Vec<Sample>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Sample {
    text: String,
    token_ids: Vec<u32>,
    logprobs: Vec<Logprobs>,
    /// Why it ended, and tokens of prompt, images and answer.
    end: Option<(FinishReason, [usize; 3])>,
}

impl Told {
    /// Takes an event; returns how often the answer went on elsewhere, as its end says.
    ///
    /// # Errors
    /// What the contract does not allow.
    pub(crate) fn take(&mut self, event: Event) -> Result<usize, String> {
        if self.started.is_none() != matches!(event, Event::Started(_)) {
            return Err("an answer begins with Started, and once".into());
        }
        match event {
            Event::Started(Started { prompt_tokens, seed, .. }) => self.started = Some((prompt_tokens, seed)),
            Event::PromptLogprobs(more) => self.prompt.extend(more),
            Event::Delta { sample, text, token_ids, logprobs } => {
                let of = self.sample(sample)?;
                of.text.push_str(&text);
                of.token_ids.extend(token_ids);
                of.logprobs.extend(logprobs);
            }
            Event::Finished(Finished { sample, reason, usage, timings }) => {
                let tokens = [usage.prompt_tokens, usage.image_tokens, usage.completion_tokens];
                self.sample(sample)?.end = Some((reason, tokens));
                return Ok(timings.continuations);
            }
        }
        Ok(0)
    }

    fn sample(&mut self, sample: usize) -> Result<&mut Sample, String> {
        self.samples.resize(self.samples.len().max(sample + 1), Sample::default());
        let sample = &mut self.samples[sample];
        if sample.end.is_some() { Err("something follows the end of a sample".into()) } else { Ok(sample) }
    }

    /// Whether every sample has ended.
    pub(crate) fn is_over(&self) -> bool {
        !self.samples.is_empty() && self.samples.iter().all(|sample| sample.end.is_some())
    }

    /// Tokens of all samples.
    pub(crate) fn tokens(&self) -> usize {
        self.samples.iter().map(|sample| sample.token_ids.len()).sum()
    }

    /// How an answer that broke off differs from the beginning of the whole one; nothing if it does not.
    pub(crate) fn differs_from_a_beginning_of(&self, whole: &Self) -> Option<String> {
        if self.started.is_some() && self.started != whole.started {
            return Some(format!("it began with {:?}, not {:?}", self.started, whole.started));
        }
        if !whole.prompt.starts_with(&self.prompt) {
            return Some("the log-probabilities of the prompt are others".into());
        }
        if self.samples.len() > whole.samples.len() {
            return Some(format!("it has {} samples, not {}", self.samples.len(), whole.samples.len()));
        }
        let differences = self.samples.iter().zip(&whole.samples).enumerate();
        differences.filter_map(|(index, (one, whole))| Some(format!("sample {index}: {}", one.differs(whole)?))).next()
    }

    /// How a whole answer differs from another one; nothing if it does not.
    pub(crate) fn differs_from(&self, whole: &Self) -> Option<String> {
        let lacks = || format!("it ended early, with {} tokens instead of {}", self.tokens(), whole.tokens());
        self.differs_from_a_beginning_of(whole).or_else(|| (self != whole).then(lacks))
    }
}

impl Sample {
    fn differs(&self, whole: &Self) -> Option<String> {
        if !whole.token_ids.starts_with(&self.token_ids) {
            let same = self.token_ids.iter().zip(&whole.token_ids).take_while(|(one, other)| one == other).count();
            let (found, expected) = (&self.token_ids[same..], &whole.token_ids[same..]);
            let few = |ids: &[u32]| format!("{:?} and {} more", &ids[..ids.len().min(4)], ids.len().saturating_sub(4));
            return Some(format!("behind {same} tokens come {}, not {}", few(found), few(expected)));
        }
        if !whole.logprobs.starts_with(&self.logprobs) {
            let same = self.logprobs.iter().zip(&whole.logprobs).take_while(|(one, other)| one == other).count();
            return Some(format!("the log-probabilities of token {same} are others"));
        }
        if !whole.text.starts_with(&self.text) {
            return Some(format!("its text is {:?}, not {:?}", self.text, whole.text));
        }
        let is_other_end = self.end.is_some() && self.end != whole.end;
        is_other_end.then(|| format!("it ended with {:?}, not {:?}", self.end, whole.end))
    }
}
