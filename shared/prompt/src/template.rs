//! Chat templates: the checkpoint's own Jinja text, run as the reference runs it, within bounds.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, State};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::error::PromptError;
use crate::message::{Message, Part};
use crate::tokenizer::read_json;

/// Name of the one template in the environment.
const NAME: &str = "chat";

/// Work that one rendering may take; a unit is an instruction or 64 bytes of text, so this bounds time and memory.
pub(crate) const FUEL: u64 = 2_000_000;

/// How deep templates may nest.
const RECURSION_LIMIT: usize = 64;

/// What the template's own refusal starts with in an [`Error`]'s detail; no other error has it.
const REFUSAL: &str = "raise_exception: ";

/// A compiled chat template.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
    source: String,
}

/// What a template sees.
#[derive(Serialize)]
struct Context<'a, M> {
    messages: M,
    add_generation_prompt: bool,
    tools: Option<()>,
    documents: Option<()>,
    #[serde(flatten)]
    special_tokens: &'a BTreeMap<String, String>,
}

/// A message as templates know it.
#[derive(Serialize)]
struct MessageView<'a> {
    role: &'static str,
    content: Vec<PartView<'a>>,
}

/// A part of a message as templates know it.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum PartView<'a> {
    Image,
    Text { text: Cow<'a, str> },
}

impl ChatTemplate {
    /// Reads the template of a checkpoint from the first of three places that has one: `processor_config.json`,
    /// `chat_template.json`, `chat_template.jinja`.
    pub(crate) fn open(dir: &Path, special_tokens: BTreeMap<String, String>) -> Result<Self, PromptError> {
        for name in ["processor_config.json", "chat_template.json"] {
            let file = dir.join(name);
            let Some(object) = read_json(&file)? else { continue };
            match object.get("chat_template") {
                None | Some(serde_json::Value::Null) => {}
                Some(value) => {
                    let source = default_template(value).ok_or_else(|| PromptError::InvalidValue {
                        file: file.clone(),
                        key: "chat_template",
                        value: value.to_string().chars().take(120).collect(),
                        expected: "a template, or several with one of them named default",
                    })?;
                    return Self::compile(&file, source, special_tokens);
                }
            }
        }
        let file = dir.join("chat_template.jinja");
        match std::fs::read_to_string(&file) {
            Ok(source) => Self::compile(&file, &source, special_tokens),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(PromptError::NoTemplate { dir: dir.to_path_buf() })
            }
            Err(source) => Err(PromptError::Unreadable { file, source }),
        }
    }

    /// Compiles a template; `file` is for messages.
    pub(crate) fn compile(
        file: &Path,
        source: &str,
        special_tokens: BTreeMap<String, String>,
    ) -> Result<Self, PromptError> {
        let failed = |source| PromptError::InvalidTemplate { file: file.to_path_buf(), source };
        let mut environment = environment().map_err(failed)?;
        environment.add_template_owned(NAME, without_generation_blocks(source)).map_err(failed)?;
        Ok(Self { environment, special_tokens, source: source.to_owned() })
    }

    /// Returns the template's text.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation, with `map` applied to each text on its way in.
    pub(crate) fn render<'a>(
        &self,
        messages: &'a [Message],
        map: impl Fn(&'a str) -> Cow<'a, str>,
    ) -> Result<String, PromptError> {
        let part = |part: &'a Part| match part {
            Part::Image => PartView::Image,
            Part::Text(text) => PartView::Text { text: map(text) },
        };
        let views: Vec<MessageView<'a>> = messages
            .iter()
            .map(|message| MessageView {
                role: message.role.name(),
                content: message.content.iter().map(part).collect(),
            })
            .collect();
        self.render_messages(views)
    }

    /// Renders messages of any form.
    pub(crate) fn render_messages(&self, messages: impl Serialize) -> Result<String, PromptError> {
        let context = Context {
            messages,
            add_generation_prompt: true,
            tools: None,
            documents: None,
            special_tokens: &self.special_tokens,
        };
        let template = self.environment.get_template(NAME).map_err(|source| PromptError::Render { source })?;
        template.render(Value::from(Serde(context))).map_err(|source| {
            match (source.kind(), source.detail().and_then(|detail| detail.strip_prefix(REFUSAL))) {
                (_, Some(message)) => PromptError::Refused { message: message.to_owned() },
                (ErrorKind::OutOfFuel, _) => PromptError::TooLong { limit: FUEL },
                _ => PromptError::Render { source },
            }
        })
    }
}

/// The environment of the reference: blocks trimmed, Python's string methods, and a few functions.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_LIMIT);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", to_json);
    environment.add_filter("datetimeformat", minijinja_contrib::filters::datetimeformat);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    Ok(environment)
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{REFUSAL}{message}")))
}

/// The current date and time (UTC) in a format of C's `strftime`.
fn strftime_now(state: &mut State<'_, '_>, format: &str) -> Result<Value, Error> {
    let format = Kwargs::from_iter([("format", Value::from(format))]);
    state.apply_filter("datetimeformat", &[minijinja_contrib::globals::now(), Value::from(format)])
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it; the engine's own filter escapes for HTML.
#[expect(clippy::needless_pass_by_value, reason = "the engine hands keyword arguments over by value")]
fn to_json(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    // Python's default is what the reference passes on.
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let mut text = Vec::new();
    let written = match indent {
        Some(indent) => {
            let indent = vec![b' '; indent.min(16)];
            value.serialize(&mut Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(&indent)))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut text, PythonFormatter)),
    };
    let failed = |error: &dyn std::error::Error| Error::new(ErrorKind::InvalidOperation, error.to_string());
    written.map_err(|error| failed(&error))?;
    String::from_utf8(text).map(Value::from).map_err(|error| failed(&error))
}

/// One line, with a space after each comma and colon.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// One template, or the one named `default` of several.
fn default_template(value: &serde_json::Value) -> Option<&str> {
    match value {
        serde_json::Value::String(template) => Some(template),
        serde_json::Value::Object(templates) => templates.get("default")?.as_str(),
        serde_json::Value::Array(templates) => {
            templates.iter().find(|template| template["name"] == "default")?["template"].as_str()
        }
        _ => None,
    }
}

/// The reference marks the model's own words with `{% generation %}` blocks for training; they have no other effect
/// than that of a scope, which is what they are replaced with.
fn without_generation_blocks(source: &str) -> String {
    let mut rest = source;
    let mut result = String::with_capacity(source.len());
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        result.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let name = tag[..end].trim_matches(|character: char| character.is_whitespace() || "-+".contains(character));
        let replacement = match name {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => continue,
        };
        result.push_str(&tag[..end].replacen(name, replacement, 1));
        rest = &tag[end..];
    }
    result.push_str(rest);
    result
}
