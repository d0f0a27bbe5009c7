//! An answer whose language worker breaks goes on elsewhere, and its client cannot tell: the workers are fakes that break at
//! every event of an answer, in every way that there is.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

#[path = "continuation/fake.rs"]
mod fake;

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tessera_api::gateway::{
    BeamSettings, Event, FinishReason, Finished, GenerateRequest, Input, Logprobs, Message, Part, Role, Settings,
};
use tessera_api::proto::gateway::v1 as proto;
use tessera_api::proto::gateway::v1::gateway_client::GatewayClient;
use tessera_api::{Error, ErrorKind};
use tessera_gateway::LimitSettings;
use tessera_rpc::{Tasks, client};
use tessera_testkit::family_dir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::Channel;

use fake::{END, End, Plan};

/// A test that hangs fails.
const LIMIT: Duration = Duration::from_secs(300);
/// For what is only likely.
const TRIES: usize = 10;
/// Enough for a few tokens, on a busy machine too.
const TIME: Duration = Duration::from_secs(3);

/// A gateway in front of two fakes.
struct Bench {
    plan: Arc<Plan>,
    client: GatewayClient<Channel>,
}

/// Everything that a client is told, put together.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    prompt: Vec<Logprobs>,
    samples: Vec<Sample>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Sample {
    text: String,
    token_ids: Vec<u32>,
    logprobs: Vec<Logprobs>,
    end: Option<(FinishReason, usize)>,
}

fn limited(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(LIMIT, test).await });
    runtime.shutdown_background();
    ended.expect("the test hangs");
}

impl Bench {
    async fn start(limits: LimitSettings) -> Self {
        let plan = Arc::new(Plan::default());
        let language = vec![plan.serve(0).await, plan.serve(1).await];
        let settings = tessera_gateway::Settings {
            model: family_dir("mistral"),
            // Nobody asks about images.
            vision: vec!["http://127.0.0.1:9".into()],
            language,
            limits,
            ..Default::default()
        };
        let service = tessera_gateway::build(settings).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Tasks::default().spawn(service.run(listener, CancellationToken::new()));
        Self { plan, client: GatewayClient::new(client::channel(&url).unwrap()) }
    }

    /// Asks, and puts together what comes to the end, or to the error.
    async fn ask_within(&self, settings: &Settings, time: Option<Duration>) -> (Told, Vec<Finished>, Option<Error>) {
        let message = Message { role: Role::User, parts: vec![Part::Text("What is shown?".into())] };
        let input = Input::Conversation(vec![message]);
        let asked = GenerateRequest { request_id: "a".into(), input, settings: settings.clone() };
        let mut asked = Request::new(proto::GenerateRequest::from(asked));
        time.into_iter().for_each(|time| asked.set_timeout(time));
        let (mut told, mut ends) = (Told::default(), Vec::new());
        let mut events = match self.client.clone().generate(asked).await {
            Ok(response) => response.into_inner(),
            Err(status) => return (told, ends, Some(status.into())),
        };
        loop {
            match events.message().await {
                Ok(Some(event)) => told.take(event.try_into().unwrap(), &mut ends),
                Ok(None) => return (told, ends, None),
                Err(status) => return (told, ends, Some(status.into())),
            }
        }
    }

    async fn ask(&self, settings: &Settings) -> (Told, Vec<Finished>) {
        let (told, ends, error) = self.ask_within(settings, None).await;
        assert_eq!(error, None, "after {told:?}");
        (told, ends)
    }

    fn plan(&self, breaks: impl IntoIterator<Item = (usize, End)>) {
        *self.plan.breaks.lock().unwrap() = breaks.into_iter().collect();
        self.plan.asked.lock().unwrap().clear();
        *self.plan.events.lock().unwrap() = 0;
    }

    fn asked(&self) -> usize {
        self.plan.asked.lock().unwrap().len()
    }
}

