//! The checkpoint's tokenizer: `tokenizer.json` as it is, and what `tokenizer_config.json` says about it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::{
    Encoding, Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PostProcessorWrapper,
    PreTokenizedString, PreTokenizer, Tokenizer,
};

use crate::error::{PromptError, TokenizerError};
use crate::shield::{Guard, Shield};

const TOKENIZER_FILE: &str = "tokenizer.json";
const CONFIG_FILE: &str = "tokenizer_config.json";

/// Special tokens that templates know by these names.
const TEMPLATE_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];

/// A tokenizer for prompts.
pub(crate) struct PromptTokenizer {
    inner: Tokenizer,
    guard: Guard,
    /// Special tokens by the names that templates know.
    special_tokens: BTreeMap<String, String>,
    image_token: String,
    image_token_id: u32,
}

impl PromptTokenizer {
    /// Reads the tokenizer of a checkpoint; `image_token` is the processor's name for it.
    pub(crate) fn open(dir: &Path, image_token: &str) -> Result<Self, PromptError> {
        let (file, mut inner) = read(dir)?;
        let invalid = |source: TokenizerError| PromptError::InvalidTokenizer { file: file.clone(), source };
        // A file may hold the settings of whoever saved it; prompts are neither cut nor filled up.
        inner.with_padding(None).with_truncation(None).map_err(invalid)?;

        let config_file = dir.join(CONFIG_FILE);
        let config = read_json(&config_file)?.unwrap_or_default();
        let special_tokens: BTreeMap<String, String> = TEMPLATE_TOKENS
            .iter()
            .filter_map(|&name| token_text(config.get(name)).map(|text| (name.to_owned(), text)))
            .collect();
        if let Some(processor) = bos_and_eos(&inner, &config_file, &config, &special_tokens)? {
            inner.with_post_processor(Some(processor));
        }

        // The tokenizer's own name for the image token goes before the processor's.
        let own = token_text(config.get("image_token"))
            .or_else(|| token_text(config.get("extra_special_tokens")?.get("image_token")));
        let image_token = own.unwrap_or_else(|| image_token.to_owned());
        let image_token_id = *inner.get_added_vocabulary().get_vocab().get(&image_token).ok_or_else(|| {
            PromptError::UnknownToken { file: file.clone(), key: "image_token", token: image_token.clone() }
        })?;
        let added = inner.get_added_tokens_decoder();
        let guarded = added.values().filter(|token| token.special || token.content == image_token);
        let guard = Guard::new(guarded.map(|token| token.content.as_str()), &|character| normalize(&inner, character));
        Ok(Self { guard, special_tokens, image_token, image_token_id, inner })
    }

    pub(crate) fn inner(&self) -> &Tokenizer {
        &self.inner
    }

    pub(crate) fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.special_tokens
    }

    pub(crate) fn image_token(&self) -> &str {
        &self.image_token
    }

    pub(crate) fn image_token_id(&self) -> u32 {
        self.image_token_id
    }

    /// Returns a shield for these texts, if they could spell special tokens.
    pub(crate) fn shield(&self, texts: &[&str], template: &str) -> Result<Option<Shield>, PromptError> {
        self.guard.shield(texts, template, &|character| normalize(&self.inner, character))
    }

    /// Tokenises a rendered prompt. Start and end tokens are added as the tokenizer says, unless the text already starts
    /// with the start token.
    pub(crate) fn encode(&self, rendered: &str) -> Result<Vec<u32>, PromptError> {
        self.encode_text(rendered, self.adds_special_tokens(rendered))
    }

    /// Tokenises a plain prompt. Start and end tokens are added as the tokenizer says.
    pub(crate) fn encode_plain(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        self.encode_text(text, true)
    }

    fn encode_text(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, PromptError> {
        let encoding = self.inner.encode_fast(text, add_special_tokens);
        Ok(encoding.map_err(|source| PromptError::Encode { source })?.get_ids().to_vec())
    }

    /// Tokenises a prompt that was rendered with a shield.
    pub(crate) fn encode_shielded(&self, rendered: &str, shield: &Shield) -> Result<Vec<u32>, PromptError> {
        let text = self.find_special_tokens(rendered);
        let encoding = self.encode_rest(text, shield, self.adds_special_tokens(rendered));
        Ok(encoding.map_err(|source| PromptError::Encode { source })?.get_ids().to_vec())
    }

    /// Returns the special tokens in a rendered prompt, in order.
    pub(crate) fn special_tokens_in(&self, rendered: &str) -> Vec<u32> {
        let text = self.find_special_tokens(rendered);
        let parts = text.get_splits(OffsetReferential::Normalized, OffsetType::None);
        parts.into_iter().filter_map(|(_, _, tokens)| tokens.as_ref()).flatten().map(|token| token.id).collect()
    }

    fn adds_special_tokens(&self, rendered: &str) -> bool {
        !self.special_tokens.get("bos_token").is_some_and(|bos| rendered.starts_with(bos.as_str()))
    }

    /// The first step of `encode_fast`.
    fn find_special_tokens(&self, rendered: &str) -> PreTokenizedString {
        self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), rendered)
    }

    /// The other steps of `encode_fast`, with the stand-ins replaced back in front of them.
    fn encode_rest(
        &self,
        mut text: PreTokenizedString,
        shield: &Shield,
        add_special_tokens: bool,
    ) -> Result<Encoding, TokenizerError> {
        text.normalize(|part| {
            part.map(|character| shield.lower(character));
            Ok(())
        })?;
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut text)?;
        }
        self.inner.get_model().tokenize_in_pretokenized(&mut text, None)?;
        self.inner.post_process(text.into_encoding(None, 0, OffsetType::None)?, None, add_special_tokens)
    }
}

