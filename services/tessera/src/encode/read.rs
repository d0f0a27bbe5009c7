//! Reading the files that are sent.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use tessera_image::{ImageError, Limits};

use super::line::{Failure, ImageFile, Stamp};

/// Reads a whole file, and notes what it is like at that moment.
pub(super) fn read(file: ImageFile) -> Result<(ImageFile, Bytes), Failure> {
    let path = Path::new(&file.path);
    let (stamp, bytes) = contents(path).map_err(|error| Failure::unreadable(path, &error))?;
    check(&bytes).map_err(|error| Failure::new(path, error.to_string(), error.reason()))?;
    Ok((ImageFile { stamp, ..file }, bytes))
}

/// As much of a file as is needed to tell that it is too long.
fn contents(path: &Path) -> std::io::Result<(Stamp, Bytes)> {
    let file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    let most = Limits::default().bytes as u64 + 1;
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.size.min(most)).unwrap_or_default());
    file.take(most).read_to_end(&mut bytes)?;
    Ok((stamp, bytes.into()))
}

/// A message that is too long would end the whole stream.
fn check(bytes: &Bytes) -> Result<(), ImageError> {
    let limit = Limits::default().bytes;
    if bytes.len() > limit { Err(ImageError::TooManyBytes { bytes: bytes.len(), limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_long_is_refused_before_it_is_sent() {
        let long = tempfile::NamedTempFile::new().unwrap();
        let file = |stamp| ImageFile { path: long.path().to_str().unwrap().into(), stamp };
        let before = Stamp { size: 1, modified_unix_nanoseconds: 1 };
        std::fs::write(long.path(), b"abc").unwrap();
        let (read_file, bytes) = read(file(before)).unwrap();
        assert_eq!((read_file.stamp.size, &bytes[..]), (3, &b"abc"[..]), "as it is when it is read");
        long.as_file().set_len(Limits::default().bytes as u64 + 7).unwrap();
        let failure = read(file(before)).unwrap_err();
        assert_eq!(failure.reason, "IMAGE_TOO_MANY_BYTES");
        drop(long);
        assert_eq!(read(ImageFile { path: "/nowhere".into(), stamp: before }).unwrap_err().reason, "UNREADABLE");
    }
}
