//! Images by URL: the gateway fetches them itself, from places that its settings allow and from nowhere else.
//!
//! A client's URL is a wish to have the gateway speak to somebody, so it is not believed in anything: `pattern` says whether
//! the host may be asked, `address` whether an address may be spoken to, `exchange` speaks to exactly the addresses that
//! were found good, and a redirect is a new URL for which all of that is done again.

mod address;
mod exchange;
mod pattern;
mod settings;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::future::try_join_all;
use rustls::ClientConfig;
use tessera_api::gateway::{ImageSource, ImageUrl, Input, Part};
use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::Deadline;
use tokio::sync::Semaphore;
use url::Host;

pub use exchange::UrlRootsError;
pub use pattern::{ParsePatternError, Pattern};
pub use settings::{Scheme, UrlSettings};

use exchange::{Answer, Exchange, Room};

/// Addresses of a host that are tried at most.
const ADDRESSES: usize = 4;

/// Where names lead; scripted in tests.
pub(crate) trait Resolve: Send + Sync + 'static {
    /// The addresses of a name, with this port.
    fn addresses(&self, name: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;
}

/// What the system says.
#[derive(Debug)]
pub(crate) struct System;

impl Resolve for System {
    async fn addresses(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((name, port)).await?.collect())
    }
}

/// Fetches images for requests.
#[derive(Debug)]
pub(crate) struct Fetcher<R = System> {
    settings: UrlSettings,
    tls: Arc<ClientConfig>,
    resolver: R,
    /// Fetches in progress.
    at_once: Semaphore,
}

impl Fetcher {
    /// Makes what fetches by these settings; nothing where they say that nobody does.
    ///
    /// # Errors
    /// When there is no certificate to trust.
    pub(crate) fn start(settings: &UrlSettings) -> Result<Option<Self>, UrlRootsError> {
        settings.enabled.then(|| Self::new(settings.clone(), System)).transpose()
    }
}

impl<R: Resolve> Fetcher<R> {
    fn new(settings: UrlSettings, resolver: R) -> Result<Self, UrlRootsError> {
        let (tls, at_once) = (exchange::trusting(&settings.roots)?, Semaphore::new(settings.at_once));
        Ok(Self { settings, tls, resolver, at_once })
    }

    /// Puts the files in the place of the URLs of an input, which may have `most` bytes with them.
    ///
    /// # Errors
    /// Names the field of a URL that may not be fetched, or whose file could not be.
    pub(crate) async fn fetch(&self, input: &mut Input, most: u64, deadline: Deadline) -> Result<()> {
        let request_room = AtomicU64::new(most.saturating_sub(bytes_of(input)));
        let fetches = input.places_mut().filter_map(|(place, part)| match part {
            Part::Image(source @ ImageSource::Url(_)) => {
                Some(self.replace(source, format!("{place}.image.url"), &request_room, deadline))
            }
            _ => None,
        });
        try_join_all(fetches.collect::<Vec<_>>()).await?;
        Ok(())
    }

    async fn replace(
        &self,
        source: &mut ImageSource,
        field: String,
        request_room: &AtomicU64,
        deadline: Deadline,
    ) -> Result<()> {
        let ImageSource::Url(url) = source else { return Ok(()) };
        let time = self.settings.time;
        let fetching = async {
            let Ok(_permit) = self.at_once.acquire().await else { return Err(Error::draining()) };
            let fetching = self.file(url, request_room);
            let fetched = tokio::time::timeout(time, fetching).await.unwrap_or(Err(Refusal::Slow));
            fetched.map_err(|refusal| refusal.of(&field, &self.settings))
        };
        let file = deadline.bound("an image was being fetched", fetching).await?;
        *source = ImageSource::File(file);
        Ok(())
    }

    /// The file behind a URL, wherever redirects lead to.
    async fn file(&self, url: &ImageUrl, request_room: &AtomicU64) -> Result<Bytes, Refusal> {
        let mut url = url.clone();
        for _ in 0..=self.settings.redirects {
            let addresses = self.addresses(&url).await?;
            let room = Room { file: self.settings.max_bytes.as_u64(), request: request_room };
            let exchange = Exchange { url: &url, addresses: &addresses, tls: &self.tls, room };
            match exchange.run().await? {
                Answer::File(file) => return Ok(file),
                Answer::Elsewhere(location) => url = url.join(&location).map_err(|_| Refusal::Redirect)?,
            }
        }
        Err(Refusal::Redirects)
    }

