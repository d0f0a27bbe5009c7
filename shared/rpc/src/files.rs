//! What is read from files that others replace while we run: certificates, keys, tokens.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::tasks::Tasks;

/// A longer file is none of those that are meant.
const FILE_BYTES: u64 = 4 << 20;

/// Files that say one thing together.
#[derive(Clone, Debug)]
pub struct Files {
    /// What they are, for people.
    pub what: &'static str,
    /// Each is read whole, in this order.
    pub paths: Vec<PathBuf>,
    /// Time between two looks at them.
    pub refresh: Duration,
}

/// Files that do not say what they should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be used: {why}")]
pub struct FileError {
    what: &'static str,
    why: String,
}

/// What files said when they were last read and made sense. Clones see the same.
pub struct Watched<T>(Arc<RwLock<Arc<T>>>);

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads files now, and whenever they have changed until the service stops. `read` is given their contents in the order
    /// of the paths. Files that change and make no sense leave what there was, and somebody is told.
    ///
    /// # Errors
    /// When they make no sense now.
    pub fn start(
        files: Files,
        read: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + 'static,
        tasks: &Tasks,
    ) -> Result<Self, FileError> {
        let contents = contents(&files.paths);
        let first = contents.as_ref().map_err(Clone::clone).and_then(|contents| read(contents));
        let first = first.map_err(|why| FileError { what: files.what, why })?;
        let watched = Self(Arc::new(RwLock::new(Arc::new(first))));
        let (this, spawning, stop) = (watched.clone(), tasks.clone(), tasks.stop().clone());
        tasks.spawn(async move {
            let _ = stop.run_until_cancelled(this.follow(files, contents, read, spawning)).await;
        });
        Ok(watched)
    }

    /// What there is now.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the files again and again; `last` is what they held when somebody was told of them.
    async fn follow(
        self,
        files: Files,
        mut last: Result<Vec<Vec<u8>>, String>,
        read: impl Fn(&[Vec<u8>]) -> Result<T, String>,
        tasks: Tasks,
    ) {
        let what = files.what;
        loop {
            tokio::time::sleep(files.refresh).await;
            let paths = files.paths.clone();
            let Ok(found) = tasks.spawn_blocking(move || contents(&paths)).await else { return };
            if found == last {
                continue;
            }
            match found.as_ref().map_err(Clone::clone).and_then(|contents| read(contents)) {
                Ok(new) => {
                    *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                    tracing::info!(what, "files have changed and were read again");
                }
                Err(problem) => {
                    tracing::error!(
                        what,
                        problem,
                        "files have changed and cannot be used: what they said before stays"
                    );
                }
            }
            last = found;
        }
    }
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Does not show what it may not.
impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

fn contents(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, String> {
    paths.iter().map(|path| content(path).map_err(|error| format!("{}: {error}", path.display()))).collect()
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("is longer than {FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(contents: &[Vec<u8>]) -> Result<u32, String> {
        String::from_utf8_lossy(&contents[0]).trim().parse().map_err(|_| "holds no number".to_owned())
    }

    fn files(path: &Path) -> Files {
        Files { what: "a number", paths: vec![path.to_owned()], refresh: Duration::from_millis(5) }
    }

    async fn until(watched: &Watched<u32>, expected: u32) {
        tokio::time::timeout(Duration::from_secs(20), async {
            while *watched.current() != expected {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn what_makes_no_sense_leaves_what_there_was() {
        let folder = tempfile::tempdir().unwrap();
        let (path, tasks) = (folder.path().join("number"), Tasks::default());
        let start = || Watched::start(files(&path), number, &tasks);
        assert!(start().unwrap_err().to_string().starts_with("a number cannot be used: "));
        std::fs::write(&path, "x").unwrap();
        assert_eq!(start().unwrap_err().to_string(), "a number cannot be used: holds no number");
        std::fs::write(&path, "1").unwrap();
        let watched = start().unwrap();
        std::fs::write(&path, "2").unwrap();
        until(&watched, 2).await;
        for broken in [Some("x"), None] {
            match broken {
                Some(text) => std::fs::write(&path, text).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert_eq!(*watched.current(), 2, "{broken:?}");
        }
        std::fs::write(&path, "3").unwrap();
        until(&watched, 3).await;
        assert!(tasks.finish(Duration::from_secs(20)).await, "nobody looks any more once the service stops");
    }

    #[test]
    fn a_file_has_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        std::fs::write(&path, vec![b'1'; (4 << 20) + 1]).unwrap();
        let error = contents(&[path]).unwrap_err();
        assert!(error.ends_with("is longer than 4194304 bytes"), "{error}");
    }
}
