//! The program as an operator runs it.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

use std::num::NonZeroUsize;

use tessera_api::language::{Event, FinishReason, GenerateRequest};
use tessera_api::proto::language::v1 as proto;
use tessera_api::proto::language::v1::language_worker_client::LanguageWorkerClient;
use tessera_api::{Error, ErrorKind};
use tessera_rpc::client;
use tessera_testkit::{Program, family_dir, service};
use tonic::transport::Channel;

const EXECUTABLE: &str = env!("CARGO_BIN_EXE_tessera-language");

#[test]
fn sigterm_ends_a_service_that_has_nothing_left_to_do() {
    service::ends_at_sigterm(EXECUTABLE);
}

#[test]
fn everything_wrong_with_the_configuration_is_said_at_once() {
    service::says_everything_wrong_at_once(EXECUTABLE);
}

#[test]
fn settings_in_force_can_be_printed_and_read_back() {
    service::prints_settings_that_it_reads_back(EXECUTABLE);
}

#[test]
fn a_checkpoint_that_is_missing_is_named() {
    service::names_a_missing_checkpoint(EXECUTABLE);
}

#[test]
fn what_the_machine_cannot_do_is_named() {
    service::names_what_the_machine_cannot_do(EXECUTABLE);
}

/// The worker with what follows its settings; and where it listens.
fn start(settings: &[&str]) -> (Program, LanguageWorkerClient<Channel>) {
    let model = family_dir("mistral");
    let arguments = [&["--model", model.to_str().unwrap(), "--listen", "127.0.0.1:0"], settings].concat();
    let (program, line) = Program::start(EXECUTABLE, &arguments, "listening");
    let address = line.split_once(r#""address":""#).unwrap().1.split('"').next().unwrap();
    (program, LanguageWorkerClient::new(client::channel(&format!("http://{address}")).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_the_middle_of_an_answer_hands_it_over_and_is_a_success() {
    let (program, mut client) = start(&["--set", "drain.finish=0.0"]);
    let whole = GenerateRequest::greedy(vec![1, 5, 6, 7], NonZeroUsize::new(4000).unwrap());
    let mut events = client.generate(proto::GenerateRequest::from(whole)).await.unwrap().into_inner();
    let first = events.message().await.unwrap().unwrap();
    assert!(matches!(Event::try_from(first).unwrap(), Event::Tokens { .. }));
    let ended = tokio::task::spawn_blocking(|| program.terminate());
    let error = loop {
        match events.message().await {
            Ok(event) => assert!(event.is_some(), "an answer of 4000 tokens was over before the signal came"),
            Err(status) => break Error::from(status),
        }
    };
    assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unavailable, "HANDED_OVER"));
    assert!(ended.await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_an_answer_end_that_has_the_time() {
    let (program, mut client) = start(&["--set", "server.drain=5m"]);
    let whole = GenerateRequest::greedy(vec![1, 5, 6, 7], NonZeroUsize::new(500).unwrap());
    let mut events = client.generate(proto::GenerateRequest::from(whole)).await.unwrap().into_inner();
    assert!(events.message().await.unwrap().is_some());
    let ended = tokio::task::spawn_blocking(|| program.terminate());
    let mut tokens = 1;
    loop {
        match Event::try_from(events.message().await.unwrap().unwrap()).unwrap() {
            Event::Finished(finished) => break assert_eq!((tokens, finished.reason), (500, FinishReason::Length)),
            Event::Tokens { token_ids, .. } => tokens += token_ids.len(),
            Event::PromptLogprobs(_) => panic!("nobody asked for them"),
        }
    }
    drop((events, client));
    assert!(ended.await.unwrap().success());
}
