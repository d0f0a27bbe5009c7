//! Requests as clients write them: what the gateway makes of each, and what it says of those that it refuses.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde_json::{Value, json};
use tessera_api::gateway::{BeamSettings, ImageSource, Input, Message, Part, Role, Settings};
use tessera_api::language::{Constraint, EarlyStopping, Generator};
use tessera_api::{Error, ErrorKind, Result};

use super::chat::ChatRequest;
use super::completions::CompletionRequest;
use super::settings::Wants;
use super::{Asked, body};
use crate::words::Words;

/// An image of one pixel, in base64.
const PIXEL: &str = "R0lGODlhAQABAAAAACwAAAAAAQABAAACAkQBADs=";
const HANDLE: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn pixel() -> ImageSource {
    use base64::Engine;
    ImageSource::File(base64::engine::general_purpose::STANDARD.decode(PIXEL).unwrap().into())
}

/// A body of these fields besides those that it must have.
fn with(mut body: Value, fields: &Value) -> Vec<u8> {
    let fields = fields.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    body.to_string().into_bytes()
}

fn chat(fields: &Value) -> Result<Asked> {
    let body = with(json!({"model": "m", "messages": [{"role": "user", "content": "What?"}]}), fields);
    Asked::new(|words| body::parse::<ChatRequest>(&body)?.read(words))
}

fn completion(fields: &Value) -> Result<Asked> {
    let body = with(json!({"model": "m", "prompt": "What?"}), fields);
    Asked::new(|words| body::parse::<CompletionRequest>(&body)?.read("<image>", words))
}

/// What is asked for where nothing is said.
fn silent() -> Settings {
    Settings { samples: Some(NonZeroUsize::MIN), ..Settings::default() }
}

fn messages(asked: Asked) -> Vec<Message> {
    match asked.input {
        Input::Conversation(messages) => messages,
        Input::Prompt(parts) => panic!("{parts:?}"),
    }
}

fn text(text: &str) -> Part {
    Part::Text(text.into())
}

#[test]
fn settings_are_read_into_the_gateways_own() {
    let three = NonZeroUsize::new(3).unwrap();
    let schema = r#"{"type":"object","properties":{"b":{"type":"integer"},"a":{"type":"integer"}}}"#;
    let constraint = |constraint| Settings { constraint: Some(constraint), ..silent() };
    let schema_value: Value = serde_json::from_str(schema).unwrap();
    for (fields, expected) in [
        (json!({}), silent()),
        (json!({"temperature": null, "best_of": null, "stop": null}), silent()),
        (json!({"max_tokens": 7}), Settings { max_tokens: Some(7), ..silent() }),
        (json!({"temperature": 0.5, "top_p": 1}), Settings { temperature: Some(0.5), top_p: Some(1.0), ..silent() }),
        (json!({"n": 3, "seed": 9}), Settings { samples: Some(three), seed: Some(9), ..silent() }),
        (json!({"seed": u64::MAX}), Settings { seed: Some(u64::MAX), ..silent() }),
        (json!({"stop": "a"}), Settings { stop: vec!["a".into()], ..silent() }),
        (json!({"stop": ["a", "b"]}), Settings { stop: vec!["a".into(), "b".into()], ..silent() }),
        (
            json!({"presence_penalty": -1, "frequency_penalty": 2}),
            Settings { presence_penalty: Some(-1.0), frequency_penalty: Some(2.0), ..silent() },
        ),
        (
            json!({"logit_bias": {"10": -100, "9": 1.5}}),
            Settings { logit_bias: vec![(9, 1.5), (10, -100.0)], ..silent() },
        ),
        (
            json!({"top_k": 5, "min_p": 0.1, "typical_p": 0.9, "repetition_penalty": 1.1}),
            Settings {
                top_k: Some(5),
                min_p: Some(0.1),
                typical_p: Some(0.9),
                repetition_penalty: Some(1.1),
                ..silent()
            },
        ),
        (
            json!({"no_repeat_ngram": 2, "bad_words": [[1, 2]], "min_tokens": 1, "stop_token_ids": [4]}),
            Settings {
                no_repeat_ngram: Some(2),
                bad_words: vec![vec![1, 2]],
                min_tokens: Some(1),
                stop_token_ids: vec![4],
                ..silent()
            },
        ),
        (
            json!({"include_stop": true, "ignore_end": true}),
            Settings { include_stop: true, ignore_end: true, ..silent() },
        ),
        (
            json!({"include_stop_str_in_output": true, "ignore_eos": true}),
            Settings { include_stop: true, ignore_end: true, ..silent() },
        ),
        (json!({"prompt_logprobs": 2}), Settings { prompt_logprobs: Some(2), ..silent() }),
        (json!({"generator": "torch"}), Settings { generator: Generator::Torch, ..silent() }),
        (
            json!({"beam_search": {"beams": 3, "early_stopping": "always"}}),
            Settings {
                beam_search: Some(BeamSettings {
                    beams: three,
                    length_penalty: None,
                    early_stopping: Some(EarlyStopping::Always),
                }),
                ..silent()
            },
        ),
        (json!({"constraint": {"regex": "a+"}}), constraint(Constraint::Regex("a+".into()))),
        (json!({"constraint": {"lark": "start: \"a\""}}), constraint(Constraint::Lark("start: \"a\"".into()))),
        (json!({"constraint": {"choices": ["a", "b"]}}), constraint(Constraint::Choices(vec!["a".into(), "b".into()]))),
        (
            json!({"constraint": {"json_schema": schema_value}}),
            constraint(Constraint::JsonSchema(schema_value.to_string())),
        ),
        (json!({"user": "somebody"}), silent()),
    ] {
        assert_eq!(chat(&fields).unwrap().settings, expected, "{fields}");
        assert_eq!(completion(&fields).unwrap().settings, expected, "{fields}");
    }
}

