//! What a client may ask for beyond one plain answer, as the gateway asks it of a language worker and tells it back: the
//! worker here is a fake that notes what it is asked and plays a script. And what the real one makes of it.

use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tessera_api::gateway::{BeamSettings, Event, FinishReason, Settings};
use tessera_api::language::{
    self, BeamSearch, Choice, Constraint, Draw, EarlyStopping, Generator, Load, Logprobs, Sampling,
};
use tessera_api::proto::gateway::v1 as gateway_proto;
use tessera_api::proto::language::v1 as proto;
use tessera_api::proto::language::v1::language_worker_server::{LanguageWorker, LanguageWorkerServer};
use tessera_api::{Error, ErrorKind};
use tessera_checkpoint::Checkpoint;
use tessera_embedding::DecoderFingerprint;
use tessera_prompt::Prompter;
use tessera_rpc::Tasks;
use tessera_testkit::family_dir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::IntervalStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::cluster::{Cluster, DeadAddress, limited};
use crate::conversation::{Expected, request};

/// What a fake does, one after the other.
#[derive(Clone, Debug)]
enum Act {
    Say(language::Event),
    Wait(Duration),
    Fail(Error),
    /// Keeps the stream open and says nothing more.
    Hang,
}

/// A language worker that answers every request with the same script.
struct Fake {
    script: Vec<Act>,
    state: Arc<FakeState>,
}

struct FakeState {
    asked: Mutex<Vec<proto::GenerateRequest>>,
    load: Mutex<Load>,
    /// Streams that were let go.
    left: watch::Sender<usize>,
}

/// Counts a stream that is let go.
struct Left(Arc<FakeState>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.left.send_modify(|left| *left += 1);
    }
}

/// What a test sees of a fake.
struct Watched {
    url: String,
    state: Arc<FakeState>,
}

impl Watched {
    /// Serves a fake until the test is over.
    async fn start(script: Vec<Act>) -> Self {
        let state =
            Arc::new(FakeState { asked: Mutex::default(), load: Mutex::default(), left: watch::Sender::new(0) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = Fake { script, state: state.clone() };
        let server = tonic::transport::Server::builder().add_service(LanguageWorkerServer::new(fake));
        Tasks::default().spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Self { url, state }
    }

    fn asked(&self) -> usize {
        self.state.asked.lock().unwrap().len()
    }

    /// What it was asked last.
    fn last(&self) -> language::GenerateRequest {
        self.state.asked.lock().unwrap().last().unwrap().clone().try_into().unwrap()
    }

    fn set_waiting(&self, waiting: usize) {
        *self.state.load.lock().unwrap() = Load { waiting, ..Load::default() };
    }
}

#[tonic::async_trait]
impl LanguageWorker for Fake {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<proto::GenerateResponse, Status>> + Send>>;
    type LoadStream = Pin<Box<dyn Stream<Item = Result<proto::LoadResponse, Status>> + Send>>;

    async fn generate(
        &self,
        request: Request<proto::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        self.state.asked.lock().unwrap().push(request.into_inner());
        let left = Left(self.state.clone());
        let acts = stream::iter(self.script.clone()).filter_map(move |act| {
            let _held = &left;
            async move {
                match act {
                    Act::Say(event) => Some(Ok(event.into())),
                    Act::Fail(error) => Some(Err(error.into())),
                    Act::Wait(time) => {
                        tokio::time::sleep(time).await;
                        None
                    }
                    Act::Hang => std::future::pending().await,
                }
            }
        });
        Ok(Response::new(acts.boxed()))
    }

    async fn load(&self, _: Request<proto::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let state = self.state.clone();
        let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(20)));
        Ok(Response::new(ticks.map(move |_| Ok((*state.load.lock().unwrap()).into())).boxed()))
    }

    async fn describe(&self, _: Request<proto::DescribeRequest>) -> Result<Response<proto::DescribeResponse>, Status> {
        let image_token_id = Checkpoint::open(&family_dir("mistral")).unwrap().model.image_token_id;
        let description = language::Description {
            max_positions: 4096,
            vocabulary: 640,
            image_token_id,
            version: "fake".into(),
            fingerprint: DecoderFingerprint::of(&[]),
        };
        Ok(Response::new(description.into()))
    }
}

