//! Who asks.

use std::path::PathBuf;
use std::time::Duration;

use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::{FileError, Files, Tasks, Watched};
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;

/// Time between two looks at a file.
const REFRESH: Duration = Duration::from_secs(10);

/// Says who asks, if there is a token. It is not shown.
#[derive(Clone, Debug)]
pub(crate) enum Bearer {
    /// There is none.
    Nobody,
    Known(AsciiMetadataValue),
    File(Watched<AsciiMetadataValue>),
}

impl Bearer {
    /// Whoever has this token.
    ///
    /// # Errors
    /// `TOKEN_MALFORMED`: what is not one word would be read as something else.
    pub(crate) fn of(token: &str) -> Result<Self> {
        value(token).map(Self::Known).map_err(|why| Error::new(ErrorKind::Unauthenticated, "TOKEN_MALFORMED", why))
    }

    /// Whoever has the token in this file, which is read again when it changes.
    ///
    /// # Errors
    /// When the file holds no token.
    pub(crate) fn from_file(path: PathBuf, tasks: &Tasks) -> Result<Self, FileError> {
        let files = Files { what: "the file of the token", paths: vec![path], refresh: REFRESH };
        let read = |contents: &[Vec<u8>]| {
            let text = contents.first().and_then(|bytes| std::str::from_utf8(bytes).ok());
            value(text.unwrap_or_default().trim()).map_err(str::to_owned)
        };
        Watched::start(files, read, tasks).map(Self::File)
    }

    /// Says it in a request.
    pub(crate) fn sign<T>(&self, request: &mut Request<T>) {
        let value = match self {
            Self::Nobody => return,
            Self::Known(value) => value.clone(),
            Self::File(value) => (*value.current()).clone(),
        };
        request.metadata_mut().insert("authorization", value);
    }
}

fn value(token: &str) -> Result<AsciiMetadataValue, &'static str> {
    let none = "the token is none: it must be one word of ASCII letters, digits and signs";
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(none);
    }
    let mut value = AsciiMetadataValue::try_from(format!("Bearer {token}")).map_err(|_| none)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(bearer: &Bearer) -> Request<()> {
        let mut request = Request::new(());
        bearer.sign(&mut request);
        request
    }

    #[test]
    fn a_token_is_sent_and_never_shown() {
        let bearer = Bearer::of("open-sesame").unwrap();
        let sent = signed(&bearer);
        assert_eq!(sent.metadata().get("authorization").unwrap(), "Bearer open-sesame");
        assert!(!format!("{bearer:?} {:?}", sent.metadata()).contains("sesame"));
        assert!(signed(&Bearer::Nobody).metadata().is_empty());
        for wrong in ["open sesame", "open\nsesame", "öpen", ""] {
            let error = Bearer::of(wrong).unwrap_err();
            assert_eq!(error.reason, "TOKEN_MALFORMED");
            assert!(!format!("{error:?}").contains("sesame"), "{error:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_in_a_file_may_change() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first\n").unwrap();
        let tasks = Tasks::default();
        let bearer = Bearer::from_file(file.path().to_owned(), &tasks).unwrap();
        let token = || signed(&bearer).metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
        assert_eq!(token(), "Bearer first");
        std::fs::write(file.path(), "second").unwrap();
        while token() != "Bearer second" {
            tokio::time::sleep(REFRESH).await;
        }
        std::fs::write(file.path(), "two words").unwrap();
        assert!(Bearer::from_file(file.path().to_owned(), &tasks).is_err());
    }
}
