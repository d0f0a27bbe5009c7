//! From a conversation to what the pools need: keys and plans of the images, the prompt, generation settings.

use bytes::Bytes;
use tessera_anyres::{Geometry, Plan};
use tessera_api::gateway::{self, GenerateRequest};
use tessera_api::{Error, Result};
use tessera_checkpoint::{Checkpoint, GenerationDefaults};
use tessera_embedding::{EncoderFingerprint, ImageKey};
use tessera_image::ImageSettings;
use tessera_prompt::{Message, Part, Prompt, PromptError, Prompter, Role};

use crate::defaults::{self, Generation, Lengths, Room};
use crate::settings::{LimitSettings, Settings};

/// What preparing needs of the checkpoint and the settings.
#[derive(Debug)]
pub(crate) struct Preparer {
    pub(crate) prompter: Prompter,
    geometry: Geometry,
    generation: GenerationDefaults,
    image: ImageSettings,
    limits: LimitSettings,
}

/// What the pools of this moment say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pools {
    /// Of the vision pool; not asked for when a request has no images.
    pub(crate) fingerprint: Option<EncoderFingerprint>,
    /// Longest sequence of the language pool.
    pub(crate) context: usize,
}

/// A request that can be sent to the pools.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) prompt: Prompt,
    pub(crate) images: Vec<PreparedImage>,
    pub(crate) generation: Generation,
    pub(crate) lengths: Lengths,
    /// As the client gave them, for what needs no default.
    pub(crate) settings: gateway::Settings,
}

/// An image of a request.
#[derive(Clone, Debug)]
pub(crate) struct PreparedImage {
    /// Its path in the request.
    pub(crate) field: String,
    pub(crate) file: Bytes,
    pub(crate) key: ImageKey,
    pub(crate) plan: Plan,
}

impl Preparer {
    /// Reads tokenizer and chat template.
    ///
    /// # Errors
    /// When they are missing, wrong, or of another model.
    pub(crate) fn open(checkpoint: &Checkpoint, settings: &Settings) -> Result<Self, PromptError> {
        Ok(Self {
            prompter: Prompter::open(checkpoint)?,
            geometry: checkpoint.geometry(),
            generation: checkpoint.generation.clone(),
            image: settings.image,
            limits: settings.limits.clone(),
        })
    }

    /// Prepares a request. Computes for milliseconds: hashes images, renders the template, tokenizes.
    ///
    /// # Errors
    /// `Invalid`, with the path of the field that is at fault.
    pub(crate) fn prepare(&self, request: GenerateRequest, pools: Pools) -> Result<Prepared> {
        let GenerateRequest { messages, settings, .. } = request;
        let generation = defaults::generation(&settings, &self.generation)?;
        let (messages, files) = split(messages);
        if files.len() > self.limits.images {
            let (found, limit) = (files.len(), self.limits.images);
            let error = Error::field("TOO_MANY_IMAGES", "messages", format!("{found} images, the limit is {limit}"));
            return Err(error.with("images", found).with("limit", limit));
        }
        let images = match &pools.fingerprint {
            Some(encoder) => files.into_iter().map(|(field, file)| self.image(field, file, encoder)).collect(),
            None => Ok(Vec::new()),
        };
        let images: Vec<PreparedImage> = images?;
        let counts: Vec<usize> = images.iter().map(|image| image.plan.image_tokens()).collect();
        let prompt = self
            .prompter
            .prompt(&messages, &counts)
            .map_err(|error| Error::field(error.reason(), "messages", sources(&error)))?;
        let room = Room { default: self.limits.default_max_tokens, prompt: prompt.ids.len(), context: pools.context };
        let lengths = defaults::lengths(&settings, &self.generation, room)?;
        Ok(Prepared { prompt, images, generation, lengths, settings })
    }

    fn image(&self, field: String, file: Bytes, fingerprint: &EncoderFingerprint) -> Result<PreparedImage> {
        let probe = tessera_image::probe(&file, &self.image.limits())
            .map_err(|error| Error::field(error.reason(), field.clone(), error.to_string()))?;
        let plan = self.geometry.plan(probe.size_for(self.image.source));
        // One tenant for now: its salt is empty.
        let key = ImageKey::of(&[], fingerprint, &file);
        Ok(PreparedImage { field, file, key, plan })
    }
}

/// Takes the image files out of the messages, each with its path.
fn split(messages: Vec<gateway::Message>) -> (Vec<Message>, Vec<(String, Bytes)>) {
    let mut files = Vec::new();
    let messages = messages.into_iter().enumerate().map(|(index, message)| {
        let role = match message.role {
            gateway::Role::System => Role::System,
            gateway::Role::User => Role::User,
            gateway::Role::Assistant => Role::Assistant,
        };
        let content = message.parts.into_iter().enumerate().map(|(part_index, part)| match part {
            gateway::Part::Text(text) => Part::Text(text),
            gateway::Part::Image(file) => {
                files.push((format!("messages[{index}].parts[{part_index}].image"), file));
                Part::Image
            }
        });
        Message { role, content: content.collect() }
    });
    (messages.collect(), files)
}

/// An error with the errors that it came from, in one line.
fn sources(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
