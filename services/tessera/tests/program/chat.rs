//! `tessera chat` as scripts run it, and as far as signals go.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use assert_cmd::Command;
use tempfile::TempDir;
use tessera_testkit::{DemoQuestion, demo_questions, family_dir};

use crate::{EXECUTABLE, path};

/// Runs a conversation: exit code, standard output, standard error.
fn chat(arguments: &[&str], lines: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(EXECUTABLE);
    let output = command.arg("chat").args(arguments).write_stdin(lines.join("\n")).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The first picture of the sample, and a question about it with its answer.
fn chart() -> (String, String, String) {
    let question = demo_questions().swap_remove(0);
    let image = question.images()[0].to_str().unwrap().to_owned();
    (image, question.turns[0].question.clone(), question.turns[0].answer.clone())
}

#[test]
fn a_picture_is_encoded_once_and_what_was_said_is_remembered() {
    // One whose second question means something only behind the first.
    let of_two = |question: &DemoQuestion| question.turns.len() == 2 && question.images().len() == 1;
    let question = demo_questions().into_iter().find(of_two).unwrap();
    let show = format!("/image {}", question.images()[0].display());
    let [first, second] = &question.turns[..] else { panic!("{question:?}") };
    let lines = [&show, &first.question, "/stats", &second.question, "/stats"];
    let (code, stdout, stderr) = chat(&[], &lines);
    assert_eq!(code, Some(0), "{stderr}");
    let said: Vec<&str> = stdout.lines().collect();
    assert_eq!((said[0], said[6]), (first.answer.as_str(), question.reference.as_str()), "{stdout}");
    let figures = |from: usize| said[from..from + 5].join("\n");
    assert!(figures(1).contains("images      1, 0 of them stored before"), "{stdout}");
    assert!(figures(7).contains("images      1, 1 of them stored before"), "{stdout}");
    assert!(figures(7).contains("encode 0.0 ms") && figures(7).contains("known before"), "{stdout}");
    assert_eq!(said.len(), 12, "{stdout}");
    assert!(stderr.contains("pixels) goes with the next question"), "{stderr}");
}

#[test]
fn what_goes_wrong_with_a_line_is_said_and_the_conversation_goes_on() {
    let ((image, question, answer), text) = (chart(), path("sizes_336.csv"));
    let (show, no_image) = (format!("/image {image}"), format!("/image {text}"));
    let lines = [
        "/imgae x",
        "/image /nowhere.png",
        &no_image,
        "/embedding abc",
        "/set top-k many",
        "/set answer yes",
        "/stats",
        "/undo",
        "/retry",
        "/save",
        "/image http://127.0.0.1:9/a.png",
        "What?",
        "/undo",
        "/undo",
        &show,
        &question,
    ];
    let (code, stdout, stderr) = chat(&[], &lines);
    assert_eq!((code, stdout), (Some(1), format!("{answer}\n")), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    let expected = [
        "there is no command /imgae; there are: /image, ",
        "cannot read /nowhere.png",
        "none of JPEG",
        "64 hexadecimal digits",
        "'many' for '--top-k",
        "there is no setting \"answer\"; there are: max-tokens, ",
        "nothing was answered yet",
        "nothing to take back",
        "no question to ask again",
        "/save takes FILE",
        "/undo takes the picture back",
    ];
    assert_eq!(errors.len(), expected.len(), "{stderr}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.contains(expected), "{expected:?} is not in {error}");
    }
    assert!(stderr.contains("note: the picture at http://127.0.0.1:9 is not shown"), "{stderr}");
    assert!(stderr.contains("note: not asked: What?"), "{stderr}");
}

#[test]
fn what_was_said_is_taken_back_asked_again_and_written_down() {
    let ((image, question, answer), folder) = (chart(), tempfile::tempdir().unwrap());
    let file = folder.path().join("talk.md");
    let save = format!("/save {}", file.display());
    let mut lines = vec!["/set max-tokens 8", &question, "/retry", "How many bars are there?", "/undo", &save, &save];
    lines.extend(["/clear", "/system Answer.", "/set max-tokens", "/set", "/quit", "Never asked."]);
    let (code, stdout, stderr) = chat(&["--image", &image, "--temperature", "0"], &lines);
    assert_eq!(code, Some(1), "{stderr}");
    let said: Vec<&str> = stdout.lines().collect();
    assert_eq!((said.len(), said[0], said[1]), (3, answer.as_str(), answer.as_str()), "{stdout}");
    assert!(stderr.contains("note: not asked: How many bars are there?"), "{stderr}");
    assert!(stderr.contains("talk.md is there already"), "{stderr}");
    let saved = fs::read_to_string(&file).unwrap();
    assert!(saved.starts_with(&format!("**Picture:** `{image}`, handle `")), "{saved}");
    assert!(saved.ends_with(&format!("**Question:** {question}\n\n{answer}\n\n")), "{saved}");
    assert_eq!(saved.matches("**Question:**").count(), 1, "{saved}");
}

#[test]
fn a_conversation_that_is_too_long_says_what_to_do() {
    let long = "bar ".repeat(20_000);
    let (code, stdout, stderr) = chat(&[], &[&long, "/undo", "/help"]);
    assert_eq!(code, Some(1), "{stderr}");
    let error = stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(error.contains("/undo takes back") && error.contains("/clear"), "{error}");
    assert!(stdout.contains("/image PATH|URL"), "{stdout}");
}

/// A conversation that is asked something long, and where its answer comes.
fn talking() -> (Child, ChildStdin, BufReader<ChildStdout>, TempDir) {
    let (folder, model) = (tempfile::tempdir().unwrap(), family_dir("mistral"));
    let mut command = std::process::Command::new(EXECUTABLE);
    command.env("TMPDIR", folder.path()).args(["chat", "--max-tokens", "100000", "--model", model.to_str().unwrap()]);
    // It never ends by itself, as far as it depends on the model.
    command.args(["--regex", "[a-z ]{12000}"]);
    let mut run = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut lines, mut answers) = (run.stdin.take().unwrap(), BufReader::new(run.stdout.take().unwrap()));
    writeln!(lines, "What is shown?").unwrap();
    answers.read_exact(&mut [0]).unwrap();
    (run, lines, answers, folder)
}

fn signal(run: &Child, name: &str) {
    let sent = std::process::Command::new("kill").args([name, &run.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn an_answer_is_stopped_and_the_conversation_is_not() {
    let (run, mut lines, mut answers, _folder) = talking();
    signal(&run, "-INT");
    let mut stopped = String::new();
    answers.read_line(&mut stopped).unwrap();
    assert!(stopped.len() < 11_999, "it was not stopped but came to its end");
    writeln!(lines, "/set regex\n/set regex [ab]{{3}}\nAnd now?").unwrap();
    drop(lines);
    let mut next = String::new();
    answers.read_to_string(&mut next).unwrap();
    assert!(next.len() == 4 && next.trim_end().bytes().all(|byte| b"ab".contains(&byte)), "{next:?}");
    let ended = run.wait_with_output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(stderr.contains("note: stopped; the answer counts as far as it came"), "{stderr}");
}

#[test]
fn a_conversation_that_is_told_to_end_does() {
    let (run, _lines, _answers, folder) = talking();
    signal(&run, "-TERM");
    assert_eq!(run.wait_with_output().unwrap().status.code(), Some(130));
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}
