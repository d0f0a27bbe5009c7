//! What callers wait for, over gRPC on loopback: first tokens, tokens a second of one sequence and of many at once, a
//! second question about an image; and the memory that the language worker takes.
//!
//! `tests/peers/run` makes the model and the work, runs this in turn with transformers and sets the figures side by side.
//! Alone: `cargo bench -p tessera-tests --bench serving -- --model DIR --json FILE`, where `tests/peers/make_model.py`
//! made DIR.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench ends at the first error and prints its figures")]

#[path = "../system/first_token.rs"]
mod first_token;
#[path = "../system/running.rs"]
mod running;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use futures::future::join_all;
use futures::stream::{BoxStream, StreamExt, select_all};
use serde::{Deserialize, Serialize};
use tessera_api::language::{Event, GenerateRequest};
use tessera_api::proto::language::v1::language_worker_client::LanguageWorkerClient;
use tessera_config::ByteSize;
use tonic::transport::Channel;

use first_token::first_token;
use running::Running;

/// Room for eight prompts of 2,400 positions and their answers.
const KV_CACHE: ByteSize = ByteSize::mib(1280);
/// Sequences that are measured at once are asked for so many times the tokens that are counted: the first ones already
/// decode while the last ones' prompts are computed.
const SPARE: usize = 8;
const USAGE: &str =
    "tests/peers/run runs this; alone: cargo bench -p tessera-tests --bench serving -- --model DIR --json FILE";

/// `workload.json`, beside the model.
#[derive(Deserialize)]
struct Workload {
    /// Tokens that are counted of every sequence.
    new_tokens: usize,
    warm_up: Vec<u32>,
    prefill: Vec<u32>,
    lengths: Vec<Prompts>,
    picture: PathBuf,
    questions: [String; 2],
}

/// Prompts of one length.
#[derive(Deserialize)]
struct Prompts {
    /// For one sequence alone.
    one: Vec<u32>,
    /// For sequences at once.
    many: Vec<Vec<u32>>,
}

/// What was measured.
#[derive(Serialize)]
struct Report {
    /// Cores that may be used, and so threads that compute.
    threads: usize,
    prefill: Measured,
    lengths: Vec<Length>,
    /// To the first token of each question about one image.
    question_seconds: Vec<f64>,
    memory: Memory,
}

#[derive(Serialize)]
struct Length {
    positions: usize,
    one: Measured,
    many: Measured,
}

/// Sequences that run at once, maybe one.
#[derive(Serialize)]
struct Measured {
    /// From the first request to the moment when every sequence has its first token.
    first_token_seconds: f64,
    /// Of all sequences together, from that moment on; nothing where one token was asked for.
    tokens_per_second: Option<f64>,
    token_ids: Vec<Vec<u32>>,
}

/// The largest part of this process that was ever resident: the language worker, its client, and nothing else yet.
/// `None` where the system does not say.
#[derive(Serialize)]
struct Memory {
    loaded_bytes: Option<u64>,
    peak_bytes: Option<u64>,
    kv_cache_bytes: u64,
}

type Worker = LanguageWorkerClient<Channel>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).map(PathBuf::from)
    };
    let (Some(model), Some(json)) = (value("--model"), value("--json")) else {
        println!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let report = runtime.block_on(measure(&model));
    fs::write(json, serde_json::to_vec(&report).unwrap()).unwrap();
    ExitCode::SUCCESS
}

async fn measure(model: &Path) -> Report {
    let work: Workload = serde_json::from_slice(&fs::read(model.join("workload.json")).unwrap()).unwrap();
    let mut settings = tessera_language::Settings { model: model.into(), ..Default::default() };
    settings.engine.kv_cache = KV_CACHE.into();
    let language = tessera_language::build(settings, |_| {}).await.unwrap();
    let mut language = Running::start(|listener, stop| language.run(listener, stop)).await;
    let loaded_bytes = peak_bytes();
    let worker = LanguageWorkerClient::new(language.channel());

    run(&worker, &[work.warm_up], 4).await;
    let prefill = run(&worker, &[work.prefill], 1).await;
    let mut lengths = Vec::new();
    for prompts in work.lengths {
        let positions = prompts.one.len();
        let one = run(&worker, &[prompts.one], work.new_tokens).await;
        let many = run(&worker, &prompts.many, work.new_tokens).await;
        lengths.push(Length { positions, one, many });
    }
    let memory = Memory { loaded_bytes, peak_bytes: peak_bytes(), kv_cache_bytes: KV_CACHE.as_u64() };
    let question_seconds = ask_twice(model, &work.picture, &work.questions, &language).await;

    language.stop.cancel();
    language.ended().await;
    let threads = std::thread::available_parallelism().unwrap().get();
    Report { threads, prefill, lengths, question_seconds, memory }
}

