//! Pools that grow, shrink, break and heal, as clients see it: not at all.

use std::cell::Cell;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tessera_api::ErrorKind;
use tessera_api::embedding::{FetchRequest, Representation};
use tessera_api::proto::vision::v1::DescribeRequest;
use tessera_embedding::ImageKey;
use tessera_image::Resizer;
use tessera_rpc::Tasks;
use tessera_testkit::{CASES, family_dir, picture};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::client::{Client, assert_reference, by_handles};
use crate::cluster::{Cluster, limited, sequence};
use crate::conversation::request;
use crate::running::Running;

/// A gateway in front of these workers, whose lists are looked up ten times a second.
async fn front(vision: Vec<String>, language: Vec<String>) -> Cluster {
    Cluster::start("mistral", |settings| {
        settings.gateway.discovery.refresh = Duration::from_millis(100);
        (settings.gateway.vision, settings.gateway.language) = (vision, language);
    })
    .await
}

/// A file of the same picture that is another one: it has an identity of its own.
fn variant(number: usize) -> Vec<u8> {
    let mut file = picture("one_image", 0);
    file.extend(number.to_le_bytes());
    file
}

/// What the vision worker has spent in its tower.
async fn busy(worker: &Cluster) -> u64 {
    worker.vision_client().describe(DescribeRequest {}).await.unwrap().into_inner().busy_microseconds
}

/// Whether a vision worker has an image.
async fn has(worker: &Cluster, key: ImageKey) -> bool {
    let request = FetchRequest { key, representation: Representation::Features, wait: Duration::ZERO, offset: 0 };
    worker.fetch(request.into()).await.is_ok()
}

/// Asks everything, which must be answered as the reference does.
async fn ask_everything(front: &Cluster) {
    for case in CASES {
        front.answers_as_the_reference("mistral", case).await;
    }
}

