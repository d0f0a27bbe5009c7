//! Prompts, ids and texts of the reference.

use serde_json::Value;
use tessera_anyres::ImageSize;
use tessera_checkpoint::Checkpoint;

use super::{FAMILIES, message, open, tiny, user};
use crate::{Message, Part, Role};

/// The conversations of each golden case; a batch has several.
fn cases() -> Vec<(&'static str, Vec<Vec<Message>>)> {
    let question = "What is shown in this image?";
    let two_turns = vec![user(1, question), message(Role::Assistant, 0, "a cat"), user(0, "What color?")];
    vec![
        ("one_image", vec![vec![user(1, question)]]),
        ("portrait", vec![vec![user(1, "Describe the image.")]]),
        ("two_images", vec![vec![user(2, "Compare these two images and describe the differences.")]]),
        ("two_turns", vec![two_turns]),
        ("text_only", vec![vec![user(0, "What is shown?")]]),
        ("batch", vec![vec![user(1, "Describe the image.")], vec![user(1, "What is shown in this image? 你好")]]),
    ]
}

fn golden(family: &str, case: &str) -> Value {
    let file = tiny(family).join("golden").join(format!("{case}.json"));
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The ids of one row without the padding on its left.
fn unpadded(golden: &Value, row: usize) -> Vec<u32> {
    let mask = ids(&golden["attention_mask"][row]);
    ids(&golden["input_ids"][row]).into_iter().zip(mask).filter(|(_, kept)| *kept == 1).map(|(id, _)| id).collect()
}

/// Image tokens of every image of a case, in order.
fn image_tokens(family: &str, golden: &Value) -> Vec<usize> {
    let geometry = Checkpoint::open(&tiny(family)).unwrap().geometry();
    let sizes: Vec<(u32, u32)> = serde_json::from_value(golden["image_sizes"].clone()).unwrap();
    sizes.into_iter().map(|(height, width)| geometry.plan(ImageSize { height, width }).image_tokens()).collect()
}

#[test]
fn rendered_prompts_are_those_of_the_reference() {
    for family in FAMILIES {
        let prompter = open(family);
        for (case, conversations) in cases() {
            let golden = golden(family, case);
            for (row, conversation) in conversations.iter().enumerate() {
                assert_eq!(golden["prompts"][row], prompter.render(conversation).unwrap(), "{family} {case}");
            }
        }
    }
}

#[test]
fn ids_are_those_of_the_reference() {
    for family in FAMILIES {
        let prompter = open(family);
        for (case, conversations) in cases() {
            let golden = golden(family, case);
            let all_tokens = image_tokens(family, &golden);
            let mut tokens = all_tokens.as_slice();
            for (row, conversation) in conversations.iter().enumerate() {
                let parts = conversation.iter().flat_map(|message| &message.content);
                let (own, others) = tokens.split_at(parts.filter(|part| **part == Part::Image).count());
                tokens = others;
                let prompt = prompter.prompt(conversation, own).unwrap();
                assert_eq!(prompt.ids, unpadded(&golden, row), "{family} {case} {row}");
                assert_eq!(golden["image_tokens"][row], own.iter().sum::<usize>(), "{family} {case} {row}");
                assert_eq!(prompt.images.iter().map(ExactSizeIterator::len).collect::<Vec<_>>(), own);
                for range in prompt.images {
                    assert!(prompt.ids[range].iter().all(|&id| id == prompter.image_token_id()));
                }
            }
        }
    }
}

#[test]
fn greedy_answers_decode_to_the_text_of_the_reference() {
    for family in FAMILIES {
        let prompter = open(family);
        for (case, _) in cases() {
            let golden = golden(family, case);
            for (row, answer) in golden["greedy"].as_array().unwrap().iter().enumerate() {
                assert_eq!(golden["greedy_text"][row], prompter.decode(&ids(answer)), "{family} {case} {row}");
            }
        }
    }
}
