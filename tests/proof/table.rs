//! Everything that was found as one page of Markdown: checks, times beside transformers', the device's ceilings and the bars, and
//! where the time goes. A missed bar is a result, a check that fails or a part without a result is an error.

use std::fmt::Write as _;
use std::fs;

use super::report::{Check, Figure, Report};
use super::{Task, ceilings, model, phases, pictures, services};

/// The parts that must have a result, in the order of the page.
const PARTS: [&str; 8] = ["device", "kernels", "parity", "shapes", "ceilings", "model", "services", "pictures"];
/// The part that a machine without torch leaves out.
const PEER: &str = "transformers";

/// What a time is held against.
enum Bar {
    /// Milliseconds on an H200.
    AtMost(f64),
    /// The share of a ceiling that must be reached, and the milliseconds that it allows.
    Share { least: f64, floor: Option<f64> },
}

/// Writes `RESULTS.md`; tells whether every check holds and every part has a result.
pub(crate) fn write(task: &Task) -> Result<bool, String> {
    let read = |part: &str| (part.to_owned(), Report::read(&task.results.join(format!("{part}.json"))));
    let reports: Vec<(String, Result<Report, String>)> = PARTS.into_iter().map(read).collect();
    let peer = task.results.join(format!("{PEER}.json")).exists().then(|| read(PEER));
    let all: Vec<&Report> = reports.iter().chain(&peer).filter_map(|(_, report)| report.as_ref().ok()).collect();

    let mut page = String::from("# Results on a GPU\n\nWritten by `deploy/cuda/prove.sh`.\n\n");
    let notes = fs::read_to_string(task.results.join("machine.txt")).unwrap_or_default();
    for line in notes.lines().chain(all.iter().flat_map(|report| report.machine.iter().map(String::as_str))) {
        writeln!(page, "* {line}").unwrap();
    }
    let checks: Vec<&Check> = all.iter().flat_map(|report| &report.checks).collect();
    let mut holds = checks.iter().all(|check| check.holds);
    for (part, report) in reports.iter().chain(&peer) {
        if let Err(error) = report {
            writeln!(page, "* **The part `{part}` has no result**: {error}; see `{part}.log`.").unwrap();
            holds = false;
        }
    }
    if peer.is_none() {
        writeln!(page, "* transformers was not measured: this machine's Python has no torch, or it ended early.")
            .unwrap();
    }
    let ours: Vec<&Figure> =
        reports.iter().filter_map(|(_, report)| report.as_ref().ok()).flat_map(|report| &report.figures).collect();
    let theirs =
        peer.as_ref().and_then(|(_, report)| report.as_ref().ok()).map_or(&[][..], |report| report.figures.as_slice());
    let theirs: Vec<&Figure> = theirs.iter().collect();
    write_times(&mut page, task, &ours, &theirs);
    write_shares(&mut page, &ours);
    write_phases(&mut page, &ours);
    write_checks(&mut page, &checks);
    if let Ok(profile) = fs::read_to_string(task.results.join("profile.txt")) {
        writeln!(page, "\n## Kernels\n\n```\n{}\n```", profile.trim_end()).unwrap();
    }
    let path = task.results.join("RESULTS.md");
    fs::write(&path, &page).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("{page}");
    Ok(holds)
}

fn median(figures: &[&Figure], name: &str) -> Option<f64> {
    figures.iter().find(|figure| figure.name == name).map(|figure| figure.median)
}

/// Milliseconds in which the device copies as many bytes as a decode step must read: the weights, and the keys and values of these
/// sequences behind so many positions, and half of those that are decoded meanwhile.
fn step_floor(task: &Task, ours: &[&Figure], sequences: usize, context: usize) -> Option<f64> {
    let shape = task.size.shape;
    let bytes = shape.read_bytes() + sequences * (context + model::STEPS / 2) * shape.position_bytes();
    median(ours, ceilings::COPY).map(|rate| bytes as f64 / rate / 1e9)
}