#[test]
fn a_pool_that_is_listed_in_a_file_gains_and_loses_workers_under_load() {
    limited(async {
        let mut workers = [Cluster::of("mistral").await, Cluster::of("mistral").await];
        let folder = tempfile::tempdir().unwrap();
        let (vision, language) = (folder.path().join("vision"), folder.path().join("language"));
        let list = |path: &Path, urls: &[String]| {
            // One is written in place, the other is put in its place.
            let text = format!("# workers of today\n{}\n", urls.join("\n"));
            if path.ends_with("vision") {
                return fs::write(path, text).unwrap();
            }
            let new = path.with_extension("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, path).unwrap();
        };
        let urls = |workers: &[Cluster]| -> (Vec<String>, Vec<String>) {
            workers.iter().map(|worker| (worker.vision.url(), worker.language.url())).unzip()
        };
        let (visions, languages) = urls(&workers);
        list(&vision, &visions[..1]);
        list(&language, &languages[..1]);
        let of_files = |path: &Path| vec![format!("file://{}", path.display())];
        let front = front(of_files(&vision), of_files(&language)).await;
        ask_everything(&front).await;

        let is_over = Cell::new(false);
        let load = async || {
            while !is_over.get() {
                ask_everything(&front).await;
            }
        };
        let client = Client::of(&front.gateway);
        let changes = async {
            list(&vision, &visions);
            list(&language, &languages);
            let mut number = 0;
            while busy(&workers[1]).await == 0 {
                client.encode(variant(number)).await.unwrap();
                number += 1;
            }
            // The first ones are taken off the lists and end while they are being asked.
            list(&vision, &visions[1..]);
            list(&language, &languages[1..]);
            for service in [&mut workers[0].vision, &mut workers[0].language] {
                service.stop.cancel();
                service.ended().await;
            }
            ask_everything(&front).await;
            is_over.set(true);
        };
        futures::join!(changes, load(), load());
    });
}

#[test]
fn a_worker_of_another_model_is_kept_out() {
    limited(async {
        let workers = [Cluster::of("mistral").await, Cluster::of("mistral").await];
        let odd_vision = Cluster::start("mistral", |settings| settings.vision.image.resizer = Resizer::Pillow).await;
        let odd_language = Cluster::of("qwen2").await;
        let visions = [&odd_vision, &workers[0], &workers[1]].map(|worker| worker.vision.url());
        // A vision worker is no language worker, whatever the list says.
        let languages = [odd_language.language.url(), workers[0].language.url(), workers[1].vision.url()];
        let front = front(visions.into(), languages.into()).await;
        let client = Client::of(&front.gateway);
        ask_everything(&front).await;
        for number in 0..12 {
            let key = client.encode(variant(number)).await.unwrap().image.key;
            assert!(has(&workers[0], key).await || has(&workers[1], key).await);
        }
        assert_eq!(busy(&odd_vision).await, 0);
    });
}

/// A copy of a checkpoint in which one weight of the decoder is another.
fn altered(family: &str, folder: &Path) {
    let files = fs::read_dir(family_dir(family)).unwrap().map(Result::unwrap);
    for file in files.filter(|entry| entry.file_type().unwrap().is_file()) {
        let mut bytes = fs::read(file.path()).unwrap();
        if file.file_name() == "model.safetensors" {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let (header, data) = bytes.split_at_mut(8 + length);
            let header: serde_json::Value = serde_json::from_slice(&header[8..]).unwrap();
            let (_, norm) =
                header.as_object().unwrap().iter().find(|(name, _)| name.ends_with("model.norm.weight")).unwrap();
            data[norm["data_offsets"][0].as_u64().unwrap() as usize] ^= 1;
        }
        fs::write(folder.join(file.file_name()), bytes).unwrap();
    }
}

#[test]
fn a_language_worker_whose_weights_are_others_is_kept_out_and_refuses_what_is_not_meant_for_it() {
    limited(async {
        let folder = tempfile::tempdir().unwrap();
        altered("mistral", folder.path());
        let workers = [Cluster::of("mistral").await, Cluster::of("mistral").await];
        let odd = Cluster::start_in(folder.path().to_owned(), |_| {}).await;
        let (theirs, ours) = (odd.describe_language().await, workers[0].describe_language().await);
        assert_eq!((theirs.vocabulary, theirs.image_token_id), (ours.vocabulary, ours.image_token_id));
        let languages = [&odd, &workers[0], &workers[1]].map(|worker| worker.language.url());
        let front = front(vec![workers[0].vision.url()], languages.into()).await;
        for _ in 0..4 {
            ask_everything(&front).await;
        }
        let mut meant = sequence(vec![1, 2, 3], 4);
        meant.decoder = Some(ours.fingerprint);
        assert_eq!(workers[1].continue_tokens(meant.clone()).await.unwrap().len(), 4);
        let error = odd.continue_tokens(meant).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Precondition, "DECODER_MISMATCH"), "{error:?}");
    });
}

#[test]
fn a_pool_of_nothing_but_another_model_says_so() {
    limited(async {
        let odd = Cluster::of("qwen2").await;
        let front = front(vec![odd.vision.url()], vec![odd.language.url()]).await;
        let error = front.ask(request("text_only", 0)).await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Precondition, "MODEL_MISMATCH"), "{error:?}");
        assert!(error.message.contains(&odd.language.url()), "{error}");
    });
}

/// A way to a worker that breaks for ever once somebody sends an image along it.
struct Fuse {
    url: String,
    broken: CancellationToken,
}

impl Fuse {
    /// Lays the way; only the first of those that share `armed` breaks.
    async fn start(tasks: &Tasks, worker: SocketAddr, armed: &Arc<AtomicBool>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (broken, armed) = (CancellationToken::new(), Arc::clone(armed));
        let (whole, spawning) = (broken.clone(), tasks.clone());
        let serving = async move {
            while let Ok((client, _)) = listener.accept().await {
                let (broken, armed) = (whole.clone(), Arc::clone(&armed));
                let connection = async move {
                    let cut = broken.clone();
                    cut.run_until_cancelled(carry(client, worker, &armed, &broken)).await;
                };
                spawning.spawn(connection);
            }
        };
        let cut = broken.clone();
        tasks.spawn(async move { cut.run_until_cancelled(serving).await });
        Self { url, broken }
    }
}

