//! `tessera ask`: one question, a streamed answer.

use std::time::Duration;

use serde_json::{Value, json};
use tessera_api::gateway::{Event, Finished, GenerateRequest, Message, Part, Role, Settings};
use tessera_api::language::FinishReason;

use crate::cli::Ask;
use crate::cluster::{Addresses, Cluster};
use crate::model::{EMBEDDED_NOTE, Model};
use crate::output::Waiting;
use crate::{client, files, output};

/// Asks, and shows the answer.
///
/// # Errors
/// What went wrong, in one line that says what to do.
pub(crate) async fn run(ask: Ask) -> anyhow::Result<()> {
    let request = request(&ask)?;
    if let Some(url) = &ask.server {
        return show(url, request, ask.json).await;
    }
    let model = Model::open(ask.model.as_deref())?;
    if model.is_embedded() {
        output::note(EMBEDDED_NOTE);
    }
    let cluster = Cluster::start(model.dir(), ask.compute, Addresses::any()).await?;
    let url = format!("http://{}", cluster.addresses.gateway);
    let shown = show(&url, request, ask.json).await;
    cluster.stop().await?;
    shown
}

fn request(ask: &Ask) -> anyhow::Result<GenerateRequest> {
    let mut parts = Vec::with_capacity(ask.image.len() + 1);
    for path in &ask.image {
        parts.push(Part::Image(files::read(path)?.into()));
    }
    parts.push(Part::Text(ask.prompt.clone()));
    let system = ask.system.iter().map(|text| Message { role: Role::System, parts: vec![Part::Text(text.clone())] });
    let messages = system.chain([Message { role: Role::User, parts }]).collect();
    let settings = Settings {
        max_tokens: ask.max_tokens,
        temperature: ask.temperature,
        top_p: ask.top_p,
        seed: ask.seed,
        ..Settings::default()
    };
    Ok(GenerateRequest { request_id: String::new(), messages, settings })
}

/// Streams the answer as text, or collects it into one JSON object.
async fn show(url: &str, request: GenerateRequest, json: bool) -> anyhow::Result<()> {
    let waiting = Waiting::new("looking and thinking");
    let mut answer = awaited(&waiting, client::generate(url, request)).await?;
    let (mut text, mut ids, mut seed) = (String::new(), Vec::new(), 0);
    while let Some(event) = awaited(&waiting, answer.next()).await? {
        match event {
            Event::Started(started) => seed = started.seed,
            Event::Delta { text: piece, token_ids } => {
                if !json {
                    waiting.end();
                    output::text(&piece)?;
                }
                text.push_str(&piece);
                ids.extend(token_ids);
            }
            Event::Finished(finished) => {
                waiting.end();
                let last = if json { format!("{:#}\n", object(&text, &ids, seed, &finished)) } else { "\n".into() };
                return Ok(output::text(&last)?);
            }
        }
    }
    anyhow::bail!("the gateway ended the answer too early; ask again")
}

/// Waits for something while a spinner turns.
async fn awaited<T>(waiting: &Waiting, future: impl Future<Output = T>) -> T {
    tokio::pin!(future);
    loop {
        tokio::select! {
            biased;
            done = &mut future => return done,
            () = waiting.turn() => {}
        }
    }
}

fn object(text: &str, ids: &[u32], seed: u64, finished: &Finished) -> Value {
    let Finished { reason, usage, timings } = finished;
    let reason = match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Deadline => "deadline",
    };
    json!({
        "text": text,
        "token_ids": ids,
        "finish_reason": reason,
        "seed": seed,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "image_tokens": usage.image_tokens,
            "completion_tokens": usage.completion_tokens,
        },
        "timings": {
            "prepare": milliseconds(timings.prepare),
            "encode": milliseconds(timings.encode),
            "queue": milliseconds(timings.queue),
            "prefill": milliseconds(timings.prefill),
            "decode": milliseconds(timings.decode),
            "first_token": milliseconds(timings.first_token),
            "total": milliseconds(timings.total),
        },
    })
}

/// With three decimals, as the wire carries microseconds.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
