//! From a conversation or a prompt to what the pools need: keys and plans of the images, the prompt, generation settings.

use bytes::Bytes;
use tessera_anyres::{Geometry, ImageSize, Padding, Plan, Shape};
use tessera_api::embedding::KeyStatus;
use tessera_api::gateway::{self, GenerateRequest, ImagePlan, ImageSource, Input, Place};
use tessera_api::vision::EncodeRequest;
use tessera_api::{Error, ErrorKind, Result};
use tessera_checkpoint::{Checkpoint, GenerationDefaults};
use tessera_embedding::{EncoderFingerprint, ImageKey};
use tessera_image::{Format, ImageSettings, Probe};
use tessera_prompt::{Message, Part, Prompt, PromptError, Prompter, Role};

use crate::admission::Cost;
use crate::defaults::{self, Generation, Lengths, Room};
use crate::settings::{LimitSettings, Settings};
use crate::tenant::Tenant;
use crate::urls;

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
#[derive(Clone, Debug)]
pub(crate) struct Pools {
    /// Of the vision pool; not asked for when a request has no images.
    pub(crate) fingerprint: Option<EncoderFingerprint>,
    /// Longest sequence of the language pool.
    pub(crate) context: usize,
    /// What is stored under the handles of a request.
    pub(crate) stored: Vec<KeyStatus>,
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
    pub(crate) key: ImageKey,
    pub(crate) plan: Plan,
    /// What has it encoded; nothing where a handle stands for it.
    pub(crate) request: Option<EncodeRequest>,
}

/// An image of which only the header was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inspected {
    pub(crate) format: Format,
    /// Its size, as it is decoded.
    pub(crate) size: ImageSize,
    /// The orientation that it names is followed.
    pub(crate) is_upright: bool,
    /// Side of a tile in pixels.
    pub(crate) tile: u32,
    /// How it, or the constant shape that it is given, would be cut.
    pub(crate) plan: Plan,
    /// Its own size in the grid, and the border around it.
    pub(crate) resized: ImageSize,
    pub(crate) padding: Padding,
}

impl Prepared {
    /// What it takes of the pools at most.
    pub(crate) fn cost(&self) -> Cost {
        let encoded = self.images.iter().filter(|image| image.request.is_some());
        let beams = self.generation.beam_search.map_or(0, |search| search.beams);
        let answers = self.generation.samples.get().max(beams);
        let tokens = self.prompt.ids.len().saturating_add(answers.saturating_mul(self.lengths.max.get()));
        Cost { tiles: encoded.map(|image| image.plan.tile_count()).sum(), tokens }
    }
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

    /// Checks what can be said of a request before anything is fetched for it.
    ///
    /// # Errors
    /// `Invalid` for more images than may be.
    pub(crate) fn check(&self, input: &Input) -> Result<()> {
        let images = input.parts().filter(|part| matches!(part, gateway::Part::Image(_)));
        let (found, limit) = (images.count(), self.limits.images);
        if found <= limit {
            return Ok(());
        }
        let error = Error::field("TOO_MANY_IMAGES", input.field(), format!("{found} images, the limit is {limit}"));
        Err(error.with("images", found).with("limit", limit))
    }

    /// Prepares a request. Computes for milliseconds: hashes images, renders the template, tokenizes.
    ///
    /// # Errors
    /// `Invalid`, with the path of the field that is at fault; `NotFound` for a handle of which nothing is stored.
    pub(crate) fn prepare(&self, tenant: &Tenant, request: GenerateRequest, pools: &Pools) -> Result<Prepared> {
        let GenerateRequest { input, settings, .. } = request;
        let generation = defaults::generation(&settings, &self.generation)?;
        let field = input.field();
        let (prompt, images) = self.prompt(tenant, input, pools)?;
        let room =
            Room { field, default: self.limits.default_max_tokens, prompt: prompt.ids.len(), context: pools.context };
        let lengths = defaults::lengths(&settings, &self.generation, room)?;
        Ok(Prepared { prompt, images, generation, lengths, settings })
    }