/// A gateway whose language workers are these.
async fn before(workers: &[&Watched]) -> Cluster {
    let urls = workers.iter().map(|worker| worker.url.clone()).collect();
    Cluster::start("mistral", |settings| settings.gateway.language = urls).await
}

fn say(sample: usize, token_ids: &[u32]) -> Act {
    Act::Say(language::Event::Tokens { sample, token_ids: token_ids.to_vec(), logprobs: Vec::new() })
}

fn finish(sample: usize, reason: FinishReason) -> Act {
    let timings = language::Timings { prefill: Duration::from_millis(3), ..language::Timings::default() };
    Act::Say(language::Event::Finished(language::Finished { sample, reason, timings, reused_positions: 5 + sample }))
}

fn asking(case: &str, settings: Settings) -> gateway_proto::GenerateRequest {
    let mut asked = request(case, 0);
    asked.settings = settings;
    asked.into()
}

/// Everything that comes, to the end.
async fn events(cluster: &Cluster, asked: gateway_proto::GenerateRequest) -> Result<Vec<Event>, Error> {
    let mut stream = cluster.open(Request::new(asked)).await?;
    let mut events = Vec::new();
    while let Some(response) = stream.message().await? {
        events.push(response.try_into()?);
    }
    Ok(events)
}

/// Text and tokens of one sample, and its end: how many events after it were about it.
fn of_sample(events: &[Event], wanted: usize) -> (String, Vec<u32>, tessera_api::gateway::Finished) {
    let (mut text, mut ids, mut end) = (String::new(), Vec::new(), None);
    for event in events {
        match event {
            Event::Delta { sample, text: more, token_ids, .. } if *sample == wanted => {
                assert_eq!(end, None, "nothing follows the end of sample {wanted}");
                text.push_str(more);
                ids.extend(token_ids);
            }
            Event::Finished(finished) if finished.sample == wanted => {
                assert_eq!(end.replace(*finished), None, "sample {wanted} ends once");
            }
            _ => {}
        }
    }
    (text, ids, end.unwrap_or_else(|| panic!("sample {wanted} has no end")))
}

#[test]
fn every_setting_reaches_the_language_worker() {
    limited(async {
        let worker = Watched::start(vec![finish(0, FinishReason::Length), finish(1, FinishReason::Length)]).await;
        let cluster = before(&[&worker]).await;
        let two = NonZeroUsize::new(2).unwrap();
        let drawn = Settings {
            max_tokens: Some(9),
            min_tokens: Some(3),
            temperature: Some(0.5),
            top_k: Some(7),
            top_p: Some(0.875),
            min_p: Some(0.125),
            typical_p: Some(0.75),
            repetition_penalty: Some(1.25),
            presence_penalty: Some(-0.25),
            frequency_penalty: Some(0.5),
            no_repeat_ngram: Some(4),
            logit_bias: vec![(3, f32::NEG_INFINITY), (9, 1.5)],
            bad_words: vec![vec![5], vec![6, 7]],
            seed: Some(11),
            generator: Generator::Torch,
            stop: vec!["never said".into()],
            stop_token_ids: vec![12],
            logprobs: Some(3),
            samples: Some(two),
            constraint: Some(Constraint::Choices(vec!["yes".into(), "no".into()])),
            ..Settings::default()
        };
        events(&cluster, asking("one_image", drawn)).await.unwrap();
        let asked = worker.last();
        let draw = Draw {
            temperature: 0.5,
            top_k: NonZeroUsize::new(7),
            top_p: 0.875,
            min_p: 0.125,
            typical_p: 0.75,
            seed: 11,
            generator: Generator::Torch,
        };
        let sampling = Sampling {
            logit_bias: vec![(3, f32::NEG_INFINITY), (9, 1.5)],
            repetition_penalty: 1.25,
            presence_penalty: -0.25,
            frequency_penalty: 0.5,
            no_repeat_ngram: NonZeroUsize::new(4),
            bad_words: vec![vec![5], vec![6, 7]],
            min_new_tokens: 3,
            choice: Choice::Draw(draw),
        };
        assert_eq!(asked.sampling, sampling);
        assert_eq!((asked.samples, asked.max_new_tokens.get(), asked.begun.len()), (two, 9, 0));
        assert_eq!((asked.logprobs, asked.prompt_logprobs, asked.beam_search), (Some(3), None, None));
        assert_eq!(asked.end_token_ids, [2, 12]);
        assert_eq!(asked.constraint, Some(Constraint::Choices(vec!["yes".into(), "no".into()])));
        assert!(asked.salt.is_empty() && asked.images.len() == 1);

        let beams = BeamSettings {
            beams: NonZeroUsize::new(3).unwrap(),
            length_penalty: Some(0.5),
            early_stopping: Some(EarlyStopping::Never),
        };
        let searched =
            Settings { beam_search: Some(beams), samples: Some(two), ignore_end: true, ..Settings::default() };
        events(&cluster, asking("text_only", searched)).await.unwrap();
        let expected = BeamSearch { beams: 3, length_penalty: 0.5, early_stopping: EarlyStopping::Never };
        let asked = worker.last();
        assert_eq!((asked.beam_search, asked.samples, asked.sampling), (Some(expected), two, Sampling::GREEDY));
        assert_eq!((asked.end_token_ids, asked.logprobs), (vec![], None));
    });
}