/// The times that have a bar: title, name, bar.
fn bars(task: &Task, ours: &[&Figure]) -> Vec<(String, &'static str, Bar)> {
    let size = task.size;
    let (shape, [few, many]) = (size.shape, size.tiles);
    let computed = |operations: f64| median(ours, ceilings::PRODUCT).map(|rate| operations / rate / 1e9);
    let [width, height] = size.large_picture;
    vec![
        (format!("decode, 1 sequence behind {} positions", size.context), model::DECODE_ONE, Bar::AtMost(4.2)),
        (
            format!("decode, {} sequences behind {} positions", size.batch, size.batch_context),
            model::DECODE_MANY,
            Bar::Share { least: 0.7, floor: step_floor(task, ours, size.batch, size.batch_context) },
        ),
        (
            format!("prefill: a {0} x {0} picture and {1} more", size.picture, model::QUESTION),
            model::PREFILL,
            Bar::AtMost(90.0),
        ),
        (format!("tower, {few} tiles"), model::TOWER_FEW, Bar::AtMost(6.0)),
        (
            format!("tower, {many} tiles"),
            model::TOWER_MANY,
            Bar::Share { least: 0.6, floor: computed(many as f64 * shape.tile_operations()) },
        ),
        (
            format!("first token, new {0} x {0} picture, all services", size.picture),
            services::FIRST,
            Bar::AtMost(130.0),
        ),
        ("first token, another question about it".into(), services::SECOND, Bar::AtMost(15.0)),
        (format!("decoding and cutting a {width} x {height} JPEG, one core"), pictures::CUT, Bar::AtMost(60.0)),
    ]
}

fn write_times(page: &mut String, task: &Task, ours: &[&Figure], theirs: &[&Figure]) {
    page.push_str(
        "\n## Times\n\nMilliseconds: least, median and most of the runs. The bars in milliseconds are for an H200.\n\n",
    );
    page.push_str("| what | ours | transformers | bar | |\n| --- | --- | --- | --- | --- |\n");
    for (title, name, bar) in bars(task, ours) {
        let spread = |figures: &[&Figure]| {
            let figure = figures.iter().find(|figure| figure.name == name)?;
            let Figure { least, median, most, runs, .. } = figure;
            Some(format!("{least:.2} **{median:.2}** {most:.2} ({runs})"))
        };
        let shown = |figures| spread(figures).unwrap_or_else(|| "not measured".into());
        let (bar, met) = held_against(&bar, median(ours, name));
        writeln!(page, "| {title} | {} | {} | {bar} | {met} |", shown(ours), shown(theirs)).unwrap();
    }
    let pair = median(ours, model::DECODE_ONE).zip(median(theirs, model::DECODE_ONE));
    let (found, met) = pair.map_or(("not measured".into(), ""), |(ours, theirs)| {
        (format!("{:.2} times as fast", theirs / ours), if theirs >= 4.0 * ours { "met" } else { "**missed**" })
    });
    writeln!(page, "| decode, 1 sequence, beside transformers | {found} | | at least 4 times | {met} |").unwrap();
    page.push_str("\nThe device's ceilings, measured in the same run:\n\n");
    for name in [ceilings::COPY, ceilings::PRODUCT] {
        let found = ours.iter().find(|figure| figure.name == name);
        let found = found.map_or("not measured".into(), |figure| format!("{:.2} {}", figure.median, figure.unit));
        writeln!(page, "* {name}: {found}").unwrap();
    }
    if let Some(floor) = step_floor(task, ours, 1, task.size.context) {
        let context = task.size.context;
        writeln!(page, "* so a decode step of 1 sequence behind {context} positions takes at least {floor:.2} ms")
            .unwrap();
    }
}

