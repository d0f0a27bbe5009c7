//! Answers: events to responses, whole or in pieces.

use serde_json::{Map, Value, json};
use tessera_api::gateway::{Event, FinishReason, Logprobs, Timings};
use tessera_api::proto::inference as proto;
use tessera_api::proto::inference::infer_parameter::ParameterChoice;
use tessera_api::proto::inference::model_infer_response::InferOutputTensor;

use super::model::{Model, Output, VERSION};
use super::request::Reply;
use super::tensor::{of_bytes, of_counts, of_floats};

/// The parameter that tells the last response to a request.
const FINAL: &str = "triton_final_response";

/// An answer in progress: what was told of it since the last response.
#[derive(Debug)]
pub(super) struct Answer {
    model: String,
    pub(super) reply: Reply,
    prompt_tokens: usize,
    samples: Vec<Sample>,
    /// Of the sample that ended last.
    pub(super) timings: Timings,
}

/// What is new of a sample.
#[derive(Debug, Default)]
struct Sample {
    text: String,
    token_ids: Vec<u32>,
    logprobs: Vec<Logprobs>,
    /// Of all its tokens.
    cumulative: f32,
    ended: Option<FinishReason>,
}

/// What an event comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing that a client is told.
    Nothing,
    /// A piece of an answer.
    Piece,
    /// All samples have ended.
    End,
}

/// Whether a response is of a stream, where it says if it is the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Alone,
    Within,
    Last,
}

impl Answer {
    /// An answer of which nothing is known.
    pub(super) fn new(model: &Model, mut reply: Reply) -> Self {
        let samples = std::iter::repeat_with(Sample::default).take(reply.samples);
        let prefix = std::mem::take(&mut reply.prefix);
        let samples = samples.map(|sample| Sample { text: prefix.clone(), ..sample }).collect();
        Self { model: model.name.clone(), reply, prompt_tokens: 0, samples, timings: Timings::default() }
    }

    /// Takes what happened next.
    pub(super) fn take(&mut self, event: Event) -> Told {
        match event {
            Event::Started(started) => self.prompt_tokens = started.prompt_tokens,
            Event::PromptLogprobs(_) => {}
            Event::Delta { sample, text, token_ids, logprobs } => {
                let Some(sample) = self.samples.get_mut(sample) else { return Told::Nothing };
                sample.cumulative += logprobs.iter().map(|place| place.chosen.logprob).sum::<f32>();
                add(&mut sample.token_ids, token_ids);
                add(&mut sample.logprobs, logprobs);
                if sample.text.is_empty() {
                    sample.text = text
                } else {
                    sample.text.push_str(&text)
                }
                return Told::Piece;
            }
            Event::Finished(finished) => {
                self.timings = finished.timings;
                if let Some(sample) = self.samples.get_mut(finished.sample) {
                    sample.ended = Some(finished.reason);
                }
                if self.samples.iter().all(|sample| sample.ended.is_some()) {
                    return Told::End;
                }
            }
        }
        Told::Nothing
    }

    /// Makes a response of what was told since the last one.
    pub(super) fn response(&mut self, place: Place) -> proto::ModelInferResponse {
        let parameters = (place != Place::Alone).then(|| last(place)).into_iter().collect();
        let is_empty = place == Place::Last
            && self.reply.may_end_empty
            && self.reply.outputs == [Output::Text]
            && self.samples.iter().all(|sample| sample.text.is_empty());
        let outputs: &[Output] = if is_empty { &[] } else { &self.reply.outputs };
        let response = proto::ModelInferResponse {
            model_name: self.model.clone(),
            model_version: VERSION.to_owned(),
            id: self.reply.id.clone(),
            parameters,
            outputs: outputs.iter().map(|output| self.described(*output)).collect(),
            raw_output_contents: outputs.iter().map(|output| self.contents(*output)).collect(),
        };
        for sample in &mut self.samples {
            sample.text.clear();
            sample.token_ids.clear();
            sample.logprobs.clear();
        }
        response
    }