    /// The addresses that may be spoken to for a URL. From here on nobody asks for its name again.
    async fn addresses(&self, url: &ImageUrl) -> Result<Vec<SocketAddr>, Refusal> {
        if !self.settings.allows(url.as_url()) {
            return Err(Refusal::NotAllowed);
        }
        // Both schemes have a port, and no URL of them is without a host.
        let port = url.as_url().port_or_known_default().ok_or(Refusal::NotAllowed)?;
        let found = match url.as_url().host().ok_or(Refusal::NotAllowed)? {
            Host::Domain(name) => self.resolver.addresses(name, port).await.map_err(|error| {
                tracing::debug!(%url, %error, "the host of an image cannot be looked up");
                Refusal::Unreachable
            })?,
            Host::Ipv4(address) => vec![(address, port).into()],
            Host::Ipv6(address) => vec![(address, port).into()],
        };
        if found.is_empty() {
            return Err(Refusal::Unreachable);
        }
        let mut good: Vec<SocketAddr> = found.into_iter().filter(|found| self.is_good(found.ip())).collect();
        good.truncate(ADDRESSES);
        if good.is_empty() { Err(Refusal::Private) } else { Ok(good) }
    }

    fn is_good(&self, address: IpAddr) -> bool {
        address::is_public(address) || self.settings.private.iter().any(|network| network.contains(&address))
    }
}

/// Why there is no file. What a server said, and where it is, is nobody's business but the operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// Neither scheme nor host is one that the settings name.
    NotAllowed,
    /// All addresses of the host are of networks that are nobody's to reach through the gateway.
    Private,
    /// It cannot be looked up, or cannot be connected to.
    Unreachable,
    /// No certificate that is trusted, or no TLS.
    Insecure,
    /// The connection broke, or what came was no HTTP.
    Broken,
    /// A status other than of success.
    Status(u16),
    /// A redirect without a place, or to none.
    Redirect,
    /// One redirect after the other.
    Redirects,
    /// The time was over.
    Slow,
    /// More bytes than one file may have.
    TooLarge,
    /// More bytes than the request may have with all its images.
    RequestTooLarge,
    /// The file does not begin as an image does.
    NoImage,
}

impl Refusal {
    /// The error of a URL in this field.
    fn of(self, field: &str, settings: &UrlSettings) -> Error {
        let UrlSettings { max_bytes, time, redirects, .. } = settings;
        let invalid = |reason, description: &str| Error::field(reason, field, description);
        let unavailable = |reason, what: &str| {
            let message = format!("{field}: {what}");
            Error::new(ErrorKind::Unavailable, reason, message).with("field", field)
        };
        match self {
            Self::NotAllowed => invalid(
                "URL_NOT_ALLOWED",
                "this gateway does not fetch images from there, or from where a redirect leads: send the file",
            ),
            Self::Private => invalid("URL_ADDRESS_PRIVATE", "its host has no public address: send the file"),
            Self::Unreachable => unavailable("URL_FETCH_FAILED", "its host cannot be reached"),
            Self::Insecure => unavailable("URL_FETCH_FAILED", "its host has no certificate that is trusted"),
            Self::Broken => unavailable("URL_FETCH_FAILED", "its host broke the answer off"),
            Self::Status(status @ (408 | 429 | 500..)) => {
                unavailable("URL_FETCH_FAILED", &format!("its host answers with status {status}"))
                    .with("status", status)
            }
            Self::Status(status) => {
                invalid("URL_FETCH_FAILED", &format!("its host answers with status {status}")).with("status", status)
            }
            Self::Redirect => invalid("URL_FETCH_FAILED", "its host redirects to no place that images can be at"),
            Self::Redirects => invalid("URL_FETCH_FAILED", &format!("more than {redirects} redirects")),
            Self::Slow => unavailable("URL_FETCH_FAILED", &format!("it was not there within {time:?}")),
            Self::TooLarge => {
                let limit = max_bytes.as_u64();
                invalid("URL_TOO_LARGE", &format!("its file has more than {limit} bytes")).with("limit", limit)
            }
            Self::RequestTooLarge => {
                invalid("MESSAGE_TOO_LARGE", "with its file the request is longer than a request may be")
            }
            Self::NoImage => invalid("URL_NOT_AN_IMAGE", "there is something that is no image"),
        }
    }
}

/// The error of a URL where nobody fetches any.
pub(crate) fn disabled(field: &str) -> Error {
    let message = format!("{field}: this gateway fetches no images: send the file");
    Error::new(ErrorKind::Precondition, "URLS_DISABLED", message).with("field", field)
}

/// The bytes of texts and files that an input has before anything is fetched.
fn bytes_of(input: &Input) -> u64 {
    let length = |part: &Part| match part {
        Part::Text(text) => text.len(),
        Part::Image(ImageSource::File(file)) => file.len(),
        Part::Image(ImageSource::Stored(_) | ImageSource::Url(_)) => 0,
    };
    input.parts().map(|part| length(part) as u64).sum()
}

/// Takes so much of what is left, if it is there.
fn take(room: &AtomicU64, bytes: u64) -> bool {
    room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
}

#[cfg(test)]
mod tests;
