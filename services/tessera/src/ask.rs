//! `tessera ask`: one question; an answer that is streamed, or several.

use anyhow::ensure;
use tessera_api::Error;
use tessera_api::gateway::{Event, GenerateRequest, ImageSource, ImageUrl, Message, Part, Role};
use tessera_gateway::{Scheme, UrlSettings};

use crate::answers::Answers;
use crate::cli::{Ask, Picture};
use crate::client::Access;
use crate::cluster::{Addresses, Cluster, ClusterSettings};
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
        return show(&Access::to(url, &ask.access)?, request, ask.json).await;
    }
    ensure!(
        ask.store.is_some() || !ask.pictures.has_handles(),
        "--embedding names an image that is stored: say where, with --store STORE, or with --server URL at a gateway"
    );
    let model = Model::open(ask.model.as_deref())?;
    if model.is_embedded() {
        output::note(EMBEDDED_NOTE);
    }
    let settings = ClusterSettings { store: ask.place.settings(ask.store.as_ref()), urls: urls(&ask)? };
    let cluster = Cluster::start(model.dir(), &ask.machine, settings, Addresses::any()).await?;
    let gateway = Access::local(format!("http://{}", cluster.addresses.gateway));
    let shown = show(&gateway, request, ask.json).await;
    cluster.stop().await?;
    shown
}

/// What the gateway in this process may fetch: whoever names a URL on the command line wants it fetched, from wherever on
/// the public network it is.
fn urls(ask: &Ask) -> anyhow::Result<UrlSettings> {
    let mut settings = UrlSettings::default();
    for url in ask.pictures.urls().map(ImageUrl::as_url) {
        if !settings.enabled {
            settings.enabled = true;
            settings.allow.push("*".parse()?);
        }
        if let Some(port) = url.port() {
            settings.allow.push(format!("*:{port}").parse()?);
        }
        if url.scheme() == "http" && !settings.schemes.contains(&Scheme::Http) {
            settings.schemes.push(Scheme::Http);
        }
    }
    Ok(settings)
}

fn request(ask: &Ask) -> anyhow::Result<GenerateRequest> {
    let mut parts = Vec::with_capacity(ask.pictures.0.len() + 1);
    for picture in &ask.pictures.0 {
        parts.push(Part::Image(match picture {
            Picture::File(path) => ImageSource::File(files::read(path)?.into()),
            Picture::Stored(key) => ImageSource::Stored(*key),
            Picture::Url(url) => ImageSource::Url(url.clone()),
        }));
    }
    parts.push(Part::Text(ask.prompt.clone()));
    let system = ask.system.iter().map(|text| Message { role: Role::System, parts: vec![Part::Text(text.clone())] });
    let messages = system.chain([Message { role: Role::User, parts }]).collect();
    Ok(GenerateRequest { request_id: String::new(), messages, settings: ask.settings.settings()? })
}

/// Streams the one answer as text, or shows what came once all of it is there: several answers, or JSON.
async fn show(gateway: &Access, request: GenerateRequest, json: bool) -> anyhow::Result<()> {
    let waiting = Waiting::new("looking and thinking");
    let streams = !json && request.settings.samples.is_none_or(|samples| samples.get() == 1);
    let mut answers = Answers::default();
    let mut events = awaited(&waiting, client::generate(gateway, request)).await.map_err(explained)?;
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
    ensure!(answers.are_whole(), "the gateway ended the answer too early; ask again");
    let last = match (json, streams) {
        (true, _) => format!("{:#}\n", answers.json()),
        // A checkpoint may make more than was asked for.
        (false, true) => format!("\n{}{}", answers.table(), answers.headed(1)),
        (false, false) => answers.headed(0),
    };
    Ok(output::text(&last)?)
}

/// Says what to do about a handle of which nothing is stored.
fn explained(mut error: Error) -> Error {
    if error.reason == "EMBEDDING_NOT_FOUND"
        && let Some((_, key)) = error.metadata.iter().find(|(name, _)| name == "key")
    {
        error.message = format!(
            "image {key} is not stored there (any more): encode it with `tessera encode` again, or send it with --image"
        );
    }
    error
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