    fn described(&self, output: Output) -> InferOutputTensor {
        let tensor = output.tensor();
        let length = if output == Output::Before { 1 } else { self.samples.len() };
        InferOutputTensor {
            name: tensor.name.to_owned(),
            datatype: tensor.datatype.name().to_owned(),
            shape: vec![i64::try_from(length).unwrap_or(i64::MAX)],
            ..Default::default()
        }
    }

    fn contents(&self, output: Output) -> bytes::Bytes {
        let samples = self.samples.iter();
        match output {
            Output::Text => of_bytes(samples.map(|sample| sample.text.as_bytes())),
            Output::FinishReason => of_bytes(samples.map(|sample| reason(sample.ended).as_bytes())),
            Output::TokenIds => of_json(samples.map(|sample| json!(sample.token_ids))),
            Output::Before => of_counts([self.prompt_tokens].into_iter()),
            Output::New => of_counts(samples.map(|sample| sample.token_ids.len())),
            Output::Logprobs => of_json(samples.map(|sample| sample.logprobs.iter().map(place).collect())),
            Output::CumulativeLogprob => of_floats(samples.map(|sample| sample.cumulative)),
        }
    }
}

/// The response that stands beside the error of a request: its id, and that nothing more comes.
pub(super) fn failed(id: &str) -> proto::ModelInferResponse {
    let parameters = std::iter::once(last(Place::Last)).collect();
    proto::ModelInferResponse { id: id.to_owned(), parameters, ..Default::default() }
}

/// Says whether a response is the last.
fn last(place: Place) -> (String, proto::InferParameter) {
    let choice = ParameterChoice::BoolParam(place == Place::Last);
    (FINAL.to_owned(), proto::InferParameter { parameter_choice: Some(choice) })
}

/// Puts what is new behind what there is, which is usually nothing.
fn add<T>(known: &mut Vec<T>, new: Vec<T>) {
    if known.is_empty() { *known = new } else { known.extend(new) }
}

/// In the words of Triton's vLLM backend, which says `None` of what has not ended.
fn reason(ended: Option<FinishReason>) -> &'static str {
    match ended {
        None => "None",
        Some(FinishReason::Stop) => "stop",
        Some(FinishReason::Length) => "length",
        Some(FinishReason::Deadline) => "deadline",
    }
}

/// Log-probabilities at one place, as that backend writes them: by token id. Ranks are known of the likeliest only.
fn place(logprobs: &Logprobs) -> Value {
    let mut tokens = Map::new();
    let Logprobs { chosen, likeliest } = logprobs;
    for (rank, token) in
        likeliest.iter().enumerate().map(|(rank, token)| (Some(rank + 1), token)).chain([(None, chosen)])
    {
        let told = json!({"logprob": token.logprob, "rank": rank, "decoded_token": token.text});
        tokens.entry(token.token_id.to_string()).or_insert(told);
    }
    tokens.into()
}

fn of_json(values: impl Iterator<Item = Value>) -> bytes::Bytes {
    let texts: Vec<String> = values.map(|value| value.to_string()).collect();
    of_bytes(texts.iter().map(String::as_bytes))
}

#[cfg(test)]
mod tests {
    use tessera_api::gateway::{Finished, Started, TokenLogprob, Usage};

    use super::super::tensor::Contents;
    use super::*;

    fn answer(reply: Reply) -> Answer {
        Answer::new(&Model { name: "llava".into() }, reply)
    }

    fn reply(outputs: &[Output], samples: usize) -> Reply {
        Reply {
            id: "7".into(),
            outputs: outputs.to_vec(),
            prefix: String::new(),
            samples,
            in_pieces: true,
            may_end_empty: false,
        }
    }

    fn delta(sample: usize, text: &str, id: u32) -> Event {
        let token = |token_id, logprob| TokenLogprob { token_id, text: text.into(), logprob };
        let logprobs = vec![Logprobs { chosen: token(id, -0.5), likeliest: vec![token(1, -0.25)] }];
        Event::Delta { sample, text: text.into(), token_ids: vec![id], logprobs }
    }

    fn finished(sample: usize, reason: FinishReason) -> Event {
        Event::Finished(Finished { sample, reason, usage: Usage::default(), timings: Timings::default() })
    }

