//! Who asks: whoever shows a bearer token that a file lists (`tokens`), or one that somebody signed (`signed`, JWT). A token
//! is never shown, in no log and no error.

mod settings;
mod signed;
mod tokens;
mod verify;

use tessera_api::{Error, ErrorKind, Result};
use tessera_rpc::{FileError, Files, Tasks, Watched};
use tonic::metadata::MetadataMap;

pub use settings::{AuthSettings, JwtSettings};
use signed::Signed;
use tokens::Tokens;

/// Where a request says who asks.
const HEADER: &str = "authorization";
const SCHEME: &str = "bearer";
/// Longest name of a tenant.
const NAME_BYTES: usize = 128;

/// What tells tenants by what they show.
#[derive(Debug)]
pub(crate) struct Auth {
    tokens: Option<Watched<Tokens>>,
    signed: Option<Signed>,
}

impl Auth {
    /// Reads tokens and keys, and again when their files change. `None` where everybody may ask.
    ///
    /// # Errors
    /// When a file cannot be read, or does not hold what it should.
    pub(crate) fn start(settings: &AuthSettings, tasks: &Tasks) -> Result<Option<Self>, FileError> {
        let refresh = settings.refresh;
        let tokens = settings.has_tokens().then(|| {
            let files = Files { what: "auth.tokens", paths: vec![settings.tokens.clone()], refresh };
            Watched::start(files, |files| Tokens::read(&files[0]), tasks)
        });
        let signed = settings.jwt.is_on().then(|| Signed::start(&settings.jwt, refresh, tasks));
        let (tokens, signed) = (tokens.transpose()?, signed.transpose()?);
        Ok(settings.is_on().then_some(Self { tokens, signed }))
    }

    /// The name of the tenant that a request comes from.
    ///
    /// # Errors
    /// `Unauthenticated` says what is wrong with what it shows, and what to do.
    pub(crate) fn tenant(&self, metadata: &MetadataMap) -> Result<String> {
        let token = bearer(metadata)?;
        if let Some(tenant) = self.tokens.as_ref().and_then(|tokens| tokens.current().tenant(token)) {
            return Ok(tenant);
        }
        match &self.signed {
            Some(signed) if signed::is_signed(token) => signed.tenant(token),
            _ => Err(refused(
                "TOKEN_UNKNOWN",
                "the token is not known here: it was mistyped or withdrawn, ask for a new one",
            )),
        }
    }
}

/// The token of `authorization: Bearer TOKEN`.
fn bearer(metadata: &MetadataMap) -> Result<&str> {
    let missing = || {
        refused("TOKEN_MISSING", "the request does not say who asks: send the metadata `authorization: Bearer TOKEN`")
    };
    let value = metadata.get(HEADER).ok_or_else(missing)?.to_str().unwrap_or_default();
    let token =
        value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME)).map(|(_, token)| token.trim());
    token
        .filter(|token| !token.is_empty())
        .ok_or_else(|| refused("TOKEN_MALFORMED", "the metadata `authorization` is not of the form `Bearer TOKEN`"))
}

fn refused(reason: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unauthenticated, reason, message)
}

/// Whether a text can be the name of a tenant: one word of visible characters.
fn is_name(text: &str) -> bool {
    let visible = |c: char| !c.is_whitespace() && !c.is_control();
    (1..=NAME_BYTES).contains(&text.len()) && text.chars().all(visible)
}

#[cfg(test)]
mod tests;
