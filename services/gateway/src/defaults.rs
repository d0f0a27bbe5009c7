//! What a request means that leaves settings out: the request, then the checkpoint, then our defaults. What cannot be
//! had together is refused here, whoever asked for it.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;

use tessera_api::gateway::Settings;
use tessera_api::language::{BeamSearch, Choice, Draw, EarlyStopping, Generator, MAX_SAMPLES, Sampling};
use tessera_api::{Error, Result};
use tessera_checkpoint::{EarlyStopping as CheckpointEarlyStopping, GenerationDefaults};

/// The reference keeps this many when it samples and nobody says otherwise.
const TOP_K: usize = 50;

/// How answers are made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Generation {
    /// How a token is chosen. Its minimum of new tokens depends on the prompt: [`lengths`].
    pub(crate) sampling: Sampling,
    /// The seed in force.
    pub(crate) seed: u64,
    pub(crate) samples: NonZeroUsize,
    pub(crate) beam_search: Option<BeamSearch>,
    pub(crate) end_token_ids: Vec<u32>,
}

/// How long an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// No end token before so many new ones.
    pub(crate) min: usize,
    /// New tokens at most.
    pub(crate) max: NonZeroUsize,
}

/// What bounds the length of an answer besides the request and the checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Where the prompt stands in the request.
    pub(crate) field: &'static str,
    /// New tokens at most when nobody says.
    pub(crate) default: usize,
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// Longest prompt and answer together.
    pub(crate) context: usize,
}

/// Returns how answers are made.
///
/// # Errors
/// Names the setting that is out of its range, or that excludes another one.
pub(crate) fn generation(settings: &Settings, checkpoint: &GenerationDefaults) -> Result<Generation> {
    let end_token_ids = end_token_ids(settings, checkpoint);
    let seed = settings.seed.unwrap_or_else(|| match settings.generator {
        Generator::Counter => random(),
        // Torch takes no longer ones.
        Generator::Torch => random() >> 32,
    });
    let samples = settings.samples.or(checkpoint.num_return_sequences.and_then(NonZeroUsize::new));
    let samples = samples.unwrap_or(NonZeroUsize::MIN);
    let beam_search = beam_search(settings, checkpoint);
    let sampling = Sampling {
        logit_bias: logit_bias(settings, checkpoint),
        repetition_penalty: or(settings.repetition_penalty, checkpoint.repetition_penalty, 1.0),
        presence_penalty: settings.presence_penalty.unwrap_or(0.0),
        frequency_penalty: settings.frequency_penalty.unwrap_or(0.0),
        no_repeat_ngram: count(settings.no_repeat_ngram, checkpoint.no_repeat_ngram, 0),
        bad_words: bad_words(settings, checkpoint, &end_token_ids)?,
        min_new_tokens: 0,
        choice: choice(settings, checkpoint, seed),
    };
    let generation = Generation { sampling: sampling.check("settings")?, seed, samples, beam_search, end_token_ids };
    check_together(settings, &generation)?;
    Ok(generation)
}

fn choice(settings: &Settings, checkpoint: &GenerationDefaults, seed: u64) -> Choice {
    match temperature(settings, checkpoint) {
        None => Choice::Greedy,
        Some(temperature) => Choice::Draw(Draw {
            temperature,
            top_k: count(settings.top_k, checkpoint.top_k, TOP_K),
            top_p: or(settings.top_p, checkpoint.top_p, 1.0),
            min_p: or(settings.min_p, checkpoint.min_p, 0.0),
            typical_p: or(settings.typical_p, checkpoint.typical_p, 1.0),
            seed,
            generator: settings.generator,
        }),
    }
}

/// `None` is greedy.
fn temperature(settings: &Settings, checkpoint: &GenerationDefaults) -> Option<f32> {
    let asks =
        settings.top_k.is_some() || [settings.top_p, settings.min_p, settings.typical_p].iter().any(Option::is_some);
    let samples = asks || checkpoint.do_sample.unwrap_or(false);
    let otherwise = || samples.then(|| or(None, checkpoint.temperature, 1.0));
    settings.temperature.or_else(otherwise).filter(|temperature| *temperature != 0.0)
}

fn beam_search(settings: &Settings, checkpoint: &GenerationDefaults) -> Option<BeamSearch> {
    let asked = settings.beam_search;
    let beams = asked.map(|search| search.beams.get()).or(checkpoint.num_beams).filter(|&beams| beams > 1)?;
    let early_stopping = asked.and_then(|search| search.early_stopping);
    Some(BeamSearch {
        beams,
        length_penalty: or(asked.and_then(|search| search.length_penalty), checkpoint.length_penalty, 1.0),
        early_stopping: early_stopping.unwrap_or(match checkpoint.early_stopping {
            None | Some(CheckpointEarlyStopping::Heuristic) => EarlyStopping::Heuristic,
            Some(CheckpointEarlyStopping::Always) => EarlyStopping::Always,
            Some(CheckpointEarlyStopping::Never) => EarlyStopping::Never,
        }),
    })
}

fn end_token_ids(settings: &Settings, checkpoint: &GenerationDefaults) -> Vec<u32> {
    let mut ids = if settings.ignore_end { Vec::new() } else { checkpoint.eos_ids.clone() };
    for id in &settings.stop_token_ids {
        if !ids.contains(id) {
            ids.push(*id);
        }
    }
    ids
}

