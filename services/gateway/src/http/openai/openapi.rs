//! `/openapi.json`: what is served, in OpenAPI's words. The schemas are those of the types that requests are read into and
//! answers are written from, so they cannot say anything else.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::answer::Reply;
use super::chat::{ChatChoice, ChatPiece, ChatRequest};
use super::completions::{CompletionRequest, TextChoice};
use super::models::{Model, Models};
use super::tokens::{DetokenizeRequest, Detokenized, TokenizeRequest, Tokens};

/// What goes wrong, in the form that clients of OpenAI's API read.
#[derive(Debug, Serialize, JsonSchema)]
struct Failed {
    error: FailedError,
}

/// What went wrong.
#[derive(Debug, Serialize, JsonSchema)]
struct FailedError {
    /// One line for people.
    message: String,
    /// What OpenAI's API calls this kind of failure.
    r#type: String,
    /// The field at fault.
    param: Option<String>,
    /// A reason for programs, which never changes.
    code: String,
    /// All else that is known: its kind, the values that matter, and every field at fault.
    details: Map<String, Value>,
}

/// Schemas of requests and of answers, which meet in one list.
struct Schemas {
    requests: SchemaGenerator,
    answers: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
            })
        };
        Self {
            requests: settings().for_deserialize().into_generator(),
            answers: settings().for_serialize().into_generator(),
        }
    }

    fn request<T: JsonSchema>(&mut self) -> Value {
        let schema = self.requests.subschema_for::<T>();
        json!({"required": true, "content": {"application/json": {"schema": schema}}})
    }

    fn answer<T: JsonSchema>(&mut self, description: &str) -> Value {
        json!({"description": description, "content": {"application/json": {"schema": self.schema::<T>()}}})
    }

    fn schema<T: JsonSchema>(&mut self) -> Schema {
        self.answers.subschema_for::<T>()
    }

    /// An answer, which may be streamed.
    fn streamed<W: JsonSchema, P: JsonSchema>(&mut self) -> Value {
        let description =
            "The answer; or, if it is streamed, events whose data are pieces of it, and `[DONE]` at the end.";
        let mut answer = self.answer::<Reply<W>>(description);
        answer["content"]["text/event-stream"] = json!({"schema": self.schema::<Reply<P>>()});
        answer
    }
}

/// The document.
pub(super) fn document() -> Value {
    let mut schemas = Schemas::new();
    let post = |name: &str, about: &str, body: Value, answer: Value| {
        let responses = responses(&answer);
        json!({"operationId": name, "summary": about, "requestBody": body, "responses": responses})
    };
    let paths = json!({
        "/v1/chat/completions": {"post": post(
            "createChatCompletion", "Answers a conversation, with images in it.",
            schemas.request::<ChatRequest>(), schemas.streamed::<ChatChoice, ChatPiece>(),
        )},
        "/v1/completions": {"post": post(
            "createCompletion", "Continues a prompt as it is, without a template.",
            schemas.request::<CompletionRequest>(), schemas.streamed::<TextChoice, TextChoice>(),
        )},
        "/v1/models": {"get": {
            "operationId": "listModels", "summary": "Lists the model that is served.",
            "responses": responses(&schemas.answer::<Models>("The model.")),
        }},
        "/v1/models/{name}": {"get": {
            "operationId": "retrieveModel", "summary": "Shows the model that is served.",
            "parameters": [{"name": "name", "in": "path", "required": true, "schema": {"type": "string"}}],
            "responses": responses(&schemas.answer::<Model>("The model.")),
        }},
        "/tokenize": {"post": post(
            "tokenize", "Says what tokens a prompt or a conversation is. Nothing is encoded and nothing generated.",
            schemas.request::<TokenizeRequest>(), schemas.answer::<Tokens>("The tokens."),
        )},
        "/detokenize": {"post": post(
            "detokenize", "Says what text tokens are.",
            schemas.request::<DetokenizeRequest>(), schemas.answer::<Detokenized>("The text."),
        )},
        "/health": {"get": open("health", "Says that the gateway serves. What its pools do is not looked at.")},
        "/version": {"get": open("version", "Says which version this is.")},
        "/openapi.json": {"get": open("document", "This document.")},
    });
    let failed = schemas.answer::<Failed>("What is wrong.");
    let mut components = schemas.requests.take_definitions(false);
    components.extend(schemas.answers.take_definitions(false));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tessera",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "OpenAI's API for LLaVA-NeXT models. What of it cannot be had is refused with a reason.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        // A gateway that knows its tenants asks for a token, others do not.
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {"Failed": failed},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

/// The responses of an operation that may fail.
fn responses(answer: &Value) -> Value {
    json!({"200": answer, "default": {"$ref": "#/components/responses/Failed"}})
}

/// An operation that needs no token and does not fail.
fn open(name: &str, about: &str) -> Value {
    let responses = json!({"200": {"description": "It is so."}});
    json!({"operationId": name, "summary": about, "security": [], "responses": responses})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every reference in a document.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(reference)) = object.get("$ref") {
                    found.insert(reference.clone());
                }
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(array) => array.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_names_are_those_that_may_be() {
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in &found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)), "{name}");
        }
    }

    #[test]
    fn fields_are_described_and_what_is_refused_is_not_there() {
        let document = document();
        let fields = &document["components"]["schemas"]["ChatRequest"]["properties"];
        for name in ["messages", "temperature", "top_k", "response_format", "user", "n"] {
            assert!(fields[name]["description"].is_string(), "{name}: {}", fields[name]);
        }
        for name in ["tools", "audio", "best_of", "_user", "functions"] {
            assert!(fields.get(name).is_none(), "{name}");
        }
        assert_eq!(document["components"]["schemas"]["ChatRequest"]["additionalProperties"], false);
        assert_eq!(document["components"]["schemas"]["ChatRequest"]["required"], json!(["model", "messages"]));
    }
}
