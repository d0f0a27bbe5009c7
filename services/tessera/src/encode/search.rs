//! The images that the user named: files, folders, patterns, and paths from standard input.

use std::fs::File;
use std::io::{BufRead, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, PatternError};
use tessera_image::{ImageError, Limits};
use tokio::sync::mpsc::Sender;
use walkdir::{DirEntry, WalkDir};

use super::line::{Failure, ImageFile, Stamp};

/// Stands for paths from standard input.
const STANDARD_INPUT: &str = "-";
/// Names of image files end so.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];
/// Enough of a file to tell its format.
const HEAD: u64 = 16;
/// Longest line of standard input: the longest path of any system, and some.
const MAX_LINE: u64 = 32 << 10;

/// A file to encode, or what is wrong with what the user named.
pub(super) type Found = Result<ImageFile, Failure>;

/// Starts to search on a thread of its own. It ends when everything is found, when nobody listens, or with the program:
/// whoever types paths may never end.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn start(named: Vec<PathBuf>, found: Sender<Found>) -> std::io::Result<()> {
    let search = move || {
        let mut tell = |one: Found| match found.blocking_send(one) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        // Broken off when nobody listens: nobody wants to know that either.
        let _ = search(&named, std::io::stdin().lock(), &mut tell);
    };
    std::thread::Builder::new().name("search".into()).spawn(search).map(drop)
}

/// Tells of every image, one after the other, as long as it is told to continue.
fn search(
    named: &[PathBuf],
    mut input: impl BufRead,
    tell: &mut impl FnMut(Found) -> ControlFlow<()>,
) -> ControlFlow<()> {
    for path in named {
        if path.as_os_str() == STANDARD_INPUT {
            lines(&mut input, tell)?;
        } else if let Some(pattern) = pattern(path) {
            matching(path, pattern, tell)?;
        } else {
            existing(path, tell)?;
        }
    }
    ControlFlow::Continue(())
}

/// The paths of standard input, one a line.
fn lines(input: &mut impl BufRead, tell: &mut impl FnMut(Found) -> ControlFlow<()>) -> ControlFlow<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let failure = match input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) => return ControlFlow::Continue(()),
            Ok(length) if length as u64 == MAX_LINE && line.last() != Some(&b'\n') => {
                format!("has a line of more than {MAX_LINE} bytes")
            }
            Ok(_) => match std::str::from_utf8(&line) {
                Ok(text) => {
                    let path = text.trim_end_matches(['\r', '\n']);
                    if !path.is_empty() {
                        existing(Path::new(path), tell)?;
                    }
                    continue;
                }
                Err(_) => {
                    tell(Err(not_text(Path::new(String::from_utf8_lossy(&line).trim_end()))))?;
                    continue;
                }
            },
            Err(error) => format!("cannot be read: {error}"),
        };
        // Nothing behind it can be told apart.
        return tell(Err(Failure::new(Path::new(STANDARD_INPUT), format!("standard input {failure}"), "UNREADABLE")));
    }
}

/// A file, or all images in a folder.
fn existing(path: &Path, tell: &mut impl FnMut(Found) -> ControlFlow<()>) -> ControlFlow<()> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => folder(path, tell),
        Ok(metadata) if metadata.is_file() => tell(file(path, Stamp::of(&metadata))),
        Ok(_) => tell(Err(Failure::new(path, "is neither a file nor a folder".into(), "UNREADABLE"))),
        Err(error) => tell(Err(Failure::unreadable(path, &error))),
    }
}

fn folder(path: &Path, tell: &mut impl FnMut(Found) -> ControlFlow<()>) -> ControlFlow<()> {
    let hidden = |entry: &DirEntry| entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".");
    let entries = WalkDir::new(path).follow_links(true).sort_by_file_name().into_iter();
    for entry in entries.filter_entry(|entry| !hidden(entry)) {
        match entry {
            Ok(entry) if entry.file_type().is_file() => image(entry.path(), tell)?,
            Ok(_) => {}
            Err(error) => {
                let path = error.path().unwrap_or(path);
                tell(Err(Failure::new(path, format!("cannot be read: {error}"), "UNREADABLE")))?;
            }
        }
    }
    ControlFlow::Continue(())
}

/// The path as a pattern, where it is one and no file is called so.
fn pattern(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| text.contains(['*', '?', '[']) && std::fs::symlink_metadata(path).is_err())
}

/// The images among the files that match a pattern.
fn matching(path: &Path, pattern: &str, tell: &mut impl FnMut(Found) -> ControlFlow<()>) -> ControlFlow<()> {
    let options =
        MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
    let matches = match glob::glob_with(pattern, options) {
        Ok(matches) => matches,
        Err(PatternError { pos, msg }) => {
            return tell(Err(Failure::new(path, format!("is no pattern: {msg} at {pos}"), "PATTERN_INVALID")));
        }
    };
    let mut any = false;
    for entry in matches {
        match entry {
            Ok(entry) if entry.is_file() => image(&entry, &mut |found| {
                any = true;
                tell(found)
            })?,
            Ok(_) => {}
            Err(error) => tell(Err(Failure::unreadable(error.path(), error.error())))?,
        }
    }
    if any { ControlFlow::Continue(()) } else { tell(Err(Failure::new(path, "matches no image".into(), "NO_MATCH"))) }
}

/// A file, if it is an image.
fn image(path: &Path, tell: &mut impl FnMut(Found) -> ControlFlow<()>) -> ControlFlow<()> {
    match is_image(path).and_then(|is_image| if is_image { std::fs::metadata(path).map(Some) } else { Ok(None) }) {
        Ok(Some(metadata)) => tell(file(path, Stamp::of(&metadata))),
        Ok(None) => ControlFlow::Continue(()),
        Err(error) => tell(Err(Failure::unreadable(path, &error))),
    }
}

fn file(path: &Path, stamp: Stamp) -> Found {
    let path = path.to_str().ok_or_else(|| not_text(path))?.to_owned();
    Ok(ImageFile { path, stamp })
}

fn not_text(path: &Path) -> Failure {
    Failure::new(path, "is called by what is no text, which cannot be written down: rename it".into(), "PATH_NOT_TEXT")
}

/// By its name, else by how it begins.
fn is_image(path: &Path) -> std::io::Result<bool> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    if extension.is_some_and(|extension| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension))) {
        return Ok(true);
    }
    let mut head = Vec::new();
    File::open(path)?.take(HEAD).read_to_end(&mut head)?;
    let probed = tessera_image::probe(&head, &Limits::default());
    Ok(!matches!(probed, Err(ImageError::Empty | ImageError::UnknownFormat)))
}

#[cfg(test)]
mod tests;
