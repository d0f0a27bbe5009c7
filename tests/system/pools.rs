//! Pools: which worker gets what, workers that cannot be reached, are lost, or are replaced by others.

use std::time::Duration;

use futures::future::join_all;
use tessera_api::ErrorKind;
use tessera_api::embedding::{FetchRequest, Representation};
use tessera_image::Resizer;
use tessera_testkit::CASES;

use crate::cluster::{Cluster, DeadAddress, limited};
use crate::conversation::request;

#[test]
fn a_pool_that_cannot_be_reached_is_named() {
    limited(async {
        let dead = DeadAddress::new();
        for pool in ["vision", "language"] {
            let cluster = Cluster::start("mistral", |settings| match pool {
                "vision" => settings.gateway.vision = vec![dead.url.clone()],
                _ => settings.gateway.language = vec![dead.url.clone()],
            });
            let error = cluster.await.ask(request("one_image", 0)).await.unwrap_err();
            assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unavailable, "UNREACHABLE"), "{error:?}");
            assert!(error.metadata.contains(&("worker".into(), dead.url.clone())), "{error:?}");
            assert!(error.message.contains(&format!("{pool} worker {}", dead.url)), "{error:?}");
        }
    });
}

#[test]
fn text_alone_is_answered_while_the_vision_pool_is_down() {
    limited(async {
        let dead = DeadAddress::new();
        let cluster = Cluster::start("mistral", |settings| settings.gateway.vision = vec![dead.url.clone()]).await;
        cluster.answers_as_the_reference("mistral", "text_only").await;
    });
}

#[test]
fn a_worker_that_is_lost_is_named() {
    limited(async {
        for pool in ["vision", "language"] {
            let mut cluster = Cluster::start("mistral", |settings| settings.gateway.limits.continuations = 1).await;
            cluster.answers_as_the_reference("mistral", "portrait").await;
            let worker = if pool == "vision" { &mut cluster.vision } else { &mut cluster.language };
            worker.stop.cancel();
            worker.ended().await;
            let url = worker.url();
            let error = cluster.ask(request("one_image", 0)).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error:?}");
            // The first to notice may be who asks, or who goes on elsewhere.
            assert!(matches!(error.reason.as_ref(), "UNREACHABLE" | "POOL_LOST"), "{error:?}");
            assert!(error.metadata.contains(&("worker".into(), url)), "{error:?}");
        }
    });
}

#[test]
fn a_vision_worker_that_encodes_otherwise_is_noticed() {
    limited(async {
        let mut cluster = Cluster::of("mistral").await;
        let before = cluster.answers_as_the_reference("mistral", "one_image").await;
        cluster.replace_vision(|settings| settings.image.resizer = Resizer::Pillow).await;
        let after = match cluster.ask(request("one_image", 0)).await {
            // The gateway may still have computed the key of the worker that is gone, which the new one does not take.
            Err(error) => {
                assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Precondition, "KEY_MISMATCH"), "{error:?}");
                cluster.ask(request("one_image", 0)).await.unwrap()
            }
            Ok(after) => after,
        };
        assert_ne!(before.started.images[0].key, after.started.images[0].key);
        assert_eq!(after.finished.timings.images_stored_before, 0);
    });
}

#[test]
fn each_image_has_one_home_in_the_pool() {
    limited(async {
        let workers = [Cluster::of("mistral").await, Cluster::of("mistral").await];
        let front = Cluster::start("mistral", |settings| {
            settings.gateway.vision = workers.iter().map(|one| one.vision.url()).collect();
            settings.gateway.language = workers.iter().map(|one| one.language.url()).collect();
        })
        .await;
        let first = join_all(CASES.map(|case| front.answers_as_the_reference("mistral", case))).await;
        let again = join_all(CASES.map(|case| front.answers_as_the_reference("mistral", case))).await;
        for (first, again) in first.iter().zip(&again) {
            assert_eq!(first.started.images, again.started.images);
            assert_eq!(again.finished.timings.images_stored_before, again.started.images.len());
        }
        for key in first.iter().flat_map(|reply| &reply.started.images).map(|image| image.key) {
            let request =
                FetchRequest { key, representation: Representation::Features, wait: Duration::ZERO, offset: 0 };
            let homes = join_all(workers.iter().map(|worker| worker.fetch(request.into()))).await;
            assert_eq!(homes.iter().filter(|home| home.is_ok()).count(), 1, "{key}");
        }
    });
}
