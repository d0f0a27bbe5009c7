//! From a conversation or a plain prompt to ids, and back to text.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use tessera_checkpoint::Checkpoint;

use crate::detokenizer::{Detokenizer, Vocabulary};
use crate::error::PromptError;
use crate::message::{Message, Part};
use crate::template::ChatTemplate;
use crate::tokenizer::PromptTokenizer;

/// The tokenizer and chat template of one checkpoint. Threads may share it; put it in an [`Arc`].
pub struct Prompter {
    tokenizer: PromptTokenizer,
    template: ChatTemplate,
    vocabulary: Arc<Vocabulary>,
}

/// A prompt that is ready for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The ids, with the image token's id once per image token.
    pub ids: Vec<u32>,
    /// Where each image stands in `ids`, in order.
    pub images: Vec<Range<usize>>,
}

impl Prompter {
    /// Reads `tokenizer.json`, `tokenizer_config.json` and the chat template of a checkpoint.
    ///
    /// # Errors
    /// A file that is missing or invalid; no chat template; an image token that the tokenizer does not know, or knows
    /// by another id than the model.
    pub fn open(checkpoint: &Checkpoint) -> Result<Self, PromptError> {
        let dir = &checkpoint.dir;
        let tokenizer = PromptTokenizer::open(dir, &checkpoint.processor.image_token)?;
        let (id, model) = (tokenizer.image_token_id(), checkpoint.model.image_token_id);
        if id != model {
            let token = tokenizer.image_token().to_owned();
            return Err(PromptError::ImageTokenId { token, tokenizer: id, model });
        }
        let template = ChatTemplate::open(dir, tokenizer.special_tokens().clone())?;
        let vocabulary = Vocabulary::read(tokenizer.inner())
            .map_err(|decoder| PromptError::UnsupportedDecoder { file: dir.join("tokenizer.json"), decoder })?;
        Ok(Self { tokenizer, template, vocabulary: Arc::new(vocabulary) })
    }

    /// Renders a conversation as the model sees it, up to where its answer begins. The text is for people: in it a
    /// special token that a user spelled looks like any other.
    ///
    /// # Errors
    /// An empty conversation or message; a template that refuses, fails or runs too long.
    pub fn render(&self, messages: &[Message]) -> Result<String, PromptError> {
        check(messages)?;
        self.template.render(messages, Cow::Borrowed)
    }

    /// Makes ids of a conversation. `image_tokens` holds the number of image tokens of each image, in the order in which
    /// the images stand in the conversation.
    ///
    /// # Errors
    /// Those of [`Self::render`]; another number of placeholders in the rendered text than of images.
    pub fn prompt(&self, messages: &[Message], image_tokens: &[usize]) -> Result<Prompt, PromptError> {
        let rendered = self.render(messages)?;
        let texts: Vec<&str> = messages.iter().flat_map(Message::texts).collect();
        if let Some(shield) = self.tokenizer.shield(&texts, self.template.source())? {
            let shielded = self.template.render(messages, |text| shield.raise(text))?;
            if self.tokenizer.special_tokens_in(&shielded) != self.tokenizer.special_tokens_in(&rendered) {
                return self.expand(&self.tokenizer.encode_shielded(&shielded, &shield)?, image_tokens);
            }
        }
        self.expand(&self.tokenizer.encode(&rendered)?, image_tokens)
    }

    /// Makes ids of a plain prompt, without a template: its texts as one, with the image token where an image stands. A text
    /// that spells a special token is that token, and start and end tokens are added as the tokenizer says, whatever the
    /// text begins with: what the reference's processor makes of a text. `image_tokens` is as for [`Self::prompt`].
    ///
    /// # Errors
    /// A prompt without a token; a text that spells the image token.
    pub fn plain(&self, parts: &[Part], image_tokens: &[usize]) -> Result<Prompt, PromptError> {
        let piece = |part| match part {
            &Part::Image => self.tokenizer.image_token(),
            Part::Text(text) => text,
        };
        let text: String = parts.iter().map(piece).collect();
        let ids = self.tokenizer.encode_plain(&text)?;
        if ids.is_empty() { Err(PromptError::EmptyPrompt) } else { self.expand(&ids, image_tokens) }
    }

    /// Returns a detokenizer for one answer.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.vocabulary))
    }

    /// Returns the text of these ids, special tokens skipped.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut detokenizer = self.detokenizer();
        let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        text.push_str(&detokenizer.finish());
        text
    }

    /// Returns the text of these ids with the names of special tokens in it, as the reference decodes a prompt.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn decode_all(&self, ids: &[u32]) -> Result<String, PromptError> {
        self.tokenizer.inner().decode(ids, false).map_err(|source| PromptError::Encode { source })
    }

    /// Returns the text of one token by itself, its space included: U+FFFD for part of a character, the name of a special
    /// token, nothing for an id without a token.
    pub fn token_text(&self, id: u32) -> String {
        let special = || self.tokenizer.inner().id_to_token(id).unwrap_or_default();
        self.vocabulary.text(id).unwrap_or_else(special)
    }

    /// Returns the bytes of one token by itself, its space included: the name of a special token, nothing for an id without
    /// a token.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.vocabulary.bytes(id).map_or_else(|| self.token_text(id).into_bytes(), <[u8]>::to_vec)
    }

    /// Returns one more than the tokenizer's largest id; the model's embedding table may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.size()
    }

    /// Returns the text of the image token.
    pub fn image_token(&self) -> &str {
        self.tokenizer.image_token()
    }

    /// Returns the id of the image token.
    pub fn image_token_id(&self) -> u32 {
        self.tokenizer.image_token_id()
    }

    /// Repeats each placeholder's id once per image token.
    fn expand(&self, ids: &[u32], image_tokens: &[usize]) -> Result<Prompt, PromptError> {
        let image_token_id = self.tokenizer.image_token_id();
        let placeholders = ids.iter().filter(|&&id| id == image_token_id).count();
        if placeholders != image_tokens.len() {
            return Err(PromptError::ImageCount { placeholders, images: image_tokens.len() });
        }
        let mut prompt = Prompt { ids: Vec::with_capacity(ids.len()), images: Vec::with_capacity(placeholders) };
        let mut counts = image_tokens.iter();
        for &id in ids {
            match counts.as_slice().first().filter(|_| id == image_token_id) {
                None => prompt.ids.push(id),
                Some(&count) => {
                    counts.next();
                    let start = prompt.ids.len();
                    prompt.ids.resize(start + count, image_token_id);
                    prompt.images.push(start..start + count);
                }
            }
        }
        Ok(prompt)
    }
}

impl std::fmt::Debug for Prompter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prompter").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

fn check(messages: &[Message]) -> Result<(), PromptError> {
    if messages.is_empty() {
        return Err(PromptError::NoMessages);
    }
    match messages.iter().position(|message| message.content.is_empty()) {
        Some(index) => Err(PromptError::EmptyMessage { index }),
        None => Ok(()),
    }
}
