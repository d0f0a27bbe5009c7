//! Where an image file is, as a client names it.

use std::fmt;
use std::str::FromStr;

use url::Url;

/// Longest URL of an image; signed ones have up to a few thousand bytes.
pub const MAX_URL_BYTES: usize = 8192;

/// An `http` or `https` URL of a host, without credentials. What stands behind its host may be a secret (signed URLs
/// are), so it is shown without that.
#[derive(Clone, PartialEq, Eq)]
pub struct ImageUrl(Url);

/// Why a text is no [`ImageUrl`]. Never repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageUrlError {
    /// It is longer than may be.
    #[error("the URL has {0} bytes, the limit is {MAX_URL_BYTES}")]
    TooLong(usize),
    /// It does not parse.
    #[error("this is no URL ({0}): use https://HOST/PATH")]
    Malformed(url::ParseError),
    /// It is of another kind.
    #[error("the URL is neither http:// nor https://")]
    Scheme,
    /// It names a user.
    #[error("the URL holds the name or password of a user: leave them out")]
    Credentials,
}

impl ImageUrl {
    /// The URL as it is asked for: host and port as they are understood, without a fragment.
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// Reads where a redirect leads, from here.
    ///
    /// # Errors
    /// Those of any URL.
    pub fn join(&self, location: &str) -> Result<Self, ImageUrlError> {
        if location.len() > MAX_URL_BYTES {
            return Err(ImageUrlError::TooLong(location.len()));
        }
        Self::check(self.0.join(location).map_err(ImageUrlError::Malformed)?)
    }

    fn check(mut url: Url) -> Result<Self, ImageUrlError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ImageUrlError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ImageUrlError::Credentials);
        }
        url.set_fragment(None);
        Ok(Self(url))
    }
}

impl FromStr for ImageUrl {
    type Err = ImageUrlError;

    fn from_str(text: &str) -> Result<Self, ImageUrlError> {
        if text.len() > MAX_URL_BYTES {
            return Err(ImageUrlError::TooLong(text.len()));
        }
        Self::check(Url::parse(text).map_err(ImageUrlError::Malformed)?)
    }
}

/// Scheme, host and port: all that may be shown.
impl fmt::Display for ImageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.origin().ascii_serialization())
    }
}

impl fmt::Debug for ImageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageUrl({self}/…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_an_image_is_one_of_the_web_without_credentials() {
        let malformed = |error| Err(ImageUrlError::Malformed(error));
        for (text, expected) in [
            ("", malformed(url::ParseError::RelativeUrlWithoutBase)),
            ("a.test/b.png", malformed(url::ParseError::RelativeUrlWithoutBase)),
            ("https://", malformed(url::ParseError::EmptyHost)),
            ("https://a.test:99999/", malformed(url::ParseError::InvalidPort)),
            ("file:///etc/passwd", Err(ImageUrlError::Scheme)),
            ("gopher://a.test/", Err(ImageUrlError::Scheme)),
            ("data:image/png;base64,AAAA", Err(ImageUrlError::Scheme)),
            ("https://user@a.test/", Err(ImageUrlError::Credentials)),
            ("https://:secret@a.test/", Err(ImageUrlError::Credentials)),
            ("HTTPS://A.test:443/b?c#d", Ok("https://a.test/b?c")),
            ("http://0x7f.1/", Ok("http://127.0.0.1/")),
            ("http://[::ffff:127.0.0.1]:80/", Ok("http://[::ffff:7f00:1]/")),
        ] {
            let read = text.parse::<ImageUrl>().map(|url| url.as_url().to_string());
            assert_eq!(read, expected.map(str::to_owned), "{text}");
        }
        let long = format!("https://a.test/{}", "b".repeat(MAX_URL_BYTES));
        assert_eq!(long.parse::<ImageUrl>(), Err(ImageUrlError::TooLong(MAX_URL_BYTES + 15)));
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        let url: ImageUrl = "https://a.test:8443/b/c.png?signature=secret".parse().unwrap();
        assert_eq!(
            (url.to_string().as_str(), format!("{url:?}").as_str()),
            ("https://a.test:8443", "ImageUrl(https://a.test:8443/…)")
        );
    }

    #[test]
    fn a_redirect_is_read_from_where_it_was_met() {
        let url: ImageUrl = "https://a.test/b/c".parse().unwrap();
        let to = |location: &str| url.join(location).map(|url| url.as_url().to_string());
        assert_eq!(to("d").unwrap(), "https://a.test/b/d");
        assert_eq!(to("//e.test/").unwrap(), "https://e.test/");
        assert_eq!(to("http://user:password@e.test/").unwrap_err(), ImageUrlError::Credentials);
        assert_eq!(to("file:///etc/passwd").unwrap_err(), ImageUrlError::Scheme);
    }
}
