//! `tessera ask`: one question; an answer that is streamed, or several.

use anyhow::ensure;
use tessera_client::{Client, Image};

use crate::access::explained;
use crate::cli::{Ask, Picture};
use crate::gateway::{self, Gateway};
use crate::output::Waiting;
use crate::{answers, files, output};

/// Asks, and shows the answer.
///
/// # Errors
/// What went wrong, in one line that says what to do.
pub(crate) async fn run(ask: Ask) -> anyhow::Result<()> {
    let asked = asked(&ask)?;
    ensure!(
        ask.services.server.is_some() || ask.services.store.is_some() || !ask.pictures.has_handles(),
        "--embedding names an image that is stored: say where, with --store STORE, or with --server URL at a gateway"
    );
    let gateway = Gateway::open(&ask.services, gateway::fetching(ask.pictures.urls())?).await?;
    let shown = show(&gateway.client, asked, ask.json).await;
    gateway.stop().await?;
    shown
}

fn asked(ask: &Ask) -> anyhow::Result<tessera_client::Ask> {
    let mut asked = tessera_client::Ask::new(&ask.prompt).settings(ask.settings.settings()?);
    for picture in &ask.pictures.0 {
        asked = asked.image(match picture {
            Picture::File(path) => Image::file(files::read(path)?),
            Picture::Stored(handle) => Image::stored(*handle),
            Picture::Url(url) => Image::url(url.clone()),
        });
    }
    Ok(match &ask.system {
        Some(text) => asked.system(text),
        None => asked,
    })
}

/// Streams the one answer as text, or shows what came once all of it is there: several answers, or JSON.
async fn show(gateway: &Client, asked: tessera_client::Ask, json: bool) -> anyhow::Result<()> {
    let waiting = Waiting::new("looking and thinking");
    let streams = !json && asked.samples() == 1;
    let mut answer = waiting.during(gateway.generate(asked)).await.map_err(explained)?;
    while streams && let Some(text) = waiting.during(answer.next_text()).await? {
        waiting.end();
        output::text(&text)?;
    }
    let reply = waiting.during(answer.finish()).await?;
    waiting.end();
    let last = match (json, streams) {
        (true, _) => format!("{:#}\n", answers::json(&reply)),
        // A checkpoint may make more than was asked for.
        (false, true) => format!("\n{}{}", answers::table(&reply), answers::headed(&reply, 1)),
        (false, false) => answers::headed(&reply, 0),
    };
    Ok(output::text(&last)?)
}
