//! Rendered texts of the five published template families.

use super::{message, open, user};
use crate::{Message, Part, PromptError, Role};

const QUESTION: &str = "What is shown in this image?";

#[track_caller]
fn renders(family: &str, conversation: &[Message], expected: &str) {
    assert_eq!(open(family).render(conversation).unwrap(), expected, "{family}");
}

#[test]
fn one_turn() {
    let conversation = [user(1, QUESTION)];
    renders("mistral", &conversation, "[INST] <image>\nWhat is shown in this image? [/INST]");
    renders("vicuna", &conversation, "USER: <image>\nWhat is shown in this image? ASSISTANT:");
    for family in ["yi", "qwen2"] {
        renders(
            family,
            &conversation,
            "<|im_start|>user\n<image>\nWhat is shown in this image?<|im_end|>\n<|im_start|>assistant\n",
        );
    }
    renders(
        "llama3",
        &conversation,
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is shown in this image?<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n",
    );
}

#[test]
fn two_turns() {
    let conversation = [user(1, QUESTION), message(Role::Assistant, 0, "A cat."), user(0, "What color?")];
    renders(
        "mistral",
        &conversation,
        "[INST] <image>\nWhat is shown in this image? [/INST] A cat.</s> [INST] What color? [/INST]",
    );
    renders(
        "vicuna",
        &conversation,
        "USER: <image>\nWhat is shown in this image? ASSISTANT: A cat. USER: What color? ASSISTANT:",
    );
    renders(
        "yi",
        &conversation,
        "<|im_start|>user\n<image>\nWhat is shown in this image?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n\
         <|im_start|>user\nWhat color?<|im_end|>\n<|im_start|>assistant\n",
    );
    renders(
        "qwen2",
        &conversation,
        "<|im_start|>user\n<image>\nWhat is shown in this image?<|im_end|>\n<|im_start|>assistant\n\nA cat.<|im_end|>\n\
         <|im_start|>user\n\nWhat color?<|im_end|>\n<|im_start|>assistant\n",
    );
    renders(
        "llama3",
        &conversation,
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is shown in this image?<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n\nA cat.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\n\nWhat color?<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n",
    );
}

#[test]
fn a_system_message() {
    let conversation = [message(Role::System, 0, "Be brief."), user(1, QUESTION)];
    renders(
        "mistral",
        &conversation,
        "<<SYS>>\nBe brief.\n<</SYS>>\n\n[INST] <image>\nWhat is shown in this image? [/INST]",
    );
    renders("vicuna", &conversation, "Be brief. USER: <image>\nWhat is shown in this image? ASSISTANT:");
    renders(
        "yi",
        &conversation,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>\nWhat is shown in this image?<|im_end|>\n\
         <|im_start|>assistant\n",
    );
    renders(
        "qwen2",
        &conversation,
        "<|im_start|>system\n\nBe brief.<|im_end|>\n<|im_start|>user\n<image>\nWhat is shown in this image?<|im_end|>\n\
         <|im_start|>assistant\n",
    );
    renders(
        "llama3",
        &conversation,
        "<|start_header_id|>system<|end_header_id|>\n\n\nBe brief.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is shown in this image?<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n",
    );
}

#[test]
fn images_stand_in_front_of_texts_whatever_the_order_was() {
    let parts = vec![Part::Text("One.".to_owned()), Part::Image, Part::Text("Two.".to_owned()), Part::Image];
    let conversation = [Message { role: Role::User, content: parts }];
    renders("mistral", &conversation, "[INST] <image>\n<image>\nOne.Two. [/INST]");
    renders("vicuna", &conversation, "USER: <image>\n<image>\nOne. Two. ASSISTANT:");
    renders("qwen2", &conversation, "<|im_start|>user\n<image><image>\nOne.\nTwo.<|im_end|>\n<|im_start|>assistant\n");
}

#[test]
fn a_message_of_images_alone_needs_no_text() {
    let conversation = [Message { role: Role::User, content: vec![Part::Image] }];
    renders(
        "llama3",
        &conversation,
        "<|start_header_id|>user<|end_header_id|>\n\n<image><|start_header_id|>assistant<|end_header_id|>\n\n",
    );
}

#[test]
fn empty_conversations_and_messages_are_refused() {
    let prompter = open("vicuna");
    let error = prompter.render(&[]).unwrap_err();
    assert_eq!((error.to_string().as_str(), error.reason()), ("the conversation has no messages", "PROMPT_EMPTY"));
    let empty = Message { role: Role::User, content: Vec::new() };
    let error = prompter.prompt(&[user(0, "a"), empty], &[]).unwrap_err();
    assert_eq!((error.to_string().as_str(), error.reason()), ("message 1 has no content", "PROMPT_EMPTY"));
}

#[test]
fn placeholders_and_images_must_be_as_many() {
    for family in super::FAMILIES {
        let prompter = open(family);
        for (images, tokens) in [(1, vec![]), (0, vec![24]), (2, vec![24]), (1, vec![24, 24])] {
            match prompter.prompt(&[user(images, "What?")], &tokens).unwrap_err() {
                PromptError::ImageCount { placeholders, images: given } => {
                    assert_eq!((placeholders, given), (images, tokens.len()), "{family}");
                }
                other => panic!("{other}"),
            }
        }
    }
    let error = open("yi").prompt(&[user(2, "What?")], &[24]).unwrap_err();
    assert_eq!(error.to_string(), "the prompt has 2 image placeholders for 1 images");
}

#[test]
fn ranges_say_where_each_image_stands() {
    for family in super::FAMILIES {
        let prompter = open(family);
        let prompt = prompter.prompt(&[user(2, "Compare."), user(1, "And this?")], &[5, 7, 3]).unwrap();
        assert_eq!(prompt.images.iter().map(ExactSizeIterator::len).collect::<Vec<_>>(), [5, 7, 3], "{family}");
        assert!(prompt.images.is_sorted_by(|left, right| left.end <= right.start), "{family}");
        let image = prompter.image_token_id();
        let inside = |position: &usize| prompt.images.iter().any(|range| range.contains(position));
        for (position, &id) in prompt.ids.iter().enumerate() {
            assert_eq!(id == image, inside(&position), "{family}");
        }
    }
}
