//! Answers whose language worker is lost, or ended, in the middle: they are told as if nothing had happened.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tessera_api::embedding::{FetchRequest, Representation};
use tessera_api::gateway::{Event, FinishReason, Finished, GenerateRequest, Logprobs, Settings};
use tessera_api::language::{self, Generator};
use tessera_api::proto::gateway::v1 as gateway_proto;
use tessera_api::proto::language::v1 as proto;
use tessera_api::proto::language::v1::language_worker_client::LanguageWorkerClient;
use tessera_api::{Error, ErrorKind};
use tessera_embedding::ImageKey;
use tessera_rpc::client;
use tessera_testkit::family_dir;
use tokio_stream::StreamExt;
use tonic::{Request, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::client::{Client, by_handles};
use crate::cluster::{Cluster, limited_to, sequence};
use crate::conversation::request;
use crate::pool::{Mortal, busy};
use crate::running::Running;

/// A worker may be lost just after the end of an answer that was meant: then it is asked again, this often.
const TRIES: usize = 10;
const LIMIT: Duration = Duration::from_secs(240);

/// Everything that is told of an answer but times.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Told {
    prompt: Vec<Logprobs>,
    samples: Vec<Sample>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Sample {
    text: String,
    token_ids: Vec<u32>,
    logprobs: Vec<Logprobs>,
    /// Why it ended, and tokens of prompt, images and answer.
    end: Option<(FinishReason, [usize; 3])>,
}

impl Told {
    /// Takes events until there is a new token.
    pub(crate) async fn read_a_token(
        &mut self,
        events: &mut Streaming<gateway_proto::GenerateResponse>,
    ) -> Result<(), Error> {
        loop {
            let event = Event::try_from(events.message().await?.expect("it has no token yet"))?;
            let has_token = matches!(event, Event::Delta { .. });
            self.take(event);
            if has_token {
                return Ok(());
            }
        }
    }

    /// Takes the rest; returns how often it went on elsewhere.
    pub(crate) async fn read(
        &mut self,
        events: &mut Streaming<gateway_proto::GenerateResponse>,
    ) -> Result<usize, Error> {
        let mut continuations = 0;
        while let Some(event) = events.message().await? {
            continuations = continuations.max(self.take(event.try_into()?));
        }
        assert!(self.samples.iter().all(|sample| sample.end.is_some()), "every sample ends");
        Ok(continuations)
    }

    fn take(&mut self, event: Event) -> usize {
        match event {
            Event::Started(_) => {}
            Event::PromptLogprobs(more) => self.prompt.extend(more),
            Event::Delta { sample, text, token_ids, logprobs } => {
                let of = self.sample(sample);
                of.text.push_str(&text);
                of.token_ids.extend(token_ids);
                of.logprobs.extend(logprobs);
            }
            Event::Finished(Finished { sample, reason, usage, timings }) => {
                let tokens = [usage.prompt_tokens, usage.image_tokens, usage.completion_tokens];
                self.sample(sample).end = Some((reason, tokens));
                return timings.continuations;
            }
        }
        0
    }

    fn sample(&mut self, sample: usize) -> &mut Sample {
        self.samples.resize(self.samples.len().max(sample + 1), Sample::default());
        assert_eq!(self.samples[sample].end, None, "nothing follows the end of a sample");
        &mut self.samples[sample]
    }
}

/// An answer that is not disturbed.
pub(crate) async fn whole(cluster: &Cluster, asked: &GenerateRequest) -> Told {
    let mut told = Told::default();
    let mut events = cluster.open(Request::new(asked.clone().into())).await.unwrap();
    assert_eq!(told.read(&mut events).await.unwrap(), 0);
    told
}

/// Questions with images, whose answers are so long that a worker is lost before they end.
pub(crate) fn questions(tokens: u32) -> Vec<GenerateRequest> {
    let long = Settings { max_tokens: Some(tokens), ignore_end: true, ..Settings::default() };
    let drawn = |generator| Settings {
        temperature: Some(1.5),
        top_k: Some(0),
        seed: Some(11),
        generator,
        samples: NonZeroUsize::new(3),
        ..long.clone()
    };
    let greedy = Settings { temperature: Some(0.0), logprobs: Some(1), prompt_logprobs: Some(0), ..long.clone() };
    vec![
        GenerateRequest { settings: greedy, ..request("two_images", 0) },
        GenerateRequest { settings: drawn(Generator::Counter), ..request("one_image", 0) },
        GenerateRequest { settings: drawn(Generator::Torch), ..request("portrait", 0) },
    ]
}

async fn cluster_of(workers: &[Mortal]) -> Cluster {
    let urls = workers.iter().map(Mortal::url).collect();
    Cluster::start("mistral", |settings| settings.gateway.language = urls).await
}

#[test]
fn an_answer_about_images_survives_the_loss_of_its_language_worker() {
    limited_to(LIMIT, async {
        let mut workers = [Mortal::start("mistral", |_| {}).await, Mortal::start("mistral", |_| {}).await];
        let cluster = cluster_of(&workers).await;
        for asked in questions(1500) {
            let expected = whole(&cluster, &asked).await;
            let mut continuations = 0;
            for _ in 0..TRIES {
                let (mut told, mut events) =
                    (Told::default(), cluster.open(Request::new(asked.clone().into())).await.unwrap());
                told.read_a_token(&mut events).await.unwrap();
                let lost = busy_or_over(&mut workers).await;
                lost.kill();
                continuations = told.read(&mut events).await.unwrap();
                assert_eq!(told, expected);
                lost.replace().await;
                if continuations > 0 {
                    break;
                }
            }
            assert!(continuations > 0, "every answer was over before its worker was lost");
        }
    });
}

/// The worker that has a sequence; any if the sequence seems to be over already.
async fn busy_or_over(workers: &mut [Mortal; 2]) -> &mut Mortal {
    let urls = workers.each_ref().map(Mortal::url);
    &mut workers[busy(&urls).await.unwrap_or(0)]
}

#[test]
fn a_rolling_restart_under_load_loses_no_answer() {
    limited_to(LIMIT, async {
        let mut workers = [Mortal::start("mistral", |_| {}).await, Mortal::start("mistral", |_| {}).await];
        let cluster = cluster_of(&workers).await;
        let asked: Vec<GenerateRequest> = questions(60);
        let expected = join_all(asked.iter().map(|asked| whole(&cluster, asked))).await;
        let over = AtomicBool::new(false);
        // Twenty at any time, until all have been restarted twice.
        let clients = (0..20).map(|client: usize| {
            let (cluster, asked, expected, over) = (&cluster, &asked, &expected, &over);
            async move {
                let (mut answers, mut continuations) = (0, 0);
                while !over.load(Ordering::Relaxed) {
                    let which = (client + answers) % asked.len();
                    let mut told = Told::default();
                    let mut events = cluster.open(Request::new(asked[which].clone().into())).await.unwrap();
                    continuations += told.read(&mut events).await.unwrap();
                    assert_eq!(told, expected[which]);
                    answers += 1;
                }
                (answers, continuations)
            }
        });
        let restarts = async {
            for _ in 0..2 {
                for worker in &mut workers {
                    worker.end().await;
                    worker.replace().await;
                    // The gateway sends it something before the other one ends.
                    while busy(&[worker.url()]).await.is_none() {}
                }
            }
            over.store(true, Ordering::Relaxed);
        };
        let (served, ()) = tokio::join!(join_all(clients), restarts);
        let (answers, continuations) =
            served.into_iter().fold((0, 0), |(a, b), (answers, continuations)| (a + answers, b + continuations));
        println!("{answers} answers, {continuations} continuations");
        assert!(answers >= 20 && continuations > 0);
    });
}

#[test]
fn features_that_went_with_their_vision_worker_are_made_again() {
    limited_to(LIMIT, async {
        let mut workers = [Mortal::start("mistral", |_| {}).await, Mortal::start("mistral", |_| {}).await];
        let mut cluster = cluster_of(&workers).await;
        let asked = questions(1500).remove(1);
        let expected = whole(&cluster, &asked).await;
        let mut continuations = 0;
        for _ in 0..TRIES {
            // Neither of them has anything of the image.
            for worker in &mut workers {
                worker.replace().await;
            }
            let mut told = Told::default();
            let mut events = cluster.open(Request::new(asked.clone().into())).await.unwrap();
            told.read_a_token(&mut events).await.unwrap();
            cluster.replace_vision(|_| {}).await;
            busy_or_over(&mut workers).await.kill();
            continuations = told.read(&mut events).await.unwrap();
            assert_eq!(told, expected);
            if continuations > 0 {
                break;
            }
        }
        // Once because the worker was lost, and once more because the next one found no features.
        assert!(continuations > 1, "{continuations}");
    });
}

#[test]
fn what_a_handle_stands_for_is_looked_for_again() {
    limited_to(LIMIT, async {
        let folder = tempfile::tempdir().unwrap();
        let mut workers = [Mortal::start("mistral", |_| {}).await, Mortal::start("mistral", |_| {}).await];
        let mut cluster = cluster_of(&workers).await;
        for keeps in [true, false] {
            let store = |settings: &mut tessera_vision::Settings| {
                settings.store.disk.folder = if keeps { folder.path().into() } else { Default::default() };
            };
            cluster.replace_vision(store).await;
            let client = Client::of(&cluster.gateway);
            let handle = client.encode(tessera_testkit::picture("one_image", 0)).await.unwrap().image.key;
            let settings = questions(1500).remove(1).settings;
            let asked = GenerateRequest { settings, ..by_handles("one_image", &[handle]) };
            let expected = whole(&cluster, &asked).await;
            let mut outcome = Ok(0);
            for _ in 0..TRIES {
                for worker in &mut workers {
                    worker.replace().await;
                }
                let mut told = Told::default();
                let mut events = cluster.open(Request::new(asked.clone().into())).await.unwrap();
                told.read_a_token(&mut events).await.unwrap();
                cluster.replace_vision(store).await;
                busy_or_over(&mut workers).await.kill();
                outcome = told.read(&mut events).await;
                if outcome.is_ok() {
                    assert_eq!(told, expected);
                }
                if outcome != Ok(0) {
                    break;
                }
                client.encode(tessera_testkit::picture("one_image", 0)).await.unwrap();
            }
            match outcome {
                Ok(continuations) => assert!(keeps && continuations > 0, "{continuations}"),
                Err(error) => assert_eq!((keeps, error.reason.as_ref()), (false, "EMBEDDING_NOT_FOUND"), "{error:?}"),
            }
        }
    });
}

#[test]
fn a_handle_whose_vision_worker_is_lost_is_waited_for() {
    limited_to(LIMIT, async {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let settings = |number: usize| {
            let mut settings = tessera_vision::Settings { model: family_dir("mistral"), ..Default::default() };
            settings.store.disk.folder = folders[number].path().into();
            settings
        };
        for _ in 0..TRIES {
            let mut workers = [Mortal::start("mistral", |_| {}).await, Mortal::start("mistral", |_| {}).await];
            let mut visions = Vec::new();
            for number in 0..2 {
                let vision = tessera_vision::build(settings(number), |_| {}).await.unwrap();
                visions.push(Running::start(|listener, stop| vision.run(listener, stop)).await);
            }
            let front = Cluster::start("mistral", |settings| {
                settings.gateway.language = workers.iter().map(Mortal::url).collect();
                settings.gateway.vision = visions.iter().map(Running::url).collect();
            })
            .await;
            let handle = Client::of(&front.gateway).encode(tessera_testkit::picture("one_image", 0)).await.unwrap();
            let settings_asked = questions(1500).remove(1).settings;
            let asked = GenerateRequest { settings: settings_asked, ..by_handles("one_image", &[handle.image.key]) };
            let expected = whole(&front, &asked).await;
            for worker in &mut workers {
                worker.replace().await;
            }
            let mut told = Told::default();
            let mut events = front.open(Request::new(asked.into())).await.unwrap();
            told.read_a_token(&mut events).await.unwrap();
            // The other one has nothing of it.
            let has_it = usize::from(Client::of(&visions[0]).stat(handle.image.key).await.is_none());
            let lost = &mut visions[has_it];
            lost.stop.cancel();
            lost.ended().await;
            busy_or_over(&mut workers).await.kill();
            let address = lost.address;
            let comes_back = async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                let vision = tessera_vision::build(settings(has_it), |_| {}).await.unwrap();
                Running::start_at(address, |listener, stop| vision.run(listener, stop)).await
            };
            let (continuations, _back) = tokio::join!(told.read(&mut events), comes_back);
            let continuations = continuations.unwrap();
            assert_eq!(told, expected);
            if continuations > 0 {
                return;
            }
        }
        panic!("every answer was over before its workers were lost");
    });
}

