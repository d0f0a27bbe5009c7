use serde_json::json;

use super::*;

fn read(parameters: &Value) -> Result<Sampling> {
    let path = |name: &str| format!("sampling_parameters.{name}");
    Sampling::read(parameters.as_object().unwrap(), path, &mut Words::default())
}

#[test]
fn every_parameter_is_taken_as_a_value_and_as_a_string() {
    let values = json!({
        "max_tokens": 20, "min_tokens": 3, "temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.8,
        "repetition_penalty": 1.2, "presence_penalty": -0.25, "frequency_penalty": 0.75, "no_repeat_ngram": 4,
        "seed": 11, "n": 2, "logprobs": 5, "stop": ["end", "stop"], "stop_token_ids": [12, 13],
        "include_stop_str_in_output": true, "ignore_eos": true, "logit_bias": {"3": -1.5, "9": 2}, "bad_words": [[5], [6, 7]],
        "generator": "torch", "beam_search": {"beams": 3, "length_penalty": 0.5, "early_stopping": "never"},
        "guided_decoding": {"regex": "a+"}, "skip_special_tokens": true,
    });
    let strings = json!({
        "max_tokens": "20", "min_tokens": " 3 ", "temperature": "0.5", "top_k": "7", "top_p": "0.9", "min_p": "0.1",
        "typical_p": "0.8", "repetition_penalty": "1.2", "presence_penalty": "-0.25", "frequency_penalty": "0.75",
        "no_repeat_ngram": "4", "seed": "11", "n": "2", "logprobs": "5", "stop": ["end", "stop"], "stop_token_ids": ["12", 13],
        "include_stop_str_in_output": "True", "ignore_eos": "true", "logit_bias": "{\"3\": \"-1.5\", \"9\": 2}",
        "bad_words": [["5"], [6, 7]], "generator": "torch",
        "beam_search": "{\"beams\": 3, \"length_penalty\": 0.5, \"early_stopping\": \"never\"}",
        "guided_decoding": "{\"regex\": \"a+\"}", "skip_special_tokens": "true",
    });
    let sampling = read(&values).unwrap();
    assert_eq!(read(&strings).unwrap(), sampling);
    let settings = sampling.settings.check().unwrap();
    assert_eq!((settings.max_tokens, settings.min_tokens, settings.temperature), (Some(20), Some(3), Some(0.5)));
    assert_eq!(
        (settings.top_k, settings.top_p, settings.min_p, settings.typical_p),
        (Some(7), Some(0.9), Some(0.1), Some(0.8))
    );
    assert_eq!((settings.repetition_penalty, settings.presence_penalty), (Some(1.2), Some(-0.25)));
    assert_eq!((settings.frequency_penalty, settings.no_repeat_ngram, settings.seed), (Some(0.75), Some(4), Some(11)));
    assert_eq!((settings.samples.unwrap().get(), settings.logprobs), (2, Some(5)));
    assert_eq!((settings.stop, settings.stop_token_ids), (vec!["end".to_owned(), "stop".into()], vec![12, 13]));
    assert!(settings.include_stop && settings.ignore_end);
    assert_eq!(settings.logit_bias, [(3, -1.5), (9, 2.0)]);
    assert_eq!(settings.bad_words, [vec![5], vec![6, 7]]);
    assert_eq!(settings.beam_search.unwrap().beams.get(), 3);
    assert_eq!(settings.constraint, Some(tessera_api::language::Constraint::Regex("a+".into())));
}

#[test]
fn numbers_are_understood_as_the_backend_does() {
    assert_eq!(read(&json!({"top_k": -1})).unwrap().settings.top_k, Some(0));
    assert_eq!(read(&json!({"max_tokens": 5.0})).unwrap().settings.max_tokens, Some(5));
    assert_eq!(read(&json!({"max_tokens": 100})).unwrap().settings.max_tokens, Some(100));
    assert_eq!(read(&json!({"temperature": 0})).unwrap().settings.temperature, Some(0.0));
    assert_eq!(read(&json!({"stop": "end", "seed": null})).unwrap().settings.stop, ["end"]);
    assert_eq!(read(&json!({"seed": u64::MAX})).unwrap().settings.seed, Some(u64::MAX));
}

