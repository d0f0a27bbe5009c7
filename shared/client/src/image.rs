//! How a question names its images.

use bytes::Bytes;
use tessera_api::gateway::{ImageSource, ImageUrl};
use tessera_embedding::ImageKey;

/// An image of a question: the bytes of a file (JPEG, PNG, WebP, GIF, BMP, TIFF), the handle of one that was encoded before,
/// or where the gateway finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub(crate) source: ImageSource,
    /// What to send where the handle stands for nothing any more.
    pub(crate) otherwise: Option<ImageSource>,
}

impl Image {
    /// The file itself.
    pub fn file(bytes: impl Into<Bytes>) -> Self {
        ImageSource::File(bytes.into()).into()
    }

    /// One that was encoded before. A question about a handle that is gone fails with `NotFound` (`EMBEDDING_NOT_FOUND`).
    pub fn stored(handle: ImageKey) -> Self {
        ImageSource::Stored(handle).into()
    }

    /// One that the gateway fetches, if it is set up to: `Image::url("https://…".parse()?)`.
    pub fn url(url: ImageUrl) -> Self {
        ImageSource::Url(url).into()
    }

    /// One that was encoded before, and what is sent in place of its handle where that is gone: its file, or its URL.
    pub fn stored_or(handle: ImageKey, otherwise: impl Into<Self>) -> Self {
        Self { source: ImageSource::Stored(handle), otherwise: Some(otherwise.into().source) }
    }
}

impl From<ImageSource> for Image {
    fn from(source: ImageSource) -> Self {
        Self { source, otherwise: None }
    }
}

impl From<Bytes> for Image {
    fn from(file: Bytes) -> Self {
        Self::file(file)
    }
}

impl From<Vec<u8>> for Image {
    fn from(file: Vec<u8>) -> Self {
        Self::file(file)
    }
}

impl From<ImageKey> for Image {
    fn from(handle: ImageKey) -> Self {
        Self::stored(handle)
    }
}

impl From<ImageUrl> for Image {
    fn from(url: ImageUrl) -> Self {
        Self::url(url)
    }
}
