//! Questions and their answers: streams, retries, deadlines, handles.

use std::sync::Arc;
use std::time::Duration;

use tessera_client::{
    Ask, Client, Error, ErrorKind, Event, Image, ImageSource, Input, Message, Part, Retries, Role, Settings, StreamExt,
};
use tokio::time::Instant;

use crate::stand_in::{Plan, Step, delta, key, started, usual};

const SECOND: Duration = Duration::from_secs(1);

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "POOL_EMPTY", "no worker is there")
}

fn refuse(error: Error) -> Step {
    Step::Refuse(error)
}

/// When it was asked, from the first time on.
fn times(plan: &Plan) -> Vec<Duration> {
    let heard = plan.heard.lock().unwrap();
    heard.iter().map(|call| call.at - heard[0].at).collect()
}

fn timeouts(plan: &Plan) -> Vec<Option<Duration>> {
    plan.heard.lock().unwrap().iter().map(|call| call.timeout).collect()
}

fn images(plan: &Plan, call: usize) -> Vec<ImageSource> {
    let heard = plan.heard.lock().unwrap();
    let parts = heard[call].request.as_ref().unwrap().input.parts();
    parts.filter_map(|part| if let Part::Image(source) = part { Some(source.clone()) } else { None }).collect()
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_a_stream_and_whole_at_its_end() {
    let plan = Plan::new();
    let client = plan.client();
    let events: Vec<Event> = client.generate("What?").await.unwrap().map(|event| event.unwrap()).collect().await;
    assert_eq!(events, usual());

    let mut answer = client.generate("What?").await.unwrap();
    assert_eq!((answer.started().seed, answer.started().prompt_tokens), (11, 7));
    let mut texts = Vec::new();
    while let Some(text) = answer.next_text().await.unwrap() {
        texts.push(text);
    }
    assert_eq!(texts, ["a ", "bar"], "what is empty goes by");
    let reply = answer.finish().await.unwrap();
    assert_eq!((reply.text(), &reply.samples[0].token_ids[..]), ("a bar", &[5, 5, 5][..]));
    assert_eq!(reply.samples[0].finished.usage.completion_tokens, 2);

    let mut answer = client.generate("What?").await.unwrap();
    answer.next_text().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "a bar", "what was read before is part of it");
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_arrives() {
    let plan = Plan::new();
    let settings = Settings { min_p: Some(0.25), ..Settings::default() };
    let ask = Ask::new("What?").image(vec![1]).then("A bar.", "Which?").system("Be brief.").request_id("mine");
    let ask = ask.settings(settings.clone()).max_tokens(9).temperature(0.5).seed(3);
    plan.client().generate(ask).await.unwrap().text().await.unwrap();
    let heard = plan.heard.lock().unwrap();
    let request = heard[0].request.as_ref().unwrap();
    let text = |role, text: &str| Message { role, parts: vec![Part::Text(text.into())] };
    let shown = Part::Image(ImageSource::File(vec![1].into()));
    let asked = Message { role: Role::User, parts: vec![shown, Part::Text("What?".into())] };
    let expected =
        vec![text(Role::System, "Be brief."), asked, text(Role::Assistant, "A bar."), text(Role::User, "Which?")];
    assert_eq!(request.input, Input::Conversation(expected));
    assert_eq!(request.request_id, "mine");
    let expected = Settings { max_tokens: Some(9), temperature: Some(0.5), seed: Some(3), ..settings };
    assert_eq!(request.settings, expected);
}

#[tokio::test(start_paused = true)]
async fn a_question_is_asked_again_when_the_gateway_has_room() {
    let plan = Plan::of([
        refuse(Error::exhausted("QUEUE_FULL", "full", 3 * SECOND)),
        refuse(unavailable()),
        // Nothing was told yet.
        Step::Break(Vec::new(), Error::draining()),
    ]);
    assert_eq!(plan.client().generate("What?").await.unwrap().text().await.unwrap(), "a bar");
    let times = times(&plan);
    let pauses: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    assert_eq!(pauses.len(), 3);
    for (pause, least) in pauses.iter().zip([3.0, 0.2, 1.0]) {
        assert!((least..least * 1.26).contains(pause), "{pauses:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_that_stays_is_told_at_once_with_its_details() {
    let wrong = Error::field("TOP_P_INVALID", "settings.top_p", "7 is not in (0, 1]").with("top_p", 7);
    let plan = Plan::of([refuse(wrong.clone())]);
    let error = plan.client().generate("What?").await.unwrap_err();
    assert_eq!((error, plan.calls()), (wrong, 1));
    let spent = Error::exhausted("QUOTA_EXCEEDED", "spent", 3600 * SECOND);
    let plan = Plan::of([refuse(spent.clone())]);
    let error = plan.client().generate("What?").await.unwrap_err();
    assert_eq!((error, plan.calls()), (spent, 1));
}

#[tokio::test(start_paused = true)]
async fn retries_have_an_end() {
    for most in [0, 2] {
        let plan = Plan::of((0..9).map(|_| refuse(unavailable())));
        let builder = Client::builder("http://gateway").retries(Retries { most, ..Retries::default() });
        let error = plan.client_of(builder).generate("What?").await.unwrap_err();
        assert_eq!((error, plan.calls()), (unavailable(), most as usize + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_again_behind_the_first_event() {
    let plan = Plan::of([Step::Break(vec![started(), delta("a ")], unavailable())]);
    let mut answer = plan.client().generate("What?").await.unwrap();
    assert_eq!(answer.next_text().await.unwrap().unwrap(), "a ");
    assert_eq!(answer.next_text().await.unwrap_err(), unavailable());
    assert_eq!((answer.next().await, plan.calls()), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_cut_off_is_no_answer() {
    for events in [vec![started()], vec![started(), delta("a ")]] {
        let plan = Plan::of([Step::End(events)]);
        let error = plan.client().generate("What?").await.unwrap().text().await.unwrap_err();
        assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unavailable, "STREAM_BROKEN"));
    }
    let plan = Plan::of([Step::End(vec![delta("a ")])]);
    assert_eq!(plan.client().generate("What?").await.unwrap_err().reason, "CONTRACT_BROKEN");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_travels_and_retries_share_it() {
    let plan = Plan::of([refuse(Error::exhausted("QUEUE_FULL", "full", 4 * SECOND))]);
    let client = plan.client_of(Client::builder("http://gateway").deadline(60 * SECOND));
    client.generate(Ask::new("What?").deadline(10 * SECOND)).await.unwrap().text().await.unwrap();
    client.generate("What?").await.unwrap().text().await.unwrap();
    let given: Vec<f64> = timeouts(&plan).into_iter().map(|time| time.unwrap().as_secs_f64()).collect();
    for (time, most) in given.iter().zip([10.0, 6.0, 60.0]) {
        assert!((most - 1.1..=most).contains(time), "{given:?}");
    }
    let plan = Plan::new();
    plan.client().generate("What?").await.unwrap().text().await.unwrap();
    assert_eq!(timeouts(&plan), [None], "there is none of the client's own");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_falls_silent_is_given_up_a_little_behind_the_deadline() {
    for events in [Vec::new(), vec![started(), delta("a ")]] {
        let plan = Plan::of([Step::Hang(events)]);
        let (client, since) = (plan.client(), Instant::now());
        let ask = Ask::new("What?").deadline(5 * SECOND);
        let asked = async { client.generate(ask).await?.text().await };
        let error = asked.await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Deadline, "{error}");
        assert!((5 * SECOND..8 * SECOND).contains(&since.elapsed()), "{:?}", since.elapsed());
    }
}

/// Waits until everything that can happen without time passing has happened.
async fn settled() {
    tokio::time::sleep(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_drops_an_answer_cancels_it() {
    let plan = Plan::of([Step::Hang(vec![started(), delta("a ")]), Step::Hang(Vec::new())]);
    let client = plan.client();
    let mut answer = client.generate("What?").await.unwrap();
    assert_eq!(answer.next_text().await.unwrap().unwrap(), "a ");
    settled().await;
    assert_eq!(*plan.left.lock().unwrap(), 0);
    drop(answer);
    settled().await;
    assert_eq!(*plan.left.lock().unwrap(), 1);
    // So does whoever does not wait for its beginning.
    assert!(tokio::time::timeout(SECOND, client.generate("What?")).await.is_err());
    settled().await;
    assert_eq!((*plan.left.lock().unwrap(), plan.calls()), (2, 2));
}

/// The error of a handle that stands for nothing.
fn gone(image: &[u8]) -> Error {
    Error::new(ErrorKind::NotFound, "EMBEDDING_NOT_FOUND", "it is not stored").with("key", key(image))
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_is_gone_is_answered_by_its_file() {
    let plan = Plan::of([refuse(gone(b"two"))]);
    let image = |file: &'static [u8]| Image::stored_or(key(file), file.to_vec());
    let ask = || Ask::new("What?").image(image(b"one")).image(image(b"two")).embedding(key(b"three"));
    assert_eq!(plan.client().generate(ask()).await.unwrap().text().await.unwrap(), "a bar");
    let file = |bytes: &'static [u8]| ImageSource::File(bytes.into());
    let stored = |bytes: &[u8]| ImageSource::Stored(key(bytes));
    assert_eq!(images(&plan, 0), [stored(b"one"), stored(b"two"), stored(b"three")]);
    assert_eq!(images(&plan, 1), [file(b"one"), file(b"two"), stored(b"three")]);
    assert_eq!(times(&plan)[1], Duration::ZERO, "at once");

    // Of one there is no file.
    let plan = Plan::of([refuse(gone(b"three"))]);
    assert_eq!(plan.client().generate(ask()).await.unwrap_err(), gone(b"three"));
    // What says again that it is gone is believed.
    let plan = Plan::of([refuse(gone(b"one")), refuse(gone(b"one"))]);
    assert_eq!(plan.client().generate(ask()).await.unwrap_err(), gone(b"one"));
    assert_eq!(plan.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn clones_ask_at_once_over_one_connection() {
    let plan: Arc<Plan> = Plan::of([Step::Hang(vec![started()])]);
    let client = plan.client();
    let silent = client.generate("What?").await.unwrap();
    let others = futures::future::join_all((0..20).map(|_| {
        let client = client.clone();
        async move { client.generate("What?").await?.text().await }
    }));
    assert!(others.await.into_iter().all(|text| text.unwrap() == "a bar"));
    drop(silent);
}
