//! Requests that show all kinds of tokens.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tessera_config::{Problems, Validate};

use super::*;

const REFRESH: Duration = Duration::from_millis(5);
/// Of `printf %s open-sesame | sha256sum`.
const HASH: &str = "d7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7";
/// A key made by OpenSSL, and a token that it signed: of tenant acme, until the year 2100.
const RSA: &str = "w3KqWq8UDH7YCwEsNxc0lc16c8WQNMxETNiWJsEZR02UxyWIFz31jCvvrpFtvLZe21KBIPG9am5oBHsEIJWQt2KFXZVVdx_mRq8HA1FLczPeZzNAKft8M1rEymeGuQELJIQmUIqS24dIcOzWsd6kXDoxXx4eneW-fHzGKIrCanR52qdJ_er5anY8ln2uz1SexFqA0Duy4cC5jBIkedtn7ZZoyQthaBy1GjNK55mkSwpsmHU5DNIPnbWd2cDSlReGca87EznrudQ9NcOL-4zPbNV1YZheYARx5yI8mV6Rotb36qiF_8TFT4WZ1Fblqs1Dis2aF7Nwi9Z5a2Pe2SZVHw";
const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUiLCJhdWQiOiJ0ZXNzZXJhIiwic3ViIjoiYWNtZSIsImV4cCI6NDEwMjQ0NDgwMH0.hclStbUJUR-g5OYsY7RrmWzSZSgpbwrWZmj0-JcDOPtdW9DEOYUz6G0iN0PtESZ2EbdOvm1ESojYrU91MmPoeD_IBZmPya5M0cPA3iMXnpGBsV3UfIrfLV3G2BlQNnriB8Y5gKtZKb4gtFQvrpNlhp65lP-8imvSAukpFPV0hItXy8LbzWKyPBXpe-qo7A0cf3T8RA35vBrQLQM9iVCg8skeTnwpXib917tA6e3DKTVjYALYKc-vkxq_WHY7WAIWdiwo78_0PQvMUegoKYsZiMAxaXyaqzL1KOi8me4oPYnOw0F_IgZUQ5KsaguzJP317QiB4C1x568Ac40nDGQwuw";

/// Bytes as JWT writes them.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let group = |chunk: &[u8]| {
        let number = (0..3).fold(0_usize, |number, at| number << 8 | usize::from(chunk.get(at).copied().unwrap_or(0)));
        (0..=chunk.len()).map(move |at| char::from(DIGITS[number >> (18 - 6 * at) & 63])).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

/// Somebody who signs tokens.
enum Signer {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

impl Signer {
    fn es256() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::Es256(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
    }

    fn eddsa() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::EdDsa(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    /// The public key, under this name.
    fn jwk(&self, id: &str) -> Value {
        match self {
            Self::Es256(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "use": "sig", "kid": id, "x": base64(x), "y": base64(y) })
            }
            Self::EdDsa(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "alg": "EdDSA", "x": base64(key.public_key().as_ref()) })
            }
        }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
        let signature = match self {
            Self::Es256(key) => key.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec(),
            Self::EdDsa(key) => key.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", base64(&signature))
    }

    /// A token of these claims, signed by the key of this name.
    fn token(&self, id: &str, claims: &Value) -> String {
        self.sign(&json!({ "alg": self.algorithm(), "kid": id }), claims)
    }
}

/// So many seconds from now.
fn after(seconds: i64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    now.checked_add_signed(seconds).unwrap()
}

