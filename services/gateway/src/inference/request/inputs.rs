//! Inputs: tensors of known names, types and shapes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};
use tessera_api::gateway::ImageSource;
use tessera_api::proto::inference::model_infer_request::InferInputTensor;
use tessera_api::{Error, Result};
use tessera_embedding::ImageKey;

use super::{names, no_parameters};
use crate::inference::model::{INPUTS, Input, Length, Output, Tensor, input, shown};
use crate::inference::tensor::Contents;

/// What inputs say, before it is known what that comes to.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub(super) text: Option<String>,
    /// Each with its path, in their order.
    pub(super) images: Vec<(String, ImageSource)>,
    pub(super) stream: bool,
    pub(super) sampling: Option<Map<String, Value>>,
    pub(super) exclude: Option<bool>,
    /// Outputs that an input asks for.
    pub(super) also: Vec<Output>,
}

impl Inputs {
    /// Reads them; `raw` has the contents of all of them, or of none.
    ///
    /// # Errors
    /// `Invalid`, with the path of the input that is at fault.
    pub(super) fn read(tensors: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<Self> {
        for tensor in &tensors {
            // Those have no contents, so it is said before these are counted.
            no_parameters(&input(&tensor.name), &tensor.parameters)?;
        }
        let is_raw = !raw.is_empty();
        if is_raw && raw.len() != tensors.len() {
            let what = format!("has {} entries for {} inputs: send one for each", raw.len(), tensors.len());
            return Err(Error::field("CONTENTS_MISCOUNTED", "raw_input_contents", what));
        }
        let mut raw = raw.into_iter();
        let mut inputs = Self::default();
        let mut seen = Vec::with_capacity(tensors.len().min(INPUTS.len()));
        for tensor in tensors {
            let path = input(&tensor.name);
            let Some(known) = INPUTS.iter().find(|input| input.name == tensor.name) else {
                let what = format!("there is no such input: there are {}", names(&INPUTS));
                return Err(Error::field("INPUT_UNKNOWN", path, what));
            };
            if seen.contains(&known.which) {
                return Err(Error::field("INPUT_REPEATED", path, "is given twice"));
            }
            seen.push(known.which);
            let length = length(&path, known, &tensor)?;
            let contents = match (raw.next(), tensor.contents) {
                (Some(_), Some(_)) => {
                    let what = "has contents of its own and in raw_input_contents: send one of them";
                    return Err(Error::field("CONTENTS_CONFLICT", path, what));
                }
                (Some(raw), None) => Contents::Raw(raw),
                (None, contents) => Contents::Typed(contents.unwrap_or_default()),
            };
            inputs.take(known.which, &path, contents, length)?;
        }
        Ok(inputs)
    }

    /// Takes one input, whose shape says that it has so many elements.
    fn take(&mut self, which: Input, path: &str, contents: Contents, length: usize) -> Result<()> {
        match which {
            Input::Text => self.text = Some(text(path, one(contents.bytes(path)?, path, length)?)?),
            Input::Image => self.images.extend(images(path, counted(contents.bytes(path)?, path, length)?, file)?),
            Input::ImageEmbedding => {
                self.images.extend(images(path, counted(contents.bytes(path)?, path, length)?, handle)?);
            }
            Input::Stream => self.stream = one(contents.bools(path)?, path, length)?,
            Input::Sampling => {
                let json = one(contents.bytes(path)?, path, length)?;
                self.sampling = Some(serde_json::from_slice(&json).map_err(|error| {
                    Error::field("PARAMETER_MALFORMED", path, format!("is no JSON object: {error}"))
                })?);
            }
            Input::Exclude => self.exclude = Some(one(contents.bools(path)?, path, length)?),
            Input::Return(output) => {
                if one(contents.bools(path)?, path, length)? {
                    self.also.push(output);
                }
            }
        }
        Ok(())
    }
}

/// Checks datatype and shape of an input; returns how many elements it is said to have.
fn length(path: &str, known: &Tensor<Input>, tensor: &InferInputTensor) -> Result<usize> {
    if tensor.datatype != known.datatype.name() {
        let what = format!("has datatype {}, it must be {}", shown(&tensor.datatype), known.datatype.name());
        return Err(Error::field("DATATYPE_MISMATCH", path, what));
    }
    let length = match (known.length, tensor.shape.as_slice()) {
        (Length::One, [1]) => Some(1),
        (Length::Any, [length]) => usize::try_from(*length).ok(),
        _ => None,
    };
    length.ok_or_else(|| {
        let shape: Vec<i64> = tensor.shape.iter().copied().take(8).collect();
        let must = if known.length == Length::One { "[1]" } else { "[n], with one dimension" };
        Error::field("SHAPE_MISMATCH", path, format!("has shape {shape:?}, it must be {must}"))
    })
}

fn counted<T>(elements: Vec<T>, path: &str, length: usize) -> Result<Vec<T>> {
    if elements.len() == length {
        return Ok(elements);
    }
    let what = format!("has {} elements, its shape says {length}", elements.len());
    Err(Error::field("ELEMENTS_MISCOUNTED", path, what))
}

fn one<T>(elements: Vec<T>, path: &str, length: usize) -> Result<T> {
    let mut elements = counted(elements, path, length)?;
    elements.pop().ok_or_else(|| Error::field("ELEMENTS_MISCOUNTED", path, "has no element"))
}

fn text(path: &str, bytes: Bytes) -> Result<String> {
    String::from_utf8(bytes.into())
        .map_err(|error| Error::field("TEXT_MALFORMED", path, error.utf8_error().to_string()))
}

/// The images of an input, each with its path.
fn images(
    path: &str,
    elements: Vec<Bytes>,
    source: fn(&str, &Bytes) -> Result<ImageSource>,
) -> Result<Vec<(String, ImageSource)>> {
    let image = |(index, bytes)| {
        let path = format!("{path}[{index}]");
        let source = source(&path, &bytes)?;
        Ok((path, source))
    };
    elements.into_iter().enumerate().map(image).collect()
}

/// An image file, or its base64, which is what Triton's vLLM backend takes: no image file is made of base64's letters only.
fn file(path: &str, bytes: &Bytes) -> Result<ImageSource> {
    if bytes.is_empty() {
        return Err(Error::field("IMAGE_EMPTY", path, "has no bytes"));
    }
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    let decoded = if bytes.iter().all(is_letter) { STANDARD.decode(bytes).ok() } else { None };
    Ok(ImageSource::File(decoded.map_or_else(|| bytes.clone(), Bytes::from)))
}

/// A handle: 64 hexadecimal digits, as `tessera encode` prints them, or the 32 bytes that they stand for.
fn handle(path: &str, bytes: &Bytes) -> Result<ImageSource> {
    let text = std::str::from_utf8(bytes).ok();
    let key = text.and_then(|text| text.trim().parse().ok()).or_else(|| ImageKey::try_from(&bytes[..]).ok());
    let what = || format!("{} bytes are no handle: send 64 hexadecimal digits, or 32 bytes", bytes.len());
    key.map(ImageSource::Stored).ok_or_else(|| Error::field("KEY_INVALID", path, what()))
}
