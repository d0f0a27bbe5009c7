//! The model as clients see it: its name and its tensors, the same in every list of them.

use tessera_api::proto::inference as proto;
use tessera_api::proto::inference::model_metadata_response::TensorMetadata;
use tessera_api::proto::inference::model_version_policy::{PolicyChoice, Specific};
use tessera_api::{Error, ErrorKind, Result};

/// The only version.
pub(super) const VERSION: &str = "1";
/// What runs the model, in the words of Triton.
const PLATFORM: &str = "tessera";
/// Names are shown up to here.
const SHOWN: usize = 64;

/// The model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) name: String,
}

/// What a request may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A user's turn.
    Text,
    /// Image files that stand in front of it.
    Image,
    /// Handles of images that do.
    ImageEmbedding,
    /// Whether the answer comes in pieces.
    Stream,
    /// How it is made, as JSON.
    Sampling,
    /// Whether it begins without the text that was asked: the input is left out of the output.
    Exclude,
    /// Whether this output comes as well.
    Return(Output),
}

/// What an answer may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Text of each sample.
    Text,
    /// How each sample ended; `None` where it has not.
    FinishReason,
    /// New ids of each sample, as JSON.
    TokenIds,
    /// Tokens of the prompt, images included.
    Before,
    /// New tokens of each sample.
    New,
    /// Log-probabilities of the new tokens of each sample, as JSON.
    Logprobs,
    /// The sum of those of all its tokens.
    CumulativeLogprob,
}

/// What an element of a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Datatype {
    Bytes,
    Bool,
    Uint32,
    Fp32,
}

/// How many elements a tensor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    One,
    Any,
}

/// A tensor: which, how it is called, what it holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor<T> {
    pub(super) which: T,
    pub(super) name: &'static str,
    pub(super) datatype: Datatype,
    pub(super) length: Length,
}

const fn tensor<T>(which: T, name: &'static str, datatype: Datatype, length: Length) -> Tensor<T> {
    Tensor { which, name, datatype, length }
}

/// All inputs. Of these only the text is not optional.
pub(super) const INPUTS: [Tensor<Input>; 12] = [
    tensor(Input::Text, "text_input", Datatype::Bytes, Length::One),
    tensor(Input::Image, "image", Datatype::Bytes, Length::Any),
    tensor(Input::ImageEmbedding, "image_embedding", Datatype::Bytes, Length::Any),
    tensor(Input::Stream, "stream", Datatype::Bool, Length::One),
    tensor(Input::Sampling, "sampling_parameters", Datatype::Bytes, Length::One),
    tensor(Input::Exclude, "exclude_input_in_output", Datatype::Bool, Length::One),
    tensor(Input::Return(Output::FinishReason), "return_finish_reason", Datatype::Bool, Length::One),
    tensor(Input::Return(Output::TokenIds), "return_token_ids", Datatype::Bool, Length::One),
    tensor(Input::Return(Output::Before), "return_num_input_tokens", Datatype::Bool, Length::One),
    tensor(Input::Return(Output::New), "return_num_output_tokens", Datatype::Bool, Length::One),
    tensor(Input::Return(Output::Logprobs), "return_logprobs", Datatype::Bool, Length::One),
    tensor(Input::Return(Output::CumulativeLogprob), "return_cumulative_logprob", Datatype::Bool, Length::One),
];

/// All outputs.
pub(super) const OUTPUTS: [Tensor<Output>; 7] = [
    tensor(Output::Text, "text_output", Datatype::Bytes, Length::Any),
    tensor(Output::FinishReason, "finish_reason", Datatype::Bytes, Length::Any),
    tensor(Output::TokenIds, "token_ids", Datatype::Bytes, Length::Any),
    tensor(Output::Before, "num_input_tokens", Datatype::Uint32, Length::One),
    tensor(Output::New, "num_output_tokens", Datatype::Uint32, Length::Any),
    tensor(Output::Logprobs, "logprobs", Datatype::Bytes, Length::Any),
    tensor(Output::CumulativeLogprob, "cumulative_logprob", Datatype::Fp32, Length::Any),
];

impl Output {
    /// Its line in the list.
    pub(super) fn tensor(self) -> Tensor<Self> {
        OUTPUTS[self as usize]
    }
}