    fn texts(response: &proto::ModelInferResponse, index: usize) -> Vec<String> {
        let elements = Contents::Raw(response.raw_output_contents[index].clone()).bytes("").unwrap();
        elements.iter().map(|element| String::from_utf8(element.to_vec()).unwrap()).collect()
    }

    fn says_last(response: &proto::ModelInferResponse) -> Option<bool> {
        match response.parameters.get(FINAL)?.parameter_choice {
            Some(ParameterChoice::BoolParam(last)) => Some(last),
            _ => None,
        }
    }

    #[test]
    fn a_whole_answer_begins_with_its_input_and_says_nothing_of_streams() {
        let mut answer = answer(Reply { prefix: "What? ".into(), ..reply(&[Output::Text, Output::FinishReason], 2) });
        assert_eq!(answer.take(delta(0, "A", 5)), Told::Piece);
        assert_eq!(answer.take(delta(1, "B", 6)), Told::Piece);
        assert_eq!(answer.take(delta(0, "C", 7)), Told::Piece);
        assert_eq!(answer.take(finished(1, FinishReason::Length)), Told::Nothing);
        assert_eq!(answer.take(finished(0, FinishReason::Stop)), Told::End);
        let response = answer.response(Place::Alone);
        assert_eq!(texts(&response, 0), ["What? AC", "What? B"]);
        assert_eq!(texts(&response, 1), ["stop", "length"]);
        assert_eq!((response.outputs[0].shape[0], response.id.as_str(), says_last(&response)), (2, "7", None));
    }

    #[test]
    fn a_piece_holds_what_is_new_and_the_last_one_how_it_ended() {
        let outputs = [Output::Text, Output::TokenIds, Output::New, Output::FinishReason, Output::Before];
        let mut answer = answer(reply(&outputs, 1));
        let started = Started { request_id: "7".into(), prompt_tokens: 9, images: Vec::new(), seed: 0 };
        assert_eq!(answer.take(Event::Started(started)), Told::Nothing);
        answer.take(delta(0, "A", 5));
        let first = answer.response(Place::Within);
        assert_eq!(
            (texts(&first, 0), texts(&first, 1), texts(&first, 3)),
            (vec!["A".into()], vec!["[5]".into()], vec!["None".into()])
        );
        assert_eq!(
            (&first.raw_output_contents[2][..], &first.raw_output_contents[4][..]),
            (&[1, 0, 0, 0][..], &[9, 0, 0, 0][..])
        );
        assert_eq!(says_last(&first), Some(false));
        answer.take(finished(0, FinishReason::Stop));
        let last = answer.response(Place::Last);
        assert_eq!(
            (texts(&last, 0), texts(&last, 1), texts(&last, 3)),
            (vec![String::new()], vec!["[]".into()], vec!["stop".into()])
        );
        assert_eq!(says_last(&last), Some(true));
    }

    #[test]
    fn the_last_piece_is_empty_only_for_whoever_wants_that_and_nothing_of_the_end() {
        for (may_end_empty, outputs, count) in [
            (true, &[Output::Text][..], 0),
            (false, &[Output::Text], 1),
            (true, &[Output::Text, Output::FinishReason], 2),
        ] {
            let mut answer = answer(Reply { may_end_empty, ..reply(outputs, 1) });
            answer.take(finished(0, FinishReason::Stop));
            let last = answer.response(Place::Last);
            assert_eq!((last.outputs.len(), last.raw_output_contents.len()), (count, count));
            assert_eq!(says_last(&last), Some(true));
        }
    }

    #[test]
    fn log_probabilities_are_told_by_token_and_summed_over_all() {
        let mut answer = answer(reply(&[Output::Logprobs, Output::CumulativeLogprob], 1));
        answer.take(delta(0, "A", 5));
        answer.response(Place::Within);
        answer.take(delta(0, "B", 1));
        let response = answer.response(Place::Within);
        let told: Value = serde_json::from_str(&texts(&response, 0)[0]).unwrap();
        assert_eq!(told, json!([{"1": {"logprob": -0.25, "rank": 1, "decoded_token": "B"}}]));
        assert_eq!(&response.raw_output_contents[1][..], (-1f32).to_le_bytes());
    }
}
