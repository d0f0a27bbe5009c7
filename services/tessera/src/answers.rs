//! How answers are written: as text under headings, as a table of log-probabilities, as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tessera_client::{FinishReason, Finished, Logprobs, Reply, Sample, TokenLogprob};

/// The answers from one on, each under a heading.
pub(crate) fn headed(reply: &Reply, from: usize) -> String {
    let of = reply.samples.len();
    let one = |(index, sample): (usize, &Sample)| {
        format!("answer {} of {of}\n{}\n{}\n", index + 1, sample.text, table_of(sample))
    };
    reply.samples.iter().enumerate().skip(from).map(one).collect()
}

/// The log-probabilities of the first answer, a line a token; nothing where none were asked for.
pub(crate) fn table(reply: &Reply) -> String {
    reply.samples.first().map(table_of).unwrap_or_default()
}

/// An object for one answer, an array for several.
pub(crate) fn json(reply: &Reply) -> Value {
    let object = |sample| json_of(sample, reply.started.seed);
    match &reply.samples[..] {
        [sample] => object(sample),
        samples => samples.iter().map(object).collect(),
    }
}

/// What the first answer used, and where its time went.
pub(crate) fn figures(reply: &Reply) -> String {
    let Some(Sample { finished: Finished { usage, timings, .. }, .. }) = reply.samples.first() else {
        return String::new();
    };
    let reused = usage.reused_tokens.map(|tokens| format!(", {tokens} known before")).unwrap_or_default();
    let ms = |time: Duration| format!("{:.1} ms", milliseconds(time));
    format!(
        "prompt      {} tokens ({} of images{reused})\n\
         answer      {} tokens, seed {}\n\
         images      {}, {} of them stored before\n\
         time        {}: first token after {}\n\
         of which    prepare {}, encode {}, queue {}, prefill {} ({} for features), decode {}\n",
        usage.prompt_tokens,
        usage.image_tokens,
        usage.completion_tokens,
        reply.started.seed,
        reply.started.images.len(),
        timings.images_stored_before,
        ms(timings.total),
        ms(timings.first_token),
        ms(timings.prepare),
        ms(timings.encode),
        ms(timings.queue),
        ms(timings.prefill),
        ms(timings.transfer),
        ms(timings.decode),
    )
}

fn table_of(sample: &Sample) -> String {
    let mut table = String::new();
    for Logprobs { chosen, likeliest } in &sample.logprobs {
        let likeliest: String =
            likeliest.iter().map(|token| format!("  {:?} {:.4}", token.text, token.logprob)).collect();
        // Writing to a string does not fail.
        let _ = writeln!(table, "{:9.4}  {:<16} {likeliest}", chosen.logprob, format!("{:?}", chosen.text));
    }
    table
}

fn json_of(sample: &Sample, seed: u64) -> Value {
    let Finished { reason, usage, timings, .. } = sample.finished;
    let mut object = Map::new();
    object.insert("text".into(), json!(sample.text));
    object.insert("token_ids".into(), json!(sample.token_ids));
    object.insert("seed".into(), json!(seed));
    if !sample.logprobs.is_empty() {
        object.insert("logprobs".into(), sample.logprobs.iter().map(place).collect());
    }
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
        "transfer": milliseconds(timings.transfer),
        "prefill": milliseconds(timings.prefill),
        "decode": milliseconds(timings.decode),
        "first_token": milliseconds(timings.first_token),
        "total": milliseconds(timings.total),
    });
    object.insert("timings".into(), timings);
    Value::Object(object)
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
    use tessera_client::{Started, Timings, Usage};

    use super::*;

    fn sample(text: &str, id: u32, logprobs: Vec<Logprobs>) -> Sample {
        let (usage, timings) = (Usage { image_tokens: 12, ..Usage::default() }, Timings::default());
        let finished = Finished { sample: 0, reason: FinishReason::Length, usage, timings };
        Sample { text: text.into(), token_ids: vec![id], logprobs, finished }
    }

    fn reply(samples: Vec<Sample>) -> Reply {
        let started = Started { request_id: String::new(), prompt_tokens: 1, images: Vec::new(), seed: 7 };
        Reply { started, prompt_logprobs: Vec::new(), samples }
    }

    #[test]
    fn several_answers_are_headed_and_an_array() {
        let several = reply(vec![sample("ac", 5, vec![]), sample("b", 6, vec![])]);
        assert_eq!(headed(&several, 0), "answer 1 of 2\nac\n\nanswer 2 of 2\nb\n\n");
        assert_eq!(headed(&several, 1), "answer 2 of 2\nb\n\n");
        let array = json(&several);
        assert_eq!((array[0]["text"].as_str(), array[1]["token_ids"][0].as_u64()), (Some("ac"), Some(6)));
        assert!(array[0].get("logprobs").is_none());
    }

    #[test]
    fn log_probabilities_are_a_line_a_token() {
        let token = |text: &str, logprob| TokenLogprob { token_id: 3, text: text.into(), logprob };
        let place = Logprobs { chosen: token(" a", -0.5), likeliest: vec![token("b", -0.25), token("\n", -12.0)] };
        let one = reply(vec![sample(" a", 3, vec![place])]);
        assert_eq!(table(&one), "  -0.5000  \" a\"               \"b\" -0.2500  \"\\n\" -12.0000\n");
        let object = json(&one);
        assert_eq!(object["logprobs"][0]["chosen"]["text"], " a");
        assert_eq!(object["logprobs"][0]["likeliest"][1]["logprob"], -12.0);
        assert_eq!((&object["usage"]["reused_tokens"], &object["seed"]), (&Value::Null, &json!(7)));
    }

    #[test]
    fn figures_say_what_is_not_known_by_leaving_it_out() {
        let mut one = reply(vec![sample("a", 3, vec![])]);
        assert!(figures(&one).contains("(12 of images)"), "{}", figures(&one));
        one.samples[0].finished.usage.reused_tokens = Some(4);
        assert!(figures(&one).contains("(12 of images, 4 known before)"), "{}", figures(&one));
    }
}
