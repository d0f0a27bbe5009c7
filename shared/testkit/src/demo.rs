//! The demonstration model that the program embeds, and the questions that it is tried with.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::read;

/// The reference answered each [`DemoQuestion`] greedily, with no more new tokens than these.
pub const DEMO_MAX_TOKENS: u32 = 48;

/// A conversation about pictures, whose last turn is asked, and what the reference answered.
#[derive(Clone, Debug, Deserialize)]
pub struct DemoQuestion {
    /// What sort of question it is: its answers are counted by this.
    pub kind: String,
    /// Names of the pictures, which come before the text of the first turn.
    images: Vec<String>,
    /// Questions with their true answers: those in front of the last are the history.
    pub turns: Vec<DemoTurn>,
    /// The reference's answer, special tokens skipped.
    pub reference: String,
    /// Its token ids, with the end token where there is one.
    pub reference_ids: Vec<u32>,
}

/// A question and its true answer.
#[derive(Clone, Debug, Deserialize)]
pub struct DemoTurn {
    /// What the user asks.
    pub question: String,
    /// What is right.
    pub answer: String,
}

impl DemoQuestion {
    /// The files of the pictures.
    pub fn images(&self) -> Vec<PathBuf> {
        self.images.iter().map(|name| sample_dir().join(name)).collect()
    }

    /// The turn that is asked, behind those of the history.
    ///
    /// # Panics
    /// If the conversation is empty.
    pub fn asked(&self) -> (&DemoTurn, &[DemoTurn]) {
        self.turns.split_last().expect("a conversation has a turn")
    }
}

/// The folder `shared/demo-model`: a checkpoint.
pub fn demo_model_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo-model")
}

/// The fixed sample of questions, in its order. The first is one question about one picture.
///
/// # Panics
/// If the sample is missing or cannot be read.
pub fn demo_questions() -> Vec<DemoQuestion> {
    let path = sample_dir().join("questions.jsonl");
    let text = String::from_utf8(read(&path)).expect("the sample is text");
    let question = |(number, line): (usize, &str)| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{}:{number}: {error}", path.display()))
    };
    (1..).zip(text.lines()).map(question).collect()
}

fn sample_dir() -> PathBuf {
    demo_model_dir().join("sample")
}
