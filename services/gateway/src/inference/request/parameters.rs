//! What stands beside the tensors of a request.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Number, Value};
use tessera_api::proto::inference as proto;
use tessera_api::proto::inference::infer_parameter::ParameterChoice;
use tessera_api::{Error, Result};

use crate::inference::model::shown;

/// What stands beside the tensors.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    /// How long the request may take.
    pub(super) time: Option<Duration>,
    /// The last piece of the answer may be empty.
    pub(super) may_end_empty: bool,
    /// What is meant for sampling.
    pub(super) sampling: Map<String, Value>,
}

impl Parameters {
    /// Reads them.
    ///
    /// # Errors
    /// `Invalid`, with the path of the parameter that is at fault.
    pub(super) fn read(parameters: BTreeMap<String, proto::InferParameter>) -> Result<Self> {
        let mut read = Self::default();
        for (name, parameter) in parameters {
            let path = || format!("parameters[{}]", shown(&name));
            let Some(choice) = parameter.parameter_choice else {
                return Err(Error::field("PARAMETER_MALFORMED", path(), "has no value"));
            };
            match (name.as_str(), choice) {
                ("timeout", ParameterChoice::Int64Param(micros)) if micros > 0 => {
                    read.time = Some(Duration::from_micros(micros.unsigned_abs()));
                }
                ("timeout", ParameterChoice::Uint64Param(micros)) if micros > 0 => {
                    read.time = Some(Duration::from_micros(micros));
                }
                ("timeout", _) => {
                    let what = "must be a number of microseconds above 0";
                    return Err(Error::field("PARAMETER_MALFORMED", path(), what));
                }
                ("triton_enable_empty_final_response", ParameterChoice::BoolParam(may)) => read.may_end_empty = may,
                ("sequence_id" | "sequence_start" | "sequence_end" | "priority", _) => {
                    let what = "is not known here: requests do not depend on each other, and tenants have weights";
                    return Err(Error::field("PARAMETER_UNSUPPORTED", path(), what));
                }
                (_, choice) => {
                    let value = match choice {
                        ParameterChoice::BoolParam(value) => value.into(),
                        ParameterChoice::Int64Param(value) => value.into(),
                        ParameterChoice::Uint64Param(value) => value.into(),
                        // JSON has no NaN; null would leave the parameter out.
                        ParameterChoice::DoubleParam(value) => {
                            Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
                        }
                        ParameterChoice::StringParam(value) => value.into(),
                    };
                    read.sampling.insert(name, value);
                }
            }
        }
        Ok(read)
    }
}
