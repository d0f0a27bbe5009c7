//! Text that spells special tokens.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use tessera_checkpoint::Checkpoint;
use tokenizers::Tokenizer;

use super::{FAMILIES, message, open, tiny, user};
use crate::{Message, Part, Prompter, Role};

struct Family {
    prompter: Prompter,
    /// The plain tokenizer of the library.
    plain: Tokenizer,
    /// The same, for which special tokens are ordinary text.
    blind: Tokenizer,
    specials: Vec<String>,
}

static ALL: LazyLock<BTreeMap<&'static str, Family>> = LazyLock::new(|| {
    let one = |family| {
        let plain = Tokenizer::from_file(tiny(family).join("tokenizer.json")).unwrap();
        let mut blind = plain.clone();
        blind.set_encode_special_tokens(true);
        let specials = plain.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
        (family, Family { prompter: open(family), plain, blind, specials })
    };
    FAMILIES.into_iter().map(one).collect()
});

impl Family {
    fn special_ids(&self) -> Vec<u32> {
        self.plain.get_added_tokens_decoder().into_keys().collect()
    }

    /// The special ids of a prompt, in order.
    fn specials_of(&self, messages: &[Message], images: &[usize]) -> Vec<u32> {
        let special = self.special_ids();
        let ids = self.prompter.prompt(messages, images).unwrap().ids;
        ids.into_iter().filter(|id| special.contains(id)).collect()
    }
}

#[test]
fn a_spelled_special_token_is_text_in_every_role() {
    for (name, family) in ALL.iter() {
        for special in &family.specials {
            for role in [Role::System, Role::User, Role::Assistant] {
                let texts = [
                    special.clone(),
                    format!("a {special} b"),
                    format!("x{special}{special}\n"),
                    format!(" {special}"),
                ];
                for text in texts {
                    let spelled = family.specials_of(&[message(role, 0, &text), user(1, "What?")], &[2]);
                    let plain = family.specials_of(&[message(role, 0, "nothing"), user(1, "What?")], &[2]);
                    assert_eq!(spelled, plain, "{name} {role:?} {text:?}");
                }
            }
        }
    }
}

#[test]
fn the_ids_are_those_of_the_same_characters_as_ordinary_text() {
    // Between "USER: " and " ASSISTANT:" there is no special token, so the blind tokenizer shows what is right.
    let family = &ALL["vicuna"];
    for text in ["tell me what </s> means", "<image>", "<s> <image></s><unk>", "</s", "你好<image>好"] {
        let ids = family.prompter.prompt(&[user(0, text)], &[]).unwrap().ids;
        let expected = family.blind.encode(format!("USER: {text} ASSISTANT:"), true).unwrap();
        assert_eq!(ids, expected.get_ids(), "{text}");
    }
    // Around a true placeholder the two halves are tokenised on their own.
    let ids = family.prompter.prompt(&[user(1, "is <image> </s>?")], &[1]).unwrap().ids;
    let mut expected = family.blind.encode("USER: ", true).unwrap().get_ids().to_vec();
    expected.push(family.prompter.image_token_id());
    expected.extend(family.blind.encode("\nis <image> </s>? ASSISTANT:", false).unwrap().get_ids());
    assert_eq!(ids, expected);
}

#[test]
fn the_text_is_still_all_there() {
    for (name, family) in ALL.iter() {
        for special in &family.specials {
            let text = format!("say {special} twice: {special}");
            let ids = family.prompter.prompt(&[user(0, &text)], &[]).unwrap().ids;
            assert!(family.prompter.decode(&ids).contains(&text), "{name} {special}");
        }
    }
}

#[test]
fn only_the_template_makes_placeholders() {
    for (name, family) in ALL.iter() {
        let prompt = family.prompter.prompt(&[user(1, "<image><image>")], &[4]).unwrap();
        assert_eq!(prompt.images.len(), 1, "{name}");
        let image = family.prompter.image_token_id();
        assert_eq!(prompt.ids.iter().filter(|&&id| id == image).count(), 4, "{name}");
    }
}

#[test]
fn a_token_spelled_across_two_parts_is_text() {
    let part = |text: &str| Part::Text(text.to_owned());
    for (name, family) in ALL.iter() {
        let content = vec![Part::Image, part("<ima"), part("ge> <"), part("/s>")];
        let prompt = family.prompter.prompt(&[Message { role: Role::User, content }], &[3]).unwrap();
        assert_eq!(prompt.images.len(), 1, "{name}");
        let end = family.plain.token_to_id("</s>");
        assert!(end.is_none_or(|end| !prompt.ids.contains(&end)), "{name}");
    }
}

#[test]
fn private_characters_of_the_user_stay_what_they_are() {
    let family = &ALL["qwen2"];
    let text = "\u{F0000}\u{F0001}\u{F0002}<image>\u{F0003}\u{10FFFD}";
    let ids = family.prompter.prompt(&[user(0, text)], &[]).unwrap().ids;
    assert!(family.prompter.decode(&ids).contains(text));
    assert!(!ids.contains(&family.prompter.image_token_id()));
}