#[test]
fn what_only_conversations_have_is_read() {
    let schema = r#"{"type":"object","properties":{"b":{},"a":{}}}"#;
    let form = |kind: &str| {
        format!(r#"{{"type": "{kind}", "json_schema": {{"name": "x", "strict": false, "schema": {schema}}}}}"#)
    };
    // As text, because its order counts.
    let body = format!(
        r#"{{"model": "m", "messages": [{{"role": "user", "content": "What?"}}], "response_format": {}}}"#,
        form("json_schema")
    );
    let asked = Asked::new(|words| body::parse::<ChatRequest>(body.as_bytes())?.read(words)).unwrap();
    assert_eq!(asked.settings.constraint, Some(Constraint::JsonSchema(schema.into())), "as it was written");
    for (fields, expected) in [
        (json!({"response_format": {"type": "text"}, "tools": null}), silent()),
        (
            json!({"response_format": {"type": "json_object"}}),
            Settings { constraint: Some(Constraint::JsonSchema(r#"{"type":"object"}"#.into())), ..silent() },
        ),
        (json!({"max_completion_tokens": 7}), Settings { max_tokens: Some(7), ..silent() }),
        (json!({"logprobs": true}), Settings { logprobs: Some(0), ..silent() }),
        (json!({"logprobs": true, "top_logprobs": 3}), Settings { logprobs: Some(3), ..silent() }),
        (json!({"logprobs": false}), silent()),
        (json!({"modalities": ["text"], "service_tier": "auto", "store": false}), silent()),
        (json!({"safety_identifier": "a", "prompt_cache_key": "b"}), silent()),
    ] {
        assert_eq!(chat(&fields).unwrap().settings, expected, "{fields}");
    }
    assert_eq!(completion(&json!({"logprobs": 3})).unwrap().settings, Settings { logprobs: Some(3), ..silent() });
}

#[test]
fn what_is_wanted_beside_the_answer_is_read() {
    let nothing = Wants { stream: false, usage: false, token_ids: false, logprobs: None, samples: 1, time: None };
    for (fields, expected) in [
        (json!({}), nothing),
        (json!({"stream": true}), Wants { stream: true, ..nothing }),
        (
            json!({"stream": true, "stream_options": {"include_usage": true, "include_obfuscation": false}}),
            Wants { stream: true, usage: true, ..nothing },
        ),
        (json!({"return_token_ids": true}), Wants { token_ids: true, ..nothing }),
        (json!({"n": 2, "temperature": 1}), Wants { samples: 2, ..nothing }),
        (json!({"deadline_ms": 50}), Wants { time: Some(Duration::from_millis(50)), ..nothing }),
    ] {
        assert_eq!(chat(&fields).unwrap().wants, expected, "{fields}");
        assert_eq!(completion(&fields).unwrap().wants, expected, "{fields}");
    }
}

#[test]
fn conversations_are_read_with_their_images() {
    let url = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    let strange = format!("DATA:Image/X-Unheard;charset=a;BASE64,{}", PIXEL.trim_end_matches('='));
    let content = json!([
        {"type": "text", "text": "a"},
        url(&format!("data:image/gif;base64,{PIXEL}")),
        {"type": "image_url", "image_url": {"url": strange, "detail": "high"}},
        url("https://a.test/b.png"),
        {"type": "image_embedding", "image_embedding": {"handle": HANDLE}},
    ]);
    let asked = chat(&json!({"messages": [
        {"role": "developer", "content": "Be short."},
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": content},
        {"role": "assistant", "content": "Yes.", "refusal": null, "tool_calls": null},
    ]}));
    let shown = vec![
        text("a"),
        Part::Image(pixel()),
        Part::Image(pixel()),
        Part::Image(ImageSource::Url("https://a.test/b.png".parse().unwrap())),
        Part::Image(ImageSource::Stored(HANDLE.parse().unwrap())),
    ];
    let said = |role, parts| Message { role, parts };
    assert_eq!(
        messages(asked.unwrap()),
        [
            said(Role::System, vec![text("Be short.")]),
            said(Role::System, vec![text("Be kind.")]),
            said(Role::User, shown),
            said(Role::Assistant, vec![text("Yes.")]),
        ]
    );
    // An encoder may escape what it need not.
    let image = format!(r#"{{"type": "image_url", "image_url": {{"url": "data:image\/gif;base64,{PIXEL}"}}}}"#);
    let body = format!(r#"{{"model": "m", "messages": [{{"role": "user", "content": [{image}]}}]}}"#);
    let asked = Asked::new(|words| body::parse::<ChatRequest>(body.as_bytes())?.read(words)).unwrap();
    assert_eq!(messages(asked)[0].parts, [Part::Image(pixel())]);
}

#[test]
fn prompts_are_cut_where_their_images_stand() {
    let url = json!({"type": "image_url", "image_url": {"url": format!("data:image/gif;base64,{PIXEL}")}});
    let stored = json!({"type": "image_embedding", "image_embedding": {"handle": HANDLE}});
    let handle = || Part::Image(ImageSource::Stored(HANDLE.parse().unwrap()));
    for (fields, expected) in [
        (json!({"prompt": "<s>What?"}), vec![text("<s>What?")]),
        (json!({"prompt": ["What?"]}), vec![text("What?")]),
        (json!({"prompt": ""}), vec![text("")]),
        (json!({"prompt": "a <image> b", "images": [url]}), vec![text("a "), Part::Image(pixel()), text(" b")]),
        (
            json!({"prompt": "<image><image>", "images": [stored, url]}),
            vec![text(""), handle(), text(""), Part::Image(pixel()), text("")],
        ),
    ] {
        assert_eq!(completion(&fields).unwrap().input, Input::Prompt(expected), "{fields}");
    }
}

/// Reason and field of an error that the caller made.
fn fault(error: &Error) -> (&str, &str) {
    assert_eq!(error.kind, ErrorKind::Invalid);
    let field = error.fields.first().unwrap_or_else(|| panic!("no field: {error}"));
    assert!(error.message.starts_with(&field.field), "{error}");
    (&error.reason, &field.field)
}

#[test]
fn what_cannot_be_had_is_refused_by_its_name() {
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    for (fields, field) in [
        (json!({"tools": tools}), "tools"),
        (json!({"tools": []}), "tools"),
        (json!({"tool_choice": "auto"}), "tool_choice"),
        (json!({"parallel_tool_calls": true}), "parallel_tool_calls"),
        (json!({"functions": []}), "functions"),
        (json!({"function_call": "none"}), "function_call"),
        (json!({"audio": {"voice": "a"}}), "audio"),
        (json!({"modalities": ["text", "audio"]}), "modalities"),
        (json!({"metadata": {}}), "metadata"),
        (json!({"store": true}), "store"),
        (json!({"reasoning_effort": "low"}), "reasoning_effort"),
        (json!({"verbosity": "low"}), "verbosity"),
        (json!({"prediction": {"type": "content", "content": "a"}}), "prediction"),
        (json!({"web_search_options": {}}), "web_search_options"),
        (json!({"service_tier": "flex"}), "service_tier"),
        (json!({"best_of": 2}), "best_of"),
        (json!({"chat_template": "a"}), "chat_template"),
        (
            json!({"stream": true, "stream_options": {"include_obfuscation": true}}),
            "stream_options.include_obfuscation",
        ),
        (json!({"messages": [{"role": "user", "content": "a", "name": "b"}]}), "messages[0].name"),
        (json!({"messages": [{"role": "assistant", "content": "a", "tool_calls": []}]}), "messages[0].tool_calls"),
        (
            json!({"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": format!("data:image/gif;base64,{PIXEL}"), "detail": "low"}}
            ]}]}),
            "messages[0].content[0].image_url.detail",
        ),
    ] {
        let error = chat(&fields).err().unwrap_or_else(|| panic!("{fields}"));
        assert_eq!(fault(&error), ("FIELD_UNSUPPORTED", field), "{error}");
    }
    for (fields, reason, field) in [
        (json!({"echo": true}), "FIELD_UNSUPPORTED", "echo"),
        (json!({"suffix": "a"}), "FIELD_UNSUPPORTED", "suffix"),
        (json!({"best_of": 1}), "FIELD_UNSUPPORTED", "best_of"),
        (json!({"prompt": ["a", "b"]}), "PROMPTS_UNSUPPORTED", "prompt"),
        (json!({"prompt": [1, 2]}), "TOKEN_PROMPT_UNSUPPORTED", "prompt[0]"),
        (json!({"prompt": [[1, 2]]}), "TOKEN_PROMPT_UNSUPPORTED", "prompt[0]"),
        (json!({"prompt": []}), "VALUE_INVALID", "prompt"),
        (json!({"prompt": 7}), "VALUE_INVALID", "prompt"),
        (json!({"prompt": "<image>"}), "PROMPT_IMAGE_COUNT", "images"),
        (json!({"images": [{"type": "text", "text": "a"}], "prompt": "<image>"}), "VALUE_INVALID", "images[0].type"),
        (json!({"tools": []}), "FIELD_UNKNOWN", "tools"),
        (json!({"logprobs": 21}), "VALUE_OUT_OF_RANGE", "logprobs"),
    ] {
        let error = completion(&fields).err().unwrap_or_else(|| panic!("{fields}"));
        assert_eq!(fault(&error), (reason, field), "{error}");
    }
}

#[test]
fn what_is_wrong_is_named_as_the_caller_wrote_it() {
    let said =
        |content: Value| json!({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": content}]});
    let image =
        |url: &str| said(json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": url}}]));
    let url = "messages[1].content[1].image_url.url";
    for (fields, reason, field) in [
        (json!({"top_q": 1}), "FIELD_UNKNOWN", "top_q"),
        (json!({"messages": []}), "FIELD_MISSING", "messages"),
        (json!({"messages": [{"role": "user"}]}), "FIELD_MISSING", "messages[0].content"),
        (json!({"messages": [{"role": "user", "content": null}]}), "VALUE_INVALID", "messages[0].content"),
        (json!({"messages": [{"role": "tool", "content": "a"}]}), "VALUE_INVALID", "messages[0].role"),
        (said(json!([{"type": "input_audio", "input_audio": {}}])), "VALUE_INVALID", "messages[1].content[0].type"),
        (said(json!([{"type": "text"}])), "FIELD_MISSING", "messages[1].content[0].text"),
        (said(json!([{"type": "text", "text": 1}])), "VALUE_INVALID", "messages[1].content[0].text"),
        (said(json!([{"type": "image_url", "text": "a"}])), "FIELD_MISSING", "messages[1].content[0].image_url"),
        (
            said(json!([{"type": "text", "text": "a", "image_embedding": {"handle": HANDLE}}])),
            "PART_CONFLICT",
            "messages[1].content[0]",
        ),
        (
            said(json!([{"type": "image_embedding", "image_embedding": {"handle": "12"}}])),
            "KEY_INVALID",
            "messages[1].content[0].image_embedding.handle",
        ),
        (image("data:image/png;base64,%%%"), "IMAGE_DATA_INVALID", url),
        (image("data:image/png;base64,"), "IMAGE_EMPTY", url),
        (image("data:image/png,abc"), "IMAGE_DATA_INVALID", url),
        (image("data:text/plain;base64,AAAA"), "IMAGE_DATA_INVALID", url),
        (image("data:image/png;base64"), "IMAGE_DATA_INVALID", url),
        (image("file:///etc/passwd"), "URL_INVALID", url),
        (image("AAAA"), "URL_INVALID", url),
        (json!({"temperature": "hot"}), "VALUE_INVALID", "temperature"),
        (json!({"temperature": -1}), "VALUE_OUT_OF_RANGE", "temperature"),
        (json!({"n": 0}), "VALUE_OUT_OF_RANGE", "n"),
        (json!({"n": 65}), "VALUE_OUT_OF_RANGE", "n"),
        (json!({"seed": -1}), "VALUE_INVALID", "seed"),
        (json!({"stop": [""]}), "STOP_EMPTY", "stop[0]"),
        (json!({"stop": vec!["a"; 17]}), "VALUE_OUT_OF_RANGE", "stop"),
        (json!({"max_tokens": 0}), "VALUE_OUT_OF_RANGE", "max_tokens"),
        (json!({"max_completion_tokens": 0}), "VALUE_OUT_OF_RANGE", "max_completion_tokens"),
        (json!({"max_completion_tokens": 1, "max_tokens": 1}), "SETTINGS_CONFLICT", "max_completion_tokens"),
        (json!({"top_logprobs": 1}), "SETTINGS_CONFLICT", "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "VALUE_OUT_OF_RANGE", "top_logprobs"),
        (json!({"stream_options": {"include_usage": true}}), "SETTINGS_CONFLICT", "stream_options"),
        (json!({"logit_bias": {"a": 1}}), "VALUE_INVALID", "logit_bias"),
        (json!({"response_format": {"type": "xml"}}), "VALUE_INVALID", "response_format.type"),
        (json!({"response_format": {"type": "json_schema"}}), "FIELD_MISSING", "response_format.json_schema"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}),
            "FIELD_MISSING",
            "response_format.json_schema.schema",
        ),
        (
            json!({"response_format": {"type": "text", "json_schema": {"schema": {}}}}),
            "SETTINGS_CONFLICT",
            "response_format.json_schema",
        ),
        (
            json!({"response_format": {"type": "json_object"}, "constraint": {"regex": "a"}}),
            "SETTINGS_CONFLICT",
            "constraint",
        ),
        (json!({"constraint": {}}), "SETTINGS_CONFLICT", "constraint"),
        (json!({"constraint": {"regex": "a", "choices": ["b"]}}), "SETTINGS_CONFLICT", "constraint"),
        (json!({"constraint": {"regex": ""}}), "VALUE_OUT_OF_RANGE", "constraint.regex"),
        (json!({"beam_search": {"beams": 65}}), "VALUE_OUT_OF_RANGE", "beam_search.beams"),
        (json!({"beam_search": {"beams": 2, "early_stopping": "soon"}}), "VALUE_INVALID", "beam_search.early_stopping"),
    ] {
        let error = chat(&fields).err().unwrap_or_else(|| panic!("{fields}"));
        assert_eq!(fault(&error), (reason, field), "{error}");
    }
}

#[test]
fn what_is_found_to_be_wrong_later_is_named_so_too() {
    let data = format!("data:image/gif;base64,{PIXEL}");
    let asked = chat(&json!({
        "max_completion_tokens": 5,
        "response_format": {"type": "json_schema", "json_schema": {"schema": {}}},
        "messages": [
            {"role": "system", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {"url": data}}]},
        ],
    }))
    .unwrap();
    assert_words(
        &asked.words,
        &[
            ("settings.max_tokens", "max_completion_tokens"),
            ("settings.samples", "n"),
            ("settings.constraint.json_schema", "response_format.json_schema.schema"),
            ("settings.top_p", "top_p"),
            ("messages[1].parts[1].image", "messages[1].content[1].image_url"),
            ("messages", "messages"),
            ("request_id", "x-request-id"),
        ],
    );
    let image = json!({"type": "image_url", "image_url": {"url": data}});
    let asked = completion(&json!({"prompt": "a <image> <image>", "images": [image, image]})).unwrap();
    assert_words(
        &asked.words,
        &[("prompt[1].image", "images[0].image_url"), ("prompt[3].image.url", "images[1].image_url.url")],
    );
}

fn assert_words(words: &Words, expected: &[(&str, &str)]) {
    for (ours, theirs) in expected {
        let error = words.of(Error::field("A_REASON", *ours, "is wrong"));
        assert_eq!((error.fields[0].field.as_str(), error.message), (*theirs, format!("{theirs}: is wrong")));
    }
}
