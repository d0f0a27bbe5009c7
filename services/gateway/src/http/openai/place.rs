//! Log-probabilities, in the two forms that OpenAI's API has for them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use tessera_api::gateway::{Logprobs, TokenLogprob};
use tessera_prompt::Prompter;

/// Log-probabilities of new tokens of a conversation.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChatPlaces {
    /// One for every token.
    pub(super) content: Vec<ChatPlace>,
    /// Always null: refusals are content.
    refusal: Option<Vec<ChatPlace>>,
}

/// A token, and what else was likely at its place.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChatPlace {
    /// The token that stands there.
    #[serde(flatten)]
    chosen: ChatToken,
    /// Likeliest first.
    top_logprobs: Vec<ChatToken>,
}

/// A token.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ChatToken {
    /// By itself, its space included; U+FFFD for part of a character, the name of a special token.
    token: String,
    /// Natural logarithm of its probability, as the model gives it before any setting is applied.
    logprob: f32,
    /// Its bytes: together those of several tokens may be a character.
    bytes: Vec<u8>,
}

/// Log-probabilities of new tokens of a continuation.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct TextPlaces {
    /// The tokens by themselves.
    tokens: Vec<String>,
    /// Natural logarithms of their probabilities, as the model gives them before any setting is applied.
    token_logprobs: Vec<f32>,
    /// The same of the likeliest tokens at each place; of tokens with the same text, the likelier one.
    top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Where each token begins, in characters of all tokens that came before.
    text_offset: Vec<usize>,
}

/// Writes places of a conversation's answer.
pub(super) fn chat_places(prompter: &Prompter, places: &[Logprobs]) -> ChatPlaces {
    let token = |token: &TokenLogprob| ChatToken {
        token: token.text.clone(),
        logprob: token.logprob,
        bytes: prompter.token_bytes(token.token_id),
    };
    let place = |place: &Logprobs| ChatPlace {
        chosen: token(&place.chosen),
        top_logprobs: place.likeliest.iter().map(token).collect(),
    };
    ChatPlaces { content: places.iter().map(place).collect(), refusal: None }
}

/// Writes places of a continuation that come behind so many characters.
pub(super) fn text_places(places: &[Logprobs], mut before: usize) -> TextPlaces {
    let mut written = TextPlaces::default();
    for Logprobs { chosen, likeliest } in places {
        written.tokens.push(chosen.text.clone());
        written.token_logprobs.push(chosen.logprob);
        // The likeliest comes last, and stays.
        let likeliest = likeliest.iter().rev().map(|token| (token.text.clone(), token.logprob));
        written.top_logprobs.push(likeliest.collect());
        written.text_offset.push(before);
        before += characters(chosen);
    }
    written
}

/// Characters of the tokens at these places.
pub(super) fn length(places: &[Logprobs]) -> usize {
    places.iter().map(|place| characters(&place.chosen)).sum()
}

fn characters(token: &TokenLogprob) -> usize {
    token.text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(token_id: u32, text: &str, logprob: f32) -> TokenLogprob {
        TokenLogprob { token_id, text: text.into(), logprob }
    }

    #[test]
    fn places_of_a_continuation_are_four_lists() {
        let places = [
            Logprobs { chosen: token(1, " é", -0.5), likeliest: vec![token(2, "a", -0.25), token(3, "a", -0.75)] },
            Logprobs { chosen: token(4, "b", -1.0), likeliest: vec![] },
        ];
        let written = serde_json::to_value(text_places(&places, 3)).unwrap();
        assert_eq!(
            written,
            serde_json::json!({
                "tokens": [" é", "b"],
                "token_logprobs": [-0.5, -1.0],
                "top_logprobs": [{"a": -0.25}, {}],
                "text_offset": [3, 5],
            })
        );
        assert_eq!(length(&places), 3);
    }
}
