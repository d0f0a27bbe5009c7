//! Ids to text, one id at a time.
//!
//! The reference decodes a whole answer at once. Decoding it id by id gives the same text only if state is carried
//! along: an id may hold part of a character, and the first piece of a text loses its leading space. Two kinds of
//! decoder are known, which cover the published checkpoints:
//!
//! * byte level (Llama 3, Qwen): every token is bytes, and the text is all bytes read as UTF-8, each ill-formed part
//!   becoming one U+FFFD;
//! * pieces (Llama 2, Mistral, Yi): tokens are text, but for `<0x0A>` and its like, which are bytes. A run of such
//!   bytes is text as a whole, or one U+FFFD for each of them as a whole, so a run is held back until it ends.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use tessera_checkpoint::Checkpoint;
use tokenizers::Tokenizer;

use crate::error::PromptError;
use crate::tokenizer;

/// What SentencePiece writes for a space.
const SPACE_MARK: char = '\u{2581}';

/// Text of every id, and the way to put texts together.
pub struct Vocabulary {
    /// Without special tokens.
    pieces: HashMap<u32, Piece>,
    assembly: Assembly,
    size: usize,
}

/// What one id stands for.
enum Piece {
    /// UTF-8 or, at byte level, any bytes.
    Bytes(Box<[u8]>),
    /// A byte token of the piece kind.
    Byte(u8),
}

#[derive(Clone, Debug, PartialEq)]
enum Assembly {
    ByteLevel,
    Pieces { replace: Vec<(String, String)>, byte_tokens: bool, start: Start },
}

/// What is cut from the beginning of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    Nothing,
    OneSpace,
    SpacesOfFirstToken,
}

/// Turns ids into text as they come.
///
/// All texts that [`Self::push`] and [`Self::finish`] return make, one after the other, exactly the text that decoding
/// all the ids at once makes. Special tokens and ids without a token are skipped.
#[derive(Clone)]
pub struct Detokenizer {
    vocabulary: Arc<Vocabulary>,
    pending: Vec<u8>,
    at_start: bool,
}

impl std::fmt::Debug for Detokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Detokenizer").field("pending", &self.pending).field("at_start", &self.at_start).finish()
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary").field("size", &self.size).field("assembly", &self.assembly).finish_non_exhaustive()
    }
}

impl Vocabulary {
    /// Reads the vocabulary of a checkpoint's `tokenizer.json`, and nothing else of its tokenizer.
    ///
    /// # Errors
    /// A file that is missing or no tokenizer; a decoder of neither kind.
    pub fn open(checkpoint: &Checkpoint) -> Result<Self, PromptError> {
        let (file, tokenizer) = tokenizer::read(&checkpoint.dir)?;
        Self::read(&tokenizer).map_err(|decoder| PromptError::UnsupportedDecoder { file, decoder })
    }

    /// Reads the vocabulary of `tokenizer`, or returns a decoder, as JSON, that is of neither kind.
    pub(crate) fn read(tokenizer: &Tokenizer) -> Result<Self, String> {
        let decoder = serde_json::to_value(tokenizer.get_decoder()).unwrap_or(Value::Null);
        let assembly = Assembly::read(&decoder).ok_or_else(|| decoder.to_string())?;
        let bytes = byte_level_bytes();
        let special = |token: &String| tokenizer.get_added_vocabulary().is_special_token(token);
        let piece = |id| {
            let token = tokenizer.id_to_token(id).filter(|token| !special(token))?;
            Some((id, assembly.piece(&token, &bytes)))
        };
        let ids: Vec<u32> = tokenizer.get_vocab(true).into_values().collect();
        let size = ids.iter().max().map_or(0, |&id| id as usize + 1);
        Ok(Self { pieces: ids.into_iter().filter_map(piece).collect(), size, assembly })
    }

    /// Returns the text of one ordinary token by itself.
    pub(crate) fn text(&self, id: u32) -> Option<String> {
        match self.pieces.get(&id)? {
            Piece::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Piece::Byte(byte) => Some(String::from_utf8_lossy(&[*byte]).into_owned()),
        }
    }

    /// Returns one more than the largest id.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the bytes that an id adds to a text behind its beginning: none for a special token or an id without a
    /// token. The bytes of all the ids, one after the other, are the text, if they are UTF-8.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        Some(match self.pieces.get(&id)? {
            Piece::Bytes(bytes) => bytes,
            Piece::Byte(byte) => std::slice::from_ref(byte),
        })
    }

    /// Returns the bytes that an id adds to a text at its beginning: those of [`Self::bytes`], but for the space that the
    /// first piece of a text loses. They may be none; the text has begun all the same.
    pub fn first_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        let bytes = self.bytes(id)?;
        let start = match self.assembly {
            Assembly::ByteLevel => Start::Nothing,
            Assembly::Pieces { start, .. } => start,
        };
        // Only a byte token may be less than a character, and that byte is no space.
        let Ok(text) = std::str::from_utf8(bytes) else { return Some(Cow::Borrowed(bytes)) };
        Some(match start.cut(text) {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        })
    }
}

impl Assembly {
    fn read(decoder: &Value) -> Option<Self> {
        match decoder["type"].as_str()? {
            "ByteLevel" => Some(Self::ByteLevel),
            "Metaspace" => {
                let start =
                    if decoder["prepend_scheme"] == "never" { Start::Nothing } else { Start::SpacesOfFirstToken };
                let replace = vec![(decoder["replacement"].as_str()?.to_owned(), " ".to_owned())];
                Some(Self::Pieces { replace, byte_tokens: false, start })
            }
            "Sequence" => Self::read_sequence(decoder["decoders"].as_array()?),
            _ => None,
        }
    }

