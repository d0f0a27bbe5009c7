//! Language workers in processes of their own, which are killed and told to end in the middle of answers.

use std::process::Command;
use std::time::Duration;

use tessera_testkit::{Program, family_dir};
use tonic::Request;

use crate::cluster::{Cluster, limited_to};
use crate::continuation::{Told, questions, whole};
use crate::pool::busy;

/// Says to a process that this test starts that it is a language worker.
const ROLE: &str = "TESSERA_TEST_LANGUAGE_WORKER";
const LIMIT: Duration = Duration::from_secs(240);
const TRIES: usize = 10;

/// A process, and its URL.
fn worker() -> (Program, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let this = "processes::a_language_worker_in_a_process_of_its_own";
    command.args(["--exact", this, "--nocapture"]).env(ROLE, "yes");
    let (program, line) = Program::run(command, "serves at ");
    let (_, url) = line.trim().split_once("serves at ").unwrap();
    (program, url.to_owned())
}

/// Does nothing, unless [`worker`] runs it; then it ends when it is told to.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the only way to tell a process that the test harness starts what it is")]
async fn a_language_worker_in_a_process_of_its_own() {
    if std::env::var(ROLE).is_err() {
        return;
    }
    let mut settings = tessera_language::Settings { model: family_dir("mistral"), ..Default::default() };
    settings.drain.finish = 0.0;
    let service = tessera_language::build(settings, |_| {}).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    eprintln!("serves at http://{}", listener.local_addr().unwrap());
    service.run_until_interrupted(listener).await.unwrap();
}

/// How a process ends.
#[derive(Clone, Copy, Debug)]
enum Signal {
    Kill,
    Terminate,
}

#[test]
fn answers_survive_sigkill_and_sigterm_of_their_language_worker() {
    limited_to(LIMIT, async {
        for (signal, asked) in [Signal::Kill, Signal::Terminate].into_iter().zip(questions(1500)) {
            let mut continuations = 0;
            for _ in 0..TRIES {
                let mut workers = vec![worker(), worker()];
                let urls: Vec<String> = workers.iter().map(|(_, url)| url.clone()).collect();
                let pool = urls.clone();
                let cluster = Cluster::start("mistral", |settings| settings.gateway.language = pool).await;
                let expected = whole(&cluster, &asked).await;
                let mut told = Told::default();
                let mut events = cluster.open(Request::new(asked.clone().into())).await.unwrap();
                told.read_a_token(&mut events).await.unwrap();
                let (lost, _) = workers.swap_remove(busy(&urls).await.unwrap_or(0));
                match signal {
                    // Dropped: killed with SIGKILL.
                    Signal::Kill => drop(lost),
                    Signal::Terminate => {
                        let ended = tokio::task::spawn_blocking(|| lost.terminate());
                        continuations = told.read(&mut events).await.unwrap();
                        assert!(ended.await.unwrap().success());
                    }
                }
                continuations += told.read(&mut events).await.unwrap();
                assert_eq!(told, expected, "{signal:?}");
                if continuations > 0 {
                    break;
                }
            }
            assert!(continuations > 0, "{signal:?}: every answer was over before its worker was");
        }
    });
}
