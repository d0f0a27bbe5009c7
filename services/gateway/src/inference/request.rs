//! Requests: tensors and parameters to a conversation or a prompt, each thing checked once and named by its client's path.

mod inputs;
mod parameters;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde_json::{Map, Value};
use tessera_api::gateway::{self, GenerateRequest, ImageSource, Message, Part, Role};
use tessera_api::proto::inference as proto;
use tessera_api::{Error, Result};

use super::model::{OUTPUTS, Output, Tensor, input, shown};
use super::sampling::Sampling;
use crate::words::Words;
use inputs::Inputs;
use parameters::Parameters;

/// The input that holds sampling parameters.
const SAMPLING: &str = "sampling_parameters";
/// What a tensor names that lies in shared memory.
const SHARED_MEMORY: &str = "shared_memory_";

/// A request as it was understood.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: GenerateRequest,
    pub(super) reply: Reply,
    /// What the client calls the parts of the request.
    pub(super) words: Words,
    /// How long it may take, if it says so.
    pub(super) time: Option<Duration>,
}

/// What the client wants to have back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// The request's id.
    pub(super) id: String,
    /// In the order in which they were asked for.
    pub(super) outputs: Vec<Output>,
    /// What stands in front of each text.
    pub(super) prefix: String,
    /// Answers.
    pub(super) samples: usize,
    /// The answer comes in pieces.
    pub(super) in_pieces: bool,
    /// The last piece may be empty.
    pub(super) may_end_empty: bool,
}

/// Reads a request to the model, whose image token is `image_token`.
///
/// # Errors
/// `Invalid`, with the path of what is at fault.
pub(super) fn read(request: proto::ModelInferRequest, image_token: &str) -> Result<Asked> {
    let proto::ModelInferRequest { id, parameters, inputs, outputs, raw_input_contents, .. } = request;
    let Parameters { time, may_end_empty, sampling } = Parameters::read(parameters)?;
    let Inputs { text, images, stream, sampling: in_input, exclude, also } = Inputs::read(inputs, raw_input_contents)?;
    let text = text.ok_or_else(|| Error::field("INPUT_MISSING", input("text_input"), "must be given"))?;
    if stream && exclude == Some(false) {
        let what = "must be true, or left out, where `stream` is true";
        return Err(Error::field("SETTINGS_CONFLICT", input("exclude_input_in_output"), what));
    }
    let mut words = Words::default();
    words.say("request_id", "id");
    let Sampling { mut settings, chat_template } = sampling_of(in_input, &sampling, &mut words)?;
    let outputs = wanted(outputs, also)?;
    // There is no tensor of unknown length.
    let samples = settings.samples.get_or_insert(NonZeroUsize::MIN).get();
    if outputs.iter().any(|output| matches!(output, Output::Logprobs | Output::CumulativeLogprob)) {
        settings.logprobs.get_or_insert(0);
    }
    let settings = settings.check().map_err(|error| words.of(error))?;
    let prefix = if exclude.unwrap_or(stream) { String::new() } else { text.clone() };
    let asked = match chat_template {
        Some(false) => prompt(&text, images, image_token, &mut words)?,
        _ => turn(text, images, &mut words),
    };
    let reply = Reply { id: id.clone(), outputs, prefix, samples, in_pieces: stream, may_end_empty };
    Ok(Asked { request: GenerateRequest { request_id: id, input: asked, settings }, reply, words, time })
}

/// A turn of a user, who shows images and then says something.
fn turn(text: String, images: Vec<(String, ImageSource)>, words: &mut Words) -> gateway::Input {
    words.say("messages", "inputs");
    let mut parts = Vec::with_capacity(images.len() + 1);
    for (theirs, image) in images {
        words.say(format!("messages[0].parts[{}].image", parts.len()), theirs);
        parts.push(Part::Image(image));
    }
    words.say(format!("messages[0].parts[{}]", parts.len()), input("text_input"));
    parts.push(Part::Text(text));
    gateway::Input::Conversation(vec![Message { role: Role::User, parts }])
}

/// A prompt as it is, with an image wherever it spells the image token.
///
/// # Errors
/// When it does so more or less often than there are images.
fn prompt(
    text: &str,
    images: Vec<(String, ImageSource)>,
    image_token: &str,
    words: &mut Words,
) -> Result<gateway::Input> {
    words.say("prompt", "inputs");
    let (places, found) = (text.matches(image_token).count(), images.len());
    if places != found {
        let what = format!("has {image_token} {places} times, for {found} images");
        return Err(Error::field("PROMPT_IMAGE_COUNT", input("text_input"), what));
    }
    let (mut texts, mut parts) = (text.split(image_token), Vec::with_capacity(2 * found + 1));
    parts.extend(texts.next().map(|text| Part::Text(text.to_owned())));
    for ((theirs, image), text) in images.into_iter().zip(texts) {
        words.say(format!("prompt[{}].image", parts.len()), theirs);
        parts.push(Part::Image(image));
        parts.push(Part::Text(text.to_owned()));
    }
    Ok(gateway::Input::Prompt(parts))
}

/// Sampling parameters: those of the input or, where there is none, those beside the tensors.
fn sampling_of(
    in_input: Option<Map<String, Value>>,
    beside: &Map<String, Value>,
    words: &mut Words,
) -> Result<Sampling> {
    let Some(parameters) = in_input else {
        words.say("settings", "parameters");
        return Sampling::read(beside, |name| format!("parameters[{name:?}]"), words);
    };
    if let Some(name) = beside.keys().next() {
        let what = format!("parameters are given in {} already: put all of them there", input(SAMPLING));
        return Err(Error::field("SETTINGS_CONFLICT", format!("parameters[{}]", shown(name)), what));
    }
    words.say("settings", input(SAMPLING));
    Sampling::read(&parameters, |name| format!("{}.{name}", input(SAMPLING)), words)
}

/// Outputs that were asked for, by name or by an input.
fn wanted(
    requested: Vec<proto::model_infer_request::InferRequestedOutputTensor>,
    also: Vec<Output>,
) -> Result<Vec<Output>> {
    if requested.is_empty() {
        return Ok([Output::Text].into_iter().chain(also).collect());
    }
    let mut outputs = Vec::with_capacity(requested.len().min(OUTPUTS.len()));
    for requested in requested {
        let path = format!("outputs[{}]", shown(&requested.name));
        let Some(known) = OUTPUTS.iter().find(|output| output.name == requested.name) else {
            let what = format!("there is no such output: there are {}", names(&OUTPUTS));
            return Err(Error::field("OUTPUT_UNKNOWN", path, what));
        };
        if outputs.contains(&known.which) {
            return Err(Error::field("OUTPUT_REPEATED", path, "is asked for twice"));
        }
        no_parameters(&path, &requested.parameters)?;
        outputs.push(known.which);
    }
    Ok(outputs)
}

/// Refuses what a tensor says beside its contents.
fn no_parameters(path: &str, parameters: &BTreeMap<String, proto::InferParameter>) -> Result<()> {
    let Some(name) = parameters.keys().next() else { return Ok(()) };
    let (reason, what) = if name.starts_with(SHARED_MEMORY) {
        ("SHARED_MEMORY_UNSUPPORTED", "tensors travel in the message itself, not by shared memory".to_owned())
    } else {
        ("PARAMETER_UNSUPPORTED", format!("has a parameter {}, none is known", shown(name)))
    };
    Err(Error::field(reason, path, what))
}

/// The names of all tensors of a list.
fn names<T>(tensors: &[Tensor<T>]) -> String {
    tensors.iter().map(|tensor| tensor.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
