//! What is shared, freed, bounded in time, and ended in order.

use std::time::{Duration, Instant};

use futures::future::join_all;
use tessera_api::ErrorKind;
use tessera_api::gateway::Event;
use tessera_api::proto::language::v1 as proto;
use tessera_embedding::ImageKey;
use tessera_testkit::{CASES, picture};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::Request;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::cluster::{Cluster, limited, read_tokens, sequence};
use crate::conversation::{Reply, request};

#[test]
fn an_image_asked_about_twice_is_encoded_once() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let first = cluster.answers_as_the_reference("mistral", "one_image").await;
        let second = cluster.answers_as_the_reference("mistral", "one_image").await;
        let stored = |reply: &Reply| reply.finished.timings.images_stored_before;
        assert_eq!((stored(&first), stored(&second)), (0, 1));
        assert_eq!(first.started.images[0].key, second.started.images[0].key);
        assert!(first.finished.timings.encode > Duration::ZERO);
        assert_eq!(second.finished.timings.encode, Duration::ZERO);
    });
}

#[test]
fn a_hundred_requests_for_a_new_image_encode_it_once() {
    limited(async {
        // There is room for the tiles of one image: whoever would encode it a second time is refused.
        let cluster = Cluster::start("mistral", |settings| settings.vision.batch.waiting_tiles = 5).await;
        let image = bytes::Bytes::from(picture("portrait", 0));
        let key = ImageKey::of(&[], &cluster.fingerprint().await, &image);
        let all = join_all((0..100).map(|_| cluster.encode(image.clone(), key.as_bytes()))).await;
        let all: Vec<_> = all.into_iter().map(|encoded| encoded.expect("it joins the one that encodes")).collect();
        // The others joined that one or found the features stored: they spent no time on the device.
        let encoded = all.iter().filter(|encoded| encoded.timings.forward > Duration::ZERO).count();
        assert_eq!(encoded, 1);
        assert!(all.iter().all(|one| (one.image_size, one.image_tokens) == (all[0].image_size, all[0].image_tokens)));
        assert!(cluster.encode(image, key.as_bytes()).await.unwrap().stored_before);
    });
}

#[test]
fn a_client_that_leaves_frees_the_language_worker() {
    limited(async {
        let cluster = Cluster::start("mistral", |settings| {
            // One sequence of the longest kind.
            settings.language.engine.kv_cache = tessera_config::ByteSize::bytes(4096 * 3 * 2 * 2 * 16 * 4).into();
        })
        .await;
        assert_eq!(cluster.describe_language().await.max_positions, 4096);
        let held = cluster.hold_language().await;
        let mut waiting = Box::pin(cluster.continue_tokens(sequence(vec![1; 4092], 4)));
        // Others are answered meanwhile, and this one is not: all blocks are held.
        tokio::select! {
            _ = &mut waiting => panic!("there was room for a second sequence"),
            _ = cluster.answers_after_features_are_stored() => {}
        }
        drop(held);
        assert_eq!(waiting.await.unwrap().len(), 4);

        // The same through the gateway: a client that leaves in the middle of its answer.
        let mut long = request("text_only", 0);
        long.settings.max_tokens = Some(4000);
        long.settings.stop = Vec::new();
        let mut events = cluster.open(Request::new(long.into())).await.unwrap();
        while !matches!(Event::try_from(events.message().await.unwrap().unwrap()).unwrap(), Event::Delta { .. }) {}
        drop(events);
        let whole = cluster.continue_tokens(sequence(vec![1; 4092], 4)).await.unwrap();
        assert_eq!(whole.len(), 4);
    });
}

impl Cluster {
    /// Something that takes the vision worker some time and needs no language worker.
    async fn answers_after_features_are_stored(&self) {
        let image = bytes::Bytes::from(picture("portrait", 0));
        let key = ImageKey::of(&[], &self.fingerprint().await, &image);
        self.encode(image, key.as_bytes()).await.unwrap();
    }
}

#[test]
fn a_deadline_that_passes_ends_the_request() {
    limited(async {
        let cluster = Cluster::start("mistral", |settings| settings.language.engine.running = 1).await;
        let held = cluster.hold_language().await;
        for case in ["text_only", "one_image"] {
            let mut asked = Request::new(request(case, 0).into());
            asked.set_timeout(Duration::from_millis(400));
            let began = Instant::now();
            let answer = async { Reply::read(cluster.open(asked).await?).await };
            let error = answer.await.unwrap_err();
            assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Deadline, "DEADLINE_EXCEEDED"), "{error:?}");
            assert!((Duration::from_millis(350)..Duration::from_secs(5)).contains(&began.elapsed()));
        }
        // The language worker keeps to it by itself, for a caller who only waits.
        let mut waiting = Request::new(proto::GenerateRequest::from(sequence(vec![1, 2], 3)));
        waiting.set_timeout(Duration::from_millis(400));
        let error = read_tokens(cluster.open_sequence(waiting).await.unwrap()).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Deadline, "DEADLINE_EXCEEDED"), "{error:?}");
        drop(held);
        cluster.answers_as_the_reference("mistral", "text_only").await;
    });
}

