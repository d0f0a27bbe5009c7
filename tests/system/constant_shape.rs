//! A tenant whose images are given the shape of all others: answered as the reference answers pictures that were padded
//! beforehand, and with the same counts for every size.

use std::collections::HashSet;
use std::fs;

use bytes::Bytes;
use serde_json::Value;
use tessera_anyres::ImageSize;
use tessera_api::gateway::{GenerateRequest, ImageSource, Part};
use tessera_api::{Error, ErrorKind};
use tessera_gateway::TenantSettings;
use tessera_testkit::{fixtures_dir, picture};

use crate::client::{Client, by_handles};
use crate::cluster::{Cluster, limited};
use crate::conversation::{question, request};

/// A cluster of which everybody is a tenant with this setting.
async fn cluster(family: &str, constant_shape: bool) -> Cluster {
    Cluster::start(family, |settings| {
        let tenant = TenantSettings { constant_shape, ..TenantSettings::default() };
        settings.gateway.tenants = [(String::new(), tenant)].into();
    })
    .await
}

/// A file of the pictures that were padded by Pillow, or what the reference answers about them.
fn framed(name: &str) -> Vec<u8> {
    fs::read(fixtures_dir().join("tiny/framed").join(name)).unwrap()
}

/// The conversation of a case about pictures that were padded beforehand.
fn about_framed(family: &str, case: &str) -> GenerateRequest {
    let mut asked = request(case, 0);
    let parts = asked.input.parts_mut();
    let images = parts.filter_map(|part| if let Part::Image(source) = part { Some(source) } else { None });
    for (index, source) in images.enumerate() {
        *source = ImageSource::File(framed(&format!("{family}/{case}_{index}.png")).into());
    }
    asked
}

/// A BMP file of so many pixels, all of them black.
fn black(size: ImageSize) -> Bytes {
    let (width, height) = (size.width as usize, size.height as usize);
    let data = (width * 3).next_multiple_of(4) * height;
    let mut file = b"BM".to_vec();
    for number in [(54 + data) as u32, 0, 54, 40, size.width, size.height, 1 | 24 << 16, 0, data as u32, 0, 0, 0, 0] {
        file.extend_from_slice(&number.to_le_bytes());
    }
    file.resize(54 + data, 0);
    file.into()
}

/// All that is told of an image but its key: tiles, tokens, size, grid.
type Told = (usize, usize, usize, ImageSize, ImageSize);

async fn told(cluster: &Cluster, file: Bytes) -> Told {
    let mut asked = question(vec![Part::Image(ImageSource::File(file)), Part::Text("What?".into())]);
    asked.settings.max_tokens = Some(1);
    let reply = cluster.ask(asked).await.unwrap();
    let [image] = reply.started.images[..] else { panic!("{:?}", reply.started) };
    let usage = reply.finished.usage;
    assert_eq!((usage.image_tokens, usage.prompt_tokens), (image.image_tokens, reply.started.prompt_tokens));
    (image.tiles, image.image_tokens, usage.prompt_tokens, image.image_size, image.grid)
}

#[test]
fn an_image_is_answered_about_as_the_reference_answers_about_the_padded_one() {
    limited(async {
        let golden: Value = serde_json::from_slice(&framed("golden.json")).unwrap();
        let mut compared = 0;
        for (family, cases) in golden.as_object().unwrap() {
            let (constant, own) = (cluster(family, true).await, cluster(family, false).await);
            for (case, expected) in cases.as_object().unwrap() {
                let ours = constant.ask(request(case, 0)).await.unwrap();
                let padded = own.ask(about_framed(family, case)).await.unwrap();
                assert_eq!(Value::from(ours.token_ids.clone()), expected["greedy"], "{family} {case}");
                assert_eq!(Value::from(ours.finished.usage.image_tokens), expected["image_tokens"], "{family} {case}");
                assert_eq!((ours.token_ids, ours.text), (padded.token_ids, padded.text), "{family} {case}");
                for (ours, padded) in ours.started.images.iter().zip(&padded.started.images) {
                    assert_eq!((ours.image_size, ours.tiles), (padded.image_size, padded.tiles));
                }
                compared += 1;
            }
        }
        assert_eq!(compared, 4);
    });
}

