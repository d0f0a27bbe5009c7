//! The program as a user runs it.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

#[path = "program/chat.rs"]
mod chat;
#[path = "program/encode.rs"]
mod encode;
#[path = "program/pages.rs"]
mod pages;

use std::process::Stdio;

use assert_cmd::Command;
use safetensors::SafeTensors;
use serde_json::Value;
use tessera_testkit::{Golden, Program, demo_questions, family_dir, fixtures_dir, pixels};

const EXECUTABLE: &str = env!("CARGO_BIN_EXE_tessera");

/// What the program writes to standard output when it is content.
fn output(arguments: &[&str]) -> Vec<u8> {
    Command::new(EXECUTABLE).args(arguments).assert().success().get_output().stdout.clone()
}

/// What it writes to standard error when it is not.
fn complaint(arguments: &[&str]) -> String {
    let failed = Command::new(EXECUTABLE).args(arguments).assert().failure().code(1);
    String::from_utf8(failed.get_output().stderr.clone()).unwrap()
}

fn path(relative: &str) -> String {
    fixtures_dir().join(relative).to_str().unwrap().to_owned()
}

#[test]
fn ask_answers_as_the_reference_through_three_services() {
    let (model, image) = (family_dir("mistral"), path("tiny/pictures/one_image_0.png"));
    let question = ["--image", &image, "What is shown in this image?", "--max-tokens", "16"];
    let model = ["ask", "--model", model.to_str().unwrap()];
    let golden = Golden::load("mistral", "one_image");

    let json = [&model[..], &question, &["--json"]].concat();
    let answer: Value = serde_json::from_slice(&output(&json)).unwrap();
    assert_eq!(answer["token_ids"], Value::from(golden.greedy[0].clone()));
    assert_eq!(answer["text"], Value::from(golden.greedy_text[0].clone()));
    assert_eq!(answer["finish_reason"], "length");
    assert_eq!(answer["usage"]["prompt_tokens"], golden.unpadded_ids(0).len());
    assert_eq!(answer["usage"]["image_tokens"], golden.image_tokens[0]);
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    let timings = answer["timings"].as_object().unwrap();
    assert!(
        timings["first_token"].as_f64() > Some(0.0) && timings["total"].as_f64() >= timings["first_token"].as_f64()
    );

    let streamed = String::from_utf8(output(&[&model[..], &question].concat())).unwrap();
    assert_eq!(streamed, format!("{}\n", golden.greedy_text[0]));
}

#[test]
fn images_are_asked_about_in_their_order() {
    let model = family_dir("vicuna");
    let golden = Golden::load("vicuna", "two_images");
    let (first, second) = (path("tiny/pictures/two_images_0.png"), path("tiny/pictures/two_images_1.png"));
    let question = "Compare these two images and describe the differences.";
    let model = ["ask", "--json", "--max-tokens", "16", "--model", model.to_str().unwrap()];
    let ask = |a: &str, b: &str| -> Value {
        let answer = output(&[&model[..], &["--image", a, "--image", b, question]].concat());
        serde_json::from_slice(&answer).unwrap()
    };
    let expected: Vec<u32> = golden.greedy[0].clone();
    assert_eq!(ask(&first, &second)["token_ids"], Value::from(expected));
    assert_ne!(ask(&second, &first)["token_ids"], ask(&first, &second)["token_ids"]);
}

#[test]
fn the_embedded_model_is_right_from_any_folder_and_says_what_it_knows() {
    let question = demo_questions().swap_remove(0);
    let ([turn], [image]) = (&question.turns[..], &question.images()[..]) else { panic!("{question:?}") };
    let [folder, temporary] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let asked = Command::new(EXECUTABLE)
        .current_dir(folder.path())
        .env("TMPDIR", temporary.path())
        .args(["ask", "--image", image.to_str().unwrap(), &turn.question])
        .assert()
        .success()
        .stdout(format!("{}\n", turn.answer));
    let said = String::from_utf8_lossy(&asked.get_output().stderr).into_owned();
    assert!(said.lines().count() == 1 && said.starts_with("note: "), "{said}");
    for expected in ["drawn shapes, printed words and charts only", "--model DIR", "llava-v1.6"] {
        assert!(said.contains(expected), "{expected:?} is not in: {said}");
    }
    // Neither leaves it anything behind where it was called nor where it unpacked the model.
    for folder in [folder, temporary] {
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}

#[test]
fn up_serves_until_it_is_told_to_end() {
    let (model, port) = (family_dir("mistral"), free_ports());
    let arguments = ["up", "--model", model.to_str().unwrap(), "--port", &port.to_string()];
    // The gateway is the last of the three to serve.
    let (program, _) = Program::start(EXECUTABLE, &arguments, "tessera.gateway.v1.Gateway");
    let (server, golden) = (format!("http://127.0.0.1:{port}"), Golden::load("mistral", "text_only"));
    let question = ["ask", "--json", "--max-tokens", "16", "--server", &server, "What is shown?"];
    let answer: Value = serde_json::from_slice(&output(&question)).unwrap();
    assert_eq!(answer["token_ids"], Value::from(golden.greedy[0].clone()));

    let taken = complaint(&arguments);
    assert!(taken.contains("--port"), "{taken}");
    assert!(program.terminate().success());
    assert!(complaint(&question).contains("tessera up"));
}

/// The first of three ports in a row that nobody listens on.
fn free_ports() -> u16 {
    let bind = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).ok();
    let mut tries = std::iter::repeat_with(|| bind(0).map(|listener| listener.local_addr().unwrap().port()));
    let free = |port: &u16| *port < 65_000 && bind(port + 1).is_some() && bind(port + 2).is_some();
    tries.by_ref().take(1000).flatten().find(free).unwrap()
}