impl Told {
    fn take(&mut self, event: Event, ends: &mut Vec<Finished>) {
        let (Event::Delta { sample, .. } | Event::Finished(Finished { sample, .. })) = event else {
            if let Event::PromptLogprobs(more) = event {
                assert!(self.samples.is_empty(), "the prompt's come first");
                self.prompt.extend(more);
            }
            return;
        };
        self.samples.resize(self.samples.len().max(sample + 1), Sample::default());
        let of = &mut self.samples[sample];
        assert_eq!(of.end, None, "nothing follows the end of a sample");
        match event {
            Event::Delta { text, token_ids, logprobs, .. } => {
                of.text.push_str(&text);
                of.token_ids.extend(token_ids);
                of.logprobs.extend(logprobs);
            }
            Event::Finished(finished) => {
                of.end = Some((finished.reason, finished.usage.completion_tokens));
                ends.push(finished);
            }
            Event::Started(_) | Event::PromptLogprobs(_) => {}
        }
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Unavailable, "HANDED_OVER", "it shuts down")
}

/// Every way to break that is no fault of the request.
fn ways() -> Vec<End> {
    vec![
        End::Early,
        End::Error(lost()),
        End::Error(Error::new(ErrorKind::Internal, "MODEL_FAILED", "the device is gone")),
        End::Transport(tonic::Code::Unknown, "error reading a body from connection"),
        End::Transport(tonic::Code::Internal, "h2 protocol error: stream reset"),
        End::Transport(tonic::Code::Unavailable, "transport error"),
    ]
}

fn drawn(samples: usize) -> Settings {
    let samples = NonZeroUsize::new(samples);
    Settings { temperature: Some(1.0), seed: Some(7), samples, max_tokens: Some(9), ..Settings::default() }
}

/// What is asked: one sample and several, ends of every kind, log-probabilities, a search.
fn requests() -> Vec<Settings> {
    let search = BeamSettings { beams: NonZeroUsize::new(3).unwrap(), length_penalty: None, early_stopping: None };
    let greedy = Settings { temperature: Some(0.0), max_tokens: Some(30), ..Settings::default() };
    vec![
        greedy.clone(),
        Settings { max_tokens: Some(4), ..greedy.clone() },
        Settings { logprobs: Some(2), prompt_logprobs: Some(1), ..drawn(3) },
        Settings { beam_search: Some(search), samples: NonZeroUsize::new(2), prompt_logprobs: Some(0), ..greedy },
    ]
}

#[test]
fn an_answer_that_breaks_at_any_event_is_told_as_if_it_had_not() {
    limited(async {
        let bench = Bench::start(LimitSettings::default()).await;
        for settings in requests() {
            bench.plan([]);
            let (whole, ends) = bench.ask(&settings).await;
            assert!(ends.iter().all(|end| end.timings.continuations == 0));
            let events = *bench.plan.events.lock().unwrap();
            for (cut, way) in (0..events).flat_map(|cut| ways().into_iter().map(move |way| (cut, way))) {
                bench.plan([(cut, way.clone())]);
                let (told, ends) = bench.ask(&settings).await;
                assert_eq!(told, whole, "{way:?} after {cut} of {events} events of {settings:?}");
                assert_eq!(bench.asked(), 2);
                // Before the first event nobody can tell how often it was begun.
                assert!(ends.last().unwrap().timings.continuations == 1 || cut == 0);
            }
        }
    });
}

#[test]
fn an_answer_that_breaks_again_and_again_loses_and_repeats_nothing() {
    limited(async {
        let bench = Bench::start(LimitSettings { continuations: 40, ..LimitSettings::default() }).await;
        for settings in requests().into_iter().filter(|settings| settings.beam_search.is_none()) {
            bench.plan([]);
            let (whole, _) = bench.ask(&settings).await;
            for step in [1, 2, 3] {
                bench.plan(std::iter::repeat_n((step, End::Early), 40));
                let (told, ends) = bench.ask(&settings).await;
                assert_eq!(told, whole, "every {step} events of {settings:?}");
                assert!(ends.last().unwrap().timings.continuations > 0);
            }
        }
    });
}

#[test]
fn a_stop_string_over_a_break_is_found() {
    limited(async {
        let bench = Bench::start(LimitSettings::default()).await;
        let (whole, _) = bench.ask(&drawn(2)).await;
        // From within the second token to within the fourth.
        let text = &whole.samples[1].text;
        let places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
        let stop = text[places[places.len() / 4]..places[places.len() * 3 / 4]].to_owned();
        for include_stop in [false, true] {
            let settings = Settings { stop: vec![stop.clone()], include_stop, ..drawn(2) };
            bench.plan([]);
            let (whole, _) = bench.ask(&settings).await;
            assert_eq!(whole.samples[1].end.unwrap().0, FinishReason::Stop);
            let events = *bench.plan.events.lock().unwrap();
            for cut in 0..events {
                bench.plan([(cut, End::Error(lost()))]);
                assert_eq!(bench.ask(&settings).await.0, whole, "{stop:?} after {cut} events");
            }
        }
    });
}

