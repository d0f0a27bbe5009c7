//! Answers of a form that are continued elsewhere, over a real model.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tessera_api::ErrorKind;
use tessera_api::language::{
    Begun, Choice, Constraint, Draw, Event, FinishReason, Finished, GenerateRequest, Generator, Sampling,
};
use tessera_checkpoint::Checkpoint;
use tessera_model::{LanguageModel, LoadOptions};
use tessera_rpc::{Deadline, Tasks};
use tessera_testkit::{Golden, family_dir};

use crate::constraint::{Forms, Grammars};
use crate::engine::{CandleRunner, EngineHandle, Limits};

/// An engine, and what it needs to hold answers to forms.
struct Worker {
    engine: EngineHandle,
    forms: Forms,
    prompt: Vec<u32>,
    ends: Vec<u32>,
}

/// Tokens, log-probabilities and the end of a sample.
type Heard = (Vec<u32>, Vec<f32>, Option<FinishReason>);

impl Worker {
    fn open(family: &str) -> Self {
        const BLOCKS: usize = 64;
        let checkpoint = Checkpoint::open(&family_dir(family)).unwrap();
        let model = LanguageModel::load(&checkpoint, &LoadOptions::default()).unwrap();
        let (max_positions, vocabulary) = (model.config().max_positions, model.config().vocab_size);
        let runner = CandleRunner::new(Arc::new(model), checkpoint.geometry(), BLOCKS).unwrap();
        let limits = Limits { max_positions, vocabulary, blocks: BLOCKS, running: 8, waiting: 64, step_rows: 512 };
        // There are no images.
        let (engine, _) = EngineHandle::start(runner, limits, |_| |_| {}).unwrap();
        Self {
            engine,
            forms: Forms::new(Grammars::open(&checkpoint, vocabulary), Tasks::default()),
            prompt: Golden::load(family, "text_only").unpadded_ids(0),
            ends: checkpoint.generation.eos_ids,
        }
    }

    fn request(&self, constraint: &Constraint, generator: Generator) -> GenerateRequest {
        let draw = Draw { temperature: 1.5, top_k: None, top_p: 1.0, min_p: 0.0, typical_p: 1.0, seed: 3, generator };
        GenerateRequest {
            sampling: Sampling { choice: Choice::Draw(draw), ..Sampling::GREEDY },
            samples: NonZeroUsize::new(2).unwrap(),
            end_token_ids: self.ends.clone(),
            constraint: Some(constraint.clone()),
            logprobs: Some(0),
            ..GenerateRequest::greedy(self.prompt.clone(), NonZeroUsize::new(40).unwrap())
        }
    }

    async fn ask(&self, request: GenerateRequest) -> tessera_api::Result<[Heard; 2]> {
        let form = self.forms.matchers(&request, Deadline::default()).await?;
        let mut events = self.engine.admit(request, form, Deadline::default()).await?;
        let mut samples = [(); 2].map(|()| Heard::default());
        while let Some(event) = events.recv().await {
            match event? {
                Event::Tokens { sample, token_ids, logprobs } => {
                    samples[sample].0.extend(token_ids);
                    samples[sample].1.extend(logprobs.iter().map(|logprobs| logprobs.chosen));
                }
                Event::Finished(Finished { sample, reason, .. }) => samples[sample].2 = Some(reason),
                Event::PromptLogprobs(_) => panic!("nobody asked for them"),
            }
        }
        Ok(samples)
    }
}

#[tokio::test]
async fn an_answer_of_a_form_goes_on_from_any_token_as_if_it_had_never_stopped() {
    let schema = r#"{"type": "object", "properties": {"n": {"enum": [1, 22, 333]}, "yes": {"type": "boolean"}},
        "required": ["n", "yes"], "additionalProperties": false}"#;
    let forms = [
        Constraint::JsonSchema(schema.into()),
        Constraint::Regex("[0-9]{3}( [a-z]{2,4})*".into()),
        // It ends where the text does: no end token says so.
        Constraint::Regex("[0-9]{5}".into()),
        Constraint::Choices(vec!["yes".into(), "no".into(), "perhaps not".into()]),
    ];
    for family in ["mistral", "qwen2"] {
        let worker = Worker::open(family);
        for (form, generator) in forms.iter().flat_map(|form| [(form, Generator::Counter), (form, Generator::Torch)]) {
            let whole = worker.request(form, generator);
            let heard = worker.ask(whole.clone()).await.unwrap();
            let longest = heard.iter().map(|(ids, ..)| ids.len()).max().unwrap();
            for cut in 0..=longest {
                // The samples are not equally far.
                let told = [cut.min(heard[0].0.len()), (longest - cut).min(heard[1].0.len())];
                let begun = |sample: usize| Begun { sample, token_ids: heard[sample].0[..told[sample]].to_vec() };
                let rest = GenerateRequest { begun: vec![begun(0), begun(1)], ..whole.clone() };
                let again = worker.ask(rest).await.unwrap();
                for (sample, (ids, logprobs, end)) in heard.iter().enumerate() {
                    let from = told[sample];
                    let expected = (ids[from..].to_vec(), logprobs[from..].to_vec(), *end);
                    assert_eq!(again[sample], expected, "{family} {form:?} from {told:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_does_not_have_the_form_is_refused_with_the_token() {
    let worker = Worker::open("mistral");
    let whole = worker.request(&Constraint::Regex("[0-9]{5}".into()), Generator::Counter);
    let heard = worker.ask(whole.clone()).await.unwrap();
    let mut wrong = heard[1].0.clone();
    wrong.push(wrong[0]);
    let begun = vec![Begun { sample: 1, token_ids: wrong }];
    let error = worker.ask(GenerateRequest { begun, ..whole }).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Invalid, "CONSTRAINT_INVALID"));
    assert_eq!(error.fields[0].field, "begun[0].token_ids");
}
