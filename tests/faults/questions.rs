//! What is asked: questions of every kind, with and without pictures.

use std::num::NonZeroUsize;

use bytes::Bytes;
use tessera_api::gateway::{BeamSettings, GenerateRequest, ImageSource, Part, Settings};
use tessera_api::language::{Constraint, Generator};
use tessera_embedding::ImageKey;
use tessera_testkit::{picture, picture_count};

use crate::conversation::request;

/// A question.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) name: &'static str,
    /// The conversation of the test kit, with its pictures.
    pub(crate) case: &'static str,
    settings: Settings,
}

/// How a picture is named in a request.
#[derive(Clone, Debug)]
pub(crate) enum Picture {
    File(Bytes),
    Handle(ImageKey),
}

impl Question {
    pub(crate) fn pictures(&self) -> usize {
        picture_count(self.case)
    }

    /// The request, with these in the place of its pictures.
    pub(crate) fn request(&self, pictures: &[Picture]) -> GenerateRequest {
        let mut request = GenerateRequest { settings: self.settings.clone(), ..request(self.case, 0) };
        let mut pictures = pictures.iter();
        for part in request.input.parts_mut() {
            if let Part::Image(source) = part {
                *source = match pictures.next().expect("there is one for each") {
                    Picture::File(file) => ImageSource::File(file.clone()),
                    Picture::Handle(key) => ImageSource::Stored(*key),
                };
            }
        }
        request
    }
}

/// A picture of a case as one of many files, all of which show the same: what follows the end of a PNG file is not read, but
/// makes it another image.
pub(crate) fn file(case: &str, index: usize, copy: u64) -> Bytes {
    let end = copy.to_le_bytes();
    [picture(case, index), if copy == 0 { Vec::new() } else { end.to_vec() }].concat().into()
}

/// All questions.
pub(crate) fn questions() -> Vec<Question> {
    let question = |name, case, settings| Question { name, case, settings };
    let schema =
        r#"{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"boolean"}},"required":["a","b"]}"#;
    let held = |form: Constraint, most| Settings { constraint: Some(form), ignore_end: false, ..drawn(most, 17) };
    let beams = |samples| Settings {
        samples: NonZeroUsize::new(samples),
        beam_search: Some(BeamSettings {
            beams: NonZeroUsize::new(3).unwrap(),
            length_penalty: None,
            early_stopping: None,
        }),
        ..greedy(100)
    };
    let several = |samples, settings| Settings { samples: NonZeroUsize::new(samples), ..settings };
    let torch = |settings| Settings { generator: Generator::Torch, ..settings };
    let stopped = |settings| Settings { stop: vec!["er".into(), "qq".into()], ..settings };
    let measured = |settings| Settings { logprobs: Some(3), prompt_logprobs: Some(1), ..settings };
    let penalized = Settings { repetition_penalty: Some(1.3), presence_penalty: Some(0.2), ..drawn(500, 5) };
    vec![
        question("text, greedy", "text_only", greedy(900)),
        question("text, drawn", "text_only", drawn(900, 11)),
        question("text, drawn as torch does", "text_only", torch(drawn(500, 12))),
        question("text, three samples", "text_only", several(3, drawn(400, 13))),
        question("text, beams", "text_only", beams(2)),
        question("text, JSON", "text_only", held(Constraint::JsonSchema(schema.into()), 60)),
        question("text, regular expression", "text_only", held(Constraint::Regex("[a-z]{20,40}[.]".into()), 60)),
        question("text, choice", "text_only", held(Constraint::Choices(vec!["a cat".into(), "a dog".into()]), 20)),
        question("text, stop string", "text_only", stopped(drawn(200, 14))),
        question("text, log-probabilities", "text_only", measured(greedy(400))),
        question("text, penalties", "text_only", penalized),
        question("picture, short", "one_image", greedy(16)),
        question("picture, log-probabilities", "one_image", measured(greedy(400))),
        question("picture, two samples", "one_image", several(2, drawn(400, 15))),
        question("picture, beams", "one_image", beams(1)),
        question("picture, JSON", "one_image", held(Constraint::JsonSchema(schema.into()), 60)),
        question("picture, drawn as torch does", "portrait", torch(several(2, drawn(300, 16)))),
        question("picture, stop string", "portrait", stopped(greedy(200))),
        question("picture, two turns", "two_turns", drawn(600, 18)),
        question("two pictures, greedy", "two_images", measured(greedy(400))),
        question("two pictures, drawn", "two_images", drawn(700, 19)),
        question("two pictures, short", "two_images", greedy(8)),
    ]
}

fn greedy(tokens: u32) -> Settings {
    // A seed nevertheless: where there is none the gateway makes one up, and says so.
    Settings { temperature: Some(0.0), top_k: None, ..drawn(tokens, 1) }
}

fn drawn(tokens: u32, seed: u64) -> Settings {
    let (temperature, seed) = (Some(1.5), Some(seed));
    Settings { max_tokens: Some(tokens), temperature, top_k: Some(0), seed, ignore_end: true, ..Settings::default() }
}