#[test]
fn a_worker_is_told_what_there_is_and_nothing_twice() {
    limited(async {
        let bench = Bench::start(LimitSettings::default()).await;
        let settings = Settings { logprobs: Some(0), prompt_logprobs: Some(0), ..drawn(2) };
        // The prompt's, three tokens of one and two of the other.
        bench.plan([(6, End::Early)]);
        bench.ask(&settings).await;
        let asked = bench.plan.asked.lock().unwrap().clone();
        assert_eq!((asked[0].begun.len(), asked[0].prompt_logprobs), (0, Some(0)));
        let begun: Vec<(usize, usize)> =
            asked[1].begun.iter().map(|begun| (begun.sample, begun.token_ids.len())).collect();
        assert_eq!((begun, asked[1].prompt_logprobs), (vec![(0, 3), (1, 2)], None));
        assert_eq!((&asked[0].token_ids, asked[0].max_new_tokens), (&asked[1].token_ids, asked[1].max_new_tokens));
        // One of them is over when it breaks a second time: ended by its fifth token.
        bench.plan([(6, End::Early), (5, End::Early)]);
        bench.ask(&settings).await;
        let last = bench.plan.asked.lock().unwrap()[2].begun.clone();
        assert_eq!(last.iter().map(|begun| begun.sample).collect::<Vec<_>>(), [1]);
        assert!(!last[0].token_ids.contains(&END));
    });
}

#[test]
fn a_worker_that_shuts_down_sends_its_callers_elsewhere_at_once() {
    limited(async {
        let bench = Bench::start(LimitSettings::default()).await;
        let later = Duration::from_secs(60);
        for error in [Error { retry_after: Some(later), ..Error::draining() }, lost()] {
            let end = End::Refused(error);
            bench.plan([]);
            let (whole, _) = bench.ask(&drawn(2)).await;
            bench.plan([(0, end.clone()), (4, End::Error(lost()))]);
            let began = Instant::now();
            assert_eq!(bench.ask(&drawn(2)).await.0, whole);
            // Its word on when to come again is not for those who can go elsewhere.
            assert!(began.elapsed() < later, "{end:?}");
        }
    });
}

#[test]
fn the_worker_that_broke_is_not_the_next_one() {
    limited(async {
        for way in ways() {
            // It is asked at once whether it is back, and says yes: that may be too early now and then.
            let mut others = 0;
            for _ in 0..TRIES {
                let bench = Bench::start(LimitSettings::default()).await;
                bench.plan([(3, way.clone())]);
                bench.ask(&drawn(1)).await;
                others += bench.plan.streams.lock().unwrap().len() - 1;
            }
            assert!(others > TRIES / 2, "{others} of {TRIES}: {way:?}");
        }
    });
}

#[test]
fn a_pool_that_comes_back_in_time_is_waited_for() {
    limited(async {
        let bench = Bench::start(LimitSettings::default()).await;
        bench.plan([]);
        let (whole, _) = bench.ask(&drawn(2)).await;
        let unreachable = || End::Refused(Error::new(ErrorKind::Unavailable, "UNREACHABLE", "nobody listens"));
        let full = || End::Refused(Error::exhausted("QUEUE_FULL", "full", Duration::from_millis(20)));
        bench.plan([(3, End::Early), (0, unreachable()), (0, full()), (0, unreachable())]);
        let (told, ends) = bench.ask(&drawn(2)).await;
        assert_eq!(told, whole);
        assert!((1..=4).contains(&ends.last().unwrap().timings.continuations));
    });
}