impl Datatype {
    /// Its name in the protocol.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bytes => "BYTES",
            Self::Bool => "BOOL",
            Self::Uint32 => "UINT32",
            Self::Fp32 => "FP32",
        }
    }

    fn in_config(self) -> i32 {
        let datatype = match self {
            Self::Bytes => proto::DataType::TypeString,
            Self::Bool => proto::DataType::TypeBool,
            Self::Uint32 => proto::DataType::TypeUint32,
            Self::Fp32 => proto::DataType::TypeFp32,
        };
        datatype.into()
    }
}

impl Length {
    fn dimension(self) -> i64 {
        match self {
            Self::One => 1,
            Self::Any => -1,
        }
    }
}

impl Model {
    /// Whether it is the model that a client means; no version is any version.
    pub(super) fn is(&self, name: &str, version: &str) -> bool {
        name == self.name && (version.is_empty() || version == VERSION)
    }

    /// Checks that it is the model that a client means.
    ///
    /// # Errors
    /// `NotFound`, naming the one that there is.
    pub(super) fn check(&self, name: &str, version: &str) -> Result<()> {
        if self.is(name, version) {
            return Ok(());
        }
        let version = if version.is_empty() { String::new() } else { format!(", version {}", shown(version)) };
        let message = format!(
            "there is no model {}{version}: the one that is served is {:?}, version {VERSION}",
            shown(name),
            self.name
        );
        Err(Error::new(ErrorKind::NotFound, "MODEL_NOT_FOUND", message).with("model", &self.name))
    }

    /// The tensors, in the words of the protocol.
    pub(super) fn metadata(&self) -> proto::ModelMetadataResponse {
        fn line<T>(tensor: &Tensor<T>) -> TensorMetadata {
            TensorMetadata {
                name: tensor.name.into(),
                datatype: tensor.datatype.name().into(),
                shape: vec![tensor.length.dimension()],
            }
        }
        proto::ModelMetadataResponse {
            name: self.name.clone(),
            versions: vec![VERSION.into()],
            platform: PLATFORM.into(),
            inputs: INPUTS.iter().map(line).collect(),
            outputs: OUTPUTS.iter().map(line).collect(),
        }
    }

    /// The same, in the words of Triton's configuration.
    pub(super) fn config(&self) -> proto::ModelConfig {
        let input = |tensor: &Tensor<Input>| proto::ModelInput {
            name: tensor.name.into(),
            data_type: tensor.datatype.in_config(),
            dims: vec![tensor.length.dimension()],
            optional: tensor.which != Input::Text,
        };
        let output = |tensor: &Tensor<Output>| proto::ModelOutput {
            name: tensor.name.into(),
            data_type: tensor.datatype.in_config(),
            dims: vec![tensor.length.dimension()],
        };
        proto::ModelConfig {
            name: self.name.clone(),
            platform: PLATFORM.into(),
            version_policy: Some(proto::ModelVersionPolicy {
                policy_choice: Some(PolicyChoice::Specific(Specific { versions: vec![1] })),
            }),
            max_batch_size: 0,
            input: INPUTS.iter().map(input).collect(),
            output: OUTPUTS.iter().map(output).collect(),
            backend: PLATFORM.into(),
            model_transaction_policy: Some(proto::ModelTransactionPolicy { decoupled: true }),
        }
    }
}

/// The path of an input.
pub(super) fn input(name: &str) -> String {
    format!("inputs[{}]", shown(name))
}

/// A name that a client made up, quoted, and no longer than is good to read.
pub(super) fn shown(name: &str) -> String {
    match name.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &name[..end]),
        None => format!("{name:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_output_stands_at_its_place_in_the_list() {
        for tensor in &OUTPUTS {
            assert_eq!(tensor.which.tensor().name, tensor.name);
        }
    }

    #[test]
    fn every_output_but_the_text_has_an_input_that_asks_for_it() {
        for output in &OUTPUTS[1..] {
            let asks = INPUTS.iter().find(|input| input.which == Input::Return(output.which)).unwrap();
            assert_eq!(asks.name, format!("return_{}", output.name));
        }
    }

    #[test]
    fn a_model_that_is_not_there_is_named_with_the_one_that_is() {
        let model = Model { name: "llava".into() };
        assert!(model.check("llava", "").is_ok() && model.check("llava", "1").is_ok());
        for (name, version) in [("llama", ""), ("llava", "2"), ("", ""), ("llava", "latest")] {
            let error = model.check(name, version).unwrap_err();
            assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::NotFound, "MODEL_NOT_FOUND"));
            assert!(error.message.contains("\"llava\", version 1"), "{error}");
        }
        let long = model.check(&"é".repeat(10_000), "").unwrap_err();
        assert!(long.message.len() < 300, "{long}");
    }
}