/// Carries bytes both ways; breaks the way in the middle of the first image.
async fn carry(client: TcpStream, worker: SocketAddr, armed: &AtomicBool, broken: &CancellationToken) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_worker, mut to_worker) = TcpStream::connect(worker).await.unwrap().into_split();
    let upload = async {
        let (mut buffer, mut sent) = (vec![0; 1 << 10], 0);
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            sent += count;
            // Nothing else that anybody asks of a worker is as long as a picture.
            if sent > 3000 && armed.swap(false, Ordering::Relaxed) {
                broken.cancel();
                return;
            }
            if to_worker.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    let download = tokio::io::copy(&mut from_worker, &mut to_client);
    tokio::select! {
        () = upload => {}
        _ = download => {}
    }
}

#[test]
fn a_vision_worker_that_is_killed_in_mid_encode_is_not_noticed() {
    limited(async {
        let workers = [Cluster::of("mistral").await, Cluster::of("mistral").await];
        let (tasks, armed) = (Tasks::default(), Arc::new(AtomicBool::new(false)));
        for ask in [false, true] {
            let fuses = join_all(workers.iter().map(|worker| Fuse::start(&tasks, worker.vision.address, &armed))).await;
            let urls = fuses.iter().map(|fuse| fuse.url.clone()).collect();
            let front = front(urls, vec![workers[0].language.url()]).await;
            front.answers_as_the_reference("mistral", "text_only").await;
            armed.store(true, Ordering::Relaxed);
            if ask {
                // Its language worker was told to fetch the features from the one that is lost.
                front.answers_as_the_reference("mistral", "portrait").await;
            } else {
                let encoded = Client::of(&front.gateway).encode(picture("one_image", 0)).await.unwrap();
                assert!(!encoded.stored_before);
            }
            assert_eq!(fuses.iter().filter(|fuse| fuse.broken.is_cancelled()).count(), 1);
            ask_everything(&front).await;
        }
    });
}

#[test]
fn a_handle_is_found_after_the_pool_grew_by_one_and_shrank_again() {
    limited(async {
        let workers = [Cluster::of("mistral").await, Cluster::of("mistral").await, Cluster::of("mistral").await];
        let urls: Vec<String> = workers.iter().map(|worker| worker.vision.url()).collect();
        let language = || vec![workers[0].language.url()];
        let small = front(urls[..2].to_vec(), language()).await;
        let mut handles = Vec::new();
        for number in 0..12 {
            handles.push(Client::of(&small.gateway).encode(variant(number)).await.unwrap().image.key);
        }
        // Gateways that know nothing of where the images went.
        let grown = front(urls.clone(), language()).await;
        let shrunk = front(urls[..2].to_vec(), language()).await;
        for front in [&grown, &shrunk] {
            let client = Client::of(&front.gateway);
            for &key in &handles {
                assert!(client.stat(key).await.is_some(), "{key}");
            }
            assert!(client.fetch(handles[0], 0).await.is_ok());
            assert_eq!(
                client.lease(handles.clone(), Duration::from_secs(60)).await.unwrap().iter().flatten().count(),
                12
            );
        }
        let fresh = front(urls.clone(), language()).await;
        for &key in &handles[..6] {
            assert_reference(&fresh.ask(by_handles("one_image", &[key])).await.unwrap(), "mistral", "one_image");
        }
        // Whoever has it forgets it.
        Client::of(&grown.gateway).forget(handles[0]).await;
        assert_eq!(Client::of(&small.gateway).stat(handles[0]).await, None);
        // The new one has its share of what comes now.
        while busy(&workers[2]).await == 0 {
            let number = 100 + handles.len();
            handles.push(Client::of(&grown.gateway).encode(variant(number)).await.unwrap().image.key);
        }
    });
}

#[test]
fn a_pool_without_anybody_heals_when_somebody_comes_back() {
    limited(async {
        let mut cluster = Cluster::of("mistral").await;
        cluster.answers_as_the_reference("mistral", "one_image").await;
        cluster.vision.stop.cancel();
        cluster.vision.ended().await;
        assert_eq!(cluster.ask(request("one_image", 0)).await.unwrap_err().reason, "UNREACHABLE");
        let vision = tessera_vision::Settings { model: cluster.dir.clone(), ..Default::default() };
        let vision = tessera_vision::build(vision, |_| {}).await.unwrap();
        cluster.vision = Running::start_at(cluster.vision.address, |listener, stop| vision.run(listener, stop)).await;
        // No pause is waited for.
        cluster.answers_as_the_reference("mistral", "one_image").await;
    });
}