#[test]
fn settings_that_exclude_each_other_never_reach_the_worker() {
    limited(async {
        let worker = Watched::start(vec![finish(0, FinishReason::Length)]).await;
        let cluster = before(&[&worker]).await;
        let beams = |beams| {
            let beams = NonZeroUsize::new(beams).unwrap();
            Some(BeamSettings { beams, length_penalty: None, early_stopping: None })
        };
        let plain = Settings::default;
        for (settings, field) in [
            (Settings { beam_search: beams(2), temperature: Some(1.0), ..plain() }, "settings.beam_search"),
            (Settings { beam_search: beams(2), stop: vec!["a".into()], ..plain() }, "settings.stop"),
            (Settings { samples: NonZeroUsize::new(2), ..plain() }, "settings.samples"),
            (Settings { min_tokens: Some(300), ..plain() }, "settings.min_tokens"),
            (Settings { constraint: Some(Constraint::Lark(String::new())), ..plain() }, "settings.constraint.lark"),
        ] {
            let error = events(&cluster, asking("text_only", settings)).await.expect_err(field);
            assert_eq!((error.kind, error.fields[0].field.as_str()), (ErrorKind::Invalid, field), "{error:?}");
        }
        assert_eq!(worker.asked(), 0);
        events(&cluster, asking("text_only", plain())).await.unwrap();
        assert_eq!(worker.asked(), 1);
    });
}

#[test]
fn samples_are_told_apart_and_each_has_its_own_end() {
    limited(async {
        let Expected { token_ids: ids, text, .. } = Expected::of("mistral", "one_image", 0);
        let script = vec![
            say(1, &ids[..2]),
            say(0, &ids[..9]),
            say(1, &ids[2..4]),
            // What follows a stop string is discarded, and so is the worker's own end.
            say(0, &ids[9..]),
            finish(0, FinishReason::Length),
            say(1, &ids[4..5]),
            finish(1, FinishReason::Deadline),
        ];
        let worker = Watched::start(script).await;
        let cluster = before(&[&worker]).await;
        let settings = Settings {
            temperature: Some(1.0),
            samples: NonZeroUsize::new(2),
            stop: vec!["stree".into()],
            ..Settings::default()
        };
        let events = events(&cluster, asking("text_only", settings)).await.unwrap();
        assert!(matches!(events[0], Event::Started(_)));
        let (stopped, first, end) = of_sample(&events, 0);
        assert!(text.starts_with(&format!("{stopped}stree")), "{stopped:?} {text:?}");
        assert_eq!(first, ids[..first.len()]);
        assert_eq!((end.reason, end.usage.completion_tokens), (FinishReason::Stop, first.len()));
        assert_eq!((end.usage.reused_tokens, end.timings.prefill), (None, Duration::ZERO));
        let (rest, second, end) = of_sample(&events, 1);
        assert!(text.starts_with(&rest) && !rest.is_empty());
        assert_eq!((second.as_slice(), end.reason), (&ids[..5], FinishReason::Deadline));
        assert_eq!((end.usage.completion_tokens, end.usage.reused_tokens), (5, Some(6)));
        assert_eq!(end.timings.prefill, Duration::from_millis(3));
        assert_eq!(end.usage.prompt_tokens, Expected::of("mistral", "text_only", 0).prompt_tokens);
    });
}