/// Reads the tokenizer of a checkpoint as it is, and names its file.
pub(crate) fn read(dir: &Path) -> Result<(PathBuf, Tokenizer), PromptError> {
    let file = dir.join(TOKENIZER_FILE);
    let bytes = std::fs::read(&file).map_err(|source| PromptError::Unreadable { file: file.clone(), source })?;
    let tokenizer =
        Tokenizer::from_bytes(&bytes).map_err(|source| PromptError::InvalidTokenizer { file: file.clone(), source })?;
    Ok((file, tokenizer))
}

/// Reads a JSON object from a file that may be missing.
pub(crate) fn read_json(file: &Path) -> Result<Option<Map<String, Value>>, PromptError> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(PromptError::Unreadable { file: file.to_path_buf(), source }),
    };
    let object = serde_json::from_slice(&bytes);
    object.map(Some).map_err(|source| PromptError::NotJson { file: file.to_path_buf(), source })
}

/// What the normalizer makes of one character.
fn normalize(tokenizer: &Tokenizer, character: char) -> String {
    let mut text = NormalizedString::from(character.to_string());
    match tokenizer.get_normalizer().map(|normalizer| normalizer.normalize(&mut text)) {
        Some(Ok(())) => text.get().to_owned(),
        _ => character.to_string(),
    }
}

/// A token is written as its text or as an object with it.
fn token_text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Object(token) => token.get("content")?.as_str().map(str::to_owned),
        _ => None,
    }
}

/// If `tokenizer_config.json` mentions `add_bos_token` or `add_eos_token`, these two alone decide what is added; if not,
/// `tokenizer.json` does.
fn bos_and_eos(
    tokenizer: &Tokenizer,
    file: &Path,
    config: &Map<String, Value>,
    special_tokens: &BTreeMap<String, String>,
) -> Result<Option<PostProcessorWrapper>, PromptError> {
    let keys = [("add_bos_token", "bos_token"), ("add_eos_token", "eos_token")];
    if !keys.iter().any(|(flag, _)| config.contains_key(*flag)) {
        return Ok(None);
    }
    let mut added = [None, None];
    let mut known = Map::new();
    for ((flag, key), slot) in keys.into_iter().zip(&mut added) {
        let wanted = match config.get(flag) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(wanted)) => *wanted,
            Some(other) => {
                let value = other.to_string();
                let expected = "true or false";
                return Err(PromptError::InvalidValue { file: file.to_path_buf(), key: flag, value, expected });
            }
        };
        if !wanted {
            continue;
        }
        let token = special_tokens.get(key).cloned().unwrap_or_default();
        let id = tokenizer.token_to_id(&token).ok_or_else(|| PromptError::UnknownToken {
            file: file.to_path_buf(),
            key,
            token: token.clone(),
        })?;
        known.insert(token.clone(), json!({"id": &token, "ids": [id], "tokens": [&token]}));
        *slot = Some(json!({"SpecialToken": {"id": token, "type_id": 0}}));
    }
    let [bos, eos] = added;
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let single: Vec<Value> = bos.into_iter().chain([sequence("A")]).chain(eos).collect();
    let pair: Vec<Value> = single.iter().cloned().chain([sequence("B")]).collect();
    let processor = json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known});
    serde_json::from_value(processor)
        .map(Some)
        .map_err(|source| PromptError::NotJson { file: file.to_path_buf(), source })
}