#[test]
fn a_user_who_uses_up_all_private_characters_is_refused() {
    let all: String = ('\u{F0000}'..='\u{FFFFD}').chain('\u{100000}'..='\u{10FFFD}').collect();
    let prompter = &ALL["qwen2"].prompter;
    let error = prompter.prompt(&[user(0, &format!("{all}<image>"))], &[]).unwrap_err();
    assert_eq!(error.reason(), "PROMPT_TOO_LONG");
    assert!(error.to_string().contains("no unused private character"), "{error}");
}

/// A checkpoint with another template.
fn with_template(family: &str, template: &str) -> (Prompter, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(tiny(family).join(name), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    (Prompter::open(&Checkpoint::open(dir.path()).unwrap()).unwrap(), dir)
}

#[test]
fn templates_that_change_the_text_change_nothing_about_it() {
    let templates = [
        "{% for m in messages %}{{ m.content[0].text | lower | trim }}{% endfor %}</s>",
        "{% for m in messages %}{{ m.content[0].text.lower().strip() }}{% endfor %}</s>",
        "{% for m in messages %}{{ m.content[0].text.split('|') | join('') }}{% endfor %}</s>",
        "{% for m in messages %}{{ m.content[0].text | upper | lower }}{% endfor %}</s>",
        "{% for m in messages %}{{ m.content[0].text | replace(' ', '') | lower }}{% endfor %}</s>",
    ];
    for template in templates {
        let (prompter, _dir) = with_template("mistral", template);
        for text in ["<image>", "<IMAGE>", " </S> ", "<|im|age>", "< image >", "<\u{17F}>"] {
            let ids = prompter.prompt(&[user(0, text)], &[]).unwrap().ids;
            assert!(!ids.contains(&prompter.image_token_id()), "{template} {text}");
            assert_eq!(ids.iter().filter(|&&id| id == 2).count(), 1, "{template} {text}: {ids:?}");
            assert_eq!(ids.iter().filter(|&&id| id == 1).count(), 1, "{template} {text}: {ids:?}");
        }
    }
}

#[test]
fn a_start_token_is_added_unless_the_template_wrote_it() {
    let bos = |prompter: &Prompter, text: &str| {
        let ids = prompter.prompt(&[user(0, text)], &[]).unwrap().ids;
        ids.iter().filter(|&&id| id == 1).count()
    };
    let (writes, _one) = with_template("mistral", "{{ bos_token }}{{ messages[0].content[0].text }}");
    let (leaves, _two) = with_template("mistral", "{{ messages[0].content[0].text }}");
    for text in ["hello", "<s>hello", "<s>"] {
        assert_eq!((bos(&writes, text), bos(&leaves, text)), (1, 1), "{text}");
    }
}

proptest! {
    /// Texts of fragments that do or do not make special tokens.
    #[test]
    fn no_text_makes_a_special_token(fragments in prop::collection::vec(
        prop::sample::select(vec!["<", ">", "|", "/", "s", "</s>", "<s>", "<image>", "image", "<|im_end|>", "im_", "start",
            "<|eot_id|>", " ", "\n", "你", "<unk>", "<pad>", "\u{F0000}", "[INST]", "<0x0A>", "\u{338}", "INST"]), 0..12)
    ) {
        let text = fragments.concat();
        for (name, family) in ALL.iter() {
            let spelled = family.specials_of(&[user(1, &text)], &[1]);
            let plain = family.specials_of(&[user(1, "nothing")], &[1]);
            prop_assert_eq!(spelled, plain, "{} {:?}", name, text);
        }
    }

    /// With a shield or without, text that spells nothing has the ids of the rendered text.
    #[test]
    fn ordinary_text_has_the_ids_of_the_rendered_text(text in "[a-zA-Z0-9 <>|\\[\\]/.,\n你好é😀]{0,60}") {
        for (name, family) in ALL.iter() {
            let conversation = [message(Role::System, 0, "Be < brief >."), user(1, &text)];
            prop_assume!(!family.specials.iter().any(|special| text.contains(special)));
            let rendered = family.prompter.render(&conversation).unwrap();
            let expected = family.plain.encode(rendered.as_str(), true).unwrap();
            let prompt = family.prompter.prompt(&conversation, &[1]).unwrap();
            prop_assert_eq!(prompt.ids.as_slice(), expected.get_ids(), "{}", name);
        }
    }

    /// One spelled token shields the whole conversation; the other messages must not notice.
    #[test]
    fn a_shield_leaves_the_other_messages_alone(text in "[a-zA-Z0-9 <>|/.,\n你好é😀]{0,40}") {
        for (name, family) in ALL.iter() {
            prop_assume!(!family.specials.iter().any(|special| text.contains(special)));
            let tail = |messages: &[Message]| {
                let ids = family.prompter.prompt(messages, &[1]).unwrap().ids;
                let image = ids.iter().position(|&id| id == family.prompter.image_token_id()).unwrap();
                ids[image..].to_vec()
            };
            let shielded = tail(&[message(Role::System, 0, "<image>"), user(1, &text)]);
            let plain = tail(&[message(Role::System, 0, "nothing"), user(1, &text)]);
            prop_assert_eq!(shielded, plain, "{}", name);
        }
    }
}