#[test]
fn the_workers_stream_is_closed_once_every_sample_has_met_its_stop_string() {
    limited(async {
        let ids = Expected::of("mistral", "one_image", 0).token_ids;
        let worker = Watched::start(vec![say(0, &ids), say(1, &ids), Act::Hang]).await;
        let cluster = before(&[&worker]).await;
        let settings = Settings {
            temperature: Some(1.0),
            samples: NonZeroUsize::new(2),
            stop: vec!["stree".into()],
            include_stop: true,
            ..Settings::default()
        };
        let events = events(&cluster, asking("text_only", settings)).await.unwrap();
        for sample in 0..2 {
            let (text, ..) = of_sample(&events, sample);
            assert!(text.ends_with("stree"), "the stop string was to be kept: {text:?}");
        }
        worker.state.left.subscribe().wait_for(|left| *left == 1).await.unwrap();
    });
}

#[test]
fn log_probabilities_come_with_their_tokens_and_those_of_the_prompt_come_first() {
    limited(async {
        let expected = Expected::of("mistral", "one_image", 0);
        let ids = expected.token_ids;
        let at = |index: usize| Logprobs { chosen: -(index as f32), likeliest: vec![(ids[1], -0.5), (2, -9.0)] };
        let tokens =
            language::Event::Tokens { sample: 0, token_ids: ids[..3].to_vec(), logprobs: (0..3).map(at).collect() };
        let prompt = language::Event::PromptLogprobs((1..expected.prompt_tokens).map(at).collect());
        let worker = Watched::start(vec![Act::Say(prompt), Act::Say(tokens), finish(0, FinishReason::Length)]).await;
        let cluster = before(&[&worker]).await;
        let settings = Settings { logprobs: Some(2), prompt_logprobs: Some(2), ..Settings::default() };
        let events = events(&cluster, asking("one_image", settings)).await.unwrap();
        let prompter = Prompter::open(&Checkpoint::open(&family_dir("mistral")).unwrap()).unwrap();

        let (mut places, mut answered) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::PromptLogprobs(positions) => {
                    assert!(answered.is_empty(), "the prompt comes first");
                    places.extend(positions);
                }
                Event::Delta { token_ids, logprobs, .. } => {
                    assert_eq!(token_ids.len(), logprobs.len());
                    answered.extend(logprobs);
                }
                Event::Started(_) | Event::Finished(_) => {}
            }
        }
        let prompt = worker.last().token_ids;
        assert_eq!(places.len(), prompt.len() - 1);
        for (index, place) in places.iter().enumerate() {
            assert_eq!(place.chosen.token_id, prompt[index + 1]);
            assert_eq!(place.chosen.logprob, -(index as f32 + 1.0));
        }
        assert!(places.iter().any(|place| place.chosen.text == "<image>"));
        assert_eq!(answered.len(), 3);
        for (place, id) in answered.iter().zip(&ids) {
            assert_eq!((place.chosen.token_id, &place.chosen.text), (*id, &prompter.token_text(*id)));
            let likeliest: Vec<_> = place.likeliest.iter().map(|token| (token.token_id, token.logprob)).collect();
            assert_eq!(likeliest, [(ids[1], -0.5), (2, -9.0)]);
            assert_eq!(place.likeliest[1].text, "</s>");
        }
    });
}

