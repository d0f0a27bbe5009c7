//! Bytes that nobody meant, as images.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tessera_api::ErrorKind;
use tessera_api::gateway::{ImageSource, Part};
use tessera_testkit::{damaged, fixtures_dir};

use crate::cluster::{Cluster, limited};
use crate::conversation::question;

/// The image files of the test kit: every kind that decoders meet, damaged ones among them.
fn image_files() -> Vec<(String, Bytes)> {
    let entries = fs::read_dir(fixtures_dir().join("images")).unwrap().map(|entry| entry.unwrap().path());
    let images = entries.filter(|path| path.extension().is_some_and(|extension| extension != "json"));
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut files: Vec<_> = images.map(|path| (name(&path), Bytes::from(fs::read(&path).unwrap()))).collect();
    files.sort();
    files
}

/// Noise after each format's first bytes, and damaged files.
fn image() -> impl Strategy<Value = Bytes> {
    let starts: Vec<&[u8]> =
        vec![b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0", b"RIFF\x40\0\0\0WEBPVP8 "];
    let rest = prop::collection::vec(any::<u8>(), 0..300);
    let noise = (prop::sample::select(starts), rest).prop_map(|(start, rest)| [start, &rest].concat());
    // An empty one is refused for that.
    let damaged = damaged(image_files().into_iter().map(|(_, file)| file.to_vec()).collect());
    prop_oneof![1 => noise, 3 => damaged.prop_filter("no bytes are no image", |file| !file.is_empty())]
        .prop_map(Bytes::from)
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
