//! The way to a gateway that runs elsewhere, as the flags say it.

use std::net::IpAddr;

use anyhow::Context;
use tessera_client::{Client, Error};

use crate::cli::AccessFlags;
use crate::output;

/// Reaches a gateway.
///
/// # Errors
/// When a file that a flag names cannot be used, or there is no gateway.
pub(crate) async fn connect(url: &str, flags: &AccessFlags) -> anyhow::Result<Client> {
    let mut builder = Client::builder(url);
    if let Some(ca) = &flags.ca {
        builder = builder.ca(ca);
    }
    if let (Some(certificate), Some(key)) = (&flags.certificate, &flags.key) {
        builder = builder.certificate(certificate, key);
    }
    let token = flags.token.as_ref().filter(|token| !token.is_empty());
    builder = match (&flags.token_file, token) {
        (Some(file), _) => builder.token_file(file),
        (None, Some(token)) => builder.token(token.expose()),
        (None, None) => builder,
    };
    if (flags.token_file.is_some() || token.is_some()) && is_open(url) {
        output::note(&format!("the token goes to {url} unencrypted: use https:// if others can listen"));
    }
    match builder.connect().await {
        Err(error) if error.reason == "FILE_UNUSABLE" => {
            Err(error).context("--ca, --certificate, --key or --token-file cannot be used")
        }
        connected => Ok(connected.map_err(explained)?),
    }
}

/// An error that says what to do at a command line.
pub(crate) fn explained(mut error: Error) -> Error {
    let value = |name: &str| error.metadata.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    match error.reason.as_ref() {
        "UNREACHABLE" if error.message.starts_with("no gateway at") => {
            error.message.push_str("; start one with `tessera up`");
        }
        "TOKEN_MISSING" => {
            error.message =
                "the gateway wants to know who asks: give it a token with --token-file FILE, or in the environment \
                             as TESSERA_TOKEN"
                    .into();
        }
        "EMBEDDING_NOT_FOUND" => {
            if let Some(key) = value("key") {
                error.message = format!(
                    "image {key} is not stored there (any more): encode it with `tessera encode` again, or send it with \
                     --image"
                );
            }
        }
        _ => {}
    }
    error
}

/// Whether others may listen to what goes to this URL.
fn is_open(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    !is_here
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_may_listen_to_what_is_not_encrypted() {
        for (url, open) in [
            ("http://gateway:1", true),
            ("http://10.0.0.1:1", true),
            ("http://[fd00::1]:1", true),
            ("https://gateway:1", false),
            ("http://localhost:1", false),
            ("http://localhost", false),
            ("http://127.0.0.1:1/", false),
            ("http://[::1]:1", false),
        ] {
            assert_eq!(is_open(url), open, "{url}");
        }
    }
}