#[test]
fn what_there_was_by_the_deadline_is_an_answer() {
    limited(async {
        let ids = Expected::of("mistral", "one_image", 0).token_ids;
        // The worker is a little late, as it may be on a busy machine.
        let late = Act::Wait(Duration::from_millis(500));
        let worker = Watched::start(vec![say(0, &ids[..3]), late, finish(0, FinishReason::Deadline)]).await;
        let cluster = before(&[&worker]).await;
        let mut asked = Request::new(asking("text_only", Settings::default()));
        asked.set_timeout(Duration::from_millis(300));
        let mut stream = cluster.open(asked).await.unwrap();
        let mut events: Vec<Event> = Vec::new();
        while let Some(response) = stream.message().await.unwrap() {
            events.push(response.try_into().unwrap());
        }
        let (_, tokens, end) = of_sample(&events, 0);
        assert_eq!((tokens.as_slice(), end.reason), (&ids[..3], FinishReason::Deadline));
    });
}

#[test]
fn a_worker_that_forgets_the_deadline_is_not_waited_for() {
    limited(async {
        let worker = Watched::start(vec![Act::Hang]).await;
        let cluster = before(&[&worker]).await;
        let mut asked = Request::new(asking("text_only", Settings::default()));
        asked.set_timeout(Duration::from_millis(200));
        let mut stream = cluster.open(asked).await.unwrap();
        assert!(matches!(Event::try_from(stream.message().await.unwrap().unwrap()), Ok(Event::Started(_))));
        let error = Error::from(stream.message().await.unwrap_err());
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Deadline, "DEADLINE_EXCEEDED"), "{error:?}");
        worker.state.left.subscribe().wait_for(|left| *left == 1).await.unwrap();
    });
}

#[test]
fn what_the_worker_refuses_is_told_in_the_clients_words() {
    limited(async {
        let refused = Error::field("CONSTRAINT_INVALID", "constraint.regex", "no closing bracket");
        let worker = Watched::start(vec![Act::Fail(refused)]).await;
        let cluster = before(&[&worker]).await;
        let settings = Settings { constraint: Some(Constraint::Regex("(".into())), ..Settings::default() };
        let error = events(&cluster, asking("text_only", settings)).await.unwrap_err();
        assert_eq!(error.fields[0].field, "settings.constraint.regex");
        assert_eq!(error.message, "settings.constraint.regex: no closing bracket");
    });
}

#[test]
fn a_worker_that_breaks_the_contract_is_an_error_and_no_panic() {
    limited(async {
        let place = Logprobs { chosen: -1.0, likeliest: Vec::new() };
        let odd = language::Event::Tokens { sample: 0, token_ids: vec![5, 6], logprobs: vec![place.clone()] };
        for act in [
            say(7, &[5]),
            finish(1, FinishReason::Stop),
            Act::Say(odd),
            Act::Say(language::Event::PromptLogprobs(vec![place])),
        ] {
            let worker = Watched::start(vec![act]).await;
            let cluster = before(&[&worker]).await;
            let error = events(&cluster, asking("text_only", Settings::default())).await.unwrap_err();
            assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Internal, "CONTRACT_BROKEN"), "{error:?}");
        }
    });
}

/// Asks until so many requests in a row were answered as `answered` says: until then reports are on their way.
async fn eventually<F: Future<Output = bool>>(in_a_row: usize, mut answered: impl FnMut() -> F) {
    let mut so_far = 0;
    while so_far < in_a_row {
        so_far = if answered().await { so_far + 1 } else { 0 };
    }
}

#[test]
fn sequences_go_to_the_worker_that_has_less_to_do() {
    limited(async {
        let script = || vec![finish(0, FinishReason::Length)];
        let (one, other) = (Watched::start(script()).await, Watched::start(script()).await);
        let cluster = before(&[&one, &other]).await;
        let ask = async |wanted: &Watched| {
            let before = wanted.asked();
            events(&cluster, asking("text_only", Settings::default())).await.unwrap();
            wanted.asked() > before
        };
        // In turn it would be every second one. It is far less than what the other one says it has to do.
        for (busy, free) in [(&one, &other), (&other, &one)] {
            busy.set_waiting(1000);
            free.set_waiting(0);
            eventually(8, || ask(free)).await;
        }
    });
}

