//! The template engine: what published and edited templates use.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::{message, tiny, user};
use crate::template::ChatTemplate;
use crate::{Message, PromptError, Role};

fn compile(source: &str) -> ChatTemplate {
    let tokens =
        BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())]);
    ChatTemplate::compile(Path::new("chat_template.jinja"), source, tokens).unwrap()
}

fn render(source: &str, messages: &[Message]) -> Result<String, PromptError> {
    compile(source).render(messages, std::borrow::Cow::Borrowed)
}

fn render_json(source: &str, messages: &Value) -> Result<String, PromptError> {
    compile(source).render_messages(messages)
}

/// The template of the published Mistral checkpoint, as it stands there but for the corrected end of turns.
const MISTRAL: &str = "{% for message in messages %}{% if message['role'] == 'system' %}\
    {{ '<<SYS>>\\n' + message['content'][0]['text'] + '\\n<</SYS>>\\n\\n' }}{% elif message['role'] == 'user' %}\
    {{ '[INST] ' }}{# Render all images first #}\
    {% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}\
    {# Render all text next #}\
    {% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}\
    {{' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '</s> '}}\
    {% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}";

/// The template of the published Vicuna checkpoints.
const VICUNA: &str = "{% for message in messages %}{% if message['role'] != 'system' %}\
    {{ message['role'].upper() + ': '}}{% endif %}{# Render all images first #}\
    {% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}\
    {# Render all text next #}{% if message['role'] != 'assistant' %}\
    {% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}\
    {% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
    {% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}";

#[test]
fn published_forms_render_as_the_tiny_ones_do() {
    let conversation = [
        message(Role::System, 0, "Be brief."),
        user(2, "What?"),
        message(Role::Assistant, 0, "A cat."),
        user(0, "What color?"),
    ];
    for (family, source) in [("mistral", MISTRAL), ("vicuna", VICUNA)] {
        assert_eq!(render(source, &conversation).unwrap(), super::open(family).render(&conversation).unwrap());
    }
}

#[test]
fn a_plain_string_as_content_fails_for_mistral_systems_and_is_empty_elsewhere() {
    let system = json!([{"role": "system", "content": "Be brief."}]);
    assert!(matches!(render_json(MISTRAL, &system), Err(PromptError::Render { .. })));
    let user = json!([{"role": "user", "content": "What?"}]);
    assert_eq!(render_json(MISTRAL, &user).unwrap(), "[INST]  [/INST]");
    assert_eq!(render_json(VICUNA, &user).unwrap(), "USER: ASSISTANT:");
    let own = |family: &str| std::fs::read_to_string(tiny(family).join("chat_template.jinja")).unwrap();
    assert_eq!(render_json(&own("vicuna"), &user).unwrap(), "USER: ASSISTANT:");
    assert_eq!(render_json(&own("qwen2"), &user).unwrap(), "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n");
}

#[test]
fn a_template_refuses_in_its_own_words() {
    let tool = json!([{"role": "tool", "content": []}]);
    let error = render_json(MISTRAL, &tool).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the chat template refuses the conversation: Only user and assistant roles are supported!"
    );
    assert_eq!(error.reason(), "PROMPT_REFUSED_BY_TEMPLATE");
}

#[test]
fn lines_that_hold_only_a_block_leave_no_trace() {
    let source = "{% for m in messages %}\n    {% if true %}\n{{ m.role }}\n    {% endif %}\n{% endfor %}\nend\n";
    assert_eq!(render(source, &[user(0, "a"), user(0, "b")]).unwrap(), "user\nuser\nend");
}

#[test]
fn generation_blocks_are_transparent_and_trim_like_others() {
    let source = "a {%- generation -%} b {% endgeneration %} c{% set x = 1 %}{% generation %}{% set x = 2 %}{% endgeneration %}{{ x }}";
    assert_eq!(render(source, &[user(0, "a")]).unwrap(), "ab  c1");
    assert_eq!(render("{{ 'generation' }}{%- if true %}!{% endif %}", &[user(0, "a")]).unwrap(), "generation!");
}

