//! `tessera ask`: one question; an answer that is streamed, or several.

use tessera_api::gateway::{Event, GenerateRequest, Message, Part, Role};

use crate::answers::Answers;
use crate::cli::Ask;
use crate::cluster::{Addresses, Cluster};
use crate::model::{EMBEDDED_NOTE, Model};
use crate::output::Waiting;
use crate::{client, files, output};

/// Asks, and shows the answer.
///
/// # Errors
/// What went wrong, in one line that says what to do.
pub(crate) async fn run(ask: Ask) -> anyhow::Result<()> {
    let request = request(&ask)?;
    if let Some(url) = &ask.server {
        return show(url, request, ask.json).await;
    }
    let model = Model::open(ask.model.as_deref())?;
    if model.is_embedded() {
        output::note(EMBEDDED_NOTE);
    }
    let cluster = Cluster::start(model.dir(), ask.compute, Addresses::any()).await?;
    let url = format!("http://{}", cluster.addresses.gateway);
    let shown = show(&url, request, ask.json).await;
    cluster.stop().await?;
    shown
}

fn request(ask: &Ask) -> anyhow::Result<GenerateRequest> {
    let mut parts = Vec::with_capacity(ask.image.len() + 1);
    for path in &ask.image {
        parts.push(Part::Image(files::read(path)?.into()));
    }
    parts.push(Part::Text(ask.prompt.clone()));
    let system = ask.system.iter().map(|text| Message { role: Role::System, parts: vec![Part::Text(text.clone())] });
    let messages = system.chain([Message { role: Role::User, parts }]).collect();
    Ok(GenerateRequest { request_id: String::new(), messages, settings: ask.settings.settings()? })
}

/// Streams the one answer as text, or shows what came once all of it is there: several answers, or JSON.
async fn show(url: &str, request: GenerateRequest, json: bool) -> anyhow::Result<()> {
    let waiting = Waiting::new("looking and thinking");
    let streams = !json && request.settings.samples.is_none_or(|samples| samples.get() == 1);
    let mut answers = Answers::default();
    let mut events = awaited(&waiting, client::generate(url, request)).await?;
    while let Some(event) = awaited(&waiting, events.next()).await? {
        if let Event::Delta { sample: 0, text, .. } = &event
            && streams
        {
            waiting.end();
            output::text(text)?;
        }
        answers.take(event);
    }
    waiting.end();
    anyhow::ensure!(answers.are_whole(), "the gateway ended the answer too early; ask again");
    let last = match (json, streams) {
        (true, _) => format!("{:#}\n", answers.json()),
        // A checkpoint may make more than was asked for.
        (false, true) => format!("\n{}{}", answers.table(), answers.headed(1)),
        (false, false) => answers.headed(0),
    };
    Ok(output::text(&last)?)
}

/// Waits for something while a spinner turns.
async fn awaited<T>(waiting: &Waiting, future: impl Future<Output = T>) -> T {
    tokio::pin!(future);
    loop {
        tokio::select! {
            biased;
            done = &mut future => return done,
            () = waiting.turn() => {}
        }
    }
}