#[test]
fn a_busy_language_worker_is_left_alone_while_another_is_free() {
    limited(async {
        let busy = Cluster::start("mistral", |settings| settings.language.engine.running = 1).await;
        let held = busy.hold_language().await;
        let free = Cluster::of("mistral").await;
        let front = Cluster::start("mistral", |settings| {
            settings.gateway.language = vec![busy.language.url(), free.language.url()];
        })
        .await;
        let golden = Expected::of("mistral", "text_only", 0);
        let in_time = async || {
            // Whoever is sent to the busy one waits for its whole time.
            let mut asked = Request::new(request("text_only", 0).into());
            asked.set_timeout(Duration::from_secs(2));
            let answer = async { crate::conversation::Reply::read(front.open(asked).await?).await };
            answer.await.is_ok_and(|reply| reply.token_ids == golden.token_ids)
        };
        eventually(8, in_time).await;
        drop(held);
    });
}

#[test]
fn a_language_worker_that_cannot_be_reached_comes_last_until_it_is_back() {
    limited(async {
        let dead = DeadAddress::new();
        let live = Cluster::of("mistral").await;
        let front = Cluster::start("mistral", |settings| {
            settings.gateway.language = vec![dead.url.clone(), live.language.url()];
        })
        .await;
        // In turn every second one would fail.
        eventually(6, async || front.ask(request("text_only", 0)).await.is_ok()).await;
    });
}

#[test]
fn what_stops_an_answer_can_be_kept_and_end_tokens_ignored() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let whole = Expected::of("mistral", "one_image", 0);
        let stopped = |change: &dyn Fn(&mut Settings)| {
            let mut asked = request("one_image", 0);
            change(&mut asked.settings);
            cluster.ask(asked)
        };
        let reply = stopped(&|settings| {
            settings.stop = vec!["tree".into()];
            settings.include_stop = true;
        });
        let reply = reply.await.unwrap();
        assert_eq!((reply.text.as_str(), reply.finished.reason), ("4 m\u{fffd} o d stree", FinishReason::Stop));

        // A stop token ends the answer in the worker; it is the last token, and no text.
        let stop = whole.token_ids[6];
        let tokens = whole.token_ids.iter().position(|id| *id == stop).unwrap() + 1;
        let trimmed = stopped(&|settings| settings.stop_token_ids = vec![stop]).await.unwrap();
        assert_eq!(
            (trimmed.token_ids.as_slice(), trimmed.finished.reason),
            (&whole.token_ids[..tokens], FinishReason::Stop)
        );
        let kept = stopped(&|settings| {
            settings.stop_token_ids = vec![stop];
            settings.include_stop = true;
        });
        let kept = kept.await.unwrap();
        assert!(kept.text.starts_with(&trimmed.text) && kept.text.len() > trimmed.text.len(), "{kept:?}");
        assert!(whole.text.starts_with(&kept.text));
        assert_eq!(kept.finished.usage.reused_tokens.map(|reused| reused < kept.started.prompt_tokens), Some(true));
    });
}

#[test]
fn an_end_token_can_be_ignored() {
    limited(async {
        let families = ["vicuna_layers", "llama3", "yi", "qwen2", "vicuna", "mistral"];
        let ending = families.into_iter().find_map(|family| {
            let end = Checkpoint::open(&family_dir(family)).unwrap().generation.eos_ids;
            let ends = |case: &&str| {
                let tokens = Expected::of(family, case, 0).token_ids;
                tokens.len() < 16 && tokens.last().is_some_and(|last| end.contains(last))
            };
            tessera_testkit::CASES.into_iter().find(ends).map(|case| (family, case))
        });
        let (family, case) = ending.expect("some answer of the test kit ends by itself");
        let golden = Expected::of(family, case, 0).token_ids;
        let mut asked = request(case, 0);
        asked.settings.ignore_end = true;
        let reply = Cluster::of(family).await.ask(asked).await.unwrap();
        assert_eq!((reply.token_ids.len(), reply.finished.reason), (16, FinishReason::Length));
        assert_eq!(reply.token_ids[..golden.len()], golden);
    });
}