#[test]
fn a_pool_that_does_not_come_back_is_an_error_that_says_how_far_the_answer_came() {
    limited(async {
        let bench = Bench::start(LimitSettings { continuations: 2, ..LimitSettings::default() }).await;
        bench.plan([]);
        let (whole, _) = bench.ask(&drawn(1)).await;
        for (cut, tokens) in [(0, "0"), (3, "3")] {
            bench.plan([(cut, End::Early)].into_iter().chain(std::iter::repeat_n((0, End::Error(lost())), 100)));
            let (told, _, error) = bench.ask_within(&drawn(1), None).await;
            let error = error.unwrap();
            assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unavailable, "POOL_LOST"), "{error:?}");
            assert!(error.metadata.contains(&("tokens".into(), tokens.into())), "{error:?}");
            assert!(error.message.contains(&format!("{tokens} tokens")), "{error}");
            let streamed: Vec<u32> = told.samples.into_iter().flat_map(|sample| sample.token_ids).collect();
            assert_eq!(streamed, whole.samples[0].token_ids[..cut], "what there was was streamed");
            assert!((3..20).contains(&bench.asked()), "{}", bench.asked());
        }
    });
}

#[test]
fn what_would_fail_anywhere_is_not_tried_again() {
    limited(async {
        let bench = Bench::start(LimitSettings::default()).await;
        for error in [
            Error::field("SEQUENCE_TOO_LONG", "max_new_tokens", "too long"),
            Error::new(ErrorKind::Precondition, "FEATURES_MISMATCH", "another model"),
            Error::new(ErrorKind::Internal, "CONSTRAINT_FAILED", "no token fits"),
            Error::new(ErrorKind::Deadline, "DEADLINE_EXCEEDED", "too late"),
        ] {
            bench.plan([(0, End::Error(error.clone()))]);
            let (.., found) = bench.ask_within(&drawn(1), None).await;
            assert_eq!((found.unwrap().reason, bench.asked()), (error.reason, 1));
        }
        // A full queue refuses whoever has nothing yet.
        let full = End::Refused(Error::exhausted("QUEUE_FULL", "full", Duration::from_secs(1)));
        bench.plan(std::iter::repeat_n((0, full), 100));
        let (.., found) = bench.ask_within(&drawn(1), None).await;
        assert_eq!(found.unwrap().kind, ErrorKind::Exhausted);
        // A model that fails twice.
        let failed = || End::Error(Error::new(ErrorKind::Internal, "MODEL_FAILED", "no"));
        bench.plan([(2, failed()), (1, failed())]);
        let (.., found) = bench.ask_within(&drawn(1), None).await;
        assert_eq!((found.unwrap().reason.as_ref(), bench.asked()), ("MODEL_FAILED", 2));
    });
}

#[test]
fn a_deadline_ends_an_answer_that_waits_for_a_worker_with_what_it_has() {
    limited(async {
        let bench = Bench::start(LimitSettings { continuations: 1000, ..LimitSettings::default() }).await;
        bench.plan([]);
        let (whole, _) = bench.ask(&drawn(1)).await;
        let breaks = || std::iter::repeat_n((0, End::Early), 1000);
        bench.plan([(3, End::Early)].into_iter().chain(breaks()));
        let time = Some(TIME);
        let (told, ends, _) = bench.ask_within(&drawn(1), time).await;
        // The client may hear its own deadline first.
        assert_eq!(told.samples[0].token_ids, whole.samples[0].token_ids[..3]);
        assert!(ends.iter().all(|end| end.reason == FinishReason::Deadline));
        let by_limit = LimitSettings { time: TIME, continuations: 1000, ..Default::default() };
        let bench = Bench::start(by_limit).await;
        bench.plan([(3, End::Early)].into_iter().chain(breaks()));
        let (told, ends) = bench.ask(&drawn(1)).await;
        assert_eq!(told.samples[0].token_ids, whole.samples[0].token_ids[..3]);
        assert_eq!(ends[0].reason, FinishReason::Deadline);
        // With nothing to tell there is nothing but the error.
        bench.plan(breaks());
        let (.., error) = bench.ask_within(&drawn(1), None).await;
        assert_eq!(error.unwrap().kind, ErrorKind::Deadline);
    });
}

#[test]
fn a_worker_with_another_answer_is_found_out() {
    limited(async {
        let bench = Bench::start(LimitSettings::default()).await;
        let search = requests().pop().unwrap();
        // The half of an answer that was told is told again, and is the same.
        bench.plan([(2, End::Early)]);
        assert!(bench.ask_within(&search, None).await.2.is_none());
        bench.plan([(2, End::Early), (usize::MAX, End::Otherwise)]);
        let (.., error) = bench.ask_within(&search, None).await;
        assert_eq!(error.unwrap().reason, "CONTRACT_BROKEN");
    });
}
