//! The tokenizer as llguidance wants it: a trie of what the ids add to the text.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::earley::{BiasComputer, SlicedBiasComputer};
use tessera_prompt::Vocabulary;
use toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

/// Longest text of one token, in bytes: a trie has no room for more. An answer spells such a text with other tokens.
const MAX_TOKEN_BYTES: usize = 1000;

/// How llguidance spells the end of an answer. It stands for all the end tokens of a request, which differ between
/// requests, so the row behind the vocabulary is taken for it.
const END: &[u8] = b"\xff<end>";

/// The ids and what they add to an answer: at its beginning, where a space may be cut off, and behind it.
pub(super) struct Tokens {
    /// Rows of the model's vocabulary.
    pub(super) vocabulary: usize,
    /// The row behind them, which stands for any end token.
    pub(super) end: u32,
    pub(super) factory: ParserFactory,
    pub(super) first: Place,
    pub(super) next: Place,
    /// Ids that begin an answer without adding text to it.
    pub(super) silent: Vec<u32>,
    /// A bit for every id that adds text somewhere: no other is ever allowed, whatever a grammar says.
    pub(super) speaking: Vec<u32>,
}

/// What the parser is given for one place of an answer.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) env: TokEnv,
    pub(super) bias: Arc<dyn BiasComputer>,
}

/// A trie without a tokenizer: the model decides how to spell what a grammar demands.
struct Trie(TokTrie);

impl TokenizerEnv for Trie {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, text: &[u8]) -> Vec<u32> {
        self.0.greedy_tokenize(text)
    }

    /// Greedy is not how the tokenizer does it, and SentencePiece has no spelling of a text without what is around it.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

impl Tokens {
    /// Builds the tries; `silenced` is an id that is never an answer's (the image token).
    pub(super) fn new(
        texts: &Vocabulary,
        vocabulary: usize,
        silenced: u32,
        limits: ParserLimits,
    ) -> Result<Self, anyhow::Error> {
        let end = u32::try_from(vocabulary)?;
        let usable = |id: u32, bytes: &[u8]| {
            let marker = bytes.len() > 1 && bytes[0] == TokTrie::SPECIAL_TOKEN_MARKER;
            id != silenced && bytes.len() <= MAX_TOKEN_BYTES && !marker
        };
        let (mut first, mut next) = (Vec::with_capacity(vocabulary + 1), Vec::with_capacity(vocabulary + 1));
        let (mut silent, mut speaking) = (Vec::new(), vec![0; vocabulary.div_ceil(32)]);
        for id in 0..end {
            let bytes = texts.bytes(id).filter(|bytes| usable(id, bytes)).unwrap_or_default();
            let first_bytes = texts.first_bytes(id).filter(|_| !bytes.is_empty()).unwrap_or_default();
            if !bytes.is_empty() {
                speaking[id as usize / 32] |= 1 << (id % 32);
                if first_bytes.is_empty() {
                    silent.push(id);
                }
            }
            first.push(first_bytes.into_owned());
            next.push(bytes.to_vec());
        }
        let env = |mut words: Vec<Vec<u8>>| -> TokEnv {
            words.push(END.to_vec());
            Arc::new(Trie(TokTrie::from(&TokRxInfo::new(end + 1, end), &words)))
        };
        let same = first == next;
        let next_env = env(next);
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&next_env, InferenceCapabilities::default(), &slices)?;
        *factory.quiet().limits_mut() = limits;
        let next = Place { env: next_env, bias: factory.slicer() };
        let first = if same {
            next.clone()
        } else {
            // Used once an answer: not worth the memory of slices.
            let env = env(first);
            Place { bias: Arc::new(SlicedBiasComputer::new(&env, &[])?), env }
        };
        Ok(Self { vocabulary, end, factory, first, next, silent, speaking })
    }

    /// Says whether an id adds text somewhere.
    pub(super) fn speaks(&self, id: u32) -> bool {
        self.speaking.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }
}