#[test]
fn a_language_worker_that_ends_says_so_at_once_and_hands_over_what_it_has() {
    limited_to(LIMIT, async {
        let mut cluster = Cluster::start("mistral", |settings| {
            settings.language.drain.finish = 0.0;
            settings.language.server.drain = Duration::from_secs(200);
        })
        .await;
        let mut health = HealthClient::new(cluster.language.channel());
        let service = "tessera.language.v1.LanguageWorker";
        let watched = health.watch(HealthCheckRequest { service: service.into() }).await.unwrap();
        let mut watched = watched.into_inner().map(|seen| seen.map(|HealthCheckResponse { status }| status));
        assert_eq!(watched.next().await.unwrap().unwrap(), i32::from(ServingStatus::Serving));
        let long = proto::GenerateRequest::from(sequence(vec![1, 2, 3], 4000));
        let mut events = cluster.open_sequence(long).await.unwrap();
        assert!(events.message().await.unwrap().is_some());

        cluster.language.stop.cancel();
        assert_eq!(watched.next().await.unwrap().unwrap(), i32::from(ServingStatus::NotServing));
        let error = loop {
            match events.message().await {
                Ok(event) => assert!(event.is_some(), "the answer was over before"),
                Err(status) => break Error::from(status),
            }
        };
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unavailable, "HANDED_OVER"), "{error:?}");
        drop((events, watched, health));
        cluster.language.ended().await;
    });
}

