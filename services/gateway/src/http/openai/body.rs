//! The body of a request: JSON of a known form, or what is wrong with it, and where.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer, IgnoredAny};
use serde_json::error::Category;
use tessera_api::{Error, ErrorKind, Result};

/// Fields that OpenAI's API has and that cannot be had here, and why. Nothing that is asked for is left out in silence.
const REFUSED: [(&str, &str); 24] = [
    ("audio", "this model neither hears nor speaks"),
    ("best_of", "samples are not ranked: ask for as many as n, with logprobs"),
    ("function_call", TOOLS),
    ("functions", TOOLS),
    ("logits_processors", "scores are changed by logit_bias, bad_words, penalties and constraint only"),
    ("metadata", NOT_STORED),
    ("moderation", "nobody moderates here"),
    ("name", "the chat template knows roles only: write the name into the content"),
    ("parallel_tool_calls", TOOLS),
    ("prediction", "answers are not predicted"),
    ("prompt_cache_retention", "prefixes are kept as long as there is room: leave it out"),
    ("reasoning_effort", "this model does not reason"),
    ("refusal", "this model's refusals are content"),
    ("suffix", "this model cannot write what stands in front of a text"),
    ("tool_call_id", TOOLS),
    ("tool_calls", TOOLS),
    ("tool_choice", TOOLS),
    ("tools", TOOLS),
    ("verbosity", "this model knows no verbosity: say in the prompt how long the answer should be"),
    ("web_search_options", "nothing is searched for"),
    ("add_generation_prompt", "a conversation ends where its answer begins"),
    ("add_special_tokens", "a prompt is always tokenized as a request would be: leave it out"),
    ("chat_template", "the checkpoint's own template is used"),
    ("chat_template_kwargs", "templates are told of nothing but the messages"),
];
const TOOLS: &str = "this model calls no tools: ask for JSON of a schema with response_format instead";
const NOT_STORED: &str = "answers are not stored";

/// What our own readers of fields refuse for, in front of what they say; serde carries a text only.
pub(super) const REASONS: [&str; 8] = [
    "FIELD_UNSUPPORTED",
    "IMAGE_DATA_INVALID",
    "IMAGE_EMPTY",
    "KEY_INVALID",
    "PROMPTS_UNSUPPORTED",
    "TOKEN_PROMPT_UNSUPPORTED",
    "URL_INVALID",
    "VALUE_OUT_OF_RANGE",
];

/// A field that must be left out, or null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Absent;

impl<'de> Deserialize<'de> for Absent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Option::<IgnoredAny>::deserialize(deserializer)? {
            None => Ok(Self),
            Some(_) => Err(refuse("FIELD_UNSUPPORTED", "is not supported")),
        }
    }
}

/// The error of a reader of a field, for one of [`REASONS`].
pub(super) fn refuse<E: de::Error>(reason: &str, description: impl std::fmt::Display) -> E {
    E::custom(format_args!("{reason}: {description}"))
}

/// Receives a body.
///
/// # Errors
/// When it says to be no JSON, is longer than it may be, or breaks off.
pub(super) async fn receive(request: Request) -> Result<Bytes> {
    let kind = request.headers().get(header::CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind.as_bytes()));
    let essence = kind.as_deref().and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let found = if essence.is_empty() { "missing".to_owned() } else { format!("{essence:?}") };
        let message = format!("content-type is {found}: send application/json");
        return Err(Error::new(ErrorKind::Invalid, "CONTENT_TYPE_UNSUPPORTED", message));
    }
    Bytes::from_request(request, &()).await.map_err(|rejection| match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
            Error::new(ErrorKind::Invalid, "MESSAGE_TOO_LARGE", "the body is longer than a request may be")
        }
        _ => Error::new(ErrorKind::Invalid, "REQUEST_MALFORMED", "the body broke off"),
    })
}

/// Reads JSON.
///
/// # Errors
/// Names the field that is wrong; what is no JSON at all has none.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        // This is how the root is written.
        wrong(if path == "." { "" } else { &path }, error.inner())
    })?;
    json.end().map_err(|error| wrong("", &error))?;
    Ok(value)
}

fn wrong(path: &str, error: &serde_json::Error) -> Error {
    let text = error.to_string();
    if error.classify() != Category::Data {
        return Error::new(ErrorKind::Invalid, "JSON_MALFORMED", format!("the body is no JSON: {text}"));
    }
    // Where in the text it stands helps nobody whose client wrote it.
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let inside = |name: &str| match path {
        "" => name.to_owned(),
        _ => format!("{path}.{name}"),
    };
    let named = |beginning: &str| text.strip_prefix(beginning)?.split('`').next();
    if let Some(name) = named("missing field `") {
        return Error::field("FIELD_MISSING", inside(name), "must be set");
    }
    if named("unknown field `").is_some() {
        // The path leads to it already.
        return Error::field("FIELD_UNKNOWN", path, "is no field that is known here");
    }
    let reason = REASONS.iter().find_map(|reason| Some((*reason, text.strip_prefix(reason)?.strip_prefix(": ")?)));
    let (reason, description) = reason.unwrap_or(("VALUE_INVALID", text));
    let name = path.rsplit('.').next().unwrap_or_default();
    let why = REFUSED.iter().find(|(refused, _)| reason == "FIELD_UNSUPPORTED" && *refused == name);
    let description = why.map_or(description.to_owned(), |(_, why)| format!("{description}: {why}"));
    if path.is_empty() {
        return Error::new(ErrorKind::Invalid, reason, description);
    }
    Error::field(reason, path, description)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only whether it can be read is looked at")]
        inner: Vec<Inner>,
        #[serde(default)]
        #[expect(dead_code, reason = "only whether it can be read is looked at")]
        tools: Absent,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only whether it can be read is looked at")]
        number: u32,
    }

    /// Reason and field of what a body fails with.
    fn failure(body: &str) -> (String, String) {
        let error = parse::<Outer>(body.as_bytes()).expect_err(body);
        (error.reason.into_owned(), error.fields.first().map(|field| field.field.clone()).unwrap_or_default())
    }

    #[test]
    fn what_is_wrong_has_a_reason_and_a_path() {
        for (body, reason, field) in [
            (r#"{"inner": "#, "JSON_MALFORMED", ""),
            (r#"{"inner": []} x"#, "JSON_MALFORMED", ""),
            ("", "JSON_MALFORMED", ""),
            ("[]", "VALUE_INVALID", ""),
            ("7", "VALUE_INVALID", ""),
            ("{}", "FIELD_MISSING", "inner"),
            (r#"{"inner": [{"number": 1}, {}]}"#, "FIELD_MISSING", "inner[1].number"),
            (r#"{"inner": [{"number": "1"}]}"#, "VALUE_INVALID", "inner[0].number"),
            (r#"{"inner": [{"number": -1}]}"#, "VALUE_INVALID", "inner[0].number"),
            (r#"{"inner": [{"number": 1, "word": 2}]}"#, "FIELD_UNKNOWN", "inner[0].word"),
            (r#"{"inner": [], "word": 2}"#, "FIELD_UNKNOWN", "word"),
            (r#"{"inner": [], "tools": []}"#, "FIELD_UNSUPPORTED", "tools"),
        ] {
            assert_eq!(failure(body), (reason.to_owned(), field.to_owned()), "{body}");
        }
        assert!(parse::<Outer>(br#"{"inner": [{"number": 1}], "tools": null}"#).is_ok());
        let error = parse::<Outer>(br#"{"inner": [], "tools": []}"#).unwrap_err();
        assert_eq!(error.message, format!("tools: is not supported: {TOOLS}"));
    }
}