#[test]
fn forms_are_known_by_both_names() {
    for name in ["constraint", "guided_decoding", "structured_outputs"] {
        let form = |value: Value| read(&json!({name: value})).unwrap().settings.constraint.unwrap();
        assert_eq!(form(json!({"json": {"type": "string"}})), Constraint::JsonSchema("{\"type\":\"string\"}".into()));
        assert_eq!(form(json!({"json_schema": "{}", "backend": "auto"})), Constraint::JsonSchema("{}".into()));
        assert_eq!(form(json!({"json_object": true})), Constraint::JsonSchema("{\"type\":\"object\"}".into()));
        assert_eq!(form(json!({"grammar": "start: \"a\""})), Constraint::Lark("start: \"a\"".into()));
        assert_eq!(form(json!({"choice": ["a", "b"]})), Constraint::Choices(vec!["a".into(), "b".into()]));
    }
}

#[test]
fn what_cannot_be_taken_is_named() {
    for (parameters, reason, field) in [
        (json!({"max_token": 5}), "PARAMETER_UNKNOWN", "max_token"),
        (json!({"best_of": 5}), "PARAMETER_UNKNOWN", "best_of"),
        (json!({"max_tokens": "many"}), "PARAMETER_MALFORMED", "max_tokens"),
        (json!({"max_tokens": -1}), "PARAMETER_MALFORMED", "max_tokens"),
        (json!({"max_tokens": 5.5}), "PARAMETER_MALFORMED", "max_tokens"),
        (json!({"temperature": [1]}), "PARAMETER_MALFORMED", "temperature"),
        (json!({"ignore_eos": 1}), "PARAMETER_MALFORMED", "ignore_eos"),
        (json!({"stop": [1]}), "PARAMETER_MALFORMED", "stop"),
        (json!({"bad_words": ["a word"]}), "PARAMETER_MALFORMED", "bad_words"),
        (json!({"logit_bias": {"a": 1}}), "PARAMETER_MALFORMED", "logit_bias"),
        (json!({"guided_decoding": {"shape": 1}}), "PARAMETER_MALFORMED", "guided_decoding"),
        (json!({"guided_decoding": {"json": {}, "regex": "a"}}), "PARAMETER_MALFORMED", "guided_decoding"),
        (json!({"guided_decoding": "regex"}), "PARAMETER_MALFORMED", "guided_decoding"),
        (json!({"beam_search": {"beam": 1}}), "PARAMETER_MALFORMED", "beam_search"),
        (json!({"beam_search": {"length_penalty": 1}}), "PARAMETER_MALFORMED", "beam_search"),
        (json!({"n": 0}), "VALUE_OUT_OF_RANGE", "n"),
        (json!({"generator": "dice"}), "PARAMETER_MALFORMED", "generator"),
        (json!({"n": 2, "samples": 2}), "SETTINGS_CONFLICT", "samples"),
        (json!({"lora_name": "a"}), "PARAMETER_UNSUPPORTED", "lora_name"),
        (json!({"prompt_logprobs": 1}), "PARAMETER_UNSUPPORTED", "prompt_logprobs"),
        (json!({"skip_special_tokens": false}), "PARAMETER_UNSUPPORTED", "skip_special_tokens"),
    ] {
        let error = read(&parameters).unwrap_err();
        assert_eq!(error.reason, reason, "{parameters}: {error}");
        assert_eq!(error.fields[0].field, format!("sampling_parameters.{field}"), "{parameters}");
    }
    let long = read(&json!({"a".repeat(100_000): 1})).unwrap_err();
    assert!(long.message.len() < 300);
}
