//! Identity: which features an image file has under one encoder and one tenant.

use std::fmt;

/// Context of the key derivation: changing it changes every key.
const IMAGE_CONTEXT: &str = "tessera 2026 image key v1";
/// Context of the encoder fingerprint.
const ENCODER_CONTEXT: &str = "tessera 2026 encoder fingerprint v1";

/// A key or fingerprint of the wrong length.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a key has 32 bytes, this one has {0}")]
pub struct KeyError(pub usize);

macro_rules! digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The 32 bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = KeyError;

            fn try_from(bytes: &[u8]) -> Result<Self, KeyError> {
                bytes.try_into().map(Self).map_err(|_| KeyError(bytes.len()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

digest!(
    /// Identity of the features of one image: 256 bits, compared whole, computed by a server.
    ImageKey
);
digest!(
    /// Identity of everything that turns a file into features: weights, configuration, preprocessing, arithmetic.
    EncoderFingerprint
);

impl ImageKey {
    /// Returns the key of an image file: keyed BLAKE3 over length-prefixed tenant salt, fingerprint and bytes.
    pub fn of(tenant_salt: &[u8], encoder: &EncoderFingerprint, image: &[u8]) -> Self {
        Self(derive(IMAGE_CONTEXT, &[tenant_salt, encoder.as_bytes(), image]))
    }
}

impl EncoderFingerprint {
    /// Returns the fingerprint of an encoder from everything that decides its features, in a fixed order.
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(derive(ENCODER_CONTEXT, parts))
    }
}

/// BLAKE3 in key-derivation mode over length-prefixed fields, so that no two lists of fields run into one another.
fn derive(context: &str, fields: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for field in fields {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_of_another_length_is_refused() {
        assert_eq!(ImageKey::try_from(&[0u8; 31][..]), Err(KeyError(31)));
    }

    #[test]
    fn a_fingerprint_is_no_image_key() {
        let fingerprint = EncoderFingerprint::of(&[b"a", b"b", b"c"]);
        let inner = EncoderFingerprint::try_from(&[7u8; 32][..]).unwrap();
        assert_ne!(ImageKey::of(b"", &inner, b"").as_bytes(), fingerprint.as_bytes());
    }

    proptest! {
        /// Moving bytes between the fields, or changing any of them, changes the key.
        #[test]
        fn different_inputs_never_meet(
            salt in prop::collection::vec(any::<u8>(), 0..20),
            image in prop::collection::vec(any::<u8>(), 1..60),
            seeds in any::<[u8; 2]>(),
            cut in 1usize..60,
        ) {
            let encoder = EncoderFingerprint::of(&[&seeds[..1]]);
            let key = ImageKey::of(&salt, &encoder, &image);
            prop_assert_eq!(key, ImageKey::of(&salt, &encoder, &image));

            let cut = cut.min(image.len());
            let moved = [&salt[..], &image[..cut]].concat();
            prop_assert_ne!(key, ImageKey::of(&moved, &encoder, &image[cut..]));
            let longer = [&image[..], &[0]].concat();
            prop_assert_ne!(key, ImageKey::of(&salt, &encoder, &longer));
            if seeds[0] != seeds[1] {
                prop_assert_ne!(key, ImageKey::of(&salt, &EncoderFingerprint::of(&[&seeds[1..]]), &image));
            }
        }
    }
}