#[test]
fn a_reader_who_leaves_is_no_error() {
    let model = family_dir("mistral");
    let mut command = std::process::Command::new(EXECUTABLE);
    let arguments = ["ask", "What is shown?", "--max-tokens", "64", "--model", model.to_str().unwrap()];
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
}

#[test]
fn inspect_writes_the_pixels_that_the_reference_makes() {
    let model = family_dir("mistral");
    let (first, second) = (path("tiny/pictures/two_images_0.png"), path("tiny/pictures/two_images_1.png"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pixels.safetensors");
    let arguments = ["inspect", "--json", "--model", model.to_str().unwrap(), "--pixels", file.to_str().unwrap()];
    let found: Value = serde_json::from_slice(&output(&[&arguments[..], &[&first, &second]].concat())).unwrap();
    let golden = Golden::load("mistral", "two_images");
    let total: u64 = [0, 1].map(|n: usize| found[n]["image_tokens"].as_u64().unwrap()).iter().sum();
    assert_eq!(total, golden.image_tokens[0] as u64);

    let bytes = std::fs::read(&file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let expected = pixels(56, "two_images").torchvision;
    let values = tensors.tensor("pixel_values").unwrap();
    assert_eq!((values.shape(), values.data()), (expected.shape(), &expected.data()[..]));
    let sizes = tensors.tensor("image_sizes").unwrap();
    let expected: Vec<u8> = [90_i64, 61, 60, 200].iter().flat_map(|side| side.to_le_bytes()).collect();
    assert_eq!((sizes.shape(), sizes.data()), (&[2, 2][..], &expected[..]));
}

#[test]
fn what_goes_wrong_is_one_line_that_says_what_to_do() {
    let (photo, text) = (path("photos/landscape.jpg"), path("sizes_336.csv"));
    let cases: [(&[&str], &[&str]); 12] = [
        (&["ask", "--image", "/nowhere.jpg", "Q"], &["cannot read /nowhere.jpg"]),
        (&["ask", "--image", &text, "Q"], &["messages[0].parts[0].image", "none of JPEG"]),
        (&["ask", "--model", "/nowhere", "--image", &photo, "Q"], &["/nowhere is not a folder", "--model"]),
        (&["ask", "--server", "http://127.0.0.1:9", "Q"], &["no gateway at http://127.0.0.1:9", "tessera up"]),
        (&["ask", "--device", "cuda:63", "Q"], &["cuda:63"]),
        (&["ask", "--device", "cpu", "--compute", "bf16", "Q"], &["CPU does not compute in bf16", "f32 or f16"]),
        (&["ask", "--top-p", "7", "Q"], &["settings.top_p", "7"]),
        (&["ask", "--samples", "2", "Q"], &["settings.samples", "temperature"]),
        (&["ask", "--json-schema", "/nowhere.json", "Q"], &["cannot read /nowhere.json"]),
        (
            &["ask", "--image", "http://127.0.0.1:9/a.png", "Q"],
            &["messages[0].parts[0].image.url", "no public address"],
        ),
        (&["ask", "--image", "https://nobody.invalid/a.png", "Q"], &["image.url", "cannot be reached"]),
        (&["inspect", &text], &["sizes_336.csv", "none of JPEG"]),
    ];
    for (arguments, expected) in cases {
        let said = complaint(arguments);
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{arguments:?}: {said}");
        for part in expected {
            assert!(errors[0].contains(part), "{arguments:?}: {part:?} is not in {}", errors[0]);
        }
    }
}
