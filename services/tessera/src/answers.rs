//! What was answered, and how it is written: as text under headings, as a table of log-probabilities, as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tessera_api::gateway::{Event, Finished, Logprobs, TokenLogprob};
use tessera_api::language::FinishReason;

/// The answers to one question.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    seed: u64,
    samples: Vec<Sample>,
}

#[derive(Debug, Default)]
struct Sample {
    text: String,
    token_ids: Vec<u32>,
    logprobs: Vec<Logprobs>,
    finished: Option<Finished>,
}

impl Answers {
    /// Takes the next event.
    pub(crate) fn take(&mut self, event: Event) {
        match event {
            Event::Started(started) => self.seed = started.seed,
            Event::PromptLogprobs(_) => {}
            Event::Delta { sample, text, token_ids, logprobs } => {
                let sample = self.sample(sample);
                sample.text.push_str(&text);
                sample.token_ids.extend(token_ids);
                sample.logprobs.extend(logprobs);
            }
            Event::Finished(finished) => self.sample(finished.sample).finished = Some(finished),
        }
    }

    fn sample(&mut self, index: usize) -> &mut Sample {
        if index >= self.samples.len() {
            self.samples.resize_with(index + 1, Sample::default);
        }
        &mut self.samples[index]
    }

    /// True when there is an answer and none is cut off.
    pub(crate) fn are_whole(&self) -> bool {
        !self.samples.is_empty() && self.samples.iter().all(|sample| sample.finished.is_some())
    }

    /// The answers from one on, each under a heading.
    pub(crate) fn headed(&self, from: usize) -> String {
        let of = self.samples.len();
        let one = |(index, sample): (usize, &Sample)| {
            format!("answer {} of {of}\n{}\n{}\n", index + 1, sample.text, sample.table())
        };
        self.samples.iter().enumerate().skip(from).map(one).collect()
    }

    /// The log-probabilities of the first answer, a line a token; nothing where none were asked for.
    pub(crate) fn table(&self) -> String {
        self.samples.first().map(Sample::table).unwrap_or_default()
    }

    /// An object for one answer, an array for several.
    pub(crate) fn json(&self) -> Value {
        let mut objects: Vec<Value> = self.samples.iter().map(|sample| sample.json(self.seed)).collect();
        if objects.len() == 1 { objects.swap_remove(0) } else { Value::Array(objects) }
    }
}

impl Sample {
    fn table(&self) -> String {
        let mut table = String::new();
        for Logprobs { chosen, likeliest } in &self.logprobs {
            let likeliest: String =
                likeliest.iter().map(|token| format!("  {:?} {:.4}", token.text, token.logprob)).collect();
            // Writing to a string does not fail.
            let _ = writeln!(table, "{:9.4}  {:<16} {likeliest}", chosen.logprob, format!("{:?}", chosen.text));
        }
        table
    }

    fn json(&self, seed: u64) -> Value {
        let mut object = Map::new();
        object.insert("text".into(), json!(self.text));
        object.insert("token_ids".into(), json!(self.token_ids));
        object.insert("seed".into(), json!(seed));
        if !self.logprobs.is_empty() {
            object.insert("logprobs".into(), self.logprobs.iter().map(place).collect());
        }
        if let Some(Finished { reason, usage, timings, .. }) = &self.finished {
            let reason = match reason {
                FinishReason::Stop => "stop",
                FinishReason::Length => "length",
                FinishReason::Deadline => "deadline",
            };
            object.insert("finish_reason".into(), json!(reason));
            let usage = json!({
                "prompt_tokens": usage.prompt_tokens,
                "image_tokens": usage.image_tokens,
                "completion_tokens": usage.completion_tokens,
                "reused_tokens": usage.reused_tokens,
            });
            object.insert("usage".into(), usage);
            let timings = json!({
                "prepare": milliseconds(timings.prepare),
                "encode": milliseconds(timings.encode),
                "queue": milliseconds(timings.queue),
                "prefill": milliseconds(timings.prefill),
                "decode": milliseconds(timings.decode),
                "first_token": milliseconds(timings.first_token),
                "total": milliseconds(timings.total),
            });
            object.insert("timings".into(), timings);
        }
        Value::Object(object)
    }
}

fn place(Logprobs { chosen, likeliest }: &Logprobs) -> Value {
    json!({ "chosen": token(chosen), "likeliest": likeliest.iter().map(token).collect::<Vec<_>>() })
}

fn token(TokenLogprob { token_id, text, logprob }: &TokenLogprob) -> Value {
    json!({ "token_id": token_id, "text": text, "logprob": logprob })
}

/// With three decimals, as the wire carries microseconds.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use tessera_api::gateway::{Timings, Usage};

    use super::*;

    fn delta(sample: usize, text: &str, id: u32, logprobs: Vec<Logprobs>) -> Event {
        Event::Delta { sample, text: text.into(), token_ids: vec![id], logprobs }
    }

    fn finished(sample: usize) -> Event {
        let (usage, timings) = (Usage::default(), Timings::default());
        Event::Finished(Finished { sample, reason: FinishReason::Length, usage, timings })
    }

    fn answers(events: impl IntoIterator<Item = Event>) -> Answers {
        let mut answers = Answers::default();
        events.into_iter().for_each(|event| answers.take(event));
        answers
    }

    #[test]
    fn answers_that_come_mixed_are_put_in_order() {
        let mixed = [delta(1, "b", 7, vec![]), delta(0, "a", 5, vec![]), finished(1), delta(0, "c", 6, vec![])];
        let cut = answers(mixed.clone());
        assert!(!cut.are_whole() && !Answers::default().are_whole());
        let whole = answers(mixed.into_iter().chain([finished(0)]));
        assert!(whole.are_whole());
        assert_eq!(whole.headed(0), "answer 1 of 2\nac\n\nanswer 2 of 2\nb\n\n");
        assert_eq!(whole.headed(1), "answer 2 of 2\nb\n\n");
        let json = whole.json();
        assert_eq!((json[0]["text"].as_str(), json[1]["token_ids"][0].as_u64()), (Some("ac"), Some(7)));
        assert!(json[0].get("logprobs").is_none());
    }

    #[test]
    fn log_probabilities_are_a_line_a_token() {
        let token = |text: &str, logprob| TokenLogprob { token_id: 3, text: text.into(), logprob };
        let place = Logprobs { chosen: token(" a", -0.5), likeliest: vec![token("b", -0.25), token("\n", -12.0)] };
        let one = answers([delta(0, " a", 3, vec![place]), finished(0)]);
        assert_eq!(one.table(), "  -0.5000  \" a\"               \"b\" -0.2500  \"\\n\" -12.0000\n");
        let json = one.json();
        assert_eq!(json["logprobs"][0]["chosen"]["text"], " a");
        assert_eq!(json["logprobs"][0]["likeliest"][1]["logprob"], -12.0);
        assert_eq!(json["usage"]["reused_tokens"], Value::Null);
    }
}
