//! Bytes that nobody meant: as messages and as images.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use prost::Message as _;
use tessera_api::gateway::{ImageSource, Part};
use tessera_api::proto::{
    embedding::v1 as embedding, gateway::v1 as gateway, language::v1 as language, vision::v1 as vision,
};
use tessera_api::{Error, ErrorKind, vision as vision_domain};
use tessera_api::{embedding as embedding_domain, gateway as gateway_domain, language as language_domain};
use tessera_testkit::fixtures_dir;

use crate::cluster::{Cluster, limited};
use crate::conversation::question;

/// Reads bytes as a message and the message as a domain type: anything but a panic will do.
fn read<W, D>(bytes: &[u8])
where
    W: prost::Message + Default,
    D: TryFrom<W, Error = Error>,
{
    if let Ok(message) = W::decode(bytes) {
        check(D::try_from(message));
    }
}

/// An error must say what is wrong.
fn check<D>(read: Result<D, Error>) {
    if let Err(error) = read {
        assert_eq!(error.kind, ErrorKind::Invalid, "{error:?}");
        assert!(!error.fields.is_empty() && !error.reason.is_empty(), "{error:?}");
    }
}

fn read_as_everything(bytes: &[u8]) {
    read::<gateway::GenerateRequest, gateway_domain::GenerateRequest>(bytes);
    read::<gateway::GenerateResponse, gateway_domain::Event>(bytes);
    read::<language::GenerateRequest, language_domain::GenerateRequest>(bytes);
    read::<language::GenerateResponse, language_domain::Event>(bytes);
    read::<vision::EncodeRequest, vision_domain::EncodeRequest>(bytes);
    read::<vision::EncodeResponse, vision_domain::Encoded>(bytes);
    read::<vision::DescribeResponse, vision_domain::Description>(bytes);
    read::<embedding::FetchRequest, embedding_domain::FetchRequest>(bytes);
    read::<embedding::FetchHeader, embedding_domain::FetchHeader>(bytes);
}

