//! The model that the program embeds, through the services, on a fixed sample of 200 questions: it must answer each as
//! the reference does, and most of them right.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use futures::{StreamExt, stream};
use tessera_api::gateway::{GenerateRequest, ImageSource, Input, Message, Part, Role, Settings};
use tessera_testkit::{DEMO_MAX_TOKENS, DemoQuestion, demo_model_dir, demo_questions};

use crate::cluster::{Cluster, limited_to};

/// Each of the 200 questions runs through a model that is larger than those of the other tests.
const LIMIT: Duration = Duration::from_secs(600);
/// Questions in progress: as many as some users would have, so that sequences share steps.
const AT_ONCE: usize = 8;

/// The least percentage of right answers. The model card's evaluation, on many more questions, gives the figures that count;
/// this is a little below what it says, and rises with it.
const LEAST_RIGHT: usize = 94;

/// How many questions there were and how many were answered right.
#[derive(Clone, Copy, Default)]
struct Score {
    asked: usize,
    right: usize,
}

impl Score {
    fn count(&mut self, right: bool) {
        self.asked += 1;
        self.right += usize::from(right);
    }

    fn reaches(self, percent: usize) -> bool {
        self.right * 100 >= self.asked * percent
    }

    fn row(self, name: &str) -> String {
        let Self { asked, right } = self;
        format!("| {name} | {asked} | {right} | {:.1} |", right as f64 * 100.0 / asked as f64)
    }
}

/// The conversation with the true answers as its history: greedy, no longer than the reference's.
fn request(question: &DemoQuestion) -> GenerateRequest {
    let read = |path: &Path| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut parts: Vec<Part> =
        question.images().iter().map(|path| Part::Image(ImageSource::File(read(path).into()))).collect();
    let (asked, history) = question.asked();
    let text = |text: &str| Part::Text(text.to_owned());
    let mut messages = Vec::new();
    for turn in history {
        parts.push(text(&turn.question));
        messages.push(Message { role: Role::User, parts: std::mem::take(&mut parts) });
        messages.push(Message { role: Role::Assistant, parts: vec![text(&turn.answer)] });
    }
    parts.push(text(&asked.question));
    messages.push(Message { role: Role::User, parts });
    let settings = Settings { max_tokens: Some(DEMO_MAX_TOKENS), temperature: Some(0.0), ..Settings::default() };
    GenerateRequest { request_id: String::new(), input: Input::Conversation(messages), settings }
}

#[test]
fn the_embedded_model_answers_as_the_reference_and_mostly_right() {
    let questions = demo_questions();
    assert_eq!(questions.len(), 200);
    let replies: Vec<_> = limited_to(LIMIT, async {
        let cluster = Cluster::start_in(demo_model_dir(), |_| {}).await;
        let replies = stream::iter(&questions).map(|question| cluster.ask(request(question)));
        replies.buffered(AT_ONCE).collect().await
    });

    let (mut all, mut kinds) = (Score::default(), BTreeMap::<&str, Score>::new());
    let mut different = Vec::new();
    for (line, (question, reply)) in (1..).zip(questions.iter().zip(replies)) {
        let (asked, _) = question.asked();
        let name = format!("line {line}, {}, {:?}", question.kind, asked.question);
        let theirs = (&question.reference, &question.reference_ids);
        let right = match reply {
            Ok(reply) => {
                let ours = (&reply.text, &reply.token_ids);
                if ours != theirs {
                    different.push(format!("{name}: {ours:?}, the reference {theirs:?}"));
                }
                reply.text == asked.answer
            }
            Err(error) => {
                different.push(format!("{name}: {error}"));
                false
            }
        };
        all.count(right);
        kinds.entry(&question.kind).or_default().count(right);
    }

    let mut table = String::from("| kind | asked | right | % |\n| --- | --- | --- | --- |\n");
    for (kind, score) in &kinds {
        writeln!(table, "{}", score.row(kind)).unwrap();
    }
    println!("{table}{}", all.row("all"));
    assert!(different.is_empty(), "{} differ from the reference:\n{}", different.len(), different.join("\n"));
    assert!(kinds.len() >= 10, "{} kinds", kinds.len());
    assert!(all.reaches(LEAST_RIGHT), "{}", all.row("all"));
}
