//! One request in progress: both legs at once, and the second one again and again until every sample has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tessera_api::gateway::{Event, ImagePlan, Started};
use tessera_api::language::{self, GenerateRequest};
use tessera_api::{Error, ErrorKind, Result};
use tessera_embedding::{Salt, TenantId};
use tessera_rpc::Deadline;
use tokio::sync::mpsc;

use crate::admission::Admitted;
use crate::continuations::{self, Continuations};
use crate::encoding::Encoding;
use crate::prepare::{Prepared, Preparer, image_plan};
use crate::sample::Stops;
use crate::telling::{Telling, Told};
use crate::tenant::Tenant;
use crate::upstream::Upstream;

/// How long after the deadline the language worker may still say what there was by then.
const GRACE: Duration = Duration::from_secs(1);
/// What the language worker calls the fields of a request, and what the client does.
const FIELDS: [(&str, &str); 9] = [
    ("sampling.min_new_tokens", "settings.min_tokens"),
    ("sampling", "settings"),
    ("max_new_tokens", "settings.max_tokens"),
    ("end_token_ids", "settings.stop_token_ids"),
    ("samples", "settings.samples"),
    ("beam_search", "settings.beam_search"),
    ("constraint", "settings.constraint"),
    ("logprobs", "settings.logprobs"),
    ("prompt_logprobs", "settings.prompt_logprobs"),
];

/// A request that was prepared.
pub(crate) struct Answer {
    pub(crate) request_id: String,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) received: Instant,
    pub(crate) deadline: Deadline,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) preparer: Arc<Preparer>,
    pub(crate) prepared: Prepared,
    pub(crate) admitted: Admitted,
    /// How often it may be sent to a language worker again.
    pub(crate) continuations: usize,
}

impl Answer {
    /// Runs the request and sends its events; ends early when nobody listens any more.
    pub(crate) async fn run(self, events: mpsc::Sender<Result<Event>>) {
        let deadline = self.deadline;
        let late = async {
            deadline.passed().await;
            tokio::time::sleep(GRACE).await;
        };
        let ended = tokio::select! {
            biased;
            () = events.closed() => return,
            ended = self.generate(&events) => ended,
            () = late => Err(Error::deadline("the answer was being generated")),
        };
        if let Err(error) = ended {
            // The listener may have left just now.
            let _ = events.send(Err(in_the_clients_words(error))).await;
        }
    }

    async fn generate(self, events: &mpsc::Sender<Result<Event>>) -> Result<()> {
        let Self { request_id, tenant, received, deadline, upstream, preparer, prepared, admitted, continuations } =
            self;
        let asked = sequence(request_id.clone(), &prepared, tenant.salt.clone());
        let Prepared { prompt, images, generation, settings, .. } = prepared;
        let plans: Vec<ImagePlan> = images.iter().map(|image| image_plan(image.key, &image.plan)).collect();
        let told = Told {
            prompter: &preparer.prompter,
            received,
            prompt: &prompt.ids,
            image_tokens: plans.iter().map(|image| image.image_tokens).sum(),
            stops: Stops::new(settings),
            samples: generation.samples.get(),
            is_search: generation.beam_search.is_some(),
        };
        let mut telling = Telling::new(events, told);
        let prepare = received.elapsed();
        let started = Started { request_id, prompt_tokens: prompt.ids.len(), images: plans, seed: generation.seed };
        telling.send(Event::Started(started)).await?;

        admitted.used_tokens(prompt.ids.len());
        let mut encoding = Encoding::start(&upstream, &admitted, images, deadline);
        encoding.timings.prepare = prepare;
        let continuations = Continuations::new(continuations);
        let mut decoder = None;
        let prompt_tokens = prompt.ids.len();
        let mut running = Running {
            upstream: &upstream,
            owner: tenant.id,
            admitted: &admitted,
            prompt_tokens,
            deadline,
            encoding,
            continuations,
        };
        loop {
            if telling.tokens() == 0 {
                // Any model may begin, the same one must go on.
                decoder = upstream.decoder();
            }
            let request = GenerateRequest {
                images: running.encoding.references(&prompt.images),
                begun: telling.begin(),
                prompt_logprobs: asked.prompt_logprobs.filter(|_| !telling.has_told_prompt()),
                decoder,
                ..asked.clone()
            };
            let Some(failed) = running.follow(request, &mut telling).await? else { return Ok(()) };
            if !running.go_on(&asked.request_id, failed, &mut telling).await? {
                return Ok(());
            }
        }
    }
}

/// A sequence that ended before its samples.
struct Failed {
    error: Error,
    /// The URL of its worker, if it had one.
    worker: Option<String>,
}

/// What goes on from one language worker to the next.
struct Running<'a> {
    upstream: &'a Upstream,
    owner: TenantId,
    admitted: &'a Admitted,
    prompt_tokens: usize,
    deadline: Deadline,
    encoding: Encoding<'a>,
    continuations: Continuations,
}