/// The features themselves, bit by bit: of the padded file in its own shape, and of the picture in the constant one.
#[test]
fn features_are_those_of_the_padded_picture() {
    limited(async {
        let (constant, own) = (cluster("mistral", true).await, cluster("mistral", false).await);
        for name in ["one_image_0", "portrait_0", "two_images_1"] {
            let (case, index) = name.rsplit_once('_').unwrap();
            let rows = async |cluster: &Cluster, file: Vec<u8>| {
                let client = Client::of(&cluster.gateway);
                let encoded = client.encode(file).await.unwrap();
                (encoded.image.key, client.fetch(encoded.image.key, 0).await.unwrap().1)
            };
            let (key, ours) = rows(&constant, picture(case, index.parse().unwrap())).await;
            let (padded_key, padded) = rows(&own, framed(&format!("mistral/{name}.png"))).await;
            assert_ne!(key, padded_key);
            assert!(ours == padded, "{name}: other features");
        }
    });
}

#[test]
fn every_size_has_the_same_counts() {
    limited(async {
        let (constant, own) = (cluster("mistral", true).await, cluster("mistral", false).await);
        // Sides of the table, an eighth of them: the tiles of this checkpoint are a sixth of the usual ones.
        let table = fs::read_to_string(fixtures_dir().join("sizes_336.csv")).unwrap();
        let sizes: Vec<ImageSize> = table
            .lines()
            .skip(1)
            .step_by(97)
            .map(|line| {
                let sides: Vec<u32> = line.split(',').take(2).map(|side| side.parse::<u32>().unwrap()).collect();
                ImageSize::new(sides[0].div_ceil(8), sides[1].div_ceil(8))
            })
            .chain([ImageSize::new(1, 1), ImageSize::new(1, 400), ImageSize::new(400, 1), ImageSize::new(112, 112)])
            .collect();
        let (mut seen, mut plain) = (HashSet::new(), HashSet::new());
        for &size in &sizes {
            seen.insert(told(&constant, black(size)).await);
            plain.insert(told(&own, black(size)).await);
        }
        assert!(
            sizes.len() > 20 && plain.len() > 10,
            "{} sizes, {} of them differ in their own shape",
            sizes.len(),
            plain.len()
        );
        let (tiles, size) = (5, ImageSize::new(112, 112));
        assert!(
            matches!(seen.iter().collect::<Vec<_>>()[..], [&(t, _, _, s, g)] if (t, s, g) == (tiles, size, size)),
            "{seen:?}"
        );
    });
}

#[test]
fn shapes_never_mix() {
    limited(async {
        let salt = || tessera_config::Secret::new("one salt for both");
        // Two gateways of one tenant, of which only one gives its images a shape, before the same workers.
        let own = Cluster::start("mistral", |settings| {
            let tenant = TenantSettings { salt: salt(), ..TenantSettings::default() };
            settings.gateway.tenants = [(String::new(), tenant)].into();
        })
        .await;
        let (vision, language) = (own.vision.url(), own.language.url());
        let constant = Cluster::start("mistral", |settings| {
            let tenant = TenantSettings { salt: salt(), constant_shape: true, ..TenantSettings::default() };
            settings.gateway.tenants = [(String::new(), tenant)].into();
            (settings.gateway.vision, settings.gateway.language) = (vec![vision], vec![language]);
        })
        .await;
        let (of_own, of_constant) = (Client::of(&own.gateway), Client::of(&constant.gateway));
        let first = of_own.encode(picture("one_image", 0)).await.unwrap();
        let second = of_constant.encode(picture("one_image", 0)).await.unwrap();
        assert!(!second.stored_before, "the features of its own shape are no use");
        assert_ne!(first.image.key, second.image.key);
        assert!(of_constant.encode(picture("one_image", 0)).await.unwrap().stored_before);
        // What was encoded in its own shape would tell of it; the other way round nothing is told.
        let refused: Error = constant.ask(by_handles("one_image", &[first.image.key])).await.unwrap_err();
        assert_eq!((refused.kind, refused.reason.as_ref()), (ErrorKind::Precondition, "SHAPE_MISMATCH"));
        constant.ask(by_handles("one_image", &[second.image.key])).await.unwrap();
        own.ask(by_handles("one_image", &[second.image.key])).await.unwrap();
    });
}