    /// Makes the prompt of an input, with its images.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub(crate) fn prompt(&self, tenant: &Tenant, input: Input, pools: &Pools) -> Result<(Prompt, Vec<PreparedImage>)> {
        let field = input.field();
        let (sources, text) = split(input);
        let images = match &pools.fingerprint {
            Some(encoder) => sources
                .into_iter()
                .map(|(field, source)| match source {
                    ImageSource::File(file) => {
                        let (request, plan) = self.file(tenant, &field, file, encoder)?;
                        Ok(PreparedImage { field, key: request.key, plan, request: Some(request) })
                    }
                    ImageSource::Stored(key) => self.stored(tenant, field, key, encoder, &pools.stored),
                    // Where images are fetched, a file stands here by now.
                    ImageSource::Url(_) => Err(urls::disabled(&field)),
                })
                .collect(),
            None => Ok(Vec::new()),
        };
        let images: Vec<PreparedImage> = images?;
        let counts: Vec<usize> = images.iter().map(|image| image.plan.image_tokens()).collect();
        let prompt = match text {
            Text::Conversation(messages) => self.prompter.prompt(&messages, &counts),
            Text::Prompt(parts) => self.prompter.plain(&parts, &counts),
        };
        let prompt = prompt.map_err(|error| Error::field(error.reason(), field, with_causes(&error)))?;
        Ok((prompt, images))
    }

    /// Reads the header of an image file: how it would be cut, and where it would lie in its grid.
    ///
    /// # Errors
    /// `Invalid` for what is no image that can be used.
    pub(crate) fn inspect(&self, tenant: &Tenant, field: &str, file: &[u8]) -> Result<Inspected> {
        let probe = self.probe(field, file)?;
        let size = probe.size_for(self.image.source);
        let plan = self.geometry.plan_of(size, tenant.shape);
        let (resized, padding) = match tenant.shape {
            Shape::Own => (plan.resized, plan.padding),
            Shape::Constant => {
                let frame = self.geometry.frame(size);
                (frame.resized, frame.padding)
            }
        };
        let (format, is_upright) = (probe.format, probe.is_upright_for(self.image.source));
        Ok(Inspected { format, size, is_upright, tile: self.geometry.tile(), plan, resized, padding })
    }

    fn probe(&self, field: &str, file: &[u8]) -> Result<Probe> {
        tessera_image::probe(file, &self.image.limits())
            .map_err(|error| Error::field(error.reason(), field, error.to_string()))
    }

    /// Reads the header of an image file and computes its key.
    ///
    /// # Errors
    /// `Invalid` for what is no image that can be used.
    pub(crate) fn file(
        &self,
        tenant: &Tenant,
        field: &str,
        file: Bytes,
        encoder: &EncoderFingerprint,
    ) -> Result<(EncodeRequest, Plan)> {
        let probe = self.probe(field, &file)?;
        let (salt, shape) = (tenant.salt.clone(), tenant.shape);
        let plan = self.geometry.plan_of(probe.size_for(self.image.source), shape);
        let key = ImageKey::of_shape(shape, &salt, encoder, &file);
        Ok((EncodeRequest { image: file, key, tenant_salt: salt, shape }, plan))
    }

    /// Looks a handle up in what the vision pool says is stored.
    fn stored(
        &self,
        tenant: &Tenant,
        field: String,
        key: ImageKey,
        encoder: &EncoderFingerprint,
        stored: &[KeyStatus],
    ) -> Result<PreparedImage> {
        let found = stored.iter().find(|status| status.key == key).and_then(|status| status.stored);
        let Some(image) = found else {
            let message = format!("{field}: image {key} is not stored any more: send its file");
            let error = Error::new(ErrorKind::NotFound, "EMBEDDING_NOT_FOUND", message);
            return Err(error.with("key", key).with("field", field));
        };
        if image.encoder != *encoder {
            let message =
                format!("{field}: image {key} was encoded by another model or with other settings: send its file");
            let error = Error::new(ErrorKind::Precondition, "ENCODER_MISMATCH", message);
            return Err(error.with("key", key).with("encoder", image.encoder));
        }
        let plan = self.geometry.plan(image.image_size);
        if tenant.shape == Shape::Constant && plan.image != self.geometry.constant_size() {
            let message = format!("{field}: image {key} was encoded in a shape of its own: send its file");
            let error = Error::new(ErrorKind::Precondition, "SHAPE_MISMATCH", message);
            return Err(error.with("key", key).with("field", field));
        }
        Ok(PreparedImage { field, key, plan, request: None })
    }
}

/// How the image was, or would be, cut.
pub(crate) fn image_plan(key: ImageKey, plan: &Plan) -> ImagePlan {
    ImagePlan {
        key,
        image_size: plan.image,
        grid: plan.grid,
        tiles: plan.tile_count(),
        image_tokens: plan.image_tokens(),
    }
}

/// What is left of an input without its images.
enum Text {
    Conversation(Vec<Message>),
    Prompt(Vec<Part>),
}

/// Takes the images out of an input, each with its path.
fn split(input: Input) -> (Vec<(String, ImageSource)>, Text) {
    let mut sources = Vec::new();
    let mut part = |place: Place, part| match part {
        gateway::Part::Text(text) => Part::Text(text),
        gateway::Part::Image(source) => {
            sources.push((format!("{place}.image"), source));
            Part::Image
        }
    };
    let mut parts = |message, parts: Vec<gateway::Part>| {
        parts.into_iter().enumerate().map(|(index, content)| part(Place { message, part: index }, content)).collect()
    };
    let text = match input {
        Input::Conversation(messages) => {
            let message = |(index, message): (usize, gateway::Message)| {
                let role = match message.role {
                    gateway::Role::System => Role::System,
                    gateway::Role::User => Role::User,
                    gateway::Role::Assistant => Role::Assistant,
                };
                Message { role, content: parts(Some(index), message.parts) }
            };
            Text::Conversation(messages.into_iter().enumerate().map(message).collect())
        }
        Input::Prompt(prompt) => Text::Prompt(parts(None, prompt)),
    };
    (sources, text)
}

/// An error with the errors that it came from, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