/// Claims that are fine, but for these; null takes one away.
fn claims(but: &Value) -> Value {
    let mut claims =
        json!({ "iss": "https://id.example", "aud": ["other", "tessera"], "sub": "acme", "exp": after(600) });
    for (claim, value) in but.as_object().unwrap() {
        claims[claim] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

/// Files of tokens and keys, and the settings that name them.
struct World {
    folder: TempDir,
    settings: AuthSettings,
    tasks: Tasks,
}

impl World {
    fn new() -> Self {
        let settings = AuthSettings { refresh: REFRESH, ..AuthSettings::default() };
        Self { folder: tempfile::tempdir().unwrap(), settings, tasks: Tasks::default() }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        // As whoever replaces a file does, so that nobody reads half of it.
        let (path, new) = (self.folder.path().join(name), self.folder.path().join("new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &path).unwrap();
        path
    }

    fn with_tokens(mut self, text: &str) -> Self {
        self.settings.tokens = self.write("tokens", text);
        self
    }

    fn with_keys(mut self, keys: &Value) -> Self {
        let (issuer, audience) = ("https://id.example".into(), "tessera".into());
        let keys = self.write("keys", &json!({ "keys": keys }).to_string());
        self.settings.jwt = JwtSettings { keys, issuer, audience, ..JwtSettings::default() };
        self
    }

    fn auth(&self) -> Auth {
        Auth::start(&self.settings, &self.tasks).unwrap().unwrap()
    }
}

fn ask(auth: &Auth, value: &str) -> Result<String> {
    let mut metadata = MetadataMap::new();
    metadata.insert(HEADER, value.parse().unwrap());
    auth.tenant(&metadata)
}

fn show(auth: &Auth, token: &str) -> Result<String> {
    ask(auth, &format!("Bearer {token}"))
}

/// Asserts that nobody is let in by this token, for this reason, and that the error does not show it.
fn assert_refused(auth: &Auth, token: &str, reason: &str) {
    let error = show(auth, token).unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unauthenticated, reason), "{error}");
    let shown = format!("{error} {error:?}");
    let parts = token.split('.').filter(|part| part.len() > 4);
    assert!(parts.into_iter().all(|part| !shown.contains(part)), "{shown}");
}

#[tokio::test]
async fn whoever_shows_a_listed_token_is_its_tenant() {
    let auth = World::new().with_tokens(&format!("{HASH} acme\n")).auth();
    for value in ["Bearer open-sesame", "bearer open-sesame", "BEARER  open-sesame "] {
        assert_eq!(ask(&auth, value).unwrap(), "acme", "{value}");
    }
    assert_refused(&auth, "open-simsim", "TOKEN_UNKNOWN");
    assert_refused(&auth, RSA_TOKEN, "TOKEN_UNKNOWN");
    for value in ["open-sesame", "Basic open-sesame", "Bearer", "Bearer "] {
        let error = ask(&auth, value).unwrap_err();
        assert_eq!(error.reason, "TOKEN_MALFORMED", "{value}");
        assert!(!format!("{error:?}").contains("sesame"), "{error:?}");
    }
    let error = auth.tenant(&MetadataMap::new()).unwrap_err();
    assert_eq!((error.kind, error.reason.as_ref()), (ErrorKind::Unauthenticated, "TOKEN_MISSING"));
    assert!(error.message.contains("authorization: Bearer TOKEN"), "{error}");
}

#[tokio::test]
async fn a_token_that_is_taken_away_is_unknown() {
    let world = World::new().with_tokens(&format!("{HASH} acme\n"));
    let auth = world.auth();
    assert_eq!(show(&auth, "open-sesame").unwrap(), "acme");
    world.write("tokens", "this is no list of tokens");
    tokio::time::sleep(REFRESH * 4).await;
    assert_eq!(show(&auth, "open-sesame").unwrap(), "acme", "a broken file changes nothing");
    world.write("tokens", "# nobody any more\n");
    let gone = async {
        while show(&auth, "open-sesame").is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
}

#[tokio::test]
async fn tokens_of_each_kind_of_signature_are_read() {
    let (es256, eddsa) = (Signer::es256(), Signer::eddsa());
    let rsa = json!({ "kty": "RSA", "kid": "rsa", "n": RSA, "e": "AQAB" });
    let stranger = json!({ "kty": "newer", "kid": "x" });
    let world = World::new().with_keys(&json!([stranger, es256.jwk("1"), eddsa.jwk("2"), rsa]));
    let auth = world.auth();
    assert_eq!(show(&auth, &es256.token("1", &claims(&json!({})))).unwrap(), "acme");
    assert_eq!(show(&auth, &eddsa.token("2", &claims(&json!({ "aud": "tessera" })))).unwrap(), "acme");
    assert_eq!(show(&auth, RSA_TOKEN).unwrap(), "acme");
    // One that names no key is tried with those of its kind.
    let nameless = eddsa.sign(&json!({ "alg": "EdDSA" }), &claims(&json!({ "sub": "zoo" })));
    assert_eq!(show(&auth, &nameless).unwrap(), "zoo");
    // Listed tokens may stand beside signed ones.
    let both = World { settings: AuthSettings { jwt: world.settings.jwt.clone(), ..AuthSettings::default() }, ..world };
    let auth = both.with_tokens(&format!("{HASH} zoo\n")).auth();
    assert_eq!(show(&auth, "open-sesame").unwrap(), "zoo");
    assert_eq!(show(&auth, RSA_TOKEN).unwrap(), "acme");
    assert_refused(&auth, "open-simsim", "TOKEN_UNKNOWN");
}

#[tokio::test]
async fn what_is_wrong_with_a_signed_token_is_said() {
    let (ours, theirs) = (Signer::es256(), Signer::es256());
    let auth = World::new().with_keys(&json!([ours.jwk("1"), Signer::eddsa().jwk("2")])).auth();
    for (but, reason) in [
        (json!({ "exp": after(-120) }), "TOKEN_EXPIRED"),
        (json!({ "exp": null }), "TOKEN_CLAIM_MISSING"),
        (json!({ "nbf": after(120) }), "TOKEN_NOT_YET_VALID"),
        (json!({ "iss": "https://evil.example" }), "TOKEN_ISSUER"),
        (json!({ "iss": null }), "TOKEN_CLAIM_MISSING"),
        (json!({ "aud": "another" }), "TOKEN_AUDIENCE"),
        (json!({ "aud": null }), "TOKEN_CLAIM_MISSING"),
        (json!({ "sub": null }), "TOKEN_CLAIM_MISSING"),
        (json!({ "sub": 7 }), "TOKEN_CLAIM_MISSING"),
        (json!({ "sub": "" }), "TOKEN_CLAIM_MISSING"),
        (json!({ "sub": "two words" }), "TOKEN_CLAIM_MISSING"),
    ] {
        assert_refused(&auth, &ours.token("1", &claims(&but)), reason);
    }
    // Clocks differ.
    for but in [json!({ "exp": after(-30) }), json!({ "nbf": after(30) })] {
        assert_eq!(show(&auth, &ours.token("1", &claims(&but))).unwrap(), "acme", "{but}");
    }
    let fine = claims(&json!({}));
    assert_refused(&auth, &theirs.token("1", &fine), "TOKEN_SIGNATURE");
    assert_refused(&auth, &theirs.token("3", &fine), "TOKEN_KEY_UNKNOWN");
    assert_refused(&auth, &theirs.sign(&json!({ "alg": "ES256" }), &fine), "TOKEN_SIGNATURE");
    assert_refused(&auth, RSA_TOKEN, "TOKEN_KEY_UNKNOWN");
    // The key decides how it is used, not the token.
    assert_refused(&auth, &ours.sign(&json!({ "alg": "HS256", "kid": "1" }), &fine), "TOKEN_KEY_UNKNOWN");
    assert_refused(&auth, &ours.sign(&json!({ "alg": "EdDSA", "kid": "1" }), &fine), "TOKEN_KEY_UNKNOWN");
    assert_refused(&auth, &ours.sign(&json!({ "alg": "none", "kid": "1" }), &fine), "TOKEN_MALFORMED");
    let extended = json!({ "alg": "ES256", "kid": "1", "crit": ["b64"], "b64": false });
    assert_refused(&auth, &ours.sign(&extended, &fine), "TOKEN_MALFORMED");
    let whole = ours.token("1", &fine);
    let (message, signature) = whole.rsplit_once('.').unwrap();
    let other = ours.token("1", &claims(&json!({ "sub": "zoo" })));
    let (other, _) = other.rsplit_once('.').unwrap();
    assert_refused(&auth, &format!("{other}.{signature}"), "TOKEN_SIGNATURE");
    assert_refused(&auth, &format!("{message}."), "TOKEN_SIGNATURE");
    for broken in ["a.b.c", "..", "a.b", "open-sesame"] {
        let error = show(&auth, broken).unwrap_err();
        assert!(matches!(error.reason.as_ref(), "TOKEN_MALFORMED" | "TOKEN_UNKNOWN"), "{broken}: {error}");
    }
}

#[tokio::test]
async fn keys_follow_their_file() {
    let (before, next) = (Signer::es256(), Signer::eddsa());
    let world = World::new().with_keys(&json!([before.jwk("1")]));
    let auth = world.auth();
    let (old, new) = (before.token("1", &claims(&json!({}))), next.token("2", &claims(&json!({}))));
    assert_refused(&auth, &new, "TOKEN_KEY_UNKNOWN");
    world.write("keys", &json!({ "keys": [next.jwk("2")] }).to_string());
    let known = async {
        while show(&auth, &new).is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), known).await.unwrap();
    assert_refused(&auth, &old, "TOKEN_KEY_UNKNOWN");
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_refused() {
    let secret = json!([{ "kty": "oct", "kid": "1", "k": "c2VjcmV0" }]);
    let for_others = json!([{ "kty": "RSA", "use": "enc", "n": RSA, "e": "AQAB" }]);
    for keys in [secret, for_others, json!([])] {
        let world = World::new().with_keys(&keys);
        let error = Auth::start(&world.settings, &world.tasks).unwrap_err().to_string();
        assert!(error.contains("auth.jwt.keys") && error.contains("no key that verifies"), "{error}");
    }
    let world = World::new().with_keys(&json!([Signer::eddsa().jwk("1")]));
    for text in ["", "{}", "[]", "tokens"] {
        world.write("keys", text);
        assert!(Auth::start(&world.settings, &world.tasks).unwrap_err().to_string().contains("no JWKS"), "{text}");
    }
}

#[test]
fn without_files_everybody_may_ask() {
    let settings = AuthSettings::default();
    assert!(Auth::start(&settings, &Tasks::default()).unwrap().is_none());
    let mistakes = |settings: &AuthSettings| {
        let mut problems = Problems::default();
        settings.validate(&mut problems);
        format!("{problems:?}")
    };
    assert!(!mistakes(&settings).contains("message"));
    assert!(mistakes(&AuthSettings { listed_only: true, ..settings.clone() }).contains("listed_only"));
    let jwt = JwtSettings { keys: Path::new("keys").to_owned(), ..JwtSettings::default() };
    let found = mistakes(&AuthSettings { jwt, ..settings });
    assert!(found.contains("jwt.issuer") && found.contains("jwt.audience"), "{found}");
}
