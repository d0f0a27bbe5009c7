//! Tokens that a file lists, by their hashes: whoever reads the file can ask as nobody.

use std::collections::HashMap;
use std::fmt;

use ring::digest::{SHA256, digest};

use super::is_name;

/// SHA-256 of a token. Tokens are long random texts, so nobody can search for one by its hash; and a look for a hash tells
/// nothing about how much of a token was right.
type Hash = [u8; 32];

/// Tenants by the hashes of their tokens.
pub(super) struct Tokens(HashMap<Hash, String>);

impl Tokens {
    /// Reads a file: on each line a hash and the name of a tenant, who may have several; lines that begin with # are
    /// comments.
    ///
    /// # Errors
    /// Names the first line that is neither, without what it says: it may be a token.
    pub(super) fn read(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "the file is no text".to_owned())?;
        let mut tenants = HashMap::new();
        for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = || {
                format!("line {number} is not the SHA-256 of a token (64 hexadecimal digits) and the name of a tenant")
            };
            let mut words = line.split_whitespace();
            let (Some(digits), Some(tenant), None) = (words.next(), words.next(), words.next()) else {
                return Err(wrong());
            };
            let hash = hash_of(digits).filter(|_| is_name(tenant)).ok_or_else(wrong)?;
            if tenants.insert(hash, tenant.to_owned()).is_some_and(|before| before != tenant) {
                return Err(format!("line {number} gives a token to {tenant:?} that is another tenant's already"));
            }
        }
        Ok(Self(tenants))
    }

    /// The tenant whose token it is.
    pub(super) fn tenant(&self, token: &str) -> Option<String> {
        let hash: Hash = digest(&SHA256, token.as_bytes()).as_ref().try_into().ok()?;
        self.0.get(&hash).cloned()
    }
}

/// Shows how many there are.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

/// The bytes that 64 hexadecimal digits stand for.
fn hash_of(digits: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if digits.len() != 2 * hash.len() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `printf %s open-sesame | sha256sum`.
    const HASH: &str = "d7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7";

    #[test]
    fn a_token_is_found_by_its_hash() {
        let other = "0".repeat(64);
        let text = format!("# ours\n\n{HASH}  acme\n{other}\tzoo\n{}\tacme\n", HASH.to_uppercase());
        let tokens = Tokens::read(text.as_bytes()).unwrap();
        assert_eq!(tokens.tenant("open-sesame").as_deref(), Some("acme"));
        for unknown in ["", "open-sesam", "open-sesame ", HASH] {
            assert_eq!(tokens.tenant(unknown), None, "{unknown}");
        }
        assert_eq!(format!("{tokens:?}"), "Tokens(2)");
    }

    #[test]
    fn a_line_that_is_none_is_named_and_not_shown() {
        let long = "n".repeat(129);
        for line in [
            "open-sesame acme",
            HASH,
            &format!("{HASH} acme more"),
            &format!("{HASH}0 acme"),
            &format!("{HASH} {long}"),
        ] {
            let error = Tokens::read(format!("# tokens\n{line}\n").as_bytes()).unwrap_err();
            assert!(error.starts_with("line 2 is not the SHA-256"), "{error}");
            assert!(!error.contains("sesame") && !error.contains(HASH), "{error}");
        }
        let twice = format!("{HASH} acme\n{HASH} zoo\n");
        assert!(Tokens::read(twice.as_bytes()).unwrap_err().contains("another tenant's"));
        assert!(Tokens::read(&[0xff]).is_err());
    }
}