#[test]
fn a_language_worker_that_ends_takes_no_new_sequence() {
    limited_to(LIMIT, async {
        let mut cluster = Cluster::start("mistral", |settings| {
            settings.language.drain.finish = 1.0;
            settings.language.server.drain = Duration::from_secs(200);
        })
        .await;
        let channel = client::channel(&cluster.language.url()).unwrap();
        let mut worker = LanguageWorkerClient::new(channel);
        let mut ask = async || worker.generate(proto::GenerateRequest::from(sequence(vec![1, 2], 4000))).await;
        let mut held = ask().await.unwrap().into_inner();
        assert!(held.message().await.unwrap().is_some());
        cluster.language.stop.cancel();
        // Until it has heard of its end it may still take some; then it refuses them, or its port does.
        let refused = loop {
            match ask().await {
                Ok(_) => tokio::task::yield_now().await,
                Err(status) => break Error::from(status),
            }
        };
        assert_eq!(refused.kind, ErrorKind::Unavailable, "{refused:?}");
        assert!(matches!(refused.reason.as_ref(), "DRAINING" | "UNREACHABLE"), "{refused:?}");
        // What runs is told to its end.
        let mut finished = false;
        while let Some(event) = held.message().await.unwrap() {
            finished |= matches!(language::Event::try_from(event).unwrap(), language::Event::Finished(_));
        }
        assert!(finished);
        drop((held, worker));
        cluster.language.ended().await;
    });
}

