//! What `open` reads and refuses.

use serde_json::{Value, json};
use tessera_checkpoint::Checkpoint;

use super::{tiny, user};
use crate::{PromptError, Prompter};

/// A copy of a tiny checkpoint without weights.
struct Copy(tempfile::TempDir);

impl Copy {
    fn of(family: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(tiny(family)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_owned();
            if path.extension().is_some_and(|extension| extension == "json" || extension == "jinja") {
                std::fs::copy(&path, dir.path().join(name)).unwrap();
            }
        }
        Self(dir)
    }

    fn edit(self, name: &str, key: &str, value: Value) -> Self {
        let file = self.0.path().join(name);
        let mut object: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        object[key] = value;
        std::fs::write(file, object.to_string()).unwrap();
        self
    }

    fn open(&self) -> Result<Prompter, PromptError> {
        Prompter::open(&Checkpoint::open(self.0.path()).unwrap())
    }

    fn refusal(&self) -> String {
        self.open().unwrap_err().to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn an_image_token_with_another_id_is_refused_with_both_numbers() {
    let copy = Copy::of("yi").edit("config.json", "image_token_index", json!(600));
    assert_eq!(
        copy.refusal(),
        "image token \"<image>\" has id 591 in the tokenizer, but the model's image token id is 600"
    );
}

#[test]
fn an_image_token_that_is_no_token_is_refused() {
    let copy = Copy::of("yi").edit("processor_config.json", "image_token", json!("<picture>"));
    assert_eq!(
        copy.refusal(),
        "tokenizer.json: image_token is \"<picture>\", which the tokenizer does not know as a token"
    );
}

#[test]
fn the_tokenizers_own_image_token_goes_before_the_processors() {
    let processor = || Copy::of("yi").edit("processor_config.json", "image_token", json!("<picture>"));
    let own = processor().edit("tokenizer_config.json", "image_token", json!("<image>"));
    assert!(own.open().is_ok());
    let extra = processor().edit("tokenizer_config.json", "extra_special_tokens", json!({"image_token": "<image>"}));
    assert!(extra.open().is_ok());
}

#[test]
fn add_bos_and_add_eos_replace_the_post_processor() {
    let ids = |copy: &Copy| copy.open().unwrap().prompt(&[user(0, "What?")], &[]).unwrap().ids;
    let plain = ids(&Copy::of("mistral"));
    assert_eq!(plain[0], 1);
    let config = "tokenizer_config.json";
    assert_eq!(ids(&Copy::of("mistral").edit(config, "add_bos_token", json!(true))), plain);
    assert_eq!(ids(&Copy::of("mistral").edit(config, "add_bos_token", json!(false))), plain[1..]);
    let with_eos = ids(&Copy::of("mistral").edit(config, "add_eos_token", json!(true)));
    assert_eq!(with_eos, [&plain[1..], &[2]].concat());
    let both =
        Copy::of("mistral").edit(config, "add_eos_token", json!(true)).edit(config, "add_bos_token", json!(true));
    assert_eq!(ids(&both), [&plain[..], &[2]].concat());
    let null = Copy::of("mistral").edit(config, "add_eos_token", Value::Null);
    assert_eq!(ids(&null), plain[1..]);
}

#[test]
fn a_start_token_that_is_wanted_must_exist() {
    let copy = Copy::of("qwen2").edit("tokenizer_config.json", "add_bos_token", json!(true));
    assert_eq!(
        copy.refusal(),
        "tokenizer_config.json: bos_token is \"\", which the tokenizer does not know as a token"
    );
    let copy = Copy::of("mistral").edit("tokenizer_config.json", "add_bos_token", json!("yes"));
    assert_eq!(copy.refusal(), "tokenizer_config.json: add_bos_token is \"yes\", expected true or false");
}

#[test]
fn padding_and_truncation_of_the_file_are_ignored() {
    let truncation = json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    let padding = json!({
        "strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<unk>"
    });
    let copy =
        Copy::of("vicuna").edit("tokenizer.json", "truncation", truncation).edit("tokenizer.json", "padding", padding);
    let conversation = [user(1, "What is shown in this image?")];
    assert_eq!(
        copy.open().unwrap().prompt(&conversation, &[4]).unwrap(),
        super::open("vicuna").prompt(&conversation, &[4]).unwrap()
    );
}

#[test]
fn decoders_of_another_kind_are_refused() {
    let copy = Copy::of("vicuna").edit(
        "tokenizer.json",
        "decoder",
        json!({"type": "CTC", "pad_token": "a", "word_delimiter_token": "b", "cleanup": true}),
    );
    assert!(copy.refusal().starts_with("tokenizer.json: decoder {"), "{}", copy.refusal());
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let copy = Copy::of("vicuna").edit("tokenizer.json", "decoder", metaspace);
    let prompter = copy.open().unwrap();
    let tokenizer = tokenizers::Tokenizer::from_file(copy.0.path().join("tokenizer.json")).unwrap();
    let ids = tokenizer.encode("the image shows\n a cat", false).unwrap();
    assert_eq!(prompter.decode(ids.get_ids()), tokenizer.decode(ids.get_ids(), true).unwrap());
}

#[test]
fn missing_and_broken_files_are_named() {
    let copy = Copy::of("vicuna");
    std::fs::write(copy.0.path().join("tokenizer.json"), "{}").unwrap();
    assert_eq!(copy.refusal(), "tokenizer.json is not a tokenizer");
    std::fs::remove_file(copy.0.path().join("tokenizer.json")).unwrap();
    assert_eq!(copy.refusal(), "cannot read tokenizer.json");
    let copy = Copy::of("vicuna");
    std::fs::write(copy.0.path().join("tokenizer_config.json"), "[]").unwrap();
    assert_eq!(copy.refusal(), "tokenizer_config.json is not valid");
}

#[test]
fn a_prompter_is_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    shared(&super::open("qwen2"));
}