/// What the checkpoint suppresses stays so: the reference adds a bias first and suppresses last.
fn logit_bias(settings: &Settings, checkpoint: &GenerationDefaults) -> Vec<(u32, f32)> {
    let suppressed = checkpoint.suppress_tokens.as_deref().unwrap_or_default();
    let mut bias = settings.logit_bias.clone();
    bias.retain(|(id, _)| !suppressed.contains(id));
    bias.extend(suppressed.iter().map(|id| (*id, f32::NEG_INFINITY)));
    bias.sort_unstable_by_key(|(id, _)| *id);
    bias.dedup_by_key(|(id, _)| *id);
    bias
}

/// The request's, or else the checkpoint's, of which the reference leaves out those that are an end token.
fn bad_words(settings: &Settings, checkpoint: &GenerationDefaults, end_token_ids: &[u32]) -> Result<Vec<Vec<u32>>> {
    let ends = |run: &Vec<u32>| matches!(run.as_slice(), [id] if end_token_ids.contains(id));
    if let Some(index) = settings.bad_words.iter().position(ends) {
        let description = "is a token that ends the answer: use min_tokens or ignore_end to keep it from ending";
        return Err(Error::field("SETTINGS_CONFLICT", format!("settings.bad_words[{index}]"), description));
    }
    if !settings.bad_words.is_empty() {
        return Ok(settings.bad_words.clone());
    }
    Ok(checkpoint.bad_words.iter().flatten().filter(|run| !ends(run)).cloned().collect())
}

/// Refuses what cannot be had together. It does not matter whether the request or the checkpoint asks for it: an answer
/// that leaves one of them out would be another answer.
fn check_together(settings: &Settings, generation: &Generation) -> Result<()> {
    let conflict = |field: &str, description: String| {
        Err(Error::field("SETTINGS_CONFLICT", format!("settings.{field}"), description))
    };
    let samples = generation.samples.get();
    if samples > MAX_SAMPLES {
        return conflict("samples", format!("{samples} is more than {MAX_SAMPLES}"));
    }
    let greedy = generation.sampling.choice == Choice::Greedy;
    let Some(search) = generation.beam_search else {
        if samples > 1 && greedy {
            let description = "samples of a greedy answer are all the same: set a temperature, or search with beams";
            return conflict("samples", format!("{samples} {description}"));
        }
        if settings.ignore_end && settings.constraint.is_some() {
            return conflict("ignore_end", "an answer of a form ends where the form does".into());
        }
        return Ok(());
    };
    let beams = search.beams;
    if beams < samples {
        return conflict("beam_search.beams", format!("{beams} beams give no {samples} samples"));
    }
    let excludes = |what: &str| format!("a search with {beams} beams excludes {what}; beams of 1 are no search");
    if !greedy {
        return conflict("beam_search", excludes("drawing, which a temperature of 0 turns off"));
    }
    if !settings.stop.is_empty() {
        return conflict("stop", excludes("stop strings"));
    }
    if settings.constraint.is_some() {
        return conflict("constraint", excludes("a constraint"));
    }
    search.check("settings.beam_search", samples).map(drop)
}

/// Returns how long an answer may be: never longer than the context leaves.
///
/// # Errors
/// `Invalid`, with the numbers, when the prompt leaves no room, or less than the request wants at least.
pub(crate) fn lengths(settings: &Settings, checkpoint: &GenerationDefaults, room: Room) -> Result<Lengths> {
    let Room { field, default, prompt, context } = room;
    let left = context.saturating_sub(prompt);
    let wanted = match (settings.max_tokens, checkpoint.max_new_tokens, checkpoint.max_length) {
        (Some(max), ..) => max as usize,
        (None, Some(max), _) => max,
        (None, None, Some(length)) => length.saturating_sub(prompt).max(1),
        (None, None, None) => default,
    };
    let max = NonZeroUsize::new(wanted.min(left)).ok_or_else(|| {
        let message = format!("the prompt has {prompt} tokens, the context of {context} leaves no room for an answer");
        Error::field("PROMPT_TOO_LONG", field, message).with("prompt_tokens", prompt).with("context", context)
    })?;
    if let Some(min) = settings.min_tokens.map(|min| min as usize) {
        if min > max.get() {
            let message = format!("{min} is more than the {max} tokens that the answer may have");
            return Err(Error::field("VALUE_OUT_OF_RANGE", "settings.min_tokens", message));
        }
        return Ok(Lengths { min, max });
    }
    // Like the reference, which stops at the maximum where a file's minimum is above it.
    let least = checkpoint.min_length.map(|length| length.saturating_sub(prompt));
    Ok(Lengths { min: checkpoint.min_new_tokens.or(least).unwrap_or(0).min(max.get()), max })
}

/// The checkpoint's numbers are wider than the wire's.
fn or(request: Option<f32>, checkpoint: Option<f64>, default: f32) -> f32 {
    request.or(checkpoint.map(|value| value as f32)).unwrap_or(default)
}

/// A number of which 0 means that nothing is done.
fn count(request: Option<u32>, checkpoint: Option<usize>, default: usize) -> Option<NonZeroUsize> {
    NonZeroUsize::new(request.map(|count| count as usize).or(checkpoint).unwrap_or(default))
}

/// A number that nobody can guess from the one before.
pub(crate) fn random() -> u64 {
    #[cfg(test)]
    if let Some(number) = crate::tests::dice::of_the_gateway() {
        return number;
    }
    RandomState::new().hash_one(0u8)
}

#[cfg(test)]
mod tests;