    /// Replacements, then byte tokens, then everything in one, then one space off its beginning; each may be missing.
    fn read_sequence(decoders: &[Value]) -> Option<Self> {
        let mut rest = decoders;
        let mut replace = Vec::new();
        while let Some((first, others)) = rest.split_first()
            && first["type"] == "Replace"
        {
            replace.push((first["pattern"]["String"].as_str()?.to_owned(), first["content"].as_str()?.to_owned()));
            rest = others;
        }
        let mut next_is = |name: &str| match rest.split_first() {
            Some((first, others)) if first["type"] == name => {
                rest = others;
                Some(first)
            }
            _ => None,
        };
        let byte_tokens = next_is("ByteFallback").is_some();
        let fused = next_is("Fuse").is_some();
        let start = match next_is("Strip") {
            None => Start::Nothing,
            Some(strip) if fused && strip["content"] == " " && strip["stop"] == 0 => match strip["start"].as_u64()? {
                0 => Start::Nothing,
                1 => Start::OneSpace,
                _ => return None,
            },
            Some(_) => return None,
        };
        rest.is_empty().then_some(Self::Pieces { replace, byte_tokens, start })
    }

    fn piece(&self, token: &str, bytes: &HashMap<char, u8>) -> Piece {
        match self {
            Self::ByteLevel => {
                let known: Option<Vec<u8>> = token.chars().map(|character| bytes.get(&character).copied()).collect();
                Piece::Bytes(known.unwrap_or_else(|| token.as_bytes().to_vec()).into())
            }
            Self::Pieces { replace, byte_tokens, .. } => {
                let text = replace.iter().fold(token.to_owned(), |text, (from, to)| text.replace(from, to));
                match byte_token(&text).filter(|_| *byte_tokens) {
                    Some(byte) => Piece::Byte(byte),
                    None => Piece::Bytes(text.into_bytes().into()),
                }
            }
        }
    }
}

impl Start {
    /// Cuts it off the first piece of a text.
    fn cut(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::Nothing => Cow::Borrowed(text),
            Self::OneSpace => Cow::Borrowed(text.strip_prefix(' ').unwrap_or(text)),
            Self::SpacesOfFirstToken => Cow::Owned(text.replace(' ', "")),
        }
    }
}

impl Detokenizer {
    pub(crate) fn new(vocabulary: Arc<Vocabulary>) -> Self {
        Self { vocabulary, pending: Vec::new(), at_start: true }
    }

    /// Takes the next id and returns the text that is certain now: whole characters only, and possibly none.
    pub fn push(&mut self, id: u32) -> String {
        let vocabulary = Arc::clone(&self.vocabulary);
        match (&vocabulary.assembly, vocabulary.pieces.get(&id)) {
            (_, None) => String::new(),
            (_, Some(&Piece::Byte(byte))) => {
                self.pending.push(byte);
                String::new()
            }
            (Assembly::ByteLevel, Some(Piece::Bytes(bytes))) => {
                self.pending.extend_from_slice(bytes);
                self.take_characters()
            }
            (Assembly::Pieces { start, .. }, Some(Piece::Bytes(bytes))) => {
                let mut text = self.take_run();
                text.push_str(&String::from_utf8_lossy(bytes));
                self.cut_start(*start, text)
            }
        }
    }

    /// Returns the text of what was held back, when no more ids come, and is ready for another text.
    pub fn finish(&mut self) -> String {
        let vocabulary = Arc::clone(&self.vocabulary);
        let text = match &vocabulary.assembly {
            Assembly::ByteLevel => String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned(),
            Assembly::Pieces { start, .. } => {
                let run = self.take_run();
                self.cut_start(*start, run)
            }
        };
        self.at_start = true;
        text
    }

    /// Takes all but an incomplete last character off the pending bytes.
    fn take_characters(&mut self) -> String {
        let complete = match self.pending.utf8_chunks().last() {
            // A chunk that is ill-formed because more must follow may still become a character.
            Some(chunk) if is_incomplete(chunk.invalid()) => self.pending.len() - chunk.invalid().len(),
            _ => self.pending.len(),
        };
        let rest = self.pending.split_off(complete);
        String::from_utf8_lossy(&std::mem::replace(&mut self.pending, rest)).into_owned()
    }

    /// Takes a run of byte tokens, which has ended.
    fn take_run(&mut self) -> String {
        let run = std::mem::take(&mut self.pending);
        let length = run.len();
        String::from_utf8(run).unwrap_or_else(|_| "\u{FFFD}".repeat(length))
    }

    fn cut_start(&mut self, start: Start, text: String) -> String {
        if !self.at_start || text.is_empty() {
            return text;
        }
        self.at_start = false;
        start.cut(&text).into_owned()
    }
}

/// Says whether the bytes are the beginning of a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// The byte of a token like `<0x0A>`.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// The characters that stand for bytes at byte level, as GPT-2 chose them: printable Latin-1 for itself, and the others
/// in order from U+0100 on.
fn byte_level_bytes() -> HashMap<char, u8> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let shifted = (0..=u8::MAX).filter(|byte| !printable(byte)).zip('\u{100}'..);
    let same = (0..=u8::MAX).filter(printable).map(|byte| (char::from(byte), byte));
    same.chain(shifted.map(|(byte, character)| (character, byte))).collect()
}

/// Says whether a character is a space to a reader of pieces.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || character == SPACE_MARK
}
