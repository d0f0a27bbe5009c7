//! What a request means that leaves settings out: the request, then the checkpoint, then our defaults.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;

use tessera_api::gateway::Settings;
use tessera_api::language::{Choice, Draw, Generator, Sampling};
use tessera_api::{Error, Result};
use tessera_checkpoint::GenerationDefaults;

/// The reference keeps this many when it samples and nobody says otherwise.
const TOP_K: usize = 50;

/// Returns how tokens are chosen, and the seed in force.
///
/// # Errors
/// Names the setting that is out of its range.
pub(crate) fn sampling(settings: &Settings, checkpoint: &GenerationDefaults) -> Result<(Sampling, u64)> {
    let seed = settings.seed.unwrap_or_else(random);
    let repetition_penalty = or(settings.repetition_penalty, checkpoint.repetition_penalty, 1.0);
    let choice = match temperature(settings, checkpoint) {
        None => Choice::Greedy,
        Some(temperature) => {
            let top_k = settings.top_k.map(|k| k as usize).or(checkpoint.top_k).unwrap_or(TOP_K);
            Choice::Draw(Draw {
                temperature,
                top_k: NonZeroUsize::new(top_k),
                top_p: or(settings.top_p, checkpoint.top_p, 1.0),
                min_p: or(settings.min_p, checkpoint.min_p, 0.0),
                typical_p: 1.0,
                seed,
                generator: Generator::Counter,
            })
        }
    };
    Ok((Sampling { repetition_penalty, choice, ..Sampling::GREEDY }.check("settings")?, seed))
}

/// `None` is greedy.
fn temperature(settings: &Settings, checkpoint: &GenerationDefaults) -> Option<f32> {
    let asks = settings.top_k.is_some() || settings.top_p.is_some() || settings.min_p.is_some();
    let samples = asks || checkpoint.do_sample.unwrap_or(false);
    let otherwise = || samples.then(|| or(None, checkpoint.temperature, 1.0));
    settings.temperature.or_else(otherwise).filter(|temperature| *temperature != 0.0)
}

/// Returns how many new tokens there may be: never more than the context leaves.
///
/// # Errors
/// `Invalid`, with the numbers, when the prompt leaves no room.
pub(crate) fn max_new_tokens(
    settings: &Settings,
    checkpoint: &GenerationDefaults,
    default: usize,
    prompt: usize,
    context: usize,
) -> Result<NonZeroUsize> {
    let room = context.saturating_sub(prompt);
    let wanted = match (settings.max_tokens, checkpoint.max_new_tokens, checkpoint.max_length) {
        (Some(max), ..) => max as usize,
        (None, Some(max), _) => max,
        (None, None, Some(length)) => length.saturating_sub(prompt).max(1),
        (None, None, None) => default,
    };
    NonZeroUsize::new(wanted.min(room)).ok_or_else(|| {
        let message = format!("the prompt has {prompt} tokens, the context of {context} leaves no room for an answer");
        Error::field("PROMPT_TOO_LONG", "messages", message).with("prompt_tokens", prompt).with("context", context)
    })
}

/// The checkpoint's numbers are wider than the wire's.
fn or(request: Option<f32>, checkpoint: Option<f64>, default: f32) -> f32 {
    request.or(checkpoint.map(|value| value as f32)).unwrap_or(default)
}

/// A number that nobody can guess from the one before.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(settings: &Settings, checkpoint: &GenerationDefaults) -> Option<Draw> {
        match sampling(settings, checkpoint).unwrap().0.choice {
            Choice::Greedy => None,
            Choice::Draw(draw) => Some(draw),
        }
    }

    #[test]
    fn greedy_unless_somebody_says_otherwise() {
        let silent = GenerationDefaults::default();
        let samples = GenerationDefaults { do_sample: Some(true), temperature: Some(0.2), ..silent.clone() };
        let zero = Settings { temperature: Some(0.0), ..Settings::default() };
        let nucleus = Settings { top_p: Some(0.9), ..Settings::default() };
        assert_eq!(draw(&Settings::default(), &silent), None);
        assert_eq!(draw(&zero, &samples), None);
        assert_eq!(draw(&Settings::default(), &samples).unwrap().temperature, 0.2);
        let drawn = draw(&nucleus, &silent).unwrap();
        assert_eq!((drawn.temperature, drawn.top_p, drawn.top_k), (1.0, 0.9, NonZeroUsize::new(50)));
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let wrong = Settings { temperature: Some(1.0), top_p: Some(1.5), ..Settings::default() };
        let error = sampling(&wrong, &GenerationDefaults::default()).unwrap_err();
        assert_eq!(error.fields[0].field, "settings.top_p");
    }

    #[test]
    fn new_tokens_end_with_the_context() {
        let (none, file) = (GenerationDefaults::default(), |max_length| GenerationDefaults {
            max_length: Some(max_length),
            ..GenerationDefaults::default()
        });
        let (asked, silent) = (Settings { max_tokens: Some(50), ..Settings::default() }, Settings::default());
        let most = |settings, file: &_, prompt| max_new_tokens(settings, file, 20, prompt, 100).map(NonZeroUsize::get);
        assert_eq!(most(&asked, &none, 10), Ok(50));
        assert_eq!(most(&asked, &none, 70), Ok(30));
        assert_eq!(most(&silent, &none, 10), Ok(20));
        assert_eq!(most(&silent, &file(40), 10), Ok(30));
        assert_eq!(most(&asked, &none, 100).unwrap_err().reason, "PROMPT_TOO_LONG");
    }
}