#[test]
fn a_deadline_may_pass_at_any_moment_and_leaves_nothing_behind() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        // Each is so much later than the one before that together they end in every phase of a request.
        let asked = (0..60).map(|index| {
            let mut asked = Request::new(request(CASES[index % CASES.len()], 0).into());
            asked.set_timeout(Duration::from_millis(10 * index as u64));
            async { Reply::read(cluster.open(asked).await?).await }
        });
        let answers = join_all(asked).await;
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Deadline, "DEADLINE_EXCEEDED"), "{error:?}");
        }
        println!("{} of {} were in time", answers.iter().filter(|answer| answer.is_ok()).count(), answers.len());
        assert!(answers[0].is_err());
        // Nothing is held: the longest sequence still fits, and answers are right.
        assert_eq!(cluster.continue_tokens(sequence(vec![1; 4092], 4)).await.unwrap().len(), 4);
        for case in CASES {
            cluster.answers_as_the_reference("mistral", case).await;
        }
    });
}

#[test]
fn the_gateways_own_limit_of_time_ends_a_request() {
    limited(async {
        let cluster = Cluster::start("mistral", |settings| {
            settings.language.engine.running = 1;
            settings.gateway.limits.time = Duration::from_millis(300);
        })
        .await;
        let held = cluster.hold_language().await;
        let error = cluster.ask(request("text_only", 0)).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Deadline, "DEADLINE_EXCEEDED"), "{error:?}");
        drop(held);
    });
}

#[test]
fn stopping_lets_requests_in_progress_end_and_takes_no_more() {
    limited(async {
        let mut cluster = Cluster::start("mistral", |settings| settings.language.engine.running = 1).await;
        let held = cluster.hold_language().await;
        let mut health = HealthClient::new(cluster.gateway.channel());
        let service = "tessera.gateway.v1.Gateway";
        let watched = health.watch(HealthCheckRequest { service: service.into() }).await.unwrap();
        let mut watched = watched.into_inner().map(|seen| seen.map(|HealthCheckResponse { status }| status));
        assert_eq!(watched.next().await.unwrap().unwrap(), i32::from(ServingStatus::Serving));
        let in_progress = cluster.open(Request::new(request("one_image", 0).into())).await.unwrap();

        cluster.gateway.stop.cancel();
        assert_eq!(watched.next().await.unwrap().unwrap(), i32::from(ServingStatus::NotServing));
        // What follows is the end, told as such or as the status of a service that is no more.
        while let Some(Ok(status)) = watched.next().await {
            assert_ne!(status, i32::from(ServingStatus::Serving));
        }
        drop(watched);
        drop(health);
        // The listener is closed by another task than the one that ends the watch.
        while TcpStream::connect(cluster.gateway.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        drop(held);
        let reply = Reply::read(in_progress).await.unwrap();
        assert_eq!(reply.text, crate::conversation::Expected::of("mistral", "one_image", 0).text);
        cluster.gateway.ended().await;

        for worker in [&mut cluster.vision, &mut cluster.language] {
            worker.stop.cancel();
            worker.ended().await;
        }
    });
}

#[cfg(unix)]
#[test]
fn a_terminate_signal_asks_to_stop() {
    limited(async {
        let mut interrupted = std::pin::pin!(tessera_rpc::interrupted());
        assert!(futures::poll!(&mut interrupted).is_pending());
        // From here on the signal is handled, for the life of this process.
        let own = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &own]).status().unwrap().success());
        interrupted.await.unwrap();
    });
}

#[test]
fn a_drain_has_an_end() {
    limited(async {
        let mut cluster = Cluster::start("mistral", |settings| {
            settings.language.engine.running = 1;
            settings.gateway.server.drain = Duration::from_millis(200);
            settings.language.server.drain = Duration::from_millis(200);
        })
        .await;
        let _held = cluster.hold_language().await;
        let in_progress = cluster.open(Request::new(request("text_only", 0).into())).await.unwrap();
        cluster.gateway.stop.cancel();
        cluster.gateway.ended().await;
        cluster.language.stop.cancel();
        cluster.language.ended().await;
        drop(in_progress);
    });
}

#[test]
fn a_sequence_that_waits_for_an_image_holds_nobody_up() {
    limited(async {
        let cluster = Cluster::start("mistral", |settings| {
            settings.language.engine.kv_cache = tessera_config::ByteSize::mib(64).into();
        })
        .await;
        let held = cluster.hold_language().await;
        cluster.answers_as_the_reference("mistral", "two_images").await;
        drop(held);
        // A read to the end of a stream that was let go is not part of the contract; a new one is.
        let again = cluster.open_sequence(proto::GenerateRequest::from(sequence(vec![1, 2], 3))).await.unwrap();
        assert_eq!(read_tokens(again).await.unwrap().len(), 3);
    });
}