#[test]
fn python_methods_loops_and_tokens_are_there() {
    let source = "{{ bos_token }}{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}\
        {{ m['content'][0]['text'].strip().upper().replace('A', 'b').split('|')[-1] }}{% endfor %}{{ eos_token }}\
        {{ tools is none }}{{ messages[0].get('name', 'nobody') }}{% for k, v in messages[0].items() %}{{ k }},{% endfor %}\
        {{ 'abc'.startswith('ab') }}{{ 'abc'[1:] }}{{ messages | length }}{{ namespace(x=1).x }}";
    let rendered = render(source, &[user(0, " x|a "), user(0, "b")]).unwrap();
    assert_eq!(rendered, "<s>b</s>Truenobodyrole,content,Truebc21");
}

#[test]
fn json_is_written_as_python_writes_it() {
    let conversation = [user(1, "<é & 'q' \"w\">")];
    assert_eq!(
        render("{{ messages | tojson }}", &conversation).unwrap(),
        r#"[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "<é & 'q' \"w\">"}]}]"#
    );
    assert_eq!(
        render("{{ messages[0].content[0] | tojson(indent=2) }}", &conversation).unwrap(),
        "{\n  \"type\": \"image\"\n}"
    );
}

#[test]
fn the_date_can_be_asked_for() {
    let year: u32 = render("{{ strftime_now('%Y') }}", &[user(0, "a")]).unwrap().parse().unwrap();
    assert!(year >= 2024, "{year}");
}

#[test]
fn runaway_templates_are_stopped() {
    for source in [
        "{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='xxxxxxxx') %}{% for a in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ 'x' * 1000000000 }}",
    ] {
        let error = render(source, &[user(0, "a")]).unwrap_err();
        assert!(matches!(error, PromptError::TooLong { .. }), "{source}: {error:?}");
        assert_eq!(error.reason(), "PROMPT_TOO_LONG");
    }
    let error = render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", &[user(0, "a")]).unwrap_err();
    assert!(matches!(error, PromptError::Render { .. }), "{error:?}");
}

#[test]
fn a_long_conversation_is_within_the_bounds() {
    let long = "word ".repeat(200_000);
    let conversation: Vec<Message> = (0..1000).map(|_| user(1, "What?")).chain([user(0, &long)]).collect();
    assert!(render(VICUNA, &conversation).unwrap().len() > 1_000_000);
}

#[test]
fn broken_templates_are_named() {
    let error = ChatTemplate::compile(Path::new("x.jinja"), "{% if %}", BTreeMap::new()).err().unwrap();
    assert_eq!(error.to_string(), "the chat template of x.jinja cannot be compiled");
    assert_eq!(error.reason(), "CHECKPOINT_TEMPLATE_INVALID");
}

#[test]
fn the_three_places_are_searched_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let open = || ChatTemplate::open(dir.path(), BTreeMap::new()).map(|template| template.source().to_owned());
    assert!(matches!(open(), Err(PromptError::NoTemplate { .. })));
    std::fs::write(dir.path().join("processor_config.json"), r#"{"chat_template": null}"#).unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), "third").unwrap();
    assert_eq!(open().unwrap(), "third");
    std::fs::write(dir.path().join("chat_template.json"), r#"{"chat_template": "second"}"#).unwrap();
    assert_eq!(open().unwrap(), "second");
    std::fs::write(dir.path().join("processor_config.json"), r#"{"chat_template": {"default": "first"}}"#).unwrap();
    assert_eq!(open().unwrap(), "first");
    std::fs::write(
        dir.path().join("processor_config.json"),
        r#"{"chat_template": [{"name": "tool", "template": "x"}, {"name": "default", "template": "listed"}]}"#,
    )
    .unwrap();
    assert_eq!(open().unwrap(), "listed");
    std::fs::write(dir.path().join("processor_config.json"), r#"{"chat_template": 7}"#).unwrap();
    assert!(matches!(open(), Err(PromptError::InvalidValue { key: "chat_template", .. })));
}