fn blob(most: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

fn part() -> impl Strategy<Value = gateway::Part> {
    use gateway::part::Content;
    let image =
        prop::option::of(blob(40)).prop_map(|data| gateway::Image { source: data.map(gateway::image::Source::Data) });
    let content = prop_oneof![any::<String>().prop_map(Content::Text), image.prop_map(Content::Image)];
    prop::option::of(content).prop_map(|content| gateway::Part { content })
}

prop_compose! {
    fn settings()(
        max_tokens: Option<u32>, temperature: Option<f32>, top_k: Option<u32>, top_p: Option<f32>, min_p: Option<f32>,
        repetition_penalty: Option<f32>, seed: Option<u64>, stop in prop::collection::vec(any::<String>(), 0..20),
    ) -> gateway::GenerationSettings {
        gateway::GenerationSettings {
            max_tokens,
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            seed,
            stop,
            ..gateway::GenerationSettings::default()
        }
    }
}

prop_compose! {
    fn conversation()(
        messages in prop::collection::vec((-1..5_i32, prop::collection::vec(part(), 0..4)), 0..4),
        settings in prop::option::of(settings()),
        request_id: String,
    ) -> gateway::GenerateRequest {
        let messages = messages.into_iter().map(|(role, parts)| gateway::Message { role, parts });
        gateway::GenerateRequest { messages: messages.collect(), settings, request_id }
    }
}

prop_compose! {
    fn reference()(
        key in prop_oneof![blob(40), Just(Bytes::from_static(&[7; 32]))], start in prop_oneof![0..20_u32, any::<u32>()],
        image_tokens in prop_oneof![0..20_u32, any::<u32>()], size: Option<(u32, u32)>, store: String,
    ) -> language::ImageReference {
        let image_size = size.map(|(height, width)| embedding::ImageSize { height, width });
        language::ImageReference { key, start, image_tokens, image_size, store, is_stored: false }
    }
}

prop_compose! {
    fn tokens()(
        token_ids in prop::collection::vec(any::<u32>(), 0..30), images in prop::collection::vec(reference(), 0..3),
        sampling: Option<(f32, f32, u32, f32, f32, u64)>, max_new_tokens in prop_oneof![Just(0), any::<u32>()],
    ) -> language::GenerateRequest {
        let sampling = sampling.map(|(repetition_penalty, temperature, top_k, top_p, min_p, seed)| {
            language::Sampling {
                repetition_penalty,
                temperature,
                top_k,
                top_p,
                min_p,
                seed,
                ..language::Sampling::default()
            }
        });
        let (request_id, end_token_ids) = (String::new(), vec![2]);
        language::GenerateRequest {
            request_id,
            token_ids,
            images,
            sampling,
            max_new_tokens,
            end_token_ids,
            ..language::GenerateRequest::default()
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 512, failure_persistence: None, ..Config::default() })]

    #[test]
    fn random_bytes_are_read_or_refused(bytes in blob(200)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn what_looks_like_a_conversation_is_read_or_refused(request in conversation()) {
        let bytes = request.encode_to_vec();
        read_as_everything(&bytes);
        if let Ok(read) = gateway_domain::GenerateRequest::try_from(request.clone()) {
            // What was understood says the same when it is written again.
            let again = gateway::GenerateRequest::from(read.clone());
            prop_assert_eq!(gateway_domain::GenerateRequest::try_from(again).unwrap(), read);
        }
    }

    #[test]
    fn what_looks_like_a_prompt_is_read_or_refused(request in tokens()) {
        read_as_everything(&request.encode_to_vec());
        if let Ok(read) = language_domain::GenerateRequest::try_from(request) {
            for image in &read.images {
                prop_assert!(!image.positions.is_empty() && image.positions.end <= read.token_ids.len());
            }
        }
    }

    #[test]
    fn a_message_with_flipped_bytes_is_read_or_refused(request in conversation(), flips in prop::collection::vec(any::<(u16, u8)>(), 1..4)) {
        let mut bytes = request.encode_to_vec();
        for (at, flip) in flips {
            let length = bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(usize::from(at) % length) {
                *byte ^= flip;
            }
        }
        read_as_everything(&bytes);
    }
}

/// The image files of the test kit: every kind that decoders meet, damaged ones among them.
fn image_files() -> Vec<(String, Bytes)> {
    let entries = fs::read_dir(fixtures_dir().join("images")).unwrap().map(|entry| entry.unwrap().path());
    let images = entries.filter(|path| path.extension().is_some_and(|extension| extension != "json"));
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut files: Vec<_> = images.map(|path| (name(&path), Bytes::from(fs::read(&path).unwrap()))).collect();
    files.sort();
    files
}

/// Noise, noise after each format's first bytes, and damaged files.
fn image() -> impl Strategy<Value = Bytes> {
    let starts: Vec<&[u8]> =
        vec![b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0", b"RIFF\x40\0\0\0WEBPVP8 "];
    let noise = (prop::sample::select(starts), blob(300)).prop_map(|(start, rest)| [start, &rest[..]].concat());
    let files = prop::sample::select(image_files());
    let damage = prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..6);
    let damaged = (files, damage).prop_map(|((_, file), damage)| {
        let mut file = file.to_vec();
        for (index, byte) in damage {
            let at = index.index(file.len());
            file[at] = byte;
        }
        file
    });
    prop_oneof![1 => noise, 3 => damaged].prop_map(Bytes::from)
}

/// Asks about a file; returns whether it could be read. A refusal must say so in the way of every refused image.
async fn could_be_read(cluster: &Cluster, name: &str, file: Bytes) -> bool {
    let mut asked = question(vec![Part::Image(ImageSource::File(file)), Part::Text("What?".into())]);
    asked.settings.max_tokens = Some(1);
    let Err(error) = cluster.ask(asked).await else { return true };
    assert_eq!(error.kind, ErrorKind::Invalid, "{name}: {error:?}");
    assert!(error.reason.starts_with("IMAGE_"), "{name}: {error:?}");
    assert_eq!(error.fields[0].field, "messages[0].parts[0].image", "{name}");
    false
}

#[test]
fn any_bytes_as_an_image_are_answered_or_refused() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let mut runner = TestRunner::deterministic();
        let mut read = 0;
        for index in 0..64 {
            let file = image().new_tree(&mut runner).unwrap().current();
            read += usize::from(could_be_read(&cluster, &format!("number {index}"), file).await);
        }
        println!("{read} of 64 could be read");
        assert!((1..64).contains(&read), "some are damaged where it does not show: {read}");
        cluster.answers_as_the_reference("mistral", "one_image").await;
    });
}

#[test]
fn every_kind_of_image_file_is_answered_or_refused() {
    limited(async {
        let cluster = Cluster::of("mistral").await;
        let mut refused = Vec::new();
        for (name, file) in image_files() {
            if !could_be_read(&cluster, &name, file).await {
                refused.push(name);
            }
        }
        println!("refused: {refused:?}");
        for (name, is_refused) in
            [("cut.png", true), ("cmyk.jpg", false), ("exif_6.jpg", false), ("animated.gif", false)]
        {
            assert_eq!(refused.iter().any(|other| other == name), is_refused, "{name}");
        }
    });
}
