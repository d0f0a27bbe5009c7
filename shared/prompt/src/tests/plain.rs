//! Prompts without a template: against the reference's processor.

use std::path::Path;

use serde_json::Value;
use tessera_anyres::ImageSize;
use tessera_checkpoint::Checkpoint;

use super::{open, tiny};
use crate::{Part, PromptError};

/// What `tests/fixtures/make_prompts.py` made.
fn fixture() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/prompts.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn parts(case: &Value) -> Vec<Part> {
    let texts: Vec<Option<String>> = serde_json::from_value(case["parts"].clone()).unwrap();
    texts.into_iter().map(|text| text.map_or(Part::Image, Part::Text)).collect()
}

#[test]
fn plain_prompts_are_those_of_the_reference() {
    let fixture = fixture();
    let (height, width) = serde_json::from_value(fixture["image_size"].clone()).unwrap();
    let cases = fixture["cases"].as_array().unwrap();
    assert!(cases.len() > 60);
    for case in cases {
        let family = case["family"].as_str().unwrap();
        let geometry = Checkpoint::open(&tiny(family)).unwrap().geometry();
        let tokens = geometry.plan(ImageSize { height, width }).image_tokens();
        let (prompter, parts) = (open(family), parts(case));
        let images = parts.iter().filter(|part| **part == Part::Image).count();
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        match prompter.plain(&parts, &vec![tokens; images]) {
            Ok(prompt) => {
                assert_eq!((prompt.ids, prompt.images.len()), (ids, images), "{family} {:?}", case["parts"]);
            }
            // The reference goes on with nothing, from which no model can.
            Err(PromptError::EmptyPrompt) => assert!(ids.is_empty(), "{family} {:?}", case["parts"]),
            Err(error) => panic!("{family} {:?}: {error}", case["parts"]),
        }
    }
}

#[test]
fn a_text_that_spells_the_image_token_is_an_image_that_nobody_gave() {
    let prompter = open("mistral");
    let text = |text: &str| Part::Text(text.into());
    let token = prompter.image_token();
    for parts in [vec![text(&format!("a {token}"))], vec![Part::Image, text(token)]] {
        let images = parts.iter().filter(|part| **part == Part::Image).count();
        let error = prompter.plain(&parts, &vec![4; images]).unwrap_err();
        assert_eq!(error.reason(), "PROMPT_IMAGE_COUNT", "{error}");
    }
}

#[test]
fn how_a_text_is_cut_into_parts_makes_no_difference() {
    let prompter = open("llama3");
    let text = |text: &str| Part::Text(text.into());
    let whole = prompter.plain(&[text("What is <|eot_id|>")], &[]).unwrap();
    assert_eq!(prompter.plain(&[text("Wh"), text("at is <|eo"), text("t_id|>")], &[]).unwrap(), whole);
}

#[test]
fn a_prompt_is_decoded_with_its_special_tokens() {
    let prompter = open("llama3");
    let text = "<|start_header_id|>user<|end_header_id|>\n\nWhat?";
    let prompt = prompter.plain(&[Part::Text(text.into())], &[]).unwrap();
    assert_eq!(prompter.decode_all(&prompt.ids).unwrap(), format!("<|begin_of_text|>{text}"));
    assert_eq!(prompter.token_bytes(prompt.ids[0]), b"<|begin_of_text|>");
    let bytes: Vec<u8> = prompt.ids.iter().flat_map(|&id| prompter.token_bytes(id)).collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), format!("<|begin_of_text|>{text}"));
}
