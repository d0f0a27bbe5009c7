//! The detokenizer against the tokenizer library.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use tessera_checkpoint::Checkpoint;
use tokenizers::Tokenizer;

use super::{FAMILIES, open, tiny};
use crate::{Prompter, Vocabulary};

static ALL: LazyLock<BTreeMap<&'static str, (Prompter, Tokenizer)>> = LazyLock::new(|| {
    let one = |family| (family, (open(family), Tokenizer::from_file(tiny(family).join("tokenizer.json")).unwrap()));
    FAMILIES.into_iter().map(one).collect()
});

/// Pushes ids one by one; every text but the last may not end in half a character.
fn streamed(prompter: &Prompter, ids: &[u32]) -> String {
    let mut detokenizer = prompter.detokenizer();
    let mut text = String::new();
    for &id in ids {
        text.push_str(&detokenizer.push(id));
    }
    text + &detokenizer.finish()
}

#[test]
fn characters_of_several_tokens_come_whole() {
    for (family, (prompter, tokenizer)) in ALL.iter() {
        for text in ["你好, 世界! 👩‍👩‍👧 naïve\n\nend", "😀", " two  spaces ", "\u{FFFD}\0"] {
            let encoding = tokenizer.encode(text, false).unwrap();
            let mut detokenizer = prompter.detokenizer();
            let mut pieces: Vec<String> = encoding.get_ids().iter().map(|&id| detokenizer.push(id)).collect();
            pieces.push(detokenizer.finish());
            if !text.contains('\u{FFFD}') {
                assert!(pieces.iter().all(|piece| !piece.contains('\u{FFFD}')), "{family}: {pieces:?}");
            }
            assert_eq!(pieces.concat(), tokenizer.decode(encoding.get_ids(), true).unwrap(), "{family}");
            assert_eq!(pieces.concat(), text, "{family}");
        }
    }
}

#[test]
fn ordinary_words_are_not_held_back() {
    for (family, (prompter, tokenizer)) in ALL.iter() {
        let encoding = tokenizer.encode("the image shows a cat", false).unwrap();
        let mut detokenizer = prompter.detokenizer();
        let shown: String = encoding.get_ids().iter().map(|&id| detokenizer.push(id)).collect();
        assert_eq!(shown, "the image shows a cat", "{family}");
    }
}

#[test]
fn special_and_unknown_ids_are_skipped() {
    for (family, (prompter, tokenizer)) in ALL.iter() {
        let mut ids = tokenizer.encode("a cat", false).unwrap().get_ids().to_vec();
        ids.splice(1..1, [prompter.image_token_id(), u32::MAX, u32::try_from(prompter.vocab_size()).unwrap()]);
        assert_eq!(streamed(prompter, &ids), "a cat", "{family}");
    }
}

#[test]
fn the_bytes_of_the_ids_make_the_text() {
    for (family, (prompter, tokenizer)) in ALL.iter() {
        let vocabulary = Vocabulary::open(&Checkpoint::open(&tiny(family)).unwrap()).unwrap();
        assert_eq!(vocabulary.size(), prompter.vocab_size());
        assert_eq!(vocabulary.bytes(prompter.image_token_id()), None, "{family}: special");
        assert_eq!(vocabulary.bytes(u32::try_from(vocabulary.size()).unwrap()), None, "{family}: unknown");
        for text in ["你好, 😀 naïve\n", " a cat", "  two", "the <0x41>"] {
            let encoding = tokenizer.encode(text, false).unwrap();
            let (first, rest) = encoding.get_ids().split_first().unwrap();
            let mut bytes = vocabulary.first_bytes(*first).unwrap().into_owned();
            rest.iter().for_each(|&id| bytes.extend_from_slice(vocabulary.bytes(id).unwrap()));
            assert_eq!(String::from_utf8(bytes).unwrap(), text, "{family}");
        }
    }
}

#[test]
fn a_detokenizer_can_be_used_again() {
    let (prompter, tokenizer) = &ALL["mistral"];
    let encoding = tokenizer.encode("a cat", false).unwrap();
    let mut detokenizer = prompter.detokenizer();
    for _ in 0..2 {
        let text: String = encoding.get_ids().iter().map(|&id| detokenizer.push(id)).collect();
        assert_eq!(text + &detokenizer.finish(), "a cat");
    }
}

proptest! {
    #[test]
    fn any_ids_stream_to_what_they_decode_to(ids in prop::collection::vec(0_u32..700, 0..60)) {
        for (prompter, tokenizer) in ALL.values() {
            let expected = tokenizer.decode(&ids, true).unwrap();
            prop_assert_eq!(streamed(prompter, &ids), expected.as_str());
            prop_assert_eq!(prompter.decode(&ids), expected);
        }
    }

    /// Ids of single bytes, in both kinds of vocabulary.
    #[test]
    fn bytes_stream_to_what_they_decode_to(ids in prop::collection::vec(0_u32..262, 0..30)) {
        for (prompter, tokenizer) in ALL.values() {
            prop_assert_eq!(streamed(prompter, &ids), tokenizer.decode(&ids, true).unwrap());
        }
    }

    #[test]
    fn any_text_comes_back(text in "[a-z 你好世界é😀👍🏽\n]{0,40}") {
        for (family, (prompter, tokenizer)) in ALL.iter() {
            let encoding = tokenizer.encode(text.as_str(), false).unwrap();
            let streamed = streamed(prompter, encoding.get_ids());
            prop_assert_eq!(&streamed, &tokenizer.decode(encoding.get_ids(), true).unwrap());
            // The normalizer of this family composes characters, which these texts already are.
            prop_assert_eq!(&streamed, &text, "{}", family);
        }
    }
}

#[test]
fn a_token_by_itself_keeps_its_space_and_a_special_one_its_name() {
    for (family, (prompter, tokenizer)) in ALL.iter() {
        let encoding = tokenizer.encode("the image shows a cat", false).unwrap();
        let texts: Vec<String> = encoding.get_ids().iter().map(|&id| prompter.token_text(id)).collect();
        assert_eq!(texts.concat().trim_start(), "the image shows a cat", "{family}");
        assert!(texts[1..].iter().any(|text| text.starts_with(' ')), "{family}: {texts:?}");
        assert_eq!(prompter.token_text(prompter.image_token_id()), "<image>", "{family}");
        assert_eq!(prompter.token_text(u32::MAX), "", "{family}");
    }
}
