//! `tessera store`: encoded images that are stored, at a gateway or in a folder that no service has open.

mod folder;
mod show;

use std::process::ExitCode;

use anyhow::bail;
use tessera_client::Store;

use crate::access::{self, explained};
use crate::cli::{AccessFlags, List, Remove, Stat, StoreCommand, Verify, Where};
use crate::output::Progress;
use crate::{files, output};

use folder::Folder;
use show::About;

/// Does what is asked.
///
/// # Errors
/// What went wrong, in one line that says what to do.
pub(crate) async fn run(command: StoreCommand) -> anyhow::Result<ExitCode> {
    match command {
        StoreCommand::Stat(stat) => run_stat(stat).await,
        StoreCommand::Ls(list) => run_list(list).await,
        StoreCommand::Rm(remove) => run_remove(remove).await,
        StoreCommand::Verify(verify) => run_verify(verify).await,
    }
}

/// A store that is open.
enum Open {
    Gateway(Store),
    Folder(Folder),
}

impl Where {
    async fn open(&self, access: &AccessFlags) -> anyhow::Result<Open> {
        match (&self.server, &self.store) {
            (Some(url), _) => Ok(Open::Gateway(access::connect(url, access).await?.store())),
            (None, Some(path)) => Ok(Open::Folder(Folder::open(path).await?)),
            (None, None) => bail!("say which store: --server URL or --store FOLDER"),
        }
    }
}

async fn run_stat(stat: Stat) -> anyhow::Result<ExitCode> {
    let stored: Vec<Option<About>> = match stat.place.open(&stat.access).await? {
        Open::Gateway(store) => {
            let statuses = store.stat(&stat.handles).await.map_err(explained)?.into_iter();
            statuses.map(|status| status.stored.map(About::from)).collect()
        }
        Open::Folder(folder) => folder.stat(&stat.handles).await,
    };
    for (handle, about) in stat.handles.iter().zip(&stored) {
        let about = about.as_ref();
        let line = if stat.json { show::json(handle, about).to_string() } else { show::sentence(handle, about) };
        output::text(&(line + "\n"))?;
    }
    Ok(if stored.iter().all(Option::is_some) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run_list(list: List) -> anyhow::Result<ExitCode> {
    let folder = Folder::open(&list.store).await?;
    for page in folder.pages() {
        let line = |listed| if list.json { show::listed_json(listed).to_string() } else { show::listed(listed) };
        output::text(&page.iter().map(|listed| line(listed) + "\n").collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_remove(remove: Remove) -> anyhow::Result<ExitCode> {
    let deleted = match remove.place.open(&remove.access).await? {
        // Whose, the gateway knows.
        Open::Gateway(store) if remove.everything => store.delete_everything().await.map_err(explained)?,
        Open::Gateway(store) => {
            let mut deleted = store.delete(&remove.handles).await.map_err(explained)?;
            for path in &remove.image {
                deleted += store.delete_image(files::read(path)?).await.map_err(explained)?;
            }
            deleted
        }
        Open::Folder(folder) if remove.everything => folder.delete_all().await,
        Open::Folder(folder) => folder.delete(&remove.handles).await,
    };
    output::text(&format!("deleted {deleted}\n"))?;
    Ok(ExitCode::SUCCESS)
}

async fn run_verify(verify: Verify) -> anyhow::Result<ExitCode> {
    let folder = Folder::open(&verify.store).await?;
    let (bar, all) = (Progress::of_images(), folder.count());
    let words = |done: u64, bytes: u64| format!("{done} of {all}, {} MB", bytes / 1_000_000);
    let verified = folder
        .verify(|done, bytes| {
            bar.set(done, all);
            bar.say(|| words(done, bytes));
        })
        .await;
    drop(bar);
    let unread = all.saturating_sub(verified.checked);
    let unread_words = if unread > 0 { format!(", {unread} could not be read") } else { String::new() };
    output::text(&format!(
        "{} checked ({} bytes), {} broken and deleted{unread_words}\n",
        verified.checked, verified.bytes, verified.corrupt
    ))?;
    Ok(if verified.corrupt + unread > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
