//! What is said and shown: messages of a conversation, and pictures in them.

use std::fmt;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use tessera_api::gateway::{self, ImageSource, Place};
use tessera_api::{Error, Result};
use tessera_embedding::ImageKey;

use super::body::{Absent, refuse};
use crate::words::Words;

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One turn of a conversation.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    /// Who speaks.
    role: Role,
    /// What they say and show.
    content: Content,
    #[serde(default, rename = "audio")]
    #[schemars(skip)]
    _audio: Absent,
    #[serde(default, rename = "function_call")]
    #[schemars(skip)]
    _function_call: Absent,
    #[serde(default, rename = "name")]
    #[schemars(skip)]
    _name: Absent,
    #[serde(default, rename = "refusal")]
    #[schemars(skip)]
    _refusal: Absent,
    #[serde(default, rename = "tool_call_id")]
    #[schemars(skip)]
    _tool_call_id: Absent,
    #[serde(default, rename = "tool_calls")]
    #[schemars(skip)]
    _tool_calls: Absent,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    /// Instructions.
    System,
    /// The same, as newer clients call it.
    Developer,
    /// The person or program that asks.
    User,
    /// The model, in an earlier turn.
    Assistant,
}

/// What is said and shown.
#[derive(Debug)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A text, or an image.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// Which of the other fields is set.
    #[serde(rename = "type")]
    kind: PartKind,
    /// Of type `text`: plain text. Text that spells a special token is text.
    text: Option<String>,
    /// Of type `image_url`: an image by its file or by where that is.
    image_url: Option<ImageUrl>,
    /// Of type `image_embedding`, which only this gateway knows: an image that was encoded before.
    image_embedding: Option<ImageEmbedding>,
}

/// Kinds of parts.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum PartKind {
    /// Text.
    Text,
    /// An image by its file or by where that is.
    ImageUrl,
    /// An image that was encoded before.
    ImageEmbedding,
}

/// An image by its file or by where that is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageUrl {
    /// The file itself as `data:image/…;base64,…`: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF, told apart by its
    /// content; or `https://…`, if this gateway fetches images from there.
    url: Url,
    /// Images are always cut as their size demands: `auto` or `high`.
    #[serde(default, rename = "detail")]
    _detail: Option<Detail>,
}

/// How much of an image is looked at.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Detail {
    /// As its size demands.
    Auto,
    /// As its size demands.
    High,
}

/// An image that was encoded before.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageEmbedding {
    /// Its key, as `tessera encode` prints it: 64 hexadecimal digits.
    handle: Handle,
}

#[derive(Debug)]
struct Url(ImageSource);

#[derive(Debug)]
struct Handle(ImageKey);

/// Makes the gateway's own messages of these, and notes what their fields are called there.
///
/// # Errors
/// Names the part that is of another type than it says.
pub(super) fn conversation(messages: Vec<Message>, words: &mut Words) -> Result<Vec<gateway::Message>> {
    let message = |(index, message): (usize, Message)| {
        let role = match message.role {
            Role::System | Role::Developer => gateway::Role::System,
            Role::User => gateway::Role::User,
            Role::Assistant => gateway::Role::Assistant,
        };
        let parts = match message.content {
            Content::Text(text) => vec![gateway::Part::Text(text)],
            Content::Parts(parts) => {
                let parts = parts.into_iter().enumerate().map(|(part, content)| {
                    let ours = Place { message: Some(index), part };
                    content.read(ours, format_args!("messages[{index}].content[{part}]"), words)
                });
                parts.collect::<Result<_>>()?
            }
        };
        Ok(gateway::Message { role, parts })
    };
    messages.into_iter().enumerate().map(message).collect()
}

