//! Where the workers of a pool are: what the settings list, looked up again and again.

mod entry;
mod look;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use entry::Entry;
use entry::Scheme;
pub(super) use look::{Look, System};

/// A file that changed is read again after this: only what stays the same is taken, so that nobody sees half of it.
const SETTLING: Duration = Duration::from_millis(100);

/// The entries of one pool, and what was found under each last.
#[derive(Debug)]
pub(super) struct Discovery<L> {
    pool: &'static str,
    entries: Vec<Listed>,
    /// Workers at most.
    limit: usize,
    /// How many there were beyond that when somebody was told last.
    beyond: usize,
    look: L,
}

#[derive(Debug)]
struct Listed {
    entry: Entry,
    urls: Vec<String>,
    /// What is wrong with it now.
    problem: Option<String>,
    /// What the file of the entry held.
    text: Option<String>,
}

impl<L: Look> Discovery<L> {
    /// Starts with entries of which those that need no look are known.
    pub(super) fn new(pool: &'static str, entries: Vec<Entry>, limit: usize, look: L) -> Self {
        let listed = |entry: Entry| {
            let urls = if let Entry::Worker(url) = &entry { vec![url.clone()] } else { Vec::new() };
            Listed { entry, urls, problem: None, text: None }
        };
        Self { pool, entries: entries.into_iter().map(listed).collect(), limit, beyond: 0, look }
    }

    /// Whether nothing will ever change.
    pub(super) fn is_fixed(&self) -> bool {
        self.entries.iter().all(|listed| matches!(listed.entry, Entry::Worker(_)))
    }

    /// Looks at every entry. One that cannot be looked up keeps what it had, and is told of once.
    pub(super) async fn refresh(&mut self) {
        for listed in &mut self.entries {
            let found = match &listed.entry {
                Entry::Worker(_) => continue,
                Entry::Addresses { scheme, name, port } => all(*scheme, self.look.addresses(name, *port).await),
                Entry::Services { scheme, name } => all(*scheme, self.look.services(name).await),
                Entry::File { path } => match self.look.file(path).await {
                    Ok(text) if listed.text.as_ref() == Some(&text) => Ok(listed.urls.clone()),
                    Ok(text) => {
                        // The first time it was there before the gateway.
                        if listed.text.is_some() {
                            tokio::time::sleep(SETTLING).await;
                            if self.look.file(path).await.as_ref() != Ok(&text) {
                                continue;
                            }
                        }
                        let urls = entry::urls(&text);
                        listed.text = urls.is_ok().then_some(text);
                        urls
                    }
                    Err(error) => Err(error),
                },
            };
            let problem = match found {
                Ok(urls) => {
                    listed.urls = urls;
                    None
                }
                Err(problem) => Some(problem),
            };
            tell(self.pool, &listed.entry, listed.problem.as_deref(), problem.as_deref());
            listed.problem = problem;
        }
    }

    /// The URLs that are listed now: each once, in the order of the settings, no more than the limit.
    pub(super) fn urls(&mut self) -> Vec<Arc<str>> {
        let mut seen = BTreeSet::new();
        let all = self.entries.iter().flat_map(|listed| &listed.urls).filter(|url| seen.insert(url.as_str()));
        let mut urls: Vec<Arc<str>> = all.map(|url| Arc::from(url.as_str())).collect();
        let beyond = urls.len().saturating_sub(self.limit);
        if beyond > 0 && beyond != self.beyond {
            let (pool, limit) = (self.pool, self.limit);
            tracing::warn!(pool, beyond, limit, "more workers are listed than `discovery.members` allows");
        }
        self.beyond = beyond;
        urls.truncate(self.limit);
        urls
    }
}

/// The URLs of workers that were found.
fn all(scheme: Scheme, found: Result<Vec<String>, String>) -> Result<Vec<String>, String> {
    Ok(found?.iter().map(|authority| scheme.url(authority)).collect())
}

/// Logs that an entry can no longer be looked up, or can again.
fn tell(pool: &str, entry: &Entry, before: Option<&str>, now: Option<&str>) {
    match (before, now) {
        (None, Some(problem)) => {
            tracing::warn!(pool, %entry, problem, "workers cannot be looked up, those that are known stay");
        }
        (Some(_), None) => tracing::info!(pool, %entry, "workers are looked up again"),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
