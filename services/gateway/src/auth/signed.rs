//! Tokens that somebody else signed (JWT): signature, time, issuer and audience are checked, and a claim names the tenant.

use std::fmt;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};
use tessera_api::{Error, Result};
use tessera_rpc::{FileError, Files, Tasks, Watched};

use super::{JwtSettings, is_name, refused, verify};

/// Keys at most: a token that names none is tried with all.
const KEYS: usize = 64;

/// Verifies tokens.
#[derive(Debug)]
pub(super) struct Signed {
    keys: Watched<Keys>,
    tenant_claim: String,
}

/// The keys of a file that can be used.
struct Keys(Vec<Key>);

struct Key {
    id: Option<String>,
    key: DecodingKey,
    /// What a token that it signed must say, and how it must be signed.
    validation: Validation,
}

impl Signed {
    /// Reads the keys, and again when their file changes.
    ///
    /// # Errors
    /// When it cannot be read, or holds no key that can be used.
    pub(super) fn start(settings: &JwtSettings, refresh: Duration, tasks: &Tasks) -> Result<Self, FileError> {
        verify::install();
        let files = Files { what: "auth.jwt.keys", paths: vec![settings.keys.clone()], refresh };
        let (expected, tenant_claim) = (settings.clone(), settings.tenant_claim.clone());
        Ok(Self { keys: Watched::start(files, move |files| Keys::read(&files[0], &expected), tasks)?, tenant_claim })
    }

    /// The tenant that a token names.
    ///
    /// # Errors
    /// `Unauthenticated` says what is wrong with the token.
    pub(super) fn tenant(&self, token: &str) -> Result<String> {
        let header = decode_header(token).map_err(|error| explained(error.kind()))?;
        if header.crit.is_some() {
            return Err(malformed("it asks for extensions that are not known here"));
        }
        let keys = self.keys.current();
        let may_have_signed = |key: &&Key| {
            key.validation.algorithms.contains(&header.alg) && (header.kid.is_none() || header.kid == key.id)
        };
        let mut refusal = refused(
            "TOKEN_KEY_UNKNOWN",
            "the token is signed with a key, or in a way, that is not known here: ask for a new one",
        );
        for key in keys.0.iter().filter(may_have_signed) {
            match decode::<Map<String, Value>>(token, &key.key, &key.validation) {
                Ok(token) => return self.named(&token.claims),
                // Another key may fit.
                Err(error) => refusal = explained(error.kind()),
            }
            if refusal.reason != FORGED {
                break;
            }
        }
        Err(refusal)
    }

    fn named(&self, claims: &Map<String, Value>) -> Result<String> {
        let claim = &self.tenant_claim;
        let name = claims.get(claim).and_then(Value::as_str).filter(|name| is_name(name));
        name.map(str::to_owned).ok_or_else(|| {
            let message = format!("the token names no tenant: its claim `{claim}` must be a word of at most 128 bytes");
            refused("TOKEN_CLAIM_MISSING", message).with("claim", claim)
        })
    }
}

/// Whether a token has the form of a signed one.
pub(super) fn is_signed(token: &str) -> bool {
    token.split('.').count() == 3
}

impl Keys {
    /// Reads a JWKS. Keys of other kinds are left out.
    fn read(text: &[u8], expected: &JwtSettings) -> Result<Self, String> {
        /// Each key is read by itself, so that one of a new kind does not cost the others.
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(text).map_err(|error| format!("the file is no JWKS: {error}"))?;
        if set.keys.len() > KEYS {
            return Err(format!("the file holds {} keys, the limit is {KEYS}", set.keys.len()));
        }
        let jwks = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        let keys: Vec<Key> = jwks.filter_map(|jwk| Key::of(&jwk, expected)).collect();
        if keys.is_empty() {
            return Err("the file holds no key that verifies RS256, ES256 or EdDSA".into());
        }
        Ok(Self(keys))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

impl Key {
    /// A public key for signatures of one of the ways that are taken; never a secret that two share.
    fn of(jwk: &Jwk, expected: &JwtSettings) -> Option<Self> {
        let (algorithm, name) = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
            }
            _ => return None,
        };
        let is_for_signatures = jwk.common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
        let is_for_this = jwk.common.key_algorithm.is_none_or(|of| of == name);
        let key = DecodingKey::from_jwk(jwk).ok().filter(|_| is_for_signatures && is_for_this)?;
        let mut validation = Validation::new(algorithm);
        validation.leeway = expected.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&expected.issuer]);
        validation.set_audience(&[&expected.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        Some(Self { id: jwk.common.key_id.clone(), key, validation })
    }
}

/// The reason of a signature that no key made.
const FORGED: &str = "TOKEN_SIGNATURE";

/// What is wrong with a token, and what to do.
fn explained(kind: &ErrorKind) -> Error {
    match kind {
        ErrorKind::ExpiredSignature => refused("TOKEN_EXPIRED", "the token has expired: ask for a new one"),
        ErrorKind::ImmatureSignature => {
            refused("TOKEN_NOT_YET_VALID", "the token is not valid yet: wait, or set the clocks right")
        }
        ErrorKind::InvalidIssuer => refused("TOKEN_ISSUER", "the token is made by somebody who is not believed here"),
        ErrorKind::InvalidAudience => {
            refused("TOKEN_AUDIENCE", "the token is made for another service: ask for one for this")
        }
        ErrorKind::InvalidSignature => {
            refused(FORGED, "the token's signature does not fit: it was changed, or is not ours")
        }
        ErrorKind::MissingRequiredClaim(claim) => {
            refused("TOKEN_CLAIM_MISSING", format!("the token lacks the claim `{claim}`")).with("claim", claim)
        }
        // The library's words may hold parts of the token.
        _ => malformed("it cannot be read"),
    }
}

fn malformed(why: &str) -> Error {
    refused("TOKEN_MALFORMED", format!("the token is no JWT that can be used: {why}"))
}
