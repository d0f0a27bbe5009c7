//! Settings of who may ask.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tessera_config::{Problems, Validate, duration};

/// Who may ask. Without files of tokens or keys: everybody.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// File of tokens: on each line the SHA-256 of one (64 hexadecimal digits) and the name of its tenant.
    pub tokens: PathBuf,
    /// Tokens that somebody else signs.
    pub jwt: JwtSettings,
    /// Whether only tenants that are listed under `tenants` may ask; otherwise one that is not has the settings of an
    /// empty entry.
    pub listed_only: bool,
    /// Time between two looks at the files.
    #[serde(with = "duration")]
    pub refresh: Duration,
}

/// Tokens that somebody else signs (JWT, by RS256, ES256 or EdDSA).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JwtSettings {
    /// File of the keys that they are signed with (JWKS). Empty: no such tokens.
    pub keys: PathBuf,
    /// Who must have made them (`iss`).
    pub issuer: String,
    /// For whom they must be made (`aud`).
    pub audience: String,
    /// The claim that names the tenant.
    pub tenant_claim: String,
    /// By how much clocks may differ.
    #[serde(with = "duration")]
    pub leeway: Duration,
}

impl Default for AuthSettings {
    fn default() -> Self {
        let refresh = Duration::from_secs(10);
        Self { tokens: PathBuf::new(), jwt: JwtSettings::default(), listed_only: false, refresh }
    }
}

impl Default for JwtSettings {
    fn default() -> Self {
        Self {
            keys: PathBuf::new(),
            issuer: String::new(),
            audience: String::new(),
            tenant_claim: "sub".into(),
            leeway: Duration::from_secs(60),
        }
    }
}

impl AuthSettings {
    /// Whether whoever asks must say who they are.
    pub(crate) fn is_on(&self) -> bool {
        self.has_tokens() || self.jwt.is_on()
    }

    /// Whether there is a file of tokens.
    pub(super) fn has_tokens(&self) -> bool {
        !self.tokens.as_os_str().is_empty()
    }
}

impl JwtSettings {
    /// Whether there is a file of keys.
    pub(super) fn is_on(&self) -> bool {
        !self.keys.as_os_str().is_empty()
    }
}

impl Validate for AuthSettings {
    fn validate(&self, problems: &mut Problems) {
        if self.listed_only && !self.is_on() {
            problems.add("listed_only", "needs to know who asks: name a file of `tokens` or of `jwt.keys`");
        }
        if self.refresh.is_zero() {
            problems.add("refresh", "must be longer than nothing");
        }
        if self.jwt.is_on() {
            let required = [
                ("jwt.issuer", &self.jwt.issuer, "name who makes the tokens"),
                ("jwt.audience", &self.jwt.audience, "name whom they are made for: tokens for others are none for us"),
                ("jwt.tenant_claim", &self.jwt.tenant_claim, "name the claim that says who asks"),
            ];
            for (key, _, advice) in required.into_iter().filter(|(_, value, _)| value.is_empty()) {
                problems.add(key, format!("must be given with jwt.keys: {advice}"));
            }
        }
    }
}