/// A bar in words, and whether it was met.
fn held_against(bar: &Bar, found: Option<f64>) -> (String, &'static str) {
    let verdict = |met: bool| if met { "met" } else { "**missed**" };
    match (bar, found) {
        (Bar::AtMost(limit), found) => (format!("{limit} ms"), found.map_or("", |found| verdict(found <= *limit))),
        (Bar::Share { least, floor: Some(floor) }, Some(found)) => {
            let share = floor / found;
            let text = format!(
                "{:.0} % of the ceiling, which is {floor:.2} ms; this is {:.0} %",
                least * 100.0,
                share * 100.0
            );
            (text, verdict(share >= *least))
        }
        (Bar::Share { least, .. }, _) => (format!("{:.0} % of the ceiling, which was not measured", least * 100.0), ""),
    }
}

/// Where the time goes, as far as differences of times tell.
fn write_shares(page: &mut String, ours: &[&Figure]) {
    page.push_str("\n## Where the time goes\n\nBy differences of medians, in milliseconds.\n\n");
    let mut line = |what: &str, found: Option<f64>| {
        let found = found.map_or("not measured".into(), |found| format!("{found:.2}"));
        writeln!(page, "* {what}: {found}").unwrap();
    };
    let of = |name| median(ours, name);
    let less = |name, without| Some(of(name)? - of(without)?);
    line("decode of 1: behind one block only", of(model::DECODE_ONE_SHORT));
    line("decode of 1: what the positions behind it add (attention)", less(model::DECODE_ONE, model::DECODE_ONE_SHORT));
    line(
        "decode of 1: what the scores and a look at each token add",
        less(model::DECODE_ONE, model::DECODE_ONE_HEADLESS),
    );
    line("decode of many: behind one block only", of(model::DECODE_MANY_SHORT));
    line("decode of many: what the positions behind them add", less(model::DECODE_MANY, model::DECODE_MANY_SHORT));
    line("decode of many: what drawing adds", less(model::DECODE_MANY_DRAWN, model::DECODE_MANY));
    line(
        "decode of many: what the largest scores add, which top-k, top-p and min-p take",
        less(model::DECODE_MANY_TOP, model::DECODE_MANY),
    );
    line("decode of many: what all scores would add", less(model::DECODE_MANY_SCORES, model::DECODE_MANY));
    line("prefill: half of the picture", of(model::PREFILL_HALF));
    line("prefill: the projector, which is not in the prefill's time", of(model::PROJECT));
    let rest = || Some(of(services::FIRST)? - of(model::PREFILL)? - of(model::PROJECT)? - of(model::TOWER_FEW)?);
    line("first token: all but tower, projector and prefill (pictures, wire, scheduler)", rest());
}

/// Where the time goes by the device's clock.
fn write_phases(page: &mut String, ours: &[&Figure]) {
    page.push_str(
        "\nBy events on the device, in milliseconds, of steps that are given to it piece by piece (else decode steps are replayed from a \
         recording, so these are longer where the device waits for the CPU):\n\n",
    );
    let columns =
        [("decode of 1", model::DECODE_ONE), ("decode of many", model::DECODE_MANY), ("prefill", model::PREFILL)];
    writeln!(page, "| | {} |\n|{}", columns.map(|(title, _)| title).join(" | "), " --- |".repeat(1 + columns.len()))
        .unwrap();
    for (index, (_, phase)) in phases::figures("").enumerate() {
        let cell = |(_, what): (&str, &str)| {
            let found = phases::figures(what).nth(index).and_then(|(name, _)| median(ours, &name));
            found.map_or("not measured".into(), |found| format!("{found:.3}"))
        };
        writeln!(page, "| {phase} | {} |", columns.map(cell).join(" | ")).unwrap();
    }
}

fn write_checks(page: &mut String, checks: &[&Check]) {
    page.push_str("\n## Checks\n\n| what | found | |\n| --- | --- | --- |\n");
    for Check { name, holds, found } in checks {
        writeln!(page, "| {name} | {found} | {} |", if *holds { "holds" } else { "**fails**" }).unwrap();
    }
}