impl Running<'_> {
    /// Has one language worker generate until every sample has ended; returns what it failed of before that.
    ///
    /// # Errors
    /// Of an image, of a worker that does not keep to the contract, and of a client who left: nobody can go on.
    async fn follow(&mut self, request: GenerateRequest, telling: &mut Telling<'_>) -> Result<Option<Failed>> {
        let mut sequence = match self.encoding.during(self.upstream.generate(request, self.deadline)).await? {
            Ok(sequence) => sequence,
            Err(error) => {
                let worker = value(&error, "worker");
                return Ok(Some(Failed { error, worker }));
            }
        };
        // To let go of the stream frees what its samples hold, so it is read until all of them have ended.
        while telling.is_open() {
            let event = match self.encoding.during(sequence.next()).await? {
                Ok(event) => event,
                Err(error) => {
                    sequence.lose(&error);
                    return Ok(Some(Failed { error, worker: Some(sequence.worker().to_owned()) }));
                }
            };
            if matches!(event, language::Event::Finished(_)) {
                self.encoding.settle().await;
            }
            telling.tell(event, self.encoding.timings).await?;
            self.admitted.used_tokens(self.prompt_tokens + telling.tokens());
        }
        Ok(None)
    }

    /// Waits until the answer can go on after an error; returns whether it does. It does not when its time is over, and it was
    /// told what there was by then.
    ///
    /// # Errors
    /// The same one, its cause, or one that says that no worker is left.
    async fn go_on(&mut self, request_id: &str, failed: Failed, telling: &mut Telling<'_>) -> Result<bool> {
        let (deadline, tokens) = (self.deadline, telling.tokens());
        let recovering = self.recover(request_id, failed, tokens);
        match deadline.bound("a language worker was waited for", recovering).await {
            Err(error) if error.kind == ErrorKind::Deadline && tokens > 0 => {
                telling.end_at_the_deadline(self.encoding.timings).await?;
                Ok(false)
            }
            recovered => recovered.map(|()| true),
        }
    }

    /// Waits as long as it is worth, and has images encoded again that lack their features.
    async fn recover(&mut self, request_id: &str, failed: Failed, tokens: usize) -> Result<()> {
        let Failed { mut error, worker } = failed;
        loop {
            let cause = error.to_string();
            let next = match self.continuations.next(error, tokens) {
                Ok(next) => next,
                Err(error) => return Err(self.encoding.cause(error).await),
            };
            self.encoding.timings.continuations = self.continuations.begun;
            tracing::warn!(request_id, worker, tokens, error = cause, "an answer goes on on another language worker");
            continuations::pause(next.pause).await;
            let Some(lacking) = next.images else { return Ok(()) };
            match self.encoding.renew(lacking, self.owner).await {
                Err(again) if again.kind == ErrorKind::Unavailable => error = again,
                renewed => return renewed,
            }
        }
    }
}

fn sequence(request_id: String, prepared: &Prepared, salt: Salt) -> GenerateRequest {
    let Prepared { prompt, generation, lengths, settings, .. } = prepared;
    GenerateRequest {
        request_id,
        sampling: language::Sampling { min_new_tokens: lengths.min, ..generation.sampling.clone() },
        beam_search: generation.beam_search,
        samples: generation.samples,
        end_token_ids: generation.end_token_ids.clone(),
        constraint: settings.constraint.clone(),
        logprobs: settings.logprobs,
        prompt_logprobs: settings.prompt_logprobs,
        salt,
        ..GenerateRequest::greedy(prompt.ids.clone(), lengths.max)
    }
}

/// A value that an error names.
fn value(error: &Error, name: &str) -> Option<String> {
    error.metadata.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

/// An error that names fields as the client knows them.
fn in_the_clients_words(mut error: Error) -> Error {
    for violation in &mut error.fields {
        let known = FIELDS.iter().find_map(|(theirs, ours)| {
            let rest = violation.field.strip_prefix(theirs)?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then(|| format!("{ours}{rest}"))
        });
        if let Some(field) = known {
            if let Some(rest) = error.message.strip_prefix(&violation.field) {
                error.message = format!("{field}{rest}");
            }
            violation.field = field;
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_workers_fields_become_the_clients() {
        for (theirs, ours) in [
            ("sampling.top_p", "settings.top_p"),
            ("sampling.bad_words[3]", "settings.bad_words[3]"),
            ("sampling.min_new_tokens", "settings.min_tokens"),
            ("constraint.json_schema", "settings.constraint.json_schema"),
            ("beam_search.beams", "settings.beam_search.beams"),
            ("max_new_tokens", "settings.max_tokens"),
            ("logprobs", "settings.logprobs"),
            ("messages[0].parts[1].image", "messages[0].parts[1].image"),
            ("samplings", "samplings"),
        ] {
            let error = in_the_clients_words(Error::field("A_REASON", theirs, "is wrong"));
            assert_eq!((error.fields[0].field.as_str(), error.message), (ours, format!("{ours}: is wrong")));
        }
    }
}