/// Continues prompts at once, greedily and past every end token.
async fn run(worker: &Worker, prompts: &[Vec<u32>], new_tokens: usize) -> Measured {
    let asked = if prompts.len() > 1 { new_tokens * SPARE } else { new_tokens };
    let begun = Instant::now();
    let opened = join_all(prompts.iter().map(|prompt| open(worker.clone(), prompt, asked))).await;
    let tagged = opened.into_iter().enumerate().map(|(index, tokens)| tokens.map(move |new| (index, new)));
    let mut events = select_all(tagged);

    let mut token_ids = vec![Vec::new(); prompts.len()];
    // Once all have begun, `counted` tokens came in the time since then.
    let (mut all_began, mut counted) = (None, 0);
    let enough = prompts.len() * (new_tokens - 1);
    let mut last = begun;
    while all_began.is_none() || counted < enough {
        let (index, new) = events.next().await.expect("no sequence ends before enough tokens are counted");
        last = Instant::now();
        counted += if all_began.is_some() { new.len() } else { 0 };
        token_ids[index].extend(new);
        if all_began.is_none() && token_ids.iter().all(|ids| !ids.is_empty()) {
            all_began = Some(last);
        }
    }
    let all_began = all_began.unwrap();
    for ids in &mut token_ids {
        ids.truncate(new_tokens);
    }
    let seconds = (last - all_began).as_secs_f64();
    let measured = Measured {
        first_token_seconds: (all_began - begun).as_secs_f64(),
        tokens_per_second: (counted > 0).then(|| counted as f64 / seconds),
        token_ids,
    };
    let (streams, positions, speed) = (prompts.len(), prompts[0].len(), measured.tokens_per_second.unwrap_or_default());
    let first = measured.first_token_seconds;
    println!("{streams} x {positions} positions: first tokens after {first:.2} s, then {speed:.2} a second");
    measured
}

/// Asks the language worker; the stream is of new tokens.
async fn open(mut worker: Worker, prompt: &[u32], new_tokens: usize) -> BoxStream<'static, Vec<u32>> {
    let request = GenerateRequest::greedy(prompt.to_vec(), NonZeroUsize::new(new_tokens).unwrap());
    let request = tessera_api::proto::language::v1::GenerateRequest::from(request);
    let responses = worker.generate(request).await.unwrap().into_inner();
    let events = responses.map(|response| Event::try_from(response.unwrap()).unwrap());
    let tokens = events.filter_map(async |event| match event {
        Event::Tokens { token_ids, .. } => Some(token_ids),
        _ => None,
    });
    tokens.boxed()
}

/// Asks two questions about one picture through a gateway, one after the other: seconds to the first token of each.
async fn ask_twice(model: &Path, picture: &Path, questions: &[String; 2], language: &Running) -> Vec<f64> {
    let settings = tessera_vision::Settings { model: model.into(), ..Default::default() };
    let vision = tessera_vision::build(settings, |_| {}).await.unwrap();
    let mut vision = Running::start(|listener, stop| vision.run(listener, stop)).await;
    let settings = tessera_gateway::Settings {
        model: model.into(),
        vision: vec![vision.url()],
        language: vec![language.url()],
        ..Default::default()
    };
    let gateway = tessera_gateway::build(settings).await.unwrap();
    let mut gateway = Running::start(|listener, stop| gateway.run(listener, stop)).await;

    let picture = fs::read(model.join(picture)).unwrap();
    let mut seconds = Vec::new();
    for question in questions {
        let first = first_token(gateway.channel(), &picture, question).await.unwrap().as_secs_f64();
        println!("{question} first token after {first:.2} s");
        seconds.push(first);
    }
    for service in [&mut gateway, &mut vision] {
        service.stop.cancel();
        service.ended().await;
    }
    seconds
}

fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