impl Part {
    /// The gateway's own part of this one, which stands at `ours` there and at `theirs` here.
    ///
    /// # Errors
    /// When another field is set than its type says.
    pub(super) fn read(self, ours: Place, theirs: fmt::Arguments<'_>, words: &mut Words) -> Result<gateway::Part> {
        let Self { kind, text, image_url, image_embedding } = self;
        let (name, read, others) = match kind {
            PartKind::Text => ("text", text.map(gateway::Part::Text), image_url.is_some() || image_embedding.is_some()),
            PartKind::ImageUrl => {
                let image = image_url.map(|image| gateway::Part::Image(image.url.0));
                ("image_url", image, text.is_some() || image_embedding.is_some())
            }
            PartKind::ImageEmbedding => {
                let image = image_embedding.map(|image| gateway::Part::Image(ImageSource::Stored(image.handle.0)));
                ("image_embedding", image, text.is_some() || image_url.is_some())
            }
        };
        match read {
            Some(_) if others => {
                let description = format!("has more than the {name} of its type");
                Err(Error::field("PART_CONFLICT", theirs.to_string(), description))
            }
            Some(part) => {
                if matches!(part, gateway::Part::Image(_)) {
                    words.say(format!("{ours}.image"), format!("{theirs}.{name}"));
                }
                Ok(part)
            }
            None => Err(Error::field("FIELD_MISSING", format!("{theirs}.{name}"), "must be set")),
        }
    }

    /// Whether it is text.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.kind, PartKind::Text)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrParts;

        impl<'de> Visitor<'de> for TextOrParts {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or an array of parts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, parts: A) -> Result<Content, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(parts)).map(Content::Parts)
            }
        }

        deserializer.deserialize_any(TextOrParts)
    }
}

impl JsonSchema for Content {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Content".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let part = generator.subschema_for::<Part>();
        schemars::json_schema!({ "anyOf": [{"type": "string"}, {"type": "array", "items": part}] })
    }
}

impl<'de> Deserialize<'de> for Detail {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "auto" => Ok(Self::Auto),
            "high" => Ok(Self::High),
            other => {
                let description =
                    format!("is {other:?}: images are always cut as their size demands, which is \"high\"");
                Err(refuse("FIELD_UNSUPPORTED", description))
            }
        }
    }
}

/// Reads a text without keeping it.
macro_rules! of_text {
    ($name:ident, $expecting:literal, $read:path) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $read(text).map($name)
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $expecting })
            }
        }
    };
}

of_text!(Url, "data:image/…;base64,… or https://…", source);
of_text!(Handle, "64 hexadecimal digits", handle);

fn handle<E: de::Error>(text: &str) -> Result<ImageKey, E> {
    text.parse().map_err(|error| refuse("KEY_INVALID", format_args!("is no handle: {error}")))
}

/// Decodes the one copy that is made of a file.
fn source<E: de::Error>(text: &str) -> Result<ImageSource, E> {
    let data = text.split_once(':').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("data"));
    let Some((_, rest)) = data else {
        let url =
            text.parse().map_err(|error| refuse("URL_INVALID", format_args!("{error}, or data:image/…;base64,…")));
        return Ok(ImageSource::Url(url?));
    };
    let wrong = |description: &str| refuse("IMAGE_DATA_INVALID", description);
    let (kind, data) = rest.split_once(',').ok_or_else(|| wrong("has no comma: write data:image/…;base64,…"))?;
    let media = kind.split(';').next().unwrap_or_default();
    if !media.get(..6).is_some_and(|media| media.eq_ignore_ascii_case("image/")) {
        return Err(wrong("is of another type than image: write data:image/…;base64,…"));
    }
    if !kind.rsplit(';').next().is_some_and(|last| last.eq_ignore_ascii_case("base64")) {
        return Err(wrong("is not in base64: write data:image/…;base64,…"));
    }
    let file = BASE64.decode(data).map_err(|error| wrong(&format!("is no base64: {error}")))?;
    if file.is_empty() {
        return Err(refuse("IMAGE_EMPTY", "has no bytes"));
    }
    Ok(ImageSource::File(Bytes::from(file)))
}
