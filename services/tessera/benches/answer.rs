//! How long a user waits for `tessera ask` with the embedded model: from the start of the program to the first text on
//! its standard output, and to its end. Run alone, on a quiet machine: `cargo bench -p tessera`.
//! Fails when the median wait is too long.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench ends at the first error and prints its figures")]

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use tessera_testkit::{DEMO_MAX_TOKENS, DemoQuestion, demo_questions};

const EXECUTABLE: &str = env!("CARGO_BIN_EXE_tessera");
/// Threads that compute, whatever the machine has.
const THREADS: usize = 2;
/// Questions that are timed, each of them once, after one that is not.
const ROUNDS: usize = 10;
/// The median waits must be shorter.
const FIRST_LIMIT: Duration = Duration::from_secs(1);
const WHOLE_LIMIT: Duration = Duration::from_secs(3);

/// Asks in a new process: the time to the first text, and to the end of the process.
fn ask(question: &DemoQuestion) -> (Duration, Duration) {
    let (asked, _) = question.asked();
    let mut command = Command::new(EXECUTABLE);
    command.args(["ask", &asked.question, "--max-tokens", &DEMO_MAX_TOKENS.to_string()]);
    for image in question.images() {
        command.arg("--image").arg(image);
    }
    command.env("RAYON_NUM_THREADS", THREADS.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());

    let start = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut answer = vec![0];
    let begun = stdout.read_exact(&mut answer);
    let first = start.elapsed();
    stdout.read_to_end(&mut answer).unwrap();
    let ended = child.wait_with_output().unwrap();
    let whole = start.elapsed();

    assert!(begun.is_ok() && ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(answer, format!("{}\n", question.reference), "{}", asked.question);
    (first, whole)
}

/// Prints the fastest, the median and the slowest; returns the median.
fn show(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let median = (times[(ROUNDS - 1) / 2] + times[ROUNDS / 2]) / 2;
    let [fastest, middle, slowest] = [times[0], median, times[ROUNDS - 1]].map(|time| time.as_secs_f64() * 1e3);
    println!("{what:45} {fastest:9.1} {middle:9.1} {slowest:9.1} ms");
    median
}

fn main() -> ExitCode {
    let cores = std::thread::available_parallelism().unwrap();
    let bytes = std::fs::metadata(EXECUTABLE).unwrap().len();
    println!("the program has {:.1} MB; {THREADS} threads compute, of {cores} cores", bytes as f64 / 1e6);

    // The command line asks one question; the timed ones are spread over the sample's kinds.
    let questions: Vec<DemoQuestion> = demo_questions().into_iter().filter(|asked| asked.turns.len() == 1).collect();
    ask(&questions[0]);
    let timed = questions.iter().step_by(questions.len() / ROUNDS).take(ROUNDS);
    let (first, whole) = timed.map(ask).unzip();
    let first = show("start to first text", first);
    let whole = show("start to end", whole);
    if first < FIRST_LIMIT && whole < WHOLE_LIMIT {
        ExitCode::SUCCESS
    } else {
        println!("too slow: the limits are {FIRST_LIMIT:?} to the first text and {WHOLE_LIMIT:?} to the end");
        ExitCode::FAILURE
    }
}
