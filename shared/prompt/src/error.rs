//! What can be wrong with a tokenizer, a template or a conversation.

use std::path::PathBuf;

/// What the tokenizer library reports.
pub(crate) type TokenizerError = Box<dyn std::error::Error + Send + Sync>;

/// A problem with the files of a checkpoint or with a conversation.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// A file cannot be read.
    #[error("cannot read {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("{} is not valid", file.display())]
    NotJson {
        /// The file.
        file: PathBuf,
        /// Where it stops being so.
        source: serde_json::Error,
    },
    /// A key holds a value of the wrong kind.
    #[error("{}: {key} is {value}, expected {expected}", file.display())]
    InvalidValue {
        /// The file.
        file: PathBuf,
        /// The key.
        key: &'static str,
        /// The value as it stands in the file.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// `tokenizer.json` is no tokenizer.
    #[error("{} is not a tokenizer", file.display())]
    InvalidTokenizer {
        /// The file.
        file: PathBuf,
        /// What the library says.
        source: TokenizerError,
    },
    /// The tokenizer's decoder cannot be run incrementally.
    #[error("{}: decoder {decoder} is not supported", file.display())]
    UnsupportedDecoder {
        /// The file.
        file: PathBuf,
        /// The decoder as JSON.
        decoder: String,
    },
    /// A token that the configuration names is not in the vocabulary.
    #[error("{}: {key} is {token:?}, which the tokenizer does not know as a token", file.display())]
    UnknownToken {
        /// The file that names it.
        file: PathBuf,
        /// The key.
        key: &'static str,
        /// The token.
        token: String,
    },
    /// Tokenizer and model give the image token different ids.
    #[error("image token {token:?} has id {tokenizer} in the tokenizer, but the model's image token id is {model}")]
    ImageTokenId {
        /// The token.
        token: String,
        /// Its id in the tokenizer.
        tokenizer: u32,
        /// `image_token_index` of the model.
        model: u32,
    },
    /// None of the three places has a chat template.
    #[error("{} has no chat template in processor_config.json, chat_template.json or chat_template.jinja", dir.display())]
    NoTemplate {
        /// The checkpoint.
        dir: PathBuf,
    },
    /// The chat template cannot be compiled.
    #[error("the chat template of {} cannot be compiled", file.display())]
    InvalidTemplate {
        /// The file that it comes from.
        file: PathBuf,
        /// What the template engine says.
        source: minijinja::Error,
    },
    /// A conversation without messages.
    #[error("the conversation has no messages")]
    NoMessages,
    /// A plain prompt of which no token is made.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// A message without content.
    #[error("message {index} has no content")]
    EmptyMessage {
        /// Its position in the conversation, from 0.
        index: usize,
    },
    /// The chat template refuses the conversation in its own words.
    #[error("the chat template refuses the conversation: {message}")]
    Refused {
        /// Those words.
        message: String,
    },
    /// The chat template fails.
    #[error("the chat template fails")]
    Render {
        /// What the template engine says.
        source: minijinja::Error,
    },
    /// The chat template takes more work or makes more text than one prompt may.
    #[error("the rendered prompt takes more than {limit} units of work, 64 bytes each")]
    TooLong {
        /// The limit.
        limit: u64,
    },
    /// The texts use up every character that could shield a special token in them.
    #[error("the conversation spells special tokens and leaves no unused private character to shield them with")]
    NoShield,
    /// The prompt has another number of images than it should.
    #[error("the prompt has {placeholders} image placeholders for {images} images")]
    ImageCount {
        /// Placeholders in the rendered prompt.
        placeholders: usize,
        /// Images of the request.
        images: usize,
    },
    /// The tokenizer fails.
    #[error("the tokenizer fails")]
    Encode {
        /// What the library says.
        source: TokenizerError,
    },
}

impl PromptError {
    /// Returns a stable name for the kind of problem. Those that start with `PROMPT_` are the conversation's fault, the
    /// others the checkpoint's.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } | Self::NotJson { .. } | Self::InvalidValue { .. } => "CHECKPOINT_FILE_INVALID",
            Self::InvalidTokenizer { .. }
            | Self::UnsupportedDecoder { .. }
            | Self::UnknownToken { .. }
            | Self::ImageTokenId { .. }
            | Self::Encode { .. } => "CHECKPOINT_TOKENIZER_INVALID",
            Self::NoTemplate { .. } | Self::InvalidTemplate { .. } | Self::Render { .. } => {
                "CHECKPOINT_TEMPLATE_INVALID"
            }
            Self::NoMessages | Self::EmptyPrompt | Self::EmptyMessage { .. } => "PROMPT_EMPTY",
            Self::Refused { .. } => "PROMPT_REFUSED_BY_TEMPLATE",
            Self::TooLong { .. } | Self::NoShield => "PROMPT_TOO_LONG",
            Self::ImageCount { .. } => "PROMPT_IMAGE_COUNT",
        }
    }
}