#[test]
fn an_answer_survives_the_loss_of_its_language_worker_and_of_the_vision_worker_that_has_its_image() {
    limited_to(LIMIT, async {
        let asked = questions(1500).remove(1);
        let picture = tessera_testkit::picture("one_image", 0);
        for _ in 0..TRIES {
            let mut workers = [Mortal::start("mistral", |_| {}).await, Mortal::start("mistral", |_| {}).await];
            let mut visions = [Cluster::of("mistral").await, Cluster::of("mistral").await];
            let front = Cluster::start("mistral", |settings| {
                settings.gateway.language = workers.iter().map(Mortal::url).collect();
                settings.gateway.vision = visions.iter().map(|one| one.vision.url()).collect();
            })
            .await;
            let key = ImageKey::of(&[], &visions[0].fingerprint().await, &picture);
            let expected = whole(&front, &asked).await;
            for worker in &mut workers {
                worker.replace().await;
            }
            let mut told = Told::default();
            let mut events = front.open(Request::new(asked.clone().into())).await.unwrap();
            told.read_a_token(&mut events).await.unwrap();
            let fetch = FetchRequest { key, representation: Representation::Features, wait: Duration::ZERO, offset: 0 };
            let has_it = visions[0].fetch(fetch.into()).await.is_ok();
            let lost = &mut visions[usize::from(!has_it)].vision;
            lost.stop.cancel();
            lost.ended().await;
            busy_or_over(&mut workers).await.kill();
            let continuations = told.read(&mut events).await.unwrap();
            assert_eq!(told, expected);
            if continuations > 0 {
                return;
            }
        }
        panic!("every answer was over before its workers were lost");
    });
}
